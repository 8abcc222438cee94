"""Anything a guest can do to PCI, IDE and virtio: no exception, values in range, nothing outside memory.

`TRAPGATE_DEVICE_FUZZ=N` sets the number of examples; 1000 of them are 100,000 operations or more on each part.
"""

from __future__ import annotations

import contextlib
import os
import struct

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from .pci_world import BUS_MASTER, IDE, MILLISECONDS, PRIMARY, SECONDARY, VIRTIO, Driver, World

Step = tuple[object, ...]
EXAMPLES = int(os.environ.get("TRAPGATE_DEVICE_FUZZ", "40"))
LONG = settings(
    max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)
FEWER = settings(LONG, max_examples=max(EXAMPLES // 2, 10))
#: At a length of 100 on average, 1000 examples are 100,000 operations.
LENGTHS = {"min_size": 60, "max_size": 150}

WIDTHS = st.sampled_from([1, 2, 4])
WORDS = st.one_of(
    st.integers(0, 0xFFFF_FFFF),
    st.integers(0, 31).map(lambda bit: 1 << bit),
    st.sampled_from([0, 1, 7, 0xFFFF_FFFF, 0xFEC0_0000, 0xFEE0_0000, 0xC000, 0x1F0, 0xCF8, 0x10_0000, 0xFE00_0000]),
)
PLACES = st.sampled_from([0, 8, IDE, VIRTIO, VIRTIO, 1, 0xF8])
OFFSETS = st.one_of(st.integers(0, 0xFF), st.sampled_from([0x04, 0x10, 0x14, 0x20, 0x24, 0x34, 0x40, 0x42, 0x60, 0x84]))
RAM_ADDRESSES = st.one_of(
    st.integers(0, 0x3F_FFFF),
    st.sampled_from([0x3F_FFF8, 0x40_0000 - 16, 0x40_0000, 0xFFFF_FFF0, 0x10_FFFC, 0xFEE0_0000]),
)
IDE_PORTS = st.sampled_from(
    [*(b + r for b in (PRIMARY, SECONDARY) for r in range(8)), 0x3F6, 0x376, *range(BUS_MASTER, BUS_MASTER + 16)]
)
BASES = st.sampled_from([PRIMARY, SECONDARY])
COMMANDS = st.sampled_from(
    [0x00, 0x08, 0x10, 0x20, 0x24, 0x25, 0x29, 0x30, 0x34, 0x35, 0x39, 0x40, 0x70, 0x90, 0x91, 0xA0, 0xA1, 0xC4, 0xC5,
     0xC6, 0xC8, 0xCA, 0xE5, 0xE7, 0xEA, 0xEC, 0xEF, 0xF8, 0x27, 0x21]
)  # fmt: skip

CONFIG_STEPS = st.one_of(
    st.tuples(st.just("config"), PLACES, OFFSETS, WIDTHS),
    st.tuples(st.just("set"), PLACES, OFFSETS, WIDTHS, WORDS),
    st.tuples(st.just("bar"), st.sampled_from([IDE, VIRTIO]), st.integers(0, 5), WORDS),
    st.tuples(st.just("set"), st.sampled_from([IDE, VIRTIO]), st.just(4), st.just(2), st.integers(0, 7)),
    st.tuples(st.just("in"), st.integers(0xCF8, 0xCFF), WIDTHS),
    st.tuples(st.just("out"), st.sampled_from([0xCF8, 0xCFA, 0xCFB, 0xCFC, 0xCFD, 0xCFE, 0xCFF]), WIDTHS, WORDS),
    st.tuples(st.just("apic"), st.sampled_from([0xFE00_0000, 0xFE00_4000, 0xFEE0_0000, 0xD000_0000])),
    st.tuples(st.just("load"), st.integers(0xFE00_0000, 0xFE00_7FFF), WIDTHS),
)
IDE_STEPS = st.one_of(
    st.tuples(st.just("in"), IDE_PORTS, WIDTHS),
    st.tuples(st.just("out"), IDE_PORTS, WIDTHS, WORDS),
    st.tuples(st.just("command"), BASES, COMMANDS, st.integers(0, 4096), st.integers(0, 255)),
    st.tuples(st.just("drain"), BASES, st.integers(1, 600), WIDTHS),
    st.tuples(st.just("fill"), BASES, st.binary(min_size=1, max_size=600)),
    st.tuples(st.just("packet"), st.binary(min_size=12, max_size=12), st.integers(0, 0xFFFF), st.booleans()),
    st.tuples(
        st.just("packet"),
        st.builds(
            lambda op, lba, n: struct.pack(">BBIBHxxx", op, 0, lba, 0, n),
            st.sampled_from([0x00, 0x03, 0x12, 0x25, 0x28, 0x43, 0x46, 0x4A, 0x51, 0x5A, 0xA8, 0xBE]),
            st.integers(0, 80), st.integers(0, 70),
        ),
        st.integers(0, 0xFFFF), st.booleans(),
    ),
    st.tuples(
        st.just("dma"), RAM_ADDRESSES,
        st.lists(st.tuples(RAM_ADDRESSES, st.integers(0, 0xFFFF), st.sampled_from([0, 0, 0x8000])), max_size=6),
        st.booleans(), st.integers(0, 1),
    ),
    st.tuples(st.just("wait"), st.integers(0, 3 * MILLISECONDS)),
)  # fmt: skip
#: A whole DMA command at a place that there is, with regions that may not be.
TRANSFERS = st.tuples(
    st.just("transfer"), st.sampled_from([0xC8, 0xCA]), st.integers(0, 2040), st.integers(1, 8),
    st.lists(
        st.tuples(RAM_ADDRESSES, st.sampled_from([0, 2, 512, 1024, 4096]), st.sampled_from([0, 0x8000])),
        min_size=1, max_size=4,
    ),
    st.integers(0, 600_000),
)  # fmt: skip
IDE_STEPS = st.one_of(IDE_STEPS, TRANSFERS, TRANSFERS)
RING_VALUES = st.one_of(st.integers(0, 0xFFFF), st.integers(0, 20))
LENGTHS_OF_BUFFERS = st.one_of(
    st.integers(0, 0xFFFF_FFFF), st.sampled_from([0, 1, 15, 16, 17, 512, 513, 4096, 1 << 22])
)
DESCRIPTORS = st.lists(
    st.tuples(
        st.integers(0, 16), st.one_of(RAM_ADDRESSES, st.integers(0, (1 << 64) - 1), st.just(0x10_0000)),
        LENGTHS_OF_BUFFERS, st.integers(0, 7), st.integers(0, 20),
    ),
    min_size=1, max_size=5,
)  # fmt: skip
VIRTIO_STEPS = st.one_of(
    st.tuples(st.just("start"), st.sampled_from([1 << 32, 1 << 32 | 3 << 28, 1 << 32 | 1 << 9])),
    st.tuples(st.just("chain"), DESCRIPTORS, RING_VALUES),
    st.tuples(st.just("request"), st.sampled_from([0, 1, 4, 8, 9]), st.integers(0, 2100), st.integers(0, 3000)),
    st.tuples(st.just("index"), RING_VALUES),
    st.tuples(st.just("store"), st.integers(0, 0x3FFF), WIDTHS, WORDS),
    st.tuples(st.just("store"), st.integers(0, 0x3F), st.sampled_from([1, 2, 4, 8]), WORDS),
    st.tuples(st.just("load-bar"), st.integers(0, 0x3FFF), st.sampled_from([1, 2, 4, 8])),
    st.tuples(st.just("vector"), st.integers(0, 0x1FFF), WIDTHS, WORDS),
    st.tuples(st.just("notify")),
    st.tuples(st.just("wait"), st.integers(0, 3 * MILLISECONDS)),
    st.tuples(st.just("set"), st.just(VIRTIO), OFFSETS, WIDTHS, WORDS),
)


class Guest:
    """A board, and a virtio driver that need not keep the rules."""

    def __init__(self) -> None:
        self.world = World()
        self.world.allow_dma(IDE)
        self.driver = Driver(self.world)

    def perform(self, step: Step) -> object:
        """One step; what the guest sees of it."""
        world, bus, driver = self.world, self.world.bus, self.driver
        match step:
            case ("config", int(place), int(offset), int(width)):
                return world.config(place, offset, width)
            case ("set", int(place), int(offset), int(width), int(value)):
                world.set_config(place, offset, value & (1 << 8 * width) - 1, width)
            case ("bar", int(place), int(index), int(value)):
                world.set_config(place, 0x10 + 4 * index, value)
            case ("in", int(port), int(width)):
                return bus.read_port(port, width)
            case ("out", int(port), int(width), int(value)):
                if port != 0xCF9:
                    bus.write_port(port, width, value & (1 << 8 * width) - 1)
            case ("load", int(address), int(width)):
                return bus.read_memory(address, width)
            case ("apic", int(base)):
                world.pc.lapic.apic_base = base | 0x900
            case ("command", int(base), int(command), int(lba), int(count)):
                world.command(command, lba, count, base)
            case ("drain", int(base), int(count), int(width)):
                return [bus.read_port(base, width) for _ in range(count)]
            case ("fill", int(base), bytes(data)):
                world.write_data(data, base)
            case ("packet", bytes(packet), int(limit), bool(dma)):
                world.packet(packet, limit, dma)
            case ("dma", int(table), list(regions), bool(to_memory), int(channel)):
                if world.memory.is_ram(table, 8 * len(regions) or 1):
                    world.regions(table, regions)
                world.start_dma(table, to_memory, channel)
            case ("transfer", int(command), int(lba), int(count), list(regions), int(cycles)):
                for value in (4, 0):  # whatever went on before is dropped
                    world.outb(0x3F6, value)
                world.regions(0x1_0000, regions)
                world.command(command, lba, count)
                world.start_dma(0x1_0000, to_memory=command == 0xC8)
                world.wait(cycles)
            case ("wait", int(cycles)):
                world.wait(cycles)
            case ("start", int(features)):
                driver.features = features
                with contextlib.suppress(AssertionError):  # the registers may have been moved away
                    driver.start()
            case ("chain", list(descriptors), int(head)):
                for descriptor in descriptors:
                    driver.descriptor(*descriptor)
                driver.offer(head)
                driver.notify()
            case ("request", int(kind), int(sector), int(length)):
                return driver.request(kind, sector, length=length)
            case ("index", int(value)):
                world.memory.write_u16(driver.available + 2, value)
                driver.notify()
            case ("store", int(offset), int(width), int(value)):
                driver.write(offset, value & (1 << 8 * width) - 1, width)
            case ("load-bar", int(offset), int(width)):
                return driver.read(offset, width)
            case ("vector", int(offset), int(width), int(value)):
                bus.write_memory(driver.msix + offset, width, value & (1 << 8 * width) - 1)
            case ("notify",):
                driver.notify()
        return None

    def check(self, step: Step, result: object) -> None:
        """What is true after every step."""
        if step[0] in ("config", "in", "load", "load-bar"):
            assert isinstance(result, int)
            assert 0 <= result < 1 << 8 * int(str(step[-1]))
        pc, pci = self.world.pc, self.world.pci
        for channel, irq in zip(pci.ide.channels, (14, 15), strict=True):
            assert channel.line == self.world.asserted(irq)
        for address in (0xFEC0_0000, pc.lapic.apic_base & ~0xFFF):
            assert self.world.bus._pages[address >> 12].name in ("ioapic", "lapic")
        assert self.world.memory.read(0x1000, 4) is not None


def run(steps: list[Step]) -> Guest:
    guest = Guest()
    for step in steps:
        guest.check(step, guest.perform(step))
    return guest


@LONG
@given(st.lists(CONFIG_STEPS, **LENGTHS))
def test_configuration_space(steps: list[Step]) -> None:
    run(steps)


@LONG
@given(st.lists(IDE_STEPS, **LENGTHS))
def test_ide(steps: list[Step]) -> None:
    run(steps)


@LONG
@given(st.lists(VIRTIO_STEPS, **LENGTHS))
def test_virtqueues(steps: list[Step]) -> None:
    run([("start", 1 << 32), *steps])


ANY = st.lists(st.one_of(CONFIG_STEPS, IDE_STEPS, VIRTIO_STEPS), min_size=20, max_size=80)


@FEWER
@given(ANY, ANY)
def test_a_restored_board_goes_on_as_the_original(before: list[Step], after: list[Step]) -> None:
    original = run(before)
    copy = Guest()
    copy.world.clock.now = original.world.clock.now
    copy.driver.__dict__.update({**original.driver.__dict__, "world": copy.world})
    for ours, theirs in (
        (copy.world.disk, original.world.disk), (copy.world.virtio_disk, original.world.virtio_disk),
    ):  # fmt: skip
        ours.data[:] = theirs.data  # type: ignore[attr-defined]
    copy.world.memory.view[:] = original.world.memory.view
    snapshot = original.world.pc.snapshot()
    copy.world.pc.restore(snapshot)
    assert copy.world.pc.snapshot() == snapshot
    for step in after:
        result = copy.perform(step)
        assert result == original.perform(step)
        copy.check(step, result)
    assert copy.world.pc.snapshot() == original.world.pc.snapshot()
