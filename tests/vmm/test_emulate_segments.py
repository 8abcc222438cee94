"""Segment bases, limits and rights, 16- and 32-bit stacks: the emulator against trapgate's processor."""

from __future__ import annotations

import dataclasses

import pytest
from iced_x86 import Decoder

from oracle import areas
from oracle.areas import Case
from oracle.compare import describe, differences
from oracle.generate import make_case
from oracle.trapgate_side import TrapgateProcessor
from oracle.values import Choices
from trapgate.arch.registers import CS, SEGMENT_NAMES
from trapgate.arch.segments import ATTRIBUTE_DB, ATTRIBUTE_DC, ATTRIBUTE_P, ATTRIBUTE_S, CODE_ACCESSED, DATA_RW_ACCESSED
from vmm.emulator_side import EmulatorProcessor, Segment, flat_segments
from vmm.test_emulate_forms import forms

pytestmark = pytest.mark.xdist_group("oracle")
_CASES = 300
#: es, cs, ss, ds, fs, gs.
_OVERRIDES = (0x26, 0x2E, 0x36, 0x3E, 0x64, 0x65)
_READABLE_OR_WRITABLE = 2


def _segment(choices: Choices, mode: str, near: int) -> Segment:
    """A data segment of any kind whose limit is often near the offset `near`."""
    # Upwards alone: below the window is what other cases have left there.
    base = choices.pick((0, 0, 0, choices.between(0, 8)))
    limit = choices.pick((0xFFFF_FFFF, 0xFFFF, near + choices.between(-20, 20), near + choices.between(-20, 20)))
    attributes = DATA_RW_ACCESSED
    if mode != "real16":
        limit = choices.pick((limit, 0xFFFF_FFFF))
        attributes |= ATTRIBUTE_DB * choices.bits(1)
        kind = choices.between(0, 9)
        if kind < 3:
            attributes |= ATTRIBUTE_DC
            limit = choices.pick((near - 1, near, near - choices.between(0, 100), 0xFFF))
        elif kind < 5:
            attributes |= CODE_ACCESSED
        if choices.chance(15):
            attributes &= ~_READABLE_OR_WRITABLE
        if choices.chance(5):
            attributes &= ~choices.pick((ATTRIBUTE_P, ATTRIBUTE_S))
    return choices.bits(16), base, limit & 0xFFFF_FFFF, attributes


def _with_override(case: Case, choices: Choices) -> Case:
    """The case with a segment override in front, if it remains the instruction that it was."""
    code = bytes([choices.pick(_OVERRIDES)]) + case.code
    decoded = Decoder(case.bits, code, ip=case.state.rip).decode()
    before = Decoder(case.bits, case.code, ip=case.state.rip).decode()
    if decoded.code != before.code or decoded.len != len(code):
        return case
    return dataclasses.replace(case, code=code, text=str(decoded))


def _loaded(trapgate: TrapgateProcessor, segments: list[Segment]) -> None:
    for register, segment in zip(trapgate.processor.segments, segments, strict=True):
        register.load(*segment)


def _compare(config: pytest.Config, trapgate: TrapgateProcessor, mode: str) -> None:
    wanted_cases = config.getoption("--oracle-cases", default=0)
    count, first = wanted_cases or _CASES, config.getoption("--oracle-seed", default=0) if wanted_cases else 0
    faults = 0
    emulator = EmulatorProcessor(mode)
    as_they_were = [(s.selector, s.base, s.limit, s.attributes) for s in trapgate.processor.segments]
    try:
        for seed in range(first, first + count):
            choices = Choices(seed << 8 | 77)
            form = choices.pick(forms(mode))
            case = make_case(form, seed, seed % areas.PLACES[mode].slot_count)
            if choices.bits(1):
                case = _with_override(case, choices)
            near = case.operand_offset + areas.PLACES[mode].window
            if case.operand_offset < 0:
                near = case.state.gpr[choices.pick((4, 6, 7))] & 0xFFFF
            segments = flat_segments(mode)
            for number in range(6):
                if number != CS and choices.chance(70):
                    segments[number] = _segment(choices, mode, near)
            _loaded(trapgate, segments)
            if mode == "real16":  # what is above the window is there, too
                trapgate.memory.write(areas.PLACES[mode].unmapped, bytes(64))
            emulator.segments = segments
            (got,) = emulator.run([case])
            if form.family == "branch" and got.vector < 0 and abs(got.state.rip - case.state.rip) > areas.SLOT_START:
                continue  # it read a target that nobody has chosen
            (wanted,) = trapgate.run([case])
            lines = differences(case, wanted, got)
            named = zip(SEGMENT_NAMES, segments, strict=True)
            shown = " ".join(f"{name}=({', '.join(map(hex, segment))})" for name, segment in named)
            assert not lines, f"{describe(case, lines)}\n  {shown}"
            faults += wanted.vector in (12, 13)
    finally:  # other tests use this processor
        _loaded(trapgate, as_they_were)
    assert count // 20 < faults < count // 2


def test_32_bit_segments(pytestconfig: pytest.Config, trapgate32: TrapgateProcessor) -> None:
    _compare(pytestconfig, trapgate32, "protected32")


def test_real_mode_segments(pytestconfig: pytest.Config, trapgate16: TrapgateProcessor) -> None:
    _compare(pytestconfig, trapgate16, "real16")
