"""INT 10h AH=11h: fonts, in plane 2 for text modes, by pointers for graphics modes.

Source: IBM PS/2 and PC BIOS Interface Technical Reference, INT 10h; Ralf Brown's Interrupt List.
"""

from __future__ import annotations

from collections.abc import Callable

from trapgate.firmware.bios import data_area
from trapgate.firmware.bios.call import ES, Call
from trapgate.firmware.bios.display import ROM, ROM_SEGMENT, SEQUENCER, Display, font_address
from trapgate.firmware.bios.font import font
from trapgate.firmware.bios.host import Host

#: Interrupt vectors that point to fonts: the upper half of 8x8, and the graphics modes'.
UPPER_HALF, GRAPHICS_FONT = 0x1F, 0x43
CHARACTER_MAP = 3
TEXT_LINES = 400
#: Fonts of the ROM by the low digit of AL.
_ROM_FONTS = {0x01: 14, 0x02: 8, 0x04: 16}
#: Where AL=30h points, by BH: height, and the first code.
_POINTERS = {2: (14, 0), 3: (8, 0), 4: (8, 128), 5: (14, 0), 6: (16, 0), 7: (16, 0)}


class Fonts:
    """The functions. `resized` is called when text has other rows than before, with their number and height."""

    def __init__(self, host: Host, display: Display, resized: Callable[[int, int], None]) -> None:
        self._host, self._display, self._resized = host, display, resized

    def set_vectors(self, height: int) -> None:
        """Point the vectors to the ROM's fonts, the graphics one to that of `height`."""
        self._point(UPPER_HALF, font_address(8) + 8 * 128)
        self._point(GRAPHICS_FONT, font_address(height))

    def _point(self, vector: int, address: int) -> None:
        self._host.memory.write_u32(4 * vector, ROM_SEGMENT << 16 | address - ROM)

    def call(self, call: Call) -> None:
        """AH=11h."""
        kind, number = call.al & 0xF0, call.al & 0x0F
        if call.al == 0x30:
            self._information(call)
        elif call.al == 0x03:
            self._display.write(SEQUENCER, CHARACTER_MAP, call.bl & 0x3F)
        elif kind in (0x00, 0x10) and number in (0, *_ROM_FONTS):
            self._load(call, number, changes_rows=kind == 0x10)
        elif kind == 0x20 and number in (*range(5),):
            self._load_graphics(call, number)
        else:
            self._host.note(f"{call.describe()}: not supported")

    def _load(self, call: Call, number: int, changes_rows: bool) -> None:
        if number:
            height = _ROM_FONTS[number]
            self._display.load_font(font(height), height, block=call.bl)
        else:
            height = min(max(call.bh, 1), 32)
            count = min(call.cx, 256 - min(call.dx, 256))
            data = call.read(ES, call.bp, height * count)
            self._display.load_font(data, height, first=min(call.dx, 255), block=call.bl)
        if changes_rows:
            self._display.set_character_height(height, TEXT_LINES)
            self._resized(TEXT_LINES // height, height)

    def _load_graphics(self, call: Call, number: int) -> None:
        if number == 0:
            self._host.memory.write_u32(4 * UPPER_HALF, call.es_selector << 16 | call.bp)
        elif number == 1:
            self._host.memory.write_u32(4 * GRAPHICS_FONT, call.es_selector << 16 | call.bp)
        else:
            self._point(GRAPHICS_FONT, font_address({2: 14, 3: 8, 4: 16}[number]))

    def _information(self, call: Call) -> None:
        memory = self._host.memory
        call.cx = memory.read_u16(data_area.CHARACTER_HEIGHT)
        call.dl = memory.read_u8(data_area.VIDEO_ROWS)
        if call.bh in (0, 1):
            pointer = memory.read_u32(4 * (UPPER_HALF if call.bh == 0 else GRAPHICS_FONT))
            segment, offset = pointer >> 16, pointer & 0xFFFF
        else:
            height, first = _POINTERS.get(call.bh, (16, 0))
            segment, offset = ROM_SEGMENT, font_address(height) - ROM + first * height
        call.load_segment(ES, segment)
        call.bp = offset
