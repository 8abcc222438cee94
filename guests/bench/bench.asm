; bench: a multiboot 1 kernel for benchmarks. Runs one piece of work in 64-bit mode and prints one line with
; its checksum, which depends on nothing but the name and n:
;
;     bench=sieve n=3 checksum=0000000000039786
;
; Command line: `bench=NAME n=COUNT`; the names are in `benchmarks` below, with the n that each takes if none
; is given (some 50 to 100 million instructions, fewer for what a hypervisor must handle one by one). Needs 32 MB.
; Ends through isa-debug-exit: value 0, or 1 if the name is unknown or a result was wrong.

%include "common/constants.inc"
%include "common/modes.inc"
%include "common/multiboot.inc"

IMAGE_BASE          equ 100000h
ZEROED_BASE         equ 110000h         ; the image may have 64 KiB (build.py checks it)
HEAP                equ 800000h         ; physical and linear: 8 MiB for the work's data
STRIDE_FRAMES       equ 1000000h        ; physical: 4 MiB that the stride touches
FAULT_BASE          equ 40000000h       ; linear: nothing is ever here
USER_BASE           equ 80000000h       ; linear: code of ring 3
USER_STACK_TOP      equ USER_BASE + 10000h
STRIDE_BASE         equ 0C0000000h      ; linear: 64 MB of 4 KB pages

    org IMAGE_BASE
    section .text   align=16
    section .rodata align=16 follows=.text
    section .user   align=4096 follows=.rodata vstart=USER_BASE
    section .bss    nobits start=ZEROED_BASE

    section .text
    multiboot_header IMAGE_BASE, WHOLE_FILE, bss_end, start

; benchmark "name", routine, n by default. A routine gets n in r15, not zero, and returns its checksum in rax; it
; leaves with carry set if a result was wrong.
%macro benchmark 3
    dd %2, %3
    db %1, 0
%endmacro

    section .rodata
benchmarks:
    benchmark "count", bench_count, 50000000
    benchmark "sieve", bench_sieve, 6
    benchmark "md5", bench_md5, 100000
    benchmark "list", bench_list, 400
    benchmark "matrix", bench_matrix, 40
    benchmark "quicksort", bench_quicksort, 8
    benchmark "interpreter", bench_interpreter, 1000000
    benchmark "sse", bench_sse, 100000
    benchmark "x87", bench_x87, 100000
    benchmark "memory", bench_memory, 4000
    benchmark "modify", bench_modify, 20000
    benchmark "out", bench_out, 200000
    benchmark "syscall", bench_syscall, 1000000
    benchmark "pagefault", bench_page_fault, 200000
    benchmark "cr3", bench_cr3, 200000
    benchmark "stride", bench_stride, 2000000
    benchmark "vmrun", bench_vmrun, 100000
    dd 0

%include "common/cmdline.inc"
%include "common/serial.inc"
%include "common/descriptor.inc"
%include "boot.inc"
%include "select.inc"
%include "sieve.inc"
%include "md5.inc"
%include "list.inc"
%include "matrix.inc"
%include "quicksort.inc"
%include "interpreter.inc"
%include "nbody.inc"
%include "memory.inc"
%include "modify.inc"
%include "system.inc"
%include "stride.inc"
%include "world_switch.inc"

    section .bss
    alignb PAGE
bss_end:
