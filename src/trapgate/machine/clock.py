"""Time: modelled cycles of the processor, and events that happen at a cycle.

The host's clock plays no part. Devices compute their counters from `Clock.now` and schedule an event only where
something must happen by itself (an interrupt, a character that arrives).
"""

from __future__ import annotations

import heapq
from collections.abc import Callable

from trapgate.machine.device import Snapshot
from trapgate.machine.errors import InvalidFrequency, SnapshotMismatch


class Event:
    """Something that is to happen at cycle `at`. Made by Clock.schedule alone."""

    __slots__ = ("at", "callback", "pending")

    def __init__(self, at: int, callback: Callable[[], None]) -> None:
        self.at = at
        self.callback = callback
        #: True until the event ran or was cancelled.
        self.pending = True


class Clock:
    """`now` counts cycles of `hz` cycles per modelled second. Who runs the processor sets `now`; it never goes back."""

    __slots__ = ("_cancelled", "_heap", "hz", "now", "scheduled")

    def __init__(self, hz: int) -> None:
        """Raises InvalidFrequency unless `hz` is at least 1 MHz: device timers count millions per second."""
        if hz < 1_000_000:
            raise InvalidFrequency(hz)
        self.hz = hz
        self.now = 0
        self._heap: list[tuple[int, int, Event]] = []
        #: How many events have ever been scheduled: while it stays, no deadline comes nearer.
        self.scheduled = 0
        self._cancelled = 0

    def schedule(self, at: int, callback: Callable[[], None]) -> Event:
        """Have `callback` called at cycle `at`; events of the same cycle run in the order of scheduling.

        A cycle that has passed already is due at once: at the next `run_due`.
        """
        event = Event(at, callback)
        self.scheduled += 1
        heapq.heappush(self._heap, (at, self.scheduled, event))
        return event

    def cancel(self, event: Event) -> None:
        """Make `event` not happen. Cancelling one that ran or was cancelled does nothing."""
        if not event.pending:
            return
        event.pending = False
        # A guest can arm and disarm a far timer in a loop: the heap must not grow with it.
        self._cancelled += 1
        if self._cancelled > 64 and self._cancelled * 2 > len(self._heap):
            self._heap[:] = [entry for entry in self._heap if entry[2].pending]
            heapq.heapify(self._heap)
            self._cancelled = 0

    @property
    def deadline(self) -> int | None:
        """The cycle of the next event, or None when there is none."""
        heap = self._heap
        while heap:
            head = heap[0]
            if head[2].pending:
                return head[0]
            heapq.heappop(heap)
        return None

    def run_due(self) -> None:
        """Run every event whose cycle is at most `now`, in order, those included that they schedule themselves."""
        heap = self._heap
        while heap and heap[0][0] <= self.now:
            event = heapq.heappop(heap)[2]
            if event.pending:
                event.pending = False
                event.callback()

    # Snapshot

    def _pending(self) -> list[Event]:
        """What is to happen, in order."""
        return [event for _, _, event in sorted(self._heap, key=lambda entry: entry[:2]) if event.pending]

    def snapshot(self) -> Snapshot:
        """Now, and what is to happen when and in which order: by names, as devices make their events again."""
        named = ((event.at, event_name(event)) for event in self._pending())
        return {"now": self.now, "events": [[at, name] for at, name in named if name]}

    def restore(self, snapshot: Snapshot) -> None:
        """Put the events of the devices, which have made them again at the same `now`, in the order that they had.

        Raises SnapshotMismatch unless they are the same events.
        """
        names: dict[str, list[Event]] = {}
        others = []
        for event in self._pending():
            name = event_name(event)
            if name:
                names.setdefault(name, []).append(event)
            else:
                others.append(event)
        ordered = []
        for at, name in snapshot["events"]:
            found = names.get(name)
            if not found:
                raise SnapshotMismatch("clock", _event_names(snapshot), {name for name, left in names.items() if left})
            event = found.pop(0)
            event.at = at
            ordered.append(event)
        if any(names.values()):
            raise SnapshotMismatch("clock", _event_names(snapshot), {name for name, left in names.items() if left})
        self._heap.clear()
        self._cancelled = 0
        for event in [*ordered, *others]:
            self.scheduled += 1
            heapq.heappush(self._heap, (event.at, self.scheduled, event))


def _event_names(snapshot: Snapshot) -> set[str]:
    return {name for _, name in snapshot["events"]} or {"no events"}


def event_name(event: Event) -> str:
    """The method that an event calls and whose; empty for what is no device's, such as a look at the terminal."""
    function = event.callback
    owner = getattr(function, "__self__", None)
    if owner is None or getattr(owner, "EVENTS_ARE_STATE", True) is False:
        return ""
    return f"{getattr(owner, 'name', '') or type(owner).__name__}.{function.__name__}"


class TickSource:
    """A crystal of `frequency` Hz beside the processor's clock: whole ticks since cycle 0, exact in integers."""

    __slots__ = ("clock", "frequency")

    def __init__(self, clock: Clock, frequency: int) -> None:
        self.clock = clock
        self.frequency = frequency

    def ticks(self) -> int:
        """Ticks that have passed by now."""
        return self.clock.now * self.frequency // self.clock.hz

    def cycle_of(self, tick: int) -> int:
        """The first cycle at which `ticks()` is at least `tick`."""
        return -(-tick * self.clock.hz // self.frequency)
