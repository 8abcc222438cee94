"""The machine's only door to the outside world: where input that does not follow from the guest's state comes in.

What comes in (typed bytes, frames from a network, a key of a viewer) is **delivered** at a modelled cycle, between two
instructions, under the name of the place that takes it. A run whose deliveries are repeated at the same cycles is the
same run: that is what a recording keeps, and why nothing else may bring input into a machine.

Sources are looked at as modelled time passes, and waited for while the guest's processor sleeps.
"""

from __future__ import annotations

import select
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

from trapgate.machine.clock import Clock, Event
from trapgate.machine.control import RunControl
from trapgate.machine.device import Snapshot

#: Modelled cycles between two looks at a source that people type at: 10 ms of the guest's time at 2 GHz.
TYPING_PERIOD = 20_000_000
#: Seconds: for a shorter sleep of the guest no system call is made.
SHORTEST_WAIT = 0.0005
#: Seconds: after a longer wait for input, look whether the run is to end.
LONGEST_WAIT = 0.1

#: Takes bytes that come in for one place of the machine.
Deliver = Callable[[bytes], None]
#: A delivery that was made: cycle, place, bytes. Without a place it is a change of the period (little-endian cycles).
Delivery = tuple[int, str, bytes]


def _nothing() -> None:
    """What happens at the end of a sleep."""


class Source(Protocol):
    """Something outside that input comes from: a terminal, a socket, a network."""

    @property
    def period(self) -> int:
        """Modelled cycles between two looks at it while the guest runs."""

    @property
    def listens(self) -> bool:
        """Whether input may come and is wanted: a guest that sleeps then sleeps for real."""

    def descriptors(self) -> Sequence[int]:
        """File descriptors that become readable when there is something to take."""

    def timeout(self) -> float | None:
        """Seconds of host time after which `poll` is to be called even though no descriptor is readable; or None."""

    def poll(self) -> None:
        """Take what has come, without waiting, and hand it to the Deliver functions. Also shows what was sent."""


def brings_nothing(source: Source) -> bool:
    """Whether a source only looks at the guest, and is looked at even while input is repeated: a debugger."""
    return bool(getattr(source, "brings_nothing", False))


class Outside:
    """The sources of one machine, and the places that take their input. Nothing here is the guest's to see."""

    #: Looks at sources are not the guest's, and `snapshot` has the next one.
    EVENTS_ARE_STATE = False

    def __init__(self, clock: Clock, control: RunControl) -> None:
        self._clock, self._control = clock, control
        self._sources: list[Source] = []
        self._takers: dict[str, Deliver] = {}
        self._delivered = False
        self._next_poll: Event | None = None
        #: Called before each delivery, with the cycle, the place and the bytes: a recording.
        self.on_delivery: Callable[[int, str, bytes], None] | None = None
        #: How often the sources have been looked at: as modelled time passed, or once for each sleep of the guest.
        self.visits = 0
        #: Whether such a look goes on: what is delivered at other times comes between two pieces of a run.
        self.visiting = False
        #: Called before each such look; and after those that change how many cycles come before the next one.
        self.on_visit: Callable[[], None] | None = None
        self.on_period: Callable[[int], None] | None = None
        self._last_period = 0
        #: Called when the next look has been moved to another cycle; and in a replayed run the cycles of those looks,
        #: by the number of the look before.
        self.on_look: Callable[[int], None] | None = None
        self.looks: dict[int, int] | None = None

        #: Deliveries that come again, and the cycle up to which nothing else comes; a debugger's (debug/history.py).
        self._again: deque[Delivery] = deque()
        self._again_until: int | None = None
        self._again_period = 0

    def add_place(self, name: str, receive: Deliver) -> Deliver:
        """Name a place of the machine that takes input. What is returned delivers to it: sources call that."""
        assert name not in self._takers, f"two places named {name}"
        self._takers[name] = receive
        return lambda data: self.deliver(name, data)

    def add_source(self, source: Source) -> None:
        """Look at `source` from now on."""
        self._sources.append(source)
        if brings_nothing(source) and self._next_poll is not None:
            return  # it changes nothing for the others
        self._poll_at(self._clock.now + self._period())

    def look_within(self, cycles: int) -> None:
        """Look at the sources in `cycles` modelled cycles at the latest: one of them has something already."""
        if self.repeating:
            return  # it came then when it comes again
        cycle = self._clock.now + cycles
        if self.looks is not None:
            return  # when the recorded run has looked is known
        if self._next_poll is None or not self._next_poll.pending or self._next_poll.at > cycle:
            self._poll_at(cycle)
            if self.on_look is not None and not self.visiting:
                self.on_look(cycle)

    def deliver(self, name: str, data: bytes) -> None:
        """Hand `data` to the place `name`, now."""
        self._delivered = True
        if self.on_delivery is not None:
            self.on_delivery(self._clock.now, name, data)
        self._takers[name](data)

    # Repeating

    def look_again(self) -> None:
        """The run goes on after it was stopped: a sleep without an end that was cut short has left no look scheduled.

        Looks that are scheduled stay where they are: a recording counts them.
        """
        if self._sources and (self._next_poll is None or not self._next_poll.pending):
            self._poll_at(self._clock.now + self._period())

    def repeat(self, deliveries: Iterable[Delivery], period: int, until: int) -> None:
        """The machine was put back: make these deliveries again, and look at no source before the cycle `until`.

        `period` is what it was there.
        """
        self._again = deque(deliveries)
        self._again_until, self._again_period = until, period
        if self._next_poll is not None and self._next_poll.pending:
            self._poll_at(self._next_poll.at)

    def stop_repeating(self) -> None:
        """Look at the sources from now on."""
        self._again.clear()
        self._again_until = None

    @property
    def repeating(self) -> bool:
        """Whether the machine does what it has done before: nobody outside is to see it again."""
        return self._again_until is not None and self._clock.now < self._again_until

    def _look(self) -> None:
        """Take what has come from every source, or what comes again."""
        if self._again_until is not None:
            while self._again and self._again[0][0] <= self._clock.now:
                _, name, data = self._again.popleft()
                if not name:
                    self._again_period = int.from_bytes(data, "little")
                    continue
                self._delivered = True
                self._takers[name](data)
            if self._clock.now >= self._again_until:
                self._again_until = None
        for source in self._sources:
            if self._again_until is None or brings_nothing(source):
                source.poll()

    # Looking

    def _poll(self) -> None:
        """Look at every source, and again after the shortest of their periods. No guest can see this event."""
        self._visit()
        self._look()
        self.visiting = False
        self._poll_at(self._clock.now + self._period())

    def _visit(self) -> None:
        self.visits += 1
        self.visiting = True
        if self.on_visit is not None:
            self.on_visit()

    def _period(self) -> int:
        if self._again_until is not None and self._again_period:
            return self._again_period
        period = min((s.period for s in self._sources if not brings_nothing(s)), default=TYPING_PERIOD)
        if period != self._last_period:
            self._last_period = period
            if self.on_period is not None:
                self.on_period(period)
        return period

    @property
    def period(self) -> int:
        """Modelled cycles between two looks, as it was last; 0 without a source."""
        return self._last_period

    def replace_sources(self, source: Source) -> None:
        """Look at `source` alone from now on: a recording is what input comes from."""
        self._sources[:] = [source, *(one for one in self._sources if brings_nothing(one))]
        self._poll_at(self._clock.now + self._period())

    def _poll_at(self, cycle: int) -> None:
        if self.looks is not None:
            cycle = self.looks.get(self.visits, cycle)
        if self._next_poll is not None:
            self._clock.cancel(self._next_poll)
        if self._again_until is not None and self._again:
            cycle = min(cycle, max(self._again[0][0], self._clock.now))
        self._next_poll = self._clock.schedule(cycle, self._poll)

    # Sleeping

    def idle(self, cycles: int) -> None:
        """The processor sleeps. While input may come it sleeps for real, else time passes at once."""
        if not self._sources:
            return
        clock = self._clock
        if self._next_poll is not None:
            clock.cancel(self._next_poll)
        self._delivered = False
        self._visit()
        deadline = clock.deadline
        # Without a deadline only input can wake it; without input nothing can, and the processor's loop ends the run.
        self._sleep(None if deadline is None else (deadline - clock.now) / clock.hz)
        self.visiting = False
        if self._delivered:
            clock.schedule(clock.now, _nothing)  # it goes on at once, should that have woken it
            self._poll_at(clock.now + self._period())
        elif deadline is not None:
            self._poll_at(deadline + self._period())

    def _sleep(self, seconds: float | None) -> None:
        """Wait for input, at most `seconds` of host time, if there can be any."""
        if seconds is not None and seconds < SHORTEST_WAIT:
            self._look()
            return
        end = None if seconds is None else time.monotonic() + seconds
        # What was sent is shown first; perhaps that brings an answer.
        self._look()
        while not self._delivered and self._control.request is None and self._listens() and not self.repeating:
            left = LONGEST_WAIT if end is None else end - time.monotonic()
            if left <= 0:
                return
            self._wait(min(left, LONGEST_WAIT))
            self._look()

    def _wait(self, seconds: float) -> None:
        """Wait until a source may have something, at most `seconds` of host time."""
        poller = select.poll()
        for source in self._sources:
            if source.listens:
                limit = source.timeout()
                seconds = seconds if limit is None else min(seconds, limit)
                for number in source.descriptors():
                    poller.register(number, select.POLLIN)
        poller.poll(seconds * 1000)

    def _listens(self) -> bool:
        return any(source.listens for source in self._sources)

    # Snapshot

    def snapshot(self) -> Snapshot:
        """When the sources are looked at next: a look can part a repeated instruction in two."""
        event = self._next_poll
        return {"next_look": None if event is None or not event.pending else event.at}

    def restore(self, snapshot: Snapshot) -> None:
        """Look at the sources, if there are any, at the cycle at which that was due."""
        if self._next_poll is not None:
            self._clock.cancel(self._next_poll)
            self._next_poll = None
        if self._sources:
            at = snapshot["next_look"]
            self._poll_at(self._clock.now + self._period() if at is None else at)
