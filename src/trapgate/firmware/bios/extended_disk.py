"""INT 13h AH=41h to 4Bh: disks by block address, and the CD that was booted.

Sources: Phoenix, "BIOS Enhanced Disk Drive Specification" 1.1; "El Torito" Bootable CD-ROM Format Specification 1.0,
section 6 (4Bh); Ralf Brown's Interrupt List, tables 00272 (address packet), 00273 (parameters), 00281 (CD packet).
"""

from __future__ import annotations

import struct

from trapgate.firmware.bios.call import DS, Call
from trapgate.firmware.bios.drives import Drive, Emulation, find
from trapgate.firmware.bios.host import Host

SUCCESS = 0x00
BAD_COMMAND = 0x01
WRITE_PROTECTED = 0x03
SECTOR_NOT_FOUND = 0x04
NOT_LOCKED, NOT_REMOVABLE, TOO_MANY_LOCKS = 0xB0, 0xB2, 0xB4
LOCKED = 0xB1

INSTALLED = 0xAA55
ASK_INSTALLED = 0x55AA
#: EDD 1.1, and which sets of functions there are: 42h to 44h, 47h, 48h; 45h, 46h, 48h, 49h.
VERSION = 0x21
FIXED_DISK_SET, REMOVABLE_SET = 0x0001, 0x0002
MAX_LOCKS = 0xFF
MAX_BLOCKS = 0x7F
PACKET = 0x10
NO_LIMIT = 0xFFFF_FFFF
#: Information flags of 48h: geometry is valid; removable, lockable, no geometry.
GEOMETRY_VALID = 0x0002
REMOVABLE_CD = 0x0004 | 0x0020 | 0x0040
PARAMETERS_1, PARAMETERS_2 = 0x1A, 0x1E
NO_CONFIGURATION = 0xFFFF_FFFF
CD_PACKET = 0x13
SECTOR_MICROSECONDS = 20


class ExtendedDisk:
    """The extended functions. A method returns the status, or None when it reports in its own way."""

    def __init__(self, host: Host, drives: list[Drive], emulation: Emulation | None) -> None:
        self._host = host
        self._drives = drives
        self._emulation = emulation

    def call(self, call: Call, drive: Drive | None) -> int | None:
        """INT 13h with AH from 41h on."""
        if call.ah == 0x4B and call.al in (0, 1):
            return self._emulation_status(call)
        functions = {
            0x41: self._installed, 0x42: self._read, 0x43: self._write, 0x44: self._verify, 0x45: self._lock,
            0x46: self._eject, 0x47: self._seek, 0x48: self._parameters, 0x49: self._changed,
        }  # fmt: skip
        function = functions.get(call.ah)
        if function is None:
            self._host.note(f"{call.describe()} dl={call.dl:02x}h: not supported")
            return BAD_COMMAND
        if drive is None or drive.is_diskette:
            return BAD_COMMAND
        return function(call, drive)

    def _installed(self, call: Call, drive: Drive) -> int | None:
        if call.bx != ASK_INSTALLED:
            return BAD_COMMAND
        call.bx = INSTALLED
        call.ah = VERSION
        call.cx = FIXED_DISK_SET | (REMOVABLE_SET if drive.is_cd else 0)
        call.set_carry(False)
        return None

    # Transfers

    def _packet(self, call: Call, drive: Drive) -> tuple[int, int, int] | int:
        """Linear address of the buffer, first block and count, or the status that refuses the packet at DS:SI."""
        size, count, offset, segment, first = struct.unpack("<BxHHHQ", call.read(DS, call.si, PACKET))
        if size < PACKET or count > MAX_BLOCKS:
            return BAD_COMMAND
        if first + count > drive.total:
            return SECTOR_NOT_FOUND
        self._host.charge_microseconds(SECTOR_MICROSECONDS * count)
        return (segment << 4) + offset, first, count

    def _set_count(self, call: Call, count: int) -> None:
        """Blocks that were transferred, in the packet."""
        call.write(DS, call.si + 2, count.to_bytes(2, "little"))

    def _read(self, call: Call, drive: Drive) -> int:
        where = self._packet(call, drive)
        if isinstance(where, int):
            self._set_count(call, 0)
            return where
        address, first, count = where
        call.write_linear(address, drive.read(first, count))
        return SUCCESS

    def _write(self, call: Call, drive: Drive) -> int:
        where = self._packet(call, drive) if drive.writable else WRITE_PROTECTED
        if isinstance(where, int):
            self._set_count(call, 0)
            return where
        address, first, count = where
        drive.write(first, call.read_linear(address, count * drive.sector_size))
        return SUCCESS

    def _verify(self, call: Call, drive: Drive) -> int:
        where = self._packet(call, drive)
        if isinstance(where, int):
            self._set_count(call, 0)
            return where
        return SUCCESS

    def _seek(self, call: Call, drive: Drive) -> int:
        where = self._packet(call, drive)
        return where if isinstance(where, int) else SUCCESS

    # The medium

    def _lock(self, call: Call, drive: Drive) -> int:
        """AL=0 locks, 1 unlocks, 2 asks; locks are counted."""
        if not drive.is_cd:
            return NOT_REMOVABLE if call.al < 2 else SUCCESS
        if call.al == 0:
            if drive.locks == MAX_LOCKS:
                return TOO_MANY_LOCKS
            drive.locks += 1
        elif call.al == 1:
            if not drive.locks:
                return NOT_LOCKED
            drive.locks -= 1
        elif call.al > 2:
            return BAD_COMMAND
        call.al = 1 if drive.locks else 0
        return SUCCESS

    def _eject(self, call: Call, drive: Drive) -> int:
        if not drive.is_cd:
            return NOT_REMOVABLE
        if drive.locks:
            return LOCKED
        self._host.note(f"{call.describe()} dl={call.dl:02x}h: the medium cannot be taken out")
        return BAD_COMMAND

    def _changed(self, call: Call, drive: Drive) -> int:
        """Nobody changes a medium."""
        return SUCCESS

    def _parameters(self, call: Call, drive: Drive) -> int:
        """Fill the buffer at DS:SI, whose first word is its size."""
        room = int.from_bytes(call.read(DS, call.si, 2), "little")
        if room < PARAMETERS_1:
            return BAD_COMMAND
        size = PARAMETERS_2 if room >= PARAMETERS_2 else PARAMETERS_1
        geometry = drive.geometry
        if geometry is None:
            shape = (REMOVABLE_CD, NO_LIMIT, NO_LIMIT, NO_LIMIT)
        else:
            cylinders = max(1, drive.total // (geometry.heads * geometry.sectors))
            shape = (GEOMETRY_VALID, cylinders, geometry.heads, geometry.sectors)
        data = struct.pack("<HHIIIQHI", size, *shape, drive.total, drive.sector_size, NO_CONFIGURATION)
        call.write(DS, call.si, data[:size])
        return SUCCESS

    def _emulation_status(self, call: Call) -> int:
        """4Bh: what the CD was booted as; AL=0 ends the emulation of drive DL, or of all with 7Fh."""
        emulation = self._emulation
        if emulation is None or call.dl not in (emulation.drive, 0x7F):
            return BAD_COMMAND
        drive = find(self._drives, emulation.drive)
        geometry = drive.geometry if drive is not None else None
        shape = (0, 0, 0)
        if geometry is not None:
            last = geometry.cylinders - 1
            shape = (last & 0xFF, geometry.sectors | last >> 2 & 0xC0, geometry.heads - 1)
        packet = struct.pack(
            "<BBBBIHHHHBBB", CD_PACKET, emulation.media, emulation.drive, 0, emulation.image_sector, 0, 0,
            emulation.load_segment, emulation.load_sectors, *shape,
        )  # fmt: skip
        call.write(DS, call.si, packet)
        if call.al == 0 and emulation.media and drive is not None:
            self._drives.remove(drive)
        return SUCCESS
