"""A screen that is put back is the same in everything that a guest could see later."""

from __future__ import annotations

import pytest

from trapgate.machine.errors import SnapshotMismatch

from .world import LINEAR, World


def _text(world: World) -> None:
    world.mode(3)
    for n in range(200):
        world.store(0xB8000 + 2 * n, 0x1E41 + n % 26, 2)


def _planes(world: World) -> None:
    world.mode(0x12)
    world.set(0x3CE, 8, 0x3C)
    for n in range(100):
        world.load(0xA0000 + n)
        world.store(0xA0000 + n, 0x77)


def _linear(world: World) -> None:
    world.linear_mode(640, 480, 32)
    world.store(LINEAR + 640 * 4 * 100, 0x00FF_FFFF, 4)
    world.dispi(8, 5)


@pytest.mark.parametrize("prepare", [_text, _planes, _linear])
@pytest.mark.parametrize("memory_first", [True, False])
def test_restored_screens_are_the_same(prepare, memory_first: bool) -> None:  # type: ignore[no-untyped-def]
    world, other = World(), World()
    prepare(world)
    world.inb(0x3DA)
    world.outb(0x3C0, 0x35)  # the flip-flop stands at data
    # The other one is somewhere else.
    other.mode(0x13)
    for n in range(64):
        other.store(0xA0000 + n, n)
    taken, ram = world.pc.snapshot(), world.memory.read(0, world.memory.size)
    if memory_first:
        other.memory.write(0, ram)
    other.pc.restore(taken)
    if not memory_first:
        other.memory.write(0, ram)
    assert other.pc.snapshot() == taken
    assert other.picture() == world.picture()
    for place in (0xA0000, 0xB8000, LINEAR):
        assert other.memory.is_ram(place) == world.memory.is_ram(place)
    for one in (world, other):
        one.outb(0x3C0, 0x01)
        one.store(0xA0010, 0x0F)
        one.store(0xB8010, 0x0F)
    assert other.pc.snapshot() == world.pc.snapshot()


def test_a_frame_buffer_on_pci_comes_back_at_its_place() -> None:
    world, other = World("std"), World("std")

    def config(one: World, offset: int, value: int) -> None:
        one.pc.bus.write_port(0xCF8, 4, 1 << 31 | 2 << 11 | offset)
        one.pc.bus.write_port(0xCFC, 4, value)

    for one, place in ((world, LINEAR), (other, 0xD000_0000)):
        config(one, 0x10, place)
        config(one, 0x04, 2)
        one.linear_mode(320, 200, 32)
        one.store(place + 77, place >> 24)
    other.pc.restore(world.pc.snapshot())
    assert other.load(LINEAR + 77) == LINEAR >> 24
    assert not other.memory.is_ram(0xD000_0000)
    assert other.pc.snapshot() == world.pc.snapshot()
    assert other.picture() == world.picture()


def test_a_snapshot_of_another_shape_is_refused() -> None:
    world = World()
    taken = world.vga.snapshot()
    del taken["dispi"]
    with pytest.raises(SnapshotMismatch):
        world.vga.restore(taken)
