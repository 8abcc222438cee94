"""How parts of the screen are sent: as they are, or compressed by ZRLE.

Sources: RFC 6143, 7.7.1 (raw) and 7.7.6 (ZRLE); the RFB protocol's community wiki for QEMU's extension.
"""

from __future__ import annotations

import struct
import zlib

from trapgate.devices.vga.picture import Picture
from trapgate.lab.vnc.pixels import TILE, PixelFormat, Rectangle, part

RAW, ZRLE = 0, 16
#: Says that the screen has another size; the rectangle is that.
DESKTOP_SIZE = -223
#: QEMU's extension, "Pointer Motion Change": the viewer sends movements instead of places where x is 0.
POINTER_CHANGE = -257
HEADER = struct.Struct(">HHHHi")
#: Colours of a tile that are sent as numbers, and bits that a number then takes.
MOST_COLOURS = 16


def raw(picture: Picture, area: Rectangle, pixels: PixelFormat) -> bytes:
    """A rectangle, dot by dot."""
    return _header(area, RAW) + pixels.convert(part(picture, area))


def zrle(picture: Picture, area: Rectangle, pixels: PixelFormat, stream: zlib._Compress) -> bytes:
    """A rectangle in tiles of 64 by 64 dots, through the viewer's own stream of zlib."""
    tiles = bytearray()
    for y in range(area.y, area.y + area.height, TILE):
        for x in range(area.x, area.x + area.width, TILE):
            width = min(TILE, area.x + area.width - x)
            height = min(TILE, area.y + area.height - y)
            tiles += _tile(pixels.convert(part(picture, Rectangle(x, y, width, height)), compact=True), width, height)
    data = stream.compress(bytes(tiles)) + stream.flush(zlib.Z_SYNC_FLUSH)
    return _header(area, ZRLE) + struct.pack(">I", len(data)) + data


def _tile(dots: bytes, width: int, height: int) -> bytes:
    """One colour, a palette of up to 16, or the dots themselves."""
    size = len(dots) // (width * height)
    values = [dots[n : n + size] for n in range(0, len(dots), size)]
    colours = list(dict.fromkeys(values))
    if len(colours) == 1:
        return b"\x01" + colours[0]
    if len(colours) > MOST_COLOURS:
        return b"\x00" + dots
    bits = 1 if len(colours) == 2 else 2 if len(colours) <= 4 else 4
    numbers = {colour: n for n, colour in enumerate(colours)}
    rows = bytearray()
    for y in range(height):
        row = 0
        for value in values[y * width : (y + 1) * width]:
            row = row << bits | numbers[value]
        # Each row begins with a byte of its own.
        row_bytes = (width * bits + 7) // 8
        rows += (row << 8 * row_bytes - width * bits).to_bytes(row_bytes, "big")
    return bytes((len(colours),)) + b"".join(colours) + bytes(rows)


def desktop_size(width: int, height: int) -> bytes:
    """The rectangle that tells of another size."""
    return HEADER.pack(0, 0, width, height, DESKTOP_SIZE)


def relative_pointer(width: int, height: int) -> bytes:
    """The rectangle that asks for movements."""
    return HEADER.pack(0, 0, width, height, POINTER_CHANGE)


def _header(area: Rectangle, encoding: int) -> bytes:
    return HEADER.pack(area.x, area.y, area.width, area.height, encoding)
