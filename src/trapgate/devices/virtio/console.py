"""A virtio console of one port: what the guest writes to hvc0. There is no input on it.

Source: "Virtual I/O Device (VIRTIO) Version 1.2", 5.3.
"""

from __future__ import annotations

from trapgate.devices.virtio.device import VirtioDevice
from trapgate.devices.virtio.queue import QueueFault
from trapgate.machine.console import ConsoleBackend
from trapgate.machine.ram import Ram

RECEIVE, TRANSMIT = 0, 1
#: Bytes of one request; drivers send a page at most.
LARGEST_OUTPUT = 1 << 16


class VirtioConsole(VirtioDevice):
    """Hands whole buffers over: one notification each, where a serial port takes an access for each byte."""

    device_id = 3
    class_code = 0x078000
    queue_count = 2

    def __init__(self, name: str, memory: Ram, console: ConsoleBackend) -> None:
        super().__init__(name, memory)
        self._console = console
        self.config = bytes(12)

    def serve(self, index: int) -> None:
        """Print what the driver has sent; buffers for input are kept waiting. May raise QueueFault."""
        if index != TRANSMIT:
            return
        queue = self.queues[TRANSMIT]
        for chain in queue.pop_all():
            if chain.readable_length > LARGEST_OUTPUT:
                raise QueueFault("output above 64 KB in one request")
            data = queue.gather(chain, chain.readable_length)
            self.counts["bytes"] += len(data)
            self._console.write(data)
            self.give_back(queue, chain.head, 0)
