"""A guest's RAM: guest-physical pages of 4 KB, each in a host frame.

To devices, firmware and loaders this is RAM like any other (`machine.ram.Ram`). What they write goes through the host's
memory, which drops decoded code under it, and is reported where the guest keeps page tables that have shadows.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator

from trapgate.machine.errors import AddressOutsideMemory
from trapgate.machine.ram import PAGE, Ram, ram_ranges, united, without
from trapgate.vmm.memory.errors import OutOfHostMemory
from trapgate.vmm.memory.frames import RUN, FrameAllocator

RUN_SIZE = RUN * PAGE


class GuestMemory(Ram):
    """`size` bytes of guest RAM at the guest-physical addresses that a PC's RAM has. A device's memory can be mapped
    below `device_top`.

    The RAM lies in aligned runs of 2 MB while the host has such; with `scattered`, and where runs have run out, in
    single frames from the host's top downwards. Raises InvalidMemorySize and OutOfHostMemory; accesses raise
    AddressOutsideMemory.
    """

    def __init__(
        self, frames: FrameAllocator, size: int, owner: str = "guest", scattered: bool = False, device_top: int = 0
    ) -> None:
        self._ranges = ram_ranges(size)
        #: What answers as memory: RAM but for what is hidden, and mapped memory of devices.
        self.direct = list(self._ranges)
        #: Where the RAM that begins at 0 ends, or is first hidden: most accesses are below it.
        self._low_end = self._ranges[0].stop
        #: Frames of pages that are hidden, and of devices' memory.
        self._hidden: dict[int, int] = {}
        self._devices: list[GuestPages] = []
        self.size = size
        self.owner = owner
        self.allocator = frames
        self.host = frames.memory
        self.page_count = max(self._ranges[-1].stop, device_top) // PAGE
        #: Host-physical address of each guest-physical page; 0: the page is not RAM.
        self.frames = array("Q", bytes(8 * self.page_count))
        #: Not 0: writes from outside the guest to this guest-physical page are reported to `on_watched_write`.
        self.watched = bytearray(self.page_count)
        #: Called with (guest-physical address, bytes) after a write from outside the guest to a watched page.
        self.on_watched_write: Callable[[int, int], None] = lambda address, length: None
        #: Called with (guest-physical address, length) after pages there have become memory or have ceased to be.
        self.on_layout: Callable[[int, int], None] = lambda address, length: None
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
        self.on_layout = lambda address, length: None
        for page, frame in self._hidden.items():
            self.frames[page] = frame
        self._hidden.clear()
        for pages in self._devices:
            pages.release()
        for page, frame in enumerate(self.frames):
            if frame:
                self.allocator.free(self.owner, frame)
                self.frames[page] = 0
        self._ranges = []
        self.direct = []
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
        return any(r.start <= address and address + length <= r.stop for r in self.direct)

    # Who answers

    def hide(self, address: int, length: int, hidden: bool) -> None:
        """Have the guest's accesses to RAM at `address` go to the bus, or to the RAM again."""
        for page in range(address >> 12, (address + length) >> 12):
            if hidden and page not in self._hidden:
                self._hidden[page] = self.frames[page]
                self.frames[page] = 0
            elif not hidden and page in self._hidden:
                self.frames[page] = self._hidden.pop(page)
        self._set_direct(address, length, not hidden)

    def _set_direct(self, address: int, length: int, direct: bool) -> None:
        place = range(address, address + length)
        self.direct = united(self.direct, place) if direct else without(self.direct, place)
        self._low_end = self.direct[0].stop
        self.on_layout(address, length)

    def device_pages(self, size: int) -> GuestPages:
        """Memory for a device. Raises OutOfHostMemory."""
        pages = GuestPages(self, size)
        self._devices.append(pages)
        return pages

    def attach(self, address: int, frames: array[int]) -> None:
        """Let a device's frames answer at `address`, or nothing for frames of 0. For GuestPages."""
        self.frames[address >> 12 : (address >> 12) + len(frames)] = frames
        self._set_direct(address, len(frames) * PAGE, any(frames))

    def _pieces(self, address: int, length: int) -> Iterator[tuple[int, int]]:
        """(host-physical address, bytes) of what lies together on the host."""
        if not self.is_ram(address, length):
            if not any(r.start <= address and address + length <= r.stop for r in self._ranges):
                raise AddressOutsideMemory(address, length, self.size)
            end = address + length
            while address < end:
                page, size = address >> 12, min(PAGE - address % PAGE, end - address)
                yield (self._hidden.get(page) or self.frames[page]) | address % PAGE, size
                address += size
            return
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


class GuestPages:
    """A device's memory in frames of its own, which are mapped where the device says. Raises OutOfHostMemory."""

    def __init__(self, guest: GuestMemory, size: int) -> None:
        self.size = size
        self._guest, self._allocator = guest, guest.allocator
        self._owner = f"{guest.owner}: device"
        self._first = guest.allocator.allocate_run(self._owner, size // PAGE, align=1)
        self._frames = array("Q", range(self._first, self._first + size, PAGE))
        self._address: int | None = None

    def read(self, offset: int, length: int) -> bytes:
        """`length` bytes from `offset` on."""
        return self._guest.host.read(self._first + offset, length)

    def write(self, offset: int, data: bytes | bytearray | memoryview) -> None:
        """Write `data` at `offset`."""
        if self._address is None:
            self._guest.host.write(self._first + offset, data)
        else:
            self._guest.write(self._address + offset, data)

    def map(self, address: int) -> None:
        """Have it at guest-physical `address`."""
        self.unmap()
        self._guest.attach(address, self._frames)
        self._address = address

    def unmap(self) -> None:
        """Have it nowhere."""
        if self._address is not None:
            self._guest.attach(self._address, array("Q", bytes(8 * len(self._frames))))
            self._address = None

    def release(self) -> None:
        """Give the frames back."""
        self.unmap()
        self._allocator.free(self._owner, self._first, self.size // PAGE)
