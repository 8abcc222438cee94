"""PCI: plain MSI with masks, windows of 64 bits, and what happens to windows and DMA where there is no RAM."""

from __future__ import annotations

import pytest

from trapgate.devices.pci.bus import PciBus
from trapgate.devices.pci.function import PciFunction
from trapgate.devices.pci.msi import CAPABILITY, MsiCapability
from trapgate.machine.bus import Bus
from trapgate.machine.memory import PhysicalMemory

from .pci_world import IDE, PRIMARY, VIRTIO, Driver, World

CONTROL, ADDRESS, UPPER, DATA, MASK, PENDING = 2, 4, 8, 12, 16, 20


class Apic:
    """Takes messages."""

    def __init__(self) -> None:
        self.messages: list[tuple[int, bool, int, int]] = []

    def receive(self, destination: int, logical: bool, mode: int, vector: int, level: bool) -> None:
        self.messages.append((destination, logical, mode, vector))


class Card:
    def __init__(self, vectors: int) -> None:
        self.apic, self.function = Apic(), PciFunction("card", 0x1234, 0x5678, 0x020000, pin=1)
        self.msi = MsiCapability(self.function, vectors, self.apic)  # type: ignore[arg-type]
        self.place = self.function.read_config(0x34, 1)

    def get(self, offset: int, width: int = 4) -> int:
        return self.function.read_config(self.place + offset, width)

    def set(self, offset: int, value: int, width: int = 4) -> None:
        self.function.write_config(self.place + offset, width, value)
        self.msi.update()


def test_the_capability_says_what_the_card_has() -> None:
    card = Card(8)
    assert card.get(0, 1) == CAPABILITY
    assert card.get(CONTROL, 2) == 0x0186  # 64-bit addresses, masks, 8 vectors
    for offset, value in ((CONTROL, 0xFFFF), (ADDRESS, 0xFFFF_FFFF), (DATA, 0xFFFF_FFFF), (MASK, 0xFFFF_FFFF)):
        card.set(offset, value, 2 if offset == CONTROL else 4)
    assert [card.get(offset) for offset in (ADDRESS, DATA, MASK, PENDING)] == [0xFFFF_FFFC, 0xFFFF, 0xFF, 0]
    assert card.get(CONTROL, 2) == 0x01F7
    assert card.msi.allowed == 8  # 128 were asked for


def test_messages_have_their_vectors_number() -> None:
    card = Card(4)
    card.msi.send(0)
    assert not card.apic.messages
    card.set(ADDRESS, 0xFEE0_3004)
    card.set(DATA, 0x0041)
    card.set(CONTROL, 0x0001, 2)  # one vector is allowed: all share it
    for vector in (0, 3):
        card.msi.send(vector)
    card.set(CONTROL, 0x0021, 2)
    for vector in range(4):
        card.msi.send(vector)
    assert [message[3] for message in card.apic.messages] == [0x41, 0x41, 0x40, 0x41, 0x42, 0x43]
    assert card.apic.messages[0][:3] == (3, True, 0)


def test_a_masked_vector_waits() -> None:
    card = Card(4)
    card.set(ADDRESS, 0xFEE0_0000)
    card.set(DATA, 0x50)
    card.set(CONTROL, 0x0021, 2)
    card.set(MASK, 0b0110)
    for vector in (1, 2, 2, 3):
        card.msi.send(vector)
    assert card.get(PENDING) == 0b0110
    assert [message[3] for message in card.apic.messages] == [0x53]
    card.set(MASK, 0b0100)
    assert (card.get(PENDING), card.apic.messages[-1][3]) == (0b0100, 0x51)
    card.set(PENDING, 0)
    assert card.get(PENDING) == 0b0100


@pytest.mark.parametrize(("low", "high"), [(0x10_0000, 0), (0xFEC0_0000, 0), (0xFEE0_0000, 1)])
def test_a_message_to_anywhere_else_is_dropped(low: int, high: int) -> None:
    card = Card(1)
    card.set(ADDRESS, low)
    card.set(UPPER, high)
    card.set(CONTROL, 1, 2)
    card.msi.send(0)
    assert not card.apic.messages
    assert card.function.faults == {"message to no local APIC": 1}


def test_a_message_can_be_unmaskable() -> None:
    card = Card(2)
    card.set(DATA, 0x0400)
    assert not card.msi.sends_unmaskable()
    card.set(CONTROL, 1, 2)
    assert card.msi.sends_unmaskable()
    card.set(MASK, 1)
    assert not card.msi.sends_unmaskable()


class Registers:
    name = "registers"

    def reset(self) -> None: ...

    def read_memory(self, offset: int, width: int) -> int:
        return offset

    def write_memory(self, offset: int, width: int, value: int) -> None: ...


def test_a_window_of_64_bits() -> None:
    bus, memory = Bus(), PhysicalMemory(4 << 20)
    pci, function = PciBus(bus, memory), PciFunction("card", 0x1234, 0x5678, 0x020000)
    function.add_wide_memory_bar(2, 0x10000, Registers())
    pci.add(3, 0, function)
    function.write_config(0x18, 4, 0xFFFF_FFFF)
    function.write_config(0x1C, 4, 0xFFFF_FFFF)
    assert (function.read_config(0x18, 4), function.read_config(0x1C, 4)) == (0xFFFF_0004, 0xFFFF_FFFF)
    function.write_config(4, 2, 2)
    assert function.faults == {"memory window off the address space": 1}
    function.write_config(0x18, 4, 0xD000_0000)
    function.write_config(0x1C, 4, 0x12)
    assert bus.read_memory(0x12_D000_0040, 4) == 0x40
    assert bus.read_memory(0xD000_0040, 4) == 0xFFFF_FFFF
    function.write_config(0x1C, 4, 0)
    assert bus.read_memory(0xD000_0040, 4) == 0x40
    function.write_config(0x18, 4, 0x10_0000)
    assert function.faults["memory window over RAM"] == 1
    pci.restore(pci.snapshot())
    assert bus.read_memory(0xD000_0040, 4) == 0xFFFF_FFFF


def test_virtio_works_above_4_gb() -> None:
    world = World()
    assert world.config(VIRTIO, 0x20) & 0xF == 4
    assert world.config(VIRTIO, 0x24) == 0
    world.set_config(VIRTIO, 0x24, 1)
    driver = Driver(world)
    driver.registers += 1 << 32
    driver.start()
    assert driver.request(0, 5, length=512)[0] == 0


def test_windows_over_ram_and_each_other_take_nothing_away() -> None:
    world = World()
    first = world.config(VIRTIO, 0x20) & ~15
    for address in (0, 0x1000, 0x3F_C000, 0xFEC0_0000, 0xFEE0_0000):
        world.memory.write_u32(0x1000, 0x600D)
        world.set_config(VIRTIO, 0x20, address)
        assert world.memory.read_u32(0x1000) == 0x600D
    world.set_config(VIRTIO, 0x20, first)
    # The table of vectors on top of the registers: who was there first stays.
    vectors = world.config(VIRTIO, 0x14) & ~15
    world.set_config(VIRTIO, 0x14, first)
    assert world.bus.read_memory(first + 18, 2) == 1
    world.set_config(VIRTIO, 0x14, vectors)
    assert world.bus.read_memory(vectors + 12, 4) == 1


@pytest.mark.parametrize("place", [0xFE00_0000, 0xFEE0_0000, 0x40_0000, 0xFFFF_FE00])
def test_dma_does_not_reach_what_is_no_ram(place: int) -> None:
    """A disk told to read into a device's registers, or beyond RAM, moves nothing and says so."""
    world = World()
    world.allow_dma(IDE)
    before = world.bus.memory_accesses
    world.regions(0x1_0000, [(place, 512, 0x8000)])
    world.command(0xC8, 1, 1)
    world.start_dma(0x1_0000, to_memory=True)
    world.wait()
    assert world.inb(PRIMARY + 7) & 0x80 == 0
    assert world.bus.memory_accesses == before
    assert world.pci.faults()["ide-dma0"]
