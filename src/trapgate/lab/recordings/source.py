"""A recording as the source of a machine's input."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from trapgate.lab.recordings.errors import ReplayDiverged
from trapgate.lab.recordings.stream import Delivery, Period
from trapgate.machine.clock import Clock
from trapgate.machine.outside import Outside


class ReplaySource:
    """Delivers what was delivered in the same looks at the sources; `refresh` shows the guest's screen at each.

    Raises ReplayDiverged where the looks are at other cycles.
    """

    #: Nothing is waited for.
    listens = False

    def __init__(
        self,
        outside: Outside,
        clock: Clock,
        deliveries: Sequence[Delivery],
        periods: Sequence[Period],
        refresh: Callable[[], None],
    ) -> None:
        self._outside, self._clock, self._refresh = outside, clock, refresh
        self._deliveries = list(reversed(deliveries))
        self._periods = list(reversed(periods))
        self._period = 1

    @property
    def period(self) -> int:
        """As it was recorded."""
        while self._periods and self._periods[-1].visit <= self._outside.visits:
            self._period = max(1, self._periods.pop().cycles)
        return self._period

    def descriptors(self) -> Sequence[int]:
        """None."""
        return ()

    def timeout(self) -> float | None:
        """None."""
        return None

    def poll(self) -> None:
        """Deliver what comes with this look."""
        self._refresh()
        visit, now = self._outside.visits, self._clock.now
        waiting = self._deliveries
        while waiting and waiting[-1].visit <= visit:
            delivery = waiting.pop()
            if (delivery.visit, delivery.cycle) != (visit, now):
                wanted = f"look {delivery.visit}, cycle {delivery.cycle}"
                raise ReplayDiverged(f"input for {delivery.place} in", wanted, f"look {visit}, cycle {now}")
            self._outside.deliver(delivery.place, delivery.data)
