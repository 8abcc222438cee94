; What every kernel of these tests starts with (kernels.py puts the test's code behind it).
; A multiboot kernel at 1 MB in flat 32-bit protected mode. It writes lines of text to the debug console (port E9h) and
; ends through isa-debug-exit (port F4h).
bits 32
org 0x100000
header: dd 0x1BADB002, 0x10000, -(0x1BADB002 + 0x10000)
        dd header, header, 0, image_end, start

CODE0 equ 0x08
DATA0 equ 0x10
CODE3 equ 0x18 + 3
DATA3 equ 0x20 + 3
TSS   equ 0x28
CODE1 equ 0x40
DATA1 equ 0x48
CONF0 equ 0x50          ; conforming code, DPL 0
CODE16 equ 0x58         ; 16-bit code, base 1 MB, limit FFFFh
STACK16 equ 0x60        ; 16-bit stack, base 80000h, limit FFFFh
DOWN  equ 0x68          ; expand-down, limit FFFh, B = 1
LDTS  equ 0x70
FREE  equ 0x80          ; and up to F8h: the test's own
LOW   equ 0x10000       ; where virtual-8086 code goes

%macro say 1+           ; text
        push esi
        mov esi, %%text
        call print
        pop esi
        jmp %%end
%%text: db %1, 0
%%end:
%endmacro
%macro hex 1            ; a word of text: 8 digits and a blank
        push dword %1
        call print_hex
%endmacro
%macro line 0
        say 10
%endmacro
%macro descriptor 3     ; selector, low dword, high dword
        mov dword [gdt + (%1 & ~7)], %2
        mov dword [gdt + (%1 & ~7) + 4], %3
%endmacro
%macro gate 4           ; selector, target selector, offset, attributes (bits 0..15 of the high dword)
        mov eax, %3
        mov edx, eax
        and eax, 0xFFFF
        or eax, %2 << 16
        and edx, 0xFFFF0000
        or edx, %4
        mov [gdt + (%1 & ~7)], eax
        mov [gdt + (%1 & ~7) + 4], edx
%endmacro
%macro idt_gate 4       ; vector, selector, offset, attributes
        mov eax, %3
        mov edx, eax
        and eax, 0xFFFF
        or eax, %2 << 16
        and edx, 0xFFFF0000
        or edx, %4
        mov [idt + %1 * 8], eax
        mov [idt + %1 * 8 + 4], edx
%endmacro
%macro system 4         ; selector, base, limit, attribute byte
        mov eax, %2
        mov edx, eax
        and edx, 0xFF000000
        mov ecx, eax
        shr ecx, 16
        and ecx, 0xFF
        or edx, ecx
        or edx, (%4) << 8
        shl eax, 16
        or eax, %3
        mov [gdt + (%1 & ~7)], eax
        mov [gdt + (%1 & ~7) + 4], edx
%endmacro
; A test: what it raises is printed as "vector error offset", offset from its first instruction (or "vm" and ip); else "ok".
%macro try 1
        %push try
        say %1, ": "
        mov [resume_esp], esp
        mov dword [resume], %$end
        mov dword [origin], %$body
%$body:
%endmacro
%macro done 0
        say "ok", 10
        ends
%endmacro
; The end of a test whose code does not come here by itself.
%macro ends 0
%$end:  call restore
        %pop
%endmacro
; Go to ring 3 at a label, EFLAGS given.
%macro user 1-2 0x2
        push dword DATA3
        pop ds
        push dword DATA3
        push dword user_stack
        push dword %2
        push dword CODE3
        push dword %1
        mov dword [origin], %1
        iretd
%endmacro

print:  push eax
.next:  lodsb
        test al, al
        jz .end
        out 0xE9, al
        jmp .next
.end:   pop eax
        ret
print_hex:
        pushad
        mov edx, [esp + 36]
        mov ecx, 8
.next:  rol edx, 4
        mov eax, edx
        and eax, 15
        mov al, [digits + eax]
        out 0xE9, al
        loop .next
        mov al, ' '
        out 0xE9, al
        popad
        ret 4
digits: db "0123456789abcdef"

restore:
        push eax
        mov eax, DATA0
        mov ds, eax
        mov es, eax
        xor eax, eax
        mov fs, eax
        mov gs, eax
        pop eax
        ret
finish: mov eax, 0
        out 0xF4, eax
        hlt

%assign i 0
%rep 256
stub%+i:
        %if i < 8 || i = 9 || (i > 14 && i <> 17)
        push dword 0
        %endif
        push dword i
        jmp caught
        %assign i i + 1
%endrep

caught: mov ebp, esp
        push dword [ss:ebp + 16]
        mov eax, DATA0
        mov ds, eax
        mov es, eax
        cld
        pop eax
        hex [ebp]
        hex [ebp + 4]
        mov edx, [ebp + 8]
        test eax, 0x20000
        jnz .virtual
        sub edx, [origin]
        hex edx
        jmp .leave
.virtual:
        say "vm "
        hex edx
.leave: line
back:   mov eax, DATA0
        mov ss, eax
        mov esp, [resume_esp]
        mov ds, eax
        jmp dword [resume]
; INT 80h from ring 3 prints EAX; INT 81h ends a test well.
int80:  push ds
        push dword DATA0
        pop ds
        hex eax
        pop ds
        iretd
int81:  call restore
        say "ok", 10
        jmp back

start:  mov esp, kernel_stack
        lgdt [gdtr]
        jmp CODE0:.reload
.reload:
        mov eax, DATA0
        mov ss, eax
        call restore
        xor ecx, ecx
.fill:  mov eax, [stubs + ecx * 4]
        mov edx, eax
        and eax, 0xFFFF
        or eax, CODE0 << 16
        and edx, 0xFFFF0000
        or edx, 0x8E00
        mov [idt + ecx * 8], eax
        mov [idt + ecx * 8 + 4], edx
        inc ecx
        cmp ecx, 256
        jne .fill
        idt_gate 0x80, CODE0, int80, 0xEE00
        idt_gate 0x81, CODE0, int81, 0xEE00
        lidt [idtr]
        system TSS, tss, 0x67 + 1, 0x89
        mov eax, TSS
        ltr ax
        xor eax, eax
        lldt ax
        call test_body
        jmp finish

stubs:
%assign i 0
%rep 256
        dd stub%+i
        %assign i i + 1
%endrep
gdtr:   dw 0xFF
        dd gdt
idtr:   dw 0x7FF
        dd idt
align 8
gdt:    dq 0, 0x00CF9B000000FFFF, 0x00CF93000000FFFF, 0x00CFFB000000FFFF, 0x00CFF3000000FFFF, 0, 0, 0
        dq 0x00CFBB000000FFFF, 0x00CFB3000000FFFF, 0x00CF9F000000FFFF, 0x00009B100000FFFF
        dq 0x000093080000FFFF, 0x00C0970000000000, 0, 0
        times 16 dq 0
idt:    times 256 dq 0
resume: dd 0
resume_esp: dd 0
origin: dd 0
align 16
tss:    dd 0, interrupt_stack, DATA0, stack1, DATA1 + 1, 0, 0
        times 18 dd 0
        dw 0, 0x68      ; the I/O permission bitmap lies behind the limit
        db 0xFF
align 16
        times 1024 db 0
kernel_stack:
        times 1024 db 0
interrupt_stack:
        times 256 db 0
stack1: times 256 db 0
user_stack:
        dd 0x11111111, 0x22222222, 0x33333333, 0x44444444
