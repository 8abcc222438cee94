"""LLDT and LTR: how many bytes of a descriptor count, and what is checked of its upper half (APM vol. 3, LLDT, LTR).

"In legacy and compatibility modes, the descriptor is 8 bytes long and contains a 32-bit base address. In 64-bit mode"
it has 16 bytes and a 64-bit base. The processor and the fuzz's naive model are held to the same table, which is what
they once disagreed about.
"""

from __future__ import annotations

import pytest

from engine.harness import CODE, FREE, GDT, descriptor
from trapgate.arch.cpuid import OPTERON_2007
from trapgate.engine.handlers import HandlerStore

from . import random_tables
from .machine import FuzzMachine
from .naive_transfer import GP, NaiveFault

_BASE = 0x1800
_KINDS = {"lldt": (b"\x0f\x00\xd0", 0x82), "ltr": (b"\x0f\x00\xd8", 0x89)}


@pytest.fixture(scope="module")
def machine() -> FuzzMachine:
    """One machine for all cases."""
    return FuzzMachine(HandlerStore(), OPTERON_2007)


@pytest.mark.parametrize("instruction", _KINDS)
@pytest.mark.parametrize(
    ("compatibility", "upper", "limit", "base"),
    [
        (False, 0, 15, _BASE),
        (False, 0x7FFF, 15, 0x7FFF_0000_1800),
        (False, 0xFFFF_8000, 15, 0xFFFF_8000_0000_1800),
        (False, 0x8000, 15, None),  # not canonical
        (False, 0xD92D_83AB, 15, None),
        (False, 0x0B << 40, 15, None),  # the type field of the upper half must be 0
        (False, 0, 14, None),  # the table ends within the descriptor
        (True, 0xD92D_83AB, 15, _BASE),
        (True, 0x0B << 40, 15, _BASE),
        (True, 0, 7, _BASE),
    ],
)
def test_upper_half(
    machine: FuzzMachine, instruction: str, compatibility: bool, upper: int, limit: int, base: int | None
) -> None:
    code, kind = _KINDS[instruction]
    machine.blank()
    machine.enter_long(compatibility=compatibility)
    machine.memory.write_u64(GDT + FREE, descriptor(kind, _BASE, 0x67))
    machine.memory.write_u64(GDT + FREE + 8, upper)
    machine.memory.write(CODE, code)
    p = machine.processor
    p.gdtr_limit = FREE + limit
    p.q[0] = FREE
    model = random_tables._naive(machine)
    if base is None:
        with pytest.raises(NaiveFault) as raised:
            model.system_segment(FREE, instruction == "ltr")
        assert (raised.value.vector, raised.value.error) == (GP, FREE)
        assert machine.first_exception() == (GP, FREE)
        return
    model.system_segment(FREE, instruction == "ltr")
    assert p.step(1).reason == "steps"
    for loaded in (p.tr, model.tr) if instruction == "ltr" else (p.ldtr, model.ldt):
        assert (loaded.selector, loaded.base, loaded.limit) == (FREE, base, 0x67)
