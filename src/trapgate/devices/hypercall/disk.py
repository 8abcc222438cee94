"""A disk that takes whole requests from guest memory. It does them one after the other, each in a disk's usual time.

A request is 32 bytes, little-endian: operation (32 bits), flags (32, 0), sector (64), guest-physical address of the
data (64), sectors (32), status (32). The guest sets the status to 0 and finds it changed when the request is done.
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Callable
from typing import ClassVar

from trapgate.devices import disk_timing
from trapgate.machine.block import BlockBackend, BlockError
from trapgate.machine.clock import Clock, Event
from trapgate.machine.device import PlainState
from trapgate.machine.ram import Ram

SECTOR = 512
REQUEST = struct.Struct("<IIQQII")
STATUS_OFFSET = 28
READ, WRITE, FLUSH = 0, 1, 2
# Statuses.
DONE, IO_ERROR, BAD_REQUEST = 1, 2, 3
#: Requests that wait, at most; sectors of one.
MOST_WAITING, MOST_SECTORS = 64, 4096


class HypercallDisk(PlainState):
    """`on_done()` is called when a request has been done."""

    STATE: ClassVar[tuple[str, ...]] = ("waiting", "due")

    def __init__(self, name: str, memory: Ram, clock: Clock, medium: BlockBackend, on_done: Callable[[], None]) -> None:
        self.name = name
        self._memory, self._clock, self.medium, self._on_done = memory, clock, medium, on_done
        self._event: Event | None = None
        self.sectors = medium.size // SECTOR
        #: Addresses of requests, the one that is under way first, and when that is done (or -1).
        self.waiting: list[int] = []
        self.due = -1
        #: What was done and what went wrong (metric).
        self.counts: Counter[str] = Counter()
        self.faults: Counter[str] = Counter()

    def reset(self) -> None:
        """What is under way is dropped."""
        self._cancel()
        self.waiting, self.due = [], -1

    def _cancel(self) -> None:
        if self._event is not None:
            self._clock.cancel(self._event)
            self._event = None

    def submit(self, address: int) -> bool:
        """A request at guest-physical `address`; False when it is not in RAM or too many wait."""
        if not self._memory.is_ram(address, REQUEST.size):
            self.faults["request outside memory"] += 1
            return False
        if len(self.waiting) >= MOST_WAITING:
            self.faults["too many requests"] += 1
            return False
        self.counts["requests"] += 1
        self.waiting.append(address)
        if self.due < 0:
            self._start()
        return True

    def _start(self) -> None:
        """The first request that waits: its time begins."""
        operation, _, _, _, sectors, _ = REQUEST.unpack(self._memory.read(self.waiting[0], REQUEST.size))
        moved = min(sectors, MOST_SECTORS) if operation in (READ, WRITE) else 0
        microseconds = disk_timing.COMMAND_MICROSECONDS + disk_timing.SECTOR_MICROSECONDS * moved
        self.due = self._clock.now + disk_timing.cycles(self._clock.hz, microseconds)
        self._event = self._clock.schedule(self.due, self._finish)

    def _finish(self) -> None:
        self._event, self.due = None, -1
        address = self.waiting.pop(0)
        try:
            status = self._carry_out(address)
        except BlockError as error:
            self.faults[error.reason] += 1
            status = IO_ERROR
        self._memory.write_u32(address + STATUS_OFFSET, status)
        if self.waiting:
            self._start()
        self._on_done()

    def _carry_out(self, address: int) -> int:
        operation, flags, sector, buffer, sectors, _ = REQUEST.unpack(self._memory.read(address, REQUEST.size))
        if operation == FLUSH:
            self.medium.flush()
            self.counts["flushes"] += 1
            return DONE
        length = sectors * SECTOR
        if operation not in (READ, WRITE) or flags or not 0 < sectors <= MOST_SECTORS:
            self.faults["request of a bad form"] += 1
            return BAD_REQUEST
        if not self._memory.is_ram(buffer, length):
            self.faults["data outside memory"] += 1
            return BAD_REQUEST
        if sector + sectors > self.sectors:
            self.faults["address behind the last sector"] += 1
            return IO_ERROR
        if operation == READ:
            self._memory.write(buffer, self.medium.read(sector * SECTOR, length))
        elif self.medium.read_only:
            self.faults["read-only"] += 1
            return IO_ERROR
        else:
            self.medium.write(sector * SECTOR, self._memory.read(buffer, length))
        self.counts["reads" if operation == READ else "writes"] += 1
        self.counts["bytes_read" if operation == READ else "bytes_written"] += length
        return DONE

    def after_restore(self) -> None:
        """Wait on."""
        self._cancel()
        if self.due >= 0:
            self._event = self._clock.schedule(self.due, self._finish)
