"""The 8254 against a model that ticks, written from the data sheet's mode definitions, and known values."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trapgate.devices.pit8254 import FREQUENCY, Pit8254
from trapgate.devices.pit_channel import PitChannel
from trapgate.machine.clock import Clock, TickSource

from .support import HZ, Line, advance, microseconds


class TickingCounter:
    """One counter, pulse by pulse. `ce` is the counting element, `cr` the count register (data sheet, figure 5)."""

    def __init__(self, mode: int, gate: bool) -> None:
        self.mode = mode
        self.gate = gate
        self.out = mode != 0
        self.cr = 0
        self.ce = 0
        self.load = False
        self.triggered = False
        self.counting = False
        self.fired = False
        self.full = 0

    def write(self, count: int) -> None:
        self.cr = count
        if self.mode == 0:
            self.out = False
            self.load = True
        elif self.mode == 4 or (self.mode in (2, 3) and not self.counting):
            self.load = True

    def set_gate(self, level: bool) -> None:
        if level and not self.gate and self.cr and self.mode in (1, 2, 3, 5):
            self.triggered = True
        if not level and self.mode in (2, 3):
            self.out = True
            self.triggered = False
        self.gate = level

    def pulse(self) -> None:
        if self.load or self.triggered:
            self.load = self.triggered = False
            self.counting = True
            self.fired = False
            self._reload()
            if self.mode == 1:
                self.out = False
            elif self.mode in (2, 3, 4, 5):
                self.out = True
            return
        if self.mode in (4, 5):
            # The strobe lasts one pulse, whatever the gate does.
            self.out = True
        if not self.counting or (not self.gate and self.mode not in (1, 5)):
            return
        if self.mode == 2:
            if self.ce == 1:
                self.out = True
                self._reload()
            else:
                self.ce -= 1
                self.out = self.ce != 1
        elif self.mode == 3:
            # Odd counts: the high half lasts one pulse more than the low one.
            last = 0 if self.full & 1 and self.out else 2
            if self.ce == last:
                self.out = not self.out
                self._reload()
            else:
                self.ce -= 2
        else:
            self.ce = (self.ce - 1) & 0xFFFF
            if self.ce == 0 and not self.fired:
                self.fired = True
                self.out = self.mode in (0, 1)

    def _reload(self) -> None:
        self.full = self.cr
        self.ce = self.cr & ~1 if self.mode == 3 else self.cr


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("wait"), st.integers(1, 30)),
        st.tuples(st.just("gate"), st.booleans()),
        st.tuples(st.just("count"), st.integers(2, 12)),
    ),
    max_size=25,
)


@settings(max_examples=300)
@given(st.sampled_from([0, 1, 2, 3, 4, 5]), st.booleans(), st.integers(2, 12), STEPS)
def test_every_mode_follows_the_ticking_model(mode: int, gate: bool, count: int, steps: list[tuple[str, int]]) -> None:
    channel = PitChannel(gate)
    channel.write_control(0x10 | mode << 1, 0)
    model = TickingCounter(mode, gate)
    channel.write(count, 0)
    model.write(count)
    tick = 0
    waited = True
    for action, value in [*steps, ("wait", 40)]:
        if action == "wait":
            for _ in range(value):
                tick += 1
                model.pulse()
                assert channel.output(tick) == model.out, f"output at tick {tick}"
                if model.counting:
                    assert channel.value(tick) == model.ce & 0xFFFF, f"count at tick {tick}"
            waited = True
        elif waited:
            # One change between two pulses: more than one has no defined order on the chip.
            waited = False
            if action == "gate":
                channel.set_gate(bool(value), tick)
                model.set_gate(bool(value))
            else:
                channel.write(value, tick)
                model.write(value)


@given(st.sampled_from([0, 1, 2, 3, 4, 5]), st.integers(1, 40), st.integers(0, 50), st.integers(0, 50))
def test_next_change_is_the_next_change(mode: int, count: int, trigger: int, start: int) -> None:
    channel = PitChannel(False)
    channel.write_control(0x10 | mode << 1, 0)
    channel.write(count, 0)
    channel.set_gate(True, trigger)
    tick = trigger + start
    change = channel.next_change(tick)
    level = channel.output(tick)
    later = range(tick + 1, tick + 100)
    assert change == next((t for t in later if channel.output(t) != level), None)


def pit() -> tuple[Clock, Pit8254, Line]:
    clock = Clock(HZ)
    line = Line()
    device = Pit8254(clock, line)
    device.reset()
    return clock, device, line


def write_count(device: Pit8254, channel: int, control: int, count: int) -> None:
    device.write_port(3, 1, control)
    device.write_port(channel, 1, count & 0xFF)
    device.write_port(channel, 1, count >> 8)


def test_rate_generator_interrupts_at_its_rate() -> None:
    clock, device, line = pit()
    write_count(device, 0, 0x34, 4773)  # 250 Hz, as Linux sets it
    before = line.rises
    advance(clock, HZ)
    assert line.rises - before in (249, 250)


def test_late_events_lose_no_edge() -> None:
    clock, device, line = pit()
    write_count(device, 0, 0x34, 100)
    before = line.rises
    clock.now += TickSource(clock, FREQUENCY).cycle_of(10_050)
    clock.run_due()
    assert line.rises - before == 100


def test_reprogramming_drives_a_late_edge_first() -> None:
    clock, device, line = pit()
    device.write_port(3, 1, 0x30)
    device.write_port(0, 1, 10)
    device.write_port(0, 1, 0)
    before = line.rises
    clock.now += microseconds(20)  # past terminal count, the event has not run
    device.write_port(3, 1, 0x30)
    assert line.rises == before + 1
    assert not line.level


def test_terminal_count_takes_count_plus_one_pulses() -> None:
    clock, device, _ = pit()
    device.set_gate(True)
    write_count(device, 2, 0xB0, 1193)
    source = TickSource(clock, FREQUENCY)
    clock.now = source.cycle_of(1193)
    assert not device.output(2)
    clock.now = source.cycle_of(1194)
    assert device.output(2)


def test_count_latch_holds_until_read() -> None:
    clock, device, _ = pit()
    device.set_gate(True)
    write_count(device, 2, 0xB0, 0xFFFF)
    source = TickSource(clock, FREQUENCY)
    clock.now = source.cycle_of(1 + 0x100)
    device.write_port(3, 1, 0x80)
    clock.now = source.cycle_of(0x5000)
    device.write_port(3, 1, 0x80)  # ignored: the first latch was not read
    assert device.read_port(2, 1) | device.read_port(2, 1) << 8 == 0xFEFF
    assert device.read_port(2, 1) | device.read_port(2, 1) << 8 == 0xFFFF - 0x5000 + 1


@pytest.mark.parametrize(("control", "first", "second"), [(0x90, 0x34, 0x34), (0xA0, 0x12, 0x12), (0xB0, 0x34, 0x12)])
def test_access_modes_choose_the_bytes(control: int, first: int, second: int) -> None:
    clock, device, _ = pit()
    device.write_port(3, 1, control)
    if control != 0xA0:
        device.write_port(2, 1, 0x34)
    if control != 0x90:
        device.write_port(2, 1, 0x12)
    clock.now += microseconds(5)  # gate 2 is low: the count stands still
    assert [device.read_port(2, 1), device.read_port(2, 1)] == [first, second]


def test_bcd_counts_down_in_decimal() -> None:
    clock, device, _ = pit()
    device.set_gate(True)
    write_count(device, 2, 0xB1, 0x1000)
    clock.now = TickSource(clock, FREQUENCY).cycle_of(2)
    assert device.read_port(2, 1) | device.read_port(2, 1) << 8 == 0x0999


def test_read_back_gives_status_then_count() -> None:
    _, device, _ = pit()
    device.write_port(3, 1, 0xB6)  # channel 2, both bytes, mode 3
    device.write_port(3, 1, 0xC8)  # read back count and status of channel 2
    assert device.read_port(2, 1) == 0x80 | 0x40 | 0x36  # output high, null count, as programmed
    device.read_port(2, 1), device.read_port(2, 1)
    write_count(device, 2, 0xB6, 100)
    device.write_port(3, 1, 0xE8)
    assert device.read_port(2, 1) & 0x7F == 0x36  # gate 2 low: loaded, not counting


def test_the_control_word_cannot_be_read() -> None:
    assert pit()[1].read_port(3, 1) == 0xFF
