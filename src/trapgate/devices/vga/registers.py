"""The VGA's registers: ports, indexes and bits, and the files of registers as they stand.

Sources: IBM Personal System/2 Hardware Interface Technical Reference, "Video Subsystem" (PS/2 HITR); the FreeVGA
Project's "Hardware Level VGA and SVGA Video Programming Information Page" (FreeVGA) where that is silent.
"""

from __future__ import annotations

from typing import ClassVar

from trapgate.machine.device import PlainState

# Ports, as offsets from 3B0h: monochrome ones at 3Bxh, the common ones at 3Cxh, colour ones at 3Dxh.
BASE_PORT = 0x3B0
CRTC_INDEX_MONO, CRTC_DATA_MONO, STATUS_MONO = 0x04, 0x05, 0x0A
ATTRIBUTE, ATTRIBUTE_DATA = 0x10, 0x11
MISC_WRITE = 0x12  # read: input status 0
ENABLE = 0x13
SEQUENCER_INDEX, SEQUENCER_DATA = 0x14, 0x15
PEL_MASK, PEL_READ, PEL_WRITE, PEL_DATA = 0x16, 0x17, 0x18, 0x19
FEATURE_READ, MISC_READ = 0x1A, 0x1C
GRAPHICS_INDEX, GRAPHICS_DATA = 0x1E, 0x1F
CRTC_INDEX, CRTC_DATA, STATUS = 0x24, 0x25, 0x2A

# Miscellaneous output.
MISC_COLOUR = 0x01
MISC_RAM = 0x02
MISC_CLOCK_SHIFT = 2
#: Input status 0: the switch that says that a monitor is there.
SWITCH_SENSE = 0x10

# Input status 1.
DISPLAY_DISABLED = 0x01
VERTICAL_RETRACE = 0x08

# Sequencer.
CLOCKING, MAP_MASK, CHARACTER_MAP, MEMORY_MODE = 1, 2, 3, 4
CLOCKING_EIGHT_DOTS, CLOCKING_HALF, CLOCKING_OFF = 0x01, 0x08, 0x20
MEMORY_SEQUENTIAL, MEMORY_CHAIN_4 = 0x04, 0x08

# Graphics controller.
SET_RESET, ENABLE_SET_RESET, COLOUR_COMPARE, ROTATE, READ_MAP, MODE, MISCELLANEOUS, COLOUR_CARE, BIT_MASK = range(9)
MODE_READ_COMPARE, MODE_ODD_EVEN, MODE_INTERLEAVE, MODE_256 = 0x08, 0x10, 0x20, 0x40
MISCELLANEOUS_GRAPHICS, MISCELLANEOUS_ODD_EVEN = 0x01, 0x02

# CRT controller.
(HORIZONTAL_TOTAL, HORIZONTAL_END, VERTICAL_TOTAL, OVERFLOW, PRESET_ROW, ROW_HEIGHT, CURSOR_START, CURSOR_END) = (
    0x00, 0x01, 0x06, 0x07, 0x08, 0x09, 0x0A, 0x0B,
)  # fmt: skip
START_HIGH, START_LOW, CURSOR_HIGH, CURSOR_LOW = 0x0C, 0x0D, 0x0E, 0x0F
RETRACE_START, RETRACE_END, VERTICAL_END, ROW_OFFSET, UNDERLINE, CRTC_MODE, LINE_COMPARE = (
    0x10, 0x11, 0x12, 0x13, 0x14, 0x17, 0x18,
)  # fmt: skip
RETRACE_PROTECT = 0x80
DOUBLE_SCAN = 0x80
UNDERLINE_DOUBLE_WORD = 0x40
CRTC_BYTE = 0x40
CURSOR_DISABLED = 0x20

# Attribute controller.
ATTRIBUTE_MODE, OVERSCAN, PLANE_ENABLE, PANNING, COLOUR_SELECT = 0x10, 0x11, 0x12, 0x13, 0x14
ATTRIBUTE_GRAPHICS, ATTRIBUTE_LINE_GRAPHICS, ATTRIBUTE_BLINK = 0x01, 0x04, 0x08
ATTRIBUTE_PAN_COMPATIBLE, ATTRIBUTE_HALF_CLOCK, ATTRIBUTE_SELECT = 0x20, 0x40, 0x80
#: In the attribute controller's index: the palette is the display's, not the processor's.
PALETTE_ON = 0x20

#: Which bits each register has.
SEQUENCER_BITS = bytes((0x03, 0x3D, 0x0F, 0x3F, 0x0E))
GRAPHICS_BITS = bytes((0x0F, 0x0F, 0x0F, 0x1F, 0x03, 0x7B, 0x0F, 0x0F, 0xFF))
ATTRIBUTE_BITS = bytes((*(0x3F,) * 16, 0xEF, 0xFF, 0x3F, 0x0F, 0x0F))
CRTC_REGISTERS = 0x19

#: Dot clocks of the miscellaneous output's bits 2 and 3, in Hz; the others stand for an external clock.
DOT_CLOCKS = (25_175_000, 28_322_000, 25_175_000, 25_175_000)


class VgaRegisters(PlainState):
    """All registers that are no memory. What follows from a write is the adapter's business."""

    __slots__ = (
        "attribute", "attribute_index", "attribute_is_data", "crtc", "crtc_index", "dac", "dac_is_wide", "dac_part",
        "dac_place", "dac_reads", "graphics", "graphics_index", "latches", "misc", "name", "pel_mask", "sequencer",
        "sequencer_index", "wakes",
    )  # fmt: skip

    STATE: ClassVar[tuple[str, ...]] = (
        "attribute", "attribute_index", "attribute_is_data", "crtc", "crtc_index", "dac", "dac_is_wide", "dac_part",
        "dac_place", "dac_reads", "graphics", "graphics_index", "latches", "misc", "pel_mask", "sequencer",
        "sequencer_index", "wakes",
    )  # fmt: skip

    def __init__(self) -> None:
        self.name = "vga-registers"
        self.reset()

    def reset(self) -> None:
        """Everything 0, as no firmware has come by: the screen is off."""
        self.misc = 0
        self.wakes = 1
        self.sequencer, self.sequencer_index = bytearray(len(SEQUENCER_BITS)), 0
        self.graphics, self.graphics_index = bytearray(len(GRAPHICS_BITS)), 0
        self.attribute, self.attribute_index = bytearray(len(ATTRIBUTE_BITS)), 0
        #: The attribute controller's flip-flop: the next write is data.
        self.attribute_is_data = False
        self.crtc, self.crtc_index = bytearray(CRTC_REGISTERS), 0
        #: 256 times red, green and blue: 6 bits each, 8 where `dac_is_wide`.
        self.dac = bytearray(768)
        self.dac_is_wide = False
        self.dac_place = self.dac_part = 0
        self.dac_reads = False
        self.pel_mask = 0xFF
        #: What the last read of memory took from the four planes.
        self.latches = bytearray(4)

    # What the display makes of them

    @property
    def is_graphics(self) -> bool:
        """Whether dots are shown, not characters."""
        return bool(self.graphics[MISCELLANEOUS] & MISCELLANEOUS_GRAPHICS)

    @property
    def is_shown(self) -> bool:
        """Whether the screen is on."""
        return bool(self.attribute_index & PALETTE_ON) and not self.sequencer[CLOCKING] & CLOCKING_OFF

    @property
    def dots(self) -> int:
        """Dots of a character clock."""
        return 8 if self.sequencer[CLOCKING] & CLOCKING_EIGHT_DOTS else 9

    @property
    def columns(self) -> int:
        """Character clocks that are displayed."""
        return self.crtc[HORIZONTAL_END] + 1

    def vertical(self, register: int, eighth: int, ninth: int) -> int:
        """A line number of the CRT controller, with its bits 8 and 9 out of the overflow register's."""
        overflow = self.crtc[OVERFLOW]
        return self.crtc[register] | (overflow >> eighth & 1) << 8 | (overflow >> ninth & 1) << 9

    @property
    def lines(self) -> int:
        """Scan lines that are displayed."""
        return self.vertical(VERTICAL_END, 1, 6) + 1

    @property
    def line_compare(self) -> int:
        """The last scan line of the upper part of a split screen."""
        crtc = self.crtc
        return crtc[LINE_COMPARE] | (crtc[OVERFLOW] >> 4 & 1) << 8 | (crtc[ROW_HEIGHT] >> 6 & 1) << 9

    @property
    def row_height(self) -> int:
        """Rows of dots of a character, or how often a row of graphics is shown."""
        return (self.crtc[ROW_HEIGHT] & 0x1F) + 1

    @property
    def scans(self) -> int:
        """How many scan lines show each row of dots: 2 with double scanning."""
        return 2 if self.crtc[ROW_HEIGHT] & DOUBLE_SCAN else 1

    @property
    def start(self) -> int:
        """Where in memory the display begins, in the address counter's units."""
        return self.crtc[START_HIGH] << 8 | self.crtc[START_LOW]

    @property
    def cursor(self) -> int:
        """The text cursor's place, in the same units."""
        return self.crtc[CURSOR_HIGH] << 8 | self.crtc[CURSOR_LOW]

    def plane_offset(self, counter: int, row: int = 0) -> int:
        """Where in each plane the CRT controller reads for its address counter, in dot row `row` of a character row
        (PS/2 HITR, CRT mode control register)."""
        crtc = self.crtc
        if crtc[UNDERLINE] & UNDERLINE_DOUBLE_WORD:
            address = counter << 2 | counter >> 14 & 3
        elif not crtc[CRTC_MODE] & CRTC_BYTE:
            address = counter << 1 | counter >> (15 if crtc[CRTC_MODE] & 0x20 else 13) & 1
        else:
            address = counter
        # CGA's and Hercules's interleaved rows: row address bits take the place of address bits 13 and 14.
        if not crtc[CRTC_MODE] & 0x01:
            address = address & ~0x2000 | (row & 1) << 13
        if not crtc[CRTC_MODE] & 0x02:
            address = address & ~0x4000 | (row >> 1 & 1) << 14
        return address & 0xFFFF

    def palette(self) -> list[int]:
        """The 16 colours of the attribute controller as places in the DAC."""
        attribute = self.attribute
        select = attribute[COLOUR_SELECT]
        high = (select & 0x0C) << 4
        if attribute[ATTRIBUTE_MODE] & ATTRIBUTE_SELECT:
            return [high | (select & 3) << 4 | attribute[n] & 0x0F for n in range(16)]
        return [high | attribute[n] for n in range(16)]

    def channel(self, part: int) -> bytes:
        """All 256 places of the DAC, behind the mask: red (0), green (1) or blue (2) of 8 bits."""
        values = self.dac[part::3]
        if not self.dac_is_wide:
            values = bytearray(v << 2 & 0xFC | v >> 4 & 3 for v in values)
        if self.pel_mask != 0xFF:
            values = bytearray(values[n & self.pel_mask] for n in range(256))
        return bytes(values)
