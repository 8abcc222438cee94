"""The display as firmware hands it to a kernel that is loaded without a BIOS: text, or a mode that the command line
asks for; and what Linux is told of it.

Sources: Linux, Documentation/arch/x86/boot.rst (`vga=`) and zero-page.rst (screen_info, which
include/uapi/linux/screen_info.h lays out), Documentation/fb/vesafb.rst (mode numbers).
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass

from trapgate.firmware.bios.display import Display, Window
from trapgate.firmware.bios.host import Ports
from trapgate.firmware.bios.vbe import (
    DEPTH,
    ENABLE,
    ENABLED,
    FRAME_BUFFER,
    HEIGHT,
    MASKS,
    MEMORY,
    PIXEL_BYTES,
    WIDTH,
    frame_buffer_address,
)
from trapgate.firmware.bios.vbe import MODES as VESA_MODES
from trapgate.firmware.bios.vga_modes import MODES
from trapgate.machine.ram import Ram

TEXT_MODE = 3
TEXT, TEXT_SIZE, BLANK = 0xB8000, 0x8000, b"\x20\x07"
#: vga=NUMBER: VESA's modes are counted from here.
VESA_BASE = 0x200
_VGA_WORD = re.compile(r"(?:^|\s)vga=(0[xX][0-9a-fA-F]+|[0-9]+)(?=\s|$)")
#: screen_info.orig_video_isVGA.
VGA_TEXT, LINEAR = 0x01, 0x23
#: screen_info.orig_video_ega_bx as INT 10h AH=12h BL=10h gives it: colour, 256 KB.
EGA_INFORMATION = 0x0003
SCREEN_INFO_SIZE = 0x40


@dataclass(frozen=True)
class VideoHost:
    """The machine as firmware.bios.display needs it."""

    memory: Ram
    ports: Ports


def wanted_mode(command_line: str) -> int | None:
    """The VESA mode that `vga=` on a kernel's command line asks for, where there is one of that number."""
    found = _VGA_WORD.findall(command_line)
    number = int(found[-1], 0) - VESA_BASE if found else 0
    return number if number in VESA_MODES else None


def set_up_video(memory: Ram, ports: Ports, window: Window, command_line: str = "") -> bytes:
    """Program the VGA; Linux's screen_info of what it shows now (64 bytes)."""
    display = Display(VideoHost(memory, ports), window)
    number = wanted_mode(command_line)
    if number is not None:
        width, height, depth = VESA_MODES[number]
        if width * height * PIXEL_BYTES[depth] <= display.dispi(MEMORY) << 16:
            return _linear(display, ports, width, height, depth)
    mode = MODES[TEXT_MODE]
    display.set_mode(mode)
    window.write_window(TEXT, BLANK * (TEXT_SIZE // 2))
    fields = struct.pack("<BBHHBBBBHHBBH", 0, 0, 0, 0, TEXT_MODE, mode.columns, 0, 0, EGA_INFORMATION, 0, mode.rows,
                         VGA_TEXT, mode.character)  # fmt: skip
    return fields.ljust(SCREEN_INFO_SIZE, b"\0")


def _linear(display: Display, ports: Ports, width: int, height: int, depth: int) -> bytes:
    for register, value in ((WIDTH, width), (HEIGHT, height), (DEPTH, depth), (ENABLE, ENABLED | FRAME_BUFFER)):
        display.write_dispi(register, value)
    information = bytearray(SCREEN_INFO_SIZE)
    information[0x0F] = LINEAR
    struct.pack_into(
        "<HHHIIHHH", information, 0x12, width, height, depth, frame_buffer_address(ports),
        display.dispi(MEMORY), 0, 0, width * PIXEL_BYTES[depth],
    )  # fmt: skip
    information[0x26:0x2E] = bytes(MASKS.get(depth, (0,) * 8))
    struct.pack_into("<HH", information, 0x32, 1, 0)
    return bytes(information)
