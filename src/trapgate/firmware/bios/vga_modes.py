"""What a VGA's registers hold in each of the BIOS's modes, and the colours that firmware loads.

Source: IBM PS/2 Hardware Interface Technical Reference, "Video Subsystem", register values for the modes; FreeVGA.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Mode:
    """A mode: `width` and `height` are in dots, `columns` and `rows` in characters of `character` rows of dots.

    `sequencer` begins with register 1, the others with register 0.
    """

    width: int
    height: int
    columns: int
    rows: int
    character: int
    misc: int
    sequencer: bytes
    crtc: bytes
    graphics: bytes
    attribute: bytes
    #: Guest-physical address of the window, and bytes that clearing it takes.
    window: int
    colours: int = 16

    @property
    def is_text(self) -> bool:
        """Whether it shows characters."""
        return not self.graphics[6] & 1


_TEXT_GRAPHICS = bytes.fromhex("0000000000100E00FF")
_PLANAR_GRAPHICS = bytes.fromhex("000000000000050FFF")
_TEXT_ATTRIBUTE = bytes.fromhex("000102030405140738393A3B3C3D3E3F0C000F0800")
_EGA_ATTRIBUTE = bytes.fromhex("000102030405140738393A3B3C3D3E3F01000F0000")
_CGA_ATTRIBUTE = bytes.fromhex("0001020304050607101112131415161701000F0000")

_TEXT_40 = Mode(
    360, 400, 40, 25, 16, 0x67, bytes.fromhex("08030002"),
    bytes.fromhex("2D2728902BA0BF1F004F0D0E000000009C8E8F141F96B9A3FF"), _TEXT_GRAPHICS, _TEXT_ATTRIBUTE, 0xB8000,
)  # fmt: skip
_TEXT_80 = Mode(
    720, 400, 80, 25, 16, 0x67, bytes.fromhex("00030002"),
    bytes.fromhex("5F4F50825581BF1F004F0D0E000000009C8E8F281F96B9A3FF"), _TEXT_GRAPHICS, _TEXT_ATTRIBUTE, 0xB8000,
)  # fmt: skip
_CGA_4 = Mode(
    320, 200, 40, 25, 8, 0x63, bytes.fromhex("09030002"),
    bytes.fromhex("2D2728902B80BF1F00C10000000000009C8E8F140096B9A2FF"),
    bytes.fromhex("0000000000300F0FFF"), bytes.fromhex("001315170204060710111213141516170100030000"),
    0xB8000, 4,
)  # fmt: skip
_CGA_2 = Mode(
    640, 200, 80, 25, 8, 0x63, bytes.fromhex("01010006"),
    bytes.fromhex("5F4F50825480BF1F00C10000000000009C8E8F280096B9C2FF"),
    bytes.fromhex("0000000000000D0FFF"), bytes.fromhex("001717171717171717171717171717170100010000"),
    0xB8000, 2,
)  # fmt: skip
_EGA_320 = Mode(
    320, 200, 40, 25, 8, 0x63, bytes.fromhex("090F0006"),
    bytes.fromhex("2D2728902B80BF1F00C00000000000009C8E8F140096B9E3FF"), _PLANAR_GRAPHICS, _CGA_ATTRIBUTE, 0xA0000,
)  # fmt: skip
_EGA_640 = Mode(
    640, 200, 80, 25, 8, 0x63, bytes.fromhex("010F0006"),
    bytes.fromhex("5F4F50825480BF1F00C00000000000009C8E8F280096B9E3FF"), _PLANAR_GRAPHICS, _CGA_ATTRIBUTE, 0xA0000,
)  # fmt: skip
_EGA_350 = Mode(
    640, 350, 80, 25, 14, 0xA3, bytes.fromhex("010F0006"),
    bytes.fromhex("5F4F50825480BF1F004000000000000083855D280F63BAE3FF"),
    _PLANAR_GRAPHICS, _EGA_ATTRIBUTE, 0xA0000,
)  # fmt: skip
_VGA_2 = Mode(
    640, 480, 80, 30, 16, 0xE3, bytes.fromhex("010F0006"),
    bytes.fromhex("5F4F508254800B3E0040000000000000EA8CDF2800E704E3FF"),
    _PLANAR_GRAPHICS, bytes.fromhex("003F003F003F003F003F003F003F003F01000F0000"), 0xA0000, 2,
)  # fmt: skip
_VGA_16 = Mode(
    640, 480, 80, 30, 16, 0xE3, bytes.fromhex("010F0006"),
    bytes.fromhex("5F4F508254800B3E0040000000000000EA8CDF2800E704E3FF"), _PLANAR_GRAPHICS, _EGA_ATTRIBUTE, 0xA0000,
)  # fmt: skip
_VGA_256 = Mode(
    320, 200, 40, 25, 8, 0x63, bytes.fromhex("010F000E"),
    bytes.fromhex("5F4F50825480BF1F00410000000000009C8E8F284096B9A3FF"),
    bytes.fromhex("000000000040050FFF"), bytes.fromhex("000102030405060708090A0B0C0D0E0F41000F0000"), 0xA0000, 256,
)  # fmt: skip

#: Mode 7 is that of mode 3 in all but its number: there is no monochrome display.
MODES = {
    0x00: _TEXT_40, 0x01: _TEXT_40, 0x02: _TEXT_80, 0x03: _TEXT_80, 0x04: _CGA_4, 0x05: _CGA_4, 0x06: _CGA_2,
    0x07: _TEXT_80, 0x0D: _EGA_320, 0x0E: _EGA_640, 0x10: _EGA_350, 0x11: _VGA_2, 0x12: _VGA_16, 0x13: _VGA_256,
}  # fmt: skip

_GREYS = (0, 5, 8, 11, 14, 17, 20, 24, 28, 32, 36, 40, 45, 50, 56, 63)
#: Steps from the least to the most of a channel: three intensities, each in three saturations.
_STEPS = (
    (0, 16, 31, 47, 63), (31, 39, 47, 55, 63), (45, 49, 54, 58, 63),
    (0, 7, 14, 21, 28), (14, 17, 21, 24, 28), (20, 22, 24, 26, 28),
    (0, 4, 8, 12, 16), (8, 10, 12, 14, 16), (11, 12, 13, 15, 16),
)  # fmt: skip


def _ega_colours() -> bytes:
    """64 colours: bits 0 to 2 are two thirds of blue, green and red, bits 3 to 5 a third."""
    return b"".join(bytes(42 * (n >> bit & 1) + 21 * (n >> bit + 3 & 1) for bit in (2, 1, 0)) for n in range(64))


def _cga_colours() -> bytes:
    """The 16 colours of modes of 200 lines, bright ones from 10h on; dark yellow is brown."""
    colours = bytearray()
    for n in range(64):
        bright = 21 * (n >> 4 & 1)
        rgb = [42 * (n >> bit & 1) + bright for bit in (2, 1, 0)]
        if n & 0x17 == 6:
            rgb[1] = 21
        colours += bytes(rgb)
    return bytes(colours)


def many_colours() -> bytes:
    """256 colours: the 16 of CGA, 16 greys, nine wheels of 24 hues from blue over red and green; the rest black."""
    cga = _cga_colours()
    colours = bytearray(cga[:24] + cga[48:72])
    for grey in _GREYS:
        colours += bytes((grey,) * 3)
    for steps in _STEPS:
        low, high = steps[0], steps[4]
        up, down = steps[:4], steps[:0:-1]
        wheel = [
            *((s, low, high) for s in up), *((high, low, s) for s in down), *((high, s, low) for s in up),
            *((s, high, low) for s in down), *((low, high, s) for s in up), *((low, s, high) for s in down),
        ]  # fmt: skip
        for rgb in wheel:
            colours += bytes(rgb)
    return bytes(colours).ljust(768, b"\0")


def colours_of(mode: Mode) -> bytes:
    """What goes into the DAC from place 0 on: red, green and blue of 6 bits each."""
    if mode.colours == 256:
        return many_colours()
    return _cga_colours() if mode.height == 200 else _ega_colours()
