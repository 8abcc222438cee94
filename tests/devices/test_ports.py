"""The small devices on a whole board: system control, ACPI, DMA, debug ports, CMOS."""

from __future__ import annotations

import pytest

from trapgate.machine.control import GuestExit, PowerOff, Reset
from trapgate.machine.errors import SnapshotMismatch

from .support import HZ, Board, microseconds


def test_port_61_shows_refresh_and_the_speakers_timer() -> None:
    board = Board()
    board.outb(0x61, 0x0F)
    assert board.inb(0x61) & 0x0F == 0x0F
    seen = set()
    for _ in range(100):
        board.advance(microseconds(1))
        seen.add(board.inb(0x61) & 0x10)
    assert seen == {0, 0x10}  # 66 kHz toggle
    board.outb(0x61, 0x00)
    board.outb(0x43, 0xB0)
    board.outb(0x42, 0xFF)
    board.outb(0x42, 0x00)
    board.advance(HZ)
    assert board.inb(0x61) & 0x20 == 0  # the gate is closed
    board.outb(0x61, 0x01)
    board.advance(microseconds(213))
    assert board.inb(0x61) & 0x20 == 0
    board.advance(microseconds(3))
    assert board.inb(0x61) & 0x20 == 0x20


def test_both_ways_to_address_line_20() -> None:
    board = Board()
    assert board.inb(0x92) & 2
    board.outb(0x92, 0)
    assert not board.pins.a20
    board.outb(0x64, 0xD1)
    board.outb(0x60, 0xDF)
    assert board.pins.a20
    assert board.inb(0x92) & 2


def test_fast_reset_pulses_once() -> None:
    board = Board()
    board.outb(0x92, 3)
    board.outb(0x92, 3)
    assert board.pins.resets == 1
    assert board.control.request is None


def test_the_reset_register_ends_the_run() -> None:
    board = Board()
    board.outb(0xCF9, 0x02)
    assert board.control.request is None
    board.outb(0xCF9, 0x06)
    assert board.control.request == Reset()


def test_power_off() -> None:
    board = Board()
    assert board.bus.read_port(0x604, 2) == 1  # ACPI mode
    board.bus.write_port(0x604, 2, 5 << 10)
    board.bus.write_port(0x604, 2, 1 << 10 | 1 << 13)  # S1 does not exist
    assert board.control.request is None
    board.bus.write_port(0x604, 2, 5 << 10 | 1 << 13)
    assert board.control.request == PowerOff()
    assert board.bus.read_port(0x604, 2) == 5 << 10 | 1


def test_the_pm_timer() -> None:
    board = Board()
    board.advance(HZ)
    assert board.bus.read_port(0x608, 4) == 3_579_545
    assert board.inb(0x609) == 3_579_545 >> 8 & 0xFF
    board.advance(4 * HZ)
    assert board.bus.read_port(0x608, 4) == 5 * 3_579_545 - (1 << 24)
    assert board.bus.read_port(0x600, 2) == 1  # the top bit changed
    board.bus.write_port(0x600, 2, 1)
    assert board.bus.read_port(0x600, 2) == 0


def test_the_system_control_interrupt_is_a_level() -> None:
    board = Board()
    board.store(0xFEC0_0000, 0x10 + 2 * 9)
    board.store(0xFEC0_0010, 0x8059)
    board.pc.acpi.press_power_button()
    assert not board.pins.intr
    board.bus.write_port(0x602, 2, 0x100)
    assert board.pc.acknowledge() == 0x59
    board.store(0xFEE0_00B0, 0)
    assert board.pc.acknowledge() == 0x59
    board.bus.write_port(0x600, 2, 0x100)
    board.store(0xFEE0_00B0, 0)
    assert not board.pins.intr
    board.bus.write_port(0x602, 2, 0x001)
    board.advance(3 * HZ)  # the timer's top bit changes after 2.34 s
    assert board.pc.acknowledge() == 0x59


def test_debug_exit() -> None:
    board = Board()
    assert board.bus.read_port(0xF4, 4) == 0
    board.bus.write_port(0xF4, 4, 0x10)
    assert board.control.request == GuestExit(0x21)


def test_debug_console_and_post_codes() -> None:
    board = Board()
    for byte in b"hi":
        board.outb(0xE9, byte)
    assert board.console.data == b"hi"
    assert board.inb(0xE9) == 0xE9
    board.outb(0x80, 0x5A)
    assert board.inb(0x80) == 0x5A


@pytest.mark.parametrize(("base", "step"), [(0x00, 1), (0xC0, 2)])
def test_dma_registers(base: int, step: int) -> None:
    board = Board()

    def port(register: int) -> int:
        return base + register * step

    board.outb(port(13), 0)  # master clear
    assert board.inb(port(15)) == 0xFF
    board.outb(port(2), 0x34)
    board.outb(port(2), 0x12)
    assert [board.inb(port(2)), board.inb(port(2))] == [0x34, 0x12]
    board.inb(port(2))
    board.outb(port(12), 0)  # clear the byte pointer
    assert board.inb(port(2)) == 0x34
    board.outb(port(10), 0x02)
    assert board.inb(port(15)) == 0xFB
    board.outb(port(14), 0)
    assert board.inb(port(15)) == 0xF0
    board.outb(port(9), 0x05)
    assert board.inb(port(8)) == 0x20
    board.outb(0x87, 0x77)
    assert board.inb(0x87) == 0x77


@pytest.mark.parametrize(("megabytes", "extended", "above16"), [(4, 3 * 1024, 0), (128, 0xFFFF, 1792)])
def test_cmos_describes_the_memory(megabytes: int, extended: int, above16: int) -> None:
    board = Board(megabytes)

    def word(index: int) -> int:
        value = 0
        for offset in (1, 0):
            board.outb(0x70, index + offset)
            value = value << 8 | board.inb(0x71)
        return value

    assert word(0x15) == 640
    assert word(0x17) == word(0x30) == extended
    assert word(0x34) == above16
    assert word(0x5B) == 0


def test_there_is_no_pci() -> None:
    board = Board()
    board.bus.write_port(0xCF8, 4, 0x8000_0000)
    assert board.bus.read_port(0xCF8, 4) == 0xFFFF_FFFF
    assert board.bus.read_port(0xCFC, 4) == 0xFFFF_FFFF


def test_accesses_are_counted_by_device() -> None:
    board = Board()
    board.inb(0x21)
    board.inb(0xA1)
    board.inb(0x3FD)
    board.load(0xFEE0_0020)
    assert board.bus.port_accesses["pic"] == 2
    assert board.bus.port_accesses["com1"] == 1
    assert board.bus.memory_accesses["lapic"] == 1


def test_a_foreign_snapshot_is_refused() -> None:
    board = Board()
    snapshot = board.pc.serial.snapshot()
    del snapshot["scratch"]
    with pytest.raises(SnapshotMismatch, match="take the snapshot again"):
        board.pc.serial.restore(snapshot)
