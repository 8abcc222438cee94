"""Virtual-8086 mode and its extensions (APM vol. 2, 8.10; vol. 3, CLI, STI, PUSHF, POPF, INT, IRET, IN)."""

from __future__ import annotations

from .conftest import Check

#: `virtual FLAGS` goes to virtual-8086 code that is copied to LOW; it ends by INT 81h through the IDT, or by a fault.
_VIRTUAL = """
%macro virtual 1        ; EFLAGS
        mov esi, code16
        mov edi, LOW
        mov ecx, code16_end - code16
        rep movsb
        xor esi, esi
        xor edi, edi
        push dword 0x6666               ; GS
        push dword 0x5555
        push dword 0x4444
        push dword 0x3333               ; ES
        push dword 0x2000               ; SS
        push dword 0xFFF0               ; ESP
        push dword 0x20000 | %1
        push dword LOW >> 4
        push dword 0
        iretd
%endmacro
%macro code 0
        ret
align 16
code16:
bits 16
%endmacro
%macro code_end 0
code16_end:
bits 32
%endmacro
test_body:
        idt_gate 0x83, CODE0, monitor, 0xEE00
        idt_gate 0x84, CODE0, monitor, 0x8E00
"""
#: What INT 83h finds on the stack of level 0.
_MONITOR = """
monitor:
        mov ebp, esp
        mov eax, DATA0
        mov ds, eax
%assign n 0
%rep 9
        hex [ss:ebp + 4 * n]
%assign n n + 1
%endrep
        jmp int81
"""


def test_enter_and_leave(check: Check) -> None:
    """IRETD enters with six segments; an interrupt at IOPL 3 leaves, pushes them and makes them null."""
    check(
        _VIRTUAL
        + """
        try "INT"
        virtual 0x3002
        ends
        try "gate's DPL"
        mov word [code16 + 1], 0x84CD
        virtual 0x3002
        ends
        code
        nop
        int 0x83
        code_end
"""
        + _MONITOR,
        """
        INT: 00000003 00001000 00023002 0000fff0 00002000 00003333 00004444 00005555 00006666 ok
        gate's DPL: 0000000d 00000422 vm 00000001
        """,
    )


_SENSITIVE = ("cli", "sti", "pushf", "popf", "iret", "int 0x83", "pushfd", "popfd", "iretd", "hlt", "in al, 0x80")


def test_sensitive_instructions(check: Check) -> None:
    """Below IOPL 3 they raise #GP(0), INT3 does not; neither does CLI at IOPL 3."""
    source = "".join(
        f'\n try "{name}"\n mov dword [code16], 0x90909090\n mov dword [code16 + 4], 0x81CD9090\n'
        f" mov esi, op{i}\n mov edi, code16\n mov ecx, op{i}_end - op{i}\n rep movsb\n virtual 0x2002\n ends"
        for i, name in enumerate((*_SENSITIVE, "int3"))
    )
    bytes_ = "".join(f"\nop{i}: {name}\nop{i}_end:" for i, name in enumerate((*_SENSITIVE, "int3")))
    check(
        _VIRTUAL
        + "\n idt_gate 3, CODE0, monitor, 0xEE00\n"
        + source
        + "\n code\n times 16 nop\n code_end\nbits 16"
        + bytes_
        + "\nbits 32\n"
        + _MONITOR,
        "\n".join(f"{name}: 0000000d 00000000 vm 00000000" for name in _SENSITIVE)
        + "\nint3: 00000001 00001000 00022002 0000fff0 00002000 00003333 00004444 00005555 00006666 ok",
    )


def test_io_permission_bitmap(check: Check) -> None:
    """The bitmap decides whatever IOPL is; the two bytes that hold a port's bits must lie within the TSS (12.2.4)."""
    check(
        _VIRTUAL
        + """
        system FREE, big_tss, 0x68 + 16, 0x89
        mov eax, FREE
        ltr ax
        try "allowed"
        virtual 0x3002
        ends
        mov byte [big_tss + 0x68 + 16], 0xFE
        try "not the second port of a word"
        mov byte [big_tss + 0x68 + 16], 0x01
        mov word [code16], 0x80E5                       ; in ax, 80h
        mov byte [big_tss + 0x68 + 15], 0
        virtual 0x3002
        ends
        try "beyond the limit"
        mov byte [gdt + FREE], 0x68 + 15
        mov byte [gdt + FREE + 5], 0x89
        mov eax, FREE
        ltr ax
        virtual 0x3002
        ends
        ret
code16: bits 16
        in al, 0x79
        mov al, 1
        int 0x81
code16_end:
bits 32
align 16
big_tss: dd 0, interrupt_stack, DATA0
        times 22 dd 0
        dw 0, 0x68
        times 16 db 0
        db 0xFF
"""
        + _MONITOR,
        """
        allowed: ok
        not the second port of a word: 0000000d 00000000 vm 00000000
        beyond the limit: 0000000d 00000000 vm 00000000
        """,
    )


_VME = """
        system FREE, vme_tss, 0x88, 0x89
        mov eax, FREE
        ltr ax
        mov eax, cr4
        or eax, 1
        mov cr4, eax
        mov dword [0x90 * 4], 0x10000040                ; INT 90h: 1000:0040
        idt_gate 0x91, CODE0, report, 0xEE00
        idt_gate 0x92, CODE0, report, 0xEE00
"""
_VME_DATA = """
        times 0x40 - ($ - code16) nop
        mov bp, sp                                      ; the handler of INT 90h
        pushf
        pop si
        mov di, [bp + 4]
        iret
code16_end:
bits 32
report: mov eax, DATA0
        mov ds, eax
        hex esi
        hex edi
        mov ebp, esp
        hex [ss:ebp + 8]
        jmp int81
align 16
vme_tss: dd 0, interrupt_stack, DATA0
        times 22 dd 0
        dw 0, 0x88
        times 18 db 0
        db 0x06                                         ; INT 91h and 92h go to the monitor
        times 13 db 0
        db 0xFF
"""


def test_virtual_interrupt_flag(check: Check) -> None:
    """CR4.VME below IOPL 3: VIF stands for IF; #GP(0) for setting it with VIP set, and for TF. QEMU has no VME.

    INT 90h finds its bit in the redirection bitmap clear: the handler sees IF (VIF) clear, and the image has it with
    IOPL 3. INT 91h has it set: #GP(0) to the monitor below IOPL 3, through the IDT at IOPL 3.
    """
    check(
        _VIRTUAL
        + _VME
        + """
        try "IOPL 2"
        virtual 0x2002
        ends
        try "STI with VIP"
        mov word [code16], 0xFBFA
        virtual 0x100002
        ends
        try "POPF of IF with VIP"
        mov dword [code16], 0x9D020068
        virtual 0x100002
        ends
        try "POPF of TF"
        mov dword [code16], 0x9D010068
        virtual 2
        ends
        try "POPFD"
        mov dword [code16], 0x9D669090
        virtual 2
        ends
        ret
align 16
code16: bits 16
        sti
        pushf
        pop ax
        cli
        pushf
        pop bx
        sti
        int 0x90
        int 0x91
"""
        + _VME_DATA
        + _MONITOR,
        """
        IOPL 2: 0000000d 00000000 vm 00000009
        STI with VIP: 0000000d 00000000 vm 00000001
        POPF of IF with VIP: 0000000d 00000000 vm 00000003
        POPF of TF: 0000000d 00000000 vm 00000003
        POPFD: 0000000d 00000000 vm 00000002
        """,
        qemu=False,
    )


def test_redirected_interrupts(check: Check) -> None:
    """SI: FLAGS in the handler of INT 90h; DI: their image on its stack; EFLAGS afterwards. QEMU has no VME."""
    check(
        _VIRTUAL
        + _VME
        + """
        try "IOPL 3, IF"
        virtual 0x3202
        ends
        try "IOPL 2, VIF"
        mov word [code16 + 2], 0x03CC                   ; INT3 needs no IOPL
        idt_gate 3, CODE0, report, 0xEE00
        virtual 0x82002
        ends
        try "IOPL 2, no VIF"
        virtual 0x2202
        ends
        ret
align 16
code16: bits 16
        int 0x90
        int 0x91
"""
        + _VME_DATA
        + _MONITOR,
        """
        IOPL 3, IF: 00003002 00003202 00023202 ok
        IOPL 2, VIF: 00003002 00003202 000a2002 ok
        IOPL 2, no VIF: 00003002 00003002 00022202 ok
        """,
        qemu=False,
    )


def test_protected_mode_virtual_interrupts(check: Check) -> None:
    """CR4.PVI at CPL 3: CLI and STI change VIF; STI with VIP raises #GP(0). QEMU has no PVI."""
    check(
        """
test_body:
        mov eax, cr4
        or eax, 2
        mov cr4, eax
        try "VIF"
        user .user
.user:  sti
        pushfd
        pop eax
        int 0x80
        cli
        pushfd
        pop eax
        int 0x80
        int 0x81
        ends
        try "VIP"
        user .user2, 0x100002
.user2: cli
        sti
        ends
        ret
""",
        """
        VIF: 00080002 00000002 ok
        VIP: 0000000d 00000000 00000001
        """,
        qemu=False,
    )
