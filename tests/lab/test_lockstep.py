"""`trapgate lockstep`: the guests of the package pass, and what differs is found and shown."""

from __future__ import annotations

import pytest

from support import Command
from trapgate.engine.hot.operands import Constant
from trapgate.isa.ir import Value
from trapgate.lab.lockstep import memory_difference, run_lockstep
from trapgate.lab.options import RunOptions
from trapgate.machine.memory import PhysicalMemory

pytestmark = pytest.mark.engine


@pytest.mark.parametrize(("hot", "every"), [("always", 997), ("auto", 5003)])
def test_the_embedded_guest_passes(hot: str, every: int) -> None:
    """Its self-tests, with regions around everything and with those of the guest's hot places."""
    options = RunOptions(append="tests" if hot == "always" else "loops=1", memory_size=32 << 20)
    result = run_lockstep(options, hot, every)
    assert not result.difference
    assert result.end == "GuestExit(status=1)"
    assert result.console
    assert result.comparisons > 20
    assert result.installed > 20 or hot == "auto"


def test_comparison_may_begin_late_and_end_early() -> None:
    result = run_lockstep(
        RunOptions(append="loops=1", memory_size=32 << 20, max_instructions=60_000), "auto", 1000, skip=50_000
    )
    assert result.end == "limit"
    assert result.comparisons in (10, 11)
    assert 60_000 <= result.instructions < 60_064


@pytest.fixture
def wrong_regions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Regions add one to immediate operands of 8 bits."""
    right = Constant.read

    def read(operand: Constant) -> Value:
        return right(operand) + 1 if operand.width == 8 else right(operand)

    monkeypatch.setattr(Constant, "read", read)


@pytest.mark.usefixtures("wrong_regions")
def test_a_difference_is_shown(command: Command) -> None:
    """At the first comparison behind it: names and values, the code before it, both processors."""
    answer = command("lockstep", "--hot", "always", "--every", "1", "--max-instructions", "100000", "-m", "32M")
    assert answer.status == 1
    lines = answer.errors.splitlines()
    start = lines.index("trapgate: the machines differ (without the hot tier, with the hot tier always):")
    assert any(": 0x" in line for line in lines[start + 1 : start + 4])
    for text in ("they were equal after", "without the hot tier:", "with the hot tier always:"):
        assert sum(line.startswith(text) for line in lines) == 1


def test_without_a_difference_the_status_is_0(command: Command) -> None:
    answer = command("lockstep", "--max-instructions", "50_000", "-m", "32M")
    assert answer.status == 0
    assert answer.output.startswith("trapgate-guest: 5")
    assert answer.output.endswith("end: limit\n")


@pytest.mark.parametrize("place", [0, 1, 12345, (2 << 20) - 1])
def test_the_first_byte_of_memory_that_differs(place: int) -> None:
    a, b = PhysicalMemory(2 << 20), PhysicalMemory(2 << 20)
    assert memory_difference(a, b) == []
    b.view[place] = 0x5A
    b.view[(2 << 20) - 1] = 0x5A
    (line,) = memory_difference(a, b)
    assert line.startswith(f"memory from guest-physical {place:#x} on: 00")
