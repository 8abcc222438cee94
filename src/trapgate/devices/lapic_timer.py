"""The local APIC's timer: one-shot or periodic, computed from the clock.

Source: AMD64 Architecture Programmer's Manual, volume 2 (24593), section 16.4.1, "APIC Timer Interrupt".
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

from trapgate.machine.clock import Clock, Event, TickSource
from trapgate.machine.device import PlainState

#: Hz before the divider: the 200 MHz reference clock of family 10h systems (31116, BIOS and Kernel Developer's Guide
#: for Family 10h, "APIC Timer Operation").
FREQUENCY = 200_000_000

#: Divide configuration register, bits 3 and 1:0 (table "Divide Values").
DIVIDE_WRITABLE = 0x0B
DIVISORS = (2, 4, 8, 16, 32, 64, 128, 1)


class LapicTimer(PlainState):
    """Counts down from `initial`; calls `on_expiry` at 0 while it is not masked."""

    __slots__ = (
        "_event",
        "base_count",
        "base_tick",
        "divide_register",
        "divisor",
        "initial",
        "masked",
        "on_expiry",
        "periodic",
        "source",
    )

    STATE: ClassVar[tuple[str, ...]] = (
        "base_count",
        "base_tick",
        "divide_register",
        "divisor",
        "initial",
        "masked",
        "periodic",
    )

    def __init__(self, clock: Clock, on_expiry: Callable[[], None]) -> None:
        self.source = TickSource(clock, FREQUENCY)
        self.on_expiry = on_expiry
        self._event: Event | None = None
        self.reset()

    def reset(self) -> None:
        """Stopped, one-shot, masked, dividing by 2."""
        self.initial = 0
        #: The count at tick `base_tick` of the undivided source; 0 when stopped.
        self.base_count = 0
        self.base_tick = 0
        self.divide_register = 0
        self.divisor = DIVISORS[0]
        self.periodic = False
        self.masked = True
        self._reschedule()

    def current(self) -> int:
        """The current count register."""
        count = self.base_count
        if not count:
            return 0
        left = count - (self.source.ticks() - self.base_tick) // self.divisor
        if left > 0:
            return left
        return self.initial - -left % self.initial if self.periodic and self.initial else 0

    def _rebase(self) -> None:
        """Let the count go on from its present value, so that the divisor or the mode can change."""
        count = self.current()
        if count:
            # Keep the phase within a count too.
            self.base_tick += (self.source.ticks() - self.base_tick) // self.divisor * self.divisor
        self.base_count = count

    def _reschedule(self) -> None:
        clock = self.source.clock
        if self._event is not None:
            clock.cancel(self._event)
            self._event = None
        left = self.current()
        if left and not self.masked:
            done = (self.source.ticks() - self.base_tick) // self.divisor
            self._event = clock.schedule(
                self.source.cycle_of(self.base_tick + (done + left) * self.divisor), self._expire
            )

    def _expire(self) -> None:
        self._event = None
        if self.periodic:
            self._rebase()
            self._reschedule()
        else:
            self.base_count = 0
        self.on_expiry()

    def catch_up(self) -> None:
        """Let an expiry that is due happen before the guest changes the timer: events can run late."""
        event = self._event
        if event is not None and event.at <= self.source.clock.now:
            self.source.clock.cancel(event)
            self._expire()

    def set_initial(self, value: int) -> None:
        """Write the initial count: counting starts from it; 0 stops the timer."""
        self.catch_up()
        self.initial = value
        self.base_count = value
        self.base_tick = self.source.ticks()
        self._reschedule()

    def set_divide(self, value: int) -> None:
        """Write the divide configuration register."""
        self.catch_up()
        self._rebase()
        self.divide_register = value & DIVIDE_WRITABLE
        self.divisor = DIVISORS[(value >> 1 & 4) | value & 3]
        self._reschedule()

    def set_mode(self, periodic: bool, masked: bool) -> None:
        """Follow the timer's entry of the local vector table."""
        if periodic != self.periodic:
            self._rebase()
        self.periodic = periodic
        self.masked = masked
        self._reschedule()

    def after_restore(self) -> None:
        """Schedule the next expiry."""
        self._reschedule()
