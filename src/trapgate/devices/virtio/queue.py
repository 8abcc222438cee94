"""A split virtqueue in guest memory.

Everything in it is the guest's to write, so every index, address and length is checked before it is used; a ring that
breaks the rules raises QueueFault, which the transport turns into DEVICE_NEEDS_RESET.

Source: "Virtual I/O Device (VIRTIO) Version 1.2", 2.7.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

from trapgate.machine.device import PlainState
from trapgate.machine.errors import AddressOutsideMemory
from trapgate.machine.ram import Ram

LARGEST_SIZE = 256
NEXT, WRITE, INDIRECT = 1, 2, 4
NO_INTERRUPT = 1
NO_NOTIFY = 1
_USED = struct.Struct("<II")
_DESCRIPTOR = struct.Struct("<QIHH")
DESCRIPTOR = _DESCRIPTOR.size
#: Requests that one frame is written into at most, by `fill`.
MOST_FILLED = 64
#: Descriptors of an indirect table that are followed at most.
LONGEST_TABLE = 1024


def _entries(done: Sequence[tuple[int, int]]) -> bytes:
    """Elements of the used ring."""
    return b"".join([_USED.pack(head, written) for head, written in done])


class QueueFault(Exception):
    """The driver has broken the rules of 2.7. `reason` is a few words for the statistics."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(slots=True)
class Chain:
    """A request: guest-physical (address, length) of what the device reads, then of what it writes. All is RAM."""

    head: int
    readable: Sequence[tuple[int, int]]
    writable: Sequence[tuple[int, int]]

    @property
    def readable_length(self) -> int:
        """Bytes that the device may read."""
        return sum(length for _, length in self.readable)

    @property
    def writable_length(self) -> int:
        """Bytes that the device may write."""
        return sum(length for _, length in self.writable)


class Virtqueue(PlainState):
    """Addresses are guest-physical; `next_available` and `next_used` count modulo 2^16."""

    STATE: ClassVar[tuple[str, ...]] = (
        "size", "enabled", "descriptors", "driver", "device", "vector", "next_available", "next_used", "signalled",
    )  # fmt: skip

    def __init__(self, memory: Ram) -> None:
        self.name = "virtqueue"
        self._memory = memory
        #: Features that were agreed on: indirect descriptors, event indices.
        self.indirect = self.event_index = False
        self.reset()

    def reset(self) -> None:
        """As after a reset of the device."""
        self.size = LARGEST_SIZE
        self.enabled = False
        self.descriptors = self.driver = self.device = 0
        self.vector = 0xFFFF
        self.next_available = self.next_used = 0
        #: next_used at the last interrupt.
        self.signalled = 0

    def set_size(self, size: int) -> bool:
        """The driver chooses a size; False for one that is no power of two, or larger than offered (2.7)."""
        if not 0 < size <= LARGEST_SIZE or size & size - 1:
            return False
        self.size = size
        return True

    def _read(self, address: int, length: int) -> bytes:
        try:
            return self._memory.read(address, length)
        except AddressOutsideMemory as error:
            raise QueueFault("ring outside memory") from error

    def _write(self, address: int, data: bytes) -> None:
        try:
            self._memory.write(address, data)
        except AddressOutsideMemory as error:
            raise QueueFault("ring outside memory") from error

    def _word(self, address: int) -> int:
        return int.from_bytes(self._read(address, 2), "little")

    # From the driver

    def waiting(self) -> int:
        """How many requests are there. Raises QueueFault."""
        waiting = self._word(self.driver + 2) - self.next_available & 0xFFFF
        if waiting > self.size:
            raise QueueFault("more requests than the queue is long")
        return waiting

    def pop(self) -> Chain | None:
        """The next request; None when there is none: then notifications are wanted. Raises QueueFault."""
        chain = self.take()
        if chain is None and self.event_index:
            self.want_notifications(True)
        return chain

    def take(self) -> Chain | None:
        """The next request, or None; whether notifications are wanted stays. Raises QueueFault."""
        return self.next() if self.waiting() else None

    def next(self) -> Chain:
        """The next request, of which the caller knows that it is there. Raises QueueFault."""
        head = self._word(self.driver + 4 + 2 * (self.next_available % self.size))
        chain = self._follow(head)
        self.next_available = self.next_available + 1 & 0xFFFF
        return chain

    def _heads(self, count: int) -> Sequence[int]:
        """The heads of the next `count` requests, of which the caller knows that they are there. Raises QueueFault."""
        first = self.next_available % self.size
        until_end = min(count, self.size - first)
        data = self._read(self.driver + 4 + 2 * first, 2 * until_end)
        if count > until_end:
            data += self._read(self.driver + 4, 2 * (count - until_end))
        return struct.unpack(f"<{count}H", data)

    def room_for(self, left: int) -> list[tuple[int, int, int]]:
        """The next requests, as many as `left` bytes take: head, guest-physical address and how many bytes go there.

        Quicker than `take`, for requests of one descriptor that the device writes, as drivers of network cards make
        them. Where there is another, or where there are too few: an empty list. Raises QueueFault.
        """
        there = min(self.waiting(), MOST_FILLED)
        if not there:
            return []
        table = self._read(self.descriptors, DESCRIPTOR * self.size)
        places: list[tuple[int, int, int]] = []
        unpack = _DESCRIPTOR.unpack_from
        for head in self._heads(there):
            if head >= self.size:
                return []
            address, length, flags, _ = unpack(table, DESCRIPTOR * head)
            if flags != WRITE or not length:
                return []
            if length >= left:
                places.append((head, address, left))
                return places
            places.append((head, address, length))
            left -= length
        return []

    def fill(self, places: Sequence[tuple[int, int, int]], data: bytes) -> list[tuple[int, int]]:
        """Take the requests that `room_for` has found, and write `data` into them: heads and bytes, for `push_all`.
        Raises QueueFault."""
        view, place = memoryview(data), 0
        for _, address, length in places:
            try:
                self._memory.write(address, view[place : place + length])
            except AddressOutsideMemory as error:
                raise QueueFault("buffer outside memory") from error
            place += length
        self.next_available = self.next_available + len(places) & 0xFFFF
        return [(head, length) for head, _, length in places]

    def put_back(self, count: int) -> None:
        """The last `count` requests that were taken are there again."""
        self.next_available = self.next_available - count & 0xFFFF

    def want_notifications(self, wanted: bool) -> None:
        """Tell the driver whether to notify the device of the next request (2.7.10, 2.7.7). Raises QueueFault.

        The driver's request that a stale event index leads to does no harm.
        """
        if not self.event_index:
            self._write(self.device, (0 if wanted else NO_NOTIFY).to_bytes(2, "little"))
        elif wanted:
            self._write(self.device + 4 + 8 * self.size, self.next_available.to_bytes(2, "little"))

    def pop_all(self) -> Iterator[Chain]:
        """Every request that is there: at most as many as the queue is long, whatever else its memory is used for.
        Raises QueueFault."""
        for _ in range(self.size):
            chain = self.pop()
            if chain is None:
                return
            yield chain

    def _follow(self, head: int) -> Chain:
        readable: list[tuple[int, int]] = []
        writable: list[tuple[int, int]] = []
        table, size, index, seen, is_indirect = self.descriptors, self.size, head, 0, False
        unpack, is_ram = _DESCRIPTOR.unpack, self._memory.is_ram
        while True:
            if index >= size:
                raise QueueFault("descriptor behind the table")
            seen += 1
            if seen > size:
                raise QueueFault("descriptors that loop")
            address, length, flags, following = unpack(self._read(table + DESCRIPTOR * index, DESCRIPTOR))
            if flags & INDIRECT:
                if not self.indirect or is_indirect or flags & NEXT or seen > 1:
                    raise QueueFault("indirect descriptor where none may be")
                if not length or length % DESCRIPTOR or length > LONGEST_TABLE * DESCRIPTOR:
                    raise QueueFault("indirect table of a bad length")
                table, size, index, seen, is_indirect = address, length // DESCRIPTOR, 0, 0, True
                continue
            if length and not is_ram(address, length):
                raise QueueFault("buffer outside memory")
            if flags & WRITE:
                writable.append((address, length))
            elif writable:
                raise QueueFault("readable descriptor behind a writable one")
            else:
                readable.append((address, length))
            if not flags & NEXT:
                return Chain(head, readable, writable)
            index = following

    def gather(self, chain: Chain, length: int) -> bytes:
        """The first `length` bytes of what the device may read."""
        parts = []
        for address, size in chain.readable:
            if length <= 0:
                break
            if not size:
                continue  # its address need not be one of memory
            parts.append(self._memory.read(address, min(size, length)))
            length -= size
        return b"".join(parts)

    def scatter(self, chain: Chain, data: bytes | memoryview, skip: int = 0) -> None:
        """Write `data` into the chain's buffers from byte `skip` on; what does not fit is dropped."""
        view = memoryview(data)
        for address, size in chain.writable:
            if skip >= size:
                skip -= size
                continue
            piece = view[: size - skip]
            if not piece:
                return
            self._memory.write(address + skip, piece)
            view = view[len(piece) :]
            skip = 0

    # To the driver

    def push(self, head: int, written: int) -> bool:
        """Give a request back; True when the driver wants an interrupt. Raises QueueFault."""
        return self.push_all(((head, written),))

    def push_all(self, done: Sequence[tuple[int, int]]) -> bool:
        """Give requests (head, bytes written) back, which the driver sees at once, all or none; True when it wants an
        interrupt. Raises QueueFault."""
        place = self.next_used % self.size
        until_end = self.size - place
        self._write(self.device + 4 + 8 * place, _entries(done[:until_end]))
        if len(done) > until_end:
            self._write(self.device + 4, _entries(done[until_end:]))
        self.next_used = self.next_used + len(done) & 0xFFFF
        self._write(self.device + 2, self.next_used.to_bytes(2, "little"))
        if not self.event_index:
            return not self._word(self.driver) & NO_INTERRUPT
        wanted = self._word(self.driver + 4 + 2 * self.size)
        before, self.signalled = self.signalled, self.next_used
        return self.next_used - wanted - 1 & 0xFFFF < self.next_used - before & 0xFFFF
