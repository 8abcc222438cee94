; A boot sector that stands in for a multiboot loader where there is none (Bochs): it reads the kernel behind it from the
; hard disk through INT 13h, enters flat 32-bit protected mode, moves the kernel to 1 MB and goes to its entry.
; The runner defines SECTORS, the kernel's length in sectors of 512 bytes.
bits 16
org 0x7C00
BUFFER  equ 0x1000              ; segment
CHUNK   equ 32                  ; sectors at a time
KERNEL  equ 0x100000
ENTRY   equ 28                  ; offset of the entry's address in the kernel (multiboot header at 0)

start:  cli
        xor ax, ax
        mov ds, ax
        mov ss, ax
        mov sp, 0x7C00
        sti
.read:  mov si, packet
        mov ah, 0x42
        mov dl, 0x80
        int 0x13
        jc fail
        add word [packet.segment], CHUNK * 32
        add dword [packet.sector], CHUNK
        sub word [left], CHUNK
        jg .read
        cli
        in al, 0x92             ; A20
        or al, 2
        and al, 0xFE
        out 0x92, al
        lgdt [gdtr]
        mov eax, cr0
        or al, 1
        mov cr0, eax
        jmp dword 8:protected
fail:   hlt
        jmp fail
bits 32
protected:
        mov eax, 16
        mov ds, eax
        mov es, eax
        mov ss, eax
        mov fs, eax
        mov gs, eax
        mov esp, 0x7C00
        mov esi, BUFFER * 16
        mov edi, KERNEL
        mov ecx, (SECTORS + CHUNK) * 128
        rep movsd
        mov eax, 0x2BADB002
        jmp dword [KERNEL + ENTRY]
align 8
packet: dw 16, CHUNK, 0
.segment: dw BUFFER
.sector: dq 1
left:   dw SECTORS
gdtr:   dw 23
        dd gdt
align 8
gdt:    dq 0, 0x00CF9B000000FFFF, 0x00CF93000000FFFF
        times 510 - ($ - $$) db 0
        dw 0xAA55
