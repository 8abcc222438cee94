"""Errors of images of diskettes, hard disks and CDs."""

from __future__ import annotations

from collections.abc import Callable

from firmware_bios.test_images import CATALOG, SIGNED, compact_disc
from trapgate.firmware.bios.disk_image import CD_SECTOR
from trapgate.firmware.errors import CorruptImage, NotAKernel, NotBootable, UnsupportedImage
from trapgate.firmware.recognise import recognise
from trapgate.lab.errors import ConflictingOptions, FileUnusable

from .cases import World, case

_VALIDATION = CATALOG * CD_SECTOR
_INITIAL = _VALIDATION + 32
#: A disk with something behind its boot sector: too small for a diskette.
_DISK = SIGNED + bytes(512)


def _recognise(data: bytes) -> Callable[[World], object]:
    return lambda world: recognise(data, name="x")


def _changed(offset: int, *values: int, disc: bytes | None = None) -> bytes:
    """A CD that can be booted, with other bytes at `offset`."""
    data = bytearray(compact_disc() if disc is None else disc)
    data[offset : offset + len(values)] = bytes(values)
    return bytes(data)


def _run(data: bytes, *arguments: str) -> Callable[[World], object]:
    def action(world: World) -> None:
        world.write("disk", data)
        world.cli("run", *arguments)

    return action


case(
    NotBootable,
    (
        "wanted a boot sector that ends in 55h AAh in the diskette image x, got 00h 00h there: "
        "name an image that can be booted"
    ),
    _recognise(bytes(1_474_560)),
)
case(
    CorruptImage,
    (
        "wanted a disk image of whole 512-byte sectors, got 516 bytes in x: the file is damaged or truncated, "
        "get it again"
    ),
    _recognise(SIGNED + b"more"),
)
case(
    CorruptImage,
    (
        "wanted a CD image of 81920 bytes, as its volume descriptor says, got 60000 bytes in x: the file is damaged or "
        "truncated, get it again"
    ),
    _recognise(bytes(compact_disc()[:60_000])),
)
case(
    UnsupportedImage,
    (
        "wanted a CD image that can be booted, got a CD image without an El Torito boot record in x: "
        "boot an image of the wanted kind"
    ),
    _recognise(bytes(compact_disc()).replace(b"EL TORITO", b"ANOTHER  ")),
)
case(
    CorruptImage,
    (
        "wanted a boot catalog at byte 2097152, got an image of 81920 bytes in x: the file is damaged or truncated, "
        "get it again"
    ),
    _recognise(_changed(17 * CD_SECTOR + 0x47, 0, 4, 0, 0)),
)
case(
    CorruptImage,
    (
        "wanted a boot catalog at byte 40960 that begins with 01h, has 55h AAh at byte 30 and adds up to 0, got one "
        "with 02h, 55h AAh and 0001h in x: the file is damaged or truncated, get it again"
    ),
    _recognise(_changed(_VALIDATION, 2)),
)
case(
    UnsupportedImage,
    (
        "wanted a CD image that can be booted on a PC, got one whose boot catalog has 00h for platform 0 in x: "
        "boot an image of the wanted kind"
    ),
    _recognise(_changed(_INITIAL, 0)),
)
case(
    UnsupportedImage,
    "wanted a media type from 0 to 4, got El Torito media type 7 in x: boot an image of the wanted kind",
    _recognise(bytes(compact_disc(media=7))),
)
case(
    CorruptImage,
    ("wanted 2048 bytes of boot code at byte 204800, got 0 bytes in x: the file is damaged or truncated, get it again"),
    _recognise(bytes(compact_disc(first=100))),
)
case(
    UnsupportedImage,
    (
        "wanted boot code that is loaded into conventional memory, got 2048 bytes for 0xa0000 in x: "
        "boot an image of the wanted kind"
    ),
    _recognise(_changed(_INITIAL + 2, 0, 0xA0)),
)
case(
    UnsupportedImage,
    (
        "wanted a boot sector that ends in 55h AAh, got an emulated diskette without it in x: "
        "boot an image of the wanted kind"
    ),
    _recognise(bytes(compact_disc(media=2, code=bytes(512)))),
)
case(
    FileUnusable,
    "wanted a guest file at disk, got an empty one: name another file",
    _run(b"", "disk"),
)
case(
    NotAKernel,
    (
        "wanted a kernel (Linux bzImage, multiboot 1, or ELF with a PVH entry), got a hard disk image in disk: "
        "name a kernel image with --kernel"
    ),
    _run(_DISK, "--kernel", "disk"),
)
case(
    ConflictingOptions,
    "wanted --initrd and --append with a kernel, got a hard disk image in disk: leave them out",
    _run(_DISK, "disk", "--append", "quiet"),
)
