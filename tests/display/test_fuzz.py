"""Anything a guest can do to the display, the keyboard and the mouse: no exception, values in range, RAM untouched.

`TRAPGATE_DEVICE_FUZZ=1000` makes 100,000 operations of it.
"""

from __future__ import annotations

import os

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from trapgate.devices.vga.picture import picture, shown_bytes

from .world import LINEAR, World

EXAMPLES = int(os.environ.get("TRAPGATE_DEVICE_FUZZ", "15"))
LONG = settings(
    max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)
BYTES = st.one_of(st.integers(0, 255), st.sampled_from([0, 1, 3, 8, 0x0F, 0x20, 0x40, 0x80, 0xFF]))
INDEXED = st.sampled_from([0x3C4, 0x3CE, 0x3D4, 0x3B4])
PORTS = st.sampled_from([*range(0x3C0, 0x3D0), 0x3B4, 0x3B5, 0x3BA, 0x3D4, 0x3D5, 0x3DA, 0x60, 0x64, 0x60, 0x64])
WORDS = st.one_of(
    st.integers(0, 0xFFFF), st.sampled_from([0, 1, 0x41, 8, 15, 16, 24, 32, 320, 640, 1024, 2560, 0xFFFF])
)
WINDOW = st.one_of(st.integers(0xA0000, 0xC0000 - 8), st.sampled_from([0xA0000, 0xAFFFC, 0xB0000, 0xB7FFD, 0xBFFF8]))
FRAME = st.one_of(st.integers(LINEAR, LINEAR + (16 << 20) - 8), st.sampled_from([LINEAR, LINEAR + (16 << 20) - 8]))
WIDTHS = st.sampled_from([1, 2, 4, 8])
STEPS = st.one_of(
    st.tuples(st.just("out"), PORTS, BYTES),
    st.tuples(st.just("in"), PORTS),
    st.tuples(st.just("set"), INDEXED, st.integers(0, 0x1F), BYTES),
    st.tuples(st.just("attribute"), st.integers(0, 0x3F), BYTES),
    st.tuples(st.just("dispi"), st.integers(0, 12), WORDS),
    st.tuples(st.just("linear"), st.sampled_from([(640, 480, 32), (320, 200, 8), (800, 600, 24), (100, 7, 15)])),
    st.tuples(st.just("mode"), st.sampled_from([0, 3, 4, 6, 0x0D, 0x10, 0x12, 0x13])),
    st.tuples(st.just("load"), WINDOW, WIDTHS),
    st.tuples(st.just("store"), WINDOW, WIDTHS, st.integers(0, (1 << 64) - 1)),
    st.tuples(st.just("many"), WINDOW),
    st.tuples(st.just("store"), FRAME, WIDTHS, st.integers(0, (1 << 64) - 1)),
    st.tuples(st.just("mouse"), st.binary(max_size=8)),
    st.tuples(st.just("keys"), st.binary(max_size=8)),
    st.tuples(st.just("look")),
    st.tuples(st.just("time"), st.integers(1, 100_000_000)),
)


def carry_out(world: World, step: tuple) -> None:  # type: ignore[type-arg]
    kind, *a = step
    if kind == "out":
        world.outb(*a)
    elif kind == "in":
        assert 0 <= world.inb(*a) <= 0xFF
    elif kind == "set":
        world.set(*a)
    elif kind == "attribute":
        world.inb(0x3DA)
        world.outb(0x3C0, a[0])
        world.outb(0x3C0, a[1])
    elif kind == "dispi":
        assert 0 <= world.dispi(*a) <= 0xFFFF
    elif kind == "linear":
        world.linear_mode(*a[0])
    elif kind == "mode":
        world.mode(a[0])
    elif kind == "load":
        assert 0 <= world.load(*a) < 1 << 8 * a[1]
    elif kind == "store":
        world.store(a[0], a[2] & (1 << 8 * a[1]) - 1, a[1])
    elif kind == "many":
        for n in range(20):
            world.load(min(a[0] + n, 0xBFFFF))
    elif kind == "mouse":
        world.pc.keyboard.move(a[0])
    elif kind == "keys":
        world.pc.keyboard.press(a[0])
    elif kind == "look":
        shown = picture(world.vga)
        assert len(shown.rgb) == 3 * shown.width * shown.height
        assert shown_bytes(world.vga)
    else:
        world.clock.now += a[0]


@LONG
@given(st.lists(STEPS, min_size=60, max_size=150))
def test_anything(steps: list[tuple]) -> None:  # type: ignore[type-arg]
    world = World()
    rest = (range(0xA0000), range(0xC0000, world.memory.size))
    for part in rest:
        world.memory.write(part.start, b"\x5a" * len(part))
    for step in steps:
        carry_out(world, step)
    for part in rest:
        assert world.memory.read(part.start, len(part)) == b"\x5a" * len(part)
    other = World()
    other.clock.now = world.clock.now
    taken = world.pc.snapshot()
    other.pc.restore(taken)
    assert other.pc.snapshot() == taken
    assert picture(other.vga) == picture(world.vga)
