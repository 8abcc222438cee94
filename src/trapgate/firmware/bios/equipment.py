"""INT 11h, the equipment word, and INT 12h, KB of conventional memory.

Source: IBM PC AT Technical Reference, BIOS listing; Ralf Brown's Interrupt List, INT 11h.
"""

from __future__ import annotations

from trapgate.firmware.bios import data_area
from trapgate.firmware.bios.call import Call
from trapgate.firmware.bios.host import Host

HAS_DISKETTE = 1 << 0
HAS_FPU = 1 << 1
VIDEO_80_COLUMNS = 2 << 4
DISKETTES_SHIFT = 6
SERIAL_PORTS_SHIFT = 9
PRINTERS_SHIFT = 14


def equipment_word(diskettes: int, serial_ports: int, printers: int = 0) -> int:
    """The equipment word of a PC with an FPU and a colour display of 80 columns."""
    word = HAS_FPU | VIDEO_80_COLUMNS | serial_ports << SERIAL_PORTS_SHIFT | printers << PRINTERS_SHIFT
    if diskettes:
        word |= HAS_DISKETTE | diskettes - 1 << DISKETTES_SHIFT
    return word


class Equipment:
    """Both services give what stands in the BIOS data area."""

    def __init__(self, host: Host) -> None:
        self._memory = host.memory

    def equipment(self, call: Call) -> None:
        """INT 11h."""
        call.ax = self._memory.read_u16(data_area.EQUIPMENT)

    def memory_size(self, call: Call) -> None:
        """INT 12h."""
        call.ax = self._memory.read_u16(data_area.MEMORY_KB)
