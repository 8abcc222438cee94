; Interrupts: shadows of STI and MOV SS, NMI, the local APIC's timer and messages, the 8259 and IRQ 13.
%include "prelude.inc"
APIC  equ 0xFEE00000
TPR   equ APIC + 0x80
PPR   equ APIC + 0xA0
EOI   equ APIC + 0xB0
SVR   equ APIC + 0xF0
ISR1  equ APIC + 0x110  ; vectors 20h to 3Fh
IRR1  equ APIC + 0x210
ESR   equ APIC + 0x280
ICR   equ APIC + 0x300
ICR_HIGH equ APIC + 0x310
LVT_TIMER equ APIC + 0x320
INITIAL equ APIC + 0x380
CURRENT equ APIC + 0x390
DIVIDE equ APIC + 0x3E0
SELF_FIXED equ 0x44000  ; to itself, assert, fixed

%macro apic 2           ; register, value
        mov dword [%1], %2
%endmacro
%macro send_nmi 0       ; an NMI to this processor by its identifier
        mov eax, [APIC + 0x20]
        and eax, 0xFF000000
        mov [ICR_HIGH], eax
        apic ICR, 0x4400
%endmacro
; Waits for a condition on memory, with an end.
%macro wait_until 3     ; doubleword, condition, value
        push ecx
        mov ecx, 2000000
%%next: cmp dword [%1], %3
        j%+2 %%end
        pause
        loop %%next
%%end:  pop ecx
%endmacro

test_body:
        apic SVR, 0x1FF
        apic TPR, 0
        apic APIC + 0x350, 0x10000      ; LINT0: nothing from the 8259
        check "STI: the instruction behind it comes before the interrupt", "AMD APM vol. 3, STI; vol. 2, Interrupt Shadow"
        apic ICR, SELF_FIXED | 0x31
        wait_until IRR1, ne, 0
        xor ecx, ecx
        trying
        sti
        inc ecx
        inc ecx
        tried
        apic EOI, 0
        is [ex_vector], 0x31
        is ecx, 1
        end_check
        check "STI, CLI: no interrupt between", "AMD APM vol. 3, STI"
        apic ICR, SELF_FIXED | 0x31
        wait_until IRR1, ne, 0
        trying
        sti
        cli
        nop
        tried
        is [ex_vector], NONE
        trying
        sti
        nop
        nop
        tried
        apic EOI, 0
        is [ex_vector], 0x31
        end_check
        check "STI with IF set already has no shadow of its own; MOV SS has one", "AMD APM vol. 3, MOV; STI"
        mov ebx, ss
        xor ecx, ecx
        trying
        apic TPR, 0xF0
        apic ICR, SELF_FIXED | 0x31
        sti
        nop
        mov ss, ebx
        inc ecx
        nop
        mov dword [TPR], 0
        nop
        nop
        nop
        tried
        apic EOI, 0
        is [ex_vector], 0x31
        is ecx, 1
        end_check
        check "POPF that sets IF has no shadow", "AMD APM vol. 2, Interrupt Shadow"
        apic ICR, SELF_FIXED | 0x31
        wait_until IRR1, ne, 0
        xor ecx, ecx
        trying
        push dword 0x202
        popfd
        inc ecx
        nop
        tried
        apic EOI, 0
        is [ex_vector], 0x31
        is ecx, 0
        end_check
        check "NMI comes with IF clear", "AMD APM vol. 2, NMI - Non-Maskable Interrupt Exception"
        trying
        send_nmi
        mov ecx, 1000
%$w:    loop %$w
        tried
        call unblock_nmi
        is [ex_vector], NMI
        end_check
        check "a second NMI waits for the IRET of the first one's handler", "AMD APM vol. 2, NMI; Masking and Nesting of NMIs"
        idt_gate 2, CODE0, nmi_handler, 0x8E00
        mov dword [value], 0
        mov dword [value + 4], 0
        send_nmi
        mov ecx, 1000
%$w:    loop %$w
        is [value], 2                   ; both were taken
        is [value + 4], 1               ; but one at a time
        end_check
        check "of several NMIs that wait one is kept", "Intel SDM vol. 3, Handling Multiple NMIs"
        idt_gate 2, CODE0, nmi_handler3, 0x8E00
        mov dword [value], 0
        send_nmi
        mov ecx, 1000
%$w:    loop %$w
        is [value], 2
        end_check
        check "an exception's IRET inside an NMI's handler ends the block", "Intel SDM vol. 3, Handling Multiple NMIs"
        idt_gate 2, CODE0, nmi_handler_int, 0x8E00
        idt_gate 0x90, CODE0, plain_return, 0x8E00
        mov dword [value], 0
        mov dword [value + 4], 0
        send_nmi
        mov ecx, 1000
%$w:    loop %$w
        is [value], 2
        is [value + 4], 2               ; the second one came inside the first
        end_check
        check "of two fixed interrupts the higher vector comes first", "AMD APM vol. 2, APIC Interrupt Priority"
        apic ICR, SELF_FIXED | 0x32
        apic ICR, SELF_FIXED | 0x35
        wait_until IRR1, e, 0x240000
        trying
        sti
        nop
        nop
        tried
        apic EOI, 0
        is [ex_vector], 0x35
        trying
        sti
        nop
        nop
        tried
        apic EOI, 0
        is [ex_vector], 0x32
        end_check
        check "TPR holds back its class and those below", "AMD APM vol. 2, Task Priority Register"
        apic TPR, 0x30
        apic ICR, SELF_FIXED | 0x35
        wait_until IRR1, ne, 0
        trying
        sti
        nop
        nop
        cli
        tried
        is [ex_vector], NONE
        is [IRR1], 0x200000
        trying
        sti
        apic TPR, 0x20
        nop
        nop
        nop
        tried
        is [ex_vector], 0x35
        is [ISR1], 0x200000
        is [PPR], 0x30
        apic EOI, 0
        apic TPR, 0
        is [ISR1], 0
        end_check
        check "APIC timer, one-shot: counts to 0, one interrupt", "AMD APM vol. 2, APIC Timer Operation"
        apic DIVIDE, 0x0B               ; by 1
        apic LVT_TIMER, 0x33
        apic INITIAL, 20000
        wait_until IRR1, ne, 0
        is [IRR1], 0x80000
        is [CURRENT], 0
        trying
        sti
        nop
        nop
        tried
        apic EOI, 0
        is [ex_vector], 0x33
        is [IRR1], 0
        end_check
        check "APIC timer, periodic: again and again", "AMD APM vol. 2, APIC Timer Operation"
        idt_gate 0x33, CODE0, count_timer, 0x8E00
        mov dword [value], 0
        apic LVT_TIMER, 0x20033
        apic INITIAL, 100000
        sti
        wait_until value, ae, 3
        cli
        apic INITIAL, 0
        apic LVT_TIMER, 0x10000
        mov eax, [value]
        cmp eax, 3
        setae al
        movzx eax, al
        is eax, 1
        sti
        nop
        cli
        apic EOI, 0
        end_check
        check "APIC timer, masked: counts without an interrupt", "AMD APM vol. 2, APIC Timer Operation"
        apic LVT_TIMER, 0x10033
        apic INITIAL, 2000
        wait_until CURRENT, e, 0
        is [CURRENT], 0
        is [IRR1], 0
        end_check
        check "writing 0 as the initial count stops the timer", "AMD APM vol. 2, APIC Timer Operation"
        apic LVT_TIMER, 0x33
        apic INITIAL, 100000000
        apic INITIAL, 0
        is [CURRENT], 0
        is [IRR1], 0
        apic LVT_TIMER, 0x10000
        end_check
        check "a disabled APIC has its local vectors masked", "AMD APM vol. 2, Spurious Interrupt Register"
        apic LVT_TIMER, 0x33
        apic SVR, 0xFF
        apic LVT_TIMER, 0x33
        mov eax, [LVT_TIMER]
        and eax, 0x10000
        apic SVR, 0x1FF
        apic LVT_TIMER, 0x10000
        is eax, 0x10000
        end_check
        check "a SIPI and an INIT de-assert to itself change nothing on a running processor", "Intel SDM vol. 3, Multiple-Processor Initialization; AMD APM vol. 2, Interprocessor Interrupts"
        mov eax, [APIC + 0x20]
        and eax, 0xFF000000
        mov [ICR_HIGH], eax
        trying
        apic ICR, 0x4608                ; start-up, page 8
        mov ecx, 1000
%$w:    loop %$w
        apic ICR, 0x88500               ; INIT, level, de-assert, all including itself
        mov ecx, 1000
%$x:    loop %$x
        tried
        is [ex_vector], NONE
        end_check
        check "HLT ends with an interrupt, the saved EIP is behind it", "AMD APM vol. 3, HLT"
        apic LVT_TIMER, 0x33
        apic INITIAL, 20000
        trying
        sti
        hlt
.behind: nop
        tried
        apic EOI, 0
        is [ex_vector], 0x33
        is [ex_rip], .behind
        end_check
        check "HLT with IF clear ends with an NMI", "AMD APM vol. 3, HLT"
        xor ecx, ecx
        trying
        send_nmi
        hlt
        tried
        call unblock_nmi
        is [ex_vector], NMI
        end_check
        check "MWAIT ends with an interrupt", "AMD APM vol. 3, MWAIT"
        mov eax, 1
        cpuid
        test ecx, 8
        skip_if z, "no MONITOR"
        apic LVT_TIMER, 0x33
        apic INITIAL, 20000
        mov eax, value
        xor ecx, ecx
        xor edx, edx
        monitor
        xor eax, eax
        trying
        sti
        mwait
        nop
        nop
        mov ecx, 1000000
%$w:    loop %$w
        tried
        apic EOI, 0
        is [ex_vector], 0x33
        end_check
        check "the 8259: edge, in service, EOI; IRQ 0 through LINT0 as ExtINT", "Intel 8259A data sheet; Intel MultiProcessor Specification, Virtual Wire Mode"
        call start_8259
        apic APIC + 0x350, 0x700
        mov al, 0xFE
        out 0x21, al
        mov al, 0x30                    ; timer 0, mode 0, count 100
        out 0x43, al
        mov al, 100
        out 0x40, al
        xor eax, eax
        out 0x40, al
        trying
        sti
        mov ecx, 3000000
%$w:    loop %$w
        tried
        is [ex_vector], 0xA0
        mov al, 0x0B
        out 0x20, al
        in al, 0x20
        movzx ebx, al
        mov al, 0x20
        out 0x20, al
        is ebx, 1
        mov al, 0xFF
        out 0x21, al
        end_check
        check "CR0.NE clear: a pending x87 exception is FERR# and IRQ 13", "AMD APM vol. 2, Numeric Error (NE) Bit; Intel SDM vol. 1, MS-DOS Compatibility Sub-mode"
        call start_8259
        mov al, 0xFB
        out 0x21, al
        mov al, 0xDF
        out 0xA1, al
        apic APIC + 0x350, 0x700
        mov eax, cr0
        and eax, ~0x20
        mov cr0, eax
        fninit
        fldz
        fld1
        mov word [value], 0x37B         ; divide by zero unmasked
        fldcw [value]
        fdivrp st1
        trying
        sti
        fwait
        mov ecx, 3000000
%$w:    loop %$w
        tried
        mov eax, cr0
        or eax, 0x20
        mov cr0, eax
        xor eax, eax
        out 0xF0, al
        fninit
        mov al, 0x20
        out 0xA0, al
        out 0x20, al
        mov al, 0xFF
        out 0x21, al
        out 0xA1, al
        is [ex_vector], 0xAD
        end_check
        check "a vector below 16 is an error, not an interrupt", "AMD APM vol. 2, Error Status Register"
        apic ESR, 0
        apic ICR, SELF_FIXED | 0x05
        apic ESR, 0
        mov eax, [ESR]
        and eax, 0x20
        is eax, 0x20
        end_check
        apic APIC + 0x350, 0x10000
        ret

start_8259:             ; vectors A0h and A8h, everything masked
        mov al, 0x11
        out 0x20, al
        out 0xA0, al
        mov al, 0xA0
        out 0x21, al
        mov al, 0xA8
        out 0xA1, al
        mov al, 4
        out 0x21, al
        mov al, 2
        out 0xA1, al
        mov al, 1
        out 0x21, al
        out 0xA1, al
        mov al, 0xFF
        out 0x21, al
        out 0xA1, al
        ret
unblock_nmi:
        push eax
        pushfd
        push cs
        push dword .here
        iretd
.here:  pop eax
        ret
; VALUE counts NMIs, VALUE + 4 is the deepest nesting, VALUE + 8 the present one.
%macro enter_nmi 0
        inc dword [value]
        inc dword [value + 8]
        push eax
        mov eax, [value + 8]
        cmp eax, [value + 4]
        jbe %%no
        mov [value + 4], eax
%%no:
%endmacro
nmi_handler:
        enter_nmi
        push ecx
        cmp dword [value], 1
        jne .leave
        send_nmi
        mov ecx, 1000
.wait:  loop .wait
.leave: pop ecx
        pop eax
        dec dword [value + 8]
        iretd
nmi_handler3:
        enter_nmi
        push ecx
        cmp dword [value], 1
        jne .leave
        send_nmi
        mov ecx, 1000
.wait1: loop .wait1
        send_nmi
        mov ecx, 1000
.wait2: loop .wait2
        send_nmi
        mov ecx, 1000
.wait3: loop .wait3
.leave: pop ecx
        pop eax
        dec dword [value + 8]
        iretd
nmi_handler_int:
        enter_nmi
        push ecx
        cmp dword [value], 1
        jne .leave
        int 0x90
        send_nmi
        mov ecx, 1000
.wait:  loop .wait
.leave: pop ecx
        pop eax
        dec dword [value + 8]
        iretd
plain_return:
        iretd
count_timer:
        inc dword [value]
        mov dword [EOI], 0
        iretd
%include "finish.inc"
