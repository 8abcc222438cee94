"""Guest-physical memory: one host mapping in which guest-physical address 0 is the first byte.

RAM below 3 GiB starts at 0, the rest at 4 GiB; between them lies the hole for memory-mapped devices, as on PCs. The
mapping covers the hole too but reserves no host memory for what is not touched, so that host address = base + guest-
physical address for every byte of RAM.

Beside RAM stand two arrays, one element per 4 KB page, which native code reads:

- `page_kind` (u8): 0 the bus answers, 1 memory does: RAM that is not hidden, or a device's memory.
- `code_map` (u64): bit i is set when decoded code was taken from bytes 64*i to 64*i+63 of the page. Whoever writes to
  such a granule must drop that code first.
"""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Callable

from trapgate.machine.errors import AddressOutsideMemory
from trapgate.machine.ram import PAGE, Ram, ram_ranges, united, without

__all__ = ["GRANULE", "NOT_RAM", "PAGE", "RAM", "PhysicalMemory"]

GRANULE = 64

#: Bytes that are compared and copied at once.
_PIECE = 1 << 16

NOT_RAM = 0
RAM = 1


def _address_of(buffer: mmap.mmap) -> int:
    return ctypes.addressof(ctypes.c_char.from_buffer(buffer))


def _reserve(length: int) -> mmap.mmap:
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | getattr(mmap, "MAP_NORESERVE", 0)
    return mmap.mmap(-1, length, flags=flags)


def _move(source: memoryview, target: memoryview) -> None:
    """Copy what is not zero into a target of zeros: pages that nobody has touched stay so."""
    zeros = bytes(_PIECE)
    for start in range(0, len(source), _PIECE):
        piece = source[start : start + _PIECE]
        if piece != zeros[: len(piece)]:
            target[start : start + len(piece)] = piece


class PhysicalMemory(Ram):
    """RAM of `size` bytes (a multiple of 4096, 1 MB to 64 GB). A device's memory can be mapped below `device_top`.

    Raises InvalidMemorySize at construction, AddressOutsideMemory on accesses that leave RAM.
    """

    def __init__(self, size: int, device_top: int = 0) -> None:
        self._ranges = ram_ranges(size)
        #: What answers as memory: RAM but for what is hidden, and mapped memory of devices; and what memory there is.
        self._direct, self._backed = list(self._ranges), list(self._ranges)
        #: Where the RAM that begins at 0 ends, or is first hidden: most accesses are below it.
        self._low_end = self._ranges[0].stop
        self.size = size
        self.top = top = max(self._ranges[-1].stop, device_top)
        self.page_count = top // PAGE
        self._ram = _reserve(top)
        self.view = memoryview(self._ram)
        self.base = _address_of(self._ram)
        self._kind = _reserve(self.page_count)
        self.page_kind_address = _address_of(self._kind)
        for r in self._ranges:
            self._kind[r.start // PAGE : r.stop // PAGE] = bytes([RAM]) * (len(r) // PAGE)
        self._code = _reserve(self.page_count * 8)
        self.code_map = memoryview(self._code).cast("Q")
        self.code_map_address = _address_of(self._code)
        #: Called with (guest-physical address, length) before a host-side write reaches decoded code.
        self.on_code_write: Callable[[int, int], None] = lambda address, length: None
        #: Called with (guest-physical address, length) after pages there have become memory or have ceased to be.
        self.on_layout: Callable[[int, int], None] = lambda address, length: None

    def ranges(self) -> list[range]:
        """Guest-physical ranges that are RAM, lowest first."""
        return list(self._ranges)

    def is_ram(self, address: int, length: int = 1) -> bool:
        """True when all `length` bytes at guest-physical `address` are RAM."""
        if address >= 0 and address + length <= self._low_end:
            return True
        page = address // PAGE
        if page == (address + length - 1) // PAGE:
            return 0 <= page < self.page_count and self._kind[page] == RAM
        return any(r.start <= address and address + length <= r.stop for r in self._direct)

    def _check(self, address: int, length: int) -> None:
        if not any(r.start <= address and address + length <= r.stop for r in self._backed):
            raise AddressOutsideMemory(address, length, self.size)

    # Who answers

    def hide(self, address: int, length: int, hidden: bool) -> None:
        """Have guests' accesses to RAM at `address` go to the bus, or to the RAM again."""
        self._set_direct(address, length, not hidden)

    def _set_direct(self, address: int, length: int, direct: bool) -> None:
        if not direct:
            self._drop_code(address, length)
        self._kind[address // PAGE : (address + length) // PAGE] = bytes([RAM if direct else NOT_RAM]) * (
            length // PAGE
        )
        place = range(address, address + length)
        self._direct = united(self._direct, place) if direct else without(self._direct, place)
        self._low_end = self._direct[0].stop
        self.on_layout(address, length)

    def device_pages(self, size: int) -> MappedPages:
        """Memory for a device."""
        return MappedPages(self, size)

    def _drop_code(self, address: int, length: int) -> None:
        code = self.code_map
        for page in range(address // PAGE, (address + length - 1) // PAGE + 1):
            if code[page]:
                self.on_code_write(page * PAGE, PAGE)

    def attach(self, address: int, content: mmap.mmap) -> None:
        """Let a device's memory answer at `address`, beginning with `content`. For MappedPages."""
        length = len(content)
        _move(memoryview(content), self.view[address : address + length])
        content.madvise(mmap.MADV_DONTNEED)
        self._backed = united(self._backed, range(address, address + length))
        self._set_direct(address, length, True)

    def detach(self, address: int, content: mmap.mmap) -> None:
        """Take a device's memory away, and keep what it holds in `content`. For MappedPages."""
        length = len(content)
        _move(self.view[address : address + length], memoryview(content))
        self._set_direct(address, length, False)
        self._backed = without(self._backed, range(address, address + length))
        self._ram.madvise(mmap.MADV_DONTNEED, address, length)

    def read(self, address: int, length: int) -> bytes:
        """`length` bytes at guest-physical `address`."""
        self._check(address, length)
        return bytes(self.view[address : address + length])

    def write(self, address: int, data: bytes | bytearray | memoryview) -> None:
        """Write `data` at guest-physical `address`; decoded code under it is dropped first."""
        length = len(data)
        self._check(address, length)
        if length:
            code = self.code_map
            first, last = address // PAGE, (address + length - 1) // PAGE
            if code[first] or (last > first and any(code[first + 1 : last + 1])):
                self.on_code_write(address, length)
            self.view[address : address + length] = data


class MappedPages:
    """A device's memory: where it is mapped, part of the machine's host mapping; elsewhere in one of its own.

    Native code finds every guest-physical byte at base + address, so the content moves with the place.
    """

    def __init__(self, memory: PhysicalMemory, size: int) -> None:
        self.size = size
        self._memory = memory
        self._content = _reserve(size)
        self._address: int | None = None

    def read(self, offset: int, length: int) -> bytes:
        """`length` bytes from `offset` on."""
        if self._address is None:
            return self._content[offset : offset + length]
        return self._memory.read(self._address + offset, length)

    def write(self, offset: int, data: bytes | bytearray | memoryview) -> None:
        """Write `data` at `offset`."""
        if self._address is None:
            self._content[offset : offset + len(data)] = bytes(data)
        else:
            self._memory.write(self._address + offset, data)

    def map(self, address: int) -> None:
        """Have it at guest-physical `address`."""
        self.unmap()
        self._memory.attach(address, self._content)
        self._address = address

    def unmap(self) -> None:
        """Have it nowhere."""
        if self._address is not None:
            self._memory.detach(self._address, self._content)
            self._address = None
