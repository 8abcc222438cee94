"""Screens of our own guests are the stored pictures, under every kind of technique; and QEMU shows the same."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from trapgate.devices.vga.picture import Picture
from trapgate.engine.handlers import HandlerStore

from .guests import CODES, draw, draw_on_qemu
from .world import World, assert_shows

pytestmark = pytest.mark.engine
ASSEMBLER = pytest.mark.skipif(shutil.which("nasm") is None, reason="NASM is not installed")
PEER = pytest.mark.skipif(shutil.which("qemu-system-x86_64") is None, reason="qemu-system-x86_64 is not installed")


@ASSEMBLER
@pytest.mark.parametrize("name", CODES)
def test_the_screen_is_the_stored_picture(name: str, tmp_path: Path, handlers: HandlerStore) -> None:
    shown, sent, _ = draw(CODES[name], tmp_path, handlers)
    assert_shows(shown, name, tmp_path)
    assert sent == ("004f 004f done" if name == "linear" else "done") or name == "text"


@ASSEMBLER
@pytest.mark.parametrize("technique", ["nested-tagged", "shadow-tagged", "software"])
@pytest.mark.parametrize("name", ["text", "linear"])
def test_virtual_machines_show_the_same(name: str, technique: str, tmp_path: Path, handlers: HandlerStore) -> None:
    shown, _, machine = draw(CODES[name], tmp_path, handlers, technique)
    assert_shows(shown, name, tmp_path)
    if name == "linear":
        # The frame buffer is mapped: no access to it exits.
        assert machine.board.bus.memory_accesses["vga"] < 1000


def _doubled(shown: Picture, width: int, height: int) -> bytes:
    """A picture as large as QEMU shows it: rows and dots of small modes twice."""
    across, down, line = width // shown.width, height // shown.height, 3 * shown.width
    rows = []
    for y in range(shown.height):
        row = shown.rgb[y * line : (y + 1) * line]
        rows += [b"".join(row[n : n + 3] * across for n in range(0, line, 3))] * down
    return b"".join(rows)


@ASSEMBLER
@PEER
@pytest.mark.parametrize("name", ["planes", "colours", "linear"])
def test_qemu_shows_the_same(name: str, tmp_path: Path, handlers: HandlerStore) -> None:
    """Within what its two ways to make 8 bits of 6 differ."""
    shown, _, _ = draw(CODES[name], tmp_path, handlers)
    theirs = draw_on_qemu(CODES[name], tmp_path)
    ours = _doubled(shown, theirs.width, theirs.height)
    assert len(ours) == len(theirs.rgb)
    assert max(abs(a - b) for a, b in zip(ours, theirs.rgb, strict=True)) <= 3


def test_the_split_screen_pans_and_begins_again() -> None:
    """PS/2 HITR, line compare register: below it memory is shown from 0 on."""
    world = World()
    world.mode(0x13)
    world.set(0x3D4, 0x11, 0)
    for address, colour in ((0xA0000, 0x0C), (0xA0000 + 320 * 40, 0x0A)):
        for n in range(320):
            world.store(address + n, colour)
    start = 320 * 40 // 4
    world.set(0x3D4, 0x0C, start >> 8)
    world.set(0x3D4, 0x0D, start & 0xFF)
    world.set(0x3D4, 0x18, 199)
    world.set(0x3D4, 0x07, world.get(0x3D4, 0x07) & ~0x10)
    world.set(0x3D4, 0x09, world.get(0x3D4, 0x09) & ~0x40)
    assert world.dot(5, 0) == (85, 255, 85)
    assert world.dot(5, 99) == (0, 0, 0)
    assert world.dot(5, 100) == (255, 85, 85)


def test_fifty_rows_with_a_font_of_eight() -> None:
    from trapgate.firmware.bios.font import font

    world = World()
    world.mode(3)
    world.display.load_font(font(8), 8)
    world.display.set_character_height(8, 400)
    for n in range(80 * 50):
        world.store(0xB8000 + 2 * n, 0x0700 | (0xDB if n == 80 * 49 else 0x20), 2)
    assert world.dot(3, 399) == (170, 170, 170)
    assert world.dot(3, 391) == (0, 0, 0)


def test_blanked_and_unprogrammed_screens_are_black() -> None:
    world = World()
    assert (world.picture().width, world.picture().height) == (640, 400)
    world.mode(3)
    world.store(0xB8000, 0xFFDB, 2)
    assert any(world.picture().rgb)
    world.set(0x3C4, 1, 0x20)
    assert not any(world.picture().rgb)
