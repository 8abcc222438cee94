"""What is recognised as a medium, and what is wrong with one, word for word."""

from __future__ import annotations

import struct

import pytest

from trapgate.devices.keystrokes import keystrokes
from trapgate.engine.handlers import HandlerStore
from trapgate.firmware.bios.disk_image import DiskImage, disk_image
from trapgate.firmware.bios.drives import Geometry, disk_geometry
from trapgate.firmware.errors import FirmwareError
from trapgate.firmware.recognise import recognise

from .runner import machine_for

SIGNED = bytes(510) + b"\x55\xaa"
CATALOG, CODE, SECTORS = 20, 24, 40


def compact_disc(media: int = 0, code: bytes = SIGNED, load: int = 4, first: int = CODE) -> bytearray:
    """An ISO 9660 image with an El Torito catalog; `code` lies at sector CODE."""
    data = bytearray(SECTORS * 2048)
    data[16 * 2048 : 16 * 2048 + 7] = b"\x01CD001\x01"
    data[16 * 2048 + 80 : 16 * 2048 + 84] = struct.pack("<I", SECTORS)
    data[17 * 2048 : 17 * 2048 + 30] = b"\x00CD001\x01EL TORITO SPECIFICATION"
    data[17 * 2048 + 0x47 : 17 * 2048 + 0x4B] = struct.pack("<I", CATALOG)
    validation = bytearray(32)
    validation[0], validation[30:] = 1, b"\x55\xaa"
    validation[28:30] = struct.pack("<H", -sum(struct.unpack("<16H", validation)) & 0xFFFF)
    entry = struct.pack("<BBHBxHI20x", 0x88, media, 0, 0, load, first)
    data[CATALOG * 2048 : CATALOG * 2048 + 64] = bytes(validation) + entry
    data[CODE * 2048 : CODE * 2048 + len(code)] = code
    return data


@pytest.mark.parametrize(
    ("size", "kind", "drive"),
    [
        (163_840, "diskette", 0x00), (1_296_384, "diskette", 0x00), (1_474_560, "diskette", 0x00),
        (2_949_120, "diskette", 0x00), (2_949_632, "hard disk", 0x80), (10_240, "hard disk", 0x80),
    ],
)  # fmt: skip
def test_size_tells_a_diskette_from_a_hard_disk(size: int, kind: str, drive: int) -> None:
    """As the drives that such images are of."""
    image = recognise(SIGNED.ljust(size, b"\0"), name="disk.img")
    assert isinstance(image, DiskImage)
    assert (image.kind, image.code.drive, image.description) == (kind, drive, f"{kind} image disk.img")


def test_a_cd_that_is_a_disk_too() -> None:
    """Its name decides."""
    data = bytes(SIGNED + bytes(compact_disc())[512:])
    assert disk_image(data, "cd.iso").kind == "CD"
    assert disk_image(data, "usb.img").kind == "hard disk"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (
            bytes(1_474_560),
            "wanted a boot sector that ends in 55h AAh in the diskette image x, got 00h 00h there: "
            "name an image that can be booted",
        ),
        (
            SIGNED + b"more",
            "wanted a disk image of whole 512-byte sectors, got 516 bytes in x: "
            "the file is damaged or truncated, get it again",
        ),
        (
            bytes(compact_disc()[:60_000]),
            "wanted a CD image of 81920 bytes, as its volume descriptor says, got 60000 bytes in x: "
            "the file is damaged or truncated, get it again",
        ),
        (
            bytes(compact_disc()).replace(b"EL TORITO", b"ANOTHER  "),
            "wanted a CD image that can be booted, got a CD image without an El Torito boot record in x: "
            "boot an image of the wanted kind",
        ),
        (
            bytes(compact_disc()).replace(b"\x01\0\0\0" + bytes(24), b"\x02\0\0\0" + bytes(24)),
            "wanted a boot catalog at byte 40960 that begins with 01h, has 55h AAh at byte 30 and adds up to 0, "
            "got one with 02h, 55h AAh and 0001h in x: the file is damaged or truncated, get it again",
        ),
        (
            bytes(compact_disc(first=100)),
            "wanted 2048 bytes of boot code at byte 204800, got 0 bytes in x: "
            "the file is damaged or truncated, get it again",
        ),
        (
            bytes(compact_disc(media=7)),
            "wanted a media type from 0 to 4, got El Torito media type 7 in x: boot an image of the wanted kind",
        ),
        (
            bytes(compact_disc(media=2, code=bytes(512))),
            "wanted a boot sector that ends in 55h AAh, got an emulated diskette without it in x: "
            "boot an image of the wanted kind",
        ),
    ],
)
def test_errors(data: bytes, message: str) -> None:
    """Each is one line: what was wanted, what was got, what to do."""
    with pytest.raises(FirmwareError) as error:
        recognise(data, name="x")
    assert str(error.value) == message


def test_geometry_of_hard_disks() -> None:
    """From the partition table where it was written with one, else by size."""
    assert disk_geometry(SIGNED, len(SIGNED)) == Geometry(1, 16, 63)
    assert disk_geometry(bytes(512), 16 * 63 * 512 * 20) == Geometry(20, 16, 63)
    table = bytearray(SIGNED)
    last = 10 * 4 * 17 - 1
    table[446:462] = struct.pack("<BBBBBBBBII", 0x80, 1, 1, 0, 6, 3, 17, 9, 17, last - 17 + 1)
    assert disk_geometry(bytes(table), 10 * 4 * 17 * 512) == Geometry(10, 4, 17)


@pytest.mark.engine
@pytest.mark.parametrize(("media", "drive"), [(0, 0xE0), (2, 0x00)])
def test_a_cd_boots(media: int, drive: int, handlers: HandlerStore) -> None:
    """The code gets its drive in DL and reads the CD's sectors of 2048 bytes; 4B01h tells how it was booted."""
    # mov al, dl; out E9h, al; mov ax, 4B01h; mov si, 600h; int 13h; mov al, [601h]; out E9h, al;
    # mov si, 7C40h; mov dl, E0h; mov ah, 42h; int 13h; mov al, [8001h]; out E9h, al; out F4h, al
    code = bytes.fromhex("88d0e6e9b8014bbe0006cd13a00106e6e9be407cb2e0b442cd13a00180e6e9e6f4")
    code = code.ljust(0x40, b"\0") + struct.pack("<HHHHQ", 16, 1, 0x8000, 0, 16)
    code = code.ljust(510, b"\0") + b"\x55\xaa"
    machine, console = machine_for(bytes(compact_disc(media, code)), handlers, "cd.iso")
    machine.run(1_000_000)
    assert bytes(console.data) == bytes((drive, media)) + b"C"


def test_keys_of_escape_sequences() -> None:
    """Arrows have the prefix E0h; a control character is a letter with Ctrl held; what no key gives is left out."""
    assert keystrokes(b"\x1b[A") == [bytes.fromhex("e075e0f075")]
    assert keystrokes(b"\x03") == [bytes.fromhex("1421f021f014")]
    assert keystrokes(b"A") == [bytes.fromhex("121cf01cf012")]
    assert keystrokes(b"\x1b") == [bytes.fromhex("76f076")]
    assert keystrokes(b"\x1b[18~") == [bytes.fromhex("83f083")]
    assert keystrokes("é".encode()) == []
