"""Programs the VGA, by its ports as any BIOS does, and reaches its memory through the window at A0000h.

Source: IBM PS/2 Hardware Interface Technical Reference, "Video Subsystem"; Bochs, vbe_display_api.txt.
"""

from __future__ import annotations

from typing import Protocol

from trapgate.firmware.bios.font import HEIGHTS, font
from trapgate.firmware.bios.host import Ports
from trapgate.firmware.bios.vga_modes import Mode, colours_of
from trapgate.machine.ram import Ram

ATTRIBUTE, ATTRIBUTE_READ, MISC, SEQUENCER, PEL_MASK, PEL_READ, PEL_WRITE, PEL_DATA, GRAPHICS, CRTC, STATUS = (
    0x3C0, 0x3C1, 0x3C2, 0x3C4, 0x3C6, 0x3C7, 0x3C8, 0x3C9, 0x3CE, 0x3D4, 0x3DA,
)  # fmt: skip
PALETTE_ON = 0x20
DISPI_INDEX, DISPI_DATA = 0x1CE, 0x1CF
DISPI_ENABLE = 4
#: CRT controller registers.
ROW_HEIGHT, CURSOR_START, CURSOR_END, START, CURSOR, VERTICAL_END = 0x09, 0x0A, 0x0B, 0x0C, 0x0E, 0x12
PLANES_WINDOW = 0xA0000
FONT_STRIDE, CHARACTERS = 32, 256
FONT_BLOCK = 0x2000
#: Where each of eight fonts lies in plane 2.
FONT_PLACES = (0x0000, 0x4000, 0x8000, 0xC000, 0x2000, 0x6000, 0xA000, 0xE000)
#: The video BIOS's place: its fonts stand there one behind the other.
ROM = 0xC0000
ROM_SEGMENT = ROM >> 4


class DisplayHost(Protocol):
    """What of a machine is needed to program its display."""

    @property
    def memory(self) -> Ram:
        """RAM."""

    @property
    def ports(self) -> Ports:
        """The I/O ports."""


class Window(Protocol):
    """The adapter's memory as firmware reaches it; addresses are guest-physical, from A0000h to BFFFFh."""

    def read_window(self, address: int, length: int) -> bytes:
        """Bytes as the graphics controller answers them."""

    def write_window(self, address: int, data: bytes) -> None:
        """Bytes as the graphics controller takes them."""

    def clear_planes(self) -> None:
        """Zero all display memory behind the window."""


class TextMemory(Protocol):
    """What the video services use of the memory that characters are in: RAM has it, and `WindowMemory`."""

    def read(self, address: int, length: int) -> bytes: ...
    def write(self, address: int, data: bytes) -> None: ...
    def read_u8(self, address: int) -> int: ...
    def read_u16(self, address: int) -> int: ...
    def write_u8(self, address: int, value: int) -> None: ...


class WindowMemory:
    """The window with the methods of RAM that the video services use."""

    def __init__(self, window: Window) -> None:
        self._window = window

    def read(self, address: int, length: int) -> bytes:
        """`length` bytes."""
        return self._window.read_window(address, length)

    def write(self, address: int, data: bytes) -> None:
        """Write `data`."""
        self._window.write_window(address, data)

    def read_u8(self, address: int) -> int:
        """A byte."""
        return self.read(address, 1)[0]

    def read_u16(self, address: int) -> int:
        """A word."""
        return int.from_bytes(self.read(address, 2), "little")

    def write_u8(self, address: int, value: int) -> None:
        """Write a byte."""
        self.write(address, bytes((value,)))


def font_address(height: int) -> int:
    """Guest-physical address of the font of `height` rows."""
    before = sum(CHARACTERS * other for other in HEIGHTS if other < height)
    return ROM + before


class Display:
    """The VGA as the BIOS uses it."""

    def __init__(self, host: DisplayHost, window: Window) -> None:
        self._host = host
        self.window = window

    def _outb(self, port: int, value: int) -> None:
        self._host.ports.write_port(port, 1, value & 0xFF)

    def _inb(self, port: int) -> int:
        return self._host.ports.read_port(port, 1)

    def install(self) -> None:
        """Put the fonts where guests find them."""
        for height in HEIGHTS:
            self._host.memory.write(font_address(height), font(height))

    # Registers

    def write(self, port: int, index: int, value: int) -> None:
        """A register behind an index port."""
        self._outb(port, index)
        self._outb(port + 1, value)

    def read(self, port: int, index: int) -> int:
        """A register behind an index port."""
        self._outb(port, index)
        return self._inb(port + 1)

    def write_attribute(self, index: int, value: int) -> None:
        """An attribute controller register; the screen is on afterwards."""
        self._inb(STATUS)
        self._outb(ATTRIBUTE, index)
        self._outb(ATTRIBUTE, value)
        self._outb(ATTRIBUTE, PALETTE_ON)

    def read_attribute(self, index: int) -> int:
        """An attribute controller register."""
        self._inb(STATUS)
        self._outb(ATTRIBUTE, index)
        value = self._inb(ATTRIBUTE_READ)
        self._outb(ATTRIBUTE, value)
        self._outb(ATTRIBUTE, PALETTE_ON)
        return value

    def write_colours(self, first: int, colours: bytes) -> None:
        """Red, green and blue of 6 bits each, for places in the DAC from `first` on."""
        self._outb(PEL_WRITE, first)
        for value in colours:
            self._outb(PEL_DATA, value)

    def read_colours(self, first: int, count: int) -> bytes:
        """Three bytes for each place in the DAC."""
        self._outb(PEL_READ, first)
        return bytes(self._inb(PEL_DATA) for _ in range(3 * count))

    def dispi(self, index: int) -> int:
        """A register of the display interface."""
        self._host.ports.write_port(DISPI_INDEX, 2, index)
        return self._host.ports.read_port(DISPI_DATA, 2)

    def write_dispi(self, index: int, value: int) -> None:
        """Write a register of the display interface."""
        self._host.ports.write_port(DISPI_INDEX, 2, index)
        self._host.ports.write_port(DISPI_DATA, 2, value)

    # Modes

    def set_mode(self, mode: Mode, keep: bool = False) -> None:
        """Program a mode; memory is cleared unless `keep`."""
        self.write_dispi(DISPI_ENABLE, 0)
        self._inb(STATUS)
        self._outb(ATTRIBUTE, 0)  # the screen is off, and the palette the processor's
        self.write(SEQUENCER, 0, 1)
        self._outb(MISC, mode.misc)
        for index, value in enumerate(mode.sequencer, 1):
            self.write(SEQUENCER, index, value)
        self.write(SEQUENCER, 0, 3)
        self.write(CRTC, 0x11, 0)
        for index, value in enumerate(mode.crtc):
            self.write(CRTC, index, value)
        for index, value in enumerate(mode.graphics):
            self.write(GRAPHICS, index, value)
        self._inb(STATUS)
        for index, value in enumerate(mode.attribute):
            self._outb(ATTRIBUTE, index)
            self._outb(ATTRIBUTE, value)
        self._outb(PEL_MASK, 0xFF)
        self.write_colours(0, colours_of(mode))
        if not keep:
            self.window.clear_planes()
        if mode.is_text:
            self.load_font(font(mode.character), mode.character)
        self._outb(ATTRIBUTE, PALETTE_ON)

    def load_font(self, data: bytes, height: int, first: int = 0, block: int = 0) -> None:
        """Put characters of `height` rows, from code `first` on, into font `block` (0 to 7) of plane 2."""
        saved = [(port, index, self.read(port, index)) for port, index in
                 ((SEQUENCER, 2), (SEQUENCER, 4), (GRAPHICS, 4), (GRAPHICS, 5), (GRAPHICS, 6))]  # fmt: skip
        for port, index, value in (
            (SEQUENCER, 2, 0x04), (SEQUENCER, 4, 0x07), (GRAPHICS, 4, 0x02), (GRAPHICS, 5, 0x00), (GRAPHICS, 6, 0x04),
        ):  # fmt: skip
            self.write(port, index, value)
        place = PLANES_WINDOW + FONT_PLACES[block & 7] + FONT_STRIDE * first
        for n in range(min(len(data) // height, CHARACTERS - first)):
            character = data[n * height : (n + 1) * height]
            self.window.write_window(place + FONT_STRIDE * n, character.ljust(16, b"\0")[:FONT_STRIDE])
        for port, index, value in saved:
            self.write(port, index, value)

    def set_character_height(self, height: int, lines: int) -> None:
        """Characters of `height` rows in text modes, as many as fit into `lines` scan lines."""
        self.write(CRTC, ROW_HEIGHT, self.read(CRTC, ROW_HEIGHT) & 0xE0 | height - 1)
        self.write(CRTC, VERTICAL_END, lines // height * height - 1 & 0xFF)
        self.set_cursor_shape(height - 2 << 8 | height - 1)

    def set_cursor_shape(self, shape: int) -> None:
        """First and last row of the cursor; bit 5 of the first hides it."""
        self.write(CRTC, CURSOR_START, shape >> 8 & 0x3F)
        self.write(CRTC, CURSOR_END, shape & 0x1F)

    def set_cursor(self, place: int) -> None:
        """The cursor's place in cells from the window's begin."""
        self.write(CRTC, CURSOR, place >> 8 & 0xFF)
        self.write(CRTC, CURSOR + 1, place & 0xFF)

    def set_start(self, place: int) -> None:
        """Where the display begins: cells in text modes, bytes of a plane in graphics modes."""
        self.write(CRTC, START, place >> 8 & 0xFF)
        self.write(CRTC, START + 1, place & 0xFF)
