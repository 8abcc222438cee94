"""The font is complete and legible: every printing character is drawn, and no two look the same."""

from __future__ import annotations

import pytest

from trapgate.firmware.bios.font import HEIGHTS, font

#: Characters that are blank, and those that look like others in code page 437.
BLANK = {0x00, 0x20, 0xFF}


@pytest.mark.parametrize("height", HEIGHTS)
def test_every_character_is_drawn_once(height: int) -> None:
    data = font(height)
    assert len(data) == 256 * height
    glyphs = {code: data[code * height : (code + 1) * height] for code in range(256)}
    assert {code for code, glyph in glyphs.items() if not any(glyph)} == BLANK
    seen: dict[bytes, list[int]] = {}
    for code, glyph in glyphs.items():
        if code not in BLANK:
            seen.setdefault(glyph, []).append(code)
    assert [codes for codes in seen.values() if len(codes) > 1] == []


@pytest.mark.parametrize("height", HEIGHTS)
def test_lines_and_boxes_meet(height: int) -> None:
    """A line that goes up begins in the first row, one to the right ends in the last column."""
    data = font(height)
    boxes = {
        0xB3: "ud",
        0xC4: "lr",
        0xBA: "ud",
        0xCD: "lr",
        0xC5: "udlr",
        0xCE: "udlr",
        0xDA: "dr",
        0xBC: "ul",
        0xC3: "udr",
    }
    for code, ways in boxes.items():
        glyph = data[code * height : (code + 1) * height]
        assert bool(glyph[0]) == ("u" in ways), hex(code)
        assert bool(glyph[-1]) == ("d" in ways), hex(code)
        assert any(row & 0x80 for row in glyph) == ("l" in ways), hex(code)
        assert any(row & 0x01 for row in glyph) == ("r" in ways), hex(code)
