"""States that a program saves and goes back to."""

from __future__ import annotations

from pathlib import Path

import pytest

from trapgate import Machine
from trapgate.api.errors import NotBooted
from trapgate.lab.snapshots import SnapshotOfAnother

pytestmark = pytest.mark.engine


def _booted() -> Machine:
    machine = Machine(memory="32M")
    machine.boot("embedded", append="tests")
    return machine


def test_a_machine_goes_back(tmp_path: Path) -> None:
    machine = _booted()
    machine.run(until="real mode")
    state = machine.snapshot()
    rip, instructions = machine.registers.rip, machine.statistics().instructions
    machine.memory.write(0x5000, b"changed")
    first = str(machine.run())
    counts = machine.statistics().guest_counts()
    machine.restore(state)
    assert (machine.registers.rip, machine.statistics().instructions) == (rip, instructions)
    assert machine.memory.read(0x5000, 7) != b"changed"
    assert str(machine.run()) == first
    assert machine.statistics().guest_counts() == counts


def test_another_machine_goes_on_from_a_file(tmp_path: Path) -> None:
    machine = _booted()
    machine.run(instructions=100_000)
    machine.save(tmp_path / "state")
    other = Machine(memory="32M")
    other.load(tmp_path / "state")
    assert other.statistics().guest_counts() == machine.statistics().guest_counts()
    assert str(other.run()) == str(machine.run())
    assert other.statistics().guest_counts() == machine.statistics().guest_counts()
    with pytest.raises(SnapshotOfAnother):
        Machine(memory="64M").load(tmp_path / "state")


def test_there_is_nothing_to_save_before_a_boot() -> None:
    with pytest.raises(NotBooted):
        Machine(memory="32M").snapshot()
