"""Descriptor-table registers, LDTR, TR and SYSCALL's selectors, where a random-instruction oracle found faults."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from engine.assembly import assemble
from engine.harness import CODE, CODE64, DATA, FREE, Guest, descriptor
from trapgate.arch.segments import ATTRIBUTE_G

Make = Callable[[], Guest]
_BASE = 0x1234_5000
_STAR, _LSTAR = 0xC000_0081, 0xC000_0082


@pytest.mark.parametrize("code", ["0f 01 13  lgdt [rbx]", "0f 01 1b  lidt [rbx]"])
@pytest.mark.parametrize("base", [1 << 47, 1 << 63, (1 << 64) - (1 << 47) - 1])
def test_a_table_cannot_lie_at_an_address_that_is_not_canonical(guest: Make, code: str, base: int) -> None:
    """APM vol. 3, LGDT, LIDT: #GP(0)."""
    g = guest().enter_long().set(rbx=DATA)
    g.memory.write(DATA, b"\xff\x0f" + base.to_bytes(8, "little"))
    before = (g.processor.gdtr_base, g.processor.idtr_base)
    g.load(assemble(64, code + "\nf4  hlt", CODE))
    frame = g.run_to_exception()
    assert (frame.vector, frame.error, frame.rip) == (13, 0, CODE)
    assert (g.processor.gdtr_base, g.processor.idtr_base) == before


def _system_descriptor(g: Guest, kind: int, upper: int) -> None:
    g.set_descriptor(FREE, descriptor(kind, _BASE, 0x67))
    g.set_descriptor(FREE + 8, upper)


@pytest.mark.parametrize(("code", "kind"), [("0f 00 d0  lldt ax", 0x82), ("0f 00 d8  ltr ax", 0x89)])
def test_system_descriptors_have_16_bytes_in_64_bit_mode_alone(guest: Make, code: str, kind: int) -> None:
    """APM vol. 2, 4.8.3: the upper 8 bytes count in 64-bit mode; compatibility mode takes 32 bits of base."""
    for compatibility in (False, True):
        g = guest().enter_long(compatibility=compatibility).set(rax=FREE)
        _system_descriptor(g, kind, 0x7FFF)
        g.load(assemble(32 if compatibility else 64, code + "\nf4  hlt", CODE))
        g.run_to_halt()
        register = g.processor.ldtr if kind == 0x82 else g.processor.tr
        assert register.base == _BASE | (0 if compatibility else 0x7FFF << 32)


@pytest.mark.parametrize(("code", "kind"), [("0f 00 d0  lldt ax", 0x82), ("0f 00 d8  ltr ax", 0x89)])
def test_a_system_segment_cannot_lie_at_an_address_that_is_not_canonical(guest: Make, code: str, kind: int) -> None:
    g = guest().enter_long().set(rax=FREE)
    _system_descriptor(g, kind, 0x8000)
    g.load(assemble(64, code + "\nf4  hlt", CODE))
    frame = g.run_to_exception()
    assert (frame.vector, frame.error, frame.rip) == (13, FREE, CODE)


def test_ldtr_keeps_its_descriptors_attributes(guest: Make) -> None:
    g = guest().enter_protected().set(rax=FREE)
    g.set_descriptor(FREE, descriptor(0xE2 | ATTRIBUTE_G, _BASE, 3))
    g.load(assemble(32, "0f 00 d0  lldt ax\nf4  hlt", CODE))
    g.run_to_halt()
    assert (g.processor.ldtr.attributes, g.processor.ldtr.limit) == (0xE2 | ATTRIBUTE_G, 0x3FFF)


def test_syscall_takes_the_stack_selectors_low_bits_from_star(guest: Make) -> None:
    """APM vol. 3, SYSCALL: CS is STAR.SYSCALL_CS AND FFFCh, SS is STAR.SYSCALL_CS + 8."""
    g = guest().enter_long()
    g.processor.write_msr(_STAR, (CODE64 | 3) << 32)
    g.processor.write_msr(_LSTAR, CODE + 2)
    g.load(assemble(64, "0f 05  syscall\nf4  hlt", CODE))
    g.run_to_halt()
    assert [g.processor.segments[number].selector for number in (1, 2)] == [CODE64, CODE64 + 8 | 3]
