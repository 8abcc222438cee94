"""The hypercall devices of a machine, and the one interrupt that they share."""

from __future__ import annotations

from collections import Counter
from typing import Any, ClassVar

from trapgate.devices.hypercall.disk import HypercallDisk
from trapgate.devices.hypercall.network import HypercallCard
from trapgate.machine.block import BlockBackend
from trapgate.machine.clock import Clock
from trapgate.machine.device import IrqLine, PlainState, Snapshot
from trapgate.machine.network import Link
from trapgate.machine.ram import Ram

# Events.
REQUEST_DONE, FRAME_CAME = 1, 2


class HypercallDevices(PlainState):
    """Disks and cards by number. `line` is asserted while an event that the guest wants to know of is pending."""

    STATE: ClassVar[tuple[str, ...]] = ("pending", "wanted")
    NESTED: ClassVar[tuple[str, ...]] = ("devices",)

    def __init__(
        self, memory: Ram, clock: Clock, line: IrqLine, media: list[BlockBackend], cards: list[tuple[bytes, Link]]
    ) -> None:
        """`cards`: station address and network of each."""
        self.name = "hypercall"
        self._line = line
        self.pending = self.wanted = 0
        self.disks = [
            HypercallDisk(f"hypercall-disk{n}", memory, clock, medium, lambda: self._happened(REQUEST_DONE))
            for n, medium in enumerate(media)
        ]
        self.cards = [
            HypercallCard(f"hypercall-net{n}", memory, mac, link, lambda: self._happened(FRAME_CAME))
            for n, (mac, link) in enumerate(cards)
        ]

    def _devices(self) -> list[HypercallDisk | HypercallCard]:
        return [*self.disks, *self.cards]

    def reset(self) -> None:
        """As at power-on."""
        for device in self._devices():
            device.reset()
        self.pending = self.wanted = 0
        self._line(False)

    def _happened(self, event: int) -> None:
        self.pending |= event
        self._drive()

    def events(self, wanted: int) -> int:
        """What has happened since the last call; from now on `wanted` interrupts."""
        pending, self.pending, self.wanted = self.pending, 0, wanted & (REQUEST_DONE | FRAME_CAME)
        self._drive()
        return pending

    def _drive(self) -> None:
        self._line(bool(self.pending & self.wanted))

    # Metrics

    def counts(self) -> dict[str, dict[str, int]]:
        """What each has done."""
        return _filled((device.name, device.counts) for device in self._devices())

    def faults(self) -> dict[str, dict[str, int]]:
        """What a guest has asked of each in vain."""
        return _filled((device.name, device.faults) for device in self._devices())

    # Snapshot

    def snapshot(self) -> Snapshot:
        """The events, and every device."""
        return {**super().snapshot(), "devices": {device.name: device.snapshot() for device in self._devices()}}

    def restore(self, snapshot: Snapshot) -> None:
        """Put all of it back."""
        super().restore(snapshot)
        for device in self._devices():
            device.restore(snapshot["devices"][device.name])
        self._drive()


def _filled(named: Any) -> dict[str, dict[str, int]]:
    found: dict[str, Counter[str]] = {name: counter for name, counter in named if counter}
    return {name: dict(counter) for name, counter in found.items()}
