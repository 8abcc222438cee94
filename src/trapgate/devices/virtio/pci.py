"""Virtio over PCI, without the legacy interface: registers in a memory BAR, capabilities, MSI-X or INTx.

Source: "Virtual I/O Device (VIRTIO) Version 1.2", 4.1.
"""

from __future__ import annotations

import struct
from typing import ClassVar

from trapgate.devices.ioapic import InterruptMessages
from trapgate.devices.pci.function import PciFunction
from trapgate.devices.pci.host_bridge import QEMU_SUBSYSTEM
from trapgate.devices.pci.msix import MsixTable
from trapgate.devices.virtio.device import VirtioDevice
from trapgate.devices.virtio.queue import Virtqueue
from trapgate.machine.device import Snapshot

VENDOR = 0x1AF4
FIRST_DEVICE = 0x1040
REVISION = 1
INTA = 1
REGISTERS_BAR, MSIX_BAR = 4, 1
NO_VECTOR = 0xFFFF

# 4.1.4: the parts of the BAR, a page each.
COMMON, ISR, DEVICE, NOTIFY = 0x0000, 0x1000, 0x2000, 0x3000
PART = 0x1000
SIZE = 0x4000
NOTIFY_MULTIPLIER = 4
VENDOR_CAPABILITY = 0x09
CAP_COMMON, CAP_NOTIFY, CAP_ISR, CAP_DEVICE, CAP_PCI = 1, 2, 3, 4, 5
#: In the capability through which configuration space reaches the BAR (4.1.4.9).
CAP_BAR, CAP_OFFSET, CAP_LENGTH, CAP_DATA = 4, 8, 12, 16

# 4.1.4.3: the common configuration as (offset, bytes).
_LAYOUT = "<IIIIHHBBHHHHHQQQ"
_FIELDS = {
    "feature_select": (0, 4), "driver_feature_select": (8, 4), "driver_feature": (12, 4), "config_vector": (16, 2),
    "status": (20, 1), "queue_select": (22, 2), "size": (24, 2), "vector": (26, 2), "enabled": (28, 2),
    "descriptors": (32, 8), "driver": (40, 8), "device": (48, 8),
}  # fmt: skip

# Interrupt status (4.1.4.5).
QUEUE_INTERRUPT, CONFIG_INTERRUPT = 1, 2


class VirtioPci(PciFunction):
    """A PCI function with `device` behind it."""

    STATE: ClassVar[tuple[str, ...]] = (
        "feature_select",
        "driver_feature_select",
        "queue_select",
        "config_vector",
        "isr",
    )

    def __init__(self, device: VirtioDevice, messages: InterruptMessages) -> None:
        kind = device.device_id
        super().__init__(device.name, VENDOR, FIRST_DEVICE + kind, device.class_code, REVISION, QEMU_SUBSYSTEM, INTA)
        self.device = device
        device.on_used = self._queue_interrupt
        device.on_config = self._config_interrupt
        device.may_access = lambda: self.is_bus_master
        self.feature_select = self.driver_feature_select = self.queue_select = self.isr = 0
        self.config_vector = NO_VECTOR
        self.add_wide_memory_bar(REGISTERS_BAR, SIZE, self)
        self.msix = MsixTable(self, MSIX_BAR, len(device.queues) + 1, messages)
        self._describe(CAP_COMMON, COMMON, PART)
        self._describe(CAP_ISR, ISR, PART)
        self._describe(CAP_DEVICE, DEVICE, PART)
        self._describe(CAP_NOTIFY, NOTIFY, PART, NOTIFY_MULTIPLIER.to_bytes(4, "little"))
        window = self._body(CAP_PCI, 0, 0, bytes(4))
        writable = bytes((0, 0, 0xFF, 0, 0, 0, *[0xFF] * 12))
        self._window = self.add_capability(VENDOR_CAPABILITY, window, writable)

    def _describe(self, kind: int, offset: int, length: int, more: bytes = b"") -> None:
        self.add_capability(VENDOR_CAPABILITY, self._body(kind, offset, length, more))

    @staticmethod
    def _body(kind: int, offset: int, length: int, more: bytes = b"") -> bytes:
        return struct.pack("<BBBBxxII", 16 + len(more), kind, REGISTERS_BAR, 0, offset, length) + more

    # Interrupts

    def _interrupt(self, vector: int, cause: int) -> None:
        if self.msix.enabled:
            if vector != NO_VECTOR:
                self.msix.send(vector)
            return
        self.isr |= cause
        self.set_interrupt(True)

    def _queue_interrupt(self, queue: Virtqueue) -> None:
        self._interrupt(queue.vector, QUEUE_INTERRUPT)

    def _config_interrupt(self) -> None:
        self._interrupt(self.config_vector, CONFIG_INTERRUPT)

    # The BAR

    def read_memory(self, offset: int, width: int) -> int:
        """Registers; 0 where there is none."""
        part, place = offset & ~(PART - 1), offset & PART - 1
        if part == COMMON:
            return int.from_bytes(self._common()[place : place + width], "little")
        if part == ISR and place == 0:
            value, self.isr = self.isr, 0
            self.set_interrupt(False)
            return value
        if part == DEVICE:
            return int.from_bytes(self.device.config[place : place + width], "little")
        return 0

    def write_memory(self, offset: int, width: int, value: int) -> None:
        """Common registers and notifications; the rest is for reading."""
        part, place = offset & ~(PART - 1), offset & PART - 1
        if part == COMMON:
            self._write_common(place, width, value)
        elif part == NOTIFY:
            if self.is_bus_master:
                self.device.notify(place // NOTIFY_MULTIPLIER)
            else:
                self.device.faults["bus mastering not enabled"] += 1

    @property
    def _queue(self) -> Virtqueue | None:
        """The selected queue."""
        queues = self.device.queues
        return queues[self.queue_select] if self.queue_select < len(queues) else None

    def _common(self) -> bytes:
        device, queue, select = self.device, self._queue, self.queue_select
        features, agreed = device.features, device.driver_features
        shift, driver_shift = 32 * self.feature_select, 32 * self.driver_feature_select
        if queue is None:
            fields = (0, NO_VECTOR, 0, 0, 0, 0, 0)
        else:
            fields = (
                queue.size, queue.vector, int(queue.enabled), select, queue.descriptors, queue.driver, queue.device,
            )  # fmt: skip
        return struct.pack(
            _LAYOUT, self.feature_select, features >> shift & 0xFFFF_FFFF if shift < 64 else 0,
            self.driver_feature_select, agreed >> driver_shift & 0xFFFF_FFFF if driver_shift < 64 else 0,
            self.config_vector, len(device.queues), device.status, 0, select, *fields,
        )  # fmt: skip

    def _write_common(self, place: int, width: int, value: int) -> None:
        """Fields that the write touches get their new bytes; halves of 64-bit ones can be written alone."""
        patched = bytearray(self._common())
        end = min(place + width, len(patched))
        if place >= end:
            return
        patched[place:end] = value.to_bytes(width, "little")[: end - place]
        for name, (offset, length) in _FIELDS.items():
            if offset < end and place < offset + length:
                self._set(name, int.from_bytes(patched[offset : offset + length], "little"))

    def _set(self, name: str, value: int) -> None:
        device, queue = self.device, self._queue
        if name in ("feature_select", "driver_feature_select", "queue_select"):
            setattr(self, name, value)
        elif name == "driver_feature":
            device.set_driver_features(self.driver_feature_select, value)
        elif name == "config_vector":
            self.config_vector = value if value < self.msix.vectors else NO_VECTOR
        elif name == "status":
            device.set_status(value)
            if not value:
                self._forget()
        elif queue is None:
            device.faults["register of no queue"] += 1
        elif name == "vector":
            queue.vector = value if value < self.msix.vectors else NO_VECTOR
        elif queue.enabled:
            device.faults["change of a live queue"] += 1
        elif name == "size":
            if not queue.set_size(value):
                device.faults["queue of a bad size"] += 1
        elif name == "enabled":
            queue.enabled = value == 1
        else:
            setattr(queue, name, value)

    def _forget(self) -> None:
        self.isr = 0
        self.config_vector = NO_VECTOR
        self.set_interrupt(False)

    # Configuration space

    def read_config(self, offset: int, width: int) -> int:
        """The last capability's data is a window to the BAR (4.1.4.9)."""
        at = offset - self._window - CAP_DATA
        if 0 <= at < 4:
            where = self._window_target()
            if where is not None:
                self.config.put(self._window + CAP_DATA, 4, self.read_memory(*where))
        return super().read_config(offset, width)

    def write_config(self, offset: int, width: int, value: int) -> None:
        """MSI-X may be switched, and the window written."""
        super().write_config(offset, width, value)
        self.msix.update()
        if 0 <= offset - self._window - CAP_DATA < 4:
            where = self._window_target()
            if where is not None:
                place, length = where
                data = self.config.get(self._window + CAP_DATA, 4)
                self.write_memory(place, length, data & (1 << 8 * length) - 1)

    def _window_target(self) -> tuple[int, int] | None:
        window, space = self._window, self.config
        place, length = space.get(window + CAP_OFFSET, 4), space.get(window + CAP_LENGTH, 4)
        if space.get(window + CAP_BAR, 1) != REGISTERS_BAR or length not in (1, 2, 4) or place + length > SIZE:
            return None
        return place, length

    def reset(self) -> None:
        """Power on."""
        self.device.reset()
        self.msix.reset()
        self.feature_select = self.driver_feature_select = self.queue_select = 0
        self._forget()
        super().reset()

    # Snapshot

    def snapshot(self) -> Snapshot:
        """The function, its registers, its vectors, and the device."""
        own = {name: getattr(self, name) for name in self.STATE}
        return {
            **super().snapshot(), "registers": own, "msix": self.msix.snapshot(), "device": self.device.snapshot(),
        }  # fmt: skip

    def restore(self, snapshot: Snapshot) -> None:
        """Put all of it back."""
        super().restore(snapshot)
        for name in self.STATE:
            setattr(self, name, snapshot["registers"][name])
        self.msix.restore(snapshot["msix"])
        self.device.restore(snapshot["device"])
