"""INT 10h: the display. Without a VGA there are text modes 0 to 3 and 7 alone, at B8000h in RAM.

Sources: IBM PS/2 and PC BIOS Interface Technical Reference, INT 10h; Ralf Brown's Interrupt List, INT 10h.
"""

from __future__ import annotations

from collections.abc import Callable

from trapgate.firmware.bios import data_area
from trapgate.firmware.bios.call import ES, Call
from trapgate.firmware.bios.display import Display, TextMemory, WindowMemory
from trapgate.firmware.bios.fonts import Fonts
from trapgate.firmware.bios.graphics import GraphicsText
from trapgate.firmware.bios.host import Host
from trapgate.firmware.bios.palette import Palette
from trapgate.firmware.bios.screen import BLANK, TEXT_BASE, TEXT_SIZE, Screen
from trapgate.firmware.bios.vbe import Vbe
from trapgate.firmware.bios.vga_modes import MODES as VGA_MODES
from trapgate.firmware.bios.vga_modes import Mode

DEFAULT_MODE = 3
#: The text modes, which are all there are without a VGA.
TEXT_MODES = (0, 1, 2, 3, 7)
KEEP_MEMORY = 0x80
PAGES = 8
DEFAULT_CURSOR = 0x0D0E
COLOUR_CRTC = 0x3D4
BACKSPACE, BELL, LINE_FEED, CARRIAGE_RETURN = 8, 7, 10, 13
#: Display combination code: a VGA with a colour display.
VGA_COLOUR = 0x08
#: EGA information: colour, 256 KB; and its switches as of a colour display.
EGA_COLOUR_256K = (0x00, 0x03)
EGA_SWITCHES = 0x09


class Video:
    """The video service."""

    def __init__(self, host: Host, screen: Screen, display: Display | None = None) -> None:
        """`display` is the VGA, where there is one."""
        self._host = host
        self._memory = host.memory
        self._display = display
        self._text: TextMemory = host.memory if display is None else WindowMemory(display.window)
        self.screen = screen
        self._fonts: Fonts | None = None
        self._more: dict[int, Callable[[Call], None]] = {}
        if display is not None:
            self._fonts = Fonts(host, display, self._resized)
            self._graphics = GraphicsText(display)
            self._vbe = Vbe(host, display, self._set_if_known)
            palette = Palette(host, display)
            self._more = {
                0x0B: palette.set_cga, 0x0C: self._write_dot, 0x0D: self._read_dot, 0x10: palette.call,
                0x11: self._fonts.call, 0x4F: self._vesa,
            }  # fmt: skip

    def initialise(self) -> None:
        """The display as the power-on self-test leaves it."""
        if self._display is not None:
            self._display.install()
        self._set_mode(DEFAULT_MODE)

    def call(self, call: Call) -> None:
        """INT 10h."""
        functions = {
            0x00: self._mode, 0x01: self._cursor_shape, 0x02: self._set_cursor, 0x03: self._get_cursor,
            0x05: self._page, 0x06: self._scroll_up, 0x07: self._scroll_down, 0x08: self._read_cell,
            0x09: self._write_cells, 0x0A: self._write_characters, 0x0E: self._teletype, 0x0F: self._state,
            0x11: self._font_information, 0x12: self._alternate, 0x13: self._write_string,
            0x1A: self._display_combination,
        }  # fmt: skip
        function = self._more.get(call.ah) or functions.get(call.ah)
        if function is None:
            self._unsupported(call)
        else:
            function(call)

    def write_text(self, text: str) -> None:
        """Write a message of the BIOS itself on the displayed page."""
        for byte in text.replace("\n", "\r\n").encode("ascii"):
            self._put_teletype(self._active_page, byte)

    def _unsupported(self, call: Call) -> None:
        self._host.note(f"{call.describe()}: not supported")

    # State in the BIOS data area

    @property
    def _active_page(self) -> int:
        return self._memory.read_u8(data_area.ACTIVE_PAGE) & (PAGES - 1)

    @property
    def _columns(self) -> int:
        mode = self._mode_now
        return self.screen.columns if mode.is_text else mode.columns

    @property
    def _last_row(self) -> int:
        mode = self._mode_now
        return (self.screen.rows if mode.is_text else mode.rows) - 1

    @property
    def _mode_now(self) -> Mode:
        return VGA_MODES.get(self._memory.read_u8(data_area.VIDEO_MODE) & 0x7F, VGA_MODES[DEFAULT_MODE])

    def _cursor(self, page: int) -> tuple[int, int]:
        position = self._memory.read_u16(data_area.CURSOR_POSITIONS + 2 * page)
        return position >> 8, position & 0xFF

    def _move_cursor(self, page: int, row: int, column: int) -> None:
        self._memory.write_u16(data_area.CURSOR_POSITIONS + 2 * page, row << 8 | column)
        if page == self._active_page:
            self._show_cursor()

    def _show_cursor(self) -> None:
        """Tell the VGA where the displayed page's cursor is."""
        if self._display is not None:
            row, column = self._cursor(self._active_page)
            start = self._memory.read_u16(data_area.VIDEO_PAGE_START) >> 1
            self._display.set_cursor(start + row * self._columns + column)

    def _cell(self, page: int, row: int, column: int) -> int:
        """Guest-physical address of a character cell; past the page's end it wraps, as the display's memory does."""
        size = self._memory.read_u16(data_area.VIDEO_PAGE_SIZE)
        return TEXT_BASE + (page * size + 2 * (row * self._columns + column)) % TEXT_SIZE

    # Functions

    def _mode(self, call: Call) -> None:
        mode = call.al & 0x7F
        if not self._set_if_known(mode, bool(call.al & KEEP_MEMORY)):
            self._unsupported(call)
            return
        call.al = 0x3F if mode == 6 else 0x30 if mode in (0, 1, 2, 3, 7) else 0x20

    def _set_if_known(self, mode: int, keep: bool) -> bool:
        """Set a mode of the VGA's own; whether there is one of that number."""
        known = mode in (VGA_MODES if self._display is not None else TEXT_MODES)
        if known:
            self._set_mode(mode, keep)
        return known

    def _set_mode(self, number: int, keep: bool = False) -> None:
        memory, mode = self._memory, VGA_MODES[number]
        memory.write_u8(data_area.VIDEO_MODE, number)
        memory.write_u16(data_area.VIDEO_COLUMNS, mode.columns)
        memory.write_u16(data_area.VIDEO_PAGE_SIZE, 0x800 if mode.columns == 40 else 0x1000)
        memory.write_u16(data_area.VIDEO_PAGE_START, 0)
        memory.write(data_area.CURSOR_POSITIONS, bytes(2 * PAGES))
        memory.write_u16(data_area.CURSOR_SHAPE, DEFAULT_CURSOR)
        memory.write_u8(data_area.ACTIVE_PAGE, 0)
        memory.write_u16(data_area.CRTC_PORT, COLOUR_CRTC)
        memory.write_u8(data_area.VIDEO_ROWS, mode.rows - 1)
        memory.write_u16(data_area.CHARACTER_HEIGHT, mode.character)
        memory.write_u8(data_area.VIDEO_CONTROL, 0x60 | (KEEP_MEMORY if keep else 0))
        memory.write_u8(data_area.VIDEO_SWITCHES, 0xF0 | EGA_SWITCHES)
        if self._display is not None and self._fonts is not None:
            self._display.set_mode(mode, keep)
            self._fonts.set_vectors(mode.character)
            self._vbe.number = None
        if mode.is_text and not keep:
            self._text.write(TEXT_BASE, BLANK * (TEXT_SIZE // 2))
        self._show_mode(mode.is_text, mode.columns, mode.rows)

    def _show_mode(self, is_text: bool, columns: int, rows: int) -> None:
        """Tell the console of a mode."""
        screen = self.screen
        screen.is_text = is_text
        if is_text and (columns, rows) != (screen.columns, screen.rows):
            screen.resize(columns, rows)
        screen.refresh()

    def _resized(self, rows: int, height: int) -> None:
        """A font of another height has been loaded into a text mode."""
        memory = self._memory
        memory.write_u8(data_area.VIDEO_ROWS, rows - 1)
        memory.write_u16(data_area.CHARACTER_HEIGHT, height)
        memory.write_u16(data_area.VIDEO_PAGE_SIZE, (self._columns * rows * 2 + 0xFF) & ~0xFF)
        memory.write_u16(data_area.CURSOR_SHAPE, height - 2 << 8 | height - 1)
        self._show_mode(self._mode_now.is_text, self._columns, rows)

    def _vesa(self, call: Call) -> None:
        self._vbe.call(call)
        if self._vbe.number is not None:
            self.screen.is_text = False

    def _cursor_shape(self, call: Call) -> None:
        self._memory.write_u16(data_area.CURSOR_SHAPE, call.cx)
        if self._display is not None:
            self._display.set_cursor_shape(self._scaled_shape(call.ch, call.cl))

    def _scaled_shape(self, first: int, last: int) -> int:
        """Programs count eight rows, as on a CGA (IBM, AH=01h, cursor emulation)."""
        height = self._memory.read_u16(data_area.CHARACTER_HEIGHT)
        if first & 0x20 or last >= 8 or height <= 8:
            return first << 8 | last
        first, last = (((row & 0x1F) + 1) * height // 8 - 2 for row in (first, last))
        return first << 8 | last

    def _set_cursor(self, call: Call) -> None:
        self._move_cursor(call.bh % PAGES, call.dh, call.dl)

    def _get_cursor(self, call: Call) -> None:
        call.dh, call.dl = self._cursor(call.bh % PAGES)
        call.cx = self._memory.read_u16(data_area.CURSOR_SHAPE)
        call.ax = 0

    def _page(self, call: Call) -> None:
        page = call.al % PAGES
        self._memory.write_u8(data_area.ACTIVE_PAGE, page)
        size = self._memory.read_u16(data_area.VIDEO_PAGE_SIZE)
        self._memory.write_u16(data_area.VIDEO_PAGE_START, page * size)
        if self._display is not None:
            self._display.set_start(page * size >> (1 if self._mode_now.is_text else 0))
            self._show_cursor()
        self.screen.refresh()

    def _scroll_up(self, call: Call) -> None:
        self._scroll(call, up=True)

    def _scroll_down(self, call: Call) -> None:
        self._scroll(call, up=False)

    def _scroll(self, call: Call, up: bool) -> None:
        top, left = call.ch, call.cl
        bottom, right = min(call.dh, self._last_row), min(call.dl, self._columns - 1)
        if top > bottom or left > right:
            return
        height = bottom - top + 1
        lines = height if call.al == 0 or call.al > height else call.al
        if not self._mode_now.is_text:
            if up and (top, left) == (0, 0):
                self._graphics.scroll(self._mode_now, lines)
            return
        self._scroll_window(top, left, bottom, right, lines if up else -lines, call.bh)
        whole = (top, left, bottom, right) == (0, 0, self._last_row, self._columns - 1)
        if whole and up and lines < height:
            self.screen.scrolled_up(lines)
        else:
            self.screen.refresh()

    def _scroll_window(self, top: int, left: int, bottom: int, right: int, lines: int, attribute: int) -> None:
        """Move a window of the displayed page up (`lines` > 0) or down, and blank the rest with `attribute`."""
        page, length = self._active_page, 2 * (right - left + 1)
        rows = [self._text.read(self._cell(page, row, left), length) for row in range(top, bottom + 1)]
        blank = bytes((0x20, attribute)) * (length // 2)
        count = len(rows)
        moved = [rows[i + lines] if 0 <= i + lines < count else blank for i in range(count)]
        for row, data in zip(range(top, bottom + 1), moved, strict=True):
            self._text.write(self._cell(page, row, left), data)

    def _read_cell(self, call: Call) -> None:
        page = call.bh % PAGES
        call.ax = self._text.read_u16(self._cell(page, *self._cursor(page)))

    def _write_cells(self, call: Call) -> None:
        self._fill(call, bytes((call.al, call.bl)))

    def _write_characters(self, call: Call) -> None:
        self._fill(call, bytes((call.al,)))

    def _fill(self, call: Call, cell: bytes) -> None:
        """Write a character, and with two bytes its attribute, CX times from the cursor on, which stays."""
        page = call.bh % PAGES
        row, column = self._cursor(page)
        if not self._mode_now.is_text:
            for n in range(min(call.cx, self._columns - min(column, self._columns))):
                self._graphics.draw(self._mode_now, row, column + n, call.al, call.bl)
            return
        start = self._cell(page, row, column)
        count = min(call.cx, (TEXT_BASE + TEXT_SIZE - start) // 2)
        if len(cell) == 2:
            self._text.write(start, cell * count)
        else:
            for at in range(start, start + 2 * count, 2):
                self._text.write(at, cell)
        if page != self._active_page:
            return
        if count == 1 and row <= self._last_row and column < self._columns:
            self.screen.draw(row, column)
        else:
            self.screen.refresh()

    def _teletype(self, call: Call) -> None:
        # BIOSes since the AT write on the displayed page, whatever BH says.
        self._put_teletype(self._active_page, call.al, None if self._mode_now.is_text else call.bl)

    def _put_teletype(self, page: int, byte: int, attribute: int | None = None) -> None:
        row, column = self._cursor(page)
        shown = page == self._active_page
        screen = self.screen
        if byte == BELL:
            screen.bell()
            return
        if byte == BACKSPACE:
            self._move_cursor(page, row, max(column - 1, 0))
            return
        if byte == CARRIAGE_RETURN:
            self._move_cursor(page, row, 0)
            if shown and screen.is_text:
                screen.carriage_return(row)
            return
        if byte != LINE_FEED:
            row, column = min(row, self._last_row), min(column, self._columns - 1)
            self._put_character(page, row, column, byte, attribute)
            column += 1
            if column < self._columns:
                self._move_cursor(page, row, column)
                return
            column = 0
        self._next_line(page, row, column, shown)

    def _put_character(self, page: int, row: int, column: int, byte: int, attribute: int | None) -> None:
        if not self._mode_now.is_text:
            self._graphics.draw(self._mode_now, row, column, byte, 7 if attribute is None else attribute)
            return
        at = self._cell(page, row, column)
        self._text.write_u8(at, byte)
        if attribute is not None:
            self._text.write_u8(at + 1, attribute)
        if page == self._active_page:
            self.screen.draw(row, column)

    def _next_line(self, page: int, row: int, column: int, shown: bool) -> None:
        if row < self._last_row:
            self._move_cursor(page, row + 1, column)
        else:
            self._move_cursor(page, self._last_row, column)
            if not self._mode_now.is_text:
                self._graphics.scroll(self._mode_now, 1)
            elif shown:
                attribute = self._text.read_u8(self._cell(page, self._last_row, column) + 1)
                self._scroll_window(0, 0, self._last_row, self._columns - 1, 1, attribute)
        if shown and self.screen.is_text:
            self.screen.line_feed(min(row, self._last_row))

    def _write_string(self, call: Call) -> None:
        """AL bit 0: move the cursor; bit 1: attributes stand between the characters."""
        page, mode = call.bh % PAGES, call.al
        if mode > 3:
            self._unsupported(call)
            return
        step = 2 if mode & 2 else 1
        data = call.read(ES, call.bp, call.cx * step)
        before = self._cursor(page)
        self._move_cursor(page, call.dh, call.dl)
        for at in range(0, len(data), step):
            self._put_teletype(page, data[at], data[at + 1] if step == 2 else call.bl)
        if not mode & 1:
            self._move_cursor(page, *before)

    def _state(self, call: Call) -> None:
        call.al = self._memory.read_u8(data_area.VIDEO_MODE)
        call.ah = self._columns
        call.bh = self._active_page

    def _font_information(self, call: Call) -> None:
        """Without a VGA there are no fonts to point to."""
        if call.al == 0x30:
            call.cx = self._memory.read_u16(data_area.CHARACTER_HEIGHT)
            call.dl = self._last_row
        else:
            self._unsupported(call)

    def _write_dot(self, call: Call) -> None:
        self._graphics.write_dot(self._mode_now, call.cx, call.dx, call.al)

    def _read_dot(self, call: Call) -> None:
        call.al = self._graphics.read_dot(self._mode_now, call.cx, call.dx)

    def _alternate(self, call: Call) -> None:
        if call.bl == 0x10:
            call.bh, call.bl = EGA_COLOUR_256K
            call.ch, call.cl = 0, EGA_SWITCHES
        else:
            self._unsupported(call)

    def _display_combination(self, call: Call) -> None:
        if call.al == 0:
            call.bx = VGA_COLOUR
            call.al = 0x1A
        else:
            self._unsupported(call)
