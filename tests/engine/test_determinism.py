"""A run is a function of its inputs: the same guest, the same bytes and counts, whatever the handler cache holds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from trapgate import guests
from trapgate.arch import layout
from trapgate.boards.machine import BareMachine, MachineConfig
from trapgate.engine.compile import CodeFolder
from trapgate.engine.handlers import HandlerStore
from trapgate.firmware.recognise import recognise
from trapgate.machine.console import MemoryConsole
from trapgate.machine.control import GuestExit

pytestmark = pytest.mark.engine


def _run(handlers: HandlerStore, name: str, command_line: str, pieces: int | None = None) -> dict[str, Any]:
    """Everything that a run counts. With `pieces` it is stopped every so many instructions."""
    console = MemoryConsole()
    machine = BareMachine(MachineConfig(memory_size=32 << 20), console, handlers)
    machine.load(recognise(guests.image(name), command_line, name=name))
    processor = machine.processor
    stopped = machine.run(pieces)
    while stopped.reason == "limit":
        stopped = machine.run(pieces)
    return {
        "console": bytes(console.data),
        "end": (stopped.reason, machine.control.request),
        "instructions": processor.instructions,
        "cycles": machine.clock.now,
        "counters": {name: processor.state.counter(name) for name in layout.COUNTER_NAMES},
        "exceptions": processor.exception_counts,
        "interrupts": processor.interrupt_counts,
        "ports": machine.board.bus.port_accesses,
        "registers": [processor.q[i] for i in range(16)],
    }


def test_two_runs_are_equal(handlers: HandlerStore) -> None:
    first = _run(handlers, "trapgate-guest", "loops=2")
    assert first["end"] == ("request", GuestExit(1))
    assert first["instructions"] > 100_000
    assert _run(handlers, "trapgate-guest", "loops=2") == first


def test_an_empty_and_a_warm_handler_cache(tmp_path: Path, handlers: HandlerStore) -> None:
    """Building handlers while the guest waits takes none of its time."""
    cold = HandlerStore(CodeFolder(tmp_path))
    first = _run(cold, "trapgate-guest", "tests")
    assert cold.built > 100
    warm = HandlerStore(CodeFolder(tmp_path))
    assert _run(warm, "trapgate-guest", "tests") == first
    assert warm.built == 0
    assert _run(handlers, "trapgate-guest", "tests") == first


def test_a_run_in_pieces(handlers: HandlerStore) -> None:
    """Stopped and continued at many places: the guest cannot tell, nor can its counts."""
    whole = _run(handlers, "trapgate-guest", "tests")
    pieces = _run(handlers, "trapgate-guest", "tests", 1009)
    assert pieces["console"] == whole["console"]
    assert pieces == whole
