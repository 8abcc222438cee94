"""INT 10h: the display, in text modes 0 to 3 and 7, all of them at B8000h.

Sources: IBM PS/2 and PC BIOS Interface Technical Reference, INT 10h; Ralf Brown's Interrupt List, INT 10h.
"""

from __future__ import annotations

from trapgate.firmware.bios import data_area
from trapgate.firmware.bios.call import ES, Call
from trapgate.firmware.bios.host import Host
from trapgate.firmware.bios.screen import BLANK, ROWS, TEXT_BASE, TEXT_SIZE, Screen

DEFAULT_MODE = 3
#: Columns of the text modes.
MODES = {0: 40, 1: 40, 2: 80, 3: 80, 7: 80}
KEEP_MEMORY = 0x80
PAGES = 8
LAST_ROW = ROWS - 1
DEFAULT_CURSOR = 0x0D0E
COLOUR_CRTC = 0x3D4
CHARACTER_HEIGHT = 16
BACKSPACE, BELL, LINE_FEED, CARRIAGE_RETURN = 8, 7, 10, 13
#: Display combination code: a VGA with a colour display.
VGA_COLOUR = 0x08
#: EGA information: colour, 256 KB; and its switches as of a colour display.
EGA_COLOUR_256K = (0x00, 0x03)
EGA_SWITCHES = 0x09


class Video:
    """The video service."""

    def __init__(self, host: Host, screen: Screen) -> None:
        self._host = host
        self._memory = host.memory
        self.screen = screen

    def initialise(self) -> None:
        """The display as the power-on self-test leaves it."""
        self._set_mode(DEFAULT_MODE)

    def call(self, call: Call) -> None:
        """INT 10h."""
        functions = {
            0x00: self._mode, 0x01: self._cursor_shape, 0x02: self._set_cursor, 0x03: self._get_cursor,
            0x05: self._page, 0x06: self._scroll_up, 0x07: self._scroll_down, 0x08: self._read_cell,
            0x09: self._write_cells, 0x0A: self._write_characters, 0x0E: self._teletype, 0x0F: self._state,
            0x11: self._fonts, 0x12: self._alternate, 0x13: self._write_string, 0x1A: self._display_combination,
        }  # fmt: skip
        function = functions.get(call.ah)
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
        return self.screen.columns

    def _cursor(self, page: int) -> tuple[int, int]:
        position = self._memory.read_u16(data_area.CURSOR_POSITIONS + 2 * page)
        return position >> 8, position & 0xFF

    def _move_cursor(self, page: int, row: int, column: int) -> None:
        self._memory.write_u16(data_area.CURSOR_POSITIONS + 2 * page, row << 8 | column)

    def _cell(self, page: int, row: int, column: int) -> int:
        """Guest-physical address of a character cell; past the page's end it wraps, as the display's memory does."""
        size = self._memory.read_u16(data_area.VIDEO_PAGE_SIZE)
        return TEXT_BASE + (page * size + 2 * (row * self._columns + column)) % TEXT_SIZE

    # Functions

    def _mode(self, call: Call) -> None:
        mode = call.al & 0x7F
        if mode not in MODES:
            self._unsupported(call)
            return
        self._set_mode(mode, keep=bool(call.al & KEEP_MEMORY))
        call.al = 0x3F if mode == 6 else 0x30 if mode in (0, 1, 2, 3, 7) else 0x20

    def _set_mode(self, mode: int, keep: bool = False) -> None:
        memory = self._memory
        columns = MODES[mode]
        memory.write_u8(data_area.VIDEO_MODE, mode)
        memory.write_u16(data_area.VIDEO_COLUMNS, columns)
        memory.write_u16(data_area.VIDEO_PAGE_SIZE, 0x800 if columns == 40 else 0x1000)
        memory.write_u16(data_area.VIDEO_PAGE_START, 0)
        memory.write(data_area.CURSOR_POSITIONS, bytes(2 * PAGES))
        memory.write_u16(data_area.CURSOR_SHAPE, DEFAULT_CURSOR)
        memory.write_u8(data_area.ACTIVE_PAGE, 0)
        memory.write_u16(data_area.CRTC_PORT, COLOUR_CRTC)
        memory.write_u8(data_area.VIDEO_ROWS, LAST_ROW)
        memory.write_u16(data_area.CHARACTER_HEIGHT, CHARACTER_HEIGHT)
        memory.write_u8(data_area.VIDEO_CONTROL, 0x60)
        memory.write_u8(data_area.VIDEO_SWITCHES, 0xF0 | EGA_SWITCHES)
        if not keep:
            memory.write(TEXT_BASE, BLANK * (TEXT_SIZE // 2))
        if columns != self._columns:
            self.screen.resize(columns)
        self.screen.refresh()

    def _cursor_shape(self, call: Call) -> None:
        self._memory.write_u16(data_area.CURSOR_SHAPE, call.cx)

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
        self.screen.refresh()

    def _scroll_up(self, call: Call) -> None:
        self._scroll(call, up=True)

    def _scroll_down(self, call: Call) -> None:
        self._scroll(call, up=False)

    def _scroll(self, call: Call, up: bool) -> None:
        top, left = call.ch, call.cl
        bottom, right = min(call.dh, LAST_ROW), min(call.dl, self._columns - 1)
        if top > bottom or left > right:
            return
        height = bottom - top + 1
        lines = height if call.al == 0 or call.al > height else call.al
        self._scroll_window(top, left, bottom, right, lines if up else -lines, call.bh)
        whole = (top, left, bottom, right) == (0, 0, LAST_ROW, self._columns - 1)
        if whole and up and lines < height:
            self.screen.scrolled_up(lines)
        else:
            self.screen.refresh()

    def _scroll_window(self, top: int, left: int, bottom: int, right: int, lines: int, attribute: int) -> None:
        """Move a window of the displayed page up (`lines` > 0) or down, and blank the rest with `attribute`."""
        page, length = self._active_page, 2 * (right - left + 1)
        rows = [self._memory.read(self._cell(page, row, left), length) for row in range(top, bottom + 1)]
        blank = bytes((0x20, attribute)) * (length // 2)
        count = len(rows)
        moved = [rows[i + lines] if 0 <= i + lines < count else blank for i in range(count)]
        for row, data in zip(range(top, bottom + 1), moved, strict=True):
            self._memory.write(self._cell(page, row, left), data)

    def _read_cell(self, call: Call) -> None:
        page = call.bh % PAGES
        call.ax = self._memory.read_u16(self._cell(page, *self._cursor(page)))

    def _write_cells(self, call: Call) -> None:
        self._fill(call, bytes((call.al, call.bl)))

    def _write_characters(self, call: Call) -> None:
        self._fill(call, bytes((call.al,)))

    def _fill(self, call: Call, cell: bytes) -> None:
        """Write a character, and with two bytes its attribute, CX times from the cursor on, which stays."""
        page = call.bh % PAGES
        row, column = self._cursor(page)
        start = self._cell(page, row, column)
        count = min(call.cx, (TEXT_BASE + TEXT_SIZE - start) // 2)
        if len(cell) == 2:
            self._memory.write(start, cell * count)
        else:
            for at in range(start, start + 2 * count, 2):
                self._memory.write(at, cell)
        if page != self._active_page:
            return
        if count == 1 and row < ROWS and column < self._columns:
            self.screen.draw(row, column)
        else:
            self.screen.refresh()

    def _teletype(self, call: Call) -> None:
        # BIOSes since the AT write on the displayed page, whatever BH says.
        self._put_teletype(self._active_page, call.al)

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
            if shown:
                screen.carriage_return(row)
            return
        if byte != LINE_FEED:
            row, column = min(row, LAST_ROW), min(column, self._columns - 1)
            at = self._cell(page, row, column)
            self._memory.write_u8(at, byte)
            if attribute is not None:
                self._memory.write_u8(at + 1, attribute)
            if shown:
                screen.draw(row, column)
            column += 1
            if column < self._columns:
                self._move_cursor(page, row, column)
                return
            column = 0
        self._next_line(page, row, column, shown)

    def _next_line(self, page: int, row: int, column: int, shown: bool) -> None:
        if row < LAST_ROW:
            self._move_cursor(page, row + 1, column)
        else:
            self._move_cursor(page, LAST_ROW, column)
            if shown:
                attribute = self._memory.read_u8(self._cell(page, LAST_ROW, column) + 1)
                self._scroll_window(0, 0, LAST_ROW, self._columns - 1, 1, attribute)
        if shown:
            self.screen.line_feed(min(row, LAST_ROW))

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

    def _fonts(self, call: Call) -> None:
        """AL=30h: information; there are no fonts to point to. Loading fonts changes nothing that a terminal shows."""
        if call.al == 0x30:
            call.cx = CHARACTER_HEIGHT
            call.dl = LAST_ROW
        else:
            self._unsupported(call)

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
