"""Interrupts, their shadow, NMI, HLT and single steps (APM vol. 2, 8.1.4, 8.2.3, 13.1.4)."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from engine.assembly import assemble
from engine.harness import CODE32, CODE64, DATA, DATA0, DEVICE, Guest
from trapgate.arch import layout

Make = Callable[[], Guest]
IF, TF = 0x200, 0x100


def _raise_on_write(g: Guest) -> None:
    g.device.on_write = lambda offset, width, value: g.processor.set_intr(True)


SHADOWS = assemble(
    32,
    """
        sti:
        88 03           mov [ebx], al
        fb              sti
        41              inc ecx
        41              inc ecx
        f4              hlt
        sti_at_cpl_of_python:
        88 03           mov [ebx], al
        fb              sti
        e6 80           out 0x80, al
        41              inc ecx
        f4              hlt
        mov_ss:
        88 03           mov [ebx], al
        8e d2           mov ss, edx
        41              inc ecx
        41              inc ecx
        f4              hlt
        pop_ss:
        52              push edx
        88 03           mov [ebx], al
        17              pop ss
        41              inc ecx
        41              inc ecx
        f4              hlt
        no_shadow:
        88 03           mov [ebx], al
        8e da           mov ds, edx
        41              inc ecx
        41              inc ecx
        f4              hlt
        popfd:
        68 02 02 00 00  push dword 0x202
        88 03           mov [ebx], al
        9d              popfd
        41              inc ecx
        f4              hlt
        """,
)


@pytest.mark.parametrize(
    ("label", "flags", "done"),
    [
        ("sti", 0, 1), ("sti_at_cpl_of_python", 0, 0), ("mov_ss", IF, 1), ("pop_ss", IF, 1), ("no_shadow", IF, 0),
        ("popfd", 0, 0),
    ],
)  # fmt: skip
def test_shadows(guest: Make, label: str, flags: int, done: int) -> None:
    """One instruction comes before the interrupt after STI, MOV SS and POP SS; none after others."""
    g = guest().enter_protected().load(SHADOWS)
    _raise_on_write(g)
    g.set(rbx=DEVICE, rcx=0, rdx=DATA0, rflags=2 | flags)
    g.go(SHADOWS[label])
    g.run_to_halt()
    frame = g.frame()
    assert frame.vector == 0x40
    assert g["rcx"] == done
    assert frame.rflags & IF


def test_sti_and_hlt(guest: Make) -> None:
    """An interrupt that is pending at STI comes after HLT, never before: kernels' idle loops rely on it."""
    code = assemble(
        32,
        """
        88 03  mov [ebx], al
        fb     sti
        f4     hlt
        41     inc ecx
        f4     hlt
        """,
    )
    g = guest().enter_protected().load(code).set(rbx=DEVICE, rcx=0)
    _raise_on_write(g)
    g.run_to_halt()
    frame = g.frame()
    assert (frame.vector, frame.rip, g["rcx"]) == (0x40, code.origin + 4, 0)


def test_sti_and_cli(guest: Make) -> None:
    """No interrupt comes between them."""
    code = assemble(
        32,
        """
        88 03  mov [ebx], al
        fb     sti
        fa     cli
        41     inc ecx
        f4     hlt
        """,
    )
    g = guest().enter_protected().load(code).set(rbx=DEVICE, rcx=0)
    _raise_on_write(g)
    g.run_to_halt()
    assert (g["rcx"], g.processor.interrupt_counts) == (1, {})


def test_hlt_sleeps_to_the_next_event(guest: Make) -> None:
    """Time passes to the event's cycle, without instructions."""
    code = assemble(
        32,
        """
        41  inc ecx
        f4  hlt
        41  inc ecx
        """,
    )
    g = guest().enter_protected().load(code).set(rcx=0, rflags=2 | IF)
    slept: list[int] = []
    g.processor.on_idle = slept.append
    at: list[int] = []

    def wake() -> None:
        at.append(g.clock.now)
        g.processor.set_intr(True)

    g.clock.schedule(1_000_000, lambda: None)
    g.clock.schedule(70_000_000, wake)
    frame = g.run_to_exception()
    assert (frame.vector, frame.rip, g["rcx"]) == (0x40, code.origin + 2, 1)
    assert at == [70_000_000]
    assert sum(slept) == 70_000_000 - 2
    assert g.processor.instructions == 3


def test_hlt_with_nothing_to_wake_it_ends_the_run(guest: Make) -> None:
    g = guest().enter_protected().load(assemble(32, "\n        f4  hlt\n        ")).set(rflags=2 | IF)
    assert g.run().reason == "halted"


@pytest.mark.parametrize("flags", [0, IF])
def test_nmi_does_not_look_at_if(guest: Make, flags: int) -> None:
    code = assemble(
        32,
        """
        again:
        41     inc ecx
        eb fd  jmp again
        """,
    )
    g = guest().enter_protected().load(code).set(rcx=0, rflags=2 | flags)
    g.clock.schedule(100, g.processor.pulse_nmi)
    frame = g.run_to_exception()
    assert frame.vector == 2
    assert g["rcx"] == 50
    assert g.processor.interrupt_counts == {2: 1}


def test_nmi_comes_before_intr(guest: Make) -> None:
    code = assemble(
        32,
        """
        again:
        41     inc ecx
        eb fd  jmp again
        """,
    )
    g = guest().enter_protected().load(code).set(rcx=0, rflags=2 | IF)

    def both() -> None:
        g.processor.set_intr(True)
        g.processor.pulse_nmi()

    g.clock.schedule(100, both)
    frame = g.run_to_exception()
    assert frame.vector == 2
    # The gate has cleared IF, so INTR is still waiting.
    g.set(rflags=2 | IF)
    g.go(code.origin)
    assert g.run_to_exception().vector == 0x40


def test_nmi_wakes_from_hlt(guest: Make) -> None:
    g = guest().enter_protected().load(assemble(32, "\n        f4  hlt\n        ")).set(rflags=2 | IF)
    g.clock.schedule(1000, g.processor.pulse_nmi)
    assert g.run_to_exception().vector == 2


def test_nmi_waits_for_the_iret_of_the_last_one(guest: Make) -> None:
    """Taken at once, latched once while its handler runs, taken again right behind IRET (APM vol. 2, 8.2.3)."""
    code = assemble(
        32,
        """
        41     inc ecx
        41     inc ecx
        41     inc ecx
        9c     pushfd
        0e     push cs
        e8 00 00 00 00  call next
        next:
        83 04 24 05     add dword [esp], 5
        cf     iretd
        f4     hlt
        """,
    )
    g = guest().enter_protected().load(code).set(rcx=0, rflags=2)
    g.processor.pulse_nmi()
    assert (g.run_to_exception().vector, g["rcx"]) == (2, 0)
    g.go(code.origin)
    g.processor.pulse_nmi()
    g.processor.pulse_nmi()
    frame = g.run_to_exception()
    assert (frame.vector, g["rcx"], frame.rip) == (2, 3, code.origin + 15)
    assert g.processor.interrupt_counts == {2: 2}
    assert not g.processor.q[layout.INTERRUPT_PENDING >> 3]


def test_intr_that_goes_away_is_not_taken(guest: Make) -> None:
    """The line is a level: lowered before IF is set, nothing happens."""
    code = assemble(
        32,
        """
        88 03  mov [ebx], al
        88 23  mov [ebx], ah
        fb     sti
        90     nop
        90     nop
        f4     hlt
        """,
    )
    g = guest().enter_protected().load(code).set(rax=0x0001, rbx=DEVICE)
    g.device.on_write = lambda offset, width, value: g.processor.set_intr(bool(value))
    g.run_to_halt()
    assert g.processor.interrupt_counts == {}


# -- single steps

#: The handler of #DB notes rip in a list at [r15] and goes on.
STEPPED = assemble(
    64,
    """
        start:
        9c                       pushfq
        48 81 0c 24 00 01 00 00  or qword [rsp], 0x100
        9d                       popfq
        ff c0                    inc eax
        after_inc:
        eb 01                    jmp there
        90                       nop
        there:
        e8 1c 00 00 00           call sub
        returned:
        b9 03 00 00 00           mov ecx, 3
        strings:
        f3 aa                    rep stosb
        after_strings:
        41 8e d4                 mov ss, r12d
        ff c0                    inc eax
        after_shadow:
        48 f7 f3                 div rbx
        after_div:
        9c                       pushfq
        after_push:
        48 81 24 24 ff fe ff ff  and qword [rsp], ~0x100
        after_and:
        9d                       popfq
        after_popf:
        ff c0                    inc eax
        f4                       hlt
        sub:
        c3                       ret
        handler:
        4c 8b 34 24              mov r14, [rsp]
        4d 89 37                 mov [r15], r14
        49 83 c7 08              add r15, 8
        48 cf                    iretq
        """,
)


def test_single_steps(guest: Make) -> None:
    """#DB after each instruction while TF was set before it; with its own rip, and DR6.BS."""
    g = guest().enter_long().load(STEPPED)
    g.set_gate64(1, CODE64, STEPPED["handler"], ist=1)
    g.set(rax=0, rbx=1, rdx=0, rdi=DATA + 0x800, r12=DATA0, r15=DATA)
    g.run_to_halt()
    seen = [g.memory.read_u64(DATA + 8 * i) for i in range((g["r15"] - DATA) // 8)]
    names = [
        "after_inc", "there", "sub", "returned", "strings", "strings", "strings", "after_strings", "after_shadow",
        "after_div", "after_push", "after_and", "after_popf",
    ]  # fmt: skip
    assert seen == [STEPPED[name] for name in names]
    assert g["rax"] == 3
    assert g.processor.dr[6] & 1 << 14
    assert g.processor.exception_counts == {1: len(names)}


def test_single_steps_count_as_the_same_run(guest: Make) -> None:
    """Registers, memory and counts are those of the run without TF, but for the handler's own."""
    code = assemble(
        64,
        """
        b9 32 00 00 00  mov ecx, 50
        again:
        48 03 06        add rax, [rsi]
        48 89 0e        mov [rsi], rcx
        ff c9           dec ecx
        75 f6           jne again
        f4              hlt
        handler:
        48 cf           iretq
        """,
    )
    plain = guest().enter_long().load(code).set(rax=0, rsi=DATA)
    plain.run_to_halt()
    g = guest().enter_long().load(code).set(rax=0, rsi=DATA, rflags=2 | TF)
    g.set_gate64(1, CODE64, code["handler"], ist=1)
    g.run(100_000)
    # HLT itself is followed by a trap; the guest has then run into the handler behind it.
    assert g["rax"] == plain["rax"]
    steps = g.processor.exception_counts[1]
    assert steps == plain.processor.instructions
    assert g.memory.read(DATA, 8) == plain.memory.read(DATA, 8)


def test_an_instruction_that_writes_over_itself_is_counted_when_stepped(guest: Make) -> None:
    """A store drops the very block that runs it."""
    code = assemble(
        64,
        """
        again:
        c6 05 f9 ff ff ff c6  mov byte [rel again], 0xc6
        ff c1                 inc ecx
        f4                    hlt
        handler:
        48 cf                 iretq
        """,
    )
    g = guest().enter_long().load(code).set(rcx=0)
    before = g.clock.now
    g.processor.step(2)
    assert (g["rcx"], g.processor.instructions) == (1, 2)
    assert g.clock.now > before


def test_int_n_is_not_followed_by_a_single_step(guest: Make) -> None:
    """INT n clears TF on its way in: the handler's first instruction is not trapped (APM vol. 2, 13.1.4)."""
    code = assemble(
        32,
        """
        cd 30  int 0x30
        90     nop
        f4     hlt
        """,
    )
    g = guest().enter_protected().load(code).set(rflags=2 | TF)
    frame = g.run_to_exception()
    assert frame.vector == 0x30
    assert frame.rflags & TF
    assert g.processor.exception_counts == {}


def test_a_fault_is_not_followed_by_a_single_step(guest: Make) -> None:
    code = assemble(
        32,
        """
        0f 0b  ud2
        """,
    )
    g = guest().enter_protected().load(code).set(rflags=2 | TF)
    frame = g.run_to_exception()
    assert (frame.vector, frame.rip) == (6, code.origin)
    assert g.processor.exception_counts == {6: 1}


def test_an_interrupt_comes_after_the_single_step(guest: Make) -> None:
    """Both at one boundary: #DB first (APM vol. 2, table 8-8); its gate clears IF."""
    code = assemble(
        32,
        """
        88 03  mov [ebx], al
        90     nop
        f4     hlt
        """,
    )
    g = guest().enter_protected().load(code).set(rbx=DEVICE, rflags=2 | TF | IF)
    _raise_on_write(g)
    frame = g.run_to_exception()
    assert (frame.vector, frame.rip, frame.cs) == (1, code.origin + 2, CODE32)
    assert g.processor.interrupt_counts == {}
