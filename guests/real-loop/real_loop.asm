; real-loop: the smallest guest. A raw image of 512 bytes that starts at 0000:7C00 in real mode, as a
; boot sector does. It says hello on COM1, adds the numbers 1 to 1000 in a LOOP, and leaves through
; isa-debug-exit with value 0 if the sum was right and 1 if it was not.

    org 7C00h
    bits 16

%include "common/constants.inc"
%include "common/modes.inc"
    %define MODE 16
    %define wide(reg) reg
    %define whole(reg) e %+ reg

    jmp 0:start                         ; some loaders start a boot sector at 07C0:0000

%include "common/serial.inc"
    serial_routines

start:
    cli
    cld
    xor ax, ax
    mov ds, ax
    mov ss, ax
    mov sp, 7C00h                       ; the stack grows down from the image
    call serial_start_16
    mov si, hello
    call put_string_16
    call put_line_end_16

    xor eax, eax
    xor ebx, ebx
    mov cx, 1000
.add:
    mov bx, cx
    add eax, ebx
    loop .add
    mov si, sum
    call put_string_16
    call put_decimal_16
    call put_line_end_16

    cmp eax, 500500
    setne al
    out EXIT_PORT, al
.halt:                                  ; only where no isa-debug-exit is present
    hlt
    jmp .halt

hello: db "hello from real mode", 0
sum:   db "sum of 1 to 1000: ", 0

    times 510 - ($ - $$) db 0
    dw 0AA55h                           ; a BIOS boots nothing without this mark
