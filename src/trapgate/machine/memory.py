"""Guest-physical memory: one host mapping in which guest-physical address 0 is the first byte.

RAM below 3 GiB starts at 0, the rest at 4 GiB; between them lies the hole for memory-mapped devices, as on PCs. The
mapping covers the hole too but reserves no host memory for what is not touched, so that host address = base + guest-
physical address for every byte of RAM.

Beside RAM stand two arrays, one element per 4 KB page, which native code reads:

- `page_kind` (u8): 0 not RAM, 1 RAM.
- `code_map` (u64): bit i is set when decoded code was taken from bytes 64*i to 64*i+63 of the page. Whoever writes to
  such a granule must drop that code first.
"""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Callable

from trapgate.machine.errors import AddressOutsideMemory
from trapgate.machine.ram import PAGE, Ram, ram_ranges

__all__ = ["GRANULE", "NOT_RAM", "PAGE", "RAM", "PhysicalMemory"]

GRANULE = 64

NOT_RAM = 0
RAM = 1


def _address_of(buffer: mmap.mmap) -> int:
    return ctypes.addressof(ctypes.c_char.from_buffer(buffer))


def _reserve(length: int) -> mmap.mmap:
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | getattr(mmap, "MAP_NORESERVE", 0)
    return mmap.mmap(-1, length, flags=flags)


class PhysicalMemory(Ram):
    """RAM of `size` bytes (a multiple of 4096, 1 MB to 64 GB).

    Raises InvalidMemorySize at construction, AddressOutsideMemory on accesses that leave RAM.
    """

    def __init__(self, size: int) -> None:
        self._ranges = ram_ranges(size)
        self.size = size
        #: Where the RAM that begins at 0 ends: most accesses are below it.
        self._low_end = self._ranges[0].stop
        self.top = top = self._ranges[-1].stop
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

    def ranges(self) -> list[range]:
        """Guest-physical ranges that are RAM, lowest first."""
        return list(self._ranges)

    def is_ram(self, address: int, length: int = 1) -> bool:
        """True when all `length` bytes at guest-physical `address` are RAM."""
        if address >= 0 and address + length <= self._low_end:
            return True
        return any(r.start <= address and address + length <= r.stop for r in self._ranges)

    def _check(self, address: int, length: int) -> None:
        if not self.is_ram(address, length):
            raise AddressOutsideMemory(address, length, self.size)

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
