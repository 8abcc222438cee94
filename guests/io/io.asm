; io: a multiboot 1 kernel with drivers of its own for emulated and paravirtual devices: IDE with bus-master DMA and
; Intel's 82540EM; virtio-blk and virtio-net; a disk and a card behind trapgate's hypercalls. 32-bit code without paging.
;
; Command line: nothing checks every device that is there. `io=emulated`, `io=virtio` or `io=hypercall` with `n=COUNT`
; sends, receives, reads and writes so many frames and blocks, with a mark on the console before and behind each.
; What the checks want of the network is a peer that answers as trapgate's scripted peer does (peer.inc).
; Ends through isa-debug-exit: value 0, or 1 if a check failed.

%include "common/constants.inc"
%include "common/modes.inc"
%include "common/multiboot.inc"

IMAGE_BASE          equ 100000h
ZEROED_BASE         equ 110000h         ; the image may have 64 KiB (build.py checks it)
; Physical memory for devices: rings, requests and buffers.
RINGS               equ 400000h         ; one page for each part of a ring
SEND_BUFFER         equ 500000h
RECEIVED            equ 510000h         ; where a frame is copied to
DISK_BUFFER         equ 520000h
COMPARED            equ 530000h
RECEIVE_BUFFERS     equ 600000h         ; RING_SIZE of 2 KiB
RING_SIZE           equ 64
BUFFER_SIZE         equ 2048
BLOCK               equ 4096
SECTORS             equ BLOCK / 512

    org IMAGE_BASE
    section .text   align=16
    section .rodata align=16 follows=.text
    section .bss    nobits start=ZEROED_BASE

    section .text
    multiboot_header IMAGE_BASE, WHOLE_FILE, bss_end, start

%include "common/cmdline.inc"
%include "common/serial.inc"
%include "common/descriptor.inc"
%include "boot.inc"
%include "pci.inc"
%include "hypercall.inc"
%include "virtqueue.inc"
%include "virtio.inc"
%include "ide.inc"
%include "e1000.inc"
%include "peer.inc"
%include "checks.inc"
%include "measure.inc"

    section .bss
    alignb PAGE
bss_end:
