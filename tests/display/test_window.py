"""The window at A0000h becomes memory where it may, and ceases to in time; the frame buffer moves with its place."""

from __future__ import annotations

import random

from trapgate.devices.vga.adapter import PATIENCE

from .world import LINEAR, World


def accesses(world: World, count: int = PATIENCE, address: int = 0xB8000) -> None:
    for _ in range(count):
        world.load(address)


def test_text_becomes_memory_after_some_accesses() -> None:
    world = World()
    world.mode(3)
    world.store(0xB8000, 0x41)
    assert not world.memory.is_ram(0xB8000)
    accesses(world)
    assert world.memory.is_ram(0xB8000, 0x8000)
    assert not world.memory.is_ram(0xA0000)
    assert not world.memory.is_ram(0xB7FFF)
    assert world.load(0xB8000) == 0x41
    assert world.vga.counts == {"window became memory": 1}


def test_a_register_that_changes_the_meaning_ends_it_at_once() -> None:
    world = World()
    world.mode(3)
    for port, index, value in (
        (0x3C4, 2, 0x01), (0x3C4, 4, 0x06), (0x3CE, 1, 0x01), (0x3CE, 3, 0x08), (0x3CE, 5, 0x11), (0x3CE, 6, 0x0A),
        (0x3CE, 8, 0xFE),
    ):  # fmt: skip
        accesses(world)
        assert world.memory.is_ram(0xB8000), hex(index)
        old = world.get(port, index)
        world.set(port, index, value)
        assert not world.memory.is_ram(0xB8000), (hex(port), index)
        world.set(port, index, old)


def test_a_font_is_loaded_between_two_characters() -> None:
    world = World()
    world.mode(3)
    accesses(world)
    world.store(0xB8000, 0x0741, 2)
    world.display.load_font(bytes(range(1, 17)), 16, first=0x41)
    assert world.load(0xB8000, 2) == 0x0741
    assert bytes(world.vga.planes.data[2][0x41 * 32 :][:16]) == bytes(range(1, 17))
    world.store(0xB8002, 0x0742, 2)
    accesses(world)
    assert world.load(0xB8000, 4) == 0x0742_0741


def test_plain_memory_and_single_accesses_are_the_same() -> None:
    """Two boards get the same stores; one is never let become memory."""
    chance = random.Random(5)
    fast, slow = World(), World()
    slow.vga._wanted = lambda: None  # type: ignore[method-assign]
    for mode, base in ((3, 0xB8000), (0x13, 0xA0000), (4, 0xB8000), (1, 0xB8000)):
        for world in (fast, slow):
            world.mode(mode)
        for _ in range(300):
            address, value, width = base + chance.randrange(0x7FF0), chance.getrandbits(64), chance.choice((1, 2, 4, 8))
            for world in (fast, slow):
                world.store(address, value & (1 << 8 * width) - 1, width)
        assert fast.memory.is_ram(base)
        assert not slow.memory.is_ram(base)
        assert fast.picture() == slow.picture()
        assert fast.vga.planes.data == slow.vga.planes.data


def test_the_frame_buffer_is_memory_and_keeps_its_content_when_it_moves() -> None:
    world = World("std")
    bus = world.pc.bus

    def config(offset: int, value: int) -> None:
        bus.write_port(0xCF8, 4, 1 << 31 | 2 << 11 | offset)
        bus.write_port(0xCFC, 4, value)

    assert not world.memory.is_ram(LINEAR)
    config(0x10, LINEAR)
    config(0x04, 2)
    assert world.memory.is_ram(LINEAR, 16 << 20)
    world.store(LINEAR + 0x1234, 0xCAFE, 2)
    assert world.load(LINEAR + 0x1234, 2) == 0xCAFE
    config(0x10, 0xD000_0000)
    assert not world.memory.is_ram(LINEAR)
    assert world.load(0xD000_1234, 2) == 0xCAFE
    assert world.load(LINEAR + 0x1234, 2) == 0xFFFF
    config(0x04, 0)
    assert world.load(0xD000_1234, 2) == 0xFFFF
    config(0x04, 2)
    assert world.load(0xD000_1234, 2) == 0xCAFE
    # Over RAM it is not decoded, and RAM stays.
    world.memory.write(0x10_0000, b"RAM")
    config(0x10, 0)
    assert world.memory.read(0x10_0000, 3) == b"RAM"
    assert not world.memory.is_ram(0xD000_0000)


def test_ranges_say_what_is_ram_and_reads_reach_what_is_hidden() -> None:
    world = World()
    assert world.memory.ranges() == [range(4 << 20)]
    assert not world.memory.is_ram(0, 1 << 20)
    assert len(world.memory.read(0, 4 << 20)) == 4 << 20


def test_banks_are_windows_on_the_frame_buffer() -> None:
    """Bochs, vbe_display_api.txt: VBE_DISPI_INDEX_BANK, 64 KB each."""
    world = World()
    world.linear_mode(1024, 768, 8, flags=0x01)
    world.dispi(5, 3)
    world.store(0xA0010, 0x77)
    assert world.load(LINEAR + 3 * 65536 + 0x10) == 0x77
    world.store(LINEAR + 3 * 65536 + 0x11, 0x78)
    assert world.load(0xA0011) == 0x78
    assert world.load(0xB0000) == 0xFF


def test_registers_in_memory_are_the_ports() -> None:
    """QEMU, docs/specs/standard-vga.rst: 400h ports from 3C0h, 500h display interface, 600h size and byte order."""
    world = World("std")
    bus = world.pc.bus
    for offset, value in ((0x18, 0xD000_0000), (0x04, 2)):
        bus.write_port(0xCF8, 4, 1 << 31 | 2 << 11 | offset)
        bus.write_port(0xCFC, 4, value)
    mmio = 0xD000_0000
    world.store(mmio + 0x400 + 0x0E, 0x5A08, 2)  # 3CEh, 3CFh
    assert world.get(0x3CE, 8) == 0x5A
    assert world.load(mmio + 0x500, 2) == 0xB0C5
    for register, value in ((1, 640), (2, 480), (3, 32), (4, 0x41)):
        world.store(mmio + 0x500 + 2 * register, value, 2)
    assert world.vga.dispi.enabled
    assert world.load(mmio + 0x514, 2) == 256
    assert world.load(mmio + 0x600, 4) == 8
    assert world.load(mmio + 0x604, 4) == 0x1E1E1E1E
