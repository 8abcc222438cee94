; Call gates, interrupt gates, and returns between rings.
%include "prelude.inc"

GATE  equ FREE
BAD   equ FREE + 8
CALL32 equ 0xEC00       ; 32-bit call gate, DPL 3
CALL16 equ 0xE400

%macro from_ring3 1+    ; one instruction of ring 3, then INT 81h
        trying
        user %$u
%$u:    %1
%$back: int END
        tried
%endmacro

test_body:
        check "32-bit call gate: parameters are copied to the stack of level 0", "AMD APM vol. 2, Privilege-Level Changes, Stack Switching"
        gate GATE, CODE0, inner32, CALL32 + 2
        trying
        user %$u
%$u:    push dword 0x11
        push dword 0x22
        call GATE:0xDEADBEEF
        int END
        tried
        is [ex_vector], END
        is [value], interrupt_stack - 24
        is [frame + 4], CODE3
        is [frame + 8], 0x22
        is [frame + 12], 0x11
        is [frame + 16], user_stack - 8
        is [frame + 20], DATA3
        is [value + 4], CODE0
        end_check
        check "RET n to the outer ring releases parameters on both stacks", "AMD APM vol. 3, RET (Far)"
        gate GATE, CODE0, inner32, CALL32 + 2
        trying
        user %$u
%$u:    push dword 0x11
        push dword 0x22
        call GATE:0
        mov ebx, esp
        int END
        tried
        is [ex_vector], END
        is ebx, user_stack
        end_check
        check "RET to the outer ring makes DS null when its DPL is lower", "AMD APM vol. 3, RET (Far)"
        gate GATE, CODE0, inner32, CALL32 + 2
        trying
        user %$u
%$u:    push dword 0x11
        push dword 0x22
        call GATE:0
        mov ecx, ds
        int END
        tried
        is [ex_vector], END
        is ecx, 0
        end_check
        check "16-bit call gate: the high half of the offset is not used", "AMD APM vol. 2, Call-Gate Descriptors"
        gate GATE, CODE0, low_target, CALL16
        mov word [gdt + GATE + 6], 0xDEAD
        from_ring3 call GATE:0
        is [ex_vector], 0x82
        end_check
        check "16-bit call gate: a frame of words", "AMD APM vol. 2, Privilege-Level Changes, Stack Switching"
        gate GATE, CODE0, low_target, CALL16 + 1
        trying
        user %$u
%$u:    push word 0x77
        call GATE:0
        int END
        tried
        is [ex_vector], 0x82
        is [ex_sp], interrupt_stack - 10
        movzx eax, word [interrupt_stack - 2]
        is eax, DATA3
        movzx eax, word [interrupt_stack - 4]
        mov ebx, user_stack - 2
        and ebx, 0xFFFF
        is eax, ebx
        movzx eax, word [interrupt_stack - 6]
        is eax, 0x77
        movzx eax, word [interrupt_stack - 8]
        is eax, CODE3
        end_check
        check "call gate of DPL 0 from ring 3", "AMD APM vol. 2, Privilege Checks for Gates"
        gate GATE, CODE0, inner32, 0x8C00
        from_ring3 call GATE:0
        is [ex_vector], GP
        is [ex_error], GATE
        end_check
        check "call gate named with an RPL above its DPL", "AMD APM vol. 2, Privilege Checks for Gates"
        gate GATE, CODE0, inner32, 0x8C00
        raises GP, GATE, call GATE + 1:0
        end_check
        check "call gate not present", "AMD APM vol. 2, #NP - Segment-Not-Present Exception"
        gate GATE, CODE0, inner32, 0x6C00
        from_ring3 call GATE:0
        is [ex_vector], NP
        is [ex_error], GATE
        end_check
        check "call gate to data", "AMD APM vol. 3, CALL (Far)"
        gate GATE, DATA0, inner32, CALL32
        raises GP, DATA0, call GATE:0
        end_check
        check "call gate to a null selector", "AMD APM vol. 3, CALL (Far)"
        gate GATE, 0, inner32, CALL32
        raises GP, 0, call GATE:0
        end_check
        check "call gate to a target behind the segment's limit", "AMD APM vol. 3, CALL (Far)"
        gate GATE, CODE16, 0x10000, CALL32
        raises GP, 0, call GATE:0
        end_check
        check "JMP through a gate to inner non-conforming code", "AMD APM vol. 3, JMP (Far)"
        gate GATE, CODE0, inner32, CALL32
        from_ring3 jmp GATE:0
        is [ex_vector], GP
        is [ex_error], CODE0
        end_check
        check "JMP through a gate to conforming code keeps CPL 3", "AMD APM vol. 3, JMP (Far)"
        gate GATE, CONF0, %$c, CALL32
        from_ring3 jmp GATE:0
        jmp %$e
%$c:    mov eax, cs
        int END
%$e:    is [ex_vector], END
        is eax, CONF0 + 3
        end_check
        check "call gate at the same level pushes no stack pointer", "AMD APM vol. 2, Control Transfers through Call Gates"
        gate GATE, CODE0, same32, CALL32
        mov ebx, esp
        call GATE:0
        is [value], CODE0
        sub ebx, [value + 4]
        is ebx, 8
        end_check
        check "call gate: a bad SS in the TSS is #TS", "AMD APM vol. 2, #TS - Invalid-TSS Exception"
        gate GATE, CODE1, inner32, CALL32
        mov dword [tss + 16], DATA3
        trying
        user %$u
%$u:    call GATE:0
        tried
        mov dword [tss + 16], DATA1 + 1
        is [ex_vector], TS
        is [ex_error], DATA3 & ~3
        end_check
        check "call gate to level 1 uses SS1:ESP1", "AMD APM vol. 2, Stack Switching"
        gate GATE, CODE1, level1, CALL32
        from_ring3 call GATE:0
        is [ex_vector], END
        is eax, CODE1 + 1
        is ebx, DATA1 + 1
        is ecx, stack1 - 16
        end_check
        check "RETF to an inner ring", "AMD APM vol. 3, RET (Far)"
        trying
        user %$u
%$u:    push dword CODE0
        push dword 0x8000
        retf
        tried
        is [ex_vector], GP
        is [ex_error], CODE0
        end_check
        check "interrupt gate clears IF, trap gate keeps it", "AMD APM vol. 2, Interrupt-Handler Privilege Checks; Trap Gates"
        idt_gate 0x90, CODE0, flags_handler, 0x8E00
        idt_gate 0x91, CODE0, flags_handler, 0x8F00
        sti
        int 0x90
        cli
        mov eax, [value]
        and eax, 0x200
        is eax, 0
        sti
        int 0x91
        cli
        mov eax, [value]
        and eax, 0x200
        is eax, 0x200
        end_check
        check "16-bit interrupt gate pushes words", "AMD APM vol. 2, Interrupt Gates and Trap Gates"
        idt_gate 0x90, CODE0, low_frame, 0x8600
        mov ebx, esp
        pushfd
        pop ecx
        trying
        int 0x90
        tried
        is [ex_vector], 0x82
        sub ebx, [value]
        is ebx, 6
        movzx eax, word [value + 6]
        is eax, CODE0
        movzx eax, word [value + 8]
        movzx ecx, cx
        is eax, ecx
        end_check
        check "INT n through a gate of DPL 0 from ring 3", "AMD APM vol. 2, Interrupt Privilege Checks; Error Codes"
        from_ring3 int 0x40
        is [ex_vector], GP
        is [ex_error], 0x40 * 8 + 2
        end_check
        check "INT n through a gate that is not present", "AMD APM vol. 2, Error Codes"
        idt_gate 0x90, CODE0, low_frame, 0x6E00
        raises NP, 0x90 * 8 + 2, int 0x90
        end_check
        check "INT n through a descriptor that is no gate", "AMD APM vol. 2, Error Codes"
        idt_gate 0x90, CODE0, low_frame, 0x8C00
        raises GP, 0x90 * 8 + 2, int 0x90
        end_check
        check "INT n behind the IDT's limit", "AMD APM vol. 2, Error Codes"
        mov word [value], 0x7F * 8 + 7
        mov dword [value + 2], idt
        lidt [value]
        trying
        int 0x90
        tried
        lidt [idtr]
        is [ex_vector], GP
        is [ex_error], 0x90 * 8 + 2
        end_check
        check "a fault while an exception is delivered has EXT in its error code", "AMD APM vol. 2, Error Codes, Selector-Error Code"
        idt_gate 6, CODE0, low_frame, 0x0E00    ; #UD's gate not present
        trying
        ud2
        tried
        is [ex_vector], NP
        is [ex_error], 6 * 8 + 3
        end_check
        check "an exception from ring 3: frame on the stack of level 0", "AMD APM vol. 2, Interrupt to Higher Privilege"
        from_ring3 ud2
        is [ex_vector], UD
        is [ex_cs], CODE3
        is [ex_sp], user_stack
        is [ex_ss], DATA3
        end_check
        check "the saved RF is set by a fault, clear by INT3", "AMD APM vol. 2, Resume Flag (RF) Bit"
        trying
        ud2
        tried
        mov eax, [ex_flags]
        and eax, 0x10000
        is eax, 0x10000
        trying
        int3
        tried
        mov eax, [ex_flags]
        and eax, 0x10000
        is eax, 0
        end_check
        check "INT3 and INTO are traps: the saved EIP is behind them", "AMD APM vol. 2, Exceptions Vector 3, Vector 4"
        trying
        int3
.int3:
        tried
        is [ex_rip], .int3
        mov al, 0x7F
        add al, 1
        trying
        into
.into:
        tried
        is [ex_vector], OF
        is [ex_rip], .into
        end_check
        check "IRET at CPL 3 changes neither IOPL nor IF", "AMD APM vol. 3, IRET"
        trying
        user %$u, 0x202
%$u:    push dword 0x3002
        push dword CODE3
        push dword %$v
        iretd
%$v:    pushfd
        pop ebx
        int END
        tried
        is [ex_vector], END
        and ebx, 0x3200
        is ebx, 0x200
        end_check
        check "POPF at CPL 3 changes neither IOPL nor IF, without a fault", "AMD APM vol. 3, POPF"
        trying
        user %$u, 0x202
%$u:    push dword 0x3002
        popfd
        pushfd
        pop ebx
        int END
        tried
        is [ex_vector], END
        and ebx, 0x3200
        is ebx, 0x200
        end_check
        check "CLI and STI at CPL 3 with IOPL 0", "AMD APM vol. 3, CLI; STI"
        from_ring3 cli
        is [ex_vector], GP
        from_ring3 sti
        is [ex_vector], GP
        end_check
        check "CLI at CPL 3 with IOPL 3", "AMD APM vol. 3, CLI"
        trying
        user %$u, 0x3202
%$u:    cli
        pushfd
        pop ebx
        int END
        tried
        is [ex_vector], END
        and ebx, 0x200
        is ebx, 0
        end_check
        check "HLT, LGDT, LIDT, LMSW, CLTS, INVD, MOV CR, RDMSR at CPL 3", "AMD APM vol. 2, Privileged Instructions"
        from_ring3 hlt
        is [ex_vector], GP
        from_ring3 lgdt [value]
        is [ex_vector], GP
        from_ring3 lidt [value]
        is [ex_vector], GP
        from_ring3 lmsw ax
        is [ex_vector], GP
        from_ring3 clts
        is [ex_vector], GP
        from_ring3 invd
        is [ex_vector], GP
        from_ring3 mov eax, cr0
        is [ex_vector], GP
        from_ring3 rdmsr
        is [ex_vector], GP
        end_check
        ret

inner32:
        mov [ss:value], esp
        mov eax, cs
        mov [ss:value + 4], eax
        mov eax, DATA0
        mov ds, eax
        mov es, eax
        mov esi, esp
        mov edi, frame
        mov ecx, 6
        rep movsd
        retf 8
same32: mov [value + 4], esp
        mov eax, [esp + 4]
        mov [value], eax
        retf
level1: mov eax, cs
        mov ebx, ss
        mov ecx, esp
        int END
flags_handler:
        pushfd
        pop dword [value]
        iretd
section .low
bits 32
low_target:
        int 0x82
low_frame:
        mov [value], esp
        push eax
        mov eax, [esp + 4]
        mov [value + 4], eax            ; IP at 4, CS at 6, FLAGS at 8
        mov eax, [esp + 8]
        mov [value + 8], eax
        pop eax
        int 0x82
frame:  times 6 dd 0
main_code
%include "finish.inc"
