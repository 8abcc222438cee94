"""A virtio disk.

Requests are carried out one after the other, each taking what disk_timing.py says.

Source: "Virtual I/O Device (VIRTIO) Version 1.2", 5.2.
"""

from __future__ import annotations

import struct
from typing import ClassVar

from trapgate.devices import disk_timing
from trapgate.devices.virtio.device import RING_FEATURES, VirtioDevice
from trapgate.devices.virtio.queue import LARGEST_SIZE, Chain, QueueFault
from trapgate.machine.block import BlockBackend, BlockError
from trapgate.machine.clock import Clock, Event
from trapgate.machine.device import Snapshot
from trapgate.machine.ram import Ram

SECTOR = 512
SEGMENTS, READ_ONLY, BLOCK_SIZE, FLUSH = 1 << 2, 1 << 5, 1 << 6, 1 << 9
HEADER = 16
# Request types and statuses (5.2.6).
READ, WRITE, FLUSH_CACHE, GET_ID = 0, 1, 4, 8
OK, IO_ERROR, UNSUPPORTED = 0, 1, 2
ID_LENGTH = 20
#: Bytes that one request can move: as many as an ATA command.
LARGEST_TRANSFER = 65536 * SECTOR


class VirtioBlock(VirtioDevice):
    """A disk on `medium`."""

    device_id = 2
    class_code = 0x010000

    STATE: ClassVar[tuple[str, ...]] = (*VirtioDevice.STATE, "head", "written", "due", "is_busy")

    def __init__(self, name: str, memory: Ram, clock: Clock, medium: BlockBackend, serial: str) -> None:
        super().__init__(name, memory)
        self.features = RING_FEATURES | SEGMENTS | BLOCK_SIZE | FLUSH | (READ_ONLY if medium.read_only else 0)
        self.medium = medium
        self.sectors = medium.size // SECTOR
        self._clock, self._serial = clock, serial
        self._event: Event | None = None
        # The request that is under way.
        self.head = self.written = self.due = 0
        self.is_busy = False
        self.config = struct.pack("<QIIHBBI", self.sectors, 0, LARGEST_SIZE - 2, 0, 0, 0, SECTOR).ljust(64, b"\0")

    def reset(self) -> None:
        """What is under way is dropped."""
        self._cancel()
        self.is_busy = False
        super().reset()

    def _cancel(self) -> None:
        if self._event is not None:
            self._clock.cancel(self._event)
            self._event = None

    def serve(self, index: int) -> None:
        """Begin the next request unless one is under way."""
        if self.is_busy:
            return
        queue = self.queues[0]
        chain = queue.pop()
        if chain is None:
            return
        if not chain.writable_length:
            raise QueueFault("request without a place for its status")
        status, written = self._carry_out(chain)
        queue.scatter(chain, bytes((status,)), chain.writable_length - 1)
        self.head, self.written = chain.head, written + 1
        self.is_busy = True
        sectors = (max(written, chain.readable_length - HEADER)) // SECTOR
        microseconds = disk_timing.COMMAND_MICROSECONDS + disk_timing.SECTOR_MICROSECONDS * sectors
        self.due = self._clock.now + disk_timing.cycles(self._clock.hz, microseconds)
        self._event = self._clock.schedule(self.due, self._on_time)

    def _on_time(self) -> None:
        self._event = None
        self.is_busy = False
        if self.is_live:
            self.guarded(self._finish)

    def _finish(self) -> None:
        self.give_back(self.queues[0], self.head, self.written)
        self.serve(0)

    # Requests

    def _carry_out(self, chain: Chain) -> tuple[int, int]:
        """The status, and how many bytes were written besides it."""
        self.counts["requests"] += 1
        header = self.queues[0].gather(chain, HEADER)
        if len(header) < HEADER:
            self.faults["request with a short header"] += 1
            return IO_ERROR, 0
        kind, _, sector = struct.unpack("<IIQ", header)
        try:
            if kind == READ:
                return self._read(chain, sector)
            if kind == WRITE:
                return self._write(chain, sector)
            if kind == FLUSH_CACHE:
                self.medium.flush()
                self.counts["flushes"] += 1
                return OK, 0
        except BlockError as error:
            self.faults[error.reason] += 1
            return IO_ERROR, 0
        if kind == GET_ID:
            data = self._serial.encode().ljust(ID_LENGTH, b"\0")[: chain.writable_length - 1]
            self.queues[0].scatter(chain, data)
            return OK, len(data)
        self.faults["unknown request type"] += 1
        return UNSUPPORTED, 0

    def _fits(self, sector: int, length: int) -> bool:
        if length % SECTOR or length > LARGEST_TRANSFER:
            self.faults["transfer of a bad length"] += 1
            return False
        if sector + length // SECTOR > self.sectors:
            self.faults["address behind the last sector"] += 1
            return False
        return True

    def _read(self, chain: Chain, sector: int) -> tuple[int, int]:
        length = chain.writable_length - 1
        if not self._fits(sector, length):
            return IO_ERROR, 0
        data = self.medium.read(sector * SECTOR, length) if length else b""
        self.queues[0].scatter(chain, data)
        self.counts["reads"] += 1
        self.counts["bytes_read"] += length
        return OK, length

    def _write(self, chain: Chain, sector: int) -> tuple[int, int]:
        length = chain.readable_length - HEADER
        if not self._fits(sector, length):
            return IO_ERROR, 0
        if self.medium.read_only:
            self.faults["read-only"] += 1
            return IO_ERROR, 0
        if length:
            self.medium.write(sector * SECTOR, memoryview(self.queues[0].gather(chain, HEADER + length))[HEADER:])
        self.counts["writes"] += 1
        self.counts["bytes_written"] += length
        return OK, 0

    # Snapshot

    def restore(self, snapshot: Snapshot) -> None:
        """Put all of it back and wait on."""
        super().restore(snapshot)
        self._cancel()
        if self.is_busy:
            self._event = self._clock.schedule(self.due, self._on_time)
