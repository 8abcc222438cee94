"""A PC with disks behind IDE and virtio, a CD, and a driver's way of touching them."""

from __future__ import annotations

import functools
import struct
from collections.abc import Iterable

from trapgate.boards.pc import Pc, PcConfig
from trapgate.boards.pci import DiskConfig
from trapgate.devices.disks.memory import MemoryMedium
from trapgate.firmware.pci_setup import PciInterrupt, set_up_pci
from trapgate.machine.block import BlockBackend
from trapgate.machine.clock import Clock
from trapgate.machine.console import MemoryConsole
from trapgate.machine.control import RunControl
from trapgate.machine.memory import PhysicalMemory

from .support import HZ, Pins, advance

SECTOR = 512
DISK_SECTORS = 2048
CD_BLOCKS = 64
ISA_BRIDGE, IDE, VIRTIO = 1 << 3, 1 << 3 | 1, 3 << 3
PRIMARY, SECONDARY = 0x1F0, 0x170
BUS_MASTER = 0xC000
MILLISECONDS = HZ // 1000


@functools.cache
def pattern(length: int, seed: int = 1) -> bytes:
    """Bytes in which every sector differs."""
    return b"".join(
        struct.pack("<II", seed, n) + bytes((n * 7 + i + seed) & 0xFF for i in range(504)) for n in range(length // 512)
    )


class World:
    """IDE: a disk as primary master, a CD as secondary master; virtio: a disk. Set up as firmware does."""

    def __init__(
        self, ide: BlockBackend | None = None, cd: BlockBackend | None = None, virtio: BlockBackend | None = None,
        memory_mb: int = 4, is_set_up: bool = True,
    ) -> None:  # fmt: skip
        self.disk = ide or MemoryMedium(pattern(DISK_SECTORS * SECTOR))
        self.cd = cd or MemoryMedium(pattern(CD_BLOCKS * 2048, 2), read_only=True)
        self.virtio_disk = virtio or MemoryMedium(pattern(DISK_SECTORS * SECTOR, 3))
        self.clock = Clock(HZ)
        self.pins = Pins()
        self.memory = PhysicalMemory(memory_mb << 20)
        disks = (
            DiskConfig(self.disk, "ide"),
            DiskConfig(self.cd, "ide", is_cd=True),
            DiskConfig(self.virtio_disk, "virtio"),
        )
        self.pc = Pc(self.memory, self.clock, RunControl(), self.pins, MemoryConsole(), PcConfig(disks=disks))
        self.bus = self.pc.bus
        assert self.pc.pci is not None
        self.pci = self.pc.pci
        self.interrupts: tuple[PciInterrupt, ...] = set_up_pci(self.bus) if is_set_up else ()

    # Ports and memory

    def inb(self, port: int) -> int:
        return self.bus.read_port(port, 1)

    def outb(self, port: int, value: int) -> None:
        self.bus.write_port(port, 1, value)

    def outl(self, port: int, value: int) -> None:
        self.bus.write_port(port, 4, value)

    def wait(self, cycles: int = MILLISECONDS) -> None:
        advance(self.clock, cycles)

    def config(self, place: int, offset: int, width: int = 4) -> int:
        self.outl(0xCF8, 1 << 31 | place << 8 | offset & 0xFC)
        return self.bus.read_port(0xCFC + offset % 4, width)

    def set_config(self, place: int, offset: int, value: int, width: int = 4) -> None:
        self.outl(0xCF8, 1 << 31 | place << 8 | offset & 0xFC)
        self.bus.write_port(0xCFC + offset % 4, width, value)

    def asserted(self, irq: int) -> bool:
        return bool(self.pc.ioapic.levels >> irq & 1)

    # ATA

    def command(
        self, command: int, lba: int = 0, count: int = 1, base: int = PRIMARY, features: int = 0, slave: bool = False
    ) -> None:
        """A command with a 28-bit address."""
        self.outb(base + 6, 0xE0 | lba >> 24 & 0xF | slave << 4)
        self.outb(base + 1, features)
        self.outb(base + 2, count & 0xFF)
        for place in range(3):
            self.outb(base + 3 + place, lba >> 8 * place & 0xFF)
        self.outb(base + 7, command)

    def command_48(self, command: int, lba: int, count: int, base: int = PRIMARY) -> None:
        """A command with a 48-bit address: the high bytes first."""
        self.outb(base + 6, 0x40)
        self.outb(base + 2, count >> 8)
        for place in range(3):
            self.outb(base + 3 + place, lba >> 8 * (place + 3) & 0xFF)
        self.outb(base + 2, count & 0xFF)
        for place in range(3):
            self.outb(base + 3 + place, lba >> 8 * place & 0xFF)
        self.outb(base + 7, command)

    def read_data(self, length: int, base: int = PRIMARY, width: int = 2) -> bytes:
        return b"".join(self.bus.read_port(base, width).to_bytes(width, "little") for _ in range(length // width))

    def write_data(self, data: bytes, base: int = PRIMARY, width: int = 2) -> None:
        for place in range(0, len(data), width):
            self.bus.write_port(base, width, int.from_bytes(data[place : place + width], "little"))

    def read_blocks(self, blocks: int, length: int = SECTOR, base: int = PRIMARY) -> bytes:
        """The data of a PIO read: `blocks` times an interrupt and `length` bytes."""
        data = b""
        for _ in range(blocks):
            self.wait()
            assert self.inb(base + 7) & 0x89 == 0x08
            data += self.read_data(length, base)
        return data

    def packet(self, packet: bytes, limit: int = 0xFFFE, dma: bool = False) -> None:
        """A PACKET command for the CD-ROM drive."""
        base = SECONDARY
        self.outb(base + 6, 0xA0)
        self.outb(base + 1, int(dma))
        self.outb(base + 4, limit & 0xFF)
        self.outb(base + 5, limit >> 8)
        self.outb(base + 7, 0xA0)
        self.write_data(packet.ljust(12, b"\0"), base)

    def regions(self, table: int, regions: Iterable[tuple[int, int, int]]) -> None:
        """A table of physical regions: (address, bytes, flags)."""
        for number, (address, length, flags) in enumerate(regions):
            self.memory.write(table + 8 * number, struct.pack("<IHH", address, length & 0xFFFF, flags))

    def start_dma(self, table: int, to_memory: bool, channel: int = 0) -> None:
        base = BUS_MASTER + 8 * channel
        self.outl(base + 4, table)
        self.outb(base + 2, 0x06)
        self.outb(base, 0x08 if to_memory else 0)
        self.outb(base, 0x09 if to_memory else 0x01)

    def allow_dma(self, place: int = IDE) -> None:
        self.set_config(place, 0x04, 0x0007, 2)


class Driver:
    """A virtio driver: its queue lies at `base` in guest memory."""

    def __init__(self, world: World, base: int = 0x10_0000, size: int = 16, features: int = 1 << 32) -> None:
        self.world, self.size, self.features = world, size, features
        self.descriptors, self.available, self.used = base, base + 0x1000, base + 0x2000
        self.buffers = base + 0x4000
        self.registers = world.config(VIRTIO, 0x20) & ~15
        self.msix = world.config(VIRTIO, 0x14) & ~15
        self.next = 0

    def read(self, offset: int, width: int = 4) -> int:
        return self.world.bus.read_memory(self.registers + offset, width)

    def write(self, offset: int, value: int, width: int = 4) -> None:
        self.world.bus.write_memory(self.registers + offset, width, value)

    def start(self) -> None:
        """Reset to DRIVER_OK (virtio 1.2, 3.1.1)."""
        self.world.allow_dma(VIRTIO)
        self.write(20, 0, 1)
        self.write(20, 3, 1)
        for half in (0, 1):
            self.write(8, half)
            self.write(12, self.features >> 32 * half & 0xFFFF_FFFF)
        self.write(20, 11, 1)
        assert self.read(20, 1) == 11
        self.write(22, 0, 2)
        self.write(24, self.size, 2)
        for offset, address in ((32, self.descriptors), (40, self.available), (48, self.used)):
            self.write(offset, address, 8)
        self.world.memory.write(self.available, bytes(4 + 2 * self.size + 2))
        self.world.memory.write(self.used, bytes(4 + 8 * self.size + 2))
        self.write(28, 1, 2)
        self.write(20, 15, 1)

    def descriptor(self, index: int, address: int, length: int, flags: int, following: int = 0) -> None:
        self.world.memory.write(self.descriptors + 16 * index, struct.pack("<QIHH", address, length, flags, following))

    def offer(self, head: int) -> None:
        self.world.memory.write_u16(self.available + 4 + 2 * (self.next % self.size), head)
        self.next = self.next + 1 & 0xFFFF
        self.world.memory.write_u16(self.available + 2, self.next)

    def notify(self) -> None:
        self.write(0x3000, 0, 2)

    def request(self, kind: int, sector: int, data: bytes = b"", length: int = 0) -> tuple[int, bytes]:
        """One block request with three descriptors; its status and what was read."""
        memory = self.world.memory
        header, place, status = self.buffers, self.buffers + 0x1000, self.buffers + 0x800
        memory.write(header, struct.pack("<IIQ", kind, 0, sector))
        memory.write(place, data)
        memory.write_u8(status, 0xFF)
        self.descriptor(0, header, 16, 1, 1)
        if data or length:
            self.descriptor(1, place, len(data) or length, 1 if data else 3, 2)
        else:
            self.descriptor(0, header, 16, 1, 2)
        self.descriptor(2, status, 1, 2)
        self.offer(0)
        self.notify()
        self.world.wait(100 * MILLISECONDS)
        return memory.read_u8(status), memory.read(place, length)

    @property
    def used_index(self) -> int:
        return self.world.memory.read_u16(self.used + 2)

    @property
    def faults(self) -> dict[str, int]:
        return self.world.pci.faults().get("virtio-blk0", {})
