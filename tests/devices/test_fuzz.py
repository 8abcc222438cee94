"""Anything a guest can do to the devices: no exception, values in range, interrupts consistent, snapshots exact."""

from __future__ import annotations

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from trapgate.machine.bus import Bus

from .support import Board

Step = tuple[object, ...]

MAPPED_PORTS = [
    *range(0x10),
    *(0x20, 0x21, 0x40, 0x41, 0x42, 0x43, 0x60, 0x61, 0x64, 0x70, 0x71, 0x80, 0x81, 0x8F, 0x92, 0xA0, 0xA1),
    *range(0xC0, 0xE0),
    *(0xE9, 0xF4, 0xF6),
    *range(0x2F8, 0x300),
    *range(0x3F8, 0x400),
    *(0x4D0, 0x4D1),
    *range(0x600, 0x60C),
    *(0xCF8, 0xCF9, 0xCFC, 0xFFFF),
]
BUSY_PORTS = [0x20, 0x21, 0xA0, 0xA1, 0x40, 0x42, 0x43, 0x61, 0x60, 0x64, 0x70, 0x71, 0x3F8, 0x3F9, 0x3FA, 0x3FC]
LAPIC = st.builds(lambda r: 0xFEE0_0000 + r * 16, st.integers(0, 0x40))
IOAPIC = st.sampled_from([0xFEC0_0000, 0xFEC0_0010, 0xFEC0_0040, 0xFEC0_0012])
ANY_MMIO = st.integers(0xFEE0_0000, 0xFEE0_0FFF)
WIDTHS = st.sampled_from([1, 1, 1, 2, 4])
MEMORY_WIDTHS = st.sampled_from([4, 4, 4, 1, 2, 8])
BYTES = st.one_of(st.integers(0, 255), st.sampled_from([0x11, 0x20, 0x60, 0xD1, 0xD4, 0xFF, 0x34, 0xB0, 0x0B, 0x83]))
VALUES = st.one_of(BYTES, st.integers(0, 0xFFFF_FFFF), st.integers(0, 0x1F).map(lambda bit: 1 << bit))
ADDRESSES = st.one_of(LAPIC, LAPIC, IOAPIC, IOAPIC, ANY_MMIO)
PORTS = st.one_of(st.sampled_from(MAPPED_PORTS), st.sampled_from(BUSY_PORTS))
CYCLES = st.one_of(st.integers(0, 5_000), st.integers(0, 3_000_000), st.integers(0, 300_000_000))

STEPS = st.one_of(
    st.tuples(st.just("in"), PORTS, WIDTHS),
    st.tuples(st.just("out"), PORTS, WIDTHS, VALUES),
    st.tuples(st.just("out"), PORTS, st.just(1), BYTES),
    st.tuples(st.just("load"), ADDRESSES, MEMORY_WIDTHS),
    st.tuples(st.just("store"), ADDRESSES, MEMORY_WIDTHS, VALUES),
    st.tuples(st.just("wait"), CYCLES),
    st.tuples(st.just("late"), CYCLES),
    st.tuples(st.just("acknowledge")),
    st.tuples(st.just("receive"), st.binary(min_size=1, max_size=40)),
    st.tuples(st.just("press"), st.binary(min_size=1, max_size=4)),
    st.tuples(st.just("base"), st.sampled_from([0xFEE0_0900, 0xFEE0_0100, 0xFD00_0900])),
    st.tuples(st.just("cr8"), st.integers(0, 15)),
    st.tuples(st.just("power button")),
)


def periodic_timer_floods(board: Board) -> bool:
    """True when the guest set a periodic timer that would fire millions of times while the test waits."""
    timer = board.pc.lapic.timer
    return timer.periodic and 0 < timer.initial * timer.divisor < 10_000


def perform(board: Board, step: Step) -> object:
    """One step; what the guest sees of it."""
    bus: Bus = board.bus
    pc = board.pc
    match step:
        case ("in", int(port), int(width)):
            return bus.read_port(port, width)
        case ("out", int(port), int(width), int(value)):
            bus.write_port(port, width, value & (1 << 8 * width) - 1)
        case ("load", int(address), int(width)):
            return bus.read_memory(address, width)
        case ("store", int(address), int(width), int(value)):
            bus.write_memory(address, width, value & (1 << 8 * width) - 1)
        case ("wait", int(cycles)):
            pit = pc.pit.channels[0]
            fast = periodic_timer_floods(board) or (pit.count and pit.count < 50)
            board.advance(cycles % 20_000 if fast else cycles % 3_000_000)
        case ("late", int(cycles)):
            board.clock.now += cycles % 100_000
        case ("acknowledge",):
            return pc.acknowledge()
        case ("receive", bytes(data)):
            pc.serial.receive(data)
        case ("press", bytes(data)):
            pc.keyboard.press(data)
        case ("base", int(base)):
            pc.lapic.apic_base = base
            return pc.lapic.apic_base
        case ("cr8", int(value)):
            pc.lapic.write_cr8(value)
            return pc.lapic.read_cr8()
        case _:
            pc.acpi.press_power_button()
    return None


def check(board: Board, step: Step, result: object) -> None:
    pc = board.pc
    if step[0] in ("in", "load"):
        assert isinstance(result, int)
        assert 0 <= result < 1 << 8 * step[2]  # type: ignore[operator]
    if step[0] == "acknowledge":
        assert isinstance(result, int)
        assert 0 <= result <= 255
    assert board.pins.intr == (pc.lapic.deliverable() >= 0 or pc.lapic.extint_pending())
    assert pc.lapic.lint0 == pc.pic.master.output == (pc.pic.master.request() >= 0)
    assert bool(pc.pic.master.levels >> 2 & 1) == pc.pic.slave.output == (pc.pic.slave.request() >= 0)
    assert pc.pic.master.levels >> 4 & 1 == pc.serial.line == pc.ioapic.levels >> 4 & 1
    assert board.pins.a20 == pc.a20.enabled
    if step[0] == "wait":
        pit = pc.pit
        assert pc.pic.master.levels & 1 == pit.channels[0].output(pit.ticks()) == pc.ioapic.levels >> 2 & 1
        deadline = board.clock.deadline
        assert deadline is None or deadline > board.clock.now


@settings(max_examples=1000, suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(st.lists(STEPS, min_size=20, max_size=120))
def test_no_guest_breaks_a_device(steps: list[Step]) -> None:
    board = Board()
    for step in steps:
        check(board, step, perform(board, step))


@settings(max_examples=100, suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(st.lists(STEPS, min_size=10, max_size=100), st.lists(STEPS, min_size=10, max_size=60))
def test_a_restored_board_goes_on_as_the_original(before: list[Step], after: list[Step]) -> None:
    original = Board()
    for step in before:
        perform(original, step)
    snapshot = original.pc.snapshot()
    copy = Board(now=original.clock.now)
    copy.pc.restore(snapshot)
    assert copy.pc.snapshot() == snapshot
    assert (copy.pins.intr, copy.pins.a20) == (original.pins.intr, original.pins.a20)
    for step in after:
        result = perform(copy, step)
        assert result == perform(original, step)
        check(copy, step, result)
    assert copy.pc.snapshot() == original.pc.snapshot()


@settings(max_examples=30, suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(st.lists(STEPS, max_size=60))
def test_reset_forgets_what_the_guest_did(steps: list[Step]) -> None:
    board = Board()
    for step in steps:
        perform(board, step)
    board.pc.reset()
    board.pc.reset()
    assert board.inb(0x21) == 0xFB
    assert board.inb(0xA1) == 0xFF
    assert board.inb(0x64) == 0x14
    assert board.inb(0x3FD) == 0x60
    assert board.load(0xFEE0_00F0) == 0x10F
    assert not board.pins.intr
    assert board.pins.a20
