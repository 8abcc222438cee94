"""Keys as viewers name them (keysyms) to scan codes of set 2, by the place that a key has on a US keyboard.

A viewer reports modifiers as keys of their own, so `!` and `1` are the same key here.

Sources: X Window System Protocol, appendix A, "Keysym encoding"; RFC 6143, 7.5.4; IBM PS/2 Hardware Interface Technical
Reference, "Keyboards (101- and 102-Key)".
"""

from __future__ import annotations

from trapgate.devices.keystrokes import ROWS
from trapgate.devices.ps2 import RELEASE_PREFIX, SET_2

PREFIX = 0xE0
#: Pause has no release: this is all of it, in set 2.
PAUSE_KEYSYM = 0xFF13
PAUSE = bytes.fromhex("e11477e1f014f077")

#: Keysym to scan code of set 1; PREFIX << 8 where that goes before it.
_NAMED = {
    0xFF08: 0x0E, 0xFF09: 0x0F, 0xFF0D: 0x1C, 0xFF1B: 0x01, 0xFE20: 0x0F,  # BackSpace, Tab, Return, Escape, back tab
    0xFF50: 0xE047, 0xFF51: 0xE04B, 0xFF52: 0xE048, 0xFF53: 0xE04D, 0xFF54: 0xE050, 0xFF55: 0xE049, 0xFF56: 0xE051,
    0xFF57: 0xE04F, 0xFF63: 0xE052, 0xFFFF: 0xE053,  # Home, arrows, page up and down, End, Insert, Delete
    0xFF14: 0x46, 0xFF61: 0xE037, 0xFF7F: 0x45, 0xFFE5: 0x3A,  # Scroll Lock, Print, Num Lock, Caps Lock
    0xFFE1: 0x2A, 0xFFE2: 0x36, 0xFFE3: 0x1D, 0xFFE4: 0xE01D,  # Shift, Control
    0xFFE9: 0x38, 0xFFEA: 0xE038, 0xFFE7: 0x38, 0xFFE8: 0xE038, 0xFE03: 0xE038,  # Alt, Meta, level 3
    0xFFEB: 0xE05B, 0xFFEC: 0xE05C, 0xFF67: 0xE05D,  # Super, Menu
    **{0xFFBE + n: 0x3B + n for n in range(10)}, 0xFFC8: 0x57, 0xFFC9: 0x58,  # F1 to F12
    0xFF8D: 0xE01C, 0xFFAA: 0x37, 0xFFAB: 0x4E, 0xFFAD: 0x4A, 0xFFAE: 0x53, 0xFFAF: 0xE035,  # keypad
    0xFFB0: 0x52, 0xFFB1: 0x4F, 0xFFB2: 0x50, 0xFFB3: 0x51, 0xFFB4: 0x4B, 0xFFB5: 0x4C, 0xFFB6: 0x4D, 0xFFB7: 0x47,
    0xFFB8: 0x48, 0xFFB9: 0x49,
    0xFF95: 0x47, 0xFF96: 0x4B, 0xFF97: 0x48, 0xFF98: 0x4D, 0xFF99: 0x50, 0xFF9A: 0x49, 0xFF9B: 0x51, 0xFF9C: 0x4F,
    0xFF9D: 0x4C, 0xFF9E: 0x52, 0xFF9F: 0x53,
}  # fmt: skip


def _keys() -> dict[int, int]:
    keys = dict(_NAMED)
    for first, plain, shifted in ROWS:
        for characters in (plain, shifted):
            keys |= {ord(character): first + n for n, character in enumerate(characters)}
    return keys


_KEYS = _keys()


def scan_codes(keysym: int, down: bool) -> bytes:
    """What a keyboard sends, in set 2, when the key is pressed or released; nothing for a key that it does not have."""
    if keysym == PAUSE_KEYSYM:
        return PAUSE if down else b""
    code = _KEYS.get(keysym)
    if code is None:
        return b""
    prefix = bytes((PREFIX,)) if code >> 8 else b""
    return prefix + (b"" if down else bytes((RELEASE_PREFIX,))) + bytes((SET_2[code & 0xFF],))
