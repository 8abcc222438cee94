"""The PCI bus of a PC with Intel's 440FX chip set, and what sits on it. Composition only.

| slot | what |
|---|---|
| 0 | host bridge |
| 1 | function 0: ISA bridge with the interrupt router; function 1: IDE |
| 2 | VGA |
| 3 and up | virtio devices, in the order in which they were asked for; then network cards |
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from trapgate.devices.e1000.card import E1000
from trapgate.devices.ide.cdrom import CdRom
from trapgate.devices.ide.controller import IdeController
from trapgate.devices.ide.disk import AtaDisk
from trapgate.devices.ide.drive import AtaDrive
from trapgate.devices.ioapic import InterruptMessages
from trapgate.devices.pci.bus import PciBus
from trapgate.devices.pci.function import PciFunction
from trapgate.devices.pci.host_bridge import ADDRESS_PORT, DATA_OFFSET, DATA_PORT, ConfigPorts, host_bridge
from trapgate.devices.pci.piix3 import Piix3Bridge
from trapgate.devices.plan9.folder import Folder
from trapgate.devices.vga.adapter import Vga
from trapgate.devices.vga.pci import vga_function
from trapgate.devices.virtio.block import VirtioBlock
from trapgate.devices.virtio.console import VirtioConsole, VirtioPort
from trapgate.devices.virtio.device import VirtioDevice
from trapgate.devices.virtio.entropy import VirtioEntropy
from trapgate.devices.virtio.network import VirtioNetwork
from trapgate.devices.virtio.pci import VirtioPci
from trapgate.devices.virtio.plan9 import VirtioPlan9
from trapgate.machine.block import BlockBackend
from trapgate.machine.bus import Bus
from trapgate.machine.clock import Clock
from trapgate.machine.console import ConsoleBackend
from trapgate.machine.device import IrqLine, Snapshot
from trapgate.machine.network import Card, Link
from trapgate.machine.ram import Ram

CHIP_SET_SLOT = 1
VGA_SLOT = 2
FIRST_VIRTIO_SLOT = 3
#: Places for drives: master and slave of the primary and of the secondary channel.
IDE_DRIVES = 4
#: Where QEMU puts a CD-ROM drive: the secondary channel's master.
CD_PLACE = 2
#: Slots that are left for virtio disks: two are kept for other devices.
VIRTIO_SLOTS = 30 - FIRST_VIRTIO_SLOT


@dataclass(frozen=True, slots=True)
class DiskConfig:
    """A disk, or a CD-ROM drive with a CD in it, and the interface that it is behind."""

    medium: BlockBackend
    interface: Literal["ide", "virtio", "virtio-mmio", "hypercall"] = "ide"
    is_cd: bool = False


@dataclass(frozen=True, slots=True)
class FolderConfig:
    """A folder of the host, and the tag by which the guest mounts it."""

    tag: str
    folder: Folder


@dataclass(frozen=True, slots=True)
class NicConfig:
    """A network card, its station address (6 bytes), and the network that it is plugged into."""

    model: Literal["e1000", "virtio", "hypercall"]
    mac: bytes
    link: Link
    #: Bytes of payload that a frame of the network may have. Models that can tell the driver do.
    mtu: int = 1500
    #: Whether the network takes whole TCP packets, and may give such. Models that can use that do.
    offloads: bool = False


class NicCard(Card, Protocol):
    """A card with a name, and counts of what it has done."""

    name: str
    counts: Counter[str]


#: Makes a card: its name, the RAM that it reaches, the clock, what it is to be, who takes its message interrupts.
NicMaker = Callable[[str, Ram, Clock, NicConfig, InterruptMessages], tuple[PciFunction, NicCard]]


def _virtio_network(
    name: str, memory: Ram, clock: Clock, nic: NicConfig, messages: InterruptMessages
) -> tuple[PciFunction, NicCard]:
    card = VirtioNetwork(name, memory, clock, nic.mac, nic.link, nic.mtu, nic.offloads)
    return VirtioPci(card, messages), card


def _e1000(
    name: str, memory: Ram, clock: Clock, nic: NicConfig, messages: InterruptMessages
) -> tuple[PciFunction, NicCard]:
    card = E1000(name, memory, clock, nic.mac, nic.link)
    return card, card


#: Network cards by the name of their model.
NIC_MODELS: dict[str, NicMaker] = {"virtio": _virtio_network, "e1000": _e1000}


#: Devices without a back end of their own, as QEMU calls them: behind PCI, and in memory (boards/virtio_mmio.py).
DEVICES = ("virtio-rng-pci", "virtio-serial-pci", "virtio-rng-device", "virtio-serial-device")


def virtio_devices(
    memory: Ram, clock: Clock, disks: Sequence[DiskConfig], interface: str, names: Sequence[str], suffix: str,
    ports: Sequence[VirtioPort],
) -> list[VirtioDevice]:  # fmt: skip
    """The devices of one transport: the disks behind `interface`, and those of `names` that end in `suffix`."""
    prefix = "virtio-blk" if interface == "virtio" else "virtio-mmio-blk"
    found: list[VirtioDevice] = [
        VirtioBlock(f"{prefix}{n}", memory, clock, disk.medium, f"TG{n + 1:05}")
        for n, disk in enumerate(disk for disk in disks if disk.interface == interface)
    ]
    if f"virtio-rng{suffix}" in names:
        found.append(VirtioEntropy("virtio-rng", memory))
    if f"virtio-serial{suffix}" in names:
        found.append(VirtioConsole("virtio-console", memory, ports))
    return found


def ide_places(disks: tuple[DiskConfig, ...]) -> list[DiskConfig | None]:
    """The IDE drives by their places: CDs from the secondary master on where that is free, disks from the first on."""
    places: list[DiskConfig | None] = [None] * IDE_DRIVES
    for disk in sorted((d for d in disks if d.interface == "ide"), key=lambda d: not d.is_cd):
        order = (CD_PLACE, 3, 1, 0) if disk.is_cd else range(IDE_DRIVES)
        place = next((p for p in order if places[p] is None), None)
        if place is not None:
            places[place] = disk
    return places


class PciBoard:
    """The bus with its devices. `irq_line(n)` is ISA interrupt request n; `messages` takes message interrupts."""

    def __init__(
        self,
        bus: Bus,
        memory: Ram,
        clock: Clock,
        irq_line: Callable[[int], IrqLine],
        messages: InterruptMessages,
        console: ConsoleBackend,
        disks: tuple[DiskConfig, ...],
        devices: tuple[str, ...] = (),
        nics: tuple[NicConfig, ...] = (),
        ports: tuple[VirtioPort, ...] = (),
        folders: tuple[FolderConfig, ...] = (),
        vga: Vga | None = None,
    ) -> None:
        """`devices` are names of DEVICES; `ports` the virtio console's, by default one that sends to `console`."""
        self.name = "pci"
        self.bus = PciBus(bus, memory)
        self.ports = ConfigPorts(self.bus)
        bus.map_ports(ADDRESS_PORT, 1, self.ports)
        bus.map_ports(DATA_PORT, 4, self.ports, DATA_OFFSET)
        lines = [irq_line(irq) for irq in range(16)]
        self.bridge = Piix3Bridge(lambda irq, level: lines[irq](level))
        drives = tuple(
            None if disk is None else self._drive(n, clock, disk) for n, disk in enumerate(ide_places(disks))
        )
        self.ide = IdeController(memory, drives, irq_line)
        self.bus.add(0, 0, host_bridge())
        self.bus.add(CHIP_SET_SLOT, 0, self.bridge)
        self.bus.add(CHIP_SET_SLOT, 1, self.ide)
        if vga is not None:
            self.bus.add(VGA_SLOT, 0, vga_function(vga))
        found = virtio_devices(memory, clock, disks, "virtio", devices, "-pci", ports or (VirtioPort("", console),))
        found += [VirtioPlan9(f"virtio-9p{n}", memory, one.folder, one.tag) for n, one in enumerate(folders)]
        self.virtio = [VirtioPci(device, messages) for device in found]
        for n, virtio in enumerate(self.virtio):
            self.bus.add(FIRST_VIRTIO_SLOT + n, 0, virtio, self.bridge)
        #: Network cards, in the order in which they were asked for.
        self.cards: list[NicCard] = []
        for n, nic in enumerate(nics):
            function, card = NIC_MODELS[nic.model](f"net{n}", memory, clock, nic, messages)
            self.bus.add(FIRST_VIRTIO_SLOT + len(found) + n, 0, function, self.bridge)
            self.cards.append(card)
            if isinstance(function, VirtioPci):
                self.virtio.append(function)

    @staticmethod
    def _drive(place: int, clock: Clock, disk: DiskConfig) -> AtaDrive:
        name = f"ide{place // 2}.{place % 2}"
        kind = CdRom if disk.is_cd else AtaDisk
        return kind(name, clock, disk.medium, f"TG{place + 1:05}")

    def reset(self) -> None:
        """Reset everything on the bus."""
        self.ports.reset()
        self.bus.reset()

    def sends_unmaskable(self) -> bool:
        """Whether a message interrupt would be NMI, SMI or INIT."""
        return any(function.msix.sends_unmaskable() for function in self.virtio)

    # Metrics

    def counts(self) -> dict[str, dict[str, int]]:
        """What each drive and virtio device has done."""
        named: list[AtaDrive | VirtioDevice | NicCard] = [*self.ide.drives, *(f.device for f in self.virtio)]
        named += [card for card in self.cards if not isinstance(card, VirtioDevice)]
        return {device.name: dict(device.counts) for device in named if device.counts}

    def faults(self) -> dict[str, dict[str, int]]:
        """What a guest has asked of each device in vain, and what its back end has refused."""
        named: list[tuple[str, Counter[str]]] = [(function.name, function.faults) for function in self.bus.functions()]
        named += [(drive.name, drive.faults) for drive in self.ide.drives]
        named += [(function.name, function.device.faults) for function in self.virtio]
        named += [(f"ide-dma{number}", engine.faults) for number, engine in enumerate(self.ide.engines)]
        found: dict[str, Counter[str]] = {}
        for name, faults in named:
            if faults:
                found.setdefault(name, Counter()).update(faults)
        return {name: dict(faults) for name, faults in found.items()}

    # Snapshot

    def snapshot(self) -> Snapshot:
        """The functions by name, and the configuration address."""
        functions = {function.name: function.snapshot() for function in self.bus.functions()}
        return {"ports": self.ports.snapshot(), "bus": self.bus.snapshot(), "functions": functions}

    def restore(self, snapshot: Snapshot) -> None:
        """Put all of it back."""
        self.ports.restore(snapshot["ports"])
        for function in self.bus.functions():
            function.restore(snapshot["functions"][function.name])
        self.bus.restore(snapshot["bus"])
