"""Dots in the format that a viewer asks for, and which parts of two pictures differ.

Source: RFC 6143, 7.4 (pixel format).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from trapgate.devices.vga.picture import Picture

TILE = 64
#: Rows that are compared at once.
BAND = 16
FORMAT = struct.Struct(">BBBBHHHBBB3x")


@dataclass(frozen=True, slots=True)
class Rectangle:
    """A part of the screen, in dots."""

    x: int
    y: int
    width: int
    height: int


class UnusableFormat(Exception):
    """A viewer wants dots that cannot be."""


class PixelFormat:
    """How a viewer wants dots: `size` bytes each."""

    def __init__(self, data: bytes) -> None:
        """`data` is the 16 bytes of a PIXEL_FORMAT. Raises UnusableFormat."""
        self.data = data
        bits, depth, big_endian, true_colour, *rest = FORMAT.unpack(data)
        most, shifts = rest[:3], rest[3:]
        if bits not in (8, 16, 32) or not true_colour:
            raise UnusableFormat(f"{bits} bits, true colour {true_colour}")
        if any(m >= 1 << bits or s + m.bit_length() > bits for m, s in zip(most, shifts, strict=True)):
            raise UnusableFormat(f"channels to {most}, at bits {shifts}")
        self.size = bits // 8
        #: Bytes of a dot in ZRLE: three where the fourth would be empty (RFC 6143, 7.7.5, CPIXEL).
        used = 0
        for m, s in zip(most, shifts, strict=True):
            used |= m << s
        self.skipped: int | None = None
        if bits == 32 and depth <= 24 and not used >> 24:
            self.skipped = 0 if big_endian else 3
        elif bits == 32 and depth <= 24 and not used & 0xFF:
            self.skipped = 3 if big_endian else 0
        # For each byte of a dot, what each channel's value of 8 bits gives to it.
        self._tables: list[list[bytes]] = []
        for place in range(self.size):
            shift = 8 * (self.size - 1 - place if big_endian else place)
            self._tables.append(
                [bytes((v * m + 127) // 255 << s >> shift & 0xFF for v in range(256))
                 for m, s in zip(most, shifts, strict=True)]
            )  # fmt: skip

    def convert(self, rgb: bytes, compact: bool = False) -> bytes:
        """Dots of three bytes in this format; `compact`: without the byte that ZRLE leaves out."""
        places = [n for n in range(self.size) if not (compact and n == self.skipped)]
        count = len(rgb) // 3
        channels = [rgb[n::3] for n in range(3)]
        out = bytearray(count * len(places))
        for at, place in enumerate(places):
            mixed = 0
            for channel, table in zip(channels, self._tables[place], strict=True):
                if any(table):
                    mixed |= int.from_bytes(channel.translate(table), "little")
            out[at :: len(places)] = mixed.to_bytes(count, "little")
        return bytes(out)


#: What the server says that it has: 32 bits, blue in the lowest byte.
OWN_FORMAT = FORMAT.pack(32, 24, 0, 1, 255, 255, 255, 16, 8, 0)


def part(picture: Picture, area: Rectangle) -> bytes:
    """The dots of a part of a picture; black where the picture does not reach."""
    if area.x == 0 and area.width == picture.width and area.y + area.height <= picture.height:
        return picture.rgb[3 * area.y * picture.width : 3 * (area.y + area.height) * picture.width]
    rows = []
    for y in range(area.y, area.y + area.height):
        start = 3 * (y * picture.width + area.x)
        end = start + 3 * max(0, min(area.width, picture.width - area.x))
        rows.append((picture.rgb[start:end] if y < picture.height else b"").ljust(3 * area.width, b"\0"))
    return b"".join(rows)


def differences(old: Picture | None, new: Picture, area: Rectangle) -> Iterator[Rectangle]:
    """Where `new` differs from `old` within `area`: rectangles that do not overlap."""
    if old is None or (old.width, old.height) != (new.width, new.height):
        yield area
        return
    if old.rgb is new.rgb:
        return
    line = 3 * new.width
    before, after = memoryview(old.rgb), memoryview(new.rgb)
    bottom = min(area.y + area.height, new.height)
    for top in range(area.y, bottom, BAND):
        rows = range(top, min(top + BAND, bottom))
        if before[top * line : rows.stop * line] == after[top * line : rows.stop * line]:
            continue
        first, last = -1, -1
        for left in range(area.x, min(area.x + area.width, new.width), TILE):
            right = min(left + TILE, area.x + area.width, new.width)
            places = [slice(y * line + 3 * left, y * line + 3 * right) for y in rows]
            if any(before[place] != after[place] for place in places):
                first, last = (left if first < 0 else first), right
            elif first >= 0:
                yield Rectangle(first, top, last - first, len(rows))
                first = -1
        if first >= 0:
            yield Rectangle(first, top, last - first, len(rows))
