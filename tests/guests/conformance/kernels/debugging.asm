; Single steps, DR0 to DR7, data, instruction and I/O breakpoints, INT1, alignment checks.
%include "prelude.inc"

%macro dr7_is 1
        mov eax, %1
        mov dr7, eax
%endmacro
%macro watch 3          ; number, address, R/W and length (4 bits)
        mov eax, %2
        mov dr%1, eax
        xor eax, eax
        mov dr6, eax
        dr7_is 0x400 | (2 << (2 * %1)) | ((%3) << (16 + 4 * %1))
%endmacro
%macro unwatch 0
        push eax
        dr7_is 0x400
        pop eax
%endmacro
%macro dr6_is 1         ; its meaningful bits
        mov eax, [ex_dr6]
        and eax, 0xE00F
        is eax, %1
%endmacro
EXECUTE equ 0
WRITE equ 1
PORT equ 2
ACCESS equ 3
BYTE_ equ 0
WORD_ equ 4
DWORD_ equ 12
%macro with_tf 0        ; the instruction behind it is the first one that is stepped
        xor eax, eax
        mov dr6, eax
        pushfd
        or dword [esp], 0x100
        popfd
%endmacro

test_body:
        check "POPF with TF: the instruction behind it is done before #DB", "AMD APM vol. 2, Single Stepping"
        xor ecx, ecx
        trying
        with_tf
        inc ecx
%$next: inc ecx
        tried
        is [ex_vector], DB_
        is ecx, 1
        dr6_is 0x4000
        end_check
        check "single step: TF is set in the pushed flags, and clear in the handler", "AMD APM vol. 2, Single Stepping"
        idt_gate 1, CODE0, count_steps, 0x8E00
        mov dword [value], 0
        with_tf
        nop
        nop
        nop
        pushfd
        and dword [esp], ~0x100
        popfd
        ; NOP three times, PUSHFD, AND and POPFD
        is [value], 6
        end_check
        check "single step over MOV SS: none behind it, one behind the next", "AMD APM vol. 2, Single Stepping; vol. 3, MOV"
        mov ebx, ss
        xor ecx, ecx
        trying
        with_tf
        mov ss, ebx
        inc ecx
        inc ecx
        tried
        is [ex_vector], DB_
        is ecx, 1
        end_check
        check "single step over REP MOVSB: after every turn", "AMD APM vol. 2, Single Stepping"
        idt_gate 1, CODE0, count_steps, 0x8E00
        mov dword [value], 0
        mov esi, value + 16
        mov edi, value + 32
        mov ecx, 5
        with_tf
        rep movsb
        pushfd
        and dword [esp], ~0x100
        popfd
        is [value], 8
        is ecx, 0
        end_check
        check "single step over REP: between turns EIP is that of the instruction", "AMD APM vol. 2, Single Stepping"
        mov esi, value + 16
        mov edi, value + 32
        mov ecx, 5
        trying
        with_tf
.rep:   rep movsb
        tried
        is [ex_rip], .rep
        is ecx, 4
        end_check
        check "single step over CPUID, IN, OUT, CR0, WBINVD: one behind each", "AMD APM vol. 2, Single Stepping"
        idt_gate 1, CODE0, count_steps, 0x8E00
        mov dword [value], 0
        with_tf
        cpuid
        in al, 0x80
        out 0x80, al
        mov eax, cr0
        mov cr0, eax
        wbinvd
        pushfd
        and dword [esp], ~0x100
        popfd
        is [value], 9
        end_check
        check "single step over REP OUTSB: after every turn", "AMD APM vol. 2, Single Stepping"
        idt_gate 1, CODE0, count_steps, 0x8E00
        mov dword [value], 0
        mov esi, value + 16
        mov edx, 0x80
        mov ecx, 5
        with_tf
        rep outsb
        pushfd
        and dword [esp], ~0x100
        popfd
        is [value], 8
        is ecx, 0
        end_check
        check "single step over HLT: #DB behind it, without an interrupt", "AMD APM vol. 2, Single Stepping; Intel SDM vol. 2, HLT"
        trying
        with_tf
        hlt
.awake: nop
        tried
        is [ex_vector], DB_
        is [ex_rip], .awake
        end_check
        check "a faulting instruction is not stepped: its fault's frame has TF", "AMD APM vol. 2, Single Stepping"
        trying
        with_tf
        ud2
        tried
        is [ex_vector], UD
        mov eax, [ex_flags]
        and eax, 0x100
        is eax, 0x100
        end_check
        check "INT n clears TF: no step in the handler", "AMD APM vol. 2, Single Stepping"
        trying
        with_tf
        int 0x90
        tried
        is [ex_vector], 0x90
        mov eax, [ex_flags]
        and eax, 0x100
        is eax, 0x100
        end_check
        check "IRET that sets TF: one instruction, then #DB", "AMD APM vol. 2, Single Stepping"
        xor ecx, ecx
        trying
        pushfd
        or dword [esp], 0x100
        push cs
        push dword .target
        iretd
.target: inc ecx
        inc ecx
        tried
        is [ex_vector], DB_
        is ecx, 1
        end_check
        check "POPF that clears TF is itself stepped", "AMD APM vol. 2, Single Stepping"
        trying
        push dword 2
        with_tf
        popfd
        nop
        tried
        is [ex_vector], DB_
        end_check
        check "INT1 (F1h): #DB whose saved EIP is behind it, DR6.BS stays clear", "AMD APM vol. 3, INT1"
        xor eax, eax
        mov dr6, eax
        trying
        db 0xF1
.behind:
        tried
        is [ex_vector], DB_
        is [ex_rip], .behind
        dr6_is 0
        end_check
        check "DR6 and DR7: fixed bits", "AMD APM vol. 2, Debug-Status Register; Debug-Control Register"
        xor eax, eax
        mov dr6, eax
        mov eax, dr6
        and eax, ~0x800         ; bit 11: bus lock detect on newer processors
        is eax, 0xFFFF07F0
        xor eax, eax
        mov dr7, eax
        mov eax, dr7
        is eax, 0x400
        end_check
        check "DR4 and DR5 are DR6 and DR7 without CR4.DE", "AMD APM vol. 2, Debug Registers; Debugging Extensions (DE) Bit"
        mov eax, cr4
        and eax, ~8
        mov cr4, eax
        dr7_is 0x400
        db 0x0F, 0x21, 0xE8     ; MOV EAX, DR5
        is eax, 0x400
        end_check
        check "DR4 and DR5 are #UD with CR4.DE", "AMD APM vol. 2, Debugging Extensions (DE) Bit"
        mov eax, cr4
        or eax, 8
        mov cr4, eax
        raises UD, 0, db 0x0F, 0x21, 0xE8
        mov eax, cr4
        and eax, ~8
        mov cr4, eax
        end_check
        check "a write breakpoint traps behind the instruction", "AMD APM vol. 2, Data Breakpoints"
        watch 0, value, WRITE | DWORD_
        trying
        mov [value + 2], cl
.behind: nop
        tried
        unwatch
        is [ex_vector], DB_
        is [ex_rip], .behind
        dr6_is 1
        end_check
        check "a write breakpoint does not see reads", "AMD APM vol. 2, Data Breakpoints"
        watch 0, value, WRITE | DWORD_
        trying
        mov eax, [value]
        tried
        unwatch
        is [ex_vector], NONE
        end_check
        check "an access breakpoint sees reads", "AMD APM vol. 2, Data Breakpoints"
        watch 3, value, ACCESS | BYTE_
        trying
        mov eax, [value - 3]
        tried
        unwatch
        is [ex_vector], DB_
        dr6_is 8
        end_check
        check "an access that only touches the bytes beside it", "AMD APM vol. 2, Breakpoint Length (LEN) Fields"
        watch 1, value + 4, ACCESS | WORD_
        trying
        mov eax, [value]
        mov ax, [value + 6]
        tried
        unwatch
        is [ex_vector], NONE
        end_check
        check "a breakpoint that is not enabled still reports its bit with another", "AMD APM vol. 2, Debug-Status Register; Intel SDM vol. 3, Debug Status Register"
        mov eax, value
        mov dr0, eax
        mov dr1, eax
        xor eax, eax
        mov dr6, eax
        dr7_is 0x400 | 0x02 | (WRITE | DWORD_) << 16
        trying
        mov [value], ecx
        tried
        unwatch
        mov eax, [ex_dr6]
        and eax, 0xE001
        is eax, 1
        end_check
        check "REP STOSB: the breakpoint traps after the turn that writes there", "AMD APM vol. 2, Data Breakpoints"
        watch 0, value + 10, WRITE | BYTE_
        mov edi, value + 8
        mov ecx, 6
        xor eax, eax
        trying
.rep:   rep stosb
        tried
        unwatch
        is [ex_vector], DB_
        is ecx, 3
        is edi, value + 11
        is [ex_rip], .rep
        end_check
        check "a data breakpoint behind MOV SS waits for the next instruction", "AMD APM vol. 3, MOV; Intel SDM vol. 3, Masking Exceptions and Interrupts When Switching Stacks"
        mov word [value + 8], DATA0
        watch 0, value + 8, ACCESS | WORD_
        trying
        mov ss, [value + 8]
        nop
.behind: nop
        tried
        unwatch
        is [ex_vector], DB_
        is [ex_rip], .behind
        end_check
        check "an instruction breakpoint is a fault before it, RF is clear in the frame", "AMD APM vol. 2, Instruction Breakpoints; Intel SDM vol. 3, Instruction-Breakpoint Exception Condition"
        watch 2, .at, EXECUTE
        xor ecx, ecx
        trying
        inc ecx
.at:    inc ecx
        tried
        unwatch
        is [ex_vector], DB_
        is [ex_rip], .at
        is ecx, 1
        dr6_is 4
        mov eax, [ex_flags]
        and eax, 0x10000
        is eax, 0
        end_check
        check "IRET with RF passes the breakpoint once", "AMD APM vol. 2, Resume Flag (RF) Bit"
        watch 2, .once, EXECUTE
        mov ecx, 2
        trying
        pushfd
        or dword [esp], 0x10000
        push cs
        push dword .once
        iretd
.once:  dec ecx
        jnz .once
        tried
        unwatch
        is [ex_vector], DB_
        is ecx, 1
        end_check
        check "RF holds for one instruction, CPUID too", "AMD APM vol. 2, Resume Flag (RF) Bit"
        mov eax, .second
        mov dr1, eax
        watch 0, .first, EXECUTE
        dr7_is 0x40A
        trying
        pushfd
        or dword [esp], 0x10000
        push dword CODE0
        push dword .first
        iretd
.first: cpuid
.second: nop
        tried
        unwatch
        is [ex_vector], DB_
        is [ex_rip], .second
        dr6_is 2
        end_check
        check "POPF cannot set RF", "AMD APM vol. 2, Resume Flag (RF) Bit"
        pushfd
        or dword [esp], 0x10000
        popfd
        pushfd
        pop eax
        and eax, 0x10000
        is eax, 0
        end_check
        check "an I/O breakpoint traps behind the instruction, with CR4.DE", "AMD APM vol. 2, I/O Breakpoints"
        mov eax, cr4
        or eax, 8
        mov cr4, eax
        watch 1, 0x80, PORT | BYTE_
        trying
        in al, 0x80
.behind: nop
        tried
        unwatch
        mov eax, cr4
        and eax, ~8
        mov cr4, eax
        is [ex_vector], DB_
        is [ex_rip], .behind
        dr6_is 2
        end_check
        check "an I/O breakpoint on REP OUTSB traps after the first turn", "AMD APM vol. 2, I/O Breakpoints"
        mov eax, cr4
        or eax, 8
        mov cr4, eax
        watch 1, 0x80, PORT | BYTE_
        mov esi, value + 16
        mov edx, 0x80
        mov ecx, 3
        trying
.rep_io: rep outsb
        tried
        unwatch
        mov eax, cr4
        and eax, ~8
        mov cr4, eax
        is [ex_vector], DB_
        is [ex_rip], .rep_io
        is ecx, 2
        dr6_is 2
        end_check
        check "a port beside an I/O breakpoint", "AMD APM vol. 2, I/O Breakpoints"
        mov eax, cr4
        or eax, 8
        mov cr4, eax
        watch 1, 0x82, PORT | WORD_
        trying
        in al, 0x80
        tried
        unwatch
        mov eax, cr4
        and eax, ~8
        mov cr4, eax
        is [ex_vector], NONE
        end_check
        check "DR7.GD: an access to a debug register is #DB before it, DR6.BD, GD is cleared", "AMD APM vol. 2, General-Detect Fault"
        xor eax, eax
        mov dr6, eax
        dr7_is 0x2400
        trying
.at:    mov eax, dr0
        tried
        mov ebx, dr7
        is [ex_vector], DB_
        is [ex_rip], .at
        dr6_is 0x2000
        is ebx, 0x400
        end_check
        check "MOV DR at CPL 3 is #GP", "AMD APM vol. 3, MOV DRn"
        trying
        user %$u
%$u:    mov eax, dr7
        tried
        is [ex_vector], GP
        end_check
        check "DR6 bits are not cleared by the processor", "AMD APM vol. 2, Debug-Status Register"
        mov eax, 0x8000
        mov dr6, eax
        trying
        pushfd
        or dword [esp], 0x100
        popfd
        nop
        tried
        dr6_is 0xC000
        end_check
        check "#AC: a misaligned doubleword at CPL 3 with AC and CR0.AM", "AMD APM vol. 2, #AC - Alignment-Check Exception"
        mov eax, cr0
        or eax, 0x40000
        mov cr0, eax
        trying
        user %$u, 0x40002
%$u:    mov eax, [value + 1]
        tried
        is [ex_vector], AC
        is [ex_error], 0
        end_check
        check "no #AC at CPL 0", "AMD APM vol. 2, #AC - Alignment-Check Exception"
        pushfd
        or dword [esp], 0x40000
        popfd
        runs mov eax, [value + 1]
        push dword 2
        popfd
        end_check
        check "no #AC for aligned words and for bytes", "AMD APM vol. 2, #AC - Alignment-Check Exception"
        trying
        user %$u, 0x40002
%$u:    mov ax, [value + 2]
        mov al, [value + 1]
        mov eax, [value + 4]
        int END
        tried
        is [ex_vector], END
        end_check
        check "#AC of PUSH on a misaligned stack", "AMD APM vol. 2, #AC - Alignment-Check Exception"
        trying
        user %$u, 0x40002
%$u:    dec esp
        push eax
        tried
        is [ex_vector], AC
        end_check
        check "no #AC without CR0.AM", "AMD APM vol. 2, Alignment Mask (AM) Bit"
        mov eax, cr0
        and eax, ~0x40000
        mov cr0, eax
        trying
        user %$u, 0x40002
%$u:    mov eax, [value + 1]
        int END
        tried
        is [ex_vector], END
        end_check
        ret
count_steps:
        inc dword [value]
        iretd
%include "finish.inc"
