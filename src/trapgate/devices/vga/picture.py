"""What the display shows, as a picture: text, planes, 256 colours or the linear frame buffer.

Everything is done a row at a time by operations on whole byte strings. What blinks is shown, and the cursor too.

Source: PS/2 HITR, "Video Subsystem", CRT and attribute controller.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from trapgate.devices.vga import registers as vga
from trapgate.devices.vga.adapter import Vga
from trapgate.devices.vga.linear import linear_rgb
from trapgate.devices.vga.planes import Planes
from trapgate.devices.vga.registers import VgaRegisters

#: Where fonts lie in plane 2, by the number in the character map select register.
FONTS = (0x0000, 0x4000, 0x8000, 0xC000, 0x2000, 0x6000, 0xA000, 0xE000)
FONT_STRIDE = 32
#: Characters whose ninth dot repeats the eighth: lines and boxes.
LINE_GRAPHICS = range(0xC0, 0xE0)
#: What is shown while nobody has programmed the display, in dots.
NO_SIZE = (640, 400)
#: A mode that says less, or more, is none.
SIZES = range(8, 4096)

#: A byte as eight bytes of 0 or 1, the highest bit first; and as four of 0 to 3.
_BITS = tuple(bytes(value >> 7 - n & 1 for n in range(8)) for value in range(256))
_PAIRS = tuple(bytes(value >> 6 - 2 * n & 3 for n in range(4)) for value in range(256))


@dataclass(frozen=True, slots=True)
class Picture:
    """`width` times `height` dots, three bytes each: red, green, blue; rows from the top, without gaps."""

    width: int
    height: int
    rgb: bytes


def picture(adapter: Vga) -> Picture:
    """The screen as it is now."""
    adapter.synchronize()
    if adapter.dispi.enabled:
        dispi = adapter.dispi
        width, height = dispi.registers[1:3]
        return Picture(width, height, linear_rgb(dispi, adapter.pages, adapter.registers))
    r = adapter.registers
    width, height, step = _size(r)
    if width not in SIZES or height not in SIZES:
        return Picture(*NO_SIZE, bytes(3 * NO_SIZE[0] * NO_SIZE[1]))
    if not r.is_shown:
        return Picture(width, height, bytes(3 * width * height))
    rows = [place for n, place in enumerate(_scan_lines(r)) if n % step == 0][:height]
    if not r.is_graphics:
        return _with_palette(r, width, _text_rows(r, adapter.planes, rows, width))
    known: dict[tuple[int, int], bytes] = {}
    for place in rows:
        if place not in known:
            known[place] = _graphics_row(r, adapter.planes, *place)[:width]
    lines = [known[place] for place in rows]
    if r.graphics[vga.MODE] & vga.MODE_256:
        return _coloured(b"".join(lines), width, [r.channel(part) for part in range(3)])
    return _with_palette(r, width, lines)


def shown_bytes(adapter: Vga) -> bytes:
    """All that a picture follows from: where this has not changed, the picture has not."""
    adapter.synchronize()
    r, dispi = adapter.registers, adapter.dispi
    state = bytes((*r.attribute, *r.crtc, r.attribute_index, r.misc, r.pel_mask, r.dac_is_wide))
    state += bytes(r.dac) + bytes(r.sequencer) + bytes(r.graphics) + repr(dispi.registers).encode()
    if dispi.enabled:
        size = dispi.pitch * dispi.registers[2]
        return state + adapter.pages.read(dispi.first_byte, min(size, adapter.pages.size - dispi.first_byte))
    return state + b"".join(adapter.planes.data)


def _size(r: VgaRegisters) -> tuple[int, int, int]:
    """Width and height in dots, and which scan lines count: graphics show a row of dots on several."""
    if not r.is_graphics:
        return r.columns * r.dots, r.lines, 1
    width = r.columns * (4 if r.graphics[vga.MODE] & vga.MODE_256 else 8)
    interleaved = r.crtc[vga.CRTC_MODE] & 3 != 3
    step = r.scans if interleaved else r.scans * r.row_height
    return width, r.lines // step, step


def _scan_lines(r: VgaRegisters) -> Iterator[tuple[int, int]]:
    """For each scan line the address counter and the row within the character row."""
    counter = r.start + (r.crtc[vga.PRESET_ROW] >> 5 & 3)
    row, again = r.crtc[vga.PRESET_ROW] & 0x1F, r.scans
    step, height, split = 2 * r.crtc[vga.ROW_OFFSET], r.row_height, r.line_compare
    for line in range(r.lines):
        yield counter, row
        if line == split:
            counter, row, again = 0, 0, r.scans
            continue
        again -= 1
        if again:
            continue
        again = r.scans
        row = (row + 1) & 0x1F
        if row == height:
            row = 0
            counter = counter + step & 0xFFFF


def gather(r: VgaRegisters, plane: bytearray, counter: int, count: int, row: int) -> bytes:
    """`count` bytes of a plane, as the address counter goes."""
    first, second = r.plane_offset(counter, row), r.plane_offset(counter + 1, row)
    last = r.plane_offset(counter + count - 1, row)
    if second > first and first + (second - first) * (count - 1) == last:
        return bytes(plane[first : last + 1 : second - first])
    return bytes(plane[r.plane_offset(counter + n & 0xFFFF, row)] for n in range(count))


def _panning(r: VgaRegisters) -> int:
    """Dots by which the picture is moved to the left."""
    pan = r.attribute[vga.PANNING]
    if r.graphics[vga.MODE] & vga.MODE_256:
        return pan >> 1 & 3
    if r.dots == 9 and not r.is_graphics:
        return 0 if pan >= 8 else pan + 1
    return pan & 7


# Text


def _text_rows(r: VgaRegisters, planes: Planes, places: list[tuple[int, int]], width: int) -> list[bytes]:
    """Rows of colour numbers 0 to 15."""
    characters, attributes, fonts = planes.data[0], planes.data[1], planes.data[2]
    columns, pan = r.columns + 1, _panning(r)
    select = r.sequencer[vga.CHARACTER_MAP]
    font = (FONTS[select & 3 | select >> 2 & 4], FONTS[select >> 2 & 3 | select >> 3 & 4])
    blinks = bool(r.attribute[vga.ATTRIBUTE_MODE] & vga.ATTRIBUTE_BLINK)
    repeats = bool(r.attribute[vga.ATTRIBUTE_MODE] & vga.ATTRIBUTE_LINE_GRAPHICS) and r.dots == 9
    first, last = r.crtc[vga.CURSOR_START], r.crtc[vga.CURSOR_END] & 0x1F
    cursor_rows = range(0) if first & vga.CURSOR_DISABLED else range(first & 0x1F, last + 1)
    drawn: dict[tuple[int, int, bool], bytes] = {}
    rows = []
    cells: list[tuple[int, int, bool]] = []
    current = -1
    for counter, row in places:
        if counter != current:
            current = counter
            codes = gather(r, characters, counter, columns, 0)
            colours = gather(r, attributes, counter, columns, 0)
            cells = [
                (font[colour >> 3 & 1] + FONT_STRIDE * code, colour & 0x7F if blinks else colour,
                 repeats and code in LINE_GRAPHICS)
                for code, colour in zip(codes, colours, strict=True)
            ]  # fmt: skip
        parts = []
        for place, colour, repeated in cells:
            key = fonts[place + row], colour, repeated
            dots = drawn.get(key)
            if dots is None:
                dots = drawn[key] = _character_row(*key, r.dots)
            parts.append(dots)
        at = r.cursor - counter
        if row in cursor_rows and 0 <= at < columns:
            parts[at] = bytes((cells[at][1] & 0x0F,)) * r.dots
        rows.append(b"".join(parts)[pan : pan + width])
    return rows


def _character_row(bits: int, colour: int, repeated: bool, dots: int) -> bytes:
    row = _BITS[bits].translate(bytes((colour >> 4, colour & 0x0F)) + bytes(254))
    if dots == 8:
        return row
    return row + (row[7:] if repeated else bytes((colour >> 4,)))


# Graphics


def _graphics_row(r: VgaRegisters, planes: Planes, counter: int, row: int) -> bytes:
    """A row of colour numbers: 0 to 15, or the DAC's own with 256 colours."""
    mode, count, pan = r.graphics[vga.MODE], r.columns + 1, _panning(r)
    parts = [gather(r, plane, counter, count, row) for plane in planes.data]
    if mode & vga.MODE_256:
        dots = bytearray(4 * count)
        for n, part in enumerate(parts):
            dots[n::4] = part
        return bytes(dots[pan:])
    if mode & vga.MODE_INTERLEAVE:
        # CGA's: two bits a dot, planes 0 and 1 in turn, planes 2 and 3 above them.
        even, odd = ([_PAIRS[b] for b in part] for part in (parts[0], parts[1]))
        low = b"".join(a + b for a, b in zip(even, odd, strict=True))
        even, odd = ([_PAIRS[b] for b in part] for part in (parts[2], parts[3]))
        high = b"".join(a + b for a, b in zip(even, odd, strict=True))
        whole = int.from_bytes(low, "little") | int.from_bytes(high, "little") << 2
        return whole.to_bytes(len(low), "little")[pan:]
    whole = 0
    for n, part in enumerate(parts):
        whole |= int.from_bytes(b"".join(map(_BITS.__getitem__, part)), "little") << n
    return whole.to_bytes(8 * count, "little")[pan:]


# Colours


def _with_palette(r: VgaRegisters, width: int, rows: list[bytes]) -> Picture:
    """Colour numbers go through the planes' mask and the attribute controller's palette to the DAC."""
    palette, mask = r.palette(), r.attribute[vga.PLANE_ENABLE] & 0x0F
    tables = []
    for part in range(3):
        channel = r.channel(part)
        tables.append(bytes(channel[palette[n & mask]] for n in range(16)) + bytes(240))
    return _coloured(b"".join(rows), width, tables)


def _coloured(dots: bytes, width: int, tables: list[bytes]) -> Picture:
    rgb = bytearray(3 * len(dots))
    for part, table in enumerate(tables):
        rgb[part::3] = dots.translate(table)
    return Picture(width, len(dots) // width, bytes(rgb))
