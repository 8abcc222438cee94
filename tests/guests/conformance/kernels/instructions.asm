; Instructions with corners of their own: strings and their restart, stacks of 16 bits, ENTER, BCD, XLAT, old opcodes.
%include "prelude.inc"
MISSING equ 0x800000    ; 8 MB to 12 MB is a missing page

%macro flags_are 2      ; mask, wanted
        pushfd
        pop eax
        and eax, %1
        is eax, %2
%endmacro
CF_ equ 1
PF_ equ 4
AF_ equ 0x10
ZF_ equ 0x40
SF_ equ 0x80
OF_ equ 0x800

test_body:
        call paging
        check "REP MOVSB: a fault in the middle leaves exact counts", "AMD APM vol. 3, Repeat Prefixes; vol. 2, Precise Exceptions"
        mov esi, 0x700000
        mov edi, MISSING - 5
        mov ecx, 9
        trying
.at:    rep movsb
        tried
        is [ex_vector], PF
        is [ex_rip], .at
        is ecx, 4
        is edi, MISSING
        is esi, 0x700005
        is [ex_cr2], MISSING
        is [ex_error], 2
        end_check
        check "REP MOVSD backwards: a fault in the middle leaves exact counts", "AMD APM vol. 3, Repeat Prefixes"
        mov esi, 0xC00008
        mov edi, 0x700100
        mov ecx, 9
        trying
        std
        rep movsd
        tried
        cld
        is [ex_vector], PF
        is ecx, 6
        is esi, 0xC00000 - 4
        is edi, 0x700100 - 12
        is [ex_cr2], 0xC00000 - 4
        is [ex_error], 0
        end_check
        check "REP MOVSD: an element that crosses into the missing page is not written at all", "AMD APM vol. 2, Precise Exceptions"
        mov dword [MISSING - 4], 0x11223344
        mov esi, 0x700000
        mov dword [esi], 0xFFFFFFFF
        mov edi, MISSING - 2
        mov ecx, 1
        trying
        rep movsd
        tried
        is [ex_vector], PF
        is [ex_cr2], MISSING
        is ecx, 1
        is [MISSING - 4], 0x11223344
        end_check
        check "REP STOSW goes on where it was when the page is there", "AMD APM vol. 3, Repeat Prefixes"
        idt_gate PF, CODE0, mend_page, 0x8E00
        mov edi, MISSING - 6
        mov ecx, 8
        mov eax, 0x1234
        rep stosw
        is ecx, 0
        is edi, MISSING + 10
        is [MISSING + 4], 0x12341234
        is [value], 5
        call unmend_page
        end_check
        check "REPNE SCASB: a fault keeps the flags of the comparison before", "AMD APM vol. 3, SCAS"
        mov edi, MISSING - 2
        mov word [edi], 0x0505
        mov ecx, 5
        mov eax, 7
        trying
        repne scasb
        tried
        is [ex_vector], PF
        is ecx, 3
        is edi, MISSING
        end_check
        check "REPE CMPSB ends behind the difference", "AMD APM vol. 3, CMPS"
        mov dword [value], 0x04030201
        mov dword [value + 8], 0x04090201
        mov esi, value
        mov edi, value + 8
        mov ecx, 4
        repe cmpsb
        flags_are ZF_ | CF_, CF_
        is ecx, 1
        is esi, value + 3
        end_check
        check "REP with ECX = 0 touches nothing, whatever the address", "AMD APM vol. 3, Repeat Prefixes"
        xor ecx, ecx
        mov edi, MISSING
        mov esi, MISSING
        trying
        rep movsd
        repe cmpsb
        tried
        is [ex_vector], NONE
        end_check
        check "REP with a 16-bit address size counts CX and moves SI and DI", "AMD APM vol. 3, Repeat Prefixes"
        mov ecx, 0xFFFF0003
        mov esi, 0xFFFF7000
        mov edi, 0xFFFF7100
        a16 rep movsb
        is ecx, 0xFFFF0000
        is esi, 0xFFFF7003
        is edi, 0xFFFF7103
        end_check
        check "MOVS with a 16-bit address size wraps DI", "AMD APM vol. 1, Effective-Address Size"
        mov esi, 0x7000
        mov edi, 0x0000FFFF
        mov al, [0x10000]
        mov byte [0x7000], 0x77
        mov ecx, 1
        a16 rep movsb
        is edi, 0
        end_check
        check "LODS with a segment override", "AMD APM vol. 3, LODS"
        mov eax, DOWN
        mov fs, eax
        mov esi, 0
        raises GP, 0, fs lodsb
        end_check
        check "STOS takes ES whatever the prefix", "AMD APM vol. 3, STOS"
        mov eax, DOWN
        mov fs, eax
        mov edi, value
        mov eax, 0x99
        trying
        fs stosb
        tried
        is [ex_vector], NONE
        end_check
        check "OUTSB with REP: the count is that of the elements", "AMD APM vol. 3, OUTS"
        mov esi, value
        mov ecx, 3
        mov edx, 0x80
        rep outsb
        is ecx, 0
        is esi, value + 3
        end_check
        check "INSB into a missing page faults, EDI and ECX stay", "AMD APM vol. 3, INS"
        mov edi, MISSING
        mov ecx, 3
        mov edx, 0x80
        trying
        rep insb
        tried
        is [ex_vector], PF
        is ecx, 3
        is edi, MISSING
        end_check
        check "XLAT wraps a 16-bit offset", "AMD APM vol. 3, XLAT"
        mov byte [0x7000], 0x66
        mov ebx, 0xFFFFF001
        mov dword [value], 0
        mov eax, 0xFF
        mov byte [0xF100], 0x66
        a16 xlatb
        is eax, 0x66
        end_check
        check "DAA", "AMD APM vol. 3, DAA"
        mov eax, 0x79
        add al, 0x35
        daa
        mov ebx, eax
        flags_are CF_ | AF_, CF_ | AF_
        is ebx, 0x14
        end_check
        check "DAS", "AMD APM vol. 3, DAS"
        mov eax, 0x35
        sub al, 0x47
        das
        mov ebx, eax
        flags_are CF_ | AF_, CF_ | AF_
        is ebx, 0x88
        end_check
        check "AAA and AAS", "AMD APM vol. 3, AAA; AAS"
        mov eax, 0x0106
        add al, 0x09
        aaa
        is eax, 0x0205
        mov eax, 0x0203
        sub al, 0x08
        aas
        is eax, 0x0105
        end_check
        check "AAM by 10 and by 16, AAD", "AMD APM vol. 3, AAM; AAD"
        mov eax, 0x4F
        aam
        is eax, 0x0709
        mov eax, 0xAB
        aam 16
        is eax, 0x0A0B
        mov eax, 0x0709
        aad
        is eax, 0x4F
        end_check
        check "AAM 0 is #DE", "AMD APM vol. 3, AAM"
        raises DE, 0, aam 0
        end_check
        check "SALC (D6h): AL is FFh or 0 by CF", "AMD APM vol. 3, Opcode Map (D6h, SALC)"
        stc
        mov eax, 0x1200
        db 0xD6
        is eax, 0x12FF
        clc
        db 0xD6
        is eax, 0x1200
        end_check
        check "LOADALL of the 286 and 386 is no more: #UD", "AMD APM vol. 3, Opcode Map (0F 05h, 0F 07h)"
        raises UD, 0, db 0x0F, 0x05     ; SYSCALL without EFER.SCE
        raises UD, 0, db 0x0F, 0x07
        end_check
        check "UD2, 0F FFh and an undefined opcode are #UD", "AMD APM vol. 3, UD2"
        raises UD, 0, ud2
        raises UD, 0, db 0x0F, 0xFF, 0xC0
        raises UD, 0, db 0x0F, 0x04
        end_check
        check "RSM outside SMM is #UD", "AMD APM vol. 2, System-Management Mode, RSM"
        raises UD, 0, rsm
        end_check
        check "IDIV: -2^31 / -1 is #DE", "AMD APM vol. 3, IDIV"
        mov eax, 0x80000000
        mov edx, -1
        mov ecx, -1
        raises DE, 0, idiv ecx
        is eax, 0x80000000
        end_check
        check "ENTER with nesting copies frame pointers", "AMD APM vol. 3, ENTER"
        mov ebx, esp
        mov ebp, value + 32
        mov dword [value + 28], 0xAAAA0001
        mov dword [value + 24], 0xAAAA0002
        enter 8, 3
        mov ecx, esp
        mov edx, ebp
        mov esi, [ebp - 4]
        mov edi, [ebp - 8]
        mov eax, [ebp - 12]
        leave
        sub edx, ebx
        is edx, -4
        sub ecx, ebx
        is ecx, -4 - 12 - 8
        is esi, 0xAAAA0001
        is edi, 0xAAAA0002
        sub eax, ebx
        is eax, -4
        is ebp, value + 32
        end_check
        check "ENTER checks the whole frame for writing before it changes anything", "AMD APM vol. 3, ENTER"
        trying
        user %$u
%$u:    mov esp, 0xC00000 + 8
        mov ebp, 0x55
        enter 0x20, 0
        tried
        is [ex_vector], PF
        is [ex_sp], 0xC00000 + 8
        is ebp, 0x55
        mov eax, [ex_error]
        and eax, 5
        is eax, 4
        end_check
        check "16-bit stack: PUSH uses SP, the upper half of ESP stays", "AMD APM vol. 2, D/B Bit; vol. 3, PUSH"
        mov ebx, esp
        mov eax, STACK16
        mov ss, eax
        mov esp, 0xABCD0000
        push dword 0x12345678
        mov ecx, esp
        mov eax, DATA0
        mov ss, eax
        mov esp, ebx
        is ecx, 0xABCDFFFC
        is [0x8FFFC], 0x12345678
        end_check
        check "16-bit stack: LEAVE loads SP from BP", "AMD APM vol. 3, LEAVE"
        mov ebx, esp
        mov eax, STACK16
        mov ss, eax
        mov esp, 0xABCD0000
        mov ebp, 0x12345000
        mov dword [0x85000], 0x99
        leave
        mov ecx, esp
        mov eax, DATA0
        mov ss, eax
        mov esp, ebx
        is ecx, 0xABCD5004
        is ebp, 0x99
        end_check
        check "16-bit stack: CALL and RET n", "AMD APM vol. 3, RET (Near)"
        mov ebx, esp
        mov eax, STACK16
        mov ss, eax
        mov esp, 0xABCD0006
        call .sub
        mov ecx, esp
        mov eax, DATA0
        mov ss, eax
        mov esp, ebx
        is ecx, 0xABCD0004
        jmp .over
.sub:   ret 0xFFFE
.over:
        end_check
        check "POP to memory with ESP as base uses the ESP behind the pop", "AMD APM vol. 3, POP"
        push dword 0
        push dword 0x77
        pop dword [esp]
        pop eax
        is eax, 0x77
        end_check
        check "PUSH ESP pushes the old ESP", "AMD APM vol. 3, PUSH"
        mov ebx, esp
        push esp
        pop eax
        is eax, ebx
        end_check
        check "POP SS and MOV SS: interrupts and traps wait for one instruction", "AMD APM vol. 3, POP"
        push ss
        xor ecx, ecx
        trying
        pushfd
        or dword [esp], 0x100
        popfd
        nop
        tried
        pop ss
        is [ex_vector], DB_
        end_check
        check "CMPXCHG writes the destination even when it is not equal", "AMD APM vol. 3, CMPXCHG"
        mov eax, 5
        mov dword [0x700000], 6
        mov ecx, 9
        cmpxchg [0x700000], ecx
        is eax, 6
        mov eax, cr0
        or eax, 0x10000
        mov cr0, eax
        and dword [0x200000 + 4], ~2
        mov edx, cr3
        mov cr3, edx
        mov eax, 5
        trying
        cmpxchg [0x700000], ecx
        tried
        or dword [0x200000 + 4], 2
        mov edx, cr3
        mov cr3, edx
        is [ex_vector], PF
        is [ex_error], 3
        is eax, 5
        end_check
        check "CMPXCHG8B with a register operand is #UD", "AMD APM vol. 3, CMPXCHG8B"
        raises UD, 0, db 0x0F, 0xC7, 0xC8
        end_check
        check "shifts by 32 shift by 0 and leave the flags", "AMD APM vol. 3, SHL; SHR"
        mov eax, 0x80000001
        mov ecx, 32
        stc
        shl eax, cl
        mov ebx, eax
        flags_are CF_, CF_
        is ebx, 0x80000001
        end_check
        check "RCL r8 by 9 is RCL by 0, but the count is taken modulo 32 first", "AMD APM vol. 3, RCL"
        stc
        mov eax, 0x81
        mov ecx, 9
        rcl al, cl
        mov ebx, eax
        flags_are CF_, CF_
        is ebx, 0x81
        end_check
        check "BT with a register offset reaches beyond the operand", "AMD APM vol. 3, BT"
        mov dword [value + 8], 0
        mov dword [value + 12], 0x10
        mov eax, 36
        bts dword [value + 8], eax
        flags_are CF_, CF_
        mov eax, -28
        btc dword [value + 16], eax
        flags_are CF_, CF_
        is [value + 12], 0
        end_check
        check "BSF of 0 sets ZF and leaves the destination", "AMD APM vol. 3, BSF"
        mov eax, 0x55
        xor ecx, ecx
        bsf eax, ecx
        mov ebx, eax
        flags_are ZF_, ZF_
        is ebx, 0x55
        end_check
        check "BSWAP of 32 bits", "AMD APM vol. 3, BSWAP"
        mov eax, 0x12345678
        bswap eax
        is eax, 0x78563412
        end_check
        call paging_off
        ret
paging: ; 4 MB pages; 8 MB to 12 MB missing
        mov edi, 0x200000
        xor ecx, ecx
.fill:  mov eax, ecx
        shl eax, 22
        or eax, 0x87
        mov [edi + ecx * 4], eax
        inc ecx
        cmp ecx, 1024
        jne .fill
        mov dword [edi + 8], 0
        mov cr3, edi
        mov eax, cr4
        or al, 0x10
        mov cr4, eax
        mov eax, cr0
        or eax, 0x80000000
        mov cr0, eax
        ret
paging_off:
        mov eax, cr0
        and eax, 0x7FFFFFFF
        mov cr0, eax
        ret
mend_page:
        mov [value], ecx
        mov dword [0x200008], 0x800087
        add esp, 4
        iretd
unmend_page:
        mov dword [0x200008], 0
        mov eax, cr3
        mov cr3, eax
        ret
%include "finish.inc"
