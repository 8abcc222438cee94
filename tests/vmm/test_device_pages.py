"""Memory of devices in host frames, and guest RAM that is hidden: who maps what, and that all of it is given back."""

from __future__ import annotations

import pytest

from trapgate.machine.errors import AddressOutsideMemory
from trapgate.machine.memory import PhysicalMemory
from trapgate.vmm.memory.frames import FrameAllocator
from trapgate.vmm.memory.guest import GuestMemory
from trapgate.vmm.memory.nested import NestedTables

MB = 1 << 20
WINDOW, PLACE = 0xA0000, 0xE000_0000


class World:
    def __init__(self) -> None:
        self.frames = FrameAllocator(PhysicalMemory(16 * MB))
        self.before = self.frames.free_frames
        self.guest = GuestMemory(self.frames, 4 * MB, device_top=4 << 30)
        self.changes: list[tuple[int, int]] = []
        self.guest.on_layout = lambda address, length: self.changes.append((address, length))


def test_what_is_hidden_is_reached_from_outside_alone() -> None:
    world = World()
    guest = world.guest
    guest.write(WINDOW + 5, b"text")
    guest.hide(WINDOW, 0x20000, True)
    assert world.changes == [(WINDOW, 0x20000)]
    assert not guest.is_ram(WINDOW)
    assert not guest.is_ram(WINDOW - 1, 2)
    assert guest.host_address(WINDOW) is None
    assert not guest.is_page(WINDOW >> 12)
    assert guest.read(WINDOW + 5, 4) == b"text"
    guest.write(WINDOW - 2, b"abcdef")  # across its edge
    assert guest.read(WINDOW - 2, 11) == b"abcdef\0text"
    assert len(guest.read(0, 4 * MB)) == 4 * MB
    guest.hide(WINDOW, 0x10000, False)
    assert guest.is_ram(WINDOW, 0x10000)
    assert not guest.is_ram(WINDOW + 0x10000)
    assert guest.read(WINDOW, 4) == b"cdef"


def test_a_devices_pages_move_and_keep_their_content() -> None:
    world = World()
    pages = world.guest.device_pages(MB)
    pages.write(0x1234, b"dots")
    with pytest.raises(AddressOutsideMemory):
        world.guest.read(PLACE, 1)
    pages.map(PLACE)
    assert world.guest.read(PLACE + 0x1234, 4) == b"dots"
    world.guest.write(PLACE + 0x2000, b"more")
    pages.map(PLACE + 16 * MB)
    assert not world.guest.is_ram(PLACE)
    assert world.guest.is_ram(PLACE + 16 * MB, MB)
    assert pages.read(0x2000, 4) == b"more"
    assert world.guest.read(PLACE + 16 * MB + 0x1234, 4) == b"dots"


def test_nested_tables_follow() -> None:
    world = World()
    guest = world.guest
    guest.hide(WINDOW, 0x20000, True)
    tables = NestedTables(guest)
    guest.on_layout = tables.follow
    assert tables.translate(WINDOW) is None
    assert tables.translate(WINDOW - 1) is not None
    guest.hide(WINDOW + 0x18000, 0x8000, False)
    assert tables.translate(0xB8000) == (guest.host_address(0xB8000), True)
    assert tables.translate(0xB7FFF) is None
    pages = guest.device_pages(MB)
    pages.map(PLACE)
    assert tables.translate(PLACE + 0x1234) == (guest.host_address(PLACE + 0x1234), True)
    pages.unmap()
    assert tables.translate(PLACE + 0x1234) is None
    # With A20 off the second megabyte is the first one, but for what is hidden there.
    for address in range(MB, 2 * MB, 4096):
        tables.map(address, target=address - MB)
    assert tables.translate(MB + WINDOW) is None
    assert tables.translate(MB + 0x1000) == (guest.host_address(0x1000), True)


def test_everything_is_given_back() -> None:
    world = World()
    world.guest.hide(WINDOW, 0x20000, True)
    world.guest.device_pages(MB).map(PLACE)
    world.guest.device_pages(MB)
    world.guest.release()
    assert world.frames.free_frames == world.before
