"""`--display terminal`: the VGA's text screen on the terminal, and what is typed as keys.

A guest that was booted through the BIOS has this anyway (firmware/bios/screen.py); this is for the others, whose
kernels drive the VGA themselves. While the screen shows graphics the terminal keeps what it showed last.
"""

from __future__ import annotations

from trapgate.boards.pc import Pc
from trapgate.boards.typist import Typist
from trapgate.devices.i8042 import KEYBOARD_INTERRUPT
from trapgate.devices.vga import registers
from trapgate.devices.vga.adapter import Vga
from trapgate.devices.vga.picture import gather
from trapgate.firmware.bios.screen import Screen
from trapgate.machine.clock import Clock
from trapgate.machine.console import ConsoleBackend

#: What a terminal is taken to hold at most.
MOST_COLUMNS, MOST_ROWS = 132, 60


class TerminalDisplay(Screen):
    """Draws on `console`. Also where typed bytes go: `type`."""

    def __init__(self, board: Pc, vga: Vga, clock: Clock, console: ConsoleBackend) -> None:
        self._vga = vga
        super().__init__(board.memory, console)
        self._keyboard = board.keyboard
        self._typist = Typist(clock, board.keyboard, lambda: True)

    def _contents(self) -> bytes:
        self._vga.synchronize()
        r, planes = self._vga.registers, self._vga.planes.data
        cells = bytearray()
        for row in range(self.rows):
            counter = r.start + 2 * r.crtc[registers.ROW_OFFSET] * row & 0xFFFF
            line = bytearray(2 * self.columns)
            line[0::2] = gather(r, planes[0], counter, self.columns, 0)
            line[1::2] = gather(r, planes[1], counter, self.columns, 0)
            cells += line
        return bytes(cells)

    def _wanted_cursor(self) -> tuple[int, int]:
        r = self._vga.registers
        pitch = 2 * r.crtc[registers.ROW_OFFSET] or self.columns
        row, column = divmod(r.cursor - r.start, pitch)
        return max(0, min(row, self.rows - 1)), min(column, self.columns - 1)

    def _cursor_is_off(self) -> bool:
        return bool(self._vga.registers.crtc[registers.CURSOR_START] & registers.CURSOR_DISABLED)

    def refresh(self) -> None:
        """Show what is new."""
        r = self._vga.registers
        columns, rows = r.columns, r.lines // r.row_height
        fits = 0 < columns <= MOST_COLUMNS and 0 < rows <= MOST_ROWS
        self.is_text = r.is_shown and not r.is_graphics and not self._vga.dispi.enabled and fits
        if self.is_text and (columns, rows) != (self.columns, self.rows):
            self.resize(columns, rows)
        super().refresh()

    # Input

    @property
    def listens(self) -> bool:
        """Whether the guest has a driver for the keyboard."""
        return bool(self._keyboard.command_byte & KEYBOARD_INTERRUPT)

    def type(self, data: bytes) -> None:
        """Press the keys that give the bytes `data`."""
        self._typist.type(data)
