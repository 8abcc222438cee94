"""A guest's RAM: guest-physical pages of 4 KB, each in a host frame.

To devices, firmware and loaders this is RAM like any other (`machine.ram.Ram`). What they write goes through the host's
memory, which drops decoded code under it, and is reported where the guest keeps page tables that have shadows.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator

from trapgate.machine.errors import AddressOutsideMemory
from trapgate.machine.ram import PAGE, Ram, ram_ranges
from trapgate.vmm.memory.errors import OutOfHostMemory
from trapgate.vmm.memory.frames import RUN, FrameAllocator

RUN_SIZE = RUN * PAGE


class GuestMemory(Ram):
    """`size` bytes of guest RAM at the guest-physical addresses that a PC's RAM has.

    The RAM lies in aligned runs of 2 MB while the host has such; with `scattered`, and where runs have run out, in
    single frames from the host's top downwards. Raises InvalidMemorySize and OutOfHostMemory; accesses raise
    AddressOutsideMemory.
    """

    def __init__(self, frames: FrameAllocator, size: int, owner: str = "guest", scattered: bool = False) -> None:
        self._ranges = ram_ranges(size)
        #: Where the RAM that begins at 0 ends: most accesses are below it.
        self._low_end = self._ranges[0].stop
        self.size = size
        self.owner = owner
        self.allocator = frames
        self.host = frames.memory
        self.page_count = self._ranges[-1].stop // PAGE
        #: Host-physical address of each guest-physical page; 0: the page is not RAM.
        self.frames = array("Q", bytes(8 * self.page_count))
        #: Not 0: writes from outside the guest to this guest-physical page are reported to `on_watched_write`.
        self.watched = bytearray(self.page_count)
        #: Called with (guest-physical address, bytes) after a write from outside the guest to a watched page.
        self.on_watched_write: Callable[[int, int], None] = lambda address, length: None
        try:
            for ram in self._ranges:
                self._allocate(ram, scattered)
        except OutOfHostMemory:
            self.release()
            raise

    def _allocate(self, ram: range, scattered: bool) -> None:
        for start in range(ram.start, ram.stop, RUN_SIZE):
            pages = min(RUN_SIZE, ram.stop - start) // PAGE
            run = None
            if pages == RUN and not scattered:
                try:
                    run = self.allocator.allocate_run(self.owner, RUN)
                except OutOfHostMemory:
                    scattered = True
            for page in range(start // PAGE, start // PAGE + pages):
                if run is None:
                    self.frames[page] = self.allocator.allocate(self.owner)
                else:
                    self.frames[page] = run + (page * PAGE - start)

    def release(self) -> None:
        """Give all host frames back. Nothing may use the guest's memory afterwards."""
        for page, frame in enumerate(self.frames):
            if frame:
                self.allocator.free(self.owner, frame)
                self.frames[page] = 0
        self._ranges = []
        self._low_end = 0

    def host_address(self, address: int) -> int | None:
        """Host-physical address of guest-physical `address`; None where there is no RAM."""
        page = address >> 12
        frame = self.frames[page] if 0 <= page < self.page_count else 0
        return frame | address & 0xFFF if frame else None

    def is_page(self, page: int) -> bool:
        """Whether the guest has RAM at guest-physical page number `page`."""
        return page < self.page_count and self.frames[page] != 0

    def is_run(self, address: int) -> bool:
        """Whether the 2 MB around guest-physical `address` lie in one aligned run of host frames."""
        first = address >> 21 << 9
        frames = self.frames
        if first + RUN > self.page_count or not frames[first] or frames[first] % RUN_SIZE:
            return False
        start = frames[first]
        return all(frames[first + i] == start + i * PAGE for i in range(RUN))

    def ranges(self) -> list[range]:
        """Guest-physical ranges that are RAM, lowest first."""
        return list(self._ranges)

    def is_ram(self, address: int, length: int = 1) -> bool:
        """True when all `length` bytes at guest-physical `address` are RAM."""
        if address >= 0 and address + length <= self._low_end:
            return True
        return any(r.start <= address and address + length <= r.stop for r in self._ranges)

    def _pieces(self, address: int, length: int) -> Iterator[tuple[int, int]]:
        """(host-physical address, bytes) of what lies together on the host."""
        if not self.is_ram(address, length):
            raise AddressOutsideMemory(address, length, self.size)
        frames = self.frames
        page, end = address >> 12, address + length
        start = frames[page] | address & 0xFFF
        done = address
        while done < end:
            stop = (page + 1) << 12
            while stop < end and frames[page + 1] == frames[page] + PAGE:
                page += 1
                stop += PAGE
            stop = min(stop, end)
            yield start, stop - done
            done = stop
            page += 1
            if done < end:
                start = frames[page]

    def read(self, address: int, length: int) -> bytes:
        """`length` bytes at guest-physical `address`."""
        if 0 < length <= PAGE - (address & 0xFFF) and self.is_ram(address, length):
            return self.host.read(self.frames[address >> 12] | address & 0xFFF, length)
        return b"".join(self.host.read(start, size) for start, size in self._pieces(address, length))

    def write(self, address: int, data: bytes | bytearray | memoryview) -> None:
        """Write `data` at guest-physical `address`; decoded code under it is dropped first."""
        view = memoryview(data)
        length = len(view)
        done = 0
        for start, size in self._pieces(address, length):
            self.host.write(start, view[done : done + size])
            done += size
        if not length:
            return
        first, last = address >> 12, (address + length - 1) >> 12
        watched = self.watched
        if any(watched[first : last + 1]):
            for page in range(first, last + 1):
                if watched[page]:
                    start = max(address, page << 12)
                    self.on_watched_write(start, min(address + length, (page + 1) << 12) - start)
