; Virtual-8086 mode, with and without CR4.VME; protected-mode virtual interrupts (CR4.PVI).
%include "prelude.inc"
%macro vme 1            ; CR4 bits
        mov eax, cr4
        and eax, ~3
        or eax, %1
        mov cr4, eax
%endmacro
%macro in_virtual 2     ; label, EFLAGS; HLT (always #GP) ends it
        trying
        virtual %1, %2
        tried
%endmacro
IOPL3 equ 0x3002
IOPL0 equ 0x0002
VIF equ 0x80000
VIP equ 0x100000

test_body:
        check "IRETD enters it, the exception that leaves pushes the segments", "AMD APM vol. 2, Virtual-8086 Mode, Entering and Leaving"
        vme 0
        in_virtual v_segments, IOPL3
        is [ex_vector], 0x90
        is [ex_es], 0x1111
        is [ex_ds], 0x2222
        is [ex_fs], 0x3333
        is [ex_gs], 0x4444
        mov eax, [ex_flags]
        and eax, 0x20000
        is eax, 0x20000
        end_check
        check "CLI, STI, PUSHF, POPF, INT n, IRET below IOPL 3 are #GP", "AMD APM vol. 2, Virtual-8086 Mode, Instruction Restrictions"
        vme 0
%assign i 0
%rep 6
        in_virtual sensitive%+i, IOPL0
        is [ex_vector], GP
        is [ex_error], 0
        is [ex_rip], sensitive%+i
%assign i i + 1
%endrep
        end_check
        check "HLT, MOV CR0, LGDT, LMSW, CLTS are #GP at IOPL 3 too", "AMD APM vol. 2, Privileged Instructions"
        vme 0
%assign i 0
%rep 5
        in_virtual privileged%+i, IOPL3
        is [ex_vector], GP
        is [ex_rip], privileged%+i
%assign i i + 1
%endrep
        end_check
        check "SLDT, STR, LAR, VERR, ARPL, LLDT are #UD", "AMD APM vol. 3, SLDT; STR; LAR; VERR; ARPL"
        vme 0
%assign i 0
%rep 6
        in_virtual protected%+i, IOPL3
        is [ex_vector], UD
        is [ex_rip], protected%+i
%assign i i + 1
%endrep
        end_check
        check "CLI at IOPL 3 clears IF", "AMD APM vol. 3, CLI"
        vme 0
        in_virtual v_cli, IOPL3 | 0x200
        is [ex_vector], GP
        mov eax, [ex_flags]
        and eax, 0x200
        is eax, 0
        end_check
        check "INT3 is not sensitive to IOPL", "AMD APM vol. 3, INT3"
        vme 0
        in_virtual v_int3, IOPL0
        is [ex_vector], BP_
        end_check
        check "POPF at IOPL 3 cannot change IOPL", "AMD APM vol. 3, POPF"
        vme 0
        in_virtual v_popf, IOPL3
        mov eax, [ex_flags]
        and eax, 0x3000
        is eax, 0x3000
        end_check
        check "I/O uses the bitmap, whatever IOPL", "AMD APM vol. 2, I/O-Permission Bitmap"
        vme 0
        in_virtual v_in, IOPL3
        is [ex_vector], GP
        is [ex_rip], v_in
        mov byte [io_bitmap + 0x80 / 8], 0xFE
        in_virtual v_in, IOPL0
        mov byte [io_bitmap + 0x80 / 8], 0xFF
        is [ex_rip], v_in.end
        end_check
        check "a segment load shifts by 4 and needs no descriptor", "AMD APM vol. 2, Virtual-8086 Mode, Segmentation"
        vme 0
        mov dword [0x7000], 0x2468ACE0
        in_virtual v_load, IOPL3
        is eax, 0x2468ACE0
        end_check
        check "the limit is FFFFh", "AMD APM vol. 2, Virtual-8086 Mode, Segmentation"
        vme 0
        in_virtual v_limit, IOPL3
        is [ex_vector], GP
        is [ex_rip], v_limit
        end_check
        check "INT n at IOPL 3 to a conforming handler or one of DPL 3 is #GP of the selector", "AMD APM vol. 2, Interrupts in Virtual-8086 Mode"
        vme 0
        idt_gate 0x90, CODE3, 0x8000, 0xEE00
        in_virtual v_int90, IOPL3
        is [ex_vector], GP
        is [ex_error], CODE3 & ~3
        end_check
        check "VME: CLI below IOPL 3 clears VIF, not IF", "AMD APM vol. 2, Virtual Interrupts"
        vme 1
        in_virtual v_cli, IOPL0 | VIF | 0x200
        is [ex_vector], GP
        is [ex_rip], v_cli.end
        mov eax, [ex_flags]
        and eax, VIF | 0x200
        is eax, 0x200
        end_check
        check "VME: STI below IOPL 3 sets VIF", "AMD APM vol. 2, Virtual Interrupts"
        vme 1
        in_virtual v_sti, IOPL0
        is [ex_rip], v_sti.end
        mov eax, [ex_flags]
        and eax, VIF | 0x200
        is eax, VIF
        end_check
        check "VME: STI with VIP set is #GP", "AMD APM vol. 2, Virtual Interrupts"
        vme 1
        in_virtual v_sti, IOPL0 | VIP
        is [ex_vector], GP
        is [ex_rip], v_sti
        end_check
        check "VME: PUSHF below IOPL 3 shows VIF as IF, and IOPL 3", "AMD APM vol. 3, PUSHF"
        vme 1
        in_virtual v_pushf, IOPL0 | VIF
        movzx eax, ax
        and eax, 0x3200
        is eax, 0x3200
        in_virtual v_pushf, IOPL0 | 0x200
        movzx eax, ax
        and eax, 0x3200
        is eax, 0x3000
        end_check
        check "VME: POPF below IOPL 3 sets VIF from IF", "AMD APM vol. 3, POPF"
        vme 1
        in_virtual v_popf_if, IOPL0
        is [ex_rip], v_popf_if.end
        mov eax, [ex_flags]
        and eax, VIF | 0x3200
        is eax, VIF
        end_check
        check "VME: POPF of TF below IOPL 3 is #GP", "AMD APM vol. 3, POPF"
        vme 1
        in_virtual v_popf_tf, IOPL0
        is [ex_vector], GP
        is [ex_rip], v_popf_tf.at
        end_check
        check "VME: PUSHFD and POPFD below IOPL 3 are #GP", "AMD APM vol. 3, PUSHF; POPF"
        vme 1
        in_virtual v_pushfd, IOPL0
        is [ex_rip], v_pushfd
        in_virtual v_popfd, IOPL0
        is [ex_rip], v_popfd
        end_check
        check "VME: INT n with a clear redirection bit goes to the table at 0", "AMD APM vol. 2, Interrupt-Redirection Bitmap"
        vme 1
        mov dword [redirection + 0x90 / 8], 0
        mov dword [0x90 * 4], v_handler
        in_virtual v_int90, IOPL0 | VIF
        is [ex_rip], v_handler.end
        movzx eax, ax
        and eax, 0x3200
        is eax, 0x3200
        mov eax, [ex_flags]
        and eax, VIF
        is eax, 0
        movzx ebx, bx
        is ebx, v_int90 + 2
        end_check
        check "VME: INT n with a set redirection bit is #GP below IOPL 3", "AMD APM vol. 2, Interrupt-Redirection Bitmap"
        vme 1
        mov byte [redirection + 0x90 / 8], 1
        in_virtual v_int90, IOPL0
        mov byte [redirection + 0x90 / 8], 0
        is [ex_vector], GP
        is [ex_rip], v_int90
        end_check
        check "VME: INT n with a set redirection bit goes through the IDT at IOPL 3", "AMD APM vol. 2, Interrupt-Redirection Bitmap"
        vme 1
        mov byte [redirection + 0x90 / 8], 1
        in_virtual v_int90, IOPL3
        mov byte [redirection + 0x90 / 8], 0
        is [ex_vector], 0x90
        end_check
        check "VME: IRET below IOPL 3 sets VIF from the image", "AMD APM vol. 3, IRET"
        vme 1
        in_virtual v_iret, IOPL0
        is [ex_rip], v_iret.end
        mov eax, [ex_flags]
        and eax, VIF | 0x3200
        is eax, VIF
        end_check
        check "PVI: CLI and STI at CPL 3 change VIF", "AMD APM vol. 2, Protected Mode Virtual Interrupts"
        vme 2
        trying
        user %$u, 0x202
%$u:    sti
        pushfd
        pop ebx
        cli
        pushfd
        pop ecx
        int END
        tried
        is [ex_vector], END
        and ebx, VIF | 0x200
        is ebx, VIF | 0x200
        and ecx, VIF | 0x200
        is ecx, 0x200
        end_check
        check "PVI: STI with VIP set is #GP", "AMD APM vol. 2, Protected Mode Virtual Interrupts"
        vme 2
        trying
        user %$u, 0x202 | VIP
%$u:    sti
        tried
        is [ex_vector], GP
        end_check
        check "TF in virtual-8086 mode: #DB after one instruction", "AMD APM vol. 2, Single Stepping"
        vme 0
        in_virtual v_step, IOPL3 | 0x100
        is [ex_vector], DB_
        is [ex_rip], v_step.next
        end_check
        vme 0
        ret

low_code
v_segments:
        mov ax, 0x1111
        mov es, ax
        mov ax, 0x2222
        mov ds, ax
        mov ax, 0x3333
        mov fs, ax
        mov ax, 0x4444
        mov gs, ax
        int 0x90
sensitive0: cli
sensitive1: sti
sensitive2: pushf
sensitive3: popf
sensitive4: int 0x90
sensitive5: iret
privileged0: hlt
privileged1: mov eax, cr0
privileged2: lgdt [value]
privileged3: lmsw ax
privileged4: clts
protected0: sldt ax
protected1: str ax
protected2: lar ax, bx
protected3: verr ax
protected4: arpl ax, bx
protected5: lldt ax
v_cli:  cli
.end:   hlt
v_sti:  sti
.end:   hlt
v_int3: int3
v_popf: push word 2
        popf
        hlt
v_in:   in al, 0x80
.end:   hlt
v_load: mov ax, 0x700
        mov ds, ax
        mov eax, [0]
        hlt
v_limit: mov ax, [0xFFFF]
        hlt
v_int90: int 0x90
        hlt
v_pushf: pushf
        pop ax
        hlt
v_popf_if:
        push word 0x202
        popf
.end:   hlt
v_popf_tf:
        push word 0x102
.at:    popf
        hlt
v_pushfd: pushfd
        hlt
v_popfd: popfd
        hlt
v_handler:
        mov bp, sp
        mov ax, [bp + 4]
        mov bx, [bp]
.end:   hlt
v_iret: push word 0x202
        push word 0
        push word .end
        iret
.end:   hlt
v_step: nop
.next:  nop
        hlt
main_code
%include "finish.inc"
