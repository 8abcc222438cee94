"""Virtio devices over MMIO: where their registers are and their interrupts go. Composition only.

Each has a page from FIRST_ADDRESS on and an input of the I/O APIC of its own, of those that no ISA interrupt uses; ACPI
tells the guest. Without the I/O APIC (`noapic`) their interrupts do not arrive.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from trapgate.devices.virtio.device import VirtioDevice
from trapgate.devices.virtio.mmio import SIZE, VirtioMmio
from trapgate.firmware.acpi import MmioDevice
from trapgate.machine.bus import Bus
from trapgate.machine.device import IrqLine, Snapshot

FIRST_ADDRESS = 0xFED0_0000
FIRST_PIN = 16
#: As many as the I/O APIC has inputs for.
MOST_DEVICES = 8


class VirtioMmioBoard:
    """`devices`, at most MOST_DEVICES. `line(n)` is input n of the I/O APIC."""

    def __init__(self, bus: Bus, line: Callable[[int], IrqLine], devices: Sequence[VirtioDevice]) -> None:
        self.name = "virtio-mmio"
        self.transports = [VirtioMmio(device, line(FIRST_PIN + number)) for number, device in enumerate(devices)]
        for number, transport in enumerate(self.transports):
            bus.map_memory(FIRST_ADDRESS + SIZE * number, SIZE, transport)

    @property
    def devices(self) -> list[VirtioDevice]:
        """The devices, in order."""
        return [transport.device for transport in self.transports]

    def places(self) -> tuple[MmioDevice, ...]:
        """For ACPI."""
        return tuple(
            MmioDevice(FIRST_ADDRESS + SIZE * number, SIZE, FIRST_PIN + number)
            for number in range(len(self.transports))
        )

    def reset(self) -> None:
        """Reset every device."""
        for transport in self.transports:
            transport.reset()

    # Snapshot

    def snapshot(self) -> Snapshot:
        """The devices by name."""
        return {transport.name: transport.snapshot() for transport in self.transports}

    def restore(self, snapshot: Snapshot) -> None:
        """Put all of them back."""
        for transport in self.transports:
            transport.restore(snapshot[transport.name])
