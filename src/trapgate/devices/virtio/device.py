"""What every virtio device has: status, features, queues. Transports put registers in front of it.

Source: "Virtual I/O Device (VIRTIO) Version 1.2", 2.1 to 2.4, 3.1.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable
from typing import ClassVar

from trapgate.devices.virtio.queue import QueueFault, Virtqueue
from trapgate.machine.device import PlainState, Snapshot
from trapgate.machine.ram import Ram

# Device status (2.1).
ACKNOWLEDGE, DRIVER, DRIVER_OK, FEATURES_OK, NEEDS_RESET, FAILED = 1, 2, 4, 8, 0x40, 0x80

# Features of every device (6).
RING_INDIRECT = 1 << 28
RING_EVENT_INDEX = 1 << 29
VERSION_1 = 1 << 32
RING_FEATURES = RING_INDIRECT | RING_EVENT_INDEX | VERSION_1


class VirtioDevice(PlainState, ABC):
    """Subclasses give `device_id`, `features`, `queue_count` and `config`, and say what a notified queue does."""

    device_id = 0
    #: Class code of its PCI function.
    class_code = 0xFF0000
    features = RING_FEATURES
    queue_count = 1

    STATE: ClassVar[tuple[str, ...]] = ("status", "driver_features", "config")
    NESTED: ClassVar[tuple[str, ...]] = ("queues",)

    def __init__(self, name: str, memory: Ram) -> None:
        self.name = name
        self.memory = memory
        self.queues = [Virtqueue(memory) for _ in range(self.queue_count)]
        #: Device configuration space, which is for reading.
        self.config = b""
        self.status = 0
        self.driver_features = 0
        #: What was done and what went wrong (metric).
        self.counts: Counter[str] = Counter()
        self.faults: Counter[str] = Counter()
        #: A queue has something for the driver; the configuration or the status has changed.
        self.on_used: Callable[[Virtqueue], None] = lambda queue: None
        self.on_config: Callable[[], None] = lambda: None
        #: Whether the transport lets the device at memory.
        self.may_access: Callable[[], bool] = lambda: True

    def reset(self) -> None:
        """Status 0: as after power-on."""
        self.status = self.driver_features = 0
        for queue in self.queues:
            queue.reset()

    def set_status(self, value: int) -> None:
        """The driver writes its status; 0 resets, FEATURES_OK stays clear for features that cannot be agreed on."""
        if not value:
            self.reset()
            return
        if value & FEATURES_OK and not self.status & FEATURES_OK:
            if self.driver_features & ~self.features or not self.driver_features & VERSION_1:
                self.faults["features that cannot be had"] += 1
                value &= ~FEATURES_OK
            else:
                for queue in self.queues:
                    queue.indirect = bool(self.driver_features & RING_INDIRECT)
                    queue.event_index = bool(self.driver_features & RING_EVENT_INDEX)
        self.status = value & 0x8F | self.status & NEEDS_RESET

    def set_driver_features(self, select: int, value: int) -> None:
        """The driver accepts 32 features, number `select` of them; too late once they are agreed on (3.1.1)."""
        if select < 2 and not self.status & FEATURES_OK:
            shift = 32 * select
            self.driver_features = self.driver_features & ~(0xFFFF_FFFF << shift) | value << shift

    def notify(self, index: int) -> None:
        """The driver has put something into a queue."""
        self.counts["notifications"] += 1
        if index >= len(self.queues) or not self.is_live or not self.queues[index].enabled:
            self.faults["notification of no live queue"] += 1
            return
        self.guarded(lambda: self.serve(index))

    @property
    def is_live(self) -> bool:
        """Whether the driver is at work, and has not broken anything."""
        return bool(self.status & DRIVER_OK) and not self.status & NEEDS_RESET and self.may_access()

    @abstractmethod
    def serve(self, index: int) -> None:
        """Look at a queue. May raise QueueFault."""

    def guarded(self, work: Callable[[], None]) -> None:
        """Do what touches a ring; a driver that has broken it is told to reset the device (2.1.2)."""
        try:
            work()
        except QueueFault as fault:
            self.faults[fault.reason] += 1
            self.status |= NEEDS_RESET
            self.on_config()

    def give_back(self, queue: Virtqueue, head: int, written: int) -> None:
        """A request is done. May raise QueueFault."""
        if queue.push(head, written):
            self.on_used(queue)

    # Snapshot

    def snapshot(self) -> Snapshot:
        """The device and its queues."""
        return {**super().snapshot(), "queues": [queue.snapshot() for queue in self.queues]}

    def restore(self, snapshot: Snapshot) -> None:
        """Put all of it back."""
        super().restore(snapshot)
        for queue, state in zip(self.queues, snapshot["queues"], strict=True):
            queue.restore(state)
            queue.indirect = bool(self.driver_features & RING_INDIRECT)
            queue.event_index = bool(self.driver_features & RING_EVENT_INDEX)
