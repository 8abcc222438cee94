"""Pictures as PNG (W3C, Portable Network Graphics, second edition)."""

from __future__ import annotations

import struct
import zlib

from trapgate.devices.vga.picture import Picture

SIGNATURE = b"\x89PNG\r\n\x1a\n"
#: Eight bits a channel, red, green and blue.
DEPTH, TRUE_COLOUR = 8, 2


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(picture: Picture) -> bytes:
    """The file's bytes."""
    line = 3 * picture.width
    # Each row begins with its filter: 0, none.
    rows = b"".join(b"\0" + picture.rgb[n : n + line] for n in range(0, line * picture.height, line))
    header = struct.pack(">IIBBBBB", picture.width, picture.height, DEPTH, TRUE_COLOUR, 0, 0, 0)
    return SIGNATURE + _chunk(b"IHDR", header) + _chunk(b"IDAT", zlib.compress(rows, 9)) + _chunk(b"IEND", b"")
