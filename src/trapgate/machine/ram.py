"""What devices, firmware and boot loaders see of a machine's RAM, be it the host's own or a guest's in host frames."""

from __future__ import annotations

from abc import abstractmethod
from typing import Protocol

from trapgate.machine.errors import InvalidMemorySize

PAGE = 4096
#: RAM below this address starts at 0, what is more stands from HIGH_BASE on; between them is the devices' hole.
LOW_LIMIT = 3 << 30
HIGH_BASE = 4 << 30


def ram_ranges(size: int) -> list[range]:
    """The physical addresses of `size` bytes of RAM, lowest first.

    Raises InvalidMemorySize unless `size` is a multiple of 4096, from 1 MB to 64 GB.
    """
    if size % PAGE or not (1 << 20) <= size <= (64 << 30):
        raise InvalidMemorySize(size)
    low = range(min(size, LOW_LIMIT))
    return [low] if size <= LOW_LIMIT else [low, range(HIGH_BASE, HIGH_BASE + size - LOW_LIMIT)]


def without(ranges: list[range], hole: range) -> list[range]:
    """What of `ranges` lies outside `hole`."""
    parts = (
        p for r in ranges for p in (range(r.start, min(r.stop, hole.start)), range(max(r.start, hole.stop), r.stop))
    )
    return [part for part in parts if part]


def united(ranges: list[range], more: range) -> list[range]:
    """`ranges` and `more`, lowest first; neighbours become one."""
    result: list[range] = []
    for part in sorted([*without(ranges, more), more], key=lambda r: r.start):
        if result and result[-1].stop == part.start:
            result[-1] = range(result[-1].start, part.stop)
        else:
            result.append(part)
    return result


class DevicePages(Protocol):
    """Memory of a device, `size` bytes (whole pages), that guests access as they do RAM wherever it is mapped: a frame
    buffer. It keeps its content while it is mapped nowhere."""

    size: int

    def read(self, offset: int, length: int) -> bytes:
        """`length` bytes from `offset` on."""

    def write(self, offset: int, data: bytes | bytearray | memoryview) -> None:
        """Write `data` at `offset`; decoded code under it is dropped first."""

    def map(self, address: int) -> None:
        """Have it at guest-physical `address`, a multiple of 4096, where no RAM is."""

    def unmap(self) -> None:
        """Have it nowhere."""


class Ram(Protocol):
    """RAM of `size` bytes by guest-physical address. Accesses that leave it raise AddressOutsideMemory.

    A class that says it is one gives the methods before `read_u8` and gets the others.
    """

    size: int

    @abstractmethod
    def hide(self, address: int, length: int, hidden: bool) -> None:
        """Have guests' accesses to RAM at guest-physical `address` (whole pages) go to the bus, or to the RAM again.

        What is hidden is not RAM to `is_ram`; `read` and `write` reach it all the same.
        """

    @abstractmethod
    def device_pages(self, size: int) -> DevicePages:
        """Memory for a device, `size` bytes. Raises OutOfHostMemory where a hypervisor's host has no more."""

    @abstractmethod
    def ranges(self) -> list[range]:
        """Guest-physical ranges that are RAM, lowest first; what is hidden is among them, a device's memory is not."""

    @abstractmethod
    def is_ram(self, address: int, length: int = 1) -> bool:
        """True when guests' accesses to all `length` bytes at guest-physical `address` reach memory, not the bus."""

    @abstractmethod
    def read(self, address: int, length: int) -> bytes:
        """`length` bytes at guest-physical `address`."""

    @abstractmethod
    def write(self, address: int, data: bytes | bytearray | memoryview) -> None:
        """Write `data` at guest-physical `address`; what was derived from the old content goes first."""

    def read_u8(self, address: int) -> int:
        """The byte at guest-physical `address`."""
        return self.read(address, 1)[0]

    def read_u16(self, address: int) -> int:
        """The little-endian 16-bit word at guest-physical `address`."""
        return int.from_bytes(self.read(address, 2), "little")

    def read_u32(self, address: int) -> int:
        """The little-endian 32-bit word at guest-physical `address`."""
        return int.from_bytes(self.read(address, 4), "little")

    def read_u64(self, address: int) -> int:
        """The little-endian 64-bit word at guest-physical `address`."""
        return int.from_bytes(self.read(address, 8), "little")

    def write_u8(self, address: int, value: int) -> None:
        """Write the low 8 bits of `value` at guest-physical `address`."""
        self.write(address, (value & 0xFF).to_bytes(1, "little"))

    def write_u16(self, address: int, value: int) -> None:
        """Write the low 16 bits of `value` at guest-physical `address`."""
        self.write(address, (value & 0xFFFF).to_bytes(2, "little"))

    def write_u32(self, address: int, value: int) -> None:
        """Write the low 32 bits of `value` at guest-physical `address`."""
        self.write(address, (value & 0xFFFF_FFFF).to_bytes(4, "little"))

    def write_u64(self, address: int, value: int) -> None:
        """Write the low 64 bits of `value` at guest-physical `address`."""
        self.write(address, (value & 0xFFFF_FFFF_FFFF_FFFF).to_bytes(8, "little"))
