"""Host frames, a guest's RAM in them, and nested tables."""

from __future__ import annotations

import random

import pytest

from paging import naive
from trapgate.firmware.raw import RawImage
from trapgate.firmware.tables import write_tables
from trapgate.machine.errors import AddressOutsideMemory
from trapgate.machine.memory import PhysicalMemory
from trapgate.machine.ram import Ram
from trapgate.vmm.memory import (
    FrameAllocator,
    FrameNotOwned,
    GuestMemory,
    NestedTables,
    OutOfHostMemory,
    OutsideGuestMemory,
)

PAGE = 4096
MB = 1 << 20


def allocator(size: int = 16 * MB) -> FrameAllocator:
    return FrameAllocator(PhysicalMemory(size))


def test_frames_are_given_once_and_come_zeroed() -> None:
    frames = allocator(1 * MB)
    taken = {frames.allocate("a") for _ in range(frames.free_frames)}
    assert taken == set(range(PAGE, 1 * MB, PAGE)), "all but frame 0"
    with pytest.raises(OutOfHostMemory) as caught:
        frames.allocate("b")
    assert str(caught.value) == (
        "b: wanted a frame of host memory, got none (0 frames of 4 KB are free): "
        "give the host more memory or the guests less"
    )
    frames.memory.write(0x5000, b"old")
    frames.free("a", 0x5000)
    assert frames.owner(0x5000) == "nobody"
    assert frames.allocate("b") == 0x5000
    assert frames.memory.read(0x5000, PAGE) == bytes(PAGE)
    assert (frames.owner(0x5000), frames.owned("b"), frames.owner(0)) == ("b", 1, "the host")


def test_random_allocations_against_a_set() -> None:
    choose = random.Random(5)
    frames = allocator(4 * MB)
    owned: dict[int, str] = {}
    for _ in range(3000):
        owner = choose.choice("ab")
        what = choose.random()
        if what < 0.5:
            below = choose.choice((None, 1 * MB, 2 * MB))
            try:
                got, count = frames.allocate(owner, below), 1
            except OutOfHostMemory:
                assert all(f in owned for f in range(PAGE, below or 4 * MB, PAGE))
                continue
            assert below is None or got < below
        elif what < 0.6:
            count = choose.choice((2, 8, 64))
            try:
                got = frames.allocate_run(owner, count)
            except OutOfHostMemory:
                starts = range(count * PAGE, 4 * MB, count * PAGE)
                assert all(any(start + i * PAGE in owned for i in range(count)) for start in starts)
                continue
            assert got % (count * PAGE) == 0
        else:
            for address in choose.sample(sorted(owned), min(3, len(owned))):
                frames.free(owned.pop(address), address)
            continue
        for address in range(got, got + count * PAGE, PAGE):
            assert address not in owned
            assert address
            owned[address] = owner
    assert frames.free_frames == 1023 - len(owned)
    assert frames.owned("a") == sum(owner == "a" for owner in owned.values())


def test_a_run_that_is_not_there() -> None:
    frames = allocator(1 * MB)
    with pytest.raises(OutOfHostMemory) as caught:
        frames.allocate_run("guest", 512)
    assert str(caught.value) == (
        "guest: wanted 512 frames in a row at a multiple of 0x200000 of host memory, got none (255 frames of 4 KB are "
        "free): give the host more memory or the guests less"
    )


def test_only_the_owner_frees() -> None:
    frames = allocator(1 * MB)
    run = frames.allocate_run("a", 4)
    other = frames.allocate("b")
    with pytest.raises(FrameNotOwned) as caught:
        frames.free("b", run)
    assert str(caught.value) == (
        f"host frame {run:#x}: wanted one of b to free, got one of a: free what was allocated, once"
    )
    frames.free("b", other)
    with pytest.raises(FrameNotOwned, match="got one of nobody"):
        frames.free("b", other)
    assert frames.owned("a") == 4


@pytest.mark.parametrize("scattered", [False, True])
def test_a_guests_memory_reads_as_it_was_written(scattered: bool) -> None:
    frames = allocator()
    first = GuestMemory(frames, 6 * MB, "first", scattered)
    second = GuestMemory(frames, 1 * MB, "second", scattered)
    assert first.is_run(0x20_0000) is not scattered
    choose = random.Random(1)
    model = bytearray(6 * MB)
    second.write(0, b"\xff" * MB)
    for _ in range(200):
        address = choose.randrange(6 * MB)
        data = choose.randbytes(min(choose.choice((1, 8, 5000, 70000)), 6 * MB - address))
        first.write(address, data)
        model[address : address + len(data)] = data
    assert first.read(0, 6 * MB) == model
    assert second.read(0, MB) == b"\xff" * MB
    assert first.read_u32(0x1FFE) == int.from_bytes(model[0x1FFE:0x2002], "little")
    assert first.host_address(6 * MB) is None
    assert not first.is_ram(6 * MB - 1, 2)
    with pytest.raises(AddressOutsideMemory):
        first.write(6 * MB - 1, b"ab")
    free = frames.free_frames
    first.release()
    assert frames.free_frames == free + 6 * MB // PAGE
    assert frames.owned("first") == 0


def test_memory_above_the_hole() -> None:
    frames = FrameAllocator(PhysicalMemory(4 << 30))
    guest = GuestMemory(frames, (3 << 30) + 4 * MB)
    guest.write((4 << 30) + 0x1234, b"high")
    assert guest.ranges() == [range(3 << 30), range(4 << 30, (4 << 30) + 4 * MB)]
    assert not guest.is_ram(3 << 30)
    assert guest.read((4 << 30) + 0x1234, 4) == b"high"
    nested = NestedTables(guest)
    assert nested.translate((4 << 30) + 0x1234) == (guest.host_address((4 << 30) + 0x1234), True)
    assert nested.translate(3 << 30) is None


def test_a_guest_that_does_not_fit_leaves_the_host_as_it_was() -> None:
    frames = allocator(4 * MB)
    free = frames.free_frames
    with pytest.raises(OutOfHostMemory, match="guest: wanted a frame of host memory"):
        GuestMemory(frames, 8 * MB)
    assert frames.free_frames == free


def test_outside_writes_drop_decoded_code_and_report_watched_pages() -> None:
    guest = GuestMemory(allocator(), 2 * MB, scattered=True)
    host = guest.host
    code, reported = [], []
    host.on_code_write = lambda address, length: code.append((address, length))
    guest.on_watched_write = lambda address, length: reported.append((address, length, guest.read_u8(address)))
    host.code_map[guest.frames[3] >> 12] = 1
    guest.watched[2] = guest.watched[3] = 1
    guest.write(0x2FFE, b"abcd")
    assert code == [(guest.frames[3], 2)]
    assert reported == [(0x2FFE, 2, ord("a")), (0x3000, 2, ord("c"))], "after the write"


def test_firmware_and_loaders_take_a_guests_memory() -> None:
    def boot(memory: Ram) -> bytes:
        write_tables(memory)
        RawImage(bytes(range(256)) * 40).load(memory)
        return memory.read(0, 2 * MB)

    assert boot(GuestMemory(allocator(), 2 * MB, scattered=True)) == boot(PhysicalMemory(2 * MB))


@pytest.mark.parametrize(("scattered", "large_pages"), [(False, True), (False, False), (True, True)])
def test_nested_tables_map_all_of_the_guest_and_nothing_else(scattered: bool, large_pages: bool) -> None:
    frames = allocator()
    guest = GuestMemory(frames, 5 * MB, scattered=scattered)
    nested = NestedTables(guest, large_pages)

    def check(special: dict[int, tuple[bool, bool]]) -> None:
        registers = naive.Registers(cr3=nested.root)
        for page in range(0, 6 * MB, PAGE):
            mapped, writable = special.get(page, (page < 5 * MB,) * 2)
            got = nested.translate(page + 5)
            assert got == ((guest.frames[page >> 12] + 5, writable) if mapped else None)
            for access in (naive.Access(user=True), naive.Access(user=True, write=True)):
                walked = naive.translate(
                    lambda at, size: int.from_bytes(guest.host.read(at, size), "little"), registers, page + 5, access
                )
                if mapped and (writable or not access.write):
                    assert isinstance(walked, naive.Translation)
                    assert (walked.physical, walked.updates) == (guest.frames[page >> 12] + 5, {})
                else:
                    assert isinstance(walked, naive.PageFault)

    check({})
    # Three upper tables; then one for each 2 MB, or for the last megabyte alone.
    assert nested.table_count == (4 if large_pages and not scattered else 6)
    nested.unmap(0x20_3000)
    nested.protect(0x4F_F000)
    check({0x20_3000: (False, False), 0x4F_F000: (True, False)})
    nested.map(0x20_3000)
    check({0x4F_F000: (True, False)})
    with pytest.raises(OutsideGuestMemory) as caught:
        nested.unmap(5 * MB)
    assert str(caught.value) == (
        "wanted a page of guest RAM, got guest-physical 0x500000: map only pages of the guest's memory"
    )
    nested.release()
    assert frames.owned(nested.owner) == 0
