"""A function's 256 bytes of configuration space: which bits a guest can write, and which it clears by writing 1.

Source: PCI Local Bus Specification 3.0, chapter 6.
"""

from __future__ import annotations

from typing import ClassVar

from trapgate.machine.device import PlainState

SIZE = 256

# 6.1, type 00h header.
VENDOR = 0x00
COMMAND = 0x04
STATUS = 0x06
REVISION = 0x08
CLASS = 0x09
HEADER_TYPE = 0x0E
FIRST_BAR = 0x10
SUBSYSTEM_VENDOR = 0x2C
CAPABILITIES = 0x34
INTERRUPT_LINE = 0x3C
INTERRUPT_PIN = 0x3D

# 6.2.2 and 6.2.3.
IO_SPACE = 1 << 0
MEMORY_SPACE = 1 << 1
BUS_MASTER = 1 << 2
INTERRUPT_DISABLE = 1 << 10
INTERRUPT_STATUS = 1 << 3
CAPABILITIES_LIST = 1 << 4

MULTI_FUNCTION = 0x80
FIRST_CAPABILITY = 0x40


class ConfigSpace(PlainState):
    """The registers as bytes. A register that was not defined reads as 0 and ignores writes."""

    __slots__ = ("_clear", "_initial", "_mask", "data", "name")

    STATE: ClassVar[tuple[str, ...]] = ("data",)

    def __init__(self, name: str) -> None:
        self.name = name
        self.data = bytearray(SIZE)
        self._mask = bytearray(SIZE)
        self._clear = bytearray(SIZE)
        self._initial = bytes(SIZE)

    def define(self, offset: int, width: int, value: int, writable: int = 0, clear: int = 0) -> None:
        """The register of `width` bytes at `offset`: its value at reset, the bits that a guest can write, and those
        that a write of 1 clears."""
        for array, bits in ((self.data, value), (self._mask, writable), (self._clear, clear)):
            array[offset : offset + width] = bits.to_bytes(width, "little")
        self._initial = bytes(self.data)

    def reset(self) -> None:
        """Every register as it was defined."""
        self.data[:] = self._initial

    def get(self, offset: int, width: int) -> int:
        """A register's value."""
        return int.from_bytes(self.data[offset : offset + width], "little")

    def put(self, offset: int, width: int, value: int) -> None:
        """Change a register from the device's side."""
        self.data[offset : offset + width] = value.to_bytes(width, "little")

    def write(self, offset: int, width: int, value: int) -> None:
        """A guest's write: read-only bits stay."""
        for place in range(offset, offset + width):
            byte = value & 0xFF
            value >>= 8
            mask = self._mask[place]
            self.data[place] = (self.data[place] & ~mask | byte & mask) & ~(byte & self._clear[place])
