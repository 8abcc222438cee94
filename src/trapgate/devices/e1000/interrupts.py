"""Causes of interrupts, their mask, and how they are held back: throttling, and delays after packets.

Source: SDM 3.2.7, 3.4.3 (delays), 13.4.17 to 13.4.21, 13.4.30, 13.4.31, 13.4.44, 13.4.46.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

from trapgate.devices.e1000.registers import CAUSES, DELAY_NANOSECONDS
from trapgate.machine.clock import Clock, Event
from trapgate.machine.device import PlainState


class Delay(PlainState):
    """The pair of timers of a ring: one starts again with every packet, the other runs from the first one on."""

    STATE: ClassVar[tuple[str, ...]] = ("packet_due", "absolute_due")

    def __init__(self, clock: Clock, on_end: Callable[[], None]) -> None:
        self.name = "e1000-delay"
        self._clock, self._on_end = clock, on_end
        self._event: Event | None = None
        #: Cycles at which they end, or -1.
        self.packet_due = self.absolute_due = -1

    def start(self, packet: int, absolute: int) -> None:
        """A packet: time until the interrupt, in the registers' units; `absolute` is 0 for no limit."""
        clock = self._clock
        packet, absolute = (units * DELAY_NANOSECONDS * clock.hz // 1_000_000_000 for units in (packet, absolute))
        self.packet_due = clock.now + packet
        if absolute and self.absolute_due < 0:
            self.absolute_due = clock.now + absolute
        self._arm()

    def stop(self) -> None:
        """What waited needs no interrupt any more, or had it."""
        self.packet_due = self.absolute_due = -1
        self._arm()

    def _arm(self) -> None:
        if self._event is not None:
            self._clock.cancel(self._event)
            self._event = None
        waiting = [due for due in (self.packet_due, self.absolute_due) if due >= 0]
        if waiting:
            self._event = self._clock.schedule(min(waiting), self._end)

    def _end(self) -> None:
        self._event = None
        self.packet_due = self.absolute_due = -1
        self._on_end()

    def after_restore(self) -> None:
        """Wait again."""
        self._arm()


class Interrupts(PlainState):
    """ICR and its mask. `drive(level)` is INTA#."""

    STATE: ClassVar[tuple[str, ...]] = ("causes", "mask", "next_allowed", "level")

    def __init__(self, clock: Clock, interval: Callable[[], int], drive: Callable[[bool], None]) -> None:
        """`interval()`: cycles between two interrupts, as ITR says."""
        self.name = "e1000-interrupts"
        self._clock, self._interval, self._drive = clock, interval, drive
        self._event: Event | None = None
        self.causes = self.mask = 0
        #: The first cycle at which the line may be asserted again.
        self.next_allowed = 0
        self.level = False

    def reset(self) -> None:
        """No cause, all masked."""
        self.causes = self.mask = self.next_allowed = 0
        self._update()

    def add(self, causes: int) -> None:
        """Something has happened."""
        self.causes |= causes & CAUSES
        self._update()

    def read_and_clear(self) -> int:
        """ICR by reading (13.4.17)."""
        causes, self.causes = self.causes, 0
        self._update()
        return causes

    def clear(self, causes: int) -> None:
        """ICR by writing ones."""
        self.causes &= ~causes
        self._update()

    def enable(self, causes: int) -> None:
        """IMS."""
        self.mask |= causes & CAUSES
        self._update()

    def disable(self, causes: int) -> None:
        """IMC."""
        self.mask &= ~causes
        self._update()

    def _update(self) -> None:
        """Assert or release the line; with throttling, assert it when the interval has passed."""
        wanted = bool(self.causes & self.mask)
        if self._event is not None:
            self._clock.cancel(self._event)
            self._event = None
        if wanted and not self.level:
            now = self._clock.now
            if now < self.next_allowed:
                self._event = self._clock.schedule(self.next_allowed, self._allowed)
                return
            self.next_allowed = now + self._interval()
        if wanted != self.level:
            self.level = wanted
            self._drive(wanted)

    def _allowed(self) -> None:
        self._event = None
        self._update()

    def after_restore(self) -> None:
        """The line is as it was; wait on."""
        if self._event is not None:
            self._clock.cancel(self._event)
            self._event = None
        if self.causes & self.mask and not self.level:
            self._event = self._clock.schedule(self.next_allowed, self._allowed)
