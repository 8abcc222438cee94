; What programs can ask about descriptors: LAR, LSL, VERR, VERW, ARPL, BOUND.
%include "prelude.inc"

RO     equ FREE
EXEC   equ FREE + 8
SMALL  equ FREE + 0x10  ; limit 12345h bytes
ABSENT equ FREE + 0x18
INTGATE equ FREE + 0x20
CALLGATE equ FREE + 0x28
USERCONF equ FREE + 0x30 ; conforming code, DPL 3

%macro zf_is 1
        pushfd
        pop ecx
        shr ecx, 6
        and ecx, 1
        is ecx, %1
%endmacro

test_body:
        descriptor RO, 0x0000FFFF, 0x00CF9100
        descriptor EXEC, 0x0000FFFF, 0x00CF9900
        descriptor SMALL, 0x00002345, 0x00419300
        descriptor ABSENT, 0x0000FFFF, 0x00CF1300
        descriptor INTGATE, 0x00080000, 0x00008E00
        descriptor CALLGATE, 0x00080000, 0x00008C00

        check "LAR: rights of a data segment", "AMD APM vol. 3, LAR"
        mov eax, SMALL
        mov ebx, 0xFFFFFFFF
        lar ebx, eax
        zf_is 1
        is ebx, 0x00419300
        end_check
        check "LAR r16: the low word", "AMD APM vol. 3, LAR"
        mov eax, SMALL
        mov ebx, 0xFFFFFFFF
        lar bx, ax
        zf_is 1
        is ebx, 0xFFFF9300
        end_check
        check "LAR: not present is no obstacle", "AMD APM vol. 3, LAR"
        mov eax, ABSENT
        lar ebx, eax
        zf_is 1
        is ebx, 0x00CF1300
        end_check
        check "LAR: a call gate has rights", "AMD APM vol. 3, LAR"
        mov eax, CALLGATE
        lar ebx, eax
        zf_is 1
        and ebx, 0xFF00
        is ebx, 0x8C00
        end_check
        check "LAR: an interrupt gate has none", "AMD APM vol. 3, LAR"
        mov eax, INTGATE
        mov ebx, 0x55
        lar ebx, eax
        zf_is 0
        is ebx, 0x55
        end_check
        check "LAR: null selector", "AMD APM vol. 3, LAR"
        xor eax, eax
        mov ebx, 0x55
        lar ebx, eax
        zf_is 0
        is ebx, 0x55
        end_check
        check "LAR: behind the table", "AMD APM vol. 3, LAR"
        mov eax, 0x200
        lar ebx, eax
        zf_is 0
        end_check
        check "LAR: RPL above DPL", "AMD APM vol. 3, LAR"
        mov eax, DATA0 + 3
        lar ebx, eax
        zf_is 0
        end_check
        check "LAR: conforming code at any RPL", "AMD APM vol. 3, LAR"
        mov eax, CONF0 + 3
        lar ebx, eax
        zf_is 1
        end_check
        check "LSL: a limit in bytes", "AMD APM vol. 3, LSL"
        mov eax, SMALL
        lsl ebx, eax
        zf_is 1
        is ebx, 0x12345
        end_check
        check "LSL: a limit in pages is given in bytes", "AMD APM vol. 3, LSL"
        mov eax, DATA0
        lsl ebx, eax
        zf_is 1
        is ebx, 0xFFFFFFFF
        end_check
        check "LSL: expand-down gives the descriptor's limit", "AMD APM vol. 3, LSL"
        mov eax, DOWN
        lsl ebx, eax
        zf_is 1
        is ebx, 0xFFF
        end_check
        check "LSL: a TSS has a limit", "AMD APM vol. 3, LSL"
        mov eax, TSS
        lsl ebx, eax
        zf_is 1
        is ebx, 0x2068
        end_check
        check "LSL: a call gate has none", "AMD APM vol. 3, LSL"
        mov eax, CALLGATE
        mov ebx, 0x55
        lsl ebx, eax
        zf_is 0
        is ebx, 0x55
        end_check
        check "VERR: data, read-only data", "AMD APM vol. 3, VERR"
        mov eax, DATA0
        verr ax
        zf_is 1
        mov eax, RO
        verr ax
        zf_is 1
        end_check
        check "VERR: execute-only code", "AMD APM vol. 3, VERR"
        mov eax, EXEC
        verr ax
        zf_is 0
        end_check
        check "VERR: conforming code of DPL 0 with RPL 3", "AMD APM vol. 3, VERR"
        mov eax, CONF0 + 3
        verr ax
        zf_is 1
        end_check
        check "VERR: a system descriptor", "AMD APM vol. 3, VERR"
        mov eax, TSS
        verr ax
        zf_is 0
        end_check
        check "VERW: data, read-only data, code", "AMD APM vol. 3, VERW"
        mov eax, DATA0
        verw ax
        zf_is 1
        mov eax, RO
        verw ax
        zf_is 0
        mov eax, CODE0
        verw ax
        zf_is 0
        end_check
        check "VERW: level 3 asks about level 0", "AMD APM vol. 3, VERW"
        trying
        user %$u
%$u:    mov eax, DATA0
        verw ax
        pushfd
        pop ebx
        int END
        tried
        is [ex_vector], END
        and ebx, 0x40
        is ebx, 0
        end_check
        check "ARPL raises a lower RPL", "AMD APM vol. 3, ARPL"
        mov eax, 0xFFFF0008
        mov ebx, 3
        arpl ax, bx
        zf_is 1
        is eax, 0xFFFF000B
        end_check
        check "ARPL leaves a higher RPL", "AMD APM vol. 3, ARPL"
        mov eax, 0x000B
        mov ebx, 1
        arpl ax, bx
        zf_is 0
        is eax, 0x000B
        end_check
        check "BOUND: inside, at both bounds", "AMD APM vol. 3, BOUND"
        mov dword [value], -5
        mov dword [value + 4], 7
        mov eax, -5
        runs bound eax, [value]
        mov eax, 7
        runs bound eax, [value]
        end_check
        check "BOUND: below and above is #BR, at the instruction", "AMD APM vol. 3, BOUND"
        mov eax, -6
        raises BR, 0, bound eax, [value]
        mov eax, 8
        raises BR, 0, bound eax, [value]
        end_check
        check "BOUND r16 compares signed words", "AMD APM vol. 3, BOUND"
        mov dword [value], 0x0002FFFE
        mov eax, 0x7FFFFFFF
        runs bound ax, [value]
        mov eax, 3
        raises BR, 0, bound ax, [value]
        end_check
        check "BOUND with a register operand is #UD", "AMD APM vol. 3, BOUND"
        raises UD, 0, db 0x62, 0xC0, 0x00, 0x00, 0x00, 0x00
        end_check
        check "LAR, LSL, VERR, VERW, ARPL, LLDT, LTR, SLDT, STR in real mode are #UD", "AMD APM vol. 3, LAR; ARPL; LLDT"
%assign i 0
%rep 9
        trying
        real ud_%+i
        tried
        is [ex_vector], UD
        is [ex_rip], ud_%+i
%assign i i + 1
%endrep
        end_check
        ret
low_code
ud_0:   lar ax, bx
        jmp leave_real
ud_1:   lsl ax, bx
        jmp leave_real
ud_2:   verr ax
        jmp leave_real
ud_3:   verw ax
        jmp leave_real
ud_4:   arpl ax, bx
        jmp leave_real
ud_5:   lldt ax
        jmp leave_real
ud_6:   ltr ax
        jmp leave_real
ud_7:   sldt ax
        jmp leave_real
ud_8:   str ax
        jmp leave_real
main_code
%include "finish.inc"
