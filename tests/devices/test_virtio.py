"""Virtio over PCI: negotiation, queues that are right, queues that are not, the disk's requests."""

from __future__ import annotations

import struct
from collections.abc import Callable

import pytest

from trapgate.devices.disks.memory import MemoryMedium
from trapgate.devices.virtio.console import VirtioConsole, VirtioPort
from trapgate.devices.virtio.device import VirtioDevice
from trapgate.devices.virtio.entropy import VirtioEntropy
from trapgate.machine.block import MediumFull
from trapgate.machine.console import MemoryConsole
from trapgate.machine.memory import PhysicalMemory

from .pci_world import DISK_SECTORS, MILLISECONDS, SECTOR, VIRTIO, Driver, World, pattern

DISK = pattern(DISK_SECTORS * SECTOR, 3)
INDIRECT, EVENT_INDEX, VERSION_1 = 1 << 28, 1 << 29, 1 << 32
NEEDS_RESET = 0x40


def started(features: int = VERSION_1, world: World | None = None) -> Driver:
    driver = Driver(world or World(), features=features)
    driver.start()
    return driver


# Negotiation


def test_features_are_offered_in_halves() -> None:
    driver = Driver(World())
    offered = 0
    for half in (0, 1, 2):
        driver.write(0, half)
        offered |= driver.read(4) << 32 * half
    assert offered == VERSION_1 | EVENT_INDEX | INDIRECT | 1 << 9 | 1 << 6 | 1 << 2


@pytest.mark.parametrize("features", [0, 1 << 9, VERSION_1 | 1 << 40, VERSION_1 | 1 << 1])
def test_features_that_cannot_be_agreed_on(features: int) -> None:
    driver = Driver(World(), features=features)
    with pytest.raises(AssertionError):
        driver.start()
    assert driver.read(20, 1) == 3
    assert driver.faults == {"features that cannot be had": 1}


def test_registers_of_a_queue() -> None:
    driver = Driver(World())
    assert (driver.read(18, 2), driver.read(24, 2), driver.read(30, 2)) == (1, 256, 0)
    driver.write(24, 100, 2)
    assert driver.read(24, 2) == 256
    driver.write(32, 0x1234_5678)
    driver.write(36, 0x9)
    assert driver.read(32, 8) == 0x9_1234_5678
    driver.write(22, 1, 2)
    assert (driver.read(24, 2), driver.read(28, 2)) == (0, 0)
    driver.write(24, 8, 2)
    assert driver.faults == {"queue of a bad size": 1, "register of no queue": 1}


def test_the_device_configuration_has_the_capacity() -> None:
    driver = Driver(World())
    assert driver.read(0x2000, 8) == DISK_SECTORS
    assert driver.read(0x2014) == SECTOR


def test_a_window_in_configuration_space_reaches_the_registers() -> None:
    driver = Driver(World())
    world = driver.world
    offset = world.config(VIRTIO, 0x34, 1)
    while world.config(VIRTIO, offset + 3, 1) != 5:
        offset = world.config(VIRTIO, offset + 1, 1)
    world.set_config(VIRTIO, offset + 4, 4, 1)
    world.set_config(VIRTIO, offset + 8, 0x2000)
    world.set_config(VIRTIO, offset + 12, 4)
    assert world.config(VIRTIO, offset + 16) == DISK_SECTORS
    world.set_config(VIRTIO, offset + 8, 20)
    world.set_config(VIRTIO, offset + 12, 1)
    world.set_config(VIRTIO, offset + 16, 3)
    assert driver.read(20, 1) == 3


# The disk


@pytest.mark.parametrize("features", [VERSION_1, VERSION_1 | EVENT_INDEX])
def test_read_and_write(features: int) -> None:
    driver = started(features)
    new = pattern(4 * SECTOR, 8)
    assert driver.request(0, 7, length=1024) == (0, DISK[7 * SECTOR : 9 * SECTOR])
    assert driver.request(1, 100, new)[0] == 0
    assert driver.request(0, 100, length=2048) == (0, new)
    assert driver.world.virtio_disk.read(100 * SECTOR, 2048) == new
    assert driver.request(4, 0)[0] == 0
    assert driver.used_index == 4
    assert driver.world.memory.read(driver.used + 4, 8) == struct.pack("<II", 0, 1025)
    assert driver.world.pci.counts()["virtio-blk0"]["bytes_written"] == 2048


def test_identity_and_unknown_requests() -> None:
    driver = started()
    assert driver.request(8, 0, length=20) == (0, b"TG00001".ljust(20, b"\0"))
    assert driver.request(99, 0, length=20)[0] == 2


@pytest.mark.parametrize(
    ("sector", "length"), [(DISK_SECTORS, 512), (DISK_SECTORS - 1, 1024), (1 << 63, 512), (0, 500)]
)
def test_requests_outside_the_disk(sector: int, length: int) -> None:
    driver = started()
    assert driver.request(0, sector, length=length) == (1, bytes(length))
    assert driver.request(1, sector, bytes(length))[0] == 1
    assert driver.world.virtio_disk.read(0, DISK_SECTORS * SECTOR) == DISK


def test_a_read_only_disk_and_a_full_host() -> None:
    driver = started(world=World(virtio=MemoryMedium(DISK, read_only=True)))
    assert driver.request(1, 0, bytes(SECTOR))[0] == 1
    assert driver.faults == {"read-only": 1}

    class Full(MemoryMedium):
        def write(self, offset: int, data: bytes | bytearray | memoryview) -> None:
            raise MediumFull(self.name, "no space left on device")

    driver = started(world=World(virtio=Full(DISK)))
    assert driver.request(1, 0, bytes(SECTOR))[0] == 1
    assert driver.faults == {"host disk full": 1}
    assert driver.request(0, 0, length=SECTOR) == (0, DISK[:SECTOR])


def test_indirect_descriptors() -> None:
    driver = started(VERSION_1 | INDIRECT)
    memory, table = driver.world.memory, driver.buffers + 0x3000
    memory.write(driver.buffers, struct.pack("<IIQ", 0, 0, 9))
    memory.write(table, struct.pack("<QIHH", driver.buffers, 16, 1, 1))
    memory.write(table + 16, struct.pack("<QIHH", driver.buffers + 0x1000, 300, 3, 2))
    memory.write(table + 32, struct.pack("<QIHH", driver.buffers + 0x1800, 213, 2, 0))
    driver.descriptor(5, table, 48, 4)
    driver.offer(5)
    driver.notify()
    driver.world.wait(MILLISECONDS)
    data = memory.read(driver.buffers + 0x1000, 300) + memory.read(driver.buffers + 0x1800, 213)
    assert data == DISK[9 * SECTOR : 10 * SECTOR] + b"\0"


def test_a_descriptor_of_no_bytes_may_lie_anywhere() -> None:
    """Found by the fuzz of every device, after 30,000 operations."""
    driver = started()
    driver.world.memory.write(driver.buffers, struct.pack("<IIQ", 0, 0, 9))
    driver.descriptor(0, 0xFEE0_0000, 0, 1, 1)
    driver.descriptor(1, driver.buffers, 16, 1, 2)
    driver.descriptor(2, 0xFEE0_0000, 0, 3, 3)
    driver.descriptor(3, driver.buffers + 0x1000, SECTOR + 1, 2)
    driver.offer(0)
    driver.notify()
    driver.world.wait(100 * MILLISECONDS)
    assert driver.world.memory.read(driver.buffers + 0x1000, SECTOR + 1) == DISK[9 * SECTOR : 10 * SECTOR] + b"\0"
    assert driver.faults == {}


def test_event_indices_save_interrupts() -> None:
    driver = started(VERSION_1 | EVENT_INDEX)
    driver.world.memory.write_u16(driver.available + 4 + 2 * driver.size, 1)
    driver.request(0, 0, length=SECTOR)
    assert not driver.world.asserted(11)
    driver.request(0, 0, length=SECTOR)
    assert driver.world.asserted(11)
    # The device asks to be told of the next request.
    assert driver.world.memory.read_u16(driver.used + 4 + 8 * driver.size) == 2


def test_interrupts_that_are_not_wanted() -> None:
    driver = started()
    driver.world.memory.write_u16(driver.available, 1)
    driver.request(0, 0, length=SECTOR)
    assert driver.used_index == 1
    assert not driver.world.asserted(11)


def test_a_disk_takes_its_time_and_forgets_at_a_reset() -> None:
    driver = started()
    driver.descriptor(0, driver.buffers, 16, 1, 1)
    driver.descriptor(1, driver.buffers + 16, 1, 2)
    driver.offer(0)
    driver.notify()
    assert driver.used_index == 0
    driver.write(20, 0, 1)
    driver.world.wait()
    assert driver.used_index == 0
    assert driver.read(20, 1) == 0


def test_requests_without_permission_to_access_memory() -> None:
    driver = started()
    driver.world.set_config(VIRTIO, 4, 3, 2)
    assert driver.request(0, 0, length=SECTOR)[0] == 0xFF
    assert driver.faults == {"bus mastering not enabled": 1}


# Attacks


def _loop(driver: Driver) -> None:
    driver.descriptor(0, driver.buffers, 16, 1, 1)
    driver.descriptor(1, driver.buffers, 16, 1, 0)
    driver.offer(0)


def _head(driver: Driver) -> None:
    driver.offer(driver.size)


def _next(driver: Driver) -> None:
    driver.descriptor(0, driver.buffers, 16, 1, 0xFFFF)
    driver.offer(0)


def _outside(driver: Driver) -> None:
    driver.descriptor(0, 0x3F_FFF8, 16, 0)
    driver.offer(0)


def _wraps(driver: Driver) -> None:
    driver.descriptor(0, (1 << 64) - 8, 16, 0)
    driver.offer(0)


def _length(driver: Driver) -> None:
    driver.descriptor(0, driver.buffers, 0xFFFF_FFFF, 2)
    driver.offer(0)


def _order(driver: Driver) -> None:
    driver.descriptor(0, driver.buffers, 16, 3, 1)
    driver.descriptor(1, driver.buffers, 16, 0)
    driver.offer(0)


def _no_status(driver: Driver) -> None:
    driver.descriptor(0, driver.buffers, 16, 0)
    driver.offer(0)


def _too_many(driver: Driver) -> None:
    driver.world.memory.write_u16(driver.available + 2, driver.size + 1)


def _indirect(driver: Driver) -> None:
    driver.descriptor(0, driver.buffers, 16, 4)
    driver.offer(0)


@pytest.mark.parametrize(
    ("attack", "fault"),
    [
        (_loop, "descriptors that loop"),
        (_head, "descriptor behind the table"), (_next, "descriptor behind the table"),
        (_outside, "buffer outside memory"), (_wraps, "buffer outside memory"), (_length, "buffer outside memory"),
        (_order, "readable descriptor behind a writable one"), (_no_status, "request without a place for its status"),
        (_too_many, "more requests than the queue is long"), (_indirect, "indirect descriptor where none may be"),
    ],
)  # fmt: skip
def test_broken_rings(attack: Callable[[Driver], None], fault: str) -> None:
    driver = started()
    attack(driver)
    driver.notify()
    driver.world.wait()
    assert driver.faults == {fault: 1}
    assert driver.read(20, 1) == 15 | NEEDS_RESET
    assert driver.read(0x1000, 1) == 2
    # It does nothing more until it is reset, and then works.
    driver.notify()
    assert driver.used_index == 0
    driver.next = 0
    driver.start()
    assert driver.request(0, 0, length=SECTOR) == (0, DISK[:SECTOR])


@pytest.mark.parametrize(("length", "nested"), [(0, False), (24, False), (1 << 20, False), (32, True)])
def test_broken_indirect_tables(length: int, nested: bool) -> None:
    driver = started(VERSION_1 | INDIRECT)
    driver.world.memory.write(driver.buffers, struct.pack("<QIHH", driver.buffers, 16, 4 if nested else 0, 0) * 2)
    driver.descriptor(0, driver.buffers, length, 4)
    driver.offer(0)
    driver.notify()
    assert driver.read(20, 1) & NEEDS_RESET


def test_rings_outside_memory() -> None:
    driver = Driver(World())
    driver.start()
    driver.write(20, 0, 1)
    driver.world.memory.write_u16(driver.available + 2, 1)
    good = (driver.descriptors, driver.available, driver.used)
    for place in range(3):
        for bad in (0x40_0000, 0x3F_FFFF, (1 << 64) - 1, 0xFEE0_0000):
            addresses = [*good[:place], bad, *good[place + 1 :]]
            driver.write(20, 0, 1)
            driver.write(20, 3, 1)
            driver.write(8, 1)
            driver.write(12, 1)
            driver.write(20, 11, 1)
            for offset, address in zip((32, 40, 48), addresses, strict=True):
                driver.write(offset, address, 8)
            driver.descriptor(0, driver.buffers, 16, 1, 1)
            driver.descriptor(1, driver.buffers, 1, 2, 0)
            driver.write(28, 1, 2)
            driver.write(20, 15, 1)
            driver.notify()
            driver.world.wait()
            assert driver.read(20, 1) & NEEDS_RESET, (place, hex(bad))
    assert driver.faults == {"ring outside memory": 12}


def single(device: VirtioDevice, memory: PhysicalMemory, queue: int, buffer: bytes, flags: int) -> bytes:
    """Give a device that is no disk one buffer; what is in it afterwards."""
    device.driver_features = VERSION_1
    device.set_status(11)
    device.set_status(15)
    ring = device.queues[queue]
    ring.size, ring.descriptors, ring.driver, ring.device, ring.enabled = 4, 0x1000, 0x2000, 0x3000, True
    memory.write(0x5000, buffer)
    memory.write(0x1000, struct.pack("<QIHH", 0x5000, len(buffer), flags, 0))
    memory.write(0x2000, struct.pack("<HHH", 0, ring.next_available + 1, 0))
    device.notify(queue)
    return memory.read(0x5000, len(buffer))


def test_random_numbers_are_the_same_in_every_run() -> None:
    memory = PhysicalMemory(1 << 20)
    first, second = VirtioEntropy("virtio-rng", memory), VirtioEntropy("virtio-rng", memory)
    numbers = single(first, memory, 0, bytes(100), 2)
    assert numbers == single(second, memory, 0, bytes(100), 2) != bytes(100)
    assert memory.read(0x3002, 10) == struct.pack("<HII", 1, 0, 100)


def test_a_console_prints_whole_buffers() -> None:
    memory, console = PhysicalMemory(1 << 20), MemoryConsole()
    device = VirtioConsole("virtio-console", memory, (VirtioPort("", console),))
    single(device, memory, 1, b"hello", 0)
    single(device, memory, 0, bytes(10), 2)
    assert console.data == b"hello"
    assert device.queues[0].next_used == 0
    device.reset()
    single(device, memory, 1, bytes(70_000), 0)
    assert device.faults == {"output above 64 KB in one request": 1}
    assert device.status & NEEDS_RESET
