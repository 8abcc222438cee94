"""A board with a VGA, without a processor; and pictures to compare with."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

from devices.support import HZ, Pins
from trapgate.boards.pc import Pc, PcConfig
from trapgate.devices.vga.adapter import Vga
from trapgate.devices.vga.picture import Picture, picture
from trapgate.firmware.bios.display import Display
from trapgate.firmware.bios.font import font
from trapgate.firmware.bios.vga_modes import MODES
from trapgate.firmware.video_setup import VideoHost
from trapgate.lab.png import SIGNATURE, png
from trapgate.machine.clock import Clock
from trapgate.machine.console import MemoryConsole
from trapgate.machine.control import RunControl
from trapgate.machine.memory import PhysicalMemory

PICTURES = Path(__file__).parent / "pictures"
LINEAR = 0xE000_0000


class World:
    """A PC with a VGA without PCI, as a guest sees it: ports and memory."""

    def __init__(self, vga: str = "isa") -> None:
        self.clock = Clock(HZ)
        self.memory = PhysicalMemory(4 << 20, 4 << 30)
        config = PcConfig(vga=vga)  # type: ignore[arg-type]
        self.pc = Pc(self.memory, self.clock, RunControl(), Pins(), MemoryConsole(), config)
        assert self.pc.vga is not None
        self.vga: Vga = self.pc.vga
        self.display = Display(VideoHost(self.memory, self.pc.bus), self.vga)

    def mode(self, number: int) -> None:
        """Have the BIOS's registers of a mode."""
        self.display.set_mode(MODES[number])

    def inb(self, port: int) -> int:
        return self.pc.bus.read_port(port, 1)

    def outb(self, port: int, value: int) -> None:
        self.pc.bus.write_port(port, 1, value)

    def set(self, port: int, index: int, value: int) -> None:
        """A register behind an index, by one word as guests do it."""
        self.pc.bus.write_port(port, 2, value << 8 | index)

    def get(self, port: int, index: int) -> int:
        self.outb(port, index)
        return self.inb(port + 1)

    def dispi(self, register: int, value: int | None = None) -> int:
        """Write a register of the display interface, or read it."""
        bus = self.pc.bus
        bus.write_port(0x1CE, 2, register)
        if value is not None:
            bus.write_port(0x1CF, 2, value)
        return bus.read_port(0x1CF, 2)

    def linear_mode(self, width: int, height: int, depth: int, flags: int = 0x41) -> None:
        for register, value in ((4, 0), (1, width), (2, height), (3, depth), (4, flags)):
            self.dispi(register, value)

    def load(self, address: int, width: int = 1) -> int:
        """A load, from memory or the device."""
        if self.memory.is_ram(address, width):
            return int.from_bytes(self.memory.read(address, width), "little")
        return self.pc.bus.read_memory(address, width)

    def store(self, address: int, value: int, width: int = 1) -> None:
        if self.memory.is_ram(address, width):
            self.memory.write(address, value.to_bytes(width, "little"))
        else:
            self.pc.bus.write_memory(address, width, value)

    def picture(self) -> Picture:
        return picture(self.vga)

    def dot(self, x: int, y: int) -> tuple[int, int, int]:
        shown = self.picture()
        red, green, blue = shown.rgb[3 * (y * shown.width + x) :][:3]
        return red, green, blue


def read_png(path: Path) -> Picture:
    """A picture that lab/png.py has written."""
    data = path.read_bytes()
    assert data.startswith(SIGNATURE)
    at, parts = len(SIGNATURE), b""
    width = height = 0
    while at < len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        body = data[at + 8 : at + 8 + length]
        assert struct.unpack_from(">I", data, at + 8 + length)[0] == zlib.crc32(kind + body)
        if kind == b"IHDR":
            width, height, *rest = struct.unpack(">IIBBBBB", body)
            assert rest == [8, 2, 0, 0, 0]
        elif kind == b"IDAT":
            parts += body
        at += 12 + length
    rows, line = zlib.decompress(parts), 3 * width + 1
    assert len(rows) == line * height
    assert not any(rows[::line])
    return Picture(width, height, b"".join(rows[n + 1 : n + line] for n in range(0, len(rows), line)))


def assert_shows(shown: Picture, name: str, folder: Path) -> None:
    """`shown` is the stored picture `name`; else it is left in `folder` to look at."""
    stored = read_png(PICTURES / f"{name}.png")
    if shown != stored:
        (folder / f"{name}.png").write_bytes(png(shown))
    assert (shown.width, shown.height) == (stored.width, stored.height)
    assert shown.rgb == stored.rgb, f"see {folder / name}.png"


def text_of(shown: Picture) -> str:
    """The characters of an 80x25 text screen with the BIOS's font, read off its dots."""
    assert (shown.width, shown.height) == (720, 400)
    data = font(16)
    known = {data[16 * code : 16 * code + 16]: bytes((code,)).decode("cp437") for code in reversed(range(0x20, 256))}
    lines = []
    for row in range(25):
        line = ""
        for column in range(80):
            dots = [
                [shown.rgb[3 * (720 * y + x) : 3 * (720 * y + x) + 3] for x in range(9 * column, 9 * column + 8)]
                for y in range(16 * row, 16 * row + 16)
            ]
            background = shown.rgb[3 * (720 * 16 * row + 9 * column + 8) :][:3]
            glyph = bytes(sum((dot != background) << 7 - n for n, dot in enumerate(line_)) for line_ in dots)
            line += known.get(glyph, "?")
        lines.append(line.rstrip())
    return "\n".join(lines)
