"""The display interface. Source: Bochs, vbe_display_api.txt."""

from __future__ import annotations

import pytest

from .world import LINEAR, World


def test_identification_takes_known_versions_alone() -> None:
    world = World()
    assert world.dispi(0) == 0xB0C5
    assert world.dispi(0, 0xB0C0) == 0xB0C0
    assert world.dispi(0, 0x1234) == 0xB0C0


def test_capabilities() -> None:
    world = World()
    world.dispi(4, 0x02)
    assert [world.dispi(n) for n in (1, 2, 3)] == [2560, 1600, 32]
    world.dispi(4, 0)
    assert [world.dispi(n) for n in (1, 2)] == [0, 0]


def test_a_mode_begins_cleared_at_its_first_dot() -> None:
    world = World()
    world.store(LINEAR + 77, 0x55)
    world.linear_mode(800, 600, 32)
    assert world.load(LINEAR + 77) == 0
    assert [world.dispi(n) for n in (6, 7, 8, 9)] == [800, (16 << 20) // 3200, 0, 0]
    world.store(LINEAR + 77, 0x55)
    world.linear_mode(800, 600, 32, flags=0xC1)  # keep memory
    assert world.load(LINEAR + 77) == 0x55


@pytest.mark.parametrize(
    "mode", [(0, 480, 32), (640, 0, 8), (640, 480, 4), (640, 480, 12), (2561, 10, 8), (2560, 1700, 8)]
)
def test_modes_that_there_are_not(mode: tuple[int, int, int]) -> None:
    world = World()
    world.linear_mode(*mode)
    assert not world.dispi(4) & 1
    assert world.vga.faults == {"a mode that there is not": 1}


def test_size_and_depth_are_fixed_while_it_is_enabled() -> None:
    world = World()
    world.linear_mode(640, 480, 8)
    assert world.dispi(1, 800) == 640
    assert world.vga.faults == {"mode changed while it is displayed": 1}


def test_the_displayed_part_cannot_leave_the_frame_buffer() -> None:
    world = World()
    world.linear_mode(1024, 768, 32)
    most = (16 << 20) // 4096 - 768
    assert world.dispi(9, most) == most
    assert world.dispi(9, most + 1) == most
    assert world.dispi(8, 1) == 0
    assert world.vga.faults == {"an offset outside the frame buffer": 2}
    assert world.dispi(6, 1023) == 1024
    world.dispi(9, 0)
    assert world.dispi(6, 2048) == 2048
    assert world.dispi(7) == 2048
    world.store(LINEAR + 4 * 2048, 0xFF, 1)
    assert world.dot(0, 1) == (0, 0, 255)


@pytest.mark.parametrize(
    ("depth", "value", "width", "shown"),
    [(8, 0x04, 1, (170, 0, 0)), (15, 0x7C30, 2, (255, 8, 132)), (16, 0xF830, 2, (255, 4, 132)),
     (24, 0x123456, 3, (0x12, 0x34, 0x56)), (32, 0xFF12_3456, 4, (0x12, 0x34, 0x56))],
)  # fmt: skip
def test_dots_of_each_depth(depth: int, value: int, width: int, shown: tuple[int, int, int]) -> None:
    world = World()
    world.mode(0x13)  # for its colours
    world.linear_mode(320, 200, depth)
    place = LINEAR + width * (320 * 7 + 9)
    for n in range(width):
        world.store(place + n, value >> 8 * n & 0xFF)
    assert world.dot(9, 7) == shown
    assert world.dot(8, 7) == (0, 0, 0)


def test_a_dac_of_eight_bits() -> None:
    world = World()
    world.linear_mode(320, 200, 8, flags=0x61)
    world.outb(0x3C8, 1)
    for value in (0xFF, 0x80, 0x01):
        world.outb(0x3C9, value)
    world.store(LINEAR, 1)
    assert world.dot(0, 0) == (0xFF, 0x80, 0x01)
