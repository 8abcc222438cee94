"""Alignment checks at CPL 3: the emulator against trapgate's processor."""

from __future__ import annotations

import pytest

from oracle.areas import State
from oracle.budget import sweeps
from oracle.check import cases_of, failures, report
from oracle.trapgate_side import TrapgateProcessor
from trapgate.arch import layout
from trapgate.arch.registers import AC, CR0_AM
from vmm.emulator_side import EmulatorProcessor, Guest
from vmm.test_emulate_forms import forms

pytestmark = pytest.mark.xdist_group("oracle")


class _Checked(EmulatorProcessor):
    def guest(self, state: State) -> Guest:
        guest = super().guest(state)
        guest.cr0 |= CR0_AM
        return guest


def test_misaligned_operands(pytestconfig: pytest.Config, trapgate64: TrapgateProcessor) -> None:
    block = trapgate64.processor.state
    cr0 = block.get(layout.CR0)
    block.set(layout.CR0, cr0 | CR0_AM)
    emulator = _Checked("long64")
    found, checked = [], 0
    try:
        for pairs in sweeps(pytestconfig, forms("long64"), default=1):
            cases = cases_of(pairs)
            for case in cases:
                case.state.rflags |= AC
            checked += sum(outcome.vector == 17 for outcome in emulator.run(cases))
            found += failures(trapgate64, emulator, cases)
    finally:  # other tests use this processor
        block.set(layout.CR0, cr0)
    assert not found, report(found)
    assert checked
