"""Bochs's display interface: modes with a linear frame buffer, by 16-bit registers behind an index.

Source: Bochs, "VBE Display API" (vbe_display_api.txt), versions B0C0h to B0C5h; QEMU, "Standard VGA"
(docs/specs/standard-vga.rst).
"""

from __future__ import annotations

from collections import Counter
from typing import ClassVar

from trapgate.machine.device import PlainState

INDEX_PORT = 0x1CE
DATA_PORT = 0x1CF

ID, WIDTH, HEIGHT, DEPTH, ENABLE, BANK, VIRTUAL_WIDTH, VIRTUAL_HEIGHT, X_OFFSET, Y_OFFSET, MEMORY = range(11)
REGISTERS = 11
NEWEST = 0xB0C5
VERSIONS = range(0xB0C0, NEWEST + 1)

ENABLED, CAPABILITIES, WIDE_DAC, LINEAR, KEEP_MEMORY = 0x01, 0x02, 0x20, 0x40, 0x80
ENABLE_BITS = ENABLED | CAPABILITIES | WIDE_DAC | LINEAR | KEEP_MEMORY
MOST_WIDTH, MOST_HEIGHT, MOST_DEPTH = 2560, 1600, 32
#: Bits of a dot to its bytes.
DEPTHS = {8: 1, 15: 2, 16: 2, 24: 3, 32: 4}
BANK_SIZE = 0x10000


class Dispi(PlainState):
    """The registers, for a frame buffer of `size` bytes."""

    __slots__ = ("faults", "index", "name", "registers", "size")

    STATE: ClassVar[tuple[str, ...]] = ("index", "registers")

    def __init__(self, size: int, faults: Counter[str]) -> None:
        self.name = "vga-dispi"
        self.size = size
        self.faults = faults
        self.reset()

    def reset(self) -> None:
        """Disabled: the VGA's own registers choose the mode."""
        self.index = 0
        self.registers = [NEWEST, 0, 0, 8, 0, 0, 0, 0, 0, 0, self.size // BANK_SIZE]

    # What the display makes of them

    @property
    def enabled(self) -> bool:
        """Whether the frame buffer is displayed."""
        return bool(self.registers[ENABLE] & ENABLED)

    @property
    def is_wide(self) -> bool:
        """Whether the DAC has 8 bits a colour."""
        return bool(self.registers[ENABLE] & WIDE_DAC)

    @property
    def pixel_bytes(self) -> int:
        """Bytes of a dot."""
        return DEPTHS[self.registers[DEPTH]]

    @property
    def pitch(self) -> int:
        """Bytes from one line to the next."""
        return self.registers[VIRTUAL_WIDTH] * self.pixel_bytes

    @property
    def first_byte(self) -> int:
        """Where in the frame buffer the display begins."""
        registers = self.registers
        return registers[Y_OFFSET] * self.pitch + registers[X_OFFSET] * self.pixel_bytes

    @property
    def bank(self) -> int:
        """Byte of the frame buffer at which the window at A0000h begins."""
        return self.registers[BANK] * BANK_SIZE % self.size

    # Access

    def read(self, register: int) -> int:
        """A register; those that do not exist read as 0."""
        if register >= REGISTERS:
            return 0
        if self.registers[ENABLE] & CAPABILITIES and register in (WIDTH, HEIGHT, DEPTH):
            return (MOST_WIDTH, MOST_HEIGHT, MOST_DEPTH)[register - WIDTH]
        return self.registers[register]

    def write(self, register: int, value: int) -> bool:
        """Write a register; whether the frame buffer is now displayed anew, and is to be cleared."""
        registers = self.registers
        if register == ENABLE:
            return self._enable(value & ENABLE_BITS)
        if register == ID:
            if value in VERSIONS:
                registers[ID] = value
        elif register in (WIDTH, HEIGHT, DEPTH):
            if self.enabled:
                self.faults["mode changed while it is displayed"] += 1
            else:
                registers[register] = value
        elif register == BANK:
            registers[BANK] = value & 0x1FF
        elif register == VIRTUAL_WIDTH:
            self._set_virtual_width(value)
        elif register in (X_OFFSET, Y_OFFSET):
            self._move(register, value)
        return False

    def _enable(self, value: int) -> bool:
        registers = self.registers
        starts = bool(value & ENABLED) and not self.enabled
        if starts:
            width, height, depth = registers[WIDTH : DEPTH + 1]
            size = width * height * DEPTHS.get(depth, 0)
            if not (0 < width <= MOST_WIDTH and 0 < height <= MOST_HEIGHT and 0 < size <= self.size):
                self.faults["a mode that there is not"] += 1
                registers[ENABLE] = value & ~ENABLED
                return False
            registers[VIRTUAL_WIDTH] = width
            registers[VIRTUAL_HEIGHT] = self.size // (width * DEPTHS[depth])
            registers[X_OFFSET] = registers[Y_OFFSET] = registers[BANK] = 0
        registers[ENABLE] = value
        return starts and not value & KEEP_MEMORY

    def _set_virtual_width(self, value: int) -> None:
        registers = self.registers
        if not self.enabled:
            return
        lines = self.size // max(1, value * self.pixel_bytes)
        if value < registers[WIDTH] or lines < registers[HEIGHT]:
            self.faults["a virtual width that does not fit"] += 1
            return
        registers[VIRTUAL_WIDTH], registers[VIRTUAL_HEIGHT] = value, min(lines, 0xFFFF)
        registers[X_OFFSET] = registers[Y_OFFSET] = 0

    def _move(self, register: int, value: int) -> None:
        """Pan: what would leave the frame buffer is refused."""
        registers = self.registers
        if not self.enabled:
            return
        old, registers[register] = registers[register], value
        last = self.first_byte + (registers[HEIGHT] - 1) * self.pitch + registers[WIDTH] * self.pixel_bytes
        if last > self.size:
            self.faults["an offset outside the frame buffer"] += 1
            registers[register] = old
