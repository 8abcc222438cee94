"""A network card that is handed whole frames, and hands them over: no rings, no registers.

What the guest sends goes out at once; what comes in waits here until the guest asks for it, a few frames at most.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import ClassVar

from trapgate.machine.device import PlainState
from trapgate.machine.network import HEADER, LONGEST, SHORTEST, Link
from trapgate.machine.ram import Ram

#: Frames that wait for the guest, at most.
MOST_WAITING = 64


class HypercallCard(PlainState):
    """`on_frame()` is called when a frame has come."""

    STATE: ClassVar[tuple[str, ...]] = ("waiting", "is_open")

    def __init__(self, name: str, memory: Ram, mac: bytes, link: Link, on_frame: Callable[[], None]) -> None:
        self.name = name
        self._memory, self.mac, self._link, self._on_frame = memory, mac, link, on_frame
        self.waiting: list[bytes] = []
        #: Whether the guest has asked for frames: those that come before are lost.
        self.is_open = False
        #: What went through it and what went wrong (metric).
        self.counts: Counter[str] = Counter()
        self.faults: Counter[str] = Counter()

    def reset(self) -> None:
        """As at power-on."""
        self.waiting, self.is_open = [], False

    @property
    def ready(self) -> bool:
        """Whether a frame would be kept."""
        return self.is_open and len(self.waiting) < MOST_WAITING

    def receive(self, data: bytes) -> None:
        """A frame from the network: for this station or for all."""
        if not self.ready or not HEADER <= len(data) <= LONGEST:
            self.counts["frames_lost"] += 1
        elif data[:6] != self.mac and not data[0] & 1:
            self.counts["frames_filtered"] += 1
        else:
            self.counts["frames_received"] += 1
            self.counts["bytes_received"] += len(data)
            self.waiting.append(data)
            self._on_frame()

    def send(self, address: int, length: int) -> bool:
        """Send the frame of `length` bytes at guest-physical `address`; False for one that cannot be."""
        if not HEADER <= length <= LONGEST:
            self.faults["frame of a bad length"] += 1
            return False
        if not self._memory.is_ram(address, length):
            self.faults["frame outside memory"] += 1
            return False
        self.counts["frames_sent"] += 1
        self.counts["bytes_sent"] += length
        self._link.send(self._memory.read(address, length).ljust(SHORTEST, b"\0"))
        return True

    def take(self, address: int, room: int) -> int:
        """Put the first frame that waits at `address`, `room` bytes long: its length, 0 without one, or -1 where it
        does not fit, and waits on."""
        self.is_open = True
        if not self.waiting:
            return 0
        frame = self.waiting[0]
        if len(frame) > room:
            self.faults["room for a frame that is too small"] += 1
            return -1
        if not self._memory.is_ram(address, len(frame)):
            self.faults["frame outside memory"] += 1
            return -1
        self._memory.write(address, frame)
        del self.waiting[0]
        return len(frame)
