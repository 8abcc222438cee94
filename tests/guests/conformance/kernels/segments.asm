; Segments of protected mode: limits, rights, null selectors, conforming and expand-down segments, the LDT.
%include "prelude.inc"

RO     equ FREE         ; read-only data
EXEC   equ FREE + 8     ; execute-only code
SMALL  equ FREE + 0x10  ; data, limit FFFh bytes
ABSENT equ FREE + 0x18
DOWN16 equ FREE + 0x20  ; expand-down, B = 0: up to FFFFh
FRESH  equ FREE + 0x28  ; data, not yet accessed
LOCAL  equ 4            ; the LDT's first descriptor

test_body:
        descriptor RO, 0x0000FFFF, 0x00CF9100
        descriptor EXEC, 0x0000FFFF, 0x00CF9900
        descriptor SMALL, 0x00000FFF, 0x00409300
        descriptor ABSENT, 0x0000FFFF, 0x00CF1300
        descriptor DOWN16, 0x00000FFF, 0x00009700
        descriptor FRESH, 0x0000FFFF, 0x00CF9200

        check "expand-down: an offset at the limit is outside", "AMD APM vol. 2, Limit Checks, Expand-Down Segments"
        mov eax, DOWN
        mov ds, eax
        raises GP, 0, mov al, [ds:0xFFF]
        end_check
        check "expand-down: the first offset above the limit is inside", "AMD APM vol. 2, Limit Checks, Expand-Down Segments"
        mov eax, DOWN
        mov ds, eax
        runs mov al, [ds:0x1000]
        end_check
        check "expand-down: a doubleword that begins below the limit", "AMD APM vol. 2, Limit Checks, Expand-Down Segments"
        mov eax, DOWN
        mov ds, eax
        raises GP, 0, mov eax, [ds:0xFFD]
        end_check
        check "expand-down with B = 0: FFFFh is the upper bound", "AMD APM vol. 2, D/B Bit"
        mov eax, DOWN16
        mov ds, eax
        runs mov al, [ds:0xFFFF]
        mov eax, DOWN16
        mov ds, eax
        raises GP, 0, mov ax, [ds:0xFFFF]
        end_check
        check "limit: the last doubleword is inside", "AMD APM vol. 2, Limit Checks, Segment Descriptors"
        mov eax, SMALL
        mov ds, eax
        runs mov eax, [ds:0xFFC]
        end_check
        check "limit: a doubleword that ends behind it", "AMD APM vol. 2, Limit Checks, Segment Descriptors"
        mov eax, SMALL
        mov ds, eax
        raises GP, 0, mov eax, [ds:0xFFD]
        end_check
        check "limit: through SS it is #SS", "AMD APM vol. 2, #SS - Stack Exception"
        mov eax, SMALL
        mov ebx, esp
        trying
        mov ss, eax
        mov esp, 0x1000
        mov eax, [ss:0xFFE]
        mov esp, ebx
        tried
        is [ex_vector], SS_
        is [ex_error], 0
        end_check
        check "limit: an access that wraps at 4 GB of a small segment", "AMD APM vol. 2, Limit Checks, Segment Descriptors"
        mov eax, SMALL
        mov ds, eax
        raises GP, 0, mov eax, [ds:0xFFFFFFFE]
        end_check
        check "a write to read-only data", "AMD APM vol. 2, Type Checks"
        mov eax, RO
        mov ds, eax
        raises GP, 0, mov [ds:value], eax
        end_check
        check "a read of read-only data", "AMD APM vol. 2, Type Checks"
        mov eax, RO
        mov ds, eax
        runs mov eax, [ds:value]
        end_check
        check "a write through CS", "AMD APM vol. 2, Type Checks"
        raises GP, 0, mov [cs:value], eax
        end_check
        check "DS cannot hold execute-only code", "AMD APM vol. 2, Type Checks on Loading Segment Registers"
        mov eax, EXEC
        raises GP, EXEC, mov ds, eax
        end_check
        check "SS cannot hold read-only data", "AMD APM vol. 2, Type Checks on Loading Segment Registers"
        mov eax, RO
        raises GP, RO, mov ss, eax
        end_check
        check "SS cannot hold code", "AMD APM vol. 2, Type Checks on Loading Segment Registers"
        mov eax, CODE0
        raises GP, CODE0, mov ss, eax
        end_check
        check "SS needs DPL = CPL", "AMD APM vol. 2, Data-Access Privilege Checks, Stack Segments"
        mov eax, DATA3
        raises GP, DATA3 & ~3, mov ss, eax
        end_check
        check "SS needs RPL = CPL", "AMD APM vol. 2, Data-Access Privilege Checks, Stack Segments"
        mov eax, DATA0 + 1
        raises GP, DATA0, mov ss, eax
        end_check
        check "DS: RPL above DPL", "AMD APM vol. 2, Data-Access Privilege Checks"
        mov eax, DATA0 + 3
        raises GP, DATA0, mov ds, eax
        end_check
        check "DS not present: #NP", "AMD APM vol. 2, #NP - Segment-Not-Present Exception"
        mov eax, ABSENT
        raises NP, ABSENT, mov ds, eax
        end_check
        check "SS not present: #SS with the selector", "AMD APM vol. 2, #SS - Stack Exception"
        mov eax, ABSENT
        raises SS_, ABSENT, mov ss, eax
        end_check
        check "a null selector loads, its use is #GP(0)", "AMD APM vol. 2, Null Selector"
        mov eax, 3
        runs mov ds, eax
        xor eax, eax
        mov ds, eax
        raises GP, 0, mov eax, [ds:0x8000]
        end_check
        check "SS cannot be null", "AMD APM vol. 2, Null Selector"
        xor eax, eax
        raises GP, 0, mov ss, eax
        end_check
        check "CS cannot be null", "AMD APM vol. 2, Null Selector"
        raises GP, 0, jmp 3:0x8000
        end_check
        check "a selector behind the table's limit", "AMD APM vol. 2, Error Codes, Selector-Error Code"
        mov eax, 0x203
        raises GP, 0x200, mov ds, eax
        end_check
        check "MOV to CS is #UD", "AMD APM vol. 3, MOV"
        raises UD, 0, db 0x8E, 0xC8
        end_check
        check "a load sets the accessed bit", "AMD APM vol. 2, Accessed (A) Bit"
        mov eax, FRESH
        mov es, eax
        movzx eax, byte [gdt + FRESH + 5]
        is eax, 0x93
        end_check
        check "a refused load leaves the register and the accessed bit", "AMD APM vol. 2, Accessed (A) Bit"
        mov byte [gdt + FRESH + 5], 0x92
        mov eax, DATA0
        mov es, eax
        mov eax, FRESH + 3
        trying
        mov es, eax
        tried
        is [ex_vector], GP
        movzx eax, byte [gdt + FRESH + 5]
        is eax, 0x92
        end_check
        check "MOV r32 of a segment register clears the upper half", "AMD APM vol. 3, MOV"
        mov eax, 0x12345678
        mov eax, ds
        is eax, DATA0
        end_check
        check "PUSH of a segment register leaves the upper half or zeroes it, ESP moves by 4", "Intel SDM vol. 2, PUSH"
        mov ebx, esp
        push ds
        sub ebx, esp
        pop eax
        is ebx, 4
        and eax, 0xFFFF
        is eax, DATA0
        end_check
        check "LDT: a selector without a table", "AMD APM vol. 2, Local Descriptor Table"
        mov eax, LOCAL
        raises GP, LOCAL, mov ds, eax
        end_check
        check "LDT: its descriptors are used", "AMD APM vol. 2, Local Descriptor Table"
        system LDTS, ldt, 7, 0x82
        mov eax, LDTS
        lldt ax
        mov eax, LOCAL
        mov es, eax
        mov al, [es:0]
        xor ecx, ecx
        mov es, ecx
        lldt cx
        movzx eax, al
        is eax, 0x5A
        end_check
        check "LLDT of a descriptor that is no LDT", "AMD APM vol. 3, LLDT"
        mov eax, DATA0
        raises GP, DATA0, lldt ax
        end_check
        check "LLDT of an LDT not present", "AMD APM vol. 3, LLDT"
        system LDTS, ldt, 7, 0x02
        mov eax, LDTS
        raises NP, LDTS, lldt ax
        end_check
        check "LLDT at CPL 3", "AMD APM vol. 3, LLDT"
        trying
        user %$u
%$u:    xor eax, eax
        lldt ax
        tried
        is [ex_vector], GP
        is [ex_error], 0
        end_check
        check "conforming code of DPL 0 called from ring 3 runs at CPL 3", "AMD APM vol. 2, Conforming Code Segments"
        trying
        user %$u
%$u:    call CONF0:%$c
%$c:    mov eax, cs
        int END
        tried
        is [ex_vector], END
        is eax, CONF0 + 3
        end_check
        check "non-conforming code of DPL 0 from ring 3", "AMD APM vol. 2, Direct Control Transfers"
        trying
        user %$u
%$u:    jmp CODE0:0x8000
        tried
        is [ex_vector], GP
        is [ex_error], CODE0
        end_check
        check "conforming code of a higher DPL", "AMD APM vol. 2, Conforming Code Segments"
        descriptor FREE + 0x30, 0x0000FFFF, 0x00CFFE00
        raises GP, FREE + 0x30, jmp FREE + 0x30:0x8000
        end_check
        check "DS may hold conforming code at any RPL", "AMD APM vol. 2, Accessing Data in Conforming Code Segments"
        mov eax, CONF0 + 3
        runs mov ds, eax
        end_check
        check "far JMP behind the code segment's limit", "AMD APM vol. 3, JMP (Far)"
        raises GP, 0, jmp CODE16:0x10000
        end_check
        check "far JMP to data", "AMD APM vol. 3, JMP (Far)"
        raises GP, DATA0, jmp DATA0:0x8000
        end_check
        check "far JMP to code not present", "AMD APM vol. 3, JMP (Far)"
        descriptor FREE + 0x30, 0x0000FFFF, 0x00CF1B00
        raises NP, FREE + 0x30, jmp FREE + 0x30:0x8000
        end_check
        check "LSS loads segment and pointer together", "AMD APM vol. 3, LSS"
        mov ebx, esp
        mov dword [value], 0x12345678
        mov word [value + 4], DATA0
        lss esp, [value]
        mov ecx, esp
        mov esp, ebx
        is ecx, 0x12345678
        end_check
        check "LSS with a register operand is #UD", "AMD APM vol. 3, LSS"
        raises UD, 0, db 0x0F, 0xB2, 0xC0
        end_check
        check "LES of a bad selector leaves the register", "AMD APM vol. 3, LES"
        mov dword [value], 0x12345678
        mov word [value + 4], DATA0 + 3
        mov ebx, 0x55
        trying
        les ebx, [value]
        tried
        is [ex_vector], GP
        is [ex_error], DATA0
        is ebx, 0x55
        end_check
        ret
section .low
local_data: db 0x5A
section .data
align 8
ldt:    dw 0xFF, local_data, 0x9300, 0x0040
section .text
%include "finish.inc"
