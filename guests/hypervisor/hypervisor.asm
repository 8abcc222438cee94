; hypervisor: a multiboot 1 kernel that is a small hypervisor itself. It switches AMD-V on, runs guests of its own, and
; says on COM1, one line a check, whether each #VMEXIT was what the manual promises:
;
;     an IN from an intercepted port: exit code .... ok
;     a nested page fault: EXITINFO1 .............. FAIL wanted 0000000100000006 got 0000000100000007
;
; It runs alike on a processor and in a virtual machine whose hypervisor offers AMD-V. Needs 32 MB. Ends through
; isa-debug-exit: value 0 if every check held, 1 if not. "APM2" is the AMD64 manual, volume 2 (24593), chapter 15.

%include "common/constants.inc"
%include "common/modes.inc"
%include "common/multiboot.inc"
%include "memory.inc"

    section .text
    multiboot_header IMAGE_BASE, WHOLE_FILE, bss_end, start

%include "common/cmdline.inc"
%include "common/serial.inc"
%include "common/descriptor.inc"
%include "vmcb.inc"
%include "report.inc"
%include "boot.inc"
%include "exceptions.inc"
%include "world_switch.inc"
%include "enable.inc"
%include "instructions.inc"
%include "registers.inc"
%include "events.inc"
%include "interrupts.inc"
%include "refused.inc"
%include "real_mode.inc"
%include "nested.inc"
%include "cost.inc"

    code64
; All checks, in order.
run_checks:
    call enable_svm
    jc finish
    cmp dword [round_trips], 0
    jne .round_trips
    call check_instructions
    call check_registers
    call check_events
    call check_interrupts
    call check_refused
    call check_real_mode
    call check_nested_paging
    call measure_usual_round_trips
    jmp finish
.round_trips:
    call measure_round_trips

; The last line, and the end of the run.
finish:
    mov eax, [checks_done]
    call put_decimal_64
    print " checks, "
    mov eax, [checks_failed]
    call put_decimal_64
    print " failed"
    call put_line_end_64
    mov eax, [checks_failed]
    test eax, eax
    setnz al
    out EXIT_PORT, al
.halt:                                  ; only where no isa-debug-exit is present
    hlt
    jmp .halt

    section .bss
    alignb PAGE
bss_end:
