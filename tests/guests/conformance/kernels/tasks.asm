; Hardware task switches, task gates, the I/O permission bitmap, the TSS's T bit.
%include "prelude.inc"

GATE  equ FREE
; Two page directories of 4 MB pages that differ in where VIEW lies.
OWN_DIRECTORY equ 0x600000
OTHER_DIRECTORY equ 0x601000
VIEW  equ 0x800000
OTHER_VIEW equ 0xC00000

%macro tss32 3          ; label of the TSS, EIP, EFLAGS: a task of ring 0
        mov dword [%1 + 32], %2
        mov dword [%1 + 36], %3
        mov dword [%1 + 56], task_stack
        mov dword [%1 + 72], DATA0
        mov dword [%1 + 76], CODE0
        mov dword [%1 + 80], DATA0
        mov dword [%1 + 84], DATA0
        mov dword [%1 + 88], 0
        mov dword [%1 + 92], 0
        mov dword [%1 + 96], 0
        mov dword [%1 + 100], 0x680000
%endmacro
%macro busy_is 2        ; selector, wanted
        movzx eax, byte [gdt + %1 + 5]
        is eax, %2
%endmacro
; Tasks come back through INT 82h; the first task is the current one again afterwards.
%macro anew 0
        call first_task
%endmacro

test_body:
        check "JMP to a TSS: the new task's registers come from it", "AMD APM vol. 2, Hardware Task Management, Switching Tasks"
        anew
        tss32 tss2, show_state, 0x2
        mov dword [tss2 + 40], 0xA0A0A0A0       ; EAX
        mov dword [tss2 + 64], 0xB0B0B0B0       ; ESI
        trying
        jmp TSS2:0xDEADBEEF
        tried
        is [ex_vector], 0x82
        is eax, 0xA0A0A0A0
        is esi, 0xB0B0B0B0
        is [value], task_stack
        str ebx
        is ebx, TSS2
        end_check
        check "JMP to a TSS: the old task is saved, and available again", "AMD APM vol. 2, Saving Processor State"
        anew
        tss32 tss2, show_state, 0x2
        mov ecx, 0x12345678
        trying
        mov ebx, esp
        jmp TSS2:0
%$back: nop
        tried
        is [ex_vector], 0x82
        is [tss + 44], 0x12345678
        is [tss + 56], [resume_sp]
        busy_is TSS, 0x89
        busy_is TSS2, 0x8B
        pushfd
        pop eax
        and eax, 0x4000
        is eax, 0
        end_check
        check "a task switch sets CR0.TS", "AMD APM vol. 2, Task Switched (TS) Bit"
        anew
        tss32 tss2, show_state, 0x2
        clts
        trying
        jmp TSS2:0
        tried
        mov eax, cr0
        and eax, 8
        clts
        is eax, 8
        end_check
        check "CALL of a TSS: NT, back link, both busy", "AMD APM vol. 2, Nesting Tasks"
        anew
        tss32 tss2, show_state, 0x2
        trying
        call TSS2:0
        tried
        is [ex_vector], 0x82
        mov eax, [ex_flags]
        and eax, 0x4000
        is eax, 0x4000
        movzx eax, word [tss2]
        is eax, TSS
        busy_is TSS, 0x8B
        busy_is TSS2, 0x8B
        end_check
        check "IRET with NT goes back along the link", "AMD APM vol. 2, Nesting Tasks; vol. 3, IRET"
        anew
        tss32 tss2, return_task, 0x2
        mov edx, 0x55
        call TSS2:0
        is edx, 0x55
        str eax
        is eax, TSS
        busy_is TSS2, 0x89
        busy_is TSS, 0x8B
        pushfd
        pop eax
        and eax, 0x4000
        is eax, 0
        is [tss2 + 32], after_return
        mov eax, [tss2 + 36]
        and eax, 0x4000
        is eax, 0
        clts
        end_check
        check "JMP to a busy TSS", "AMD APM vol. 3, JMP (Far)"
        anew
        raises GP, TSS, jmp TSS:0
        end_check
        check "JMP to a TSS not present", "AMD APM vol. 3, JMP (Far)"
        anew
        mov byte [gdt + TSS2 + 5], 0x09
        raises NP, TSS2, jmp TSS2:0
        end_check
        check "a TSS with too low a limit is #TS", "AMD APM vol. 2, #TS - Invalid-TSS Exception"
        anew
        mov word [gdt + TSS2], 0x66
        raises TS, TSS2, jmp TSS2:0
        end_check
        check "IRET to a task that is not busy is #TS", "AMD APM vol. 3, IRET"
        anew
        mov word [tss], TSS2
        pushfd
        or dword [esp], 0x4000
        popfd
        raises TS, TSS2, iretd
        end_check
        check "a bad CS in the new task is #TS in the new task", "AMD APM vol. 2, #TS - Invalid-TSS Exception"
        anew
        tss32 tss2, show_state, 0x2
        mov dword [tss2 + 76], DATA0
        tss32 tss3, show_state, 0x2
        system TSS3, tss3, 0x67, 0x89
        idt_gate TS, TSS3, 0, 0x8500    ; the new task may have no stack: the handler is a task
        trying
        jmp TSS2:0
        tried
        is [ex_vector], 0x82
        is [value], task_stack - 4
        is [task_stack - 4], DATA0
        movzx eax, word [tss3]
        is eax, TSS2
        end_check
        check "a bad LDT in the new task is #TS", "AMD APM vol. 2, #TS - Invalid-TSS Exception"
        anew
        tss32 tss2, show_state, 0x2
        mov dword [tss2 + 96], DATA0
        tss32 tss3, show_state, 0x2
        system TSS3, tss3, 0x67, 0x89
        idt_gate TS, TSS3, 0, 0x8500    ; the new task may have no stack: the handler is a task
        trying
        jmp TSS2:0
        tried
        is [ex_vector], 0x82
        is [value], task_stack - 4
        is [task_stack - 4], DATA0
        movzx eax, word [tss3]
        is eax, TSS2
        end_check
        check "task gate in the GDT", "AMD APM vol. 2, Task-Gate Descriptor"
        anew
        tss32 tss2, show_state, 0x2
        gate GATE, TSS2, 0, 0x8500
        trying
        call GATE:0xDEADBEEF
        tried
        is [ex_vector], 0x82
        str eax
        is eax, TSS2
        end_check
        check "task gate in the IDT: an interrupt nests the task", "AMD APM vol. 2, Task-Gate Descriptor; Task Gates in the IDT"
        anew
        tss32 tss2, return_task, 0x2
        idt_gate 0x90, TSS2, 0, 0x8500
        mov edx, 0x77
        int 0x90
        is edx, 0x77
        str eax
        is eax, TSS
        is [tss2 + 32], after_return
        clts
        end_check
        check "task gate for a fault: the error code is on the new task's stack", "AMD APM vol. 2, Task Gates in the IDT"
        anew
        tss32 tss2, show_state, 0x2
        idt_gate 13, TSS2, 0, 0x8500
        trying
%$at:   mov eax, cs
        mov ss, eax
        tried
        is [ex_vector], 0x82
        is [value], task_stack - 4
        is [task_stack - 4], CODE0
        mov eax, [tss + 36]
        and eax, 0x10000
        is eax, 0x10000
        end_check
        check "16-bit TSS: registers of 16 bits", "AMD APM vol. 2, Hardware Task Management, 16-Bit TSS; Intel SDM vol. 3, 16-Bit Task-State Segment"
        anew
        system TSS3, tss16, 0x2B, 0x81
        mov word [tss16 + 14], low_state
        mov word [tss16 + 16], 2
        mov word [tss16 + 18], 0x1234           ; AX
        mov word [tss16 + 26], 0x7D00           ; SP
        mov word [tss16 + 34], DATA0
        mov word [tss16 + 36], CODE0
        mov word [tss16 + 38], DATA16
        mov word [tss16 + 40], DATA0
        mov word [tss16 + 42], 0
        trying
        jmp TSS3:0
        tried
        is [ex_vector], 0x82
        movzx eax, ax
        is eax, 0x1234
        str eax
        is eax, TSS3
        mov eax, fs
        is eax, 0
        busy_is TSS3, 0x83
        end_check
        check "the T bit: #DB before the new task's first instruction, DR6.BT", "AMD APM vol. 2, Task Breakpoints"
        anew
        tss32 tss2, show_state, 0x2
        mov word [tss2 + 100], 1
        xor eax, eax
        mov dr6, eax
        trying
        jmp TSS2:0
        tried
        is [ex_vector], DB_
        is [ex_rip], show_state
        mov eax, [ex_dr6]
        and eax, 0xE00F
        is eax, 0x8000
        end_check
        check "a task switch clears the local breakpoints of DR7", "AMD APM vol. 2, Debug-Control Register (DR7)"
        anew
        tss32 tss2, show_state, 0x2
        mov eax, 0x400 | 0xAA | 0x55
        mov ebx, no_code
        mov dr0, ebx
        mov dr1, ebx
        mov dr2, ebx
        mov dr3, ebx
        mov dr7, eax
        trying
        jmp TSS2:0
        tried
        mov ebx, dr7
        mov eax, 0x400
        mov dr7, eax
        is [ex_vector], 0x82
        and ebx, 0xFF
        is ebx, 0xAA
        end_check
        check "with paging on a task switch loads CR3 from the new TSS", "AMD APM vol. 2, Task-State Segment; Switching Tasks"
        anew
        call two_directories
        tss32 tss2, read_view, 0x2
        mov dword [tss2 + 28], OTHER_DIRECTORY
        mov dword [tss + 28], OWN_DIRECTORY
        mov eax, [VIEW]
        is eax, 0x11111111
        call TSS2:0
        clts
        is [value], 0x22222222
        mov eax, cr3
        is eax, OWN_DIRECTORY
        mov eax, [VIEW]
        is eax, 0x11111111
        end_check
        check "a page fault on the outgoing TSS leaves the old task as it was", "Intel SDM vol. 3, Task Switching"
        anew
        call two_directories
        tss32 tss2, show_state, 0x2
        mov dword [tss2 + 28], OWN_DIRECTORY
        mov dword [OWN_DIRECTORY + 12], 0xC00000 | 0x81        ; the old task's TSS is read-only
        system TSS, OTHER_VIEW, 0x67 + 0x2021, 0x89
        mov eax, TSS
        ltr ax
        mov eax, cr0
        or eax, 0x10000
        mov cr0, eax
        raises PF, 3, jmp TSS2:0
        mov eax, [ex_cr2]
        and eax, ~0xFFF
        is eax, OTHER_VIEW
        busy_is TSS, 0x8B
        busy_is TSS2, 0x89
        end_check
        check "LTR marks its TSS busy, and refuses a busy one", "AMD APM vol. 3, LTR"
        anew
        mov eax, TSS2
        ltr ax
        busy_is TSS2, 0x8B
        mov eax, TSS2
        raises GP, TSS2, ltr ax
        end_check
        check "LTR of a null selector, of code", "AMD APM vol. 3, LTR"
        xor eax, eax
        raises GP, 0, ltr ax
        mov eax, CODE0
        raises GP, CODE0, ltr ax
        end_check
        check "I/O bitmap: a clear bit allows the port at CPL 3", "AMD APM vol. 2, I/O-Permission Bitmap; Intel SDM vol. 1, I/O Permission Bit Map"
        anew
        mov byte [io_bitmap + 0x80 / 8], 0xFE   ; port 80h alone
        trying
        user %$u
%$u:    in al, 0x80
        int END
        tried
        mov byte [io_bitmap + 0x80 / 8], 0xFF
        is [ex_vector], END
        end_check
        check "I/O bitmap: a word needs both bits", "Intel SDM vol. 1, I/O Permission Bit Map"
        anew
        mov byte [io_bitmap + 0x80 / 8], 0xFE
        trying
        user %$u
%$u:    in ax, 0x80
        tried
        mov byte [io_bitmap + 0x80 / 8], 0xFF
        is [ex_vector], GP
        is [ex_error], 0
        end_check
        check "I/O bitmap: two bits in two bytes", "Intel SDM vol. 1, I/O Permission Bit Map"
        anew
        mov word [io_bitmap + 0x80 / 8], 0xFE7F ; ports 87h and 88h
        trying
        user %$u
%$u:    in ax, 0x87
        int END
        tried
        mov word [io_bitmap + 0x80 / 8], 0xFFFF
        is [ex_vector], END
        end_check
        check "I/O bitmap behind the TSS's limit: no port", "Intel SDM vol. 1, I/O Permission Bit Map"
        anew
        mov byte [io_bitmap + 0x80 / 8], 0
        mov word [gdt + TSS], 0x67
        and byte [gdt + TSS + 5], ~2
        mov eax, TSS
        ltr ax
        trying
        user %$u
%$u:    in al, 0x80
        tried
        mov byte [io_bitmap + 0x80 / 8], 0xFF
        anew
        is [ex_vector], GP
        is [ex_error], 0
        end_check
        check "IOPL 3 allows every port", "AMD APM vol. 2, I/O Privilege Level Field (IOPL)"
        anew
        trying
        user %$u, 0x3002
%$u:    in al, 0x80
        int END
        tried
        is [ex_vector], END
        end_check
        ret

first_task:             ; TR names TSS; TSS2 is available and present; no paging
        pushad
        mov eax, cr0
        and eax, ~0x80010000
        mov cr0, eax
        mov ecx, 26
        mov edi, tss2
        xor eax, eax
        rep stosd
        mov dword [tss2 + 4], interrupt_stack
        mov dword [tss2 + 8], DATA0
        system TSS2, tss2, 0x67, 0x89
        system TSS, tss, 0x67 + 0x2021, 0x89
        mov eax, TSS
        ltr ax
        popad
        ret
show_state:
        mov [value], esp
        int 0x82
no_code:
return_task:
        iretd
after_return:
        jmp return_task
read_view:              ; of the other task: what it sees there
        mov eax, [VIEW]
        mov [value], eax
        iretd
two_directories:        ; paging by the first one
        pushad
        mov edi, OWN_DIRECTORY
        mov ecx, 2048
        xor eax, eax
        rep stosd
        mov eax, 0x83
        mov edi, OWN_DIRECTORY
next_page: mov [edi], eax
        mov [edi + OTHER_DIRECTORY - OWN_DIRECTORY], eax
        add eax, 0x400000
        add edi, 4
        cmp eax, 0x2000083
        jb next_page
        mov dword [OTHER_DIRECTORY + 8], OTHER_VIEW | 0x83
        mov dword [VIEW], 0x11111111
        mov dword [OTHER_VIEW], 0x22222222
        mov eax, cr4
        or eax, 0x10
        mov cr4, eax
        mov eax, OWN_DIRECTORY
        mov cr3, eax
        mov eax, cr0
        or eax, 0x80000000
        mov cr0, eax
        popad
        ret
section .low
bits 32
low_state:
        int 0x82
tss16:  times 44 db 0
main_code
section .data
align 16
tss2:   times 26 dd 0
tss3:   times 26 dd 0
        times 256 db 0
task_stack: dd 0
section .text
%include "finish.inc"
