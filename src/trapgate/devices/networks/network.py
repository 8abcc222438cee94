"""What all networks of the host have in common: they take frames from a card, and keep frames for it until it has room.

Frames come into the machine by delivery alone, when the network is looked at (machine/outside.py). What a peer can make
it hold and do is bounded: PENDING frames wait, and one look takes at most BATCH.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter, deque
from collections.abc import Callable, Sequence
from typing import Protocol

from trapgate.devices.networks.errors import reason
from trapgate.machine.clock import Clock
from trapgate.machine.network import HEADER, LARGEST, LONGEST, Card, LargeCard
from trapgate.machine.outside import Deliver

#: Frames that wait for the card, at most; further ones are dropped, as a switch does.
PENDING = 1024
#: Frames that are taken from the host in one look.
BATCH = 256
#: Looks in a modelled second: while frames come and go, and otherwise.
ACTIVE_LOOKS, QUIET_LOOKS = 4000, 500
#: Modelled time until an answer comes that is there already: 1/ANSWER_LOOKS of a second, 10 us.
ANSWER_LOOKS = 100_000
#: Modelled time without a frame after which a network is quiet: 1/QUIET_AFTER of a second.
QUIET_AFTER = 50


class Capture(Protocol):
    """Keeps what passes on a cable."""

    def write(self, nanoseconds: int, frame: bytes) -> None:
        """Keep `frame`, which passed at modelled time `nanoseconds`."""

    def close(self) -> None:
        """No more come."""


class Network(ABC):
    """A `Link` for one card, and a `Source` of the machine's input. `name` is for messages and statistics."""

    #: Whether it takes whole TCP packets over IPv4 from a card, up to LARGEST bytes of frame, and may give such.
    takes_large = False

    def __init__(self, name: str) -> None:
        self.name = name
        #: Frames and bytes from and to the card, and what was not passed on, by reason (metric).
        self.counts: Counter[str] = Counter()
        self.faults: Counter[str] = Counter()
        self.capture: Capture | None = None
        self._pending: deque[bytes] = deque()
        self._card: Card | None = None
        self._large_card: LargeCard | None = None
        self._deliver: Deliver = lambda frame: None
        self._clock: Clock | None = None
        self._look_within: Callable[[int], None] = lambda cycles: None
        #: The cycle at which a frame last passed.
        self._last = 0

    def plug(
        self, card: Card, deliver: Deliver, clock: Clock, look_within: Callable[[int], None] = lambda cycles: None
    ) -> None:
        """Plug `card` in; frames for it go to `deliver`. `look_within` has the machine look in so many cycles."""
        self._card, self._deliver, self._clock = card, deliver, clock
        self._look_within = look_within
        self._large_card = card if self.takes_large and isinstance(card, LargeCard) else None
        self._last = -clock.hz

    @property
    def gives_large(self) -> bool:
        """Whether the card wants whole TCP packets now."""
        return self._large_card is not None and self._large_card.takes_large

    # From the card

    def send(self, frame: bytes) -> None:
        """Take a frame from the card."""
        self._passes(frame)
        self.counts["frames_out"] += 1
        self.counts["bytes_out"] += len(frame)
        self.transmit(frame)
        if self._pending and self._clock is not None:
            # What was sent has an answer already.
            self._look_within(self._clock.hz // ANSWER_LOOKS)

    def _passes(self, frame: bytes) -> None:
        if self._clock is None:
            return
        self._last = self._clock.now
        if self.capture is not None:
            self.capture.write(self._last * 1_000_000_000 // self._clock.hz, frame)

    @abstractmethod
    def transmit(self, frame: bytes) -> None:
        """Pass a frame from the card on. Never raises."""

    # To the card

    @property
    def room(self) -> int:
        """Frames that may be taken from the host now."""
        return BATCH - len(self._pending)

    def put(self, frame: bytes) -> None:
        """A frame has come from the host: it is delivered in the next look."""
        if not HEADER <= len(frame) <= (LARGEST if self.takes_large else LONGEST):
            self.faults["frame of a bad length"] += 1
        elif len(self._pending) >= PENDING:
            self.faults["flood"] += 1
        else:
            self._pending.append(frame)

    @abstractmethod
    def fetch(self) -> None:
        """`put` what has come from the host, about `room` frames, without waiting. Never raises."""

    # Source

    @property
    def period(self) -> int:
        """Modelled cycles between two looks."""
        clock = self._clock
        assert clock is not None, "plugged in before it is looked at"
        is_quiet = clock.now - self._last > clock.hz // QUIET_AFTER
        return clock.hz // (QUIET_LOOKS if is_quiet else ACTIVE_LOOKS)

    @property
    def listens(self) -> bool:
        """Whether the card has room: a guest that sleeps then waits for the network."""
        return self._card is not None and self._card.ready

    def descriptors(self) -> Sequence[int]:
        """Those of the host, unless there are frames already that the card has no room for."""
        return () if self._pending else self.watched()

    @abstractmethod
    def watched(self) -> Sequence[int]:
        """File descriptors that become readable when `fetch` has something to do."""

    def timeout(self) -> float | None:
        """Seconds after which `fetch` has something to do in any case."""
        return None

    def poll(self) -> None:
        """Take what has come, and deliver what the card has room for."""
        card = self._card
        if card is None:
            return
        self.fetch()
        pending = self._pending
        while pending and card.ready:
            frame = pending.popleft()
            self._passes(frame)
            self.counts["frames_in"] += 1
            self.counts["bytes_in"] += len(frame)
            self._deliver(frame)

    def close(self) -> None:
        """Give the host back what it lent."""
        if self.capture is not None:
            self.capture.close()
        self.release()

    @abstractmethod
    def release(self) -> None:
        """Close sockets and files."""


def receive_frames(network: Network, receive: Callable[[], bytes]) -> None:
    """Put what `receive` gives, one frame at a time, until it would have to wait or there is no room.

    Another error of it (of a datagram socket: nobody listens at the other side yet) is counted.
    """
    for _ in range(network.room):
        try:
            frame = receive()
        except BlockingIOError:
            return
        except OSError as error:
            network.faults[f"host: {reason(error)}"] += 1
            return
        network.put(frame)
