"""The display's fonts, 8 dots wide and 8, 14 or 16 high, made of the drawings in `glyphs.py`.

The taller ones repeat rows of the letters, so that strokes stay as wide as they are; lines and boxes are drawn anew
for each height, because they must meet those above and below.
"""

from __future__ import annotations

from functools import cache

from trapgate.firmware.bios.glyphs import ACCENTS, COMPOSED, DRAWINGS

ROWS = 8
#: For each height: how many rows are empty above, and how often each of the eight rows is repeated.
_STRETCH = {8: (0, (1,) * 8), 14: (1, (1, 2, 1, 2, 1, 2, 1, 2)), 16: (2, (1, 2, 1, 2, 1, 2, 1, 2))}
HEIGHTS = tuple(_STRETCH)

#: Box drawing, B3h to DAh: lines up, down, left and right: none, a single or a double one.
_BOXES = {
    0xB3: "1100", 0xB4: "1110", 0xB5: "1120", 0xB6: "2210", 0xB7: "0210", 0xB8: "0120", 0xB9: "2220", 0xBA: "2200",
    0xBB: "0220", 0xBC: "2020", 0xBD: "2010", 0xBE: "1020", 0xBF: "0110", 0xC0: "1001", 0xC1: "1011", 0xC2: "0111",
    0xC3: "1101", 0xC4: "0011", 0xC5: "1111", 0xC6: "1102", 0xC7: "2201", 0xC8: "2002", 0xC9: "0202", 0xCA: "2022",
    0xCB: "0222", 0xCC: "2202", 0xCD: "0022", 0xCE: "2222", 0xCF: "1022", 0xD0: "2011", 0xD1: "0122", 0xD2: "0211",
    0xD3: "2001", 0xD4: "1002", 0xD5: "0102", 0xD6: "0201", 0xD7: "2211", 0xD8: "1122", 0xD9: "1010", 0xDA: "0101",
}  # fmt: skip
#: Shades: the rows of dots by turns.
_SHADES = {0xB0: (0x22, 0x88), 0xB1: (0x55, 0xAA), 0xB2: (0xDD, 0x77)}


@cache
def font(height: int) -> bytes:
    """256 characters of `height` (8, 14 or 16) bytes each; a byte is a row, its highest bit the left dot."""
    glyphs = _small()
    above, repeats = _STRETCH[height]
    data = bytearray()
    for code in range(256):
        drawn = _drawn_anew(code, height)
        if drawn is None:
            rows = [0] * above
            for row, times in zip(glyphs[code], repeats, strict=True):
                rows += [row] * times
            drawn = bytes((rows + [0] * height)[:height])
        data += drawn
    return bytes(data)


def _row(text: str) -> int:
    return int(text.replace(".", "0").replace("#", "1"), 2) << 1


def _small() -> list[bytes]:
    """The characters of eight rows, but for those that are drawn for each height."""
    glyphs = [bytes(ROWS)] * 256
    for first, drawing in DRAWINGS.items():
        rows = [line.split() for line in drawing.strip().split("\n")]
        for n in range(8):
            glyphs[first + n] = bytes(_row(row[n]) for row in rows)
    for code, letter, accent in COMPOSED:
        glyphs[code] = _with_accent(glyphs[ord(letter)], letter, accent)
    return glyphs


def _with_accent(letter: bytes, name: str, accent: str) -> bytes:
    marks = [_row(text) for text in ACCENTS[accent].split()]
    rows = bytearray(letter)
    if accent == "cedilla":
        rows[7] = marks[1]
        return bytes(rows)
    if name.isupper():
        # A capital gives up one of the rows that repeat, and the accent one of its own.
        return bytes((marks[0], *rows[0:1], *rows[2:8]))[:7] + b"\0" if name != "E" else bytes((marks[0], *rows[1:8]))
    rows[0], rows[1] = marks
    return bytes(rows)


def _drawn_anew(code: int, height: int) -> bytes | None:
    if code in _SHADES:
        return bytes(_SHADES[code][n & 1] for n in range(height))
    if code in _BOXES:
        return _box(_BOXES[code], height)
    half = height // 2
    if code == 0xDB:
        return b"\xff" * height
    if code == 0xDC:
        return bytes(half) + b"\xff" * (height - half)
    if code == 0xDD:
        return b"\xf0" * height
    if code == 0xDE:
        return b"\x0f" * height
    if code == 0xDF:
        return b"\xff" * half + bytes(height - half)
    return None


def _box(lines: str, height: int) -> bytes:
    """Lines that meet in the middle. Double ones are two lines around it; where they meet others they are open."""
    up, down, left, right = (int(c) for c in lines)
    middle = height // 2 - 1
    # Where horizontal lines lie, and the columns of vertical ones.
    levels = {0: (), 1: (middle,), 2: (middle - 1, middle + 1)}
    columns = {0: (), 1: (3,), 2: (2, 4)}
    across, along = max(left, right), max(up, down)
    dots = [[False] * 8 for _ in range(height)]

    def vertical(kind: int, first: int, last: int) -> None:
        for column in columns[kind]:
            for row in range(first, last):
                dots[row][column] = True

    def horizontal(kind: int, first: int, last: int) -> None:
        for level in levels[kind]:
            for column in range(first, last):
                dots[level][column] = True

    top = min(levels[across], default=middle)
    bottom = max(levels[across], default=middle)
    near, far = min(columns[along], default=3), max(columns[along], default=3)
    vertical(up, 0, bottom + 1)
    vertical(down, top, height)
    horizontal(left, 0, far + 1)
    horizontal(right, near, 8)
    if across == along == 2:
        _open_middle(dots, (up, down, left, right), (top, bottom), (near, far))
    return bytes(sum(dot << 7 - n for n, dot in enumerate(row)) for row in dots)


def _open_middle(
    dots: list[list[bool]], lines: tuple[int, int, int, int], levels: tuple[int, int], columns: tuple[int, int]
) -> None:
    """Two double lines that meet: no stroke crosses from one into the space between the other's two."""
    up, down, left, right = lines
    (top, bottom), (near, far) = levels, columns
    if up and right:
        dots[top][far - 1] = False
    for level, side in ((top, up), (bottom, down)):
        if side and left and right:
            dots[level][near + 1] = False
    for column, side in ((near, left), (far, right)):
        if side and up and down:
            dots[top + 1][column] = False
