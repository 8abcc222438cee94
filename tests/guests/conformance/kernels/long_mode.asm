; Long mode: canonical addresses, gates and IST, IRETQ, SYSCALL, SWAPGS, compatibility mode, NX, what is gone.
%include "prelude.inc"
%include "long.inc"
HIGH equ 0x0000800000000000

%macro msr 3            ; number, high, low
        mov ecx, %1
        mov edx, %2
        mov eax, %3
        wrmsr
%endmacro

test_body:
        enter_long
        check "a data access at a non-canonical address is #GP(0)", "AMD APM vol. 2, Canonical Address Form"
        mov rbx, HIGH
        raises GP, 0, mov rax, [rbx]
        end_check
        check "through RSP or RBP it is #SS(0)", "AMD APM vol. 2, #SS - Stack Exception"
        mov rax, rbp
        mov rbp, HIGH
        raises SS_, 0, mov rcx, [rbp]
        mov rbp, rax
        end_check
        check "an access that ends in the non-canonical range", "AMD APM vol. 2, Canonical Address Form"
        mov rbx, HIGH - 4
        raises GP, 0, mov rax, [rbx]
        end_check
        check "a jump to a non-canonical address faults at the jump", "AMD APM vol. 3, JMP (Near)"
        mov rbx, HIGH
        raises GP, 0, jmp rbx
        end_check
        check "RET to a non-canonical address faults at RET, RSP stays", "AMD APM vol. 3, RET (Near)"
        mov rbx, HIGH
        push rbx
        mov rdx, rsp
        trying
.ret:   ret
        tried
        pop rbx
        is [ex_vector], GP
        is [ex_rip], .ret
        is [ex_sp], rdx
        end_check
        check "a non-canonical base for LGDT, LIDT, FS.base is #GP", "AMD APM vol. 3, LGDT; WRMSR"
        mov rax, HIGH
        mov word [value], 0xFFF
        mov [value + 2], rax
        raises GP, 0, lgdt [value]
        raises GP, 0, lidt [value]
        mov ecx, 0xC0000100
        mov edx, 0x8000
        xor eax, eax
        raises GP, 0, wrmsr
        end_check
        check "an interrupt aligns RSP to 16 and pushes SS:RSP at the same level", "AMD APM vol. 2, Long-Mode Interrupt Control Transfers"
        mov rbx, rsp
        trying
        and rsp, -16
        sub rsp, 8
        mov rdx, rsp
        int 0x90
        tried
        is [ex_sp], rdx
        mov rax, [handler_sp]
        and rax, 15
        is rax, 0
        is [ex_ss], DATA0
        end_check
        check "IST: the stack of the gate, at the same level too", "AMD APM vol. 2, Interrupt-Stack Table"
        idt_gate64 0x90, stub64_144, 0x8E00, 1
        trying
        int 0x90
        tried
        is [handler_sp], ist_stack
        end_check
        check "an interrupt from ring 3: RSP0, and SS is null", "AMD APM vol. 2, Long-Mode Interrupt Control Transfers"
        trying
        user64 %$u
%$u:    int END
        tried
        is [ex_vector], END
        is [ex_cs], USER64
        is [ex_ss], DATA3
        is [ex_sp], user_stack64
        is [handler_sp], interrupt_stack64
        is [handler_ss], 0
        end_check
        check "a gate to 32-bit code is #GP of the selector", "AMD APM vol. 2, Long-Mode Interrupt Control Transfers"
        mov word [idt64 + 0x90 * 16 + 2], CODE0
        raises GP, CODE0, int 0x90
        end_check
        check "16-bit gates and task gates are #GP in the IDT", "AMD APM vol. 2, System Descriptors in Long Mode"
        idt_gate64 0x90, stub64_144, 0x8600
        raises GP, 0x90 * 8 + 2, int 0x90
        idt_gate64 0x90, stub64_144, 0x8500
        raises GP, 0x90 * 8 + 2, int 0x90
        end_check
        check "IRETQ pops SS:RSP at the same level, and takes a null SS in ring 0", "AMD APM vol. 3, IRET"
        mov rbx, rsp
        push qword 0
        push rbx
        push qword 2
        push qword CODE64
        push qword .next
        iretq
.next:  mov ecx, ss
        mov eax, DATA0
        mov ss, eax
        mov rdx, rsp
        is rcx, 0
        is rdx, rbx
        end_check
        check "IRETQ to a non-canonical RIP is #GP(0)", "AMD APM vol. 3, IRET"
        trying
        mov rax, HIGH
        push qword DATA0
        push qword 0x9000
        push qword 2
        push qword CODE64
        push rax
        iretq
        tried
        is [ex_vector], GP
        is [ex_error], 0
        end_check
        check "IRETQ with NT set is #GP(0)", "AMD APM vol. 3, IRET"
        trying
        push qword 0x4002
        popfq
        push qword DATA0
        push qword 0x9000
        push qword 2
        push qword CODE64
        push qword %$after
        iretq
        tried
        is [ex_vector], GP
        is [ex_error], 0
        end_check
        check "call gate of 64 bits: 16 bytes, 64-bit offset, frame of quadwords", "AMD APM vol. 2, Call-Gate Descriptors in Long Mode"
        mov dword [gdt + FREE], .gate
        mov word [gdt + FREE + 2], CODE64
        mov dword [gdt + FREE + 4], .gate
        mov word [gdt + FREE + 4], 0xEC00
        mov qword [gdt + FREE + 8], 0
        mov dword [value], 0
        mov word [value + 4], FREE
        trying
        user64 %$u
%$u:    call far dword [value]
        int END
.gate:  mov rax, rsp
        mov ecx, ss
        mov rdx, [rsp + 24]
        retfq
        tried
        is [ex_vector], END
        is rax, interrupt_stack64 - 32
        is rcx, 0
        is rdx, DATA3
        end_check
        check "SYSCALL and SYSRET of 64 bits", "AMD APM vol. 3, SYSCALL; SYSRET"
        msr 0xC0000081, (0x18 + 3) << 16 | CODE64, 0
        msr 0xC0000082, 0, .entry
        msr 0xC0000084, 0, 0x201
        trying
        user64 %$u, 0x202
%$u:    stc
        syscall
.after: mov r9, cs
        mov r10, ss
        int END
.entry: mov r12, cs
        mov r13, ss
        pushfq
        pop r14
        mov r15, rcx
        db 0x48
        sysret
        tried
        is [ex_vector], END
        is r12, CODE64
        is r13, DATA64
        is r15, .after
        and r14, 0x201
        is r14, 0
        is r9, USER64
        is r10, DATA3
        mov rax, [ex_flags]
        and rax, 0x201
        is rax, 0x201
        end_check
        check "SYSCALL without EFER.SCE is #UD", "AMD APM vol. 3, SYSCALL"
        mov ecx, 0xC0000080
        rdmsr
        and eax, ~1
        wrmsr
        trying
        syscall
        tried
        mov rbx, [ex_vector]
        mov ecx, 0xC0000080
        rdmsr
        or eax, 1
        wrmsr
        is rbx, UD
        end_check
        check "SYSCALL of compatibility mode goes to CSTAR, SYSRET of 32 bits back", "AMD APM vol. 3, SYSCALL; SYSRET"
        msr 0xC0000081, (0x18 + 3) << 16 | CODE64, 0
        msr 0xC0000083, 0, .entry
        trying
        user32 %$u
bits 32
%$u:    syscall
        mov ebx, cs
        int END
bits 64
.entry: mov r12, cs
        sysret
        tried
        is [ex_vector], END
        is r12, CODE64
        is rbx, CODE3
        end_check
        check "SWAPGS exchanges the bases, and is #GP at CPL 3", "AMD APM vol. 3, SWAPGS"
        msr 0xC0000101, 0, 0x1111
        msr 0xC0000102, 0, 0x2222
        swapgs
        mov ecx, 0xC0000101
        rdmsr
        is rax, 0x2222
        mov ecx, 0xC0000102
        rdmsr
        is rax, 0x1111
        trying
        user64 %$u
%$u:    swapgs
        tried
        is [ex_vector], GP
        end_check
        check "FS.base: a load from a descriptor replaces all 64 bits", "AMD APM vol. 2, FS and GS Registers in 64-Bit Mode"
        msr 0xC0000100, 0x1234, 0x5678
        mov eax, DATA0
        mov fs, eax
        mov ecx, 0xC0000100
        rdmsr
        shl rdx, 32
        or rax, rdx
        is rax, 0
        end_check
        check "bases and limits of DS, ES and SS do not count in 64-bit code", "AMD APM vol. 2, DS, ES and SS Registers in 64-Bit Mode"
        mov dword [gdt + FREE], 0x10000000
        mov dword [gdt + FREE + 4], 0x00409310
        mov eax, FREE
        mov ds, eax
        mov qword [0x7000], 0x55
        mov rbx, 0x7000
        mov rcx, [rbx]
        mov eax, DATA0
        mov ds, eax
        is rcx, 0x55
        end_check
        check "32-bit results clear the upper half, 16- and 8-bit ones keep it", "AMD APM vol. 1, Results in 64-Bit Mode"
        mov rax, -1
        mov rbx, -1
        mov rcx, -1
        xor eax, eax
        xor bx, bx
        xor cl, cl
        is rax, 0
        mov rdx, 0xFFFFFFFFFFFF0000
        is rbx, rdx
        mov rdx, 0xFFFFFFFFFFFFFF00
        is rcx, rdx
        end_check
        check "CMOV of 32 bits clears the upper half even when it does not move", "AMD APM vol. 3, CMOVcc"
        mov rax, -1
        xor ecx, ecx
        inc ecx
        cmovz eax, ecx
        mov edx, 0xFFFFFFFF
        is rax, rdx
        end_check
        check "PUSHA, POPA, AAA, DAA, INTO, SALC, PUSH ES, direct far CALL and 82h are #UD in 64-bit code", "AMD APM vol. 3, Instructions Invalid in 64-Bit Mode"
        raises UD, 0, db 0x60
        raises UD, 0, db 0x61
        raises UD, 0, db 0x37
        raises UD, 0, db 0x27
        raises UD, 0, db 0xCE
        raises UD, 0, db 0xD6
        raises UD, 0, db 0x06
        raises UD, 0, db 0x9A, 0, 0, 0, 0, 8, 0
        raises UD, 0, db 0x82, 0xC0, 0
        end_check
        check "NX: a fetch is #PF with the instruction bit", "AMD APM vol. 2, No Execute (NX) Bit; Page-Fault Error Code"
        mov byte [PAGES + 0x3000], 0xC3
        mov rax, 0x8000000000000000
        or [pt + 3 * 8], rax
        invlpg [PAGES + 0x3000]
        mov rbx, PAGES + 0x3000
        trying
        call rbx
        tried
        btr qword [pt + 3 * 8], 63
        invlpg [PAGES + 0x3000]
        is [ex_vector], PF
        is [ex_error], 0x11
        is [ex_cr2], rbx
        is [ex_rip], rbx
        end_check
        check "NX bit with EFER.NXE clear is reserved", "AMD APM vol. 2, No Execute Enable (NXE) Bit"
        mov ecx, 0xC0000080
        rdmsr
        and eax, ~0x800
        wrmsr
        bts qword [pt + 3 * 8], 63
        invlpg [PAGES + 0x3000]
        trying
        mov al, [PAGES + 0x3000]
        tried
        btr qword [pt + 3 * 8], 63
        invlpg [PAGES + 0x3000]
        mov ecx, 0xC0000080
        rdmsr
        or eax, 0x800
        wrmsr
        is [ex_vector], PF
        is [ex_error], 9
        end_check
        check "CR0.PG cannot be cleared in 64-bit code, nor CR4.PAE", "AMD APM vol. 2, Leaving Long Mode"
        mov rax, cr0
        btr rax, 31
        raises GP, 0, mov cr0, rax
        mov rax, cr4
        btr rax, 5
        raises GP, 0, mov cr4, rax
        end_check
        check "EFER.LME cannot change while paging is on", "AMD APM vol. 2, Long Mode Enable (LME) Bit"
        mov ecx, 0xC0000080
        rdmsr
        and eax, ~0x100
        raises GP, 0, wrmsr
        end_check
        check "reserved bits of CR0's upper half and of CR8 are #GP", "AMD APM vol. 2, CR0 Register; CR8"
        mov rax, cr0
        bts rax, 32
        raises GP, 0, mov cr0, rax
        mov eax, 16
        raises GP, 0, mov cr8, rax
        end_check
        check "an instruction of 15 bytes runs, one of 16 is #GP", "AMD APM vol. 3, Instruction Length"
        trying
        times 14 db 0x66
        nop
        tried
        is [ex_vector], NO
        trying
        times 15 db 0x66
        nop
        tried
        is [ex_vector], GP
        end_check
        check "code that has been written over runs as written, at once", "AMD APM vol. 2, Self-Modifying Code"
        mov byte [.patch + 1], 0x22
.patch: mov al, 0x11
        movzx eax, al
        is rax, 0x22
        mov dword [.patch + 0], 0x900022B0
        end_check
        check "code written through another mapping of its page runs as written behind a jump", "AMD APM vol. 2, Cross-Modifying Code"
        mov qword [pt + 8 * 8], 0x409007
        mov qword [pt + 9 * 8], 0x409007
        invlpg [PAGES + 0x8000]
        mov dword [PAGES + 0x8000], 0xC301B0    ; MOV AL, 1; RET
        mov rbx, PAGES + 0x8000
        call rbx
        mov byte [PAGES + 0x9001], 2
        call rbx
        movzx eax, al
        is rax, 2
        end_check
        check "compatibility mode: addresses wrap at 4 GB", "AMD APM vol. 2, Compatibility Mode"
        mov dword [0x7000], 0x13579BDF
        trying
        user32 %$u
bits 32
%$u:    push dword DATA3        ; DS was emptied on the way out
        pop ds
        mov ebx, 0x80000000
        mov eax, [ebx + 0x80007000 - 0x100000000]
        int END
bits 64
        tried
        is [ex_vector], END
        mov eax, eax
        is rax, 0x13579BDF
        end_check
        check "#DE in compatibility mode comes to the 64-bit handler", "AMD APM vol. 2, Compatibility Mode"
        trying
        user32 %$u
bits 32
%$u:    xor ecx, ecx
        div ecx
bits 64
        tried
        is [ex_vector], DE
        is [ex_cs], CODE3
        end_check
        leave_long
%include "finish.inc"
