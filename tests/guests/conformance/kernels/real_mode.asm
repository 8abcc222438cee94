; Real mode: segments and limits, 4 GB segments, wrap-around, A20, exceptions of real mode.
%include "prelude.inc"
BIG    equ FREE         ; flat data for "unreal" mode

test_body:
        check "a word at FFFFh is #GP", "AMD APM vol. 2, #GP - General-Protection Exception; Intel SDM vol. 3, Real-Address Mode Exceptions"
        trying
        real word_ds
        tried
        is [ex_vector], GP
        is [ex_rip], word_ds
        end_check
        check "a word at SS:FFFFh is #SS", "Intel SDM vol. 3, Real-Address Mode Exceptions"
        trying
        real word_ss
        tried
        is [ex_vector], SS_
        end_check
        check "PUSH with SP = 0 wraps to FFFEh", "AMD APM vol. 3, PUSH"
        real push_wraps
        movzx eax, ax
        is eax, 0xFFFE
        is ebx, 0x1234
        end_check
        check "an offset of 32 bits above FFFFh is #GP", "Intel SDM vol. 3, Real-Address Mode"
        trying
        real far_offset
        tried
        is [ex_vector], GP
        end_check
        check "an offset of 16 bits wraps inside the segment", "AMD APM vol. 1, Effective-Address Size"
        real offset_wraps
        movzx eax, al
        is eax, 0x5A
        end_check
        check "code that runs past FFFFh is #GP", "AMD APM vol. 2, #GP - General-Protection Exception"
        mov byte [0x1FFFF], 0x90
        trying
        real past_end
        tried
        is [ex_vector], GP
        end_check
        check "big real mode: a limit loaded in protected mode stays", "AMD APM vol. 2, Real Mode Segmentation; Intel SDM vol. 3, Switching Back to Real-Address Mode"
        descriptor BIG, 0x0000FFFF, 0x00CF9300
        mov dword [0x180000], 0xCAFEF00D
        trying
        real unreal
        tried
        is [ex_vector], NONE
        is eax, 0xCAFEF00D
        end_check
        check "big real mode: a load of the segment register keeps the limit", "AMD APM vol. 2, Real Mode Segmentation"
        descriptor BIG, 0x0000FFFF, 0x00CF9300
        mov dword [0x180000], 0xCAFEF00D
        trying
        real unreal_load
        tried
        is [ex_vector], NONE
        is eax, 0xCAFEF00D
        end_check
        check "FFFF:0010 is 100000h with A20 on", "Intel SDM vol. 3, 8086 Emulation, Address Translation"
        mov eax, [0x100000]
        mov ebx, eax
        real hma
        is eax, ebx
        end_check
        check "FFFF:7010 wraps to 7000h with A20 masked", "AMD APM vol. 2, A20 Mask; Intel SDM vol. 3, A20M#"
        mov dword [0x7000], 0x13572468
        real a20_off
        is eax, 0x13572468
        end_check
        check "INT pushes FLAGS, CS, IP and clears IF and TF", "AMD APM vol. 2, Real-Mode Interrupt Control Transfers"
        real interrupt
        is eax, 0x0000
        movzx ebx, bx
        is ebx, 0x0202
        movzx ecx, cx
        is ecx, after_int
        end_check
        check "IRET of real mode restores IF and IOPL", "AMD APM vol. 3, IRET"
        real iret_flags
        and eax, 0x3200
        is eax, 0x3200
        end_check
        check "INT n behind the IDTR's limit is #GP", "AMD APM vol. 2, Real-Mode Interrupt Control Transfers"
        trying
        real short_idt
        tried
        is [ex_vector], GP
        end_check
        check "#DE: the saved IP is that of the instruction", "AMD APM vol. 2, #DE - Divide-by-Zero-Error Exception"
        trying
        real divide
        tried
        is [ex_vector], DE
        is [ex_rip], divide.at
        end_check
        check "no error code is pushed", "AMD APM vol. 2, Real-Mode Interrupt Control Transfers"
        real sp_of_gp
        movzx eax, ax
        is eax, 0x7F00 - 6
        end_check
        check "more than 15 bytes of instruction is #GP", "AMD APM vol. 3, Instruction Length"
        trying
        real too_long
        tried
        is [ex_vector], GP
        end_check
        check "LOCK where it is not allowed is #UD", "AMD APM vol. 3, LOCK Prefix"
        trying
        real bad_lock
        tried
        is [ex_vector], UD
        end_check
        check "far CALL and RET with operands of 32 bits", "AMD APM vol. 3, CALL (Far)"
        real far32
        is eax, 0x7F00 - 8
        is ebx, 0
        end_check
        check "LOOP with a 32-bit address size counts ECX", "AMD APM vol. 3, LOOPcc"
        real loop32
        is eax, 3
        is ecx, 0
        end_check
        check "PUSHA, POPA with SP that wraps", "AMD APM vol. 3, PUSHA"
        trying
        real pusha_odd
        tried
        is [ex_vector], NONE
        movzx eax, word [value]
        is eax, 0x1111
        movzx eax, word [value + 2]
        is eax, 0xFFF4
        end_check
        check "LGDT with a 16-bit operand size loads 24 bits of base", "AMD APM vol. 3, LGDT"
        mov dword [value], 0x004401FF
        mov dword [value + 4], 0x0000FF33
        real lgdt16
        mov eax, [value + 18]
        is eax, 0x00330044
        end_check
        check "SMSW and LMSW: LMSW cannot clear PE", "AMD APM vol. 3, LMSW"
        xor eax, eax
        lmsw ax
        smsw eax
        and eax, 1
        is eax, 1
        end_check
        check "MOV from CR0 in real mode shows PE = 0", "AMD APM vol. 2, Protection Enable (PE) Bit"
        real show_cr0
        and eax, 1
        is eax, 0
        end_check
        ret

low_code
word_ds: mov ax, [0xFFFF]
        jmp leave_real
word_ss: mov ax, [ss:0xFFFF]
        jmp leave_real
push_wraps:
        mov ax, 0x2000
        mov ss, ax
        xor esp, esp
        push word 0x1234
        mov eax, esp
        xor ebx, ebx
        mov bx, [ss:0xFFFE]
        jmp leave_real
far_offset:
        mov ebx, 0x10000
        mov al, [ebx]
        jmp leave_real
offset_wraps:
        mov byte [0x7000], 0x5A
        mov bx, 0xF000
        mov si, 0x8000
        mov al, [bx + si]
        jmp leave_real
past_end:
        jmp 0x1000:0xFFFF
unreal: mov cx, es              ; 16-bit descriptors now; take the big one into ES by way of protected mode
        mov eax, cr0
        or al, 1
        mov cr0, eax
        mov cx, BIG
        mov es, cx
        and al, 0xFE
        mov cr0, eax
        mov edi, 0x180000
        mov eax, [es:edi]
        jmp leave_real
unreal_load:
        mov eax, cr0
        or al, 1
        mov cr0, eax
        mov cx, BIG
        mov es, cx
        and al, 0xFE
        mov cr0, eax
        mov cx, 0x1000
        mov es, cx
        mov edi, 0x170000
        mov eax, [es:edi]
        jmp leave_real
hma:    mov ax, 0xFFFF
        mov es, ax
        mov eax, [es:0x10]
        jmp leave_real
a20_off:
        in al, 0x92
        and al, 0xFC
        out 0x92, al
        mov cx, 0xFFFF
        mov es, cx
        mov edx, [es:0x7010]
        or al, 2
        out 0x92, al
        mov eax, edx
        jmp leave_real
interrupt:
        mov word [0x60 * 4], after_int.handler
        push word 0x202
        popf
        int 0x60
after_int:
        cli
        jmp leave_real
.handler:
        pushf
        pop ax
        and eax, 0x300
        mov bp, sp
        mov cx, [bp]
        mov bx, [bp + 4]
        iret
iret_flags:
        push word 0x3202
        push cs
        push word .next
        iret
.next:  pushf
        pop ax
        cli
        push word 2
        popf
        jmp leave_real
short_idt:
        o32 lidt [.table]
        int 0x60
        jmp leave_real
.table: dw 0x60 * 4 + 2
        dd 0
divide: xor cx, cx
.at:    div cl
        jmp leave_real
sp_of_gp:
        push dword [13 * 4]
        pop dword [value]
        mov word [13 * 4], .handler
        mov ax, [0xFFFF]
.handler:
        mov ax, sp
        mov ecx, [value]
        mov [13 * 4], ecx
        jmp leave_real
too_long:
        times 15 db 0x2E
        nop
        jmp leave_real
bad_lock:
        db 0xF0, 0x89, 0xC0     ; LOCK MOV AX, AX
        jmp leave_real
far32:  mov ebx, esp
        call dword 0:.far
        sub ebx, esp
        jmp leave_real
.far:   mov eax, esp
        o32 retf
loop32: xor eax, eax
        mov ecx, 3
.next:  inc ax
        a32 loop .next
        jmp leave_real
pusha_odd:
        mov bx, 0x2000
        mov ss, bx
        mov sp, 4
        mov ax, 0x1111
        pusha
        mov [value + 2], sp
        xor ax, ax
        popa
        mov [value], ax
        jmp leave_real
lgdt16: o16 lgdt [value]
        o32 sgdt [value + 16]
        o32 lgdt [gdtr]
        jmp leave_real
show_cr0:
        mov eax, cr0
        jmp leave_real
main_code
%include "finish.inc"
