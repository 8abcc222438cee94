"""Dots and characters in graphics modes: INT 10h AH=09h, 0Ah, 0Ch to 0Eh there.

Source: IBM PS/2 and PC BIOS Interface Technical Reference, INT 10h; Ralf Brown's Interrupt List.
"""

from __future__ import annotations

from trapgate.firmware.bios.display import GRAPHICS, SEQUENCER, Display
from trapgate.firmware.bios.font import font
from trapgate.firmware.bios.vga_modes import Mode

#: In a colour: the dots are exclusive-ored into what is there.
EXCLUSIVE_OR = 0x80
PLANES = 4
MAP_MASK, READ_MAP = 2, 4
#: CGA's interleaved rows: odd ones lie this much behind.
ODD_ROWS = 0x2000


class GraphicsText:
    """Draws into the window by the mode's rules."""

    def __init__(self, display: Display) -> None:
        self._display = display
        self._window = display.window

    def _plain_writes(self) -> None:
        """Write mode 0, whole bytes, no set/reset, no function: what each mode begins with."""
        for index, value in ((1, 0), (3, 0), (8, 0xFF)):
            self._display.write(GRAPHICS, index, value)
        self._display.write(GRAPHICS, 5, self._display.read(GRAPHICS, 5) & ~0x0B)

    def draw(self, mode: Mode, row: int, column: int, code: int, colour: int) -> None:
        """A character at a character's place. Background is black but with EXCLUSIVE_OR."""
        height = mode.character
        glyph = font(height)[code * height : (code + 1) * height]
        for line, bits in enumerate(glyph):
            self._draw_byte(mode, row * height + line, column, bits, colour)

    def _draw_byte(self, mode: Mode, y: int, column: int, bits: int, colour: int) -> None:
        """Eight dots in a row at the multiple of eight `column`."""
        self._plain_writes()
        if mode.colours == 256:
            dots = bytes(colour if bits >> 7 - n & 1 else 0 for n in range(8))
            self._window.write_window(mode.window + y * mode.width + 8 * column, dots)
        elif mode.window != 0xB8000:
            place = mode.window + y * (mode.width // 8) + column
            for plane in range(PLANES):
                self._display.write(SEQUENCER, MAP_MASK, 1 << plane)
                self._display.write(GRAPHICS, READ_MAP, plane)
                value = bits if colour >> plane & 1 else 0
                if colour & EXCLUSIVE_OR:
                    value ^= self._window.read_window(place, 1)[0]
                self._window.write_window(place, bytes((value,)))
            self._display.write(SEQUENCER, MAP_MASK, 0x0F)
        else:
            for n in range(8):
                on = bits >> 7 - n & 1
                if on or not colour & EXCLUSIVE_OR:
                    self.write_dot(mode, 8 * column + n, y, colour if on else 0)

    def _cga_place(self, mode: Mode, x: int, y: int) -> tuple[int, int, int]:
        """Address, shift and mask of a dot with CGA's layout."""
        bits = 2 if mode.colours == 4 else 1
        per_byte = 8 // bits
        address = mode.window + (y & 1) * ODD_ROWS + (y >> 1) * 80 + x // per_byte
        return address, bits * (per_byte - 1 - x % per_byte), (1 << bits) - 1

    def write_dot(self, mode: Mode, x: int, y: int, colour: int) -> None:
        """A dot; outside the screen nothing."""
        if not (x < mode.width and y < mode.height):
            return
        if mode.colours == 256:
            self._window.write_window(mode.window + y * mode.width + x, bytes((colour,)))
            return
        self._plain_writes()
        if mode.window == 0xB8000:
            address, shift, mask = self._cga_place(mode, x, y)
            old = self._window.read_window(address, 1)[0]
            value = (colour & mask) << shift
            value = old ^ value if colour & EXCLUSIVE_OR else old & ~(mask << shift) | value
            self._window.write_window(address, bytes((value,)))
            return
        address, bit = mode.window + y * (mode.width // 8) + x // 8, 0x80 >> x % 8
        for plane in range(PLANES):
            self._display.write(SEQUENCER, MAP_MASK, 1 << plane)
            self._display.write(GRAPHICS, READ_MAP, plane)
            old = self._window.read_window(address, 1)[0]
            on = bit if colour >> plane & 1 else 0
            value = old ^ on if colour & EXCLUSIVE_OR else old & ~bit | on
            self._window.write_window(address, bytes((value,)))
        self._display.write(SEQUENCER, MAP_MASK, 0x0F)

    def read_dot(self, mode: Mode, x: int, y: int) -> int:
        """A dot's colour; 0 outside the screen."""
        if not (x < mode.width and y < mode.height):
            return 0
        if mode.colours == 256:
            return self._window.read_window(mode.window + y * mode.width + x, 1)[0]
        self._plain_writes()
        if mode.window == 0xB8000:
            address, shift, mask = self._cga_place(mode, x, y)
            return self._window.read_window(address, 1)[0] >> shift & mask
        address, colour = mode.window + y * (mode.width // 8) + x // 8, 0
        for plane in range(PLANES):
            self._display.write(GRAPHICS, READ_MAP, plane)
            colour |= (self._window.read_window(address, 1)[0] >> 7 - x % 8 & 1) << plane
        self._display.write(GRAPHICS, READ_MAP, 0)
        return colour

    def scroll(self, mode: Mode, lines: int) -> None:
        """Move the whole screen up by `lines` character rows; what comes in is black. Not with CGA's layouts."""
        if mode.window == 0xB8000:
            return
        self._plain_writes()
        pitch = mode.width if mode.colours == 256 else mode.width // 8
        size, gone = pitch * mode.height, min(lines * mode.character, mode.height) * pitch
        for plane in range(PLANES if mode.colours != 256 else 1):
            if mode.colours != 256:
                self._display.write(SEQUENCER, MAP_MASK, 1 << plane)
                self._display.write(GRAPHICS, READ_MAP, plane)
            kept = self._window.read_window(mode.window + gone, size - gone)
            self._window.write_window(mode.window, kept + bytes(gone))
        if mode.colours != 256:
            self._display.write(SEQUENCER, MAP_MASK, 0x0F)
            self._display.write(GRAPHICS, READ_MAP, 0)
