"""The linear frame buffer as red, green and blue."""

from __future__ import annotations

from collections.abc import Callable

from trapgate.devices.vga.dispi import DEPTH, HEIGHT, WIDTH, Dispi
from trapgate.devices.vga.registers import VgaRegisters
from trapgate.machine.ram import DevicePages


def _table(value: Callable[[int], int]) -> bytes:
    return bytes(value(byte) & 0xFF for byte in range(256))


# 15 and 16 bits a dot: what the low and the high byte give to each channel of 8 bits.
_BLUE = _table(lambda low: (low & 31) << 3 | (low & 31) >> 2)
_RED_16 = _table(lambda high: high & 0xF8 | high >> 5)
_GREEN_16 = (_table(lambda low: low >> 5 << 2), _table(lambda high: (high & 7) << 5 | (high & 7) >> 1))
_RED_15 = _table(lambda high: (high & 0x7C) << 1 | high >> 4 & 7)
_GREEN_15 = (_table(lambda low: low >> 5 << 3 | low >> 7), _table(lambda high: (high & 3) << 6 | (high & 3) << 1))


def linear_rgb(dispi: Dispi, pages: DevicePages, registers: VgaRegisters) -> bytes:
    """The displayed part of the frame buffer, three bytes a dot."""
    width, height, depth = (dispi.registers[n] for n in (WIDTH, HEIGHT, DEPTH))
    line, pitch = width * dispi.pixel_bytes, dispi.pitch
    data = pages.read(dispi.first_byte, pitch * (height - 1) + line)
    if pitch != line:
        data = b"".join(data[n * pitch : n * pitch + line] for n in range(height))
    rgb = bytearray(3 * width * height)
    if depth == 8:
        for part in range(3):
            rgb[part::3] = data.translate(registers.channel(part))
    elif depth in (15, 16):
        low, high = data[0::2], data[1::2]
        green = _GREEN_15 if depth == 15 else _GREEN_16
        rgb[0::3] = high.translate(_RED_15 if depth == 15 else _RED_16)
        rgb[1::3] = _either(low.translate(green[0]), high.translate(green[1]))
        rgb[2::3] = low.translate(_BLUE)
    else:
        step = dispi.pixel_bytes
        for part in range(3):
            rgb[part::3] = data[2 - part :: step]
    return bytes(rgb)


def _either(a: bytes, b: bytes) -> bytes:
    return (int.from_bytes(a, "little") | int.from_bytes(b, "little")).to_bytes(len(a), "little")
