"""PCI: configuration mechanism 1, base addresses, interrupt routes, message interrupts."""

from __future__ import annotations

import struct

import pytest

from trapgate.boards.pc import Pc
from trapgate.firmware.pci_setup import PIRQ_IRQS, PciInterrupt

from .pci_world import IDE, ISA_BRIDGE, VIRTIO, Driver, World
from .support import Board

NONE = 0xFFFF_FFFF


def test_the_usual_board_has_no_pci() -> None:
    board = Board()
    board.bus.write_port(0xCF8, 4, 1 << 31)
    assert board.bus.read_port(0xCF8, 4) == board.bus.read_port(0xCFC, 4) == NONE
    assert isinstance(board.pc, Pc)
    assert board.pc.pci is None


def test_the_address_register_takes_double_words_alone() -> None:
    world = World()
    world.outl(0xCF8, 0xFFFF_FFFF)
    assert world.bus.read_port(0xCF8, 4) == 0x80FF_FFFC
    world.bus.write_port(0xCF8, 1, 0)
    world.bus.write_port(0xCF8, 2, 0)
    assert world.bus.read_port(0xCF8, 4) == 0x80FF_FFFC
    assert world.bus.read_port(0xCF8, 1) == 0xFF


@pytest.mark.parametrize(
    ("width", "values"), [(1, [0x86, 0x80, 0x10, 0x70]), (2, [0x8086, 0x7010]), (4, [0x7010_8086])]
)
def test_bytes_and_words_of_a_register(width: int, values: list[int]) -> None:
    world = World()
    assert [world.config(IDE, offset, width) for offset in range(0, 4, width)] == values


@pytest.mark.parametrize("address", [0x0000_0000, 1 << 31 | 1 << 16, 1 << 31 | 31 << 11, 1 << 31 | 2 << 8])
def test_nobody_answers(address: int) -> None:
    """Not enabled, another bus, an empty slot, a function that there is not."""
    world = World()
    world.outl(0xCF8, address)
    assert world.bus.read_port(0xCFC, 4) == NONE
    world.outl(0xCFC, 0)


def test_identifiers_are_read_only() -> None:
    world = World()
    for place, identity in ((0, 0x1237_8086), (ISA_BRIDGE, 0x7000_8086), (IDE, 0x7010_8086), (VIRTIO, 0x1042_1AF4)):
        world.set_config(place, 0, 0)
        assert world.config(place, 0) == identity
    assert world.config(ISA_BRIDGE, 0x0E, 1) == 0x80


def test_sizes_of_base_addresses() -> None:
    world = World(is_set_up=False)
    world.set_config(IDE, 0x20, NONE)
    assert world.config(IDE, 0x20) == 0xFFFF_FFF1
    world.set_config(VIRTIO, 0x20, NONE)
    world.set_config(VIRTIO, 0x14, NONE)
    world.set_config(VIRTIO, 0x10, NONE)
    assert [world.config(VIRTIO, offset) for offset in (0x20, 0x14, 0x10)] == [0xFFFF_C004, 0xFFFF_F000, 0]


def test_a_window_moves_and_is_switched_off() -> None:
    world = World()
    assert world.inb(0xC002) == 0x00
    world.set_config(IDE, 0x20, 0xD000)
    assert world.inb(0xC002) == 0xFF
    assert world.inb(0xD002) == 0x00
    world.set_config(IDE, 4, 0, 2)
    assert world.inb(0xD002) == 0xFF
    assert world.inb(0x1F7) == 0xFF
    world.set_config(IDE, 4, 1, 2)
    assert world.inb(0x1F7) == 0x50


def test_an_ide_channel_is_decoded_while_its_timing_register_says_so() -> None:
    world = World()
    world.set_config(IDE, 0x40, 0, 2)
    assert world.inb(0x1F7) == 0xFF
    world.outb(0x176, 0xA0)
    assert world.inb(0x177) == 0
    world.set_config(IDE, 0x40, 0x8000, 2)
    assert world.inb(0x1F7) == 0x50


def test_windows_over_ram_and_devices_are_not_decoded() -> None:
    world = World()
    world.memory.write_u32(0x20_0000, 0x1234_5678)
    for address in (0x20_0000, 0xFEC0_0000, 0xFEE0_0000, 0xFFFF_FFF0):
        world.set_config(VIRTIO, 0x20, address)
    world.set_config(VIRTIO, 0x20, 0x20_0000)
    assert world.memory.read_u32(0x20_0000) == 0x1234_5678
    world.set_config(IDE, 0x20, 0x3F0)
    world.outb(0x3F8 + 7, 0x5A)
    assert world.inb(0x3F8 + 7) == 0x5A
    faults = world.pci.faults()
    assert faults["virtio-blk0"]["memory window over RAM"] == 2
    assert faults["virtio-blk0"]["window over another device"] == 2
    assert faults["ide"]["window over another device"] == 1


def test_of_two_windows_the_first_stays_and_the_other_comes_when_it_goes() -> None:
    world = World()
    registers = world.config(VIRTIO, 0x20) & ~15
    world.set_config(VIRTIO, 0x14, registers)
    assert world.bus.read_memory(registers + 18, 2) == 1
    world.set_config(VIRTIO, 0x20, registers + 0x10000)
    assert world.bus.read_memory(registers + 12, 4) == 1  # the first vector is masked
    assert world.bus.read_memory(registers + 0x10000 + 18, 2) == 1


def test_the_local_apic_goes_before_a_window() -> None:
    world = World()
    registers = world.config(VIRTIO, 0x20) & ~15
    world.pc.lapic.apic_base = registers | 0x900
    assert world.bus.read_memory(registers + 0x30, 4) & 0xFF == 0x10
    world.pc.lapic.apic_base = 0xFEE0_0900
    assert world.bus.read_memory(registers + 18, 2) == 1


def test_firmware_gives_addresses_and_routes() -> None:
    world = World()
    assert world.interrupts == (PciInterrupt(3, 1, PIRQ_IRQS[2]),)
    assert world.config(VIRTIO, 0x3C, 2) == 0x010B
    assert [world.config(ISA_BRIDGE, 0x60 + line, 1) for line in range(4)] == [10, 10, 11, 11]
    assert world.inb(0x4D1) == 0x08
    assert world.config(IDE, 4, 2) == world.config(VIRTIO, 4, 2) == 3
    assert world.config(IDE, 0x20) == 0xC001


def test_intx_by_the_router() -> None:
    world = World()
    driver = Driver(world)
    driver.start()
    assert driver.request(0, 0, length=512)[0] == 0
    assert world.asserted(11)
    assert world.config(VIRTIO, 0x06, 2) & 8
    world.set_config(ISA_BRIDGE, 0x62, 5, 1)
    assert (world.asserted(11), world.asserted(5)) == (False, True)
    world.set_config(ISA_BRIDGE, 0x62, 0x80, 1)
    assert not world.asserted(5)
    world.set_config(ISA_BRIDGE, 0x62, 11, 1)
    world.set_config(VIRTIO, 4, 0x0407, 2)
    assert not world.asserted(11)
    world.set_config(VIRTIO, 4, 0x0007, 2)
    assert world.asserted(11)
    assert driver.read(0x1000, 1) == 1
    assert not world.asserted(11)
    assert driver.read(0x1000, 1) == 0


def _capabilities(world: World, place: int) -> dict[int, list[int]]:
    found: dict[int, list[int]] = {}
    offset = world.config(place, 0x34, 1)
    while offset:
        found.setdefault(world.config(place, offset, 1), []).append(offset)
        offset = world.config(place, offset + 1, 1)
    return found


def test_message_interrupts() -> None:
    world = World()
    world.pc.lapic.write_memory(0xF0, 4, 0x1FF)
    capability = _capabilities(world, VIRTIO)[0x11][0]
    driver = Driver(world)
    driver.start()
    driver.write(26, 1, 2)
    entry = struct.pack("<QII", 0xFEE0_0000, 0x0041, 1)
    for place in range(0, 16, 4):
        world.bus.write_memory(driver.msix + 16 + place, 4, int.from_bytes(entry[place : place + 4], "little"))
    world.set_config(VIRTIO, capability + 2, 0x8000, 2)
    driver.request(0, 0, length=512)
    assert not world.asserted(11)
    assert not world.pins.intr
    assert world.bus.read_memory(driver.msix + 0x800, 8) == 2
    world.bus.write_memory(driver.msix + 28, 4, 0)
    assert world.bus.read_memory(driver.msix + 0x800, 8) == 0
    assert world.pins.intr
    assert world.pc.acknowledge() == 0x41


def test_a_message_that_no_local_apic_takes_writes_nothing() -> None:
    world = World()
    capability = _capabilities(world, VIRTIO)[0x11][0]
    driver = Driver(world)
    driver.start()
    driver.write(26, 0, 2)
    world.bus.write_memory(driver.msix, 8, 0x30_0000)
    world.bus.write_memory(driver.msix + 8, 8, 0x41)
    world.set_config(VIRTIO, capability + 2, 0x8000, 2)
    before = world.memory.read(0x30_0000, 8)
    driver.request(0, 0, length=512)
    assert world.memory.read(0x30_0000, 8) == before
    assert driver.faults["message to no local APIC"] == 1


def test_a_snapshot_knows_which_of_two_windows_is_decoded() -> None:
    world, other = World(), World()
    vectors = world.config(VIRTIO, 0x14) & ~15
    world.set_config(VIRTIO, 0x20, vectors & ~0x3FFF)
    world.set_config(VIRTIO, 0x14, vectors & ~0x3FFF)
    before = [world.bus.read_memory(vectors + offset, 4) for offset in (0x0C, 0x14)]
    other.pc.restore(world.pc.snapshot())
    assert [other.bus.read_memory(vectors + offset, 4) for offset in (0x0C, 0x14)] == before
