"""Delivery of exceptions and interrupts: frames, stacks, flags, and what happens when delivery itself faults."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from engine.assembly import assemble
from engine.harness import (
    CODE,
    CODE16,
    CODE32,
    CODE64,
    DATA0,
    DATA16,
    FREE,
    IDT,
    INTERRUPT_GATE,
    INTERRUPT_STACK,
    STACK,
    STUBS,
    TRAP_GATE,
    TSS,
    USER32,
    USER64,
    USER_DATA,
    Frame,
    Guest,
    descriptor,
)

Make = Callable[[], Guest]
TF, IF, DF, NT, RF, AC, ID = 0x100, 0x200, 0x400, 0x4000, 0x1_0000, 0x4_0000, 0x20_0000
UD2 = assemble(32, "\n        0f 0b  ud2\n        ")
SINGULAR = 0x30_0000  # a page that is absent


@pytest.mark.parametrize("gate", [INTERRUPT_GATE, TRAP_GATE])
def test_32_bit_gate_at_the_same_level(guest: Make, gate: int) -> None:
    """An interrupt gate clears IF, a trap gate does not; both clear TF, NT and RF."""
    g = guest().enter_protected(gate=gate).load(UD2)
    flags = IF | DF | ID | 0x8D7
    g.set(rflags=flags)
    assert g.run_to_exception() == Frame(6, None, CODE, CODE32, flags | RF)
    assert g["rsp"] == STACK - 12
    assert g["rflags"] == (flags if gate == TRAP_GATE else flags & ~IF)
    assert g.processor.segments[2].selector == DATA0


def test_nt_is_cleared(guest: Make) -> None:
    g = guest().enter_protected().load(UD2).set(rflags=NT | 2)
    assert g.run_to_exception().rflags == NT | RF | 2
    assert g["rflags"] == 2


def test_32_bit_gate_with_an_error_code(guest: Make) -> None:
    code = assemble(
        32,
        """
        ea 00 80 00 00 00 01  jmp 0x100:0x8000
        """,
    )
    g = guest().enter_protected().load(code)
    assert g.run_to_exception() == Frame(13, 0x100, CODE, CODE32, RF | 2)
    assert g["rsp"] == STACK - 16


def test_32_bit_gate_with_a_stack_switch(guest: Make) -> None:
    g = guest().enter_protected(cpl=3).load(UD2).set(rsp=0x6F00)
    assert g.run_to_exception() == Frame(6, None, CODE, USER32, RF | 2, 0x6F00, USER_DATA)
    p = g.processor
    assert g["rsp"] == INTERRUPT_STACK - 20
    assert (p.cpl, p.segments[1].selector, p.segments[2].selector) == (0, CODE32, DATA0)


def test_a_conforming_handler_does_not_switch(guest: Make) -> None:
    g = guest().enter_protected(cpl=3).load(UD2).set(rsp=0x6F00)
    g.set_descriptor(FREE, descriptor(0xC9F))
    g.set_gate32(6, FREE, 0x9000)
    g.memory.write(0x9000, b"\xeb\xfe")
    g.run(10)
    assert (g["rip"], g["rsp"], g.processor.cpl) == (0x9000, 0x6F00 - 12, 3)
    assert g.processor.segments[1].selector == FREE | 3
    assert g.memory.read_u32(0x6F00 - 8) == USER32


def test_16_bit_gate(guest: Make) -> None:
    """Pushes words, and takes 16 bits of the offset."""
    g = guest().enter_protected().load(UD2).set(rflags=ID | 3)
    g.set_gate32(6, CODE32, 0xABCD_0000 | STUBS + 96, 0x86)
    g.run_to_halt()
    assert g["rip"] == STUBS + 97
    assert g["rsp"] == STACK - 6
    assert [g.memory.read_u16(STACK - 6 + 2 * i) for i in range(3)] == [CODE, CODE32, 3]
    assert g["rflags"] == ID | 3


def test_16_bit_tss(guest: Make) -> None:
    """SP0 and SS0 are words at 2 and 4; a 16-bit stack segment keeps the upper half of ESP."""
    g = guest().enter_protected(cpl=3).load(UD2).set(rsp=0x1234_6F00)
    g.processor.segments[2].load(USER_DATA, 0, 0xFFFF_FFFF, 0xCF3)
    g.processor.tr.load(0x50, TSS, 0x2B, 0x83)
    g.memory.write(TSS, bytes.fromhex("0000 0060 2800"))
    g.run_to_halt()
    assert g.processor.segments[2].selector == DATA16
    assert g["rsp"] & 0xFFFF == 0x6000 - 20
    assert [g.memory.read_u32(0x6000 - 20 + 4 * i) for i in range(5)] == [CODE, USER32, RF | 2, 0x1234_6F00, USER_DATA]


def test_from_virtual_8086_mode(guest: Make) -> None:
    """All segment registers are on the stack of CPL 0, and data segments are null in the handler."""
    g = guest().enter_protected(cpl=3)
    p = g.processor
    p.rflags = 0x2_0202 | 3 << 12
    for number, selector in enumerate((0x111, 0x800, 0x222, 0x333, 0x444, 0x555)):
        p.segments[number].load(selector, selector << 4, 0xFFFF, 0xF3)
    g.memory.write(CODE + 0x10, b"\x0f\x0b")
    g.set(rsp=0x80)
    g.go(0x10)
    g.run_to_halt()
    base = INTERRUPT_STACK - 36
    assert g["rsp"] == base
    words = [g.memory.read_u32(base + 4 * i) for i in range(9)]
    assert words == [0x10, 0x800, 0x2_3202 | RF, 0x80, 0x222, 0x111, 0x333, 0x444, 0x555]
    assert [p.segments[n].selector for n in (0, 3, 4, 5)] == [0] * 4
    assert (p.cpl, p.virtual8086, g["rip"]) == (0, False, STUBS + 97)


def test_real_mode(guest: Make) -> None:
    """FLAGS, CS and IP as words; IF, TF and AC cleared; no error code."""
    g = guest().enter_real()
    g.memory.write(CODE, b"\xcd\x21")
    g.set(rflags=IF | DF | 0x8D7)
    g.processor.segments[1].load(0x700, 0x7000, 0xFFFF, 0x9B)
    g.go(0x1000)
    frame = g.run_to_exception()
    assert frame == Frame(0x21, None, 0x1002, 0x700, IF | DF | 0x8D7)
    assert g["rsp"] == STACK - 6
    assert g["rflags"] == DF | 0x8D7
    assert g.processor.segments[1].selector == 0


def test_real_mode_vector_beyond_the_table(guest: Make) -> None:
    g = guest().enter_real()
    g.memory.write(CODE, b"\xcd\x21")
    g.processor.idtr_limit = 0x21 * 4 + 2
    assert g.run_to_exception() == Frame(13, None, CODE, 0, 2)


# -- long mode


@pytest.mark.parametrize("rsp", range(0x6FF0, 0x7001))
def test_long_mode_aligns_the_stack(guest: Make, rsp: int) -> None:
    g = guest().enter_long(ist=0).load(UD2).set(rsp=rsp)
    assert g.run_to_exception() == Frame(6, None, CODE, CODE64, RF | 2, rsp, DATA0)
    assert g["rsp"] == (rsp & ~15) - 40
    assert g.processor.segments[2].selector == DATA0, "SS stays where the level does not change"


def test_long_mode_with_an_error_code(guest: Make) -> None:
    code = assemble(
        64,
        """
        41 8b 00  mov eax, [r8]
        """,
    )
    g = guest().enter_long(ist=0).load(code).set(r8=SINGULAR)
    g.map(SINGULAR, 0, 0)
    assert g.run_to_exception() == Frame(14, 0, CODE, CODE64, RF | 2, STACK, DATA0)
    assert g["rsp"] == STACK - 48


@pytest.mark.parametrize("compatibility", [False, True])
def test_long_mode_from_cpl_3(guest: Make, compatibility: bool) -> None:
    """RSP0, and SS is null with RPL 0."""
    g = guest().enter_long(cpl=3, compatibility=compatibility, ist=0).load(UD2).set(rsp=0x6F08)
    cs = USER32 if compatibility else USER64
    assert g.run_to_exception() == Frame(6, None, CODE, cs, RF | 2, 0x6F08, USER_DATA)
    p = g.processor
    assert g["rsp"] == INTERRUPT_STACK - 40
    assert (p.cpl, p.segments[2].selector, p.bits) == (0, 0, 64)


@pytest.mark.parametrize("number", range(1, 8))
def test_every_interrupt_stack(guest: Make, number: int) -> None:
    """Switches without a change of level too; SS stays then."""
    g = guest().enter_long(ist=number).load(UD2).set(rsp=0x6F08)
    g.memory.write_u64(TSS + 36, 0)
    g.memory.write_u64(TSS + 36 + 8 * (number - 1), 0x5800 + number)
    frame = g.run_to_exception()
    assert (frame.rsp, frame.ss) == (0x6F08, DATA0)
    assert g["rsp"] == 0x5800 - 40
    assert g.processor.segments[2].selector == DATA0


def test_the_gates_offset_has_64_bits(guest: Make) -> None:
    g = guest().enter_long().load(UD2)
    g.map(0xFFFF_8123_4567_8000, 0x10_0000)
    g.memory.write(0x10_0123, b"\xf4")
    g.set_gate64(6, CODE64, 0xFFFF_8123_4567_8123, ist=1)
    g.run_to_halt()
    assert g["rip"] == 0xFFFF_8123_4567_8124


def test_iretq_returns_what_was_pushed(guest: Make) -> None:
    code = assemble(
        64,
        """
        0f 0b           ud2
        ff c1           inc ecx
        f4              hlt
        handler:
        48 83 04 24 02  add qword [rsp], 2
        48 cf           iretq
        """,
    )
    g = guest().enter_long().load(code).set(rcx=0, rsp=0x6F03, rflags=DF | 0x8D7)
    g.set_gate64(6, CODE64, code["handler"], ist=1)
    g.run_to_halt()
    assert (g["rcx"], g["rsp"]) == (1, 0x6F03)
    assert g["rflags"] & ~0x8D4 == DF | 3  # INC keeps CF; RF is spent


# -- faults during delivery (APM vol. 2, 8.2.9)


def _absent_gate(g: Guest, vector: int) -> None:
    g.set_gate64(vector, CODE64, STUBS + 16 * vector, 0x0E)


def test_a_benign_exception_and_a_fault_are_handled_in_turn(guest: Make) -> None:
    """#UD whose gate is absent: #NP, at the same instruction."""
    g = guest().enter_long(ist=0).load(UD2)
    _absent_gate(g, 6)
    assert g.run_to_exception() == Frame(11, 6 * 8 + 2 + 1, CODE, CODE64, RF | 2, STACK, DATA0)
    assert g.processor.exception_counts == {6: 1, 11: 1}


@pytest.mark.parametrize("first", ["gp", "pf", "de"])
def test_two_contributory_exceptions_are_a_double_fault(guest: Make, first: str) -> None:
    code = assemble(
        64,
        """
        gp:
        8e d9     mov ds, ecx
        pf:
        41 8b 00  mov eax, [r8]
        de:
        f7 f2     div edx
        """,
    )
    g = guest().enter_long(ist=0).load(code).set(rcx=0x100, rdx=0, r8=SINGULAR)
    g.map(SINGULAR, 0, 0)
    for vector in (0, 13, 14):
        _absent_gate(g, vector)
    g.go(code[first])
    frame = g.run_to_exception()
    assert (frame.vector, frame.error, frame.rip, frame.rsp) == (8, 0, code[first], STACK)


def test_a_page_fault_while_delivering_gp_is_a_page_fault(guest: Make) -> None:
    """A contributory exception and then a page fault are handled in turn."""
    code = assemble(
        64,
        """
        8e d9  mov ds, ecx
        """,
    )
    g = guest().enter_long(ist=0).load(code).set(rcx=0x100)
    g.map(SINGULAR, 0, 0)
    g.memory.write_u64(TSS + 36, SINGULAR + 0x800)
    g.set_gate64(13, CODE64, STUBS + 13 * 16, ist=1)
    frame = g.run_to_exception()
    assert (frame.vector, frame.error, frame.rip, frame.rsp) == (14, 2, CODE, STACK)
    assert g.processor.cr2 == SINGULAR + 0x800 - 8  # the first push of the frame


def test_two_page_faults_are_a_double_fault(guest: Make) -> None:
    """As when a kernel's stack overflows into a guard page. CR2 holds the second address (Intel SDM vol. 3, 6.15, #PF:
    every page fault that is detected updates it)."""
    code = assemble(
        64,
        """
        50  push rax
        """,
    )
    g = guest().enter_long(ist=0).load(code)
    g.map(SINGULAR, 0, 0)
    g.map(SINGULAR + 0x1000, 0, 0)
    g.memory.write_u64(TSS + 44, SINGULAR + 0x1800)
    g.set_gate64(8, CODE64, STUBS + 8 * 16, ist=1)
    g.set_gate64(14, CODE64, STUBS + 14 * 16, ist=2)
    g.set(rsp=SINGULAR + 0x800)
    frame = g.run_to_exception()
    assert (frame.vector, frame.error, frame.rip, frame.rsp) == (8, 0, CODE, SINGULAR + 0x800)
    assert g.processor.cr2 & ~0xFFF == SINGULAR + 0x1000


def test_a_fault_while_delivering_a_double_fault_is_a_triple_fault(guest: Make) -> None:
    g = guest().enter_long(ist=0).load(UD2)
    for vector in (6, 8, 11):
        _absent_gate(g, vector)
    assert g.run().reason == "triple-fault"
    assert g["rip"] == CODE


def test_an_empty_idt_is_a_triple_fault(guest: Make) -> None:
    for g in (guest().enter_long(), guest().enter_protected(), guest().enter_real()):
        g.load(UD2)
        g.processor.idtr_limit = 0
        assert g.run().reason == "triple-fault"


def test_a_fault_during_delivery_leaves_the_state_as_it_was(guest: Make) -> None:
    """The frame lies across a page boundary, and its lower part is absent: nothing is written, and no register
    changes."""
    g = guest().enter_long(ist=0).load(UD2)
    g.map(0x20_0000, 0x10_0000, 0)
    g.map(0x20_1000, 0x10_1000)
    g.memory.write(0x10_1000, b"\x55" * 0x1000)
    g.set_gate64(14, CODE64, STUBS + 14 * 16, ist=1)
    g.set(rsp=0x20_1010)
    before = g.registers()
    frame = g.run_to_exception()
    assert (frame.vector, frame.error, frame.rip, frame.rsp) == (14, 2, CODE, 0x20_1010)
    assert g.memory.read(0x10_1000, 0x1000) == b"\x55" * 0x1000
    assert {**g.registers(), "rsp": 0, "rip": 0} == {**before, "rsp": 0, "rip": 0}


def test_an_interrupt_whose_delivery_faults_is_not_lost_silently(guest: Make) -> None:
    """The fault takes its place, with EXT set; the interrupted instruction has not run."""
    code = assemble(
        64,
        """
        again:
        ff c1  inc ecx
        eb fc  jmp again
        """,
    )
    g = guest().enter_long(ist=0).load(code).set(rcx=0, rflags=IF | 2)
    g.set_gate64(0x40, CODE64, STUBS, 0x0E)
    g.clock.schedule(500, lambda: g.processor.set_intr(True))
    frame = g.run_to_exception()
    assert (frame.vector, frame.error, frame.rip) == (11, 0x40 * 8 + 3, CODE)
    assert g.processor.interrupt_counts == {0x40: 1}
    assert g.processor.exception_counts == {11: 1}


@pytest.mark.parametrize("level", ["same", "inner"])
def test_16_bit_code_is_interrupted(guest: Make, level: str) -> None:
    """A 16-bit stack: SP wraps within 64 KB, the upper half of ESP stays."""
    g = guest().enter_protected().load(assemble(16, "\n        0f 0b  ud2\n        "))
    p = g.processor
    p.segments[1].load(CODE16, 0, 0xFFFF, 0x9B)
    p.segments[2].load(DATA16, 0, 0xFFFF, 0x93)
    g.set(rsp=0x5678_0004 if level == "same" else 0x5678_7000)
    g.go(CODE)
    g.run_to_halt()
    assert g["rsp"] == (0x5678_FFF8 if level == "same" else 0x5678_6FF4)


def test_the_idt_is_read_where_it_lies_now(guest: Make) -> None:
    """LIDT takes effect for the next exception."""
    code = assemble(
        64,
        """
        41 0f 01 18  lidt [r8]
        0f 0b        ud2
        """,
    )
    g = guest().enter_long().load(code)
    g.memory.write(0x1_1000, g.memory.read(IDT, 0x1000))
    g.memory.write(0x1_1000 + 6 * 16, g.memory.read(IDT + 0x55 * 16, 16))
    g.memory.write(0x1_0000, b"\xff\x0f" + (0x1_1000).to_bytes(8, "little"))
    g.set(r8=0x1_0000)
    assert g.run_to_exception().vector == 0x55
