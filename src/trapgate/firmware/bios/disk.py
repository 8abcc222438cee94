"""INT 13h: disks by cylinder, head and sector. Functions 41h and up are extended_disk.py's.

Sources: IBM PC AT Technical Reference, BIOS listing, INT 13h; Ralf Brown's Interrupt List, INT 13h and table 00234
(statuses).
"""

from __future__ import annotations

from trapgate.firmware.bios import data_area, rom
from trapgate.firmware.bios.call import ES, Call
from trapgate.firmware.bios.drives import SECTOR, Drive, Emulation, find
from trapgate.firmware.bios.extended_disk import ExtendedDisk
from trapgate.firmware.bios.host import Host
from trapgate.machine.block import BlockError

SUCCESS = 0x00
BAD_COMMAND = 0x01
WRITE_PROTECTED = 0x03
SECTOR_NOT_FOUND = 0x04
NO_DRIVE = 0x07
UNCORRECTABLE = 0x10
WRITE_FAULT = 0xCC
#: Functions that write: by cylinder, format, extended.
WRITES = (0x03, 0x05, 0x43)
EXTENDED = 0x41
#: Microseconds of a call and of a sector (assumed, of the order of a disk with a cache): small against a timer tick.
CALL_MICROSECONDS = 100
SECTOR_MICROSECONDS = 20
#: What INT 13h AH=15h says of a drive.
TYPE_NONE, TYPE_DISKETTE, TYPE_DISK = 0, 1, 3
FILLER = 0xF6


class Disk:
    """The disk service for `drives`; `emulation` is that of an El Torito CD."""

    def __init__(self, host: Host, drives: list[Drive], emulation: Emulation | None) -> None:
        self._host = host
        self.drives = drives
        self._extended = ExtendedDisk(host, drives, emulation)

    def call(self, call: Call) -> None:
        """INT 13h."""
        drive = find(self.drives, call.dl)
        try:
            status = self._extended.call(call, drive) if call.ah >= EXTENDED else self._call(call, drive)
        except BlockError as error:
            self._host.note(f"{call.describe()} dl={call.dl:02x}h: {error.reason}")
            status = WRITE_FAULT if call.ah in WRITES else UNCORRECTABLE
        if status is None:
            return  # it reports in its own way, and leaves the last status alone
        self._set_status(call.dl, status)
        call.ah = status
        call.set_carry(status != SUCCESS)

    def _set_status(self, number: int, status: int) -> None:
        place = data_area.FLOPPY_STATUS if number < 0x80 else data_area.DISK_STATUS
        self._host.memory.write_u8(place, status)

    def _call(self, call: Call, drive: Drive | None) -> int | None:
        functions = {
            0x00: self._nothing, 0x01: self._last_status, 0x02: self._read, 0x03: self._write, 0x04: self._verify,
            0x05: self._format, 0x08: self._parameters, 0x09: self._nothing, 0x0C: self._seek, 0x0D: self._nothing,
            0x10: self._nothing, 0x11: self._nothing, 0x14: self._nothing, 0x15: self._type, 0x16: self._changed,
            0x17: self._nothing, 0x18: self._media_type,
        }  # fmt: skip
        function = functions.get(call.ah)
        if function is None:
            self._host.note(f"{call.describe()} dl={call.dl:02x}h: not supported")
            return BAD_COMMAND
        self._host.charge_microseconds(CALL_MICROSECONDS)
        if call.ah == 0x15 and drive is None:
            call.ax = TYPE_NONE
            call.set_carry(False)
            return None
        if drive is None:
            # A diskette drive that is not there does not answer; resetting the controller works all the same.
            if call.ah == 0x00 and call.dl < 0x80:
                return SUCCESS
            if call.ah == 0x08:
                call.cx = call.dx = 0
                return NO_DRIVE
            return BAD_COMMAND
        return function(call, drive)

    # Addresses

    def _block(self, call: Call, drive: Drive) -> int | None:
        """The block that CH, CL and DH name, None when there is none."""
        geometry = drive.geometry
        if geometry is None:
            return None
        cylinder, sector, head = call.ch | (call.cl & 0xC0) << 2, call.cl & 0x3F, call.dh
        if not 1 <= sector <= geometry.sectors or head >= geometry.heads or cylinder >= geometry.cylinders:
            return None
        return (cylinder * geometry.heads + head) * geometry.sectors + sector - 1

    def _range(self, call: Call, drive: Drive) -> tuple[int, int] | int:
        """First block and count of a transfer, or the status that refuses it."""
        if drive.geometry is None or not call.al:
            return BAD_COMMAND
        first = self._block(call, drive)
        if first is None or first + call.al > drive.total:
            return SECTOR_NOT_FOUND
        return first, call.al

    # Functions

    def _nothing(self, call: Call, drive: Drive) -> int:
        """Reset, recalibrate, test: always ready."""
        return SUCCESS

    def _last_status(self, call: Call, drive: Drive) -> int:
        place = data_area.FLOPPY_STATUS if call.dl < 0x80 else data_area.DISK_STATUS
        return self._host.memory.read_u8(place)

    def _read(self, call: Call, drive: Drive) -> int:
        where = self._range(call, drive)
        if isinstance(where, int):
            call.al = 0
            return where
        call.write(ES, call.bx, drive.read(*where))
        self._host.charge_microseconds(SECTOR_MICROSECONDS * where[1])
        return SUCCESS

    def _write(self, call: Call, drive: Drive) -> int:
        where = self._range(call, drive)
        if not drive.writable:
            where = WRITE_PROTECTED
        if isinstance(where, int):
            call.al = 0
            return where
        drive.write(where[0], call.read(ES, call.bx, where[1] * SECTOR))
        self._host.charge_microseconds(SECTOR_MICROSECONDS * where[1])
        return SUCCESS

    def _verify(self, call: Call, drive: Drive) -> int:
        where = self._range(call, drive)
        if isinstance(where, int):
            call.al = 0
            return where
        return SUCCESS

    def _format(self, call: Call, drive: Drive) -> int:
        """A track of a diskette: its sectors get the filler byte."""
        if not drive.is_diskette or drive.geometry is None:
            self._host.note(f"{call.describe()} dl={call.dl:02x}h: not supported")
            return BAD_COMMAND
        if not drive.writable:
            return WRITE_PROTECTED
        geometry = drive.geometry
        track = call.ch * geometry.heads + call.dh
        if call.ch >= geometry.cylinders or call.dh >= geometry.heads:
            return SECTOR_NOT_FOUND
        drive.write(track * geometry.sectors, bytes([FILLER]) * (geometry.sectors * SECTOR))
        return SUCCESS

    def _parameters(self, call: Call, drive: Drive) -> int:
        geometry = drive.geometry
        if geometry is None:
            return BAD_COMMAND
        last = geometry.cylinders - 1
        call.ch = last
        call.cl = geometry.sectors | last >> 2 & 0xC0
        call.dh = geometry.heads - 1
        call.dl = sum(d.is_diskette == drive.is_diskette and not d.is_cd for d in self.drives)
        call.ax = 0
        if drive.is_diskette:
            call.bx = drive.diskette_type
            call.load_segment(ES, rom.SEGMENT)
            call.di = rom.DISKETTE_TABLE
        return SUCCESS

    def _seek(self, call: Call, drive: Drive) -> int:
        return SUCCESS if self._block(call, drive) is not None else SECTOR_NOT_FOUND

    def _type(self, call: Call, drive: Drive) -> int | None:
        if drive.is_diskette:
            call.ah = TYPE_DISKETTE
        elif drive.is_cd:
            return BAD_COMMAND
        else:
            call.ah = TYPE_DISK
            call.cx, call.dx = drive.total >> 16 & 0xFFFF, drive.total & 0xFFFF
        call.set_carry(False)
        return None

    def _changed(self, call: Call, drive: Drive) -> int:
        """Nobody changes a medium."""
        return SUCCESS if drive.is_diskette else BAD_COMMAND

    def _media_type(self, call: Call, drive: Drive) -> int:
        """CH and CL are the last cylinder and sector that are to be formatted."""
        geometry = drive.geometry
        if not drive.is_diskette or geometry is None:
            return BAD_COMMAND
        if (call.ch | (call.cl & 0xC0) << 2) != geometry.cylinders - 1 or call.cl & 0x3F != geometry.sectors:
            return 0x0C  # unsupported track or media type
        call.load_segment(ES, rom.SEGMENT)
        call.di = rom.DISKETTE_TABLE
        return SUCCESS
