"""The guest's memory, physical and virtual. Looking at it changes nothing that the guest or a counter sees."""

from __future__ import annotations

from typing import Protocol

from trapgate.api import checks
from trapgate.api.errors import InvalidBytes, InvalidRange, NotMapped
from trapgate.cpu.core import is_canonical
from trapgate.engine.processor import Processor
from trapgate.machine.memory import PAGE, PhysicalMemory


class _Bytes(Protocol):
    def read(self, address: int, length: int) -> bytes: ...
    def write(self, address: int, data: bytes) -> None: ...


class _Words:
    """Little-endian numbers on top of `read` and `write`."""

    def read_u8(self: _Bytes, address: int) -> int:
        """The byte at `address`."""
        return self.read(address, 1)[0]

    def read_u16(self: _Bytes, address: int) -> int:
        """The 16-bit word at `address`."""
        return int.from_bytes(self.read(address, 2), "little")

    def read_u32(self: _Bytes, address: int) -> int:
        """The 32-bit word at `address`."""
        return int.from_bytes(self.read(address, 4), "little")

    def read_u64(self: _Bytes, address: int) -> int:
        """The 64-bit word at `address`."""
        return int.from_bytes(self.read(address, 8), "little")

    def write_u8(self: _Bytes, address: int, value: int) -> None:
        """Write the low 8 bits of `value`."""
        self.write(address, (value & 0xFF).to_bytes(1, "little"))

    def write_u16(self: _Bytes, address: int, value: int) -> None:
        """Write the low 16 bits of `value`."""
        self.write(address, (value & 0xFFFF).to_bytes(2, "little"))

    def write_u32(self: _Bytes, address: int, value: int) -> None:
        """Write the low 32 bits of `value`."""
        self.write(address, (value & 0xFFFF_FFFF).to_bytes(4, "little"))

    def write_u64(self: _Bytes, address: int, value: int) -> None:
        """Write the low 64 bits of `value`."""
        self.write(address, (value & 0xFFFF_FFFF_FFFF_FFFF).to_bytes(8, "little"))

    def read_text(self: _Bytes, address: int, limit: int = 4096) -> str:
        """The text at `address` up to a zero byte, at most `limit` bytes; bytes that are no UTF-8 are replaced."""
        data = b""
        while len(data) < limit:
            piece = self.read(address + len(data), min(PAGE - (address + len(data)) % PAGE, limit - len(data)))
            data += piece
            if 0 in piece:
                break
        return data.split(b"\0", 1)[0].decode(errors="replace")


class Memory(_Words):
    """RAM by guest-physical address: `memory[address]` is a byte, `memory[start:stop]` are bytes; both can be assigned.

    What is not RAM raises AddressOutsideMemory: devices are not asked.
    """

    def __init__(self, memory: PhysicalMemory) -> None:
        self._memory = memory

    @property
    def size(self) -> int:
        """Bytes of RAM."""
        return self._memory.size

    def ranges(self) -> list[range]:
        """Guest-physical ranges that are RAM."""
        return self._memory.ranges()

    def read(self, address: int, length: int) -> bytes:
        """`length` bytes from `address` on."""
        return self._memory.read(address, _length(length))

    def write(self, address: int, data: bytes) -> None:
        """Write `data`; code that was decoded from there is decoded again."""
        self._memory.write(address, data)

    def __getitem__(self, place: int | slice) -> int | bytes:
        if isinstance(place, slice):
            return self.read(*_range(place))
        return self.read_u8(self._address(place))

    def __setitem__(self, place: int | slice, value: int | bytes) -> None:
        if isinstance(place, slice):
            start, length = _range(place)
            if not isinstance(value, bytes | bytearray | memoryview) or len(value) != length:
                raise InvalidBytes(start, length, value)
            self.write(start, bytes(value))
        elif isinstance(value, int) and 0 <= value <= 0xFF:
            self.write_u8(self._address(place), value)
        else:
            raise InvalidBytes(self._address(place), -1, value)

    @staticmethod
    def _address(place: object) -> int:
        if not isinstance(place, int):
            raise InvalidRange(place)
        return place


def _length(length: int) -> int:
    return checks.number("read()", length, 1 << 63, "a number of bytes, 0 or more,")


def _range(place: slice) -> tuple[int, int]:
    if place.start is None or place.stop is None or place.step not in (None, 1) or place.stop < place.start:
        raise InvalidRange(place)
    return place.start, place.stop - place.start


class VirtualMemory(_Words):
    """RAM as the guest's present page tables map it, by linear address, whatever the privilege.

    Nothing is counted, no TLB entry is made and no accessed or dirty bit is set. What leads to no RAM raises NotMapped.
    """

    def __init__(self, processor: Processor) -> None:
        self._processor = processor

    def translate(self, address: int) -> int:
        """Guest-physical address of a linear one. Raises NotMapped."""
        processor = self._processor
        valid = is_canonical(address) if processor.long_mode else 0 <= address <= 0xFFFF_FFFF
        page = processor.blocks.peek_page(address) if valid else None
        if page is None:
            raise NotMapped(address)
        return page + address % PAGE

    def is_mapped(self, address: int) -> bool:
        """Whether a linear address leads to RAM."""
        try:
            self.translate(address)
        except NotMapped:
            return False
        return True

    def read(self, address: int, length: int) -> bytes:
        """`length` bytes from linear `address` on."""
        return b"".join(
            self._processor.memory.read(place, size) for place, size in self._parts(address, _length(length))
        )

    def write(self, address: int, data: bytes) -> None:
        """Write `data`, whether the guest might or not; nothing is written when a part of it is not mapped."""
        done = 0
        for place, size in self._parts(address, len(data)):
            self._processor.memory.write(place, data[done : done + size])
            done += size

    def _parts(self, address: int, length: int) -> list[tuple[int, int]]:
        parts = []
        end = address + length
        while address < end:
            size = min(end - address, PAGE - address % PAGE)
            parts.append((self.translate(address), size))
            address += size
        return parts
