"""Virtio over MMIO: a page of registers and an interrupt line for each device, which the guest finds by ACPI.

Source: "Virtual I/O Device (VIRTIO) Version 1.2", 4.2.
"""

from __future__ import annotations

from typing import ClassVar

from trapgate.devices.virtio.device import VirtioDevice
from trapgate.devices.virtio.queue import LARGEST_SIZE, Virtqueue
from trapgate.machine.device import IrqLine, PlainState, Snapshot

SIZE = 0x1000
MAGIC, VERSION = 0x7472_6976, 2
#: What QEMU's devices say.
VENDOR = 0x554D_4551

# 4.2.2: registers of 32 bits, taken as a whole alone.
MAGIC_VALUE, VERSION_NUMBER, DEVICE_ID, VENDOR_ID = 0x00, 0x04, 0x08, 0x0C
DEVICE_FEATURES, DEVICE_FEATURES_SELECT = 0x10, 0x14
DRIVER_FEATURES, DRIVER_FEATURES_SELECT = 0x20, 0x24
QUEUE_SELECT, QUEUE_SIZE_MAX, QUEUE_SIZE, QUEUE_READY, QUEUE_NOTIFY = 0x30, 0x34, 0x38, 0x44, 0x50
INTERRUPT_STATUS, INTERRUPT_ACKNOWLEDGE, STATUS = 0x60, 0x64, 0x70
SHARED_LENGTH_LOW, SHARED_BASE_HIGH = 0xB0, 0xBC
CONFIG_GENERATION, CONFIG = 0xFC, 0x100
#: Halves of a queue's addresses: (attribute, shift).
ADDRESSES = {
    0x80: ("descriptors", 0), 0x84: ("descriptors", 32), 0x90: ("driver", 0), 0x94: ("driver", 32),
    0xA0: ("device", 0), 0xA4: ("device", 32),
}  # fmt: skip
WORD = 0xFFFF_FFFF
QUEUE_INTERRUPT, CONFIG_INTERRUPT = 1, 2


class VirtioMmio(PlainState):
    """The registers of `device`; `set_irq` is its interrupt, a level."""

    STATE: ClassVar[tuple[str, ...]] = ("feature_select", "driver_feature_select", "queue_select", "isr")
    NESTED: ClassVar[tuple[str, ...]] = ("device",)

    def __init__(self, device: VirtioDevice, set_irq: IrqLine) -> None:
        self.name = device.name
        self.device = device
        self._set_irq = set_irq
        device.on_used = self._used
        device.on_config = lambda: self._interrupt(CONFIG_INTERRUPT)
        self.feature_select = self.driver_feature_select = self.queue_select = 0
        #: Interrupt causes.
        self.isr = 0

    def reset(self) -> None:
        """Power on."""
        self.device.reset()
        self.feature_select = self.driver_feature_select = self.queue_select = 0
        self._set_isr(0)

    # Interrupts

    def _used(self, queue: Virtqueue) -> None:
        self._interrupt(QUEUE_INTERRUPT)

    def _interrupt(self, cause: int) -> None:
        self._set_isr(self.isr | cause)

    def _set_isr(self, isr: int) -> None:
        before, self.isr = self.isr, isr
        if bool(before) != bool(isr):
            self._set_irq(bool(isr))

    # Access

    @property
    def _queue(self) -> Virtqueue | None:
        queues = self.device.queues
        return queues[self.queue_select] if self.queue_select < len(queues) else None

    def read_memory(self, offset: int, width: int) -> int:
        """A register, or bytes of the device's configuration."""
        if offset >= CONFIG:
            return int.from_bytes(self.device.config[offset - CONFIG : offset - CONFIG + width], "little")
        if width != 4 or offset % 4:
            self.device.faults["register not read as a whole"] += 1
            return 0
        device, queue = self.device, self._queue
        if offset == DEVICE_FEATURES:
            return device.features >> 32 * self.feature_select & WORD if self.feature_select < 2 else 0
        if offset == QUEUE_SIZE_MAX:
            return 0 if queue is None else LARGEST_SIZE
        if offset == QUEUE_READY:
            return int(queue is not None and queue.enabled)
        if SHARED_LENGTH_LOW <= offset <= SHARED_BASE_HIGH:
            return WORD  # there is no shared memory
        values = {
            MAGIC_VALUE: MAGIC, VERSION_NUMBER: VERSION, DEVICE_ID: device.device_id, VENDOR_ID: VENDOR,
            INTERRUPT_STATUS: self.isr, STATUS: device.status,
        }  # fmt: skip
        return values.get(offset, 0)

    def write_memory(self, offset: int, width: int, value: int) -> None:
        """A register; the configuration is for reading."""
        device = self.device
        if offset >= CONFIG:
            device.faults["write to the configuration"] += 1
        elif width != 4 or offset % 4:
            device.faults["register not written as a whole"] += 1
        elif offset == QUEUE_NOTIFY:
            device.notify(value)
        elif offset == INTERRUPT_ACKNOWLEDGE:
            self._set_isr(self.isr & ~value)
        elif offset == STATUS:
            device.set_status(value & 0xFF)
            if not value & 0xFF:
                self._set_isr(0)
        elif offset == DEVICE_FEATURES_SELECT:
            self.feature_select = value
        elif offset == DRIVER_FEATURES_SELECT:
            self.driver_feature_select = value
        elif offset == DRIVER_FEATURES:
            device.set_driver_features(self.driver_feature_select, value)
        elif offset == QUEUE_SELECT:
            self.queue_select = value
        elif offset in (QUEUE_SIZE, QUEUE_READY) or offset in ADDRESSES:
            self._write_queue(offset, value)

    def _write_queue(self, offset: int, value: int) -> None:
        queue, faults = self._queue, self.device.faults
        if queue is None:
            faults["register of no queue"] += 1
        elif offset == QUEUE_READY:
            queue.enabled = value == 1
        elif queue.enabled:
            faults["change of a live queue"] += 1
        elif offset == QUEUE_SIZE:
            if not queue.set_size(value):
                faults["queue of a bad size"] += 1
        else:
            name, shift = ADDRESSES[offset]
            setattr(queue, name, getattr(queue, name) & ~(WORD << shift) | value << shift)

    # Snapshot

    def snapshot(self) -> Snapshot:
        """The registers and the device."""
        return {**super().snapshot(), "device": self.device.snapshot()}

    def restore(self, snapshot: Snapshot) -> None:
        """Put all of it back; the line itself is the I/O APIC's to restore."""
        super().restore(snapshot)
        self.device.restore(snapshot["device"])
