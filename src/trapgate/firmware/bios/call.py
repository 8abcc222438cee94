"""One call of a service: the guest's registers by name, its buffers, and the flags that IRET will restore."""

from __future__ import annotations

from trapgate.firmware.bios.host import Processor

PAGE = 4096
ES, CS, SS, DS = 0, 1, 2, 3
SP = 4

CARRY = 1 << 0
ZERO = 1 << 6
INTERRUPTS = 1 << 9


class _Register:
    """A register or a part of one, as an attribute."""

    def __init__(self, number: int, width: int, shift: int = 0) -> None:
        self.number = number
        self.width = width
        self.shift = shift

    def __get__(self, call: Call, owner: type[Call]) -> int:
        return call.processor.register(self.number, self.width + self.shift) >> self.shift

    def __set__(self, call: Call, value: int) -> None:
        mask = (1 << self.width) - 1
        if self.shift:
            value = call.processor.register(self.number, 8) | (value & mask) << self.shift
        if self.width == 32:
            # A service keeps the upper halves of 64-bit registers, which no BIOS knows.
            value = call.processor.register(self.number, 64) & ~0xFFFF_FFFF | value & mask
            call.processor.set_register(self.number, 64, value)
        else:
            call.processor.set_register(self.number, self.width + self.shift, value & 0xFFFF)


class Call:
    """The state at a service's entry: INT has pushed FLAGS, CS and IP. `vector` is the interrupt's number."""

    al, ah, ax, eax = _Register(0, 8), _Register(0, 8, 8), _Register(0, 16), _Register(0, 32)
    cl, ch, cx, ecx = _Register(1, 8), _Register(1, 8, 8), _Register(1, 16), _Register(1, 32)
    dl, dh, dx, edx = _Register(2, 8), _Register(2, 8, 8), _Register(2, 16), _Register(2, 32)
    bl, bh, bx, ebx = _Register(3, 8), _Register(3, 8, 8), _Register(3, 16), _Register(3, 32)
    bp, si, di = _Register(5, 16), _Register(6, 16), _Register(7, 16)

    def __init__(self, processor: Processor, vector: int) -> None:
        self.processor = processor
        self.vector = vector

    def load_segment(self, segment: int, selector: int) -> None:
        """Load a segment register, as MOV does."""
        self.processor.load_data_segment(segment, selector)

    @property
    def es_selector(self) -> int:
        """ES."""
        selector: int = self.processor.segments[ES].selector
        return selector

    # Memory

    def linear(self, segment: int, offset: int) -> int:
        """The linear address of a 16-bit `offset` in segment register `segment` (ES, CS, SS, DS)."""
        base: int = self.processor.segments[segment].base
        return base + (offset & 0xFFFF) & 0xFFFF_FFFF

    def read(self, segment: int, offset: int, length: int) -> bytes:
        """`length` bytes at segment:offset."""
        return self.read_linear(self.linear(segment, offset), length)

    def write(self, segment: int, offset: int, data: bytes) -> None:
        """Write `data` at segment:offset."""
        self.write_linear(self.linear(segment, offset), data)

    def read_linear(self, linear: int, length: int) -> bytes:
        """`length` bytes at a linear address."""
        data = bytearray()
        while len(data) < length:
            piece = min(PAGE - linear % PAGE, length - len(data))
            data += self.processor.read_system(linear, piece).to_bytes(piece, "little")
            linear += piece
        return bytes(data)

    def write_linear(self, linear: int, data: bytes) -> None:
        """Write `data` at a linear address."""
        position = 0
        while position < len(data):
            piece = min(PAGE - linear % PAGE, len(data) - position)
            value = int.from_bytes(data[position : position + piece], "little")
            self.processor.write_system(linear, piece, value)
            linear += piece
            position += piece

    # The interrupt's frame

    def _frame(self, offset: int) -> int:
        return self.linear(SS, self.processor.register(SP, 16) + offset)

    @property
    def return_address(self) -> tuple[int, int]:
        """CS and IP to which IRET goes."""
        data = self.read_linear(self._frame(0), 4)
        return int.from_bytes(data[2:], "little"), int.from_bytes(data[:2], "little")

    @return_address.setter
    def return_address(self, address: tuple[int, int]) -> None:
        segment, offset = address
        self.write_linear(self._frame(0), (segment << 16 | offset).to_bytes(4, "little"))

    @property
    def flags(self) -> int:
        """FLAGS as IRET will restore them."""
        return self.processor.read_system(self._frame(4), 2)

    def _set_flag(self, bit: int, value: bool) -> None:
        flags = self.flags
        self.processor.write_system(self._frame(4), 2, flags | bit if value else flags & ~bit)

    def set_carry(self, value: bool) -> None:
        """CF after IRET: most services report an error by it."""
        self._set_flag(CARRY, value)

    def set_zero(self, value: bool) -> None:
        """ZF after IRET."""
        self._set_flag(ZERO, value)

    def describe(self) -> str:
        """The call in words, for notes: `int 13h ax=4b05h`."""
        return f"int {self.vector:02x}h ax={self.ax:04x}h"
