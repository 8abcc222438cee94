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


class Ram(Protocol):
    """RAM of `size` bytes by guest-physical address. Accesses that leave it raise AddressOutsideMemory.

    A class that says it is one gives the first four methods and gets the others.
    """

    size: int

    @abstractmethod
    def ranges(self) -> list[range]:
        """Guest-physical ranges that are RAM, lowest first."""

    @abstractmethod
    def is_ram(self, address: int, length: int = 1) -> bool:
        """True when all `length` bytes at guest-physical `address` are RAM."""

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
