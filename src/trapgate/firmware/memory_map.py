"""The guest-physical memory map that firmware reports (INT 15h AX=E820h, ACPI specification 6.5, chapter 15)."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from trapgate.machine.ram import Ram

USABLE = 1
RESERVED = 2

#: The extended BIOS data area: the last KB of conventional memory. Its segment stands at 40Eh.
EBDA_BASE = 0x9FC00
CONVENTIONAL_TOP = 0xA0000
#: Firmware tables and ROM, where operating systems search for the ACPI and MP roots.
FIRMWARE_BASE = 0xE0000
FIRMWARE_TOP = 0x100000
BDA_EBDA_SEGMENT = 0x40E
BDA_CONVENTIONAL_KB = 0x413


@dataclass(frozen=True)
class MapEntry:
    """`length` bytes from guest-physical `base`; `kind` is an address range type (1 usable, 2 reserved)."""

    base: int
    length: int
    kind: int

    def pack(self) -> bytes:
        """The 20 bytes of an E820 entry."""
        return struct.pack("<QQI", self.base, self.length, self.kind)


def memory_map(memory: Ram) -> list[MapEntry]:
    """The map of `memory`: conventional memory, the EBDA, the firmware area, then RAM from 1 MB up."""
    entries = [
        MapEntry(0, EBDA_BASE, USABLE),
        MapEntry(EBDA_BASE, CONVENTIONAL_TOP - EBDA_BASE, RESERVED),
        MapEntry(FIRMWARE_BASE, FIRMWARE_TOP - FIRMWARE_BASE, RESERVED),
    ]
    for ram in memory.ranges():
        start = max(ram.start, FIRMWARE_TOP)
        if start < ram.stop:
            entries.append(MapEntry(start, ram.stop - start, USABLE))
    return entries


def low_memory_top(memory: Ram) -> int:
    """The end of the RAM that begins at 0, in bytes: never above the hole below 4 GB."""
    return memory.ranges()[0].stop


def write_bios_data_area(memory: Ram) -> None:
    """What operating systems still read of the BIOS data area: where the EBDA is, and KB of conventional memory."""
    memory.write_u16(BDA_EBDA_SEGMENT, EBDA_BASE >> 4)
    memory.write_u16(BDA_CONVENTIONAL_KB, EBDA_BASE >> 10)
