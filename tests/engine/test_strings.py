"""String instructions with REP: how far they got when an event or a page fault stopped them."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from engine.assembly import assemble
from engine.harness import DATA, DEVICE, Guest

Make = Callable[[], Guest]

STRINGS = assemble(
    32,
    """
        rep_movsb:
        f3 a4     rep movsb
        f4        hlt
        rep_movsw:
        f3 66 a5  rep movsw
        f4        hlt
        rep_movsd:
        f3 a5     rep movsd
        f4        hlt
        rep_stosb:
        f3 aa     rep stosb
        f4        hlt
        rep_stosw:
        f3 66 ab  rep stosw
        f4        hlt
        rep_stosd:
        f3 ab     rep stosd
        f4        hlt
        rep_lodsd:
        f3 ad     rep lodsd
        f4        hlt
        repe_cmpsb:
        f3 a6     repe cmpsb
        f4        hlt
        repne_scasb:
        f2 ae     repne scasb
        f4        hlt
        """,
)
_SIZES = {"b": 1, "w": 2, "d": 4}
Directions = pytest.mark.parametrize("down", [False, True], ids=["up", "down"])


def _reference(
    memory: bytearray, name: str, count: int, source: int, to: int, value: int, down: bool, limit: int
) -> tuple[int, int, int]:
    """(rcx, rsi, rdi) after at most `limit` turns of REP MOVS or STOS on `memory`."""
    size = _SIZES[name[-1]]
    step = -size if down else size
    while count and limit:
        element = memory[source : source + size] if "movs" in name else value.to_bytes(4, "little")[:size]
        memory[to : to + size] = element
        count, limit, to = count - 1, limit - 1, to + step
        source += step if "movs" in name else 0
    return count, source, to


@Directions
@pytest.mark.parametrize("name", ["rep_movsb", "rep_movsw", "rep_movsd", "rep_stosb", "rep_stosd"])
def test_interrupted_by_an_event(guest: Make, name: str, down: bool) -> None:
    """At every deadline registers and memory are those of a whole number of turns."""
    size = _SIZES[name[-1]]
    content = bytes((i * 7 + i // 256) & 0xFF for i in range(0x3000))
    for cycle in (1, 2, 3, 64, 700, 1500):
        g = guest().enter_protected()
        g.memory.write(DATA, content)
        g.load(STRINGS)
        source, to = (DATA + 0x2000, DATA + 0x2800) if down else (DATA + 0x10, DATA + 0x1013)
        g.set(rax=0xA1B2C3D4, rcx=1600 // size, rsi=source, rdi=to, rflags=0x602 if down else 0x202)
        g.go(STRINGS[name])
        g.clock.schedule(cycle, lambda g=g: g.processor.set_intr(True))  # type: ignore[misc]
        memory = bytearray(g.memory.read(0, 0x2_0000))
        g.run_to_halt()
        turns = 1600 // size - g["rcx"]
        wanted = _reference(memory, name, 1600 // size, source, to, 0xA1B2C3D4, down, turns)
        assert (g["rcx"], g["rsi"], g["rdi"]) == wanted
        assert g.memory.read(DATA, 0x3000) == memory[DATA : DATA + 0x3000]
        if cycle < 1600 // size:
            frame = g.frame()
            assert frame.vector == 0x40
            assert turns == cycle, "it is left at the deadline"
            assert frame.rip == STRINGS[name]
            assert g.processor.instructions == 1, "an instruction that was interrupted is not counted yet"


@Directions
@pytest.mark.parametrize("name", ["rep_movsb", "rep_movsd", "rep_stosw"])
def test_interrupted_again_and_again(guest: Make, name: str, down: bool) -> None:
    """In the end all is as it would have been, and the instruction is counted once."""
    g = guest().enter_protected().load(STRINGS)
    handler = assemble(
        32,
        """
        42  inc edx
        cf  iretd
        """,
        org=0x9000,
    )
    g.memory.write(0x9000, handler.data)
    g.set_gate32(0x40, 0x18, 0x9000)
    g.memory.write(DATA, bytes((i * 5 + 1) & 0xFF for i in range(0x2000)))
    count = 1000
    source, to = (DATA + 0x1800, DATA + 0x1810) if down else (DATA, DATA + 3)
    g.set(rax=0x1234, rcx=count, rdx=0, rsi=source, rdi=to, rflags=0x602 if down else 0x202)
    g.go(STRINGS[name])

    def tick() -> None:
        g.processor.set_intr(True)
        g.clock.schedule(g.clock.now + 37, tick)

    g.clock.schedule(5, tick)
    memory = bytearray(g.memory.read(0, 0x1_3000))
    wanted = _reference(memory, name, count, source, to, 0x1234, down, count)
    g.run(count + 100)
    ticks = g["rdx"]
    assert (g["rcx"], g["rsi"], g["rdi"]) == wanted
    assert g.memory.read(DATA, 0x2000) == memory[DATA : DATA + 0x2000]
    assert ticks > 20


@Directions
@pytest.mark.parametrize("name", ["rep_movsb", "rep_movsw", "rep_movsd", "rep_stosb", "rep_stosw", "rep_stosd"])
@pytest.mark.parametrize("what", ["destination", "source"])
def test_stopped_by_a_page_fault(guest: Make, name: str, down: bool, what: str) -> None:
    """At the first element that touches the absent page; elements may lie across the boundary."""
    size = _SIZES[name[-1]]
    if what == "source" and "stos" in name:
        what = "destination"
    for shift in range(size):
        g = guest().enter_protected("two-level").load(STRINGS)
        g.memory.write(0x10_0000, bytes((i * 11 + i // 256) & 0xFF for i in range(0x6000)))
        for i in range(1, 5):
            g.map(0x20_0000 + 0x1000 * i, 0x10_0000 + 0x1000 * i)
            g.map(0x21_0000 + 0x1000 * i, 0x11_0000 + 0x1000 * i)
        # The first element starts 300 bytes or a little more from the absent page.
        absent = 0x20_0000 if what == "source" else 0x21_0000
        g.map(absent + (0x1000 if down else 0x4000), 0, 0)
        start = 0x2000 + 300 + shift if down else 0x4000 - 300 - shift
        # Downwards the element at the edge itself is still on the good page.
        turns = (300 + shift) // size + (1 if down else 0)
        other = 0x3800 if down else 0x1800
        source, to = 0x20_0000 + start, 0x21_0000 + other
        if what == "destination":
            source, to = 0x20_0000 + other, 0x21_0000 + start
        g.set(rax=0x1357_9BDF, rcx=1000, rsi=source, rdi=to, rflags=0x402 if down else 2)
        g.go(STRINGS[name])
        memory = bytearray(0x22_0000)
        memory[0x20_0000:0x20_6000] = g.memory.read(0x10_0000, 0x6000)
        wanted = _reference(memory, name, 1000, source, to, 0x1357_9BDF, down, turns)
        frame = g.run_to_exception()
        assert (frame.vector, frame.error) == (14, 0 if what == "source" else 2)
        assert frame.rip == STRINGS[name]
        assert (g["rcx"], g["rsi"], g["rdi"]) == wanted
        assert g.memory.read(0x11_1000, 0x4000) == memory[0x21_1000:0x21_5000]
        assert g.processor.instructions == 1


@pytest.mark.parametrize("name", ["rep_movsb", "rep_movsw", "rep_movsd"])
@Directions
@pytest.mark.parametrize("distance", [-9, -4, -3, -1, 0, 1, 2, 3, 5, 8, 17])
def test_overlapping_copies(guest: Make, name: str, down: bool, distance: int) -> None:
    """Element by element, as the manual says; a pattern is repeated where the destination lies just ahead."""
    g = guest().enter_protected().load(STRINGS)
    g.memory.write(DATA, bytes((i * 5 + 1) & 0xFF for i in range(0x2000)))
    start = DATA + (0x1200 if down else 0xF00)
    g.set(rcx=200, rsi=start, rdi=start + distance, rflags=0x402 if down else 2)
    g.go(STRINGS[name])
    memory = bytearray(g.memory.read(0, 0x1_3000))
    wanted = _reference(memory, name, 200, start, start + distance, 0, down, 200)
    g.run_to_halt()
    assert (g["rcx"], g["rsi"], g["rdi"]) == wanted
    assert g.memory.read(DATA, 0x2000) == memory[DATA : DATA + 0x2000]
    assert g.processor.instructions == 2
    assert g.clock.now == 200 + 2


def test_a_count_of_zero(guest: Make) -> None:
    """Nothing is touched, not even a page that is absent."""
    g = guest().enter_protected("two-level").load(STRINGS)
    g.set(rcx=0, rsi=0x30_0000, rdi=0x30_0000)
    for name in STRINGS.labels:
        g.set(rflags=0x8D7)
        g.go(STRINGS[name])
        g.run_to_halt()
        assert (g["rcx"], g["rsi"], g["rdi"], g["rflags"]) == (0, 0x30_0000, 0x30_0000, 0x8D7), name


@pytest.mark.parametrize("name", ["repe_cmpsb", "repne_scasb"])
def test_a_compare_stopped_by_a_page_fault_keeps_the_flags_of_its_last_turn(guest: Make, name: str) -> None:
    g = guest().enter_protected("two-level").load(STRINGS)
    g.memory.write(0x10_0000, b"\x10" * 0x2000)
    g.map(0x20_0000, 0x10_0000)
    g.map(0x20_1000, 0, 0)
    g.map(0x21_0000, 0x10_0000)
    g.map(0x21_1000, 0x10_1000)
    g.set(rax=0x20, rcx=500, rsi=0x21_0F00, rdi=0x20_0F00, rflags=0x8D7)
    g.go(STRINGS[name])
    frame = g.run_to_exception()
    assert (frame.vector, frame.error, frame.rip) == (14, 0, STRINGS[name])
    assert (g["rcx"], g["rdi"], g.processor.cr2) == (500 - 256, 0x20_1000, 0x20_1000)
    # 10h - 10h, or 20h - 10h
    assert frame.rflags & 0x8D5 == (0x44 if name == "repe_cmpsb" else 0)


def test_a_copy_to_a_device_is_stopped_by_its_interrupt(guest: Make) -> None:
    g = guest().enter_protected().load(STRINGS)
    g.set(rcx=500, rsi=DATA, rdi=DEVICE, rflags=0x202)
    g.go(STRINGS["rep_movsd"])
    g.device.on_write = lambda offset, width, value: g.processor.set_intr(True) if offset == 40 else None
    frame = g.run_to_exception()
    assert (frame.vector, frame.rip) == (0x40, STRINGS["rep_movsd"])
    assert len(g.device.writes) == 11
    assert (g["rcx"], g["rdi"]) == (500 - 11, DEVICE + 44)
