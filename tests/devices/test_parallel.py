"""The parallel port: registers, handshake and interrupt, by IBM's Technical Reference and IEEE 1284."""

from __future__ import annotations

from trapgate.boards.pc import LPT1, Pc, PcConfig
from trapgate.devices.parallel import CONTROL, DATA, STATUS, ParallelPort
from trapgate.machine.clock import Clock
from trapgate.machine.console import MemoryConsole
from trapgate.machine.control import RunControl
from trapgate.machine.memory import PhysicalMemory

from .support import HZ, Line, Pins, advance, microseconds

READY = 0xDF
IDLE, STROBE, WITH_IRQ = 0x0C, 0x0D, 0x10


class Printer:
    def __init__(self) -> None:
        self.clock, self.line, self.paper = Clock(HZ), Line(), MemoryConsole()
        self.port = ParallelPort("parallel", self.clock, self.line, self.paper)

    def out(self, offset: int, value: int) -> None:
        self.port.write_port(offset, 1, value)

    def status(self) -> int:
        return self.port.read_port(STATUS, 1)

    def print(self, byte: int, more: int = 0) -> None:
        self.out(DATA, byte)
        self.out(CONTROL, STROBE | more)
        self.out(CONTROL, IDLE | more)

    def wait(self, count: float) -> None:
        advance(self.clock, microseconds(count))


def test_registers_can_be_read_back() -> None:
    printer = Printer()
    for value in (0x00, 0xAA, 0x55, 0xFF):
        printer.out(DATA, value)
        assert printer.port.read_port(DATA, 1) == value
    for value in (0x0C, 0x0E):
        printer.out(CONTROL, value)
        assert printer.port.read_port(CONTROL, 1) == 0xE0 | value
    printer.out(STATUS, 0)
    assert printer.status() == READY


def test_a_strobe_prints_and_is_acknowledged() -> None:
    printer = Printer()
    printer.out(DATA, 0x41)
    printer.out(CONTROL, STROBE)
    assert printer.paper.data == b"A"
    printer.wait(100)
    assert printer.status() == READY & ~0x80  # busy as long as the strobe is there
    printer.out(CONTROL, IDLE)
    seen = []
    for _ in range(12):
        seen.append(printer.status())
        printer.wait(1)
    assert seen == [READY & ~0x80] * 5 + [READY & ~0xC0] * 5 + [READY] * 2
    assert printer.line.rises == 0


def test_a_byte_for_a_busy_printer_is_lost() -> None:
    printer = Printer()
    printer.print(0x41)
    printer.print(0x42)
    printer.wait(10)
    printer.print(0x43)
    assert printer.paper.data == b"AC"


def test_a_printer_that_is_not_selected_or_starts_again_takes_nothing() -> None:
    printer = Printer()
    for control in (0x04, 0x08, 0x00):
        printer.out(CONTROL, control)
        printer.out(CONTROL, control | 1)
        printer.out(CONTROL, control)
        printer.wait(20)
    assert printer.paper.data == b""
    printer.print(0x41)
    printer.out(CONTROL, 0x08)  # initialised while busy
    assert printer.status() == READY


def test_an_interrupt_ends_the_acknowledgement_and_goes_when_the_status_is_read() -> None:
    printer = Printer()
    printer.print(0x41, WITH_IRQ)
    printer.wait(9.9)
    assert not printer.line.level
    printer.wait(0.2)
    assert printer.line.level
    assert printer.status() == READY
    assert not printer.line.level
    printer.print(0x42, WITH_IRQ)
    printer.wait(20)
    printer.out(CONTROL, IDLE)
    assert not printer.line.level
    assert printer.line.rises == 2


def test_an_interrupt_that_is_enabled_before_the_acknowledgement_ends() -> None:
    printer = Printer()
    printer.print(0x41)
    printer.wait(5)
    printer.out(CONTROL, IDLE | WITH_IRQ)
    printer.wait(5)
    assert printer.line.level
    printer.out(CONTROL, IDLE)
    printer.out(CONTROL, IDLE | WITH_IRQ)
    printer.wait(20)
    assert printer.line.rises == 1


def test_a_snapshot_in_the_middle_of_a_byte() -> None:
    first = Printer()
    first.print(0x41, WITH_IRQ)
    first.wait(7)
    second = Printer()
    second.clock.now = first.clock.now
    second.port.restore(first.port.snapshot())
    for printer in (first, second):
        assert printer.status() == READY & ~0xC0
        printer.wait(3)
        assert printer.line.level
        assert printer.status() == READY
    assert first.port.snapshot() == second.port.snapshot()


def test_it_is_on_the_board_where_something_is_connected() -> None:
    paper = MemoryConsole()
    config = PcConfig(parallel=paper)
    with_one = Pc(PhysicalMemory(1 << 20), Clock(HZ), RunControl(), Pins(), MemoryConsole(), config)
    without = Pc(PhysicalMemory(1 << 20), Clock(HZ), RunControl(), Pins(), MemoryConsole())
    assert (with_one.bus.read_port(LPT1 + 1, 1), without.bus.read_port(LPT1 + 1, 1)) == (READY, 0xFF)
    assert "parallel" in with_one.snapshot()
    with_one.bus.write_port(LPT1, 1, 0x58)
    with_one.bus.write_port(LPT1 + 2, 1, STROBE | WITH_IRQ)
    with_one.bus.write_port(LPT1 + 2, 1, IDLE | WITH_IRQ)
    advance(with_one.clock, microseconds(20))
    assert paper.data == b"X"
    assert with_one.ioapic.levels >> 7 & 1
