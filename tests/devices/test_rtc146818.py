"""The clock chip, as the MC146818 data sheet describes it."""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trapgate.devices.calendar_time import CalendarTime
from trapgate.devices.rtc146818 import Rtc146818
from trapgate.machine.clock import Clock

from .support import HZ, Line, advance, microseconds

START = datetime(2007, 12, 31, 23, 59, 58)  # a Monday


class Chip:
    """The chip with its surroundings."""

    def __init__(self, start: datetime = START) -> None:
        self.clock = Clock(HZ)
        self.line = Line()
        self.rtc = Rtc146818(self.clock, self.line, start)

    def get(self, index: int) -> int:
        self.rtc.write_port(0, 1, index)
        return self.rtc.read_port(1, 1)

    def put(self, index: int, value: int) -> None:
        self.rtc.write_port(0, 1, index)
        self.rtc.write_port(1, 1, value)

    def time(self) -> list[int]:
        """Century, year, month, day, weekday, hour, minute, second."""
        return [self.get(index) for index in (0x32, 9, 8, 7, 6, 4, 2, 0)]


def test_the_date_starts_as_given_and_advances_with_the_clock() -> None:
    chip = Chip()
    assert chip.time() == [0x20, 0x07, 0x12, 0x31, 2, 0x23, 0x59, 0x58]
    advance(chip.clock, 2 * HZ)
    assert chip.time() == [0x20, 0x08, 0x01, 0x01, 3, 0x00, 0x00, 0x00]


def test_binary_and_twelve_hours() -> None:
    chip = Chip()
    chip.put(0x0B, 0x06)
    assert chip.time() == [20, 7, 12, 31, 2, 23, 59, 58]
    chip.put(0x0B, 0x00)
    assert chip.get(4) == 0x91  # 11 pm
    chip = Chip(datetime(2000, 1, 1, 0, 30))
    chip.put(0x0B, 0x04)
    assert chip.get(4) == 12  # 12 am


def test_setting_the_time() -> None:
    chip = Chip()
    chip.put(0x0B, 0x82)
    for index, value in ((0, 0x30), (2, 0x59), (4, 0x23), (7, 0x28), (8, 0x02), (9, 0x00), (0x32, 0x20), (6, 0x05)):
        chip.put(index, value)
    advance(chip.clock, 10 * HZ)
    assert chip.get(0) == 0x30  # SET holds the time
    chip.put(0x0B, 0x02)
    advance(chip.clock, 30 * HZ)
    assert chip.time() == [0x20, 0x00, 0x02, 0x29, 6, 0x00, 0x00, 0x00]


def test_update_in_progress_precedes_the_update() -> None:
    chip = Chip()
    advance(chip.clock, HZ - microseconds(245))
    assert chip.get(0x0A) == 0x26
    advance(chip.clock, microseconds(2))
    assert chip.get(0x0A) == 0xA6
    assert chip.get(0) == 0x58
    advance(chip.clock, microseconds(243))
    assert chip.get(0x0A) == 0x26
    assert chip.get(0) == 0x59
    chip.put(0x0B, 0x82)
    advance(chip.clock, HZ - microseconds(100))
    assert chip.get(0x0A) == 0x26


def test_the_divider_starts_half_a_second_before_an_update() -> None:
    chip = Chip()
    advance(chip.clock, HZ // 3)
    chip.put(0x0A, 0x76)
    advance(chip.clock, 5 * HZ)
    assert chip.get(0) == 0x58
    chip.put(0x0A, 0x26)
    advance(chip.clock, HZ // 2 - 10)
    assert chip.get(0) == 0x58
    advance(chip.clock, 20)
    assert chip.get(0) == 0x59


def test_flags_are_set_without_interrupts_and_cleared_by_reading() -> None:
    chip = Chip()
    chip.put(1, 0xFF)
    chip.put(3, 0xFF)
    chip.put(5, 0xFF)
    advance(chip.clock, HZ + 1)
    assert chip.get(0x0C) == 0x70
    assert chip.get(0x0C) == 0
    assert chip.line.rises == 0


@pytest.mark.parametrize(("rate", "hertz"), [(6, 1024), (15, 2), (3, 8192), (1, 256), (2, 128)])
def test_periodic_interrupts(rate: int, hertz: int) -> None:
    chip = Chip()
    chip.put(0x0A, 0x20 | rate)
    chip.get(0x0C)
    chip.put(0x0B, 0x42)
    count = 0
    end = chip.clock.now + HZ
    while (deadline := chip.clock.deadline) is not None and deadline <= end:
        chip.clock.now = deadline
        chip.clock.run_due()
        assert chip.line.level
        assert chip.get(0x0C) & 0xC0 == 0xC0
        assert not chip.line.level
        count += 1
    assert count == hertz


def test_no_further_interrupt_before_register_c_is_read() -> None:
    chip = Chip()
    chip.put(0x0B, 0x42)
    advance(chip.clock, HZ)
    assert chip.line.rises == 1
    assert chip.clock.deadline is None


def test_update_ended_and_alarm_interrupts() -> None:
    chip = Chip()
    chip.put(0x0B, 0x12)
    advance(chip.clock, HZ - 1)
    assert not chip.line.level
    advance(chip.clock, 1)
    assert chip.line.level
    assert chip.get(0x0C) & 0x90 == 0x90
    chip.put(0x0B, 0x22)
    for index, value in ((1, 0x05), (3, 0x00), (5, 0xC0)):  # at second 5 of minute 0 of any hour
        chip.put(index, value)
    advance(chip.clock, 5 * HZ)
    assert not chip.line.level
    advance(chip.clock, HZ)
    assert chip.time()[-3:] == [0, 0, 5]
    assert chip.get(0x0C) & 0xA0 == 0xA0


def test_an_alarm_that_never_matches_never_rings() -> None:
    chip = Chip()
    chip.put(5, 0x33)  # hour 33
    chip.get(0x0C)
    chip.put(0x0B, 0x22)
    assert chip.clock.deadline is None
    advance(chip.clock, 100_000 * HZ)
    assert chip.get(0x0C) & 0x20 == 0


def test_reset_keeps_the_time_and_memory_and_clears_enables() -> None:
    chip = Chip()
    chip.put(0x40, 0x5A)
    chip.put(0x0B, 0x72)
    advance(chip.clock, HZ)
    chip.rtc.reset()
    assert not chip.line.level
    assert chip.get(0x0B) == 0x02
    assert chip.get(0x40) == 0x5A
    assert chip.get(0) == 0x59


def test_registers_c_and_d_cannot_be_written_and_the_index_cannot_be_read() -> None:
    chip = Chip()
    chip.put(0x0D, 0)
    assert chip.get(0x0D) == 0x80
    chip.put(0x0C, 0xFF)
    assert chip.get(0x0C) == 0
    assert chip.rtc.read_port(0, 1) == 0xFF
    chip.rtc.write_port(0, 1, 0x80 | 0x0D)  # the NMI mask is no part of the index
    assert chip.rtc.read_port(1, 1) == 0x80


@given(st.datetimes(datetime(1, 1, 1), datetime(9999, 12, 31)), st.integers(0, 10**9))
def test_the_calendar_is_pythons(date: datetime, seconds: int) -> None:
    date = date.replace(microsecond=0)
    try:
        later = date + timedelta(seconds=seconds)
    except OverflowError:
        return
    time = CalendarTime.from_seconds(CalendarTime.from_datetime(date).seconds() + seconds)
    assert datetime(time.year, time.month, time.day, time.hour, time.minute, time.second) == later
    assert time.weekday == later.isoweekday() % 7
