"""The real-time clock: a Motorola MC146818 with 128 bytes of CMOS memory, ports 70h and 71h.

The date is a function of the cycle: a start date given by the board, plus modelled seconds. Interrupt flags are found
by arithmetic when the guest looks; an event is scheduled only for an interrupt that is enabled.

Sources: Motorola MC146818 data sheet (DS9810); IBM PC AT Technical Reference, "Real-time Clock/CMOS RAM Information".
"""

from __future__ import annotations

from datetime import datetime
from typing import ClassVar

from trapgate.devices.calendar_time import CalendarTime
from trapgate.machine.clock import Clock, Event
from trapgate.machine.device import IrqLine, PlainState

# Registers.
SECONDS = 0x00
SECONDS_ALARM = 0x01
MINUTES = 0x02
MINUTES_ALARM = 0x03
HOURS = 0x04
HOURS_ALARM = 0x05
DAY_OF_WEEK = 0x06
DAY = 0x07
MONTH = 0x08
YEAR = 0x09
REGISTER_A = 0x0A
REGISTER_B = 0x0B
REGISTER_C = 0x0C
REGISTER_D = 0x0D
#: The century, where the ACPI FADT says it is.
CENTURY = 0x32
CMOS_SIZE = 128

TIME_REGISTERS = frozenset((SECONDS, MINUTES, HOURS, DAY_OF_WEEK, DAY, MONTH, YEAR, CENTURY))

A_UPDATE_IN_PROGRESS = 0x80
A_RATE_MASK = 0x0F
A_DIVIDER_32K = 0x20
A_DIVIDER_MASK = 0x70
B_SET = 0x80
B_PERIODIC = 0x40
B_ALARM = 0x20
B_UPDATE_ENDED = 0x10
B_BINARY = 0x04
B_24_HOUR = 0x02
C_REQUEST = 0x80
C_PERIODIC = 0x40
C_ALARM = 0x20
C_UPDATE_ENDED = 0x10
D_VALID = 0x80

ANY = 0xC0
PM = 0x80

#: Hz of the time base behind the divider.
CRYSTAL = 32_768
#: Microseconds by which UIP precedes an update (data sheet, "Update Cycle", t_BUC).
UPDATE_WARNING_US = 244


class Rtc146818(PlainState):
    """Port `offset` 0 selects a register, 1 is its data."""

    __slots__ = (
        "_event",
        "base_cycle",
        "base_seconds",
        "checked",
        "clock",
        "cmos",
        "flags",
        "index",
        "line",
        "name",
        "port_width",
        "set_irq",
        "start",
        "weekday_offset",
    )

    STATE: ClassVar[tuple[str, ...]] = (
        "base_cycle",
        "base_seconds",
        "checked",
        "cmos",
        "flags",
        "index",
        "line",
        "weekday_offset",
    )

    def __init__(self, clock: Clock, set_irq: IrqLine, start: datetime) -> None:
        """`start` is the date and time (taken as it is, without a time zone) at cycle 0."""
        self.name = "rtc"
        self.port_width = 1
        self.clock = clock
        self.set_irq = set_irq
        self.start = CalendarTime.from_datetime(start).seconds()
        self.cmos = bytearray(CMOS_SIZE)
        self.cmos[REGISTER_A] = A_DIVIDER_32K | 6
        self.cmos[REGISTER_B] = B_24_HOUR
        #: While the clock runs: the calendar's seconds since year 0 at `base_cycle`, which is an update's cycle.
        self.base_seconds = self.start
        self.base_cycle = 0
        #: Added to the date's own day of the week, 0..6: the chip's counter is independent of the date.
        self.weekday_offset = 0
        #: Register C's PF, AF and UF as of cycle `checked`.
        self.flags = 0
        self.checked = 0
        self.index = 0
        self.line = False
        self._event: Event | None = None

    def reset(self) -> None:
        """RESET# clears the interrupt enables and flags; time and memory are kept (data sheet, "RESET")."""
        self._collect()
        self.cmos[REGISTER_B] &= ~(B_PERIODIC | B_ALARM | B_UPDATE_ENDED | 0x08)
        self.flags = 0
        self.index = 0
        self._update()

    # Time

    def _running(self) -> bool:
        return not self.cmos[REGISTER_B] & B_SET and self.cmos[REGISTER_A] & A_DIVIDER_MASK == A_DIVIDER_32K

    def _updates(self, cycle: int) -> int:
        """Updates (seconds) from `base_cycle` to `cycle`; the divider may have been released less than 1 s ago."""
        return (cycle - self.base_cycle) // self.clock.hz

    def _time(self) -> CalendarTime:
        seconds = self.base_seconds + self._updates(self.clock.now)
        return CalendarTime.from_seconds(seconds, self.weekday_offset)

    def _encode(self, value: int) -> int:
        return value if self.cmos[REGISTER_B] & B_BINARY else value // 10 << 4 | value % 10

    def _decode(self, value: int) -> int:
        return value if self.cmos[REGISTER_B] & B_BINARY else (value >> 4) * 10 + (value & 15)

    def _encode_hour(self, hour: int) -> int:
        if self.cmos[REGISTER_B] & B_24_HOUR:
            return self._encode(hour)
        return self._encode(hour % 12 or 12) | (PM if hour >= 12 else 0)

    def _decode_hour(self, value: int) -> int:
        if self.cmos[REGISTER_B] & B_24_HOUR:
            return self._decode(value)
        return self._decode(value & 0x7F) % 12 + (12 if value & PM else 0)

    def _store_time(self) -> None:
        """Make the registers show the current time."""
        time = self._time()
        cmos = self.cmos
        cmos[SECONDS] = self._encode(time.second)
        cmos[MINUTES] = self._encode(time.minute)
        cmos[HOURS] = self._encode_hour(time.hour)
        cmos[DAY_OF_WEEK] = self._encode(time.weekday + 1)
        cmos[DAY] = self._encode(time.day)
        cmos[MONTH] = self._encode(time.month)
        cmos[YEAR] = self._encode(time.year % 100)
        cmos[CENTURY] = self._encode(time.year // 100)

    def _load_time(self) -> None:
        """Let the clock go on from what the registers show; the divider's phase is kept."""
        cmos = self.cmos
        time = CalendarTime(
            year=self._decode(cmos[CENTURY]) * 100 + self._decode(cmos[YEAR]),
            month=self._decode(cmos[MONTH]),
            day=self._decode(cmos[DAY]),
            hour=self._decode_hour(cmos[HOURS]),
            minute=self._decode(cmos[MINUTES]),
            second=self._decode(cmos[SECONDS]),
        )
        self.base_cycle += self._updates(self.clock.now) * self.clock.hz
        self.base_seconds = time.seconds()
        own = CalendarTime.from_seconds(self.base_seconds).weekday
        self.weekday_offset = (self._decode(cmos[DAY_OF_WEEK]) - 1 - own) % 7

    # Interrupts

    def _periodic_ticks(self) -> int:
        """The periodic interrupt's period in ticks of 32768 Hz; 0 for none (data sheet, table 5)."""
        rate = self.cmos[REGISTER_A] & A_RATE_MASK
        if rate == 0:
            return 0
        return 1 << (rate + 6 if rate <= 2 else rate - 1)

    def _periods(self, cycle: int) -> int:
        return (cycle - self.base_cycle) * CRYSTAL // (self._periodic_ticks() * self.clock.hz)

    def _alarm_after(self, seconds: int) -> int | None:
        """The first second after `seconds` at which the alarm matches; None when it never does."""
        hour, minute, second = (self.cmos[register] for register in (HOURS_ALARM, MINUTES_ALARM, SECONDS_ALARM))
        # A value with both top bits set matches anything (data sheet, "Time, Calendar and Alarm Locations").
        any_hour, any_minute, any_second = (value & ANY == ANY for value in (hour, minute, second))
        hour, minute, second = self._decode_hour(hour), self._decode(minute), self._decode(second)
        at = seconds + 1
        limit = at + 86_400
        while at < limit:
            of_day = at % 86_400
            if not any_hour and of_day // 3600 != hour:
                at += 3600 - of_day % 3600
            elif not any_minute and of_day // 60 % 60 != minute:
                at += 60 - of_day % 60
            elif not any_second and of_day % 60 != second:
                at += 1
            else:
                return at
        return None

    def _collect(self) -> None:
        """Set the flags of what has happened since `checked`."""
        now = self.clock.now
        checked = self.checked
        if now <= checked:
            return
        self.checked = now
        if self.cmos[REGISTER_A] & A_DIVIDER_MASK != A_DIVIDER_32K:
            return
        if self._periodic_ticks() and self._periods(now) > self._periods(checked):
            self.flags |= C_PERIODIC
        if self._running():
            before, after = self._updates(checked), self._updates(now)
            if after > before:
                self.flags |= C_UPDATE_ENDED
                alarm = self._alarm_after(self.base_seconds + before)
                if alarm is not None and alarm <= self.base_seconds + after:
                    self.flags |= C_ALARM

    def _update(self) -> None:
        """Drive the interrupt line, and schedule the next event that can change it."""
        enabled = self.cmos[REGISTER_B] & (B_PERIODIC | B_ALARM | B_UPDATE_ENDED)
        level = bool(self.flags & enabled)
        if self._event is not None:
            self.clock.cancel(self._event)
            self._event = None
        # Until the guest reads register C the line stays up, and nothing else can be seen.
        if enabled and not level:
            cycle = self._next_cycle(enabled)
            if cycle is not None:
                self._event = self.clock.schedule(cycle, self._on_event)
        if level != self.line:
            self.line = level
            self.set_irq(level)

    def _next_cycle(self, enabled: int) -> int | None:
        """The next cycle at which one of the `enabled` flags gets set; None when the clock is stopped."""
        now = self.clock.now
        hz = self.clock.hz
        cycles = []
        if self.cmos[REGISTER_A] & A_DIVIDER_MASK == A_DIVIDER_32K and enabled & B_PERIODIC and self._periodic_ticks():
            ticks = (self._periods(now) + 1) * self._periodic_ticks()
            cycles.append(self.base_cycle - (-ticks * hz // CRYSTAL))
        if self._running() and enabled & (B_ALARM | B_UPDATE_ENDED):
            updates = self._updates(now)
            second: int | None = self.base_seconds + updates + 1
            if not enabled & B_UPDATE_ENDED:
                second = self._alarm_after(self.base_seconds + updates)
            if second is not None:
                cycles.append(self.base_cycle + (second - self.base_seconds) * hz)
        return min(cycles) if cycles else None

    def _on_event(self) -> None:
        self._event = None
        self._collect()
        self._update()

    # Access

    def read_port(self, offset: int, width: int) -> int:
        """The selected register; the index itself cannot be read."""
        if offset == 0:
            return 0xFF
        index = self.index
        if index == REGISTER_A:
            return self.cmos[REGISTER_A] | (A_UPDATE_IN_PROGRESS if self._update_near() else 0)
        if index == REGISTER_C:
            self._collect()
            value = self.flags | (C_REQUEST if self.flags & self.cmos[REGISTER_B] else 0)
            self.flags = 0
            self._update()
            return value
        if index == REGISTER_D:
            return D_VALID
        if index in TIME_REGISTERS and self._running():
            self._store_time()
        return self.cmos[index]

    def _update_near(self) -> bool:
        if not self._running():
            return False
        hz = self.clock.hz
        left = hz - (self.clock.now - self.base_cycle) % hz
        return left * 1_000_000 <= UPDATE_WARNING_US * hz

    def write_port(self, offset: int, width: int, value: int) -> None:
        """Select a register (bit 7 of the index masks NMI, which nothing here raises), or write the selected one."""
        if offset == 0:
            self.index = value & 0x7F
            return
        index = self.index
        if index in (REGISTER_C, REGISTER_D):
            return
        self._collect()
        running = self._running()
        if running and (index in TIME_REGISTERS or index in (REGISTER_A, REGISTER_B)):
            self._store_time()
        if index == REGISTER_A:
            if value & A_DIVIDER_MASK == A_DIVIDER_32K != self.cmos[REGISTER_A] & A_DIVIDER_MASK:
                # The first update comes 500 ms after the divider is released (data sheet, "Divider Control").
                self.base_cycle = self.clock.now - self.clock.hz // 2
                self.checked = self.clock.now
            self.cmos[REGISTER_A] = value & 0x7F
        elif index == REGISTER_B:
            # SET clears UIE.
            self.cmos[REGISTER_B] = value & ~B_UPDATE_ENDED if value & B_SET else value
        else:
            self.cmos[index] = value
        if self._running() and (not running or index in TIME_REGISTERS):
            self._load_time()
        self._update()

    def after_restore(self) -> None:
        """Schedule the next event; the line itself is the PIC's to restore."""
        if self._event is not None:
            self.clock.cancel(self._event)
            self._event = None
        enabled = self.cmos[REGISTER_B] & (B_PERIODIC | B_ALARM | B_UPDATE_ENDED)
        if enabled and not self.line:
            cycle = self._next_cycle(enabled)
            if cycle is not None:
                self._event = self.clock.schedule(cycle, self._on_event)
