; Double faults: which pairs of exceptions make one.
%include "prelude.inc"

%macro break_gate 2     ; vector, attributes: not present gives #NP, a data selector #GP
        idt_gate %1, CODE0, 0x8000, %2
%endmacro
STACK2 equ FREE

test_body:
        check "contributory after contributory: #GP whose gate is not present", "AMD APM vol. 2, #DF - Double-Fault Exception"
        break_gate GP, 0x0E00
        trying
        xor eax, eax
        mov ss, ax
        tried
        is [ex_vector], DF
        is [ex_error], 0
        end_check
        check "#DE is contributory", "AMD APM vol. 2, #DF - Double-Fault Exception"
        break_gate DE, 0x0E00
        xor ecx, ecx
        trying
        div ecx
        tried
        is [ex_vector], DF
        end_check
        check "benign first: #UD whose gate is not present gives #NP", "AMD APM vol. 2, #DF - Double-Fault Exception"
        break_gate UD, 0x0E00
        trying
        ud2
        tried
        is [ex_vector], NP
        end_check
        check "INT n is benign: its gate's fault is no double fault", "AMD APM vol. 2, #DF - Double-Fault Exception"
        break_gate 0x90, 0x6E00
        trying
        int 0x90
        tried
        is [ex_vector], NP
        end_check
        check "a bad stack for a handler of the same level", "AMD APM vol. 2, #DF - Double-Fault Exception"
        ; #DF is a task: the stack is gone.
        mov dword [df_tss + 32], df_task
        mov dword [df_tss + 36], 2
        mov dword [df_tss + 56], interrupt_stack
        mov dword [df_tss + 72], DATA0
        mov dword [df_tss + 76], CODE0
        mov dword [df_tss + 80], DATA0
        mov dword [df_tss + 84], DATA0
        system TSS2, df_tss, 0x67, 0x89
        idt_gate DF, TSS2, 0, 0x8500
        descriptor STACK2, 0x00000FFF, 0x00409300
        mov ebx, esp
        trying
        mov eax, STACK2
        mov ss, eax
        xor esp, esp
        push eax
        tried
        is [ex_vector], 0x82
        is eax, 0
        and byte [gdt + TSS + 5], ~2
        mov eax, TSS
        ltr ax
        clts
        end_check
        check "page fault, then page fault", "AMD APM vol. 2, #DF - Double-Fault Exception"
        call paging
        trying
        lidt [gates_before]
        mov eax, [0x800000]
        tried
        call paging_off
        is [ex_vector], DF
        is [ex_error], 0
        is [ex_cr2], 0x800000           ; that of the second, the gate's
        end_check
        check "page fault, then #NP of its gate", "AMD APM vol. 2, #DF - Double-Fault Exception"
        call paging
        break_gate PF, 0x0E00
        trying
        mov eax, [0x800124]
        tried
        call paging_off
        is [ex_vector], DF
        is [ex_cr2], 0x800124
        end_check
        check "#GP, then page fault: the page fault alone", "AMD APM vol. 2, #DF - Double-Fault Exception"
        call paging
        trying
        lidt [gates_behind]
        mov eax, 0xFFF8
        mov ds, ax
        tried
        call paging_off
        is [ex_vector], PF
        is [ex_cr2], 0xC00000 - 8
        is [ex_error], 0
        end_check
        ret
paging: ; 4 MB pages; 8 MB to 12 MB is missing. Two copies of the IDT have only the gates from 14 on, or below 14, there.
        pushad
        mov edi, 0x200000
        xor ecx, ecx
.fill:  mov eax, ecx
        shl eax, 22
        or eax, 0x83
        mov [edi + ecx * 4], eax
        inc ecx
        cmp ecx, 1024
        jne .fill
        mov dword [edi + 8], 0
        mov cr3, edi
        mov eax, cr4
        or al, 0x10
        mov cr4, eax
        mov esi, idt
        mov edi, 0x800000 - PF * 8
        mov ecx, 2 * PF
        rep movsd
        mov edi, 0xC00000
        mov ecx, 2 * (256 - PF)
        rep movsd
        mov eax, cr0
        or eax, 0x80000000
        mov cr0, eax
        popad
        ret
paging_off:
        push eax
        mov eax, cr0
        and eax, 0x7FFFFFFF
        mov cr0, eax
        lidt [idtr]
        pop eax
        ret
df_task:
        pop eax
        int 0x82
section .data
gates_before: dw 0x7FF
        dd 0x800000 - PF * 8
gates_behind: dw 0x7FF
        dd 0xC00000 - PF * 8
align 16
df_tss: times 26 dd 0
section .text
%include "finish.inc"
