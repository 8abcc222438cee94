"""Bus-master DMA of one IDE channel: a table of physical regions, and the engine that follows it.

Source: "Programming Interface for Bus Master IDE Controller", revision 1.0 (SFF-8038i); Intel 82371SB (PIIX3) data
sheet (order 290550-002), 2.5.
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Callable
from typing import ClassVar

from trapgate.devices.ide.drive import AtaDrive
from trapgate.machine.device import PlainState
from trapgate.machine.ram import Ram

PORTS = 8
COMMAND = 0
STATUS = 2
TABLE = 4

START = 0x01
TO_MEMORY = 0x08
ACTIVE = 0x01
ERROR = 0x02
INTERRUPT = 0x04
DRIVES_CAPABLE = 0x60

#: A table ends here (2.0, "Physical Region Descriptor"): it does not cross 64 KB.
TABLE_BOUNDARY = 0x10000
END_OF_TABLE = 0x8000
LARGEST_REGION = 0x10000
ENTRY = 8


class BusMaster(PlainState):
    """The registers of a channel at offsets 0 to 7. `is_allowed` says whether the guest lets the chip access memory."""

    STATE: ClassVar[tuple[str, ...]] = ("command", "status", "table")

    def __init__(self, memory: Ram, is_allowed: Callable[[], bool]) -> None:
        self.name = "ide-dma"
        self._memory = memory
        self._is_allowed = is_allowed
        #: The drive that waits for a transfer, if any.
        self.waiting: Callable[[], AtaDrive | None] = lambda: None
        self.faults: Counter[str] = Counter()
        self.command = self.status = self.table = 0

    def reset(self) -> None:
        """Stopped."""
        self.command = self.status = self.table = 0

    def interrupt(self) -> None:
        """INTRQ of the channel was asserted."""
        self.status |= INTERRUPT

    # Access

    def read(self, offset: int, width: int) -> int:
        """Registers as bytes; 1 and 3 are reserved."""
        data = bytes((self.command, 0, self.status, 0)) + self.table.to_bytes(4, "little")
        return int.from_bytes(data[offset : offset + width].ljust(width, b"\0"), "little")

    def write(self, offset: int, width: int, value: int) -> None:
        """Each byte by itself."""
        for place in range(offset, min(offset + width, PORTS)):
            self._write_byte(place, value & 0xFF)
            value >>= 8
        if offset <= COMMAND:
            self.run()

    def _write_byte(self, offset: int, value: int) -> None:
        if offset == COMMAND:
            started = value & START and not self.command & START
            self.command = value & (START | TO_MEMORY)
            if started:
                self.status |= ACTIVE
            elif not value & START:
                self.status &= ~ACTIVE
        elif offset == STATUS:
            self.status = self.status & (ACTIVE | (ERROR | INTERRUPT) & ~value) | value & DRIVES_CAPABLE
        elif offset >= TABLE:
            shift = 8 * (offset - TABLE)
            self.table = (self.table & ~(0xFF << shift) | value << shift) & 0xFFFF_FFFC

    # Transfers

    def run(self) -> None:
        """Move the data if the engine has been started and a drive waits."""
        drive = self.waiting()
        if drive is None or not self.command & START or not self.status & ACTIVE:
            return
        if bool(self.command & TO_MEMORY) != drive.dma_to_memory:
            self._stop("direction that is not the drive's")
        elif not self._is_allowed():
            self._stop("bus mastering not enabled")
        else:
            self._transfer(drive)

    def _stop(self, why: str) -> None:
        """An error: the engine stops, and no interrupt tells of it (3.1, "Error Conditions")."""
        self.faults[why] += 1
        self.status = self.status & ~ACTIVE | ERROR

    def _transfer(self, drive: AtaDrive) -> None:
        memory, buffer = self._memory, drive.buffer
        entry, boundary = self.table, (self.table & -TABLE_BOUNDARY) + TABLE_BOUNDARY
        is_last = False
        while drive.position < len(buffer):
            if is_last:
                # The table is shorter than the transfer: the drive waits for ever (3.1, table 1).
                self.faults["table shorter than the transfer"] += 1
                self.status &= ~ACTIVE
                return
            if entry + ENTRY > boundary or not memory.is_ram(entry, ENTRY):
                self._stop("table outside memory or across 64 KB")
                return
            base, count, flags = struct.unpack("<IHH", memory.read(entry, ENTRY))
            base, count = base & ~1, count & ~1 or LARGEST_REGION
            is_last = bool(flags & END_OF_TABLE)
            size = min(count, len(buffer) - drive.position)
            if not memory.is_ram(base, size):
                self._stop("region outside memory")
                return
            position = drive.position
            if drive.dma_to_memory:
                memory.write(base, memoryview(buffer)[position : position + size])
            else:
                buffer[position : position + size] = memory.read(base, size)
            drive.position = position + size
            entry += ENTRY
            is_whole = size == count
        # Regions that are left over leave the engine active.
        if is_last and is_whole:
            self.status &= ~ACTIVE
        drive.dma_done()
