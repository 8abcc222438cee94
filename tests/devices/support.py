"""What the tests of devices share: a clock, pins that record, and lines that record."""

from __future__ import annotations

from trapgate.boards.pc import Pc
from trapgate.machine.clock import Clock
from trapgate.machine.console import MemoryConsole
from trapgate.machine.control import RunControl
from trapgate.machine.memory import PhysicalMemory

HZ = 2_000_000_000


class Pins:
    """Records what the board does to the processor."""

    def __init__(self) -> None:
        self.intr = False
        self.nmis = 0
        self.smis = 0
        self.resets = 0
        self.a20 = True

    def set_intr(self, level: bool) -> None:
        self.intr = level

    def pulse_nmi(self) -> None:
        self.nmis += 1

    def pulse_smi(self) -> None:
        self.smis += 1

    def request_reset(self) -> None:
        self.resets += 1

    def set_a20(self, enabled: bool) -> None:
        self.a20 = enabled


class Line:
    """An interrupt line that remembers every change, and counts rising edges."""

    def __init__(self) -> None:
        self.level = False
        self.rises = 0

    def __call__(self, level: bool) -> None:
        if level and not self.level:
            self.rises += 1
        self.level = level


def advance(clock: Clock, cycles: int) -> None:
    """Let `cycles` pass, with every event at its own cycle as the run loop does it."""
    end = clock.now + cycles
    while (deadline := clock.deadline) is not None and deadline <= end:
        clock.now = max(clock.now, deadline)
        clock.run_due()
    clock.now = end


def microseconds(count: float) -> int:
    """Cycles in `count` microseconds."""
    return round(count * HZ / 1_000_000)


class Board:
    """A whole PC with everything around it."""

    def __init__(self, memory_mb: int = 4, now: int = 0, hz: int = HZ) -> None:
        self.clock = Clock(hz)
        self.clock.now = now
        self.pins = Pins()
        self.control = RunControl()
        self.console = MemoryConsole()
        self.pc = Pc(PhysicalMemory(memory_mb << 20), self.clock, self.control, self.pins, self.console)
        self.bus = self.pc.bus

    def inb(self, port: int) -> int:
        return self.bus.read_port(port, 1)

    def outb(self, port: int, value: int) -> None:
        self.bus.write_port(port, 1, value)

    def load(self, address: int) -> int:
        return self.bus.read_memory(address, 4)

    def store(self, address: int, value: int) -> None:
        self.bus.write_memory(address, 4, value)

    def advance(self, cycles: int) -> None:
        advance(self.clock, cycles)
