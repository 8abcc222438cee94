"""When the window in front of the planes behaves as plain memory does, so that guests may have plain memory there.

Text modes (odd addresses go to plane 1, even ones to plane 0) and mode 13h (each address to the plane of its last two
bits) put through every byte as it is: then the window's RAM holds the bytes, and the planes are brought up to date
where they are looked at. Any other state of the graphics controller takes each access one by one.
"""

from __future__ import annotations

from enum import Enum

from trapgate.devices.vga.planes import Planes
from trapgate.devices.vga.registers import (
    BIT_MASK,
    ENABLE_SET_RESET,
    MAP_MASK,
    MEMORY_CHAIN_4,
    MEMORY_MODE,
    MEMORY_SEQUENTIAL,
    MISC_RAM,
    MODE,
    MODE_ODD_EVEN,
    READ_MAP,
    ROTATE,
    VgaRegisters,
)

#: Bytes of a plane that a window of 64 KB reaches by chain 4.
CHAINED_WINDOW = 0x10000
LARGEST_WINDOW = 0x10000


class Layout(Enum):
    """How the window's bytes lie in the planes."""

    ODD_EVEN = 2
    CHAIN_4 = 4


def plain_layout(registers: VgaRegisters, planes: Planes) -> Layout | None:
    """The layout in which an access is no more than a load or a store; None where it is more."""
    graphics, sequencer = registers.graphics, registers.sequencer
    if (
        not registers.misc & MISC_RAM
        or graphics[BIT_MASK] != 0xFF or graphics[ENABLE_SET_RESET] or graphics[ROTATE] or graphics[MODE] & 0x0B
        or len(planes.window) > LARGEST_WINDOW
    ):  # fmt: skip
        return None
    mode = sequencer[MEMORY_MODE]
    if mode & MEMORY_CHAIN_4:
        return Layout.CHAIN_4 if sequencer[MAP_MASK] == 0xF else None
    plain = not mode & MEMORY_SEQUENTIAL and sequencer[MAP_MASK] == 3 and graphics[MODE] & MODE_ODD_EVEN
    return Layout.ODD_EVEN if plain and not graphics[READ_MAP] & 2 else None


def to_planes(planes: Planes, layout: Layout, window: bytes) -> None:
    """Put the bytes of a window, which begins at a multiple of 32 KB, where the layout says."""
    step = layout.value
    for n in range(step):
        part = window[n::step]
        planes.data[n][0 : step * len(part) : step] = part


def from_planes(planes: Planes, layout: Layout, size: int) -> bytes:
    """The bytes that a window of `size` bytes shows."""
    step = layout.value
    window = bytearray(size)
    for n in range(step):
        window[n::step] = planes.data[n][0:size:step]
    return bytes(window)
