"""A virtio device by which a guest mounts a folder of the host: 9P2000.L over one queue.

Source: QEMU and Linux (include/uapi/linux/virtio_9p.h): device 9, its configuration is the mount tag; virtio 1.2 has
its number alone. A request is the message, then room for the answer.
"""

from __future__ import annotations

from typing import ClassVar

from trapgate.devices.plan9.folder import Folder
from trapgate.devices.plan9.messages import HEADER
from trapgate.devices.plan9.server import LARGEST_MESSAGE, Plan9Server
from trapgate.devices.virtio.device import RING_FEATURES, VirtioDevice
from trapgate.devices.virtio.queue import QueueFault
from trapgate.machine.device import Snapshot
from trapgate.machine.ram import Ram

MOUNT_TAG = 1 << 0
LONGEST_TAG = 32


class VirtioPlan9(VirtioDevice):
    """The folder has the name `tag` (LONGEST_TAG bytes at most) for the guest."""

    device_id = 9
    class_code = 0x000200
    features = RING_FEATURES | MOUNT_TAG

    NESTED: ClassVar[tuple[str, ...]] = (*VirtioDevice.NESTED, "server")

    def __init__(self, name: str, memory: Ram, folder: Folder, tag: str) -> None:
        super().__init__(name, memory)
        self._server = Plan9Server(folder)
        self.counts, self.faults = self._server.counts, self._server.faults
        data = tag.encode()
        self.config = len(data).to_bytes(2, "little") + data

    def reset(self) -> None:
        """Every fid is forgotten."""
        super().reset()
        self._server.reset()

    def serve(self, index: int) -> None:
        """Answer what is there. May raise QueueFault."""
        queue = self.queues[0]
        for chain in queue.pop_all():
            if not HEADER.size <= chain.readable_length <= LARGEST_MESSAGE:
                raise QueueFault("message of a bad length")
            answer = self._server.answer(queue.gather(chain, chain.readable_length))
            if len(answer) > chain.writable_length:
                raise QueueFault("no room for an answer")
            queue.scatter(chain, answer)
            self.give_back(queue, chain.head, len(answer))

    # Snapshot

    def snapshot(self) -> Snapshot:
        """The device and its fids."""
        return {**super().snapshot(), "server": self._server.snapshot()}

    def restore(self, snapshot: Snapshot) -> None:
        """Put all of it back."""
        super().restore(snapshot)
        self._server.restore(snapshot["server"])
