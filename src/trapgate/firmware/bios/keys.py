"""What a key gives in the BIOS's keyboard buffer, by its scan code of set 1: scan code above, character below.

Source: IBM PC AT Technical Reference, "Characters, Keystrokes, and Colors" and BIOS listing, INT 09h (tables K8 to
K15); codes of the 101-key keyboard (INT 16h AH=10h) after Ralf Brown's Interrupt List, table 00006.
"""

from __future__ import annotations

from dataclasses import dataclass

# Modifier keys.
CONTROL, LEFT_SHIFT, RIGHT_SHIFT, ALT = 0x1D, 0x2A, 0x36, 0x38
CAPS_LOCK, NUM_LOCK, SCROLL_LOCK, INSERT = 0x3A, 0x45, 0x46, 0x52
DELETE = 0x53


@dataclass(frozen=True, slots=True)
class Key:
    """A key's words plain, with Shift, with Ctrl and with Alt; None: nothing goes into the buffer."""

    plain: int | None
    shift: int | None
    control: int | None
    alt: int | None
    letter: bool = False


def _word(scan: int, character: str | int) -> int:
    return scan << 8 | (ord(character) if isinstance(character, str) else character)


def _character_keys() -> dict[int, Key]:
    keys: dict[int, Key] = {}
    # Alt with the digit row gives 78h to 83h.
    for position, (plain, shift) in enumerate(zip("1234567890-=", "!@#$%^&*()_+", strict=True)):
        scan = 0x02 + position
        control = {"2": 0x0300, "6": _word(scan, 0x1E), "-": _word(scan, 0x1F)}.get(plain)
        keys[scan] = Key(_word(scan, plain), _word(scan, shift), control, 0x7800 + (position << 8))
    for first, letters in ((0x10, "qwertyuiop"), (0x1E, "asdfghjkl"), (0x2C, "zxcvbnm")):
        for scan, letter in enumerate(letters, first):
            control = _word(scan, ord(letter) & 0x1F)
            keys[scan] = Key(_word(scan, letter), _word(scan, letter.upper()), control, scan << 8, letter=True)
    signs = {
        0x1A: "[{",
        0x1B: "]}",
        0x27: ";:",
        0x28: "'\"",
        0x29: "`~",
        0x2B: "\\|",
        0x33: ",<",
        0x34: ".>",
        0x35: "/?",
    }
    controls = {0x1A: 0x1B, 0x1B: 0x1D, 0x2B: 0x1C}
    for scan, pair in signs.items():
        plain, shift = pair[0], pair[1]
        control = _word(scan, controls[scan]) if scan in controls else None
        keys[scan] = Key(_word(scan, plain), _word(scan, shift), control, scan << 8)
    return keys


def _other_keys() -> dict[int, Key]:
    keys = {
        0x01: Key(0x011B, 0x011B, 0x011B, 0x0100),
        0x0E: Key(0x0E08, 0x0E08, 0x0E7F, 0x0E00),
        0x0F: Key(0x0F09, 0x0F00, 0x9400, 0xA500),
        0x1C: Key(0x1C0D, 0x1C0D, 0x1C0A, 0x1C00),
        0x39: Key(0x3920, 0x3920, 0x3920, 0x3920),
        0x37: Key(0x372A, 0x372A, 0x9600, 0x3700),
        0x4A: Key(0x4A2D, 0x4A2D, 0x8E00, 0x4A00),
        0x4E: Key(0x4E2B, 0x4E2B, 0x9000, 0x4E00),
        0x57: Key(0x8500, 0x8700, 0x8900, 0x8B00),
        0x58: Key(0x8600, 0x8800, 0x8A00, 0x8C00),
    }
    for number in range(10):
        scan = 0x3B + number
        keys[scan] = Key(scan << 8, 0x5400 + (number << 8), 0x5E00 + (number << 8), 0x6800 + (number << 8))
    # The keypad: with Shift or Num Lock digits.
    controls = {0x47: 0x77, 0x48: 0x8D, 0x49: 0x84, 0x4B: 0x73, 0x4C: 0x8F, 0x4D: 0x74}
    controls |= {0x4F: 0x75, 0x50: 0x91, 0x51: 0x76, 0x52: 0x92, 0x53: 0x93}
    for scan, digit in zip(
        (0x47, 0x48, 0x49, 0x4B, 0x4C, 0x4D, 0x4F, 0x50, 0x51, 0x52, 0x53), "7894561230.", strict=True
    ):
        plain = None if scan == 0x4C else scan << 8
        keys[scan] = Key(plain, _word(scan, digit), controls[scan] << 8, None)
    return keys


KEYS = _character_keys() | _other_keys()

#: Keys of the keypad whose Shift is turned round by Num Lock.
KEYPAD = frozenset({0x47, 0x48, 0x49, 0x4B, 0x4C, 0x4D, 0x4F, 0x50, 0x51, 0x52, 0x53})

#: With the prefix E0h: the grey cursor keys have E0h instead of a character; Alt gives codes of their own.
EXTENDED_ALT = {0x47: 0x97, 0x48: 0x98, 0x49: 0x99, 0x4B: 0x9B, 0x4D: 0x9D, 0x4F: 0x9F, 0x50: 0xA0, 0x51: 0xA1,
                0x52: 0xA2, 0x53: 0xA3}  # fmt: skip
KEYPAD_ENTER = 0x1C
KEYPAD_SLASH = 0x35
EXTENDED_ENTER = Key(0xE00D, 0xE00D, 0xE00A, 0xA600)
EXTENDED_SLASH = Key(0xE02F, 0xE02F, 0x9500, 0xA400)


def extended_key(scan: int) -> Key | None:
    """The key with prefix E0h."""
    if scan == KEYPAD_ENTER:
        return EXTENDED_ENTER
    if scan == KEYPAD_SLASH:
        return EXTENDED_SLASH
    if scan in EXTENDED_ALT:
        grey = scan << 8 | 0xE0
        control = KEYS[scan].control
        return Key(grey, grey, None if control is None else control | 0xE0, EXTENDED_ALT[scan] << 8)
    return None
