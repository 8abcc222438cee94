"""Call gates and far transfers through them (APM vol. 2, 4.11)."""

from __future__ import annotations

from .conftest import Check

_GATES = """
test_body:
        gate FREE, CODE0, inner, 0xEC02         ; 32-bit, DPL 3, two parameters
        gate FREE + 8, CODE16, inner16 - 0x100000, 0xE401       ; 16-bit, one parameter
        gate FREE + 16, CONF0, conforming, 0xEC00
        gate FREE + 24, CODE0, inner, 0x8C00    ; DPL 0
        gate FREE + 32, CODE0, inner, 0x6C00    ; not present
        gate FREE + 40, 0, inner, 0xEC00        ; null code selector
        gate FREE + 48, DATA0, inner, 0xEC00    ; not code
        gate FREE + 56, CODE3, conforming, 0xEC00
        gate FREE + 64, CODE0, 0x1000, 0x8C00
        descriptor FREE + 72, 0x0000FFFF, 0x00CF1B00    ; code, not present
        gate FREE + 80, FREE + 72, inner, 0xEC00
"""
_STACK_ERROR = """
%macro stack_error 2
        mov dword [tss + 16], %2
        try %1
        user %%user
%%user: call FREE:0
        ends
%endmacro
"""
_CALLS = """
inner:  mov ebp, esp
        hex [ebp + 20]
        mov eax, [ebp + 16]
        sub eax, user_stack
        hex eax
        hex [ebp + 12]
        hex [ebp + 8]
        hex [ebp + 4]
        mov eax, [ebp]
        sub eax, [origin]
        hex eax
        mov eax, ss
        hex eax
        retf 8
bits 16
inner16:
        mov eax, esp
        mov ecx, interrupt_stack
        sub ecx, eax
        o32 call dword CODE0:log16
bits 32
log16:  hex ecx
        movzx edx, word [eax]           ; IP: its code lies at 1 MB, and the caller's at 0
        mov ecx, [origin]
        sub dx, cx
        movzx edx, dx
        hex edx
        movzx edx, word [eax + 2]
        hex edx
        movzx edx, word [eax + 4]
        hex edx
        movzx edx, word [eax + 8]
        hex edx
        line
        jmp back
conforming:
        mov eax, cs
        retf
"""


def test_calls_through_gates(check: Check) -> None:
    """The frame on the inner stack: SS, ESP, the parameters, CS, EIP; RETF releases the parameters on both stacks."""
    check(
        _GATES
        + """
        try "32-bit"
        user .user
.user:  call FREE:0xDEADBEEF
        mov eax, esp
        sub eax, user_stack
        int 0x80
        int 0x81
        ends
        try "16-bit"
        user .user3
.user3: call FREE + 8:0
        ends
        try "same level"
        gate FREE + 24, CODE0, .same, 0x8C00
        mov ebx, esp
        call FREE + 24:0
.back:  done
        ret
.same:  sub ebx, esp
        hex ebx
        mov eax, [esp]
        sub eax, .back
        hex eax
        hex [esp + 4]
        retf
"""
        + _CALLS,
        """
        32-bit: 00000023 00000000 22222222 11111111 0000001b 00000007 00000010 00000008 ok
        16-bit: 0000000a 00000007 0000001b 00001111 00000023
        same level: 00000008 00000000 00000008 ok
        """,
    )


def test_error_codes(check: Check) -> None:
    """#GP and #NP with the selector at fault; the branch has changed nothing."""
    tests = (
        ("gate's DPL below CPL", "FREE + 24", "0000000d 00000098 00000000"),
        ("gate not present", "FREE + 32", "0000000b 000000a0 00000000"),
        ("null code selector", "FREE + 40", "0000000d 00000000 00000000"),
        ("not code", "FREE + 48", "0000000d 00000010 00000000"),
        ("code not present", "FREE + 80", "0000000b 000000c8 00000000"),
        ("selector beyond the table", "0x7F8", "0000000d 000007f8 00000000"),
        ("null", "3", "0000000d 00000000 00000000"),
        ("LDT without one", "FREE + 4", "0000000d 00000084 00000000"),
    )
    code = "".join(
        f'try "{name}"\n user .u{i}\n.u{i}: call {selector}:0\n int 0x81\n ends\n'
        for i, (name, selector, _) in enumerate(tests)
    )
    expected = "\n".join(f"{name}: {line}" for name, _, line in tests)
    check(_GATES + code + ' try "jump inward"\n user .u\n.u: jmp FREE:0\n int 0x81\n ends\n'
          ' try "outward"\n call FREE + 56:0\n done\n ret\n' + _CALLS,
          expected + "\njump inward: 0000000d 00000008 00000000\noutward: 0000000d 00000018 00000000")  # fmt: skip


def test_inner_stack_errors(check: Check) -> None:
    """#TS with the selector of the inner stack."""
    check(
        _GATES
        + """
"""
        + _STACK_ERROR
        + """
        gate FREE, CODE1, inner, 0xEC02         ; to ring 1, so that exceptions have their own stack
        stack_error "null", 0
        stack_error "beyond", 0x7F9
        stack_error "RPL", DATA1
        stack_error "DPL", DATA0 + 1
        stack_error "code", CODE1 + 1
        ret
"""
        + _CALLS,
        """
        null: 0000000a 00000000 00000000
        beyond: 0000000a 000007f8 00000000
        RPL: 0000000a 00000048 00000000
        DPL: 0000000a 00000010 00000000
        code: 0000000a 00000040 00000000
        """,
    )


def test_what_qemu_does_otherwise(check: Check) -> None:
    """By the manual (APM vol. 2), which QEMU does not follow here:

    An inner stack that is not present: #SS with its selector (8.2.13); QEMU raises #TS. A conforming segment keeps CPL,
    in CS too (4.11.2); QEMU takes the DPL. The high half of a 16-bit gate is reserved (4.7.3); QEMU takes it for an
    offset. Data segments have limits (4.12); QEMU checks none.
    """
    check(
        _GATES
        + _STACK_ERROR
        + """
        gate FREE, CODE1, inner, 0xEC02
        descriptor FREE + 88, 0x0000FFFF, 0x00CF3300    ; data, DPL 1, not present
        try "expand-down"
        mov eax, DOWN
        mov es, eax
        mov al, [es:0x1000 + image_end]
        mov al, [es:0x0FFF]
        done
        try "conforming"
        user .user2
.user2: call FREE + 16:0
        int 0x80
        int 0x81
        ends
        try "16-bit"
        or word [gdt + FREE + 8 + 6], 0x66      ; not part of the offset
        user .user3
.user3: call FREE + 8:0
        ends
        stack_error "not present", FREE + 88 + 1
        mov dword [gdt + FREE + 88 + 4], 0x00C0B300
        mov dword [gdt + FREE + 88], 7                  ; limit 7FFFh
        mov dword [tss + 12], 0x8010
        stack_error "beyond its limit", FREE + 88 + 1
        ret
"""
        + _CALLS,
        """
        expand-down: 0000000d 00000000 0000000d
        conforming: 00000053 ok
        16-bit: 0000000a 00000007 0000001b 00001111 00000023
        not present: 0000000c 000000d8 00000000
        beyond its limit: 0000000c 000000d8 00000000
        """,
        qemu=False,
    )


def test_16_bit_stack(check: Check) -> None:
    """16-bit stacks: SP wraps between two pushes (APM vol. 2, 4.12)."""
    check(
        """
test_body:
        try "16-bit stack wraps"
        mov eax, STACK16
        mov ss, eax
        mov esp, 0x12340002
        push word 0x5566
        push word 0x7788
        mov ebx, esp
        mov ax, [0x80000]
        shl eax, 16
        mov ax, [0x8FFFE]
        call restore_stack
        hex ebx
        hex eax
        done
        try "interrupt wraps"
        mov eax, STACK16
        mov ss, eax
        mov esp, 0x12340004
        idt_gate 0x82, CODE0, .handler, 0x8E00
        int 0x82
.after: ends
        ret
.handler:
        mov ebx, esp
        mov eax, [0x80000]
        mov ecx, [0x8FFFC]
        mov edx, [0x8FFF8]
        call restore_stack
        and eax, 0x200 + 0x100 + 2
        sub edx, .after
        hex ebx
        hex eax
        hex ecx
        hex edx
        line
        jmp back
restore_stack:
        mov ebp, DATA0
        pop esi
        mov ss, ebp
        mov esp, [resume_esp]
        jmp esi
""",
        """
        16-bit stack wraps: 1234fffe 55667788 ok
        interrupt wraps: 1234fff8 00000002 00000008 00000000
        """,
    )
