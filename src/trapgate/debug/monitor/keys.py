"""`sendkey`: QEMU's names of keys, as scan codes of set 2 that a keyboard sends.

Source: IBM PS/2 Hardware Interface Technical Reference, "Keyboards (101- and 102-Key)", scan code sets 1 and 2.
"""

from __future__ import annotations

from trapgate.debug.errors import CommandError
from trapgate.devices.ps2 import RELEASE_PREFIX, SET_2

PREFIX = 0xE0
#: Keys that one command presses.
MOST_KEYS = 16

#: Scan codes of set 1.
_PLAIN = {
    "esc": 0x01, "minus": 0x0C, "equal": 0x0D, "backspace": 0x0E, "tab": 0x0F, "bracket_left": 0x1A,
    "bracket_right": 0x1B, "ret": 0x1C, "ctrl": 0x1D, "semicolon": 0x27, "apostrophe": 0x28, "grave_accent": 0x29,
    "shift": 0x2A, "backslash": 0x2B, "comma": 0x33, "dot": 0x34, "slash": 0x35, "shift_r": 0x36, "asterisk": 0x37,
    "alt": 0x38, "spc": 0x39, "caps_lock": 0x3A, "num_lock": 0x45, "scroll_lock": 0x46, "kp_7": 0x47, "kp_8": 0x48,
    "kp_9": 0x49, "kp_subtract": 0x4A, "kp_4": 0x4B, "kp_5": 0x4C, "kp_6": 0x4D, "kp_add": 0x4E, "kp_1": 0x4F,
    "kp_2": 0x50, "kp_3": 0x51, "kp_0": 0x52, "kp_decimal": 0x53, "less": 0x56, "f11": 0x57, "f12": 0x58,
    **{f"f{n}": 0x3A + n for n in range(1, 11)},
    **{digit: code for code, digit in enumerate("1234567890", 0x02)},
    **{letter: code for row, first in (("qwertyuiop", 0x10), ("asdfghjkl", 0x1E), ("zxcvbnm", 0x2C))
       for code, letter in enumerate(row, first)},
}  # fmt: skip
#: Those with the prefix E0h.
_EXTENDED = {
    "ctrl_r": 0x1D, "alt_r": 0x38, "kp_enter": 0x1C, "kp_divide": 0x35, "home": 0x47, "up": 0x48, "pgup": 0x49,
    "left": 0x4B, "right": 0x4D, "end": 0x4F, "down": 0x50, "pgdn": 0x51, "insert": 0x52, "delete": 0x53,
    "meta_l": 0x5B, "meta_r": 0x5C, "menu": 0x5D,
}  # fmt: skip


def combination(text: str) -> bytes:
    """The bytes for keys that are pressed in order and released in the opposite one, such as `ctrl-alt-delete`.

    Raises CommandError.
    """
    names = text.split("-")
    if len(names) > MOST_KEYS:
        raise CommandError("too many keys")
    pressed, released = b"", b""
    for name in names:
        if name in _PLAIN and _PLAIN[name] in SET_2:
            prefix, code = b"", _PLAIN[name]
        elif name in _EXTENDED and _EXTENDED[name] in SET_2:
            prefix, code = bytes((PREFIX,)), _EXTENDED[name]
        else:
            raise CommandError(f"invalid parameter: {name}")
        key = bytes((SET_2[code],))
        pressed += prefix + key
        released = prefix + bytes((RELEASE_PREFIX,)) + key + released
    return pressed + released
