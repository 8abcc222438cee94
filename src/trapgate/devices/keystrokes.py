"""What a person's terminal sends, as keys of a 101-key keyboard with the US layout.

Sources: ECMA-48 and XTerm Control Sequences (keys that send escape sequences); IBM PS/2 Hardware Interface Technical
Reference, "Keyboards (101- and 102-Key)", scan code set 2.
"""

from __future__ import annotations

from trapgate.devices.ps2 import RELEASE_PREFIX, SET_2

ESCAPE = 0x1B
PREFIX = 0xE0

# Scan codes of set 1.
_CONTROL, _SHIFT, _ALT = 0x1D, 0x2A, 0x38
_ESCAPE_KEY, _BACKSPACE, _TAB, _ENTER = 0x01, 0x0E, 0x0F, 0x1C
ROWS = (
    (0x02, "1234567890-=", "!@#$%^&*()_+"),
    (0x10, "qwertyuiop[]", "QWERTYUIOP{}"),
    (0x1E, "asdfghjkl;'`", 'ASDFGHJKL:"~'),
    (0x2B, "\\zxcvbnm,./", "|ZXCVBNM<>?"),
    (0x39, " ", ""),
)
#: Final byte or number of an escape sequence: scan code, and whether the key has the prefix E0h.
_LETTERS = {b"A": 0x48, b"B": 0x50, b"C": 0x4D, b"D": 0x4B, b"H": 0x47, b"F": 0x4F}
_FUNCTIONS = {b"P": 0x3B, b"Q": 0x3C, b"R": 0x3D, b"S": 0x3E}
_NUMBERS = {1: 0x47, 2: 0x52, 3: 0x53, 4: 0x4F, 5: 0x49, 6: 0x51, 7: 0x47, 8: 0x4F}
_NUMBERED_FUNCTIONS = {
    11: 0x3B, 12: 0x3C, 13: 0x3D, 14: 0x3E, 15: 0x3F, 17: 0x40, 18: 0x41, 19: 0x42, 20: 0x43, 21: 0x44, 23: 0x57,
    24: 0x58,
}  # fmt: skip


def _characters() -> dict[int, tuple[int, int | None]]:
    """Byte: scan code, and the modifier that is held (or None)."""
    table: dict[int, tuple[int, int | None]] = {}
    for first, plain, shifted in ROWS:
        table |= {ord(c): (scan, None) for scan, c in enumerate(plain, first)}
        table |= {ord(c): (scan, _SHIFT) for scan, c in enumerate(shifted, first)}
    for letter in "abcdefghijklmnopqrstuvwxyz[\\]":
        table[ord(letter) & 0x1F] = (table[ord(letter)][0], _CONTROL)
    table |= {0x1E: (table[ord("6")][0], _CONTROL), 0x1F: (table[ord("-")][0], _CONTROL)}
    table |= {0x00: (table[ord("2")][0], _CONTROL), 0x08: (_BACKSPACE, None), 0x7F: (_BACKSPACE, None)}
    table |= {0x09: (_TAB, None), 0x0A: (_ENTER, None), 0x0D: (_ENTER, None), ESCAPE: (_ESCAPE_KEY, None)}
    return table


_CHARACTERS = _characters()


def _stroke(scan: int, modifier: int | None = None, extended: bool = False) -> bytes:
    """Press and release, with a modifier held around it."""
    prefix = bytes((PREFIX,)) if extended else b""
    code = bytes((SET_2[scan],))
    stroke = prefix + code + prefix + bytes((RELEASE_PREFIX,)) + code
    if modifier is None:
        return stroke
    held = bytes((SET_2[modifier],))
    return held + stroke + bytes((RELEASE_PREFIX,)) + held


def _sequence(data: bytes, start: int) -> tuple[bytes, int] | None:
    """The key of the escape sequence at `start`, and where it ends; None when it is none."""
    introducer, at = data[start + 1 : start + 2], start + 2
    if introducer not in (b"[", b"O"):
        return None
    number = 0
    while data[at : at + 1].isdigit():
        number = number * 10 + data[at] - 0x30
        at += 1
    final = data[at : at + 1]
    if final in _LETTERS and not number:
        return _stroke(_LETTERS[final], extended=True), at + 1
    if final in _FUNCTIONS and introducer == b"O":
        return _stroke(_FUNCTIONS[final]), at + 1
    if final == b"~" and number in _NUMBERS:
        return _stroke(_NUMBERS[number], extended=True), at + 1
    if final == b"~" and number in _NUMBERED_FUNCTIONS:
        return _stroke(_NUMBERED_FUNCTIONS[number]), at + 1
    return None


def keystrokes(data: bytes) -> list[bytes]:
    """One entry per key: its scan codes of set 2, pressed and released. What no key gives is left out.

    An escape sequence must be whole in `data`, as terminals send it; ESC and another character is that key with Alt,
    ESC alone the key Esc.
    """
    strokes: list[bytes] = []
    at = 0
    while at < len(data):
        if data[at] == ESCAPE and at + 1 < len(data):
            found = _sequence(data, at)
            if found is not None:
                stroke, at = found
                strokes.append(stroke)
                continue
            scan, modifier = _CHARACTERS.get(data[at + 1], (0, None))
            if scan and modifier is None and data[at + 1] not in (ESCAPE, 0x5B):
                strokes.append(_stroke(scan, _ALT))
                at += 2
                continue
        if data[at] in _CHARACTERS:
            strokes.append(_stroke(*_CHARACTERS[data[at]]))
        at += 1
    return strokes
