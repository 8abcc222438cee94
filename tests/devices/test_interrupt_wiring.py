"""How interrupts reach the processor on the board: 8259s, virtual wire, I/O APIC."""

from __future__ import annotations

import pytest

from trapgate.machine.errors import UnimplementedDevice

from .support import Board, microseconds


def program_pics(board: Board) -> None:
    for command, data, base, cascade in ((0x20, 0x21, 0x30, 4), (0xA0, 0xA1, 0x38, 2)):
        board.outb(command, 0x11)
        for value in (base, cascade, 1, 0):
            board.outb(data, value)


def one_shot(board: Board) -> None:
    """Channel 0: one edge 10 us from now."""
    board.outb(0x43, 0x30)
    board.outb(0x40, 12)
    board.outb(0x40, 0)


def test_firmware_leaves_everything_masked() -> None:
    board = Board()
    board.advance(microseconds(200_000))
    assert not board.pins.intr


def test_the_pic_reaches_the_processor_through_the_virtual_wire() -> None:
    board = Board()
    program_pics(board)
    one_shot(board)
    board.advance(microseconds(12))
    assert board.pins.intr
    assert board.pc.acknowledge() == 0x30
    assert not board.pins.intr


def test_the_pic_reaches_the_processor_when_the_apic_is_off() -> None:
    board = Board()
    board.pc.lapic.apic_base &= ~0x800
    assert board.load(0xFEE0_0030) == 0xFFFF_FFFF
    program_pics(board)
    one_shot(board)
    board.advance(microseconds(12))
    assert board.pc.acknowledge() == 0x30


def test_the_timer_is_input_2_of_the_io_apic() -> None:
    board = Board()
    board.store(0xFEC0_0000, 0x14)
    board.store(0xFEC0_0010, 0x31)
    one_shot(board)
    board.advance(microseconds(12))
    assert board.pc.acknowledge() == 0x31


def test_the_pic_through_the_io_apic() -> None:
    board = Board()
    board.store(0xFEE0_0350, 0x10000)  # LINT0 masked
    program_pics(board)
    board.store(0xFEC0_0000, 0x10)
    board.store(0xFEC0_0010, 0x700)
    one_shot(board)
    board.advance(microseconds(12))
    assert board.pc.acknowledge() == 0x30
    assert not board.pins.intr


def test_the_apics_own_vector_comes_before_the_pics() -> None:
    board = Board()
    program_pics(board)
    one_shot(board)
    board.advance(microseconds(12))
    board.store(0xFEE0_0300, 1 << 18 | 0x80)
    assert board.pc.acknowledge() == 0x80
    assert board.pins.intr
    assert board.pc.acknowledge() == 0x30


def test_acknowledging_nothing_gives_the_spurious_vector() -> None:
    board = Board()
    board.store(0xFEE0_00F0, 0x1EF)
    assert board.pc.acknowledge() == 0xEF


@pytest.mark.parametrize(("port", "irq"), [(0x3F8, 4), (0x2F8, 3)])
def test_serial_interrupts(port: int, irq: int) -> None:
    board = Board()
    program_pics(board)
    board.outb(port + 4, 0x08)
    board.outb(port + 1, 0x02)
    assert board.pc.acknowledge() == 0x30 + irq


def test_keyboard_mouse_and_clock_interrupts() -> None:
    board = Board()
    program_pics(board)
    board.outb(0x64, 0x60)
    board.outb(0x60, 0x47)
    board.outb(0x60, 0xEE)
    assert board.pc.acknowledge() == 0x31
    board.inb(0x60)
    board.outb(0x20, 0x20)
    board.outb(0x64, 0xD3)
    board.outb(0x60, 0x01)
    assert board.pc.acknowledge() == 0x3C
    board.outb(0xA0, 0x20)
    board.outb(0x20, 0x20)
    board.outb(0x70, 0x0B)
    board.outb(0x71, 0x42)
    board.advance(microseconds(1000))
    assert board.pc.acknowledge() == 0x38


def test_the_apics_registers_move_with_the_msr() -> None:
    board = Board()
    board.pc.lapic.apic_base = 0xFD00_0900
    assert board.load(0xFEE0_0030) == 0xFFFF_FFFF
    assert board.load(0xFD00_0030) == 0x0005_0010
    with pytest.raises(UnimplementedDevice, match="over RAM"):
        board.pc.lapic.apic_base = 0x10_0900


def test_two_boards_with_the_same_input_agree() -> None:
    boards = [Board(), Board()]
    for board in boards:
        program_pics(board)
        board.outb(0x3FC, 8)
        board.outb(0x3F9, 1)
        board.pc.serial.receive(b"determinism")
        board.advance(microseconds(50_000))
    assert boards[0].pc.snapshot() == boards[1].pc.snapshot()
