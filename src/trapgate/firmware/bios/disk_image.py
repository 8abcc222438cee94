"""Recognises images of diskettes, hard disks and CDs, and boots them through the BIOS.

Sources: "El Torito" Bootable CD-ROM Format Specification 1.0, section 2; ECMA-119 (ISO 9660), 8.1 to 8.4 (volume
descriptors).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from trapgate.firmware.bios.bootstrap import BootCode
from trapgate.firmware.bios.drives import (
    CD_DRIVE,
    CD_SECTOR,
    DISKETTE_FORMATS,
    FIRST_DISKETTE,
    FIRST_HARD_DISK,
    SECTOR,
    Drive,
    Emulation,
    disk_geometry,
    diskette_format,
)
from trapgate.firmware.errors import CorruptImage, NotBootable, UnsupportedImage
from trapgate.firmware.image import CR0_ET, EntryState, TableRegister, entry_registers, real_segments
from trapgate.firmware.memory_map import EBDA_BASE
from trapgate.machine.block import BlockBackend
from trapgate.machine.ram import Ram

SIGNATURE = b"\x55\xaa"
BOOT_ADDRESS = 0x7C00
INTERRUPTS = 1 << 9
RESERVED_FLAG = 1 << 1
VECTOR_TABLE = TableRegister(0, 0x3FF)

CD_SUFFIX = ".iso"
ISO_FIRST = 16 * CD_SECTOR
ISO_IDENTIFIER = b"CD001"
ISO_SIZE = 80
PRIMARY_VOLUME = 1
BOOT_RECORD = 17 * CD_SECTOR
EL_TORITO = b"EL TORITO SPECIFICATION"
CATALOG_POINTER = 0x47
ENTRY = 32
VALIDATION_HEADER = 1
BOOTABLE = 0x88
X86 = 0
MEDIA_NONE, MEDIA_DISK = 0, 4
#: The formats of emulated diskettes: 1.2, 1.44 and 2.88 MB.
MEDIA_FORMATS = {1: DISKETTE_FORMATS[5], 2: DISKETTE_FORMATS[6], 3: DISKETTE_FORMATS[7]}
DEFAULT_SEGMENT = 0x7C0


@dataclass(frozen=True)
class DiskImage:
    """A medium that can be booted. `kind` is "diskette", "hard disk" or "CD"; `data` is the whole image, or its first
    sector where `medium` is what the services read and write.

    `load` puts the boot code into memory; the services are the board's to connect (boards/machine.py).
    """

    name: str
    kind: str
    data: bytes
    code: BootCode
    emulation: Emulation | None = None
    medium: BlockBackend | None = None

    @property
    def description(self) -> str:
        return f"{self.kind} image {self.name}"

    def load(self, memory: Ram, rsdp: int = 0) -> EntryState:
        """Memory and registers as the BIOS starts a boot sector: drive number in DL, interrupts on."""
        code = self.code
        memory.write(code.address, code.data)
        return EntryState(
            mode="real",
            registers=entry_registers(
                rip=code.offset, rsp=BOOT_ADDRESS, rdx=code.drive, rflags=RESERVED_FLAG | INTERRUPTS
            ),
            segments=real_segments(code=code.segment, data=0, stack=0),
            cr0=CR0_ET,
            idt=VECTOR_TABLE,
        )

    def drives(self) -> list[Drive]:
        """Fresh drives for one machine."""
        if self.kind == "diskette":
            form = diskette_format(len(self.data))
            assert form is not None
            return [Drive(FIRST_DISKETTE, self.data, geometry=form.geometry, diskette_type=form.drive_type)]
        if self.kind == "hard disk":
            medium = self.medium
            size = len(self.data) if medium is None else medium.size
            writable = medium is None or not medium.read_only
            geometry = disk_geometry(self.data, size)
            return [Drive(FIRST_HARD_DISK, self.data, geometry=geometry, writable=writable, medium=medium)]
        compact = Drive(CD_DRIVE, self.data, CD_SECTOR, writable=False)
        emulation = self.emulation
        if emulation is None or emulation.media == MEDIA_NONE:
            return [compact]
        start = emulation.image_sector * CD_SECTOR
        if emulation.media == MEDIA_DISK:
            content = self.data[start : start + _disk_length(self.data[start : start + SECTOR])]
            return [
                Drive(FIRST_HARD_DISK, content, geometry=disk_geometry(content, len(content)), writable=False),
                compact,
            ]
        form = MEDIA_FORMATS[emulation.media]
        content = self.data[start : start + form.size]
        emulated = Drive(FIRST_DISKETTE, content, geometry=form.geometry, diskette_type=form.drive_type, writable=False)
        return [emulated, compact]


def _disk_length(sector: bytes) -> int:
    """Bytes of an emulated hard disk: to the end of the partition that its one entry describes."""
    first, count = struct.unpack_from("<II", sector, 446 + 8)
    return int(first + count) * SECTOR


def is_iso(data: bytes) -> bool:
    """True for an ISO 9660 file system."""
    return data[ISO_FIRST + 1 : ISO_FIRST + 6] == ISO_IDENTIFIER


def has_signature(data: bytes) -> bool:
    """True when the first sector ends in 55h AAh, and so can be booted."""
    return data[SECTOR - 2 : SECTOR] == SIGNATURE


def disk_image(data: bytes, name: str) -> DiskImage:
    """The medium in `data`: an ISO 9660 CD, or a first sector with the boot signature.

    A diskette when there is one of that size, from 160 KB to 2.88 MB, else a hard disk. Images that are a CD and a disk
    at once (GRUB's are) boot as a CD when they are called `.iso`. Raises CorruptImage, UnsupportedImage.
    """
    if is_iso(data) and (not has_signature(data) or name.lower().endswith(CD_SUFFIX)):
        return _compact_disc(data, name)
    if len(data) % SECTOR:
        raise CorruptImage(name, f"a disk image of whole {SECTOR}-byte sectors", f"{len(data)} bytes")
    is_diskette = diskette_format(len(data)) is not None
    number = FIRST_DISKETTE if is_diskette else FIRST_HARD_DISK
    kind = "diskette" if is_diskette else "hard disk"
    return DiskImage(name, kind, data, BootCode(data[:SECTOR], BOOT_ADDRESS, number))


def medium_image(medium: BlockBackend, is_cd: bool) -> DiskImage:
    """The disk or CD on a back end, which the guest's own drivers may find too. Raises BlockError, FirmwareError."""
    if is_cd:
        return _compact_disc(medium.read(0, medium.size), medium.name)
    first = medium.read(0, min(SECTOR, medium.size))
    if not has_signature(first):
        raise NotBootable(medium.name, first[-2:].rjust(2, b"\0"), "disk")
    return DiskImage(medium.name, "hard disk", first, BootCode(first, BOOT_ADDRESS, FIRST_HARD_DISK), medium=medium)


def _compact_disc(data: bytes, name: str) -> DiskImage:
    if data[ISO_FIRST] == PRIMARY_VOLUME:
        size = int.from_bytes(data[ISO_FIRST + ISO_SIZE : ISO_FIRST + ISO_SIZE + 4], "little") * CD_SECTOR
        if len(data) < size:
            raise CorruptImage(name, f"a CD image of {size} bytes, as its volume descriptor says", f"{len(data)} bytes")
    record = data[BOOT_RECORD : BOOT_RECORD + CD_SECTOR]
    if record[1:6] != ISO_IDENTIFIER or record[7 : 7 + len(EL_TORITO)] != EL_TORITO:
        raise UnsupportedImage(name, "a CD image without an El Torito boot record", "a CD image that can be booted")
    catalog = int.from_bytes(record[CATALOG_POINTER : CATALOG_POINTER + 4], "little") * CD_SECTOR
    validation, initial = data[catalog : catalog + ENTRY], data[catalog + ENTRY : catalog + 2 * ENTRY]
    if len(initial) < ENTRY:
        raise CorruptImage(name, f"a boot catalog at byte {catalog}", f"an image of {len(data)} bytes")
    header, key, total = validation[0], validation[30:], sum(struct.unpack("<16H", validation)) & 0xFFFF
    if header != VALIDATION_HEADER or key != SIGNATURE or total:
        wanted = f"a boot catalog at byte {catalog} that begins with 01h, has 55h AAh at byte 30 and adds up to 0"
        raise CorruptImage(name, wanted, f"one with {header:02X}h, {key[0]:02X}h {key[1]:02X}h and {total:04X}h")
    bootable, media, segment, _, sectors, first = struct.unpack_from("<BBHBxHI", initial)
    if bootable != BOOTABLE or validation[1] != X86:
        got = f"one whose boot catalog has {bootable:02X}h for platform {validation[1]}"
        raise UnsupportedImage(name, got, "a CD image that can be booted on a PC")
    media &= 0xF
    if media > MEDIA_DISK:
        raise UnsupportedImage(name, f"El Torito media type {media}", "a media type from 0 to 4")
    return _booted_cd(data, name, Emulation(media, _drive_of(media), first, segment or DEFAULT_SEGMENT, sectors))


def _drive_of(media: int) -> int:
    return CD_DRIVE if media == MEDIA_NONE else FIRST_HARD_DISK if media == MEDIA_DISK else FIRST_DISKETTE


def _booted_cd(data: bytes, name: str, emulation: Emulation) -> DiskImage:
    # An emulated disk's boot sector is one sector, whatever the catalog's count says.
    length = emulation.load_sectors * SECTOR if emulation.media == MEDIA_NONE else SECTOR
    start = emulation.image_sector * CD_SECTOR
    code = data[start : start + length]
    if not length or len(code) != length:
        raise CorruptImage(name, f"{length or SECTOR} bytes of boot code at byte {start}", f"{len(code)} bytes")
    address = emulation.load_segment << 4
    if address + length > EBDA_BASE:
        wanted = "boot code that is loaded into conventional memory"
        raise UnsupportedImage(name, f"{length} bytes for {address:#x}", wanted)
    if emulation.media in MEDIA_FORMATS and not has_signature(code):
        raise UnsupportedImage(name, "an emulated diskette without it", "a boot sector that ends in 55h AAh")
    return DiskImage(name, "CD", data, BootCode(code, address, emulation.drive), emulation)
