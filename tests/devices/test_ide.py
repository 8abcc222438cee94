"""The IDE controller: ATA commands by PIO and DMA, errors, resets, interrupts; the CD-ROM drive's packets."""

from __future__ import annotations

import struct

import pytest

from trapgate.devices.disks.memory import MemoryMedium
from trapgate.machine.block import MediumFull, MediumTooShort

from .pci_world import BUS_MASTER, CD_BLOCKS, DISK_SECTORS, IDE, PRIMARY, SECONDARY, SECTOR, World, pattern

DISK, CD = pattern(DISK_SECTORS * SECTOR), pattern(CD_BLOCKS * 2048, 2)
STATUS, ERROR, DRQ, ERR, DF = 7, 1, 0x08, 0x01, 0x20
TABLE, BUFFER = 0x1_0000, 0x2_0000
END = 0x8000


class Broken(MemoryMedium):
    """A medium that fails as the host does."""

    def __init__(self) -> None:
        super().__init__(bytes(64 * SECTOR), "broken.img")

    def read(self, offset: int, length: int) -> bytes:
        if offset + length > 32 * SECTOR:
            raise MediumTooShort(self.name, offset, length, 0)
        return super().read(offset, length)

    def write(self, offset: int, data: bytes | bytearray | memoryview) -> None:
        raise MediumFull(self.name, "no space left on device")


def status(world: World, base: int = PRIMARY) -> int:
    return world.inb(base + STATUS)


def words(data: bytes) -> tuple[int, ...]:
    return struct.unpack("<256H", data)


# Identity


def test_identify_device() -> None:
    world = World()
    world.command(0xEC)
    assert status(world) & 0x80
    answer = world.read_blocks(1)
    identity = words(answer)
    assert identity[0] == 0x0040
    assert identity[60] | identity[61] << 16 == identity[100] == DISK_SECTORS
    assert identity[49] & 0x0300 == 0x0300
    assert identity[63] == 0x0007
    assert identity[83] & 0x7400 == 0x7400
    assert b"".join(struct.pack(">H", word) for word in identity[27:47]).rstrip() == b"TRAPGATE HARDDISK"
    assert sum(answer) % 256 == 0
    assert status(world) == 0x50


def test_signatures_tell_disk_and_cd_apart() -> None:
    world = World()
    world.outb(0x376, 0x04)
    assert status(world, SECONDARY) == 0x80
    world.outb(0x376, 0)
    assert [world.inb(base + r) for base in (PRIMARY, SECONDARY) for r in (4, 5)] == [0, 0, 0x14, 0xEB]
    world.command(0xEC, base=SECONDARY)
    assert status(world, SECONDARY) & ERR
    assert world.inb(SECONDARY + ERROR) == 4
    world.command(0xA1, base=SECONDARY)
    assert words(world.read_blocks(1, base=SECONDARY))[0] == 0x85C0


def test_a_missing_drive_reads_0() -> None:
    world = World()
    world.command(0xEC, slave=True)
    world.wait()
    assert status(world) == world.inb(PRIMARY + 2) == 0
    world.outb(PRIMARY + 6, 0xA0)
    assert status(world) == 0x50


# PIO


@pytest.mark.parametrize("width", [2, 4])
def test_read_sectors(width: int) -> None:
    world = World()
    world.command(0x20, lba=5, count=3)
    data = b""
    for _ in range(3):
        world.wait()
        assert world.asserted(14)
        assert status(world) & DRQ
        assert not world.asserted(14)
        data += world.read_data(SECTOR, width=width)
    assert data == DISK[5 * SECTOR : 8 * SECTOR]
    assert status(world) == 0x50
    world.wait()
    assert not world.asserted(14)


def test_a_count_of_0_is_256_sectors() -> None:
    world = World()
    world.command(0x20, lba=0, count=0)
    assert world.read_blocks(256) == DISK[: 256 * SECTOR]
    assert status(world) == 0x50


def test_read_multiple_and_its_short_last_block() -> None:
    world = World()
    world.command(0xC4)
    assert status(world) & ERR
    world.command(0xC6, count=3)
    assert status(world) & ERR
    world.command(0xC6, count=4)
    assert status(world) == 0x50
    world.command(0xC4, lba=1, count=6)
    assert world.read_blocks(1, 4 * SECTOR) + world.read_blocks(1, 2 * SECTOR) == DISK[SECTOR : 7 * SECTOR]
    assert status(world) == 0x50


def test_write_sectors_and_48_bit_addresses() -> None:
    world = World()
    new = pattern(2 * SECTOR, 9)
    world.command_48(0x34, lba=1000, count=2)
    assert not world.asserted(14)
    for block in range(2):
        assert status(world) & DRQ
        world.write_data(new[block * SECTOR : (block + 1) * SECTOR])
        world.wait()
        assert world.asserted(14)
    assert status(world) == 0x50
    world.command_48(0x24, lba=1000, count=2)
    assert world.read_blocks(2) == new == world.disk.read(1000 * SECTOR, 2 * SECTOR)
    # The bytes that were written before the last are seen with HOB.
    world.outb(PRIMARY + 3, 0x12)
    world.outb(PRIMARY + 3, 0x34)
    world.outb(0x3F6, 0x80)
    assert world.inb(PRIMARY + 3) == 0x12
    world.outb(0x3F6, 0x00)
    assert world.inb(PRIMARY + 3) == 0x34


def test_a_command_takes_its_time_once() -> None:
    """100 us, and 20 us a sector, whichever way the data goes."""
    world = World()
    for command, transfer in ((0x20, world.read_data), (0x30, lambda length: world.write_data(bytes(length)))):
        start = world.clock.now
        world.command(command, count=4)
        for _ in range(4):
            if command == 0x20:
                while world.inb(0x3F6) & 0x80:
                    world.wait(2000)
            transfer(SECTOR)
            while command == 0x30 and world.inb(0x3F6) & 0x80:
                world.wait(2000)
        assert 180 <= (world.clock.now - start) / 2000 <= 190


def test_cylinder_head_and_sector() -> None:
    world = World()
    for register, value in ((6, 0xA3), (2, 1), (3, 7), (4, 1), (5, 0), (7, 0x20)):
        world.outb(PRIMARY + register, value)
    block = (1 * 16 + 3) * 63 + 6
    assert world.read_blocks(1) == DISK[block * SECTOR : (block + 1) * SECTOR]
    world.outb(PRIMARY + 3, 0)
    world.outb(PRIMARY + 7, 0x20)
    assert (status(world) & ERR, world.inb(PRIMARY + ERROR)) == (ERR, 0x10)


# Errors


@pytest.mark.parametrize(("lba", "count"), [(DISK_SECTORS, 1), (DISK_SECTORS - 1, 2), (0xFFF_FFFF, 1)])
def test_addresses_behind_the_last_sector(lba: int, count: int) -> None:
    world = World()
    for command in (0x20, 0x30, 0xC8, 0xCA, 0x40):
        world.command(command, lba, count)
        assert (status(world), world.inb(PRIMARY + ERROR)) == (0x51, 0x10)
    assert world.pci.faults()["ide0.0"] == {"address behind the last sector": 5}


def test_unknown_commands_abort() -> None:
    world = World()
    world.command(0xB0)
    assert (status(world), world.inb(PRIMARY + ERROR)) == (0x51, 4)
    assert world.pci.faults()["ide0.0"] == {"command B0h": 1}


def test_what_the_back_end_refuses_is_an_error_of_the_drive() -> None:
    world = World(ide=Broken())
    world.command(0x20, lba=30, count=8)
    world.read_blocks(2)
    world.wait()
    assert (status(world), world.inb(PRIMARY + ERROR), world.inb(PRIMARY + 3)) == (0x51, 0x40, 32)
    world.command(0x30)
    world.write_data(bytes(SECTOR))
    world.wait()
    assert (status(world), world.inb(PRIMARY + ERROR)) == (0x71, 4)
    assert world.pci.faults()["ide0.0"] == {"image too short": 1, "host disk full": 1}


def test_a_read_only_disk_refuses_writes() -> None:
    world = World(ide=MemoryMedium(bytes(64 * SECTOR), read_only=True))
    for command in (0x30, 0xCA):
        world.command(command)
        assert (status(world), world.inb(PRIMARY + ERROR)) == (0x51, 4)
    assert world.pci.faults()["ide0.0"] == {"read-only": 2}


def test_a_busy_drive_hears_a_reset_alone() -> None:
    world = World()
    world.command(0x20)
    world.outb(PRIMARY + 7, 0xEC)
    world.outb(PRIMARY + 3, 99)
    assert world.read_blocks(1) == DISK[:SECTOR]
    world.command(0x20)
    world.outb(0x3F6, 4)
    world.outb(0x3F6, 0)
    world.wait()
    assert (status(world), world.asserted(14)) == (0x50, False)
    assert world.pci.faults()["ide0.0"] == {"command while busy": 1}


def test_interrupts_can_be_masked() -> None:
    world = World()
    world.outb(0x3F6, 2)
    world.command(0x20)
    world.wait()
    assert not world.asserted(14)
    world.outb(0x3F6, 0)
    assert world.asserted(14)


def test_set_features() -> None:
    world = World()
    for features, count, good in ((3, 0x22, True), (3, 0x45, False), (0x82, 0, True), (0x99, 0, False)):
        world.command(0xEF, count=count, features=features)
        assert status(world) == (0x50 if good else 0x51)
    world.command(0xEC)
    identity = words(world.read_blocks(1))
    assert (identity[63], identity[85] & 0x20) == (0x0407, 0)


# DMA


def dma(world: World, regions: list[tuple[int, int, int]], command: int, lba: int = 0, count: int = 8) -> int:
    """A DMA command; the controller's status afterwards."""
    world.allow_dma()
    world.regions(TABLE, regions)
    world.command(command, lba, count)
    world.start_dma(TABLE, to_memory=command in (0xC8, 0x25))
    world.wait(10 * 2_000_000)
    return world.inb(BUS_MASTER + 2) & 7


def test_dma_reads_scatter() -> None:
    world = World()
    assert dma(world, [(BUFFER, 1024, 0), (0x5_0002, 3072, END)], 0xC8, lba=4) == 4
    assert world.asserted(14)
    assert world.memory.read(BUFFER, 1024) + world.memory.read(0x5_0002, 3072) == DISK[4 * SECTOR : 12 * SECTOR]
    assert status(world) == 0x50
    world.outb(BUS_MASTER, 0)
    world.outb(BUS_MASTER + 2, 0x64)
    assert world.inb(BUS_MASTER + 2) == 0x60


def test_dma_writes_gather_and_a_length_of_0_is_64_kb() -> None:
    world = World()
    new = pattern(128 * SECTOR, 5)
    world.memory.write(BUFFER, new)
    assert dma(world, [(BUFFER, 0, END)], 0xCA, lba=8, count=128) == 4
    assert world.disk.read(8 * SECTOR, len(new)) == new


def test_the_engine_may_be_started_before_the_command() -> None:
    world = World()
    world.allow_dma()
    world.regions(TABLE, [(BUFFER, 512, END)])
    world.start_dma(TABLE, to_memory=True)
    world.command(0xC8, 3, 1)
    world.wait()
    assert world.memory.read(BUFFER, SECTOR) == DISK[3 * SECTOR : 4 * SECTOR]


@pytest.mark.parametrize(
    ("regions", "expected", "fault"),
    [
        ([(BUFFER, 1024, END)], 0, "table shorter than the transfer"),
        ([(0x40_0000, 4096, END)], 2, "region outside memory"),
        ([(0x3F_FFF0, 4096, END)], 2, "region outside memory"),
        ([(0xFEE0_0000, 4096, END)], 2, "region outside memory"),
    ],
)
def test_malformed_regions(regions: list[tuple[int, int, int]], expected: int, fault: str) -> None:
    world = World()
    assert dma(world, regions, 0xC8) == expected
    assert not world.asserted(14)
    assert world.pci.faults()["ide-dma0"] == {fault: 1}
    # The drive waits until it is reset.
    assert world.inb(0x3F6) & DRQ
    world.outb(0x3F6, 4)
    world.outb(0x3F6, 0)
    assert dma(world, [(BUFFER, 4096, END)], 0xC8) & 4


@pytest.mark.parametrize("table", [0x40_0000, 0x3F_FFFC, 0xFFFF_FFF8])
def test_a_table_outside_memory(table: int) -> None:
    world = World()
    world.allow_dma()
    world.command(0xC8)
    world.start_dma(table, to_memory=True)
    world.wait()
    assert world.inb(BUS_MASTER + 2) & 7 == 2


def test_a_table_ends_at_64_kb() -> None:
    world = World()
    world.allow_dma()
    world.regions(0x1_FFF8, [(BUFFER, 512, 0), (BUFFER + 512, 512, END)])
    world.command(0xC8, count=2)
    world.start_dma(0x1_FFF8, to_memory=True)
    world.wait()
    assert world.inb(BUS_MASTER + 2) & 7 == 2


def test_regions_that_are_left_over_keep_the_engine_active() -> None:
    world = World()
    assert dma(world, [(BUFFER, 8192, END)], 0xC8) == 5


def test_dma_against_the_drives_direction_and_without_permission() -> None:
    world = World()
    world.allow_dma()
    world.regions(TABLE, [(BUFFER, 4096, END)])
    world.command(0xC8, count=8)
    world.start_dma(TABLE, to_memory=False)
    world.wait(10 * 2_000_000)
    assert world.inb(BUS_MASTER + 2) & 7 == 2
    world.outb(0x3F6, 4)
    world.outb(0x3F6, 0)
    world.set_config(IDE, 4, 3, 2)
    world.command(0xC8, count=8)
    world.start_dma(TABLE, to_memory=True)
    world.wait(10 * 2_000_000)
    assert world.inb(BUS_MASTER + 2) & 7 == 2
    assert world.memory.read(BUFFER, 4096) == bytes(4096)
    assert set(world.pci.faults()["ide-dma0"]) == {"direction that is not the drive's", "bus mastering not enabled"}


def test_dma_drops_decoded_code_under_it() -> None:
    world = World()
    told: list[tuple[int, int]] = []
    world.memory.code_map[BUFFER >> 12] = 1
    world.memory.on_code_write = lambda address, length: told.append((address, length))
    dma(world, [(BUFFER, 4096, END)], 0xC8)
    assert told == [(BUFFER, 4096)]


# The CD-ROM drive


def sense(world: World) -> tuple[int, int]:
    world.packet(bytes((0x03, 0, 0, 0, 18)))
    data = world.read_blocks(1, 18, SECONDARY)
    return data[2] & 15, data[12]


def ready(world: World) -> World:
    """Hear of the power-on first."""
    world.packet(b"\0")
    world.wait()
    assert status(world, SECONDARY) & ERR
    assert world.inb(SECONDARY + ERROR) >> 4 == 6
    return world


def test_the_first_command_hears_of_the_power_on() -> None:
    world = ready(World())
    assert sense(world) == (0, 0x29)
    world.packet(b"\0")
    world.wait()
    assert (status(world, SECONDARY), world.inb(SECONDARY + 2)) == (0x50, 3)


def test_read_10_in_pieces_and_by_dma() -> None:
    world = ready(World())
    packet = struct.pack(">BBIBH", 0x28, 0, 3, 0, 2)
    world.packet(packet, limit=3000)
    data = b""
    while True:
        world.wait()
        assert world.asserted(15)
        if not status(world, SECONDARY) & DRQ:
            break
        assert world.inb(SECONDARY + 2) == 2
        length = world.inb(SECONDARY + 4) | world.inb(SECONDARY + 5) << 8
        assert length <= 3000
        data += world.read_data(length, SECONDARY)
    assert data == CD[3 * 2048 : 5 * 2048]
    world.allow_dma()
    world.regions(TABLE, [(BUFFER, 4096, END)])
    world.packet(packet, dma=True)
    world.start_dma(TABLE, to_memory=True, channel=1)
    world.wait()
    assert world.memory.read(BUFFER, 4096) == CD[3 * 2048 : 5 * 2048]
    assert world.inb(BUS_MASTER + 8 + 2) & 7 == 4


@pytest.mark.parametrize(
    ("packet", "key", "code"),
    [
        (struct.pack(">BBIBH", 0x28, 0, CD_BLOCKS, 0, 1), 5, 0x21),
        (struct.pack(">BBII", 0xA8, 0, 0, 0xFFFF_FFFF), 5, 0x21),
        (b"\x2a", 5, 0x20),
        (bytes((0x43, 0, 7)), 5, 0x24),
        (bytes((0x12, 1)), 5, 0x24),
    ],
)
def test_packets_that_fail(packet: bytes, key: int, code: int) -> None:
    world = ready(World())
    world.packet(packet)
    world.wait()
    assert (status(world, SECONDARY), world.inb(SECONDARY + ERROR) >> 4) == (0x51, key)
    assert sense(world) == (key, code)


@pytest.mark.parametrize(
    ("packet", "answer"),
    [
        (b"\x25", struct.pack(">II", CD_BLOCKS - 1, 2048)),
        (bytes((0x43, 0, 0, 0, 0, 0, 0, 0, 20)), bytes((0, 18, 1, 1, 0, 0x14, 1, 0, 0, 0, 0, 0, 0, 0x14, 0xAA, 0))
         + struct.pack(">I", CD_BLOCKS)),
        (bytes((0x43, 2, 0, 0, 0, 0, 0xAA, 0, 20)), bytes((0, 10, 1, 1, 0, 0x14, 0xAA, 0, 0, 0, 2, CD_BLOCKS))),
        (bytes((0x12, 0, 0, 0, 8)), bytes((5, 0x80, 0, 0x21, 31, 0, 0, 0))),
    ],
)  # fmt: skip
def test_what_the_drive_says(packet: bytes, answer: bytes) -> None:
    world = ready(World())
    world.packet(packet)
    world.wait()
    length = world.inb(SECONDARY + 4) | world.inb(SECONDARY + 5) << 8
    assert world.read_data(length, SECONDARY) == answer
    assert status(world, SECONDARY) == 0x50


def test_a_cd_that_cannot_be_read() -> None:
    world = ready(World(cd=Broken()))
    world.packet(struct.pack(">BBIBH", 0x28, 0, 7, 0, 2))
    world.wait()
    assert world.inb(SECONDARY + ERROR) >> 4 == 3
    assert sense(world) == (3, 0x11)
    assert world.pci.faults()["ide1.0"] == {"image too short": 1}


def test_device_reset_ends_a_packet() -> None:
    world = ready(World())
    world.packet(struct.pack(">BBIBH", 0x28, 0, 0, 0, 1))
    world.outb(SECONDARY + 7, 0x08)
    world.wait()
    assert (status(world, SECONDARY), world.inb(SECONDARY + 4), world.asserted(15)) == (0, 0x14, False)
