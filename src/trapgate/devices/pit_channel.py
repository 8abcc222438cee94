"""One channel of the 8254: the six modes as arithmetic on the tick at which the count was loaded.

Source: Intel 8254 data sheet (order 231164-005), "Mode Definitions". All times are ticks of the timer's crystal.
"""

from __future__ import annotations

from typing import ClassVar

from trapgate.machine.device import PlainState

LOW_BYTE = 1
HIGH_BYTE = 2
BOTH_BYTES = 3
STATUS_OUTPUT = 0x80
STATUS_NULL_COUNT = 0x40

TERMINAL_COUNT = 0
ONE_SHOT = 1
RATE_GENERATOR = 2
SQUARE_WAVE = 3
SOFTWARE_STROBE = 4
HARDWARE_STROBE = 5

NOTHING = -1


def _from_bcd(value: int) -> int:
    return (value & 15) + (value >> 4 & 15) * 10 + (value >> 8 & 15) * 100 + (value >> 12) * 1000


def _to_bcd(value: int) -> int:
    return value % 10 | value // 10 % 10 << 4 | value // 100 % 10 << 8 | value // 1000 % 10 << 12


class PitChannel(PlainState):
    """A counter with its gate and its output.

    `tick` arguments never go back. A count written at tick t is in the counter at t + 1, the next clock pulse.
    """

    __slots__ = (
        "access",
        "bcd",
        "before",
        "count",
        "count_latch",
        "frozen",
        "gate",
        "initial_gate",
        "low_written",
        "mode",
        "pending",
        "pending_tick",
        "read_high",
        "start",
        "start_level",
        "status_latch",
        "write_high",
    )

    STATE: ClassVar[tuple[str, ...]] = tuple(name for name in __slots__ if name != "initial_gate")

    def __init__(self, gate: bool) -> None:
        """`gate` is the gate's level after reset."""
        self.initial_gate = gate
        self.reset(0)

    def reset(self, tick: int) -> None:
        """A channel without a count, in mode 0 (the chip itself has no reset)."""
        self.gate = self.initial_gate
        self.write_control(BOTH_BYTES << 4, tick)

    # Programming

    def write_control(self, value: int, tick: int) -> None:
        """The low 6 bits of a control word: access mode (0 latches the count), mode, BCD."""
        access = value >> 4
        if access == 0:
            self.latch_count(tick)
            return
        mode = value >> 1 & 7
        self.access = access
        self.mode = mode if mode < 6 else mode - 4
        self.bcd = bool(value & 1)
        self.write_high = False
        self.read_high = False
        self.low_written = 0
        self.count_latch = NOTHING
        self.status_latch = NOTHING
        #: What the counter was loaded with, 1..65536; 0 before the first load.
        self.count = 0
        #: The tick at which the counter held `count`; one ahead of now until the load happens.
        self.start = tick
        #: The output's level until `start`.
        self.before = self.mode != TERMINAL_COUNT
        #: Square wave: the output's level from `start` on.
        self.start_level = True
        #: A count that waits for the end of the cycle or for a trigger; 0 when none does.
        self.pending = 0
        self.pending_tick = 0
        #: Ticks counted when the gate stopped the counter, or NOTHING while it counts.
        self.frozen = NOTHING

    def write(self, value: int, tick: int) -> None:
        """A byte of a count."""
        if self.access == BOTH_BYTES:
            if not self.write_high:
                self.low_written = value
                self.write_high = True
                if self.mode == TERMINAL_COUNT:
                    # The first byte stops counting and the output goes low at once.
                    self.count = 0
                return
            self.write_high = False
            value = value << 8 | self.low_written
        elif self.access == HIGH_BYTE:
            value <<= 8
        count = (_from_bcd(value) % 10000 or 10000) if self.bcd else (value or 0x10000)
        self._settle(tick)
        mode = self.mode
        if tick < self.start and mode not in (TERMINAL_COUNT, SOFTWARE_STROBE):
            # The pulse that loads the counter has not come: it loads this count.
            self.count = count
        elif mode in (ONE_SHOT, HARDWARE_STROBE):
            self.pending = count
        elif mode in (TERMINAL_COUNT, SOFTWARE_STROBE) or self.count == 0:
            self.before = mode != TERMINAL_COUNT
            self.count = count
            self.start = tick + 1
            self.start_level = True
            self.frozen = NOTHING if self.gate else 0
        else:
            self.pending = count
            self.pending_tick = tick

    def set_gate(self, level: bool, tick: int) -> None:
        """Drive the gate: it stops counting in modes 0, 2, 3 and 4, and its rising edge triggers 1, 2, 3 and 5."""
        if level == self.gate:
            return
        self._settle(tick)
        mode = self.mode
        if mode in (ONE_SHOT, HARDWARE_STROBE):
            if level and (self.pending or self.count):
                self._trigger(tick)
        elif not level:
            if self.count:
                self.frozen = max(0, tick - self.start)
        elif self.count:
            if mode in (TERMINAL_COUNT, SOFTWARE_STROBE):
                self.start = max(self.start, tick - self.frozen)
                self.frozen = NOTHING
            else:
                self._trigger(tick)
        self.gate = level

    def _trigger(self, tick: int) -> None:
        self.before = self.output(tick)
        self.count = self.pending or self.count
        self.pending = 0
        self.start = tick + 1
        self.start_level = True
        self.frozen = NOTHING

    def _settle(self, tick: int) -> None:
        """Modes 2 and 3: load a waiting count if the cycle, or half of it, that was running has ended by `tick`."""
        if not self.pending or self.frozen != NOTHING or self.mode in (ONE_SHOT, HARDWARE_STROBE):
            return
        written = max(self.pending_tick, self.start)
        elapsed = written - self.start
        if self.mode == RATE_GENERATOR:
            boundary = written + self.count - elapsed % self.count
            level = True
        else:
            level, position = self._half(elapsed)
            high = (self.count + 1) // 2
            boundary = written + (high if level else self.count - high) - position
            level = not level or self.count == 1
        if tick >= boundary:
            self.count = self.pending
            self.pending = 0
            self.start = boundary
            self.start_level = level

    def _half(self, elapsed: int) -> tuple[bool, int]:
        """Square wave: the output's level after `elapsed` ticks, and for how many ticks it has had it."""
        high = (self.count + 1) // 2
        position = elapsed % self.count
        if not self.start_level:
            position = (position + high) % self.count
        return (True, position) if position < high else (False, position - high)

    # The output

    def output(self, tick: int) -> bool:
        """The output's level at `tick`."""
        if self.pending:
            self._settle(tick)
        count = self.count
        mode = self.mode
        if count == 0:
            return mode != TERMINAL_COUNT
        if self.frozen != NOTHING:
            return mode != TERMINAL_COUNT or self.frozen >= count
        if tick < self.start:
            return self.before
        elapsed = tick - self.start
        if mode <= ONE_SHOT:
            return elapsed >= count
        if mode == RATE_GENERATOR:
            return count == 1 or elapsed % count != count - 1
        if mode == SQUARE_WAVE:
            return self._half(elapsed)[0]
        return elapsed != count

    def next_change(self, tick: int) -> int | None:
        """The first tick after `tick` at which the output changes; None when it will not by itself."""
        level = self.output(tick)
        count = self.count
        if count == 0 or self.frozen != NOTHING:
            return None
        if tick < self.start:
            if self.output(self.start) != level:
                return self.start
            tick = self.start
        elapsed = tick - self.start
        mode = self.mode
        if mode <= ONE_SHOT:
            return self.start + count if elapsed < count else None
        if mode == RATE_GENERATOR:
            if count == 1:
                return None
            position = elapsed % count
            return tick + (count - 1 - position if position < count - 1 else 1)
        if mode == SQUARE_WAVE:
            if count == 1:
                return None
            level, position = self._half(elapsed)
            high = (count + 1) // 2
            return tick + (high if level else count - high) - position
        if elapsed < count:
            return self.start + count
        return self.start + count + 1 if elapsed == count else None

    # Reading

    def value(self, tick: int) -> int:
        """The counter as the guest reads it: 16 bits, in BCD if so programmed."""
        if self.pending:
            self._settle(tick)
        count = self.count
        if count == 0:
            return 0
        frozen = self.frozen
        elapsed = frozen if frozen != NOTHING else tick - self.start
        if elapsed < 0:
            elapsed = 0
        mode = self.mode
        if mode == RATE_GENERATOR:
            left = count - elapsed % count
        elif mode == SQUARE_WAVE:
            # Odd counts start one lower; the counter goes down by two (data sheet, "Mode 3", "Odd counts").
            left = (count & ~1) - 2 * self._half(elapsed)[1]
        else:
            left = count - elapsed
        return _to_bcd(left % 10000) if self.bcd else left & 0xFFFF

    def latch_count(self, tick: int) -> None:
        """Hold the count for reading; a second latch before it was read does nothing."""
        if self.count_latch == NOTHING:
            self.count_latch = self.value(tick)

    def latch_status(self, tick: int) -> None:
        """Hold the status byte for reading; a second latch before it was read does nothing."""
        if self.status_latch != NOTHING:
            return
        status = self.access << 4 | self.mode << 1 | self.bcd
        if self.output(tick):
            status |= STATUS_OUTPUT
        if self.pending or self.count == 0 or (tick < self.start and self.frozen == NOTHING):
            status |= STATUS_NULL_COUNT
        self.status_latch = status

    def read(self, tick: int) -> int:
        """The latched status, else a byte of the latched count, else a byte of the running count."""
        if self.status_latch != NOTHING:
            status = self.status_latch
            self.status_latch = NOTHING
            return status
        value = self.count_latch
        if value == NOTHING:
            value = self.value(tick)
        if self.access == BOTH_BYTES:
            self.read_high = not self.read_high
            if self.read_high:
                return value & 0xFF
            self.count_latch = NOTHING
            return value >> 8
        self.count_latch = NOTHING
        return value >> 8 if self.access == HIGH_BYTE else value & 0xFF
