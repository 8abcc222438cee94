"""INT 10h AH=4Fh: VESA's modes, on the display interface's linear frame buffer.

Source: VESA BIOS Extension (VBE) Core Functions Standard 3.0; Bochs, vbe_display_api.txt.
"""

from __future__ import annotations

import struct
from collections.abc import Callable

from trapgate.firmware.bios.call import ES, Call
from trapgate.firmware.bios.display import Display
from trapgate.firmware.bios.host import Host, Ports
from trapgate.firmware.bios.vga_modes import many_colours

SUPPORTED, DONE, FAILED = 0x4F, 0x00, 0x01
VERSION = 0x0300
#: The DAC can have 8 bits a colour.
WIDE_DAC = 1
LINEAR, KEEP_MEMORY, NUMBER = 0x4000, 0x8000, 0x3FFF
#: Mode numbers (those below 120h are VESA's, the others are Bochs's), width, height, bits a dot.
MODES = {
    0x100: (640, 400, 8), 0x101: (640, 480, 8), 0x103: (800, 600, 8), 0x105: (1024, 768, 8), 0x107: (1280, 1024, 8),
    0x10D: (320, 200, 15), 0x10E: (320, 200, 16), 0x10F: (320, 200, 24), 0x110: (640, 480, 15), 0x111: (640, 480, 16),
    0x112: (640, 480, 24), 0x113: (800, 600, 15), 0x114: (800, 600, 16), 0x115: (800, 600, 24),
    0x116: (1024, 768, 15), 0x117: (1024, 768, 16), 0x118: (1024, 768, 24), 0x119: (1280, 1024, 15),
    0x11A: (1280, 1024, 16), 0x11B: (1280, 1024, 24), 0x140: (320, 200, 32), 0x141: (640, 400, 32),
    0x142: (640, 480, 32), 0x143: (800, 600, 32), 0x144: (1024, 768, 32), 0x145: (1280, 1024, 32),
}  # fmt: skip
#: Supported, with more information, in colour, graphics, with a linear frame buffer.
MODE_ATTRIBUTES = 0x009B
#: A window that exists, can be read and written; granularity and size in KB; its segment.
WINDOW = (0x07, 64, 0xA000)
PACKED, DIRECT = 4, 6
#: Sizes and places of red, green, blue and the rest, by bits a dot.
MASKS = {
    15: (5, 10, 5, 5, 5, 0, 1, 15), 16: (5, 11, 6, 5, 5, 0, 0, 0), 24: (8, 16, 8, 8, 8, 0, 0, 0),
    32: (8, 16, 8, 8, 8, 0, 8, 24),
}  # fmt: skip
PIXEL_BYTES = {8: 1, 15: 2, 16: 2, 24: 3, 32: 4}

# Registers of the display interface.
WIDTH, HEIGHT, DEPTH, ENABLE, BANK, VIRTUAL_WIDTH, VIRTUAL_HEIGHT, X_OFFSET, Y_OFFSET, MEMORY = range(1, 11)
ENABLED, DAC_8, FRAME_BUFFER, NO_CLEAR = 0x01, 0x20, 0x40, 0x80
PCI_ADDRESS, PCI_DATA, PCI_ENABLED = 0xCF8, 0xCFC, 1 << 31
QEMU_VGA = 0x1111_1234
#: Where the frame buffer of a VGA without PCI is.
ISA_FRAME_BUFFER = 0xE000_0000
OEM = b"trapgate\0"


def frame_buffer_address(ports: Ports) -> int:
    """Guest-physical: base address 0 of the PCI function, or the place without PCI."""
    for slot in range(32):
        ports.write_port(PCI_ADDRESS, 4, PCI_ENABLED | slot << 11)
        if ports.read_port(PCI_DATA, 4) == QEMU_VGA:
            ports.write_port(PCI_ADDRESS, 4, PCI_ENABLED | slot << 11 | 0x10)
            return ports.read_port(PCI_DATA, 4) & ~15
    return ISA_FRAME_BUFFER


class Vbe:
    """The functions. `number` is the mode that is set, or None for one of the VGA's own."""

    def __init__(self, host: Host, display: Display, set_vga_mode: Callable[[int, bool], bool]) -> None:
        self._host, self._display, self._set_vga_mode = host, display, set_vga_mode
        self.number: int | None = None

    def call(self, call: Call) -> None:
        """INT 10h AH=4Fh."""
        functions: dict[int, Callable[[Call], bool]] = {
            0x00: self._information, 0x01: self._mode_information, 0x02: self._set_mode, 0x03: self._get_mode,
            0x05: self._window, 0x06: self._line_length, 0x07: self._display_start, 0x08: self._dac_width,
            0x09: self._palette,
        }  # fmt: skip
        function = functions.get(call.al)
        if function is None:
            self._host.note(f"{call.describe()}: not supported")
            call.ax = FAILED << 8  # not supported
            return
        done = function(call)
        call.ax = (DONE if done else FAILED) << 8 | SUPPORTED

    def _fits(self, number: int) -> bool:
        if number not in MODES:
            return False
        width, height, depth = MODES[number]
        return width * height * PIXEL_BYTES[depth] <= self._display.dispi(MEMORY) << 16

    def _information(self, call: Call) -> bool:
        place = call.es_selector << 16
        is_new = call.read(ES, call.di, 4) == b"VBE2"
        numbers = b"".join(number.to_bytes(2, "little") for number in MODES if self._fits(number)) + b"\xff\xff"
        block = bytearray(512 if is_new else 256)
        behind = 34 + len(numbers)
        struct.pack_into(
            "<4sHIIIH", block, 0, b"VESA", VERSION, place | call.di + behind & 0xFFFF, WIDE_DAC,
            place | call.di + 34 & 0xFFFF, self._display.dispi(MEMORY),
        )  # fmt: skip
        if is_new:
            struct.pack_into("<HIII", block, 20, 1, *[place | call.di + behind & 0xFFFF] * 3)
        block[34 : behind + len(OEM)] = numbers + OEM
        call.write(ES, call.di, bytes(block))
        return True

    def _mode_information(self, call: Call) -> bool:
        number = call.cx & NUMBER
        if not self._fits(number):
            return False
        width, height, depth = MODES[number]
        pitch = width * PIXEL_BYTES[depth]
        pages = max((self._display.dispi(MEMORY) << 16) // (pitch * height) - 1, 0)
        model = PACKED if depth == 8 else DIRECT
        block = struct.pack(
            "<HBBHHHHIHHHBBBBBBBBB", MODE_ATTRIBUTES, WINDOW[0], 0, WINDOW[1], 64, WINDOW[2], 0, 0, pitch,
            width, height, 8, 16, 1, depth, 1, model, 0, min(pages, 255), 1,
        )  # fmt: skip
        masks = bytes(MASKS.get(depth, (0,) * 8))
        block += (
            masks
            + b"\0"
            + struct.pack("<IIHHBB", frame_buffer_address(self._host.ports), 0, 0, pitch, min(pages, 255), 0)
        )
        call.write(ES, call.di, (block + masks).ljust(256, b"\0"))
        return True

    def _set_mode(self, call: Call) -> bool:
        number = call.bx & NUMBER
        keep = bool(call.bx & KEEP_MEMORY)
        if number < 0x100:
            return self._set_vga_mode(number, keep)
        if not self._fits(number):
            return False
        display = self._display
        width, height, depth = MODES[number]
        display.write_dispi(ENABLE, 0)
        for register, value in ((WIDTH, width), (HEIGHT, height), (DEPTH, depth)):
            display.write_dispi(register, value)
        flags = (FRAME_BUFFER if call.bx & LINEAR else 0) | (NO_CLEAR if keep else 0)
        display.write_dispi(ENABLE, ENABLED | flags)
        if depth == 8:
            display.write_colours(0, many_colours())
        self.number = call.bx & (NUMBER | LINEAR)
        return True

    def _get_mode(self, call: Call) -> bool:
        call.bx = self._vga_mode() if self.number is None else self.number
        return True

    def _vga_mode(self) -> int:
        return self._host.memory.read_u8(0x449)

    def _window(self, call: Call) -> bool:
        if self.number is None or call.bl:
            return False
        if call.bh == 0:
            self._display.write_dispi(BANK, call.dx)
        elif call.bh == 1:
            call.dx = self._display.dispi(BANK)
        return call.bh <= 1

    def _line_length(self, call: Call) -> bool:
        if self.number is None or call.bl > 3:
            return False
        display, size = self._display, PIXEL_BYTES[MODES[self.number & NUMBER][2]]
        if call.bl in (0, 2):
            dots = call.cx if call.bl == 0 else -(-call.cx // size)
            display.write_dispi(VIRTUAL_WIDTH, dots)
            if display.dispi(VIRTUAL_WIDTH) != dots:
                return False
        dots = display.dispi(VIRTUAL_WIDTH)
        if call.bl == 3:
            dots = (display.dispi(MEMORY) << 16) // (size * MODES[self.number & NUMBER][1])
        call.bx, call.cx = dots * size, dots
        call.dx = min((display.dispi(MEMORY) << 16) // (dots * size), 0xFFFF)
        return True

    def _display_start(self, call: Call) -> bool:
        display = self._display
        if self.number is None:
            return False
        if call.bl in (0, 0x80):
            display.write_dispi(X_OFFSET, call.cx)
            display.write_dispi(Y_OFFSET, call.dx)
            return (display.dispi(X_OFFSET), display.dispi(Y_OFFSET)) == (call.cx, call.dx)
        if call.bl == 1:
            call.bh = 0
            call.cx, call.dx = display.dispi(X_OFFSET), display.dispi(Y_OFFSET)
            return True
        return False

    def _dac_width(self, call: Call) -> bool:
        display = self._display
        if self.number is None or call.bl > 1:
            return False
        if call.bl == 0:
            flags = display.dispi(ENABLE) & ~DAC_8 | (DAC_8 if call.bh >= 8 else 0)
            display.write_dispi(ENABLE, flags | NO_CLEAR)
        call.bh = 8 if display.dispi(ENABLE) & DAC_8 else 6
        return True

    def _palette(self, call: Call) -> bool:
        """Entries are blue, green, red and a byte that nobody uses."""
        count, first = call.cx, call.dx
        if call.bl not in (0, 1, 0x80) or first + count > 256:
            return False
        if call.bl == 1:
            colours = self._display.read_colours(first, count)
            entries = b"".join(colours[n : n + 3][::-1] + b"\0" for n in range(0, len(colours), 3))
            call.write(ES, call.di, entries)
        else:
            entries = call.read(ES, call.di, 4 * count)
            colours = b"".join(entries[n : n + 3][::-1] for n in range(0, len(entries), 4))
            self._display.write_colours(first, colours)
        return True
