"""The four planes of 64 KB, and what a processor's access does to them.

Source: PS/2 HITR, "Video Subsystem", graphics controller and sequencer; FreeVGA, "VGA Memory Access".
"""

from __future__ import annotations

from typing import ClassVar

from trapgate.devices.vga.registers import (
    BIT_MASK,
    COLOUR_CARE,
    COLOUR_COMPARE,
    ENABLE_SET_RESET,
    MAP_MASK,
    MEMORY_CHAIN_4,
    MEMORY_MODE,
    MEMORY_SEQUENTIAL,
    MISCELLANEOUS,
    MODE,
    MODE_ODD_EVEN,
    MODE_READ_COMPARE,
    READ_MAP,
    ROTATE,
    SET_RESET,
    VgaRegisters,
)
from trapgate.machine.device import PlainState

PLANE = 0x10000
PLANES = 4
#: The window in guest-physical memory: (first byte, bytes) by bits 2 and 3 of the graphics controller's register 6,
#: counted from A0000h.
WINDOWS = ((0, 0x20000), (0, 0x10000), (0x10000, 0x8000), (0x18000, 0x8000))


class Planes(PlainState):
    """256 KB of display memory behind the graphics controller."""

    __slots__ = ("_registers", "data", "name")

    STATE: ClassVar[tuple[str, ...]] = ("data",)

    def __init__(self, registers: VgaRegisters) -> None:
        self.name = "vga-planes"
        self._registers = registers
        self.reset()

    def reset(self) -> None:
        """All zeros."""
        self.data = [bytearray(PLANE) for _ in range(PLANES)]

    def after_restore(self) -> None:
        """A snapshot has bytes."""
        self.data = [bytearray(plane) for plane in self.data]

    @property
    def window(self) -> range:
        """What of A0000h to BFFFFh is decoded, counted from A0000h."""
        first, size = WINDOWS[self._registers.graphics[MISCELLANEOUS] >> 2 & 3]
        return range(first, first + size)

    def read(self, address: int) -> int:
        """A byte at `address` within the window. The latches take all four planes."""
        registers, data = self._registers, self.data
        graphics, memory_mode = registers.graphics, registers.sequencer[MEMORY_MODE]
        plane = graphics[READ_MAP]
        if memory_mode & MEMORY_CHAIN_4:
            plane, place = address & 3, address & 0xFFFC
        elif graphics[MODE] & MODE_ODD_EVEN:
            plane, place = plane & 2 | address & 1, address & 0xFFFE
        else:
            place = address & 0xFFFF
        latches = registers.latches
        for n in range(PLANES):
            latches[n] = data[n][place]
        if not graphics[MODE] & MODE_READ_COMPARE:
            return latches[plane]
        # Read mode 1: a bit is 1 where the dot has the colour, in the planes that count.
        differs = 0
        for n in range(PLANES):
            if graphics[COLOUR_CARE] >> n & 1:
                differs |= latches[n] ^ (0xFF if graphics[COLOUR_COMPARE] >> n & 1 else 0)
        return differs ^ 0xFF

    def write(self, address: int, value: int) -> None:
        """Write the byte `value` at `address` within the window."""
        registers = self._registers
        graphics, memory_mode = registers.graphics, registers.sequencer[MEMORY_MODE]
        planes = registers.sequencer[MAP_MASK]
        if memory_mode & MEMORY_CHAIN_4:
            planes, place = planes & 1 << (address & 3), address & 0xFFFC
        elif not memory_mode & MEMORY_SEQUENTIAL:
            planes, place = planes & (0xA if address & 1 else 0x5), address & 0xFFFE
        else:
            place = address & 0xFFFF
        for n in range(PLANES):
            if planes >> n & 1:
                self.data[n][place] = _plane_value(graphics, registers.latches[n], n, value)


def _plane_value(graphics: bytearray, latch: int, plane: int, value: int) -> int:
    """What the graphics controller makes of `value` for a plane."""
    mode = graphics[MODE] & 3
    if mode == 1:
        return latch
    mask = graphics[BIT_MASK]
    if mode == 2:
        result = 0xFF if value >> plane & 1 else 0
    else:
        rotation = graphics[ROTATE] & 7
        rotated = (value >> rotation | value << 8 - rotation) & 0xFF
        set_reset = 0xFF if graphics[SET_RESET] >> plane & 1 else 0
        if mode == 3:
            mask &= rotated
            result = set_reset
        else:
            result = set_reset if graphics[ENABLE_SET_RESET] >> plane & 1 else rotated
    function = graphics[ROTATE] >> 3 & 3
    if function == 1:
        result &= latch
    elif function == 2:
        result |= latch
    elif function == 3:
        result ^= latch
    return result & mask | latch & ~mask & 0xFF
