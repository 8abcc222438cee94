"""Random system instructions, faults and task switches: a virtual machine must be what the bare one is.

The cases are those of the KVM oracle (tests/oracle/kvm), and task switches; here trapgate's own processor is the
reference, and each technique of its hypervisor is compared with it, delivery of exceptions and all of memory included.
`--oracle-cases` and `--oracle-seed` make a long run of it.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from oracle.kvm.cases import ENDLESS, OUTSIDE, UNIMPLEMENTED, SystemCase
from oracle.kvm.families import FAMILIES, make_system_case
from oracle.kvm.judge import compare, describe
from oracle.kvm.maker import Maker
from oracle.kvm.ours import TrapgateMachine
from oracle.kvm.world import (
    CODE32,
    DATA0,
    IDT,
    MODES,
    OTHER_CODE,
    OTHER_TSS,
    STACK,
    TABLES,
    TSS,
    Mode,
    descriptor,
    gate,
)
from oracle.values import Choices, integer
from trapgate.engine.handlers import HandlerStore

from .virtual_side import VirtualSide

_FEW = 4
_SHOWN = 6
_COMPARED = ("software", "shadow", "nested-tagged")


def tasks(m: Maker) -> bytes:
    """JMP, CALL, IRET, INT n and a fault to another task, whose TSS is right or broken."""
    c = m.choices
    wide = c.chance(75)
    size, start, count = (4, 32, 6) if wide else (2, 14, 4)
    stack = STACK - 0x200 - c.pick((0, 0, 1, c.bits(8)))
    registers = [integer(c, 32) if number != 4 else stack for number in range(8)]
    flags = c.bits(16) & ~0x100 | (0x2_0000 if c.chance(5) else 0)
    level = c.pick((0, 0, 0, 3))
    selectors = [DATA0 | level and 0x3B, CODE32 | level and 0x33, DATA0 | level and 0x3B]
    selectors = [s if c.chance(85) else m.selector() for s in (*selectors, *selectors[:1] * (count - 3))]
    values = [c.pick((OTHER_CODE, OTHER_CODE, c.bits(20))), flags, *registers, *selectors]
    image = b"".join((value & (1 << 8 * size) - 1).to_bytes(size, "little") for value in values)
    m.put(OTHER_TSS + start, image)
    m.put(OTHER_TSS + (0x60 if wide else 0x2A), c.pick((0, 0, 0x70, m.selector())).to_bytes(2, "little"))
    if wide:
        m.put(OTHER_TSS + 0x1C, TABLES.to_bytes(4, "little"))
        m.put(OTHER_TSS + 0x64, bytes([c.pick((0, 0, 0, 1))]))
    kind = c.pick(("far", "far", "far", "iret", "int", "fault"))
    busy = 2 if kind == "iret" and c.chance(85) else 0
    limit = c.pick((0x67, 0x67, 0xFF, 0x2B, 0x66))
    entry = descriptor((9 if wide else 1) | 0x80 | busy | m.mode.cpl << 5, OTHER_TSS, limit)
    task = m.own_entry(entry, 0)
    if kind == "iret":
        m.state.rflags |= 0x4000
        m.put(TSS, task.to_bytes(2, "little"))
        return b"\xcf"
    through = gate(0x85 | c.pick((0, 0x60)), task, 0)
    if kind == "far":
        selector = task if c.chance(60) else m.own_entry(through, 0) | m.mode.cpl
        if c.chance(10):
            m.put(m.state.gdtr[0] + (0x60 & ~7) + 5, bytes([0x8B]))
        return (
            c.pick((b"\xea", b"\x9a")) + (bytes(2) if m.mode.bits == 16 else bytes(4)) + selector.to_bytes(2, "little")
        )
    vector = c.pick((0x30, 3, 4, 6, 13))
    m.put(IDT + 8 * vector, through.to_bytes(8, "little"))
    if c.chance(30):
        m.put(IDT + 8 * 8, gate(0x85, task, 0).to_bytes(8, "little"))
    if kind == "int":
        return {3: b"\xcc", 4: b"\xce"}.get(vector, bytes([0xCD, vector]))
    return {6: b"\x0f\x0b", 13: b"\x0f\x00\xd8"}.get(vector, b"\xf1")


def _case(mode: Mode, family: str, seed: int) -> SystemCase:
    if family != "tasks":
        return make_system_case(mode, family, seed)
    made = Maker.of(mode, Choices(seed << 64 | sum(ord(letter) << 3 * i for i, letter in enumerate(mode.name))))
    return SystemCase(mode, tasks(made), made.state, made.patches, family, seed)


def _families(mode: Mode) -> list[str]:
    return [*FAMILIES, *(["tasks"] * 3 if mode.kind == "protected" else [])]


@pytest.fixture(scope="module")
def sides(handlers: HandlerStore) -> Callable[[Mode, str], tuple[TrapgateMachine, VirtualSide]]:
    """The bare machine and the virtual one."""
    return lambda mode, technique: (TrapgateMachine(mode, handlers), VirtualSide(mode, technique, handlers))


@pytest.mark.parametrize("technique", _COMPARED)
@pytest.mark.parametrize("mode", MODES.values(), ids=list(MODES))
def test_a_guest_does_what_the_bare_machine_does(
    pytestconfig: pytest.Config,
    sides: Callable[[Mode, str], tuple[TrapgateMachine, VirtualSide]],
    mode: Mode,
    technique: str,
) -> None:
    bare, virtual = sides(mode, technique)
    families = _families(mode)
    wanted = pytestconfig.getoption("--oracle-cases", default=0)
    first = pytestconfig.getoption("--oracle-seed", default=0) if wanted else 0
    found: dict[str, str] = {}
    skipped = differing = 0
    for number in range(wanted or _FEW * len(families)):
        case = _case(mode, families[number % len(families)], first + number // len(families) * 3 + number % 3)
        expected = bare.run_one(case)
        if expected.ended in (OUTSIDE, UNIMPLEMENTED, ENDLESS):
            skipped += 1
            bare.clear_beyond()
            continue
        got = virtual.run_one(case)
        if got.ended == OUTSIDE:
            skipped += 1  # a device's registers, which the bare side has none of
            continue
        lines, difference = compare(case, expected, got)
        if difference is not None:
            differing += 1
            text = describe(case, expected, got, lines).replace("KVM", "bare").replace("trapgate", technique)
            found.setdefault(f"{case.family} {difference.mnemonic}", text)
    print(f"{mode.name} {technique}: {skipped} not compared")
    assert not found, f"{differing} cases differ\n\n" + "\n\n".join(list(found.values())[:_SHOWN])
