"""What was counted between marks that a guest writes to its console: a line of the record separator and `io:NAME`."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass

from trapgate.lab.compare import CapturedConsole
from trapgate.lab.statistics import Statistics

MARK = re.compile(rb"\x1eio:([a-z-]+)\n")


@dataclass(frozen=True, slots=True)
class Mark:
    """What had been counted, and the seconds of CPU time that the host had spent, when a guest wrote a mark."""

    name: str
    statistics: Statistics
    host_seconds: float


class MarkedConsole(CapturedConsole):
    """A console that reads the counters as each mark is completed, and forgets what it has looked through."""

    def __init__(self) -> None:
        super().__init__()
        self.marks: list[Mark] = []
        #: Reads the counters of the run whose console this is.
        self.read: Callable[[], Statistics] | None = None
        self._looked = 0

    def write(self, data: bytes) -> None:
        """Keep bytes of the guest."""
        super().write(data)
        if b"\n" not in data or self.read is None:
            return
        for match in MARK.finditer(self.data, self._looked):
            self.marks.append(Mark(match[1].decode(), self.read(), time.process_time()))
            self._looked = match.end()


@dataclass(frozen=True, slots=True)
class Spent:
    """What a piece of work took, or the difference between two."""

    #: Frames and bytes that the card has sent and received.
    sent: int
    sent_bytes: int
    received: int
    received_bytes: int
    #: Accesses to a device, by its name.
    accesses: dict[str, int]
    exits: int
    #: Modelled cycles, and those of them without time asleep; those of world switches.
    cycles: int
    busy: int
    switches: int
    host_seconds: float

    def __sub__(self, other: Spent) -> Spent:
        accesses = {name: count - other.accesses.get(name, 0) for name, count in self.accesses.items()}
        return Spent(
            self.sent - other.sent, self.sent_bytes - other.sent_bytes, self.received - other.received,
            self.received_bytes - other.received_bytes, accesses, self.exits - other.exits,
            self.cycles - other.cycles, self.busy - other.busy, self.switches - other.switches,
            self.host_seconds - other.host_seconds,
        )  # fmt: skip


def spent(mark: Mark) -> Spent:
    """Everything up to a mark."""
    statistics, card = mark.statistics, _card(mark.statistics)
    return Spent(
        sent=card.get("frames_sent", 0),
        sent_bytes=card.get("bytes_sent", 0),
        received=card.get("frames_received", 0),
        received_bytes=card.get("bytes_received", 0),
        accesses={**statistics.port_accesses, **statistics.memory_accesses},
        exits=sum(count.samples for count in statistics.exits.values()),
        cycles=statistics.cycles,
        busy=statistics.cycles - statistics.cycles_by_place["idle"],
        switches=statistics.cycles_by_place["world_switches"],
        host_seconds=mark.host_seconds,
    )


def _card(statistics: Statistics) -> dict[str, int]:
    for name in ("net0", "hypercall-net0"):
        if name in statistics.device_counts:
            return dict(statistics.device_counts[name])
    return {}
