"""Write modes, read modes, latches and addressing. Source: PS/2 HITR, "Video Subsystem", graphics controller; FreeVGA,
"VGA Memory Access". A naive model of one bit at a time says what each write leaves."""

from __future__ import annotations

import random

import pytest

from .world import World

WINDOW = 0xA0000


def planes_at(world: World, offset: int) -> list[int]:
    world.vga.synchronize()
    return [plane[offset] for plane in world.vga.planes.data]


def model(graphics: list[int], mask: int, latches: list[int], old: list[int], value: int) -> list[int]:
    """What one write leaves in the four planes, bit by bit."""
    set_reset, enable, _, rotate, _, mode, _, _, bit_mask = graphics
    result = list(old)
    for plane in range(4):
        if not mask >> plane & 1:
            continue
        byte = 0
        for bit in range(8):
            latch = latches[plane] >> bit & 1
            data = value >> (bit + (rotate & 7)) % 8 & 1
            through = bit_mask >> bit & 1
            source = set_reset >> plane & 1
            write_mode = mode & 3
            if write_mode == 1:
                byte |= latch << bit
                continue
            if write_mode == 0:
                dot = source if enable >> plane & 1 else data
            elif write_mode == 2:
                dot = value >> plane & 1
            else:
                dot, through = source, through & data
            dot = (dot, dot & latch, dot | latch, dot ^ latch)[rotate >> 3 & 3]
            byte |= (dot if through else latch) << bit
        result[plane] = byte
    return result


def test_every_write_mode_against_a_model_of_single_bits() -> None:
    world = World()
    world.mode(0x12)
    chance = random.Random(12)
    for _ in range(3000):
        graphics = [chance.randrange(16), chance.choice((0, 15, chance.randrange(16))), chance.randrange(16),
                    chance.randrange(32), chance.randrange(4), chance.randrange(4), 0x05, chance.randrange(16),
                    chance.choice((0xFF, chance.randrange(256)))]  # fmt: skip
        for index, value in enumerate(graphics):
            world.set(0x3CE, index, value)
        mask = chance.randrange(16)
        world.set(0x3C4, 2, mask)
        source, target = chance.randrange(64), chance.randrange(64)
        world.load(WINDOW + source)
        latches, old = planes_at(world, source), planes_at(world, target)
        value = chance.randrange(256)
        world.store(WINDOW + target, value)
        assert planes_at(world, target) == model(graphics, mask, latches, old, value), (graphics, mask)


def test_read_mode_0_chooses_a_plane_and_read_mode_1_compares_colours() -> None:
    world = World()
    world.mode(0x12)
    for plane, value in enumerate((0x0F, 0x33, 0x55, 0x00)):
        world.set(0x3C4, 2, 1 << plane)
        world.store(WINDOW + 5, value)
    for plane, value in enumerate((0x0F, 0x33, 0x55, 0x00)):
        world.set(0x3CE, 4, plane)
        assert world.load(WINDOW + 5) == value
    world.set(0x3CE, 5, 0x08)
    world.set(0x3CE, 2, 0b0011)  # colour 3 ...
    world.set(0x3CE, 7, 0b1111)
    assert world.load(WINDOW + 5) == 0x0F & 0x33 & ~0x55
    world.set(0x3CE, 7, 0b0011)  # ... or 7
    assert world.load(WINDOW + 5) == 0x0F & 0x33
    world.set(0x3CE, 7, 0)
    assert world.load(WINDOW + 5) == 0xFF  # what is not compared is equal


def test_write_mode_1_copies_what_a_read_has_latched() -> None:
    world = World()
    world.mode(0x12)
    for plane in range(4):
        world.set(0x3C4, 2, 1 << plane)
        world.store(WINDOW + 100, 0x11 * (plane + 1))
    world.set(0x3C4, 2, 0xF)
    world.set(0x3CE, 5, 1)
    world.load(WINDOW + 100)
    world.store(WINDOW + 200, 0x99)
    assert planes_at(world, 200) == [0x11, 0x22, 0x33, 0x44]


def test_odd_and_even_addresses_are_planes_1_and_0_in_text_modes() -> None:
    world = World()
    world.mode(3)
    for n in range(40):  # more than it takes until the window is plain memory
        world.store(0xB8000 + n, 0x40 + n)
    for n in range(0, 40, 2):
        assert planes_at(world, n)[:2] == [0x40 + n, 0x41 + n]
    assert planes_at(world, 1)[:2] == [0, 0]


def test_chain_4_is_an_address_for_each_plane_in_turn() -> None:
    world = World()
    world.mode(0x13)
    for n in range(40):
        world.store(WINDOW + n, 0x40 + n)
    for n in range(0, 40, 4):
        assert planes_at(world, n) == [0x40 + n, 0x41 + n, 0x42 + n, 0x43 + n]


@pytest.mark.parametrize(
    ("select", "first", "size"),
    [(0, 0xA0000, 0x20000), (1, 0xA0000, 0x10000), (2, 0xB0000, 0x8000), (3, 0xB8000, 0x8000)],
)
def test_the_windows_place(select: int, first: int, size: int) -> None:
    """PS/2 HITR, graphics controller, miscellaneous register, bits 2 and 3."""
    world = World()
    world.mode(0x12)
    world.set(0x3CE, 6, select << 2 | 1)
    world.store(first, 0x5A)
    world.store(first + size - 1, 0xA5)
    assert world.load(first) == 0x5A
    assert world.load(first + size - 1) == 0xA5
    outside = [0xA0000 + n for n in range(0, 0x20000, 0x1000) if not first <= 0xA0000 + n < first + size]
    for address in outside:
        world.store(address, 0x77)
        assert world.load(address) == 0xFF


def test_memory_can_be_switched_off() -> None:
    """PS/2 HITR, miscellaneous output register, bit 1."""
    world = World()
    world.mode(3)
    for _ in range(40):
        world.store(0xB8000, 0x41)
    world.outb(0x3C2, 0x65)
    world.store(0xB8000, 0x42)
    assert world.load(0xB8000) == 0xFF
    world.outb(0x3C2, 0x67)
    assert world.load(0xB8000) == 0x41
