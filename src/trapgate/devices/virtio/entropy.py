"""A virtio source of random numbers: the same numbers in every run, as everything here.

Source: "Virtual I/O Device (VIRTIO) Version 1.2", 5.4.
"""

from __future__ import annotations

import hashlib
from typing import ClassVar

from trapgate.devices.virtio.device import VirtioDevice
from trapgate.machine.ram import Ram

#: Bytes that one request gets at most; a driver that asks for more asks again.
LARGEST_ANSWER = 4096


class VirtioEntropy(VirtioDevice):
    """Fills each buffer from SHA-256 of a counter. Not for secrets."""

    device_id = 4

    STATE: ClassVar[tuple[str, ...]] = (*VirtioDevice.STATE, "given")

    def __init__(self, name: str, memory: Ram) -> None:
        super().__init__(name, memory)
        #: Blocks of 32 bytes so far.
        self.given = 0

    def serve(self, index: int) -> None:
        """Fill every buffer that is there. May raise QueueFault."""
        queue = self.queues[0]
        for chain in queue.pop_all():
            length = min(chain.writable_length, LARGEST_ANSWER)
            queue.scatter(chain, self._bytes(length))
            self.counts["bytes"] += length
            self.give_back(queue, chain.head, length)

    def _bytes(self, length: int) -> bytes:
        data = bytearray()
        while len(data) < length:
            data += hashlib.sha256(self.given.to_bytes(8, "little")).digest()
            self.given += 1
        return bytes(data[:length])
