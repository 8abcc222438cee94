"""Virtio over MMIO: the registers of 4.2.2, a disk's request through them, interrupts, places on the board."""

from __future__ import annotations

import struct

import pytest

from trapgate.boards.pc import Pc, PcConfig
from trapgate.boards.pci import DiskConfig
from trapgate.devices.disks.memory import MemoryMedium
from trapgate.machine.clock import Clock
from trapgate.machine.console import MemoryConsole
from trapgate.machine.control import RunControl
from trapgate.machine.errors import UnimplementedDevice
from trapgate.machine.memory import PhysicalMemory

from .pci_world import pattern
from .support import HZ, Pins, advance

DISK, RANDOM = 0xFED0_0000, 0xFED0_1000
VERSION_1 = 1 << 32
QUEUE, AVAILABLE, USED, HEADER, DATA, STATUS_BYTE = 0x1_0000, 0x1_1000, 0x1_2000, 0x2_0000, 0x2_1000, 0x2_2000


class World:
    def __init__(self) -> None:
        self.memory, self.clock = PhysicalMemory(4 << 20), Clock(HZ)
        self.medium = MemoryMedium(pattern(64 * 512))
        config = PcConfig(disks=(DiskConfig(self.medium, "virtio-mmio"),), devices=("virtio-rng-device",))
        self.pc = Pc(self.memory, self.clock, RunControl(), Pins(), MemoryConsole(), config)
        self.disk = self.pc.virtio_mmio.devices[0]
        self.next = 0

    def read(self, offset: int, base: int = DISK, width: int = 4) -> int:
        return self.pc.bus.read_memory(base + offset, width)

    def write(self, offset: int, value: int, base: int = DISK, width: int = 4) -> None:
        self.pc.bus.write_memory(base + offset, width, value)

    def start(self) -> None:
        self.write(0x70, 0)
        self.write(0x70, 3)
        for half in (0, 1):
            self.write(0x24, half)
            self.write(0x20, VERSION_1 >> 32 * half)
        self.write(0x70, 11)
        assert self.read(0x70) == 11
        self.write(0x30, 0)
        self.write(0x38, 8)
        for offset, address in ((0x80, QUEUE), (0x90, AVAILABLE), (0xA0, USED)):
            self.write(offset, address)
            self.write(offset + 4, 0)
        self.write(0x44, 1)
        self.write(0x70, 15)

    def request(self, kind: int, sector: int, length: int) -> int:
        """One request; its status."""
        memory = self.memory
        memory.write(HEADER, struct.pack("<IIQ", kind, 0, sector))
        for n, (address, size, flags) in enumerate(((HEADER, 16, 1), (DATA, length, 3), (STATUS_BYTE, 1, 2))):
            memory.write(QUEUE + 16 * n, struct.pack("<QIHH", address, size, flags, n + 1))
        memory.write_u8(STATUS_BYTE, 0xFF)
        memory.write_u16(AVAILABLE + 4 + 2 * (self.next % 8), 0)
        self.next += 1
        memory.write_u16(AVAILABLE + 2, self.next)
        self.write(0x50, 0)
        advance(self.clock, HZ // 100)
        return memory.read_u8(STATUS_BYTE)


def test_what_a_driver_looks_at_first() -> None:
    world = World()
    assert [world.read(offset) for offset in (0x00, 0x04, 0x08, 0x0C)] == [0x7472_6976, 2, 2, 0x554D_4551]
    assert world.read(0x08, RANDOM) == 4
    features = 0
    for half in (0, 1, 2, 77):
        world.write(0x14, half)
        features |= world.read(0x10) << 32 * half
    assert features == world.disk.features
    assert (world.read(0x34), world.read(0x44), world.read(0xFC)) == (256, 0, 0)
    assert world.read(0xB0) == world.read(0xBC) == 0xFFFF_FFFF
    assert (world.read(0x100, width=8), world.read(0x114, width=4)) == (64, 512)
    assert world.pc.bus.read_memory(0xFED0_2000, 4) == 0xFFFF_FFFF


def test_a_request_and_its_interrupt() -> None:
    world = World()
    world.start()
    assert world.request(0, 2, 1024) == 0
    assert world.memory.read(DATA, 1024) == pattern(64 * 512)[1024:2048]
    assert world.read(0x60) == 1
    assert world.pc.ioapic.levels >> 16 & 1
    world.write(0x64, 1)
    assert world.read(0x60) == 0
    assert not world.pc.ioapic.levels >> 16 & 1
    assert world.request(0, 63, 1024) == 1
    assert world.disk.faults == {"address behind the last sector": 1}


def test_registers_that_are_not_there_and_odd_accesses() -> None:
    world = World()
    assert world.read(0x70, width=1) == world.read(0x02) == world.read(0x18) == 0
    world.write(0x70, 3, width=2)
    world.write(0x30, 5)
    world.write(0x38, 8)
    world.write(0x44, 1)
    assert (world.read(0x34), world.read(0x44)) == (0, 0)
    world.write(0x30, 0)
    world.write(0x38, 100)
    world.write(0x100, 0)
    world.write(0x44, 1)
    world.write(0x80, 4096)
    assert world.disk.faults == {
        "register not read as a whole": 2, "register not written as a whole": 1, "register of no queue": 2,
        "queue of a bad size": 1, "write to the configuration": 1, "change of a live queue": 1,
    }  # fmt: skip


def test_a_broken_ring_asks_for_a_reset() -> None:
    world = World()
    world.start()
    world.memory.write_u16(AVAILABLE + 2, 100)
    world.write(0x50, 0)
    assert world.read(0x70) & 0x40
    assert world.read(0x60) == 2
    world.write(0x70, 0)
    assert (world.read(0x70), world.read(0x60), world.pc.ioapic.levels >> 16 & 1) == (0, 0, 0)


def test_a_snapshot_goes_on() -> None:
    first, second = World(), World()
    first.start()
    assert first.request(0, 0, 512) == 0
    second.memory.write(0, first.memory.read(0, 4 << 20))
    second.clock.now = first.clock.now
    snapshot = first.pc.snapshot()
    second.pc.restore(snapshot)
    assert second.pc.snapshot() == snapshot
    second.next = first.next
    assert second.request(0, 1, 512) == 0
    assert second.memory.read(DATA, 512) == pattern(64 * 512)[512:1024]


def test_the_local_apic_cannot_be_put_over_one() -> None:
    world = World()
    with pytest.raises(UnimplementedDevice, match="a register page at 0xfed00000, over RAM or another device"):
        world.pc.lapic.apic_base = DISK | 0x900
