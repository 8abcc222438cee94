"""The VGA's registers. Source of each rule: IBM PS/2 Hardware Interface Technical Reference, "Video Subsystem" (PS/2
HITR); FreeVGA where it says so."""

from __future__ import annotations

from itertools import pairwise

import pytest

from devices.support import HZ

from .world import World


def test_index_and_data_by_bytes_and_by_words() -> None:
    world = World()
    world.set(0x3C4, 2, 0x0F)
    assert world.get(0x3C4, 2) == 0x0F
    assert world.inb(0x3C4) == 2
    world.set(0x3CE, 8, 0xA5)
    assert world.get(0x3CE, 8) == 0xA5
    # Indexes without a register.
    world.set(0x3CE, 0x0F, 0xFF)
    assert world.get(0x3CE, 0x0F) == 0


@pytest.mark.parametrize(
    ("port", "index", "bits"),
    [(0x3C4, 1, 0x3D), (0x3C4, 2, 0x0F), (0x3C4, 4, 0x0E), (0x3CE, 5, 0x7B), (0x3CE, 6, 0x0F)],
)
def test_bits_that_do_not_exist_read_as_zero(port: int, index: int, bits: int) -> None:
    world = World()
    world.set(port, index, 0xFF)
    assert world.get(port, index) == bits


def test_the_attribute_controllers_flip_flop_is_reset_by_input_status_1() -> None:
    """PS/2 HITR, attribute controller: index and data take turns at 3C0h, reads are at 3C1h."""
    world = World()
    world.mode(3)
    world.inb(0x3DA)
    world.outb(0x3C0, 0x11)
    world.outb(0x3C0, 0x2A)
    world.outb(0x3C0, 0x31)  # an index again
    assert world.inb(0x3C1) == 0x2A
    world.inb(0x3DA)
    world.outb(0x3C0, 0x13)
    world.outb(0x3C0, 0x07)
    assert world.inb(0x3C0) == 0x13
    assert world.inb(0x3C1) == 0x07


def test_the_palette_is_the_displays_while_the_screen_is_on() -> None:
    """PS/2 HITR, attribute address register, bit 5 (PAS)."""
    world = World()
    world.mode(3)
    for index, value in ((0x21, 0x3F), (0x01, 0x15)):  # with the screen on, and off
        world.inb(0x3DA)
        world.outb(0x3C0, index)
        world.outb(0x3C0, value)
        assert world.inb(0x3C1) == (0x01 if index & 0x20 else 0x15)
    assert not world.vga.registers.is_shown


def test_the_crt_controllers_ports_follow_the_kind_of_display() -> None:
    """PS/2 HITR, miscellaneous output register, bit 0."""
    world = World()
    world.outb(0x3C2, 0x01)
    world.set(0x3D4, 0x0E, 0x12)
    assert world.get(0x3D4, 0x0E) == 0x12
    assert world.inb(0x3B5) == 0xFF
    world.outb(0x3C2, 0x00)
    assert world.inb(0x3D5) == 0xFF
    assert world.get(0x3B4, 0x0E) == 0x12
    assert world.inb(0x3CC) == 0x00


def test_crt_controller_registers_0_to_7_can_be_protected() -> None:
    """PS/2 HITR, vertical retrace end register, bit 7; bit 4 of the overflow register is not protected."""
    world = World()
    world.mode(3)
    world.set(0x3D4, 0x11, 0x80 | world.get(0x3D4, 0x11))
    before = [world.get(0x3D4, n) for n in range(8)]
    for n in range(8):
        world.set(0x3D4, n, before[n] ^ 0xFF)
    after = [world.get(0x3D4, n) for n in range(8)]
    assert after[:7] == before[:7]
    assert after[7] == before[7] ^ 0x10


def test_the_dac_counts_through_red_green_and_blue() -> None:
    """PS/2 HITR, video DAC: one index for reads, one for writes, six bits, three accesses each."""
    world = World()
    world.outb(0x3C8, 0xFF)
    for value in (1, 2, 3, 0xFF, 5, 6):
        world.outb(0x3C9, value)
    world.outb(0x3C7, 0xFF)
    assert world.inb(0x3C7) == 3
    assert [world.inb(0x3C9) for _ in range(6)] == [1, 2, 3, 0x3F, 5, 6]  # it wraps to 0
    world.outb(0x3C8, 0)
    assert world.inb(0x3C7) == 0
    world.outb(0x3C6, 0x0F)
    assert world.inb(0x3C6) == 0x0F


def test_vertical_retrace_comes_seventy_times_a_second() -> None:
    """PS/2 HITR, input status register 1: bit 3 in mode 3, 449 lines of 900 dots at 28.322 MHz."""
    world = World()
    world.mode(3)
    starts, before = [], True
    for step in range(40_000):
        world.clock.now = step * (HZ // 400_000)  # a tenth of a second in pieces of 2.5 us
        now = bool(world.inb(0x3DA) & 8)
        if now and not before:
            starts.append(world.clock.now)
        before = now
    periods = {round((b - a) / (HZ / 70.086), 2) for a, b in pairwise(starts)}
    assert len(starts) == 7
    assert periods == {1.0}


def test_the_display_is_disabled_for_a_part_of_each_line_and_frame() -> None:
    world = World()
    world.mode(0x12)
    seen = []
    for step in range(20_000):
        world.clock.now = step * (HZ // 1_000_000)
        seen.append(world.inb(0x3DA) & 1)
    assert 0.15 < sum(seen) / len(seen) < 0.40


def test_reset_turns_the_screen_off() -> None:
    world = World()
    world.mode(3)
    world.vga.reset()
    assert not world.vga.registers.is_shown
    assert world.get(0x3C4, 4) == 0
    assert world.picture().rgb == bytes(len(world.picture().rgb))
