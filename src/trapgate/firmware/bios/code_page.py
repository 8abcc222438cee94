"""Code page 437, the characters of a PC's display, as UTF-8.

Python's codec has 80h to FFh; below 20h it gives control codes where the display has pictures (IBM PC AT Technical
Reference, "Characters, Keystrokes, and Colors").
"""

from __future__ import annotations

_PICTURES = " ☺☻♥♦♣♠•◘○◙♂♀♪♫☼►◄↕‼¶§▬↨↑↓→←∟↔▲▼"

GLYPHS = tuple(
    (_PICTURES[code] if code < 0x20 else "⌂" if code == 0x7F else bytes((code,)).decode("cp437")).encode()
    for code in range(256)
)
