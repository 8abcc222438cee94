"""Shows text memory on the console: plain text as long as a guest only writes on, terminal control codes when it does
more.

A guest that writes lines downwards (teletype output) gives a plain stream of text that can be kept in a file. As soon
as it goes back up or clears what was shown, the screen is drawn with ANSI control sequences (ECMA-48) in the terminal's
first rows, which are made the scrolling region, so that a line feed on the last row scrolls as a display does.

What a guest writes to B8000h directly appears when `refresh` is called.
"""

from __future__ import annotations

from trapgate.firmware.bios import data_area
from trapgate.firmware.bios.code_page import GLYPHS
from trapgate.firmware.bios.display import TextMemory
from trapgate.machine.console import ConsoleBackend
from trapgate.machine.device import PlainState
from trapgate.machine.ram import Ram

TEXT_BASE = 0xB8000
TEXT_SIZE = 0x8000
ROWS = 25
NORMAL = 0x07
BLANK = bytes((0x20, NORMAL))
#: Cells that did not change are drawn too rather than jumped over when they are at most this many.
SHORT_GAP = 4
#: Order of a PC's colours (bit 0 blue, 1 green, 2 red) to that of ECMA-48 (bit 0 red, 1 green, 2 blue).
COLOURS = (0, 4, 2, 6, 1, 5, 3, 7)
CURSOR_OFF = 0x20


class Screen(PlainState):
    """The text page that is displayed, and the terminal that shows it."""

    STATE = ("columns", "rows", "is_text", "_shown", "_row", "_column", "_attribute", "_addressed", "_cursor_hidden")

    def __init__(self, memory: Ram, console: ConsoleBackend, text: TextMemory | None = None) -> None:
        """`memory` has the data area; `text` the characters, where these are not in `memory`, too."""
        self._memory = memory
        self._text: TextMemory = memory if text is None else text
        self._console = console
        self.columns, self.rows = 80, ROWS
        #: False in graphics modes: there is nothing that a terminal could show.
        self.is_text = True
        self._shown = bytearray()
        #: Row and column of the terminal's cursor, counted from 0.
        self._row = self._column = 0
        self._attribute = NORMAL
        self._addressed = False
        self._cursor_hidden = False
        self.resize(80)

    def resize(self, columns: int, rows: int = ROWS) -> None:
        """Another text mode: the display is blank."""
        self.columns, self.rows = columns, rows
        self._shown = bytearray(BLANK * (columns * self.rows))
        if self._addressed:
            self._clear()

    # What is there

    @property
    def page_start(self) -> int:
        """Guest-physical address of the displayed page."""
        offset = self._memory.read_u16(data_area.VIDEO_PAGE_START)
        return TEXT_BASE + min(offset, TEXT_SIZE - len(self._shown))

    def _contents(self) -> bytes:
        return self._text.read(self.page_start, len(self._shown))

    def _wanted_cursor(self) -> tuple[int, int]:
        page = self._memory.read_u8(data_area.ACTIVE_PAGE) & 7
        position = self._memory.read_u16(data_area.CURSOR_POSITIONS + 2 * page)
        return min(position >> 8, self.rows - 1), min(position & 0xFF, self.columns - 1)

    def _cursor_is_off(self) -> bool:
        return bool(self._memory.read_u16(data_area.CURSOR_SHAPE) >> 8 & CURSOR_OFF)

    # What the video service tells

    def draw(self, row: int, column: int) -> None:
        """The character at a place was written: show it, changed or not."""
        at = 2 * (row * self.columns + column)
        cell = self._text.read(self.page_start + at, 2)
        self._go_to(row, column)
        self._put(cell)

    def line_feed(self, row: int) -> None:
        """The cursor goes down from `row`; from the last row the display has been scrolled up by one."""
        if row == self.rows - 1:
            self._scroll(1)
        elif row == self._row:
            self._write(b"\n")
            self._row += 1

    def carriage_return(self, row: int) -> None:
        """The cursor goes to the first column of `row`."""
        if row == self._row and self._column:
            self._write(b"\r")
            self._column = 0

    def scrolled_up(self, lines: int) -> None:
        """The whole display was scrolled up by `lines`; the new lines are drawn by `refresh`."""
        self._scroll(lines)
        self.refresh()

    def bell(self) -> None:
        """Character 07h."""
        self._write(b"\a")

    def refresh(self) -> None:
        """Show what has changed in text memory, and put the cursor where it belongs if that is possible."""
        if not self.is_text:
            return
        contents = self._contents()
        if contents != self._shown:
            self._draw_changes(contents)
        if self._addressed:
            self._go_to(*self._wanted_cursor())
            hidden = self._cursor_is_off()
            if hidden != self._cursor_hidden:
                self._cursor_hidden = hidden
                self._write(b"\x1b[?25l" if hidden else b"\x1b[?25h")

    def redraw(self) -> None:
        """Draw all of it again, on a terminal that shows something else."""
        if self._addressed:
            hidden, self._cursor_hidden = self._cursor_hidden, False
            self._clear()
            if hidden:
                self._write(b"\x1b[?25l")
                self._cursor_hidden = True
            self.refresh()

    def close(self) -> None:
        """The run is over: leave the terminal as it was, its cursor below the screen."""
        self.refresh()
        if self._attribute != NORMAL:
            self._set_attribute(NORMAL)
        if self._cursor_hidden:
            self._write(b"\x1b[?25h")
        if self._addressed:
            self._write(f"\x1b[r\x1b[{self.rows};1H\r\n".encode())
            self._addressed = False

    # The terminal

    def _write(self, data: bytes) -> None:
        self._console.write(data)

    def _clear(self) -> None:
        """Take the terminal's first rows for the screen, blank."""
        self._set_attribute(NORMAL)
        self._write(f"\x1b[1;{self.rows}r\x1b[2J\x1b[1;1H".encode())
        self._shown = bytearray(BLANK * (self.columns * self.rows))
        self._row = self._column = 0
        self._addressed = True

    def _draw_changes(self, contents: bytes) -> None:
        width = 2 * self.columns
        first = next(at for at in range(0, len(contents), 2) if contents[at : at + 2] != self._shown[at : at + 2])
        behind = divmod(first // 2, self.columns) < (self._row, self._column)
        if (behind and not self._addressed) or contents == BLANK * (len(contents) // 2):
            self._clear()
        for row in range(self.rows):
            new, old = contents[row * width : (row + 1) * width], self._shown[row * width : (row + 1) * width]
            if new != old:
                self._draw_row(row, new, old)

    def _draw_row(self, row: int, new: bytes, old: bytes | bytearray) -> None:
        for column in range(self.columns):
            cell = new[2 * column : 2 * column + 2]
            if cell == old[2 * column : 2 * column + 2]:
                continue
            if row == self._row and 0 < column - self._column <= SHORT_GAP:
                for between in range(self._column, column):
                    self._put(new[2 * between : 2 * between + 2])
            self._go_to(row, column)
            self._put(cell)

    def _go_to(self, row: int, column: int) -> None:
        """Move the terminal's cursor: by writing on where that is enough, else by a control sequence."""
        if (row, column) == (self._row, self._column):
            return
        if row < self._row and not self._addressed:
            shown = bytes(self._shown)
            self._clear()
            self._draw_changes_from(shown)
        if (row, column) == (self._row, self._column):
            return
        if self._addressed:
            self._write(f"\x1b[{row + 1};{column + 1}H".encode())
            self._row, self._column = row, column
            return
        while self._row < row:
            self._write(b"\r\n")
            self._row, self._column = self._row + 1, 0
        if column < self._column:
            if column:
                self._write(b"\b" * (self._column - column))
            else:
                self._write(b"\r")
            self._column = column
        while self._column < column:
            at = 2 * (row * self.columns + self._column)
            self._put(bytes(self._shown[at : at + 2]))

    def _draw_changes_from(self, shown: bytes) -> None:
        """After a clear: draw again what was shown before."""
        if shown != self._shown:
            self._draw_changes(shown)

    def _put(self, cell: bytes) -> None:
        """Write a character and its attribute at the terminal's cursor, which moves on."""
        if cell[1] != self._attribute:
            self._set_attribute(cell[1])
        self._write(GLYPHS[cell[0]])
        at = 2 * (self._row * self.columns + self._column)
        self._shown[at : at + 2] = cell
        self._column += 1
        if self._column == self.columns:
            # Where a terminal's cursor is after its last column differs: take it to a place that is known.
            self._write(b"\r")
            self._column = 0

    def _scroll(self, lines: int) -> None:
        lines = min(lines, self.rows)
        self._set_attribute(NORMAL)
        if self._addressed and self._row != self.rows - 1:
            self._write(f"\x1b[{self.rows};1H".encode())
            self._column = 0
        elif self._row != self.rows - 1:
            self._go_to(self.rows - 1, 0)
        self._write(b"\n" * lines)
        self._row = self.rows - 1
        cut = 2 * self.columns * lines
        self._shown = self._shown[cut:] + bytearray(BLANK * (self.columns * lines))

    def _set_attribute(self, attribute: int) -> None:
        if attribute == self._attribute:
            return
        self._attribute = attribute
        words = ["0"]
        if attribute != NORMAL:
            foreground, background = attribute & 0xF, attribute >> 4 & 7
            if foreground != NORMAL:
                words.append(str((90 if foreground & 8 else 30) + COLOURS[foreground & 7]))
            if background:
                words.append(str(40 + COLOURS[background]))
            if attribute & 0x80:
                words.append("5")
        self._write(f"\x1b[{';'.join(words)}m".encode())
