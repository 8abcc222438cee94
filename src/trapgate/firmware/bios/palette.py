"""INT 10h AH=10h: the attribute controller's palette and the DAC. AH=0Bh: border and CGA's palettes.

Source: IBM PS/2 and PC BIOS Interface Technical Reference, INT 10h; Ralf Brown's Interrupt List.
"""

from __future__ import annotations

from collections.abc import Callable

from trapgate.firmware.bios.call import ES, Call
from trapgate.firmware.bios.display import PEL_MASK, Display
from trapgate.firmware.bios.host import Host

MODE_CONTROL, BORDER, COLOUR_SELECT = 0x10, 0x11, 0x14
BLINK, SIXTEEN_PAGES = 0x08, 0x80
PALETTE = 16


class Palette:
    """The functions."""

    def __init__(self, host: Host, display: Display) -> None:
        self._host, self._display = host, display

    def call(self, call: Call) -> None:
        """AH=10h."""
        functions: dict[int, Callable[[Call], None]] = {
            0x00: self._set_one, 0x01: self._set_border, 0x02: self._set_all, 0x03: self._set_blink,
            0x07: self._get_one, 0x08: self._get_border, 0x09: self._get_all, 0x10: self._set_colour,
            0x12: self._set_colours, 0x13: self._select_page, 0x15: self._get_colour, 0x17: self._get_colours,
            0x18: self._set_mask, 0x19: self._get_mask, 0x1A: self._get_page, 0x1B: self._grey,
        }  # fmt: skip
        function = functions.get(call.al)
        if function is None:
            self._host.note(f"{call.describe()}: not supported")
        else:
            function(call)

    def set_cga(self, call: Call) -> None:
        """AH=0Bh: BH=0 background or border, BH=1 one of CGA's palettes."""
        display = self._display
        if call.bh == 0:
            display.write_attribute(BORDER, call.bl & 0x1F)
            display.write_attribute(0, call.bl & 0x0F | (call.bl & 8) << 1)
        else:
            for n in range(1, 4):
                value = display.read_attribute(n)
                display.write_attribute(n, value & ~1 | call.bl & 1)

    def _set_one(self, call: Call) -> None:
        if call.bl <= COLOUR_SELECT:
            self._display.write_attribute(call.bl, call.bh)

    def _set_border(self, call: Call) -> None:
        self._display.write_attribute(BORDER, call.bh)

    def _set_all(self, call: Call) -> None:
        values = call.read(ES, call.dx, PALETTE + 1)
        for n in range(PALETTE):
            self._display.write_attribute(n, values[n])
        self._display.write_attribute(BORDER, values[PALETTE])

    def _set_blink(self, call: Call) -> None:
        old = self._display.read_attribute(MODE_CONTROL)
        self._display.write_attribute(MODE_CONTROL, old | BLINK if call.bl & 1 else old & ~BLINK)

    def _get_one(self, call: Call) -> None:
        call.bh = self._display.read_attribute(call.bl & 0x1F)

    def _get_border(self, call: Call) -> None:
        call.bh = self._display.read_attribute(BORDER)

    def _get_all(self, call: Call) -> None:
        values = bytes(self._display.read_attribute(n) for n in (*range(PALETTE), BORDER))
        call.write(ES, call.dx, values)

    def _set_colour(self, call: Call) -> None:
        self._display.write_colours(call.bx & 0xFF, bytes((call.dh & 63, call.ch & 63, call.cl & 63)))

    def _set_colours(self, call: Call) -> None:
        count = min(call.cx, 256)
        self._display.write_colours(call.bx & 0xFF, call.read(ES, call.dx, 3 * count))

    def _select_page(self, call: Call) -> None:
        display = self._display
        mode = display.read_attribute(MODE_CONTROL)
        if call.bl == 0:
            display.write_attribute(MODE_CONTROL, mode | SIXTEEN_PAGES if call.bh & 1 else mode & ~SIXTEEN_PAGES)
        else:
            display.write_attribute(COLOUR_SELECT, call.bh if mode & SIXTEEN_PAGES else call.bh << 2 & 0x0C)

    def _get_colour(self, call: Call) -> None:
        call.dh, call.ch, call.cl = self._display.read_colours(call.bx & 0xFF, 1)

    def _get_colours(self, call: Call) -> None:
        call.write(ES, call.dx, self._display.read_colours(call.bx & 0xFF, min(call.cx, 256)))

    def _set_mask(self, call: Call) -> None:
        self._host.outb(PEL_MASK, call.bl)

    def _get_mask(self, call: Call) -> None:
        call.bl = self._host.inb(PEL_MASK)

    def _get_page(self, call: Call) -> None:
        mode, select = (self._display.read_attribute(n) for n in (MODE_CONTROL, COLOUR_SELECT))
        call.bl = mode >> 7
        call.bh = select & 0x0F if mode & SIXTEEN_PAGES else select >> 2 & 3

    def _grey(self, call: Call) -> None:
        """Weights of the three colours as IBM's BIOS has them: 30, 59 and 11 percent."""
        first, count = call.bx & 0xFF, min(call.cx, 256)
        colours = self._display.read_colours(first, count)
        greys = b""
        for n in range(0, len(colours), 3):
            greys += bytes((min((30 * colours[n] + 59 * colours[n + 1] + 11 * colours[n + 2] + 50) // 100, 63),)) * 3
        self._display.write_colours(first, greys)
