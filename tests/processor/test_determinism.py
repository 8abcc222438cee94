"""The same guest gives the same numbers: twice, and whether or not its handlers were compiled before."""

from __future__ import annotations

from pathlib import Path

from trapgate import guests
from trapgate.arch import layout
from trapgate.boards.machine import BareMachine, MachineConfig
from trapgate.engine.compile import CodeFolder
from trapgate.engine.handlers import HandlerStore
from trapgate.firmware.recognise import recognise
from trapgate.machine.console import MemoryConsole


def _run(store: HandlerStore) -> tuple[object, ...]:
    console = MemoryConsole()
    machine = BareMachine(MachineConfig(memory_size=32 << 20), console, store)
    machine.load(recognise(guests.image("trapgate-guest"), "tests", name="trapgate-guest"))
    machine.run()
    processor = machine.processor
    counters = tuple(processor.state.counter(name) for name in layout.COUNTER_NAMES)
    ports = machine.board.bus.port_accesses
    return (
        bytes(console.data), processor.instructions, machine.clock.now, counters, ports,
        processor.exception_counts, processor.interrupt_counts,
    )  # fmt: skip


def test_two_runs_and_two_caches(tmp_path: Path) -> None:
    folder = CodeFolder(tmp_path)
    cold = HandlerStore(folder)
    first = _run(cold)
    assert cold.built > 0
    warm = HandlerStore(folder)
    assert _run(warm) == first
    assert warm.built == 0
    assert _run(warm) == first
    assert b" 0 failed" in first[0]  # type: ignore[operator]
