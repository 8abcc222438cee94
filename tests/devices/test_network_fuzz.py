"""Anything a guest and a network can do to a virtio network card: no exception, and a copy goes on as the original.

`TRAPGATE_DEVICE_FUZZ=N` sets the number of examples; 1000 of them are 100,000 operations or more.
"""

from __future__ import annotations

import contextlib
import struct

from hypothesis import given
from hypothesis import strategies as st

from trapgate.firmware.pci_setup import set_up_pci

from .network_world import MAC, MULTICAST, OTHER, SIZE, WINDOW, NetworkWorld, Ring, frame, tcp_frame
from .test_pci_fuzz import FEWER, LENGTHS, LENGTHS_OF_BUFFERS, LONG, RAM_ADDRESSES, RING_VALUES, WIDTHS, WORDS, Step

PLACE = 3 << 3
FEATURES = st.sampled_from(
    [0, 1 << 15, 3 << 28, 1 << 15 | 1 << 29, 1 << 17 | 1 << 18 | 1 << 20 | 1 << 23, 1 << 15 | 0x883 | 3 << 28, 0x883]
)
QUEUES = st.integers(0, 2)
HEADERS = st.builds(
    lambda *fields: struct.pack("<BBHHHHH", *fields),
    st.sampled_from([0, 0, 1, 2, 0xFF]), st.sampled_from([0, 0, 1, 3, 4, 0x81]), st.integers(0, 0xFFFF),
    st.integers(0, 0xFFFF), st.one_of(st.sampled_from([14, 34]), st.integers(0, 0xFFFF)),
    st.one_of(st.sampled_from([6, 16]), st.integers(0, 0xFFFF)), st.integers(0, 3),
)  # fmt: skip


def plain(to: bytes, length: int) -> bytes:
    """A frame of no known protocol."""
    return frame(bytes(length), to)


def damaged(length: int, place: int, value: int) -> bytes:
    """A TCP packet with another byte at `place`; 0 leaves it as it is."""
    data = tcp_frame(bytes(length))
    return data if not place else data[:place] + bytes((value,)) + data[place + 1 :]


DAMAGED = st.sampled_from([0, 0, 0, 12, 13, 14, 16, 20, 23, 46])
FRAMES = st.one_of(
    st.binary(max_size=100),
    st.builds(plain, st.sampled_from([MAC, OTHER, MULTICAST]), st.integers(0, 9100)),
    st.builds(damaged, st.integers(0, 40_000), DAMAGED, st.integers(0, 255)),
)  # fmt: skip
DESCRIPTORS = st.lists(
    st.tuples(
        st.integers(0, SIZE), st.one_of(RAM_ADDRESSES, st.integers(0, (1 << 64) - 1), st.just(0x20_0000)),
        LENGTHS_OF_BUFFERS, st.integers(0, 7), st.integers(0, SIZE + 1),
    ),
    min_size=1, max_size=5,
)  # fmt: skip
#: A driver that keeps the rules, until the next step.
TRAFFIC = st.tuples(st.just("traffic"), FEATURES, st.lists(FRAMES, min_size=1, max_size=4))
STEPS = st.one_of(
    TRAFFIC,
    TRAFFIC,
    st.tuples(st.just("start"), FEATURES),
    st.tuples(st.just("chain"), QUEUES, DESCRIPTORS, RING_VALUES),
    st.tuples(st.just("index"), QUEUES, RING_VALUES),
    st.tuples(st.just("room"), st.integers(0, SIZE - 1), st.sampled_from([0, 11, 12, 600, 1536, 0x2000])),
    st.tuples(st.just("room"), st.integers(0, SIZE - 1), st.sampled_from([1536, 0x2000, 0x4000])),
    st.tuples(st.just("send"), st.integers(0, SIZE - 1), HEADERS, FRAMES),
    st.tuples(st.just("receive"), FRAMES),
    st.tuples(st.just("receive"), FRAMES),
    st.tuples(st.just("command"), st.integers(0, 3), st.integers(0, 6), st.binary(max_size=40)),
    st.tuples(st.just("command"), st.integers(0, 1), st.integers(0, 5), st.sampled_from([b"\0", b"\1", MAC, bytes(8)])),
    st.tuples(st.just("store"), st.integers(0, 0x3FFF), WIDTHS, WORDS),
    st.tuples(st.just("store"), st.integers(0, 0x3F), st.sampled_from([1, 2, 4, 8]), WORDS),
    st.tuples(st.just("load"), st.integers(0, 0x3FFF), st.sampled_from([1, 2, 4, 8])),
    st.tuples(st.just("notify"), st.integers(0, 4)),
    st.tuples(st.just("wait"), st.integers(0, 3 * WINDOW)),
)


class Guest:
    """A board with a card, and a driver that need not keep the rules."""

    def __init__(self) -> None:
        self.world = world = NetworkWorld(offloads=True)
        set_up_pci(world.pc.bus)
        self.base = self._config(0x20) & ~15
        self._set_config(0x04, 7)

    def _config(self, offset: int) -> int:
        bus = self.world.pc.bus
        bus.write_port(0xCF8, 4, 1 << 31 | PLACE << 8 | offset)
        return bus.read_port(0xCFC, 4)

    def _set_config(self, offset: int, value: int) -> None:
        bus = self.world.pc.bus
        bus.write_port(0xCF8, 4, 1 << 31 | PLACE << 8 | offset)
        bus.write_port(0xCFC, 4, value)

    def ring(self, index: int) -> Ring:
        return (self.world.receive, self.world.transmit, self.world.control)[index]

    def perform(self, step: Step) -> object:
        """One step; what can be seen of it."""
        world, bus = self.world, self.world.pc.bus
        match step:
            case ("start", int(features)):
                with contextlib.suppress(AssertionError):
                    world.start(features)
            case ("traffic", int(features), list(frames)):
                with contextlib.suppress(AssertionError):
                    world.start(features)
                for index in range(SIZE):
                    world.receive.offer_room(index, 0x2000)
                for index, data in enumerate(frames):
                    world.card.receive(data)
                    world.send(data[:0x3F00], index=index)
                return world.receive.returned()
            case ("chain", int(index), list(descriptors), int(head)):
                for descriptor in descriptors:
                    self.ring(index).descriptor(*descriptor)
                self.ring(index).offer(head)
                world.card.notify(index)
            case ("index", int(index), int(value)):
                world.memory.write_u16(self.ring(index).available + 2, value)
                world.card.notify(index)
            case ("room", int(index), int(length)):
                world.receive.offer_room(index, length)
            case ("send", int(index), bytes(header), bytes(data)):
                world.send(data[:0x3F00], header, index)
            case ("receive", bytes(data)):
                ready = world.card.ready
                world.card.receive(data)
                return ready
            case ("command", int(kind), int(command), bytes(data)):
                return world.command(kind, command, data)
            case ("store", int(offset), int(width), int(value)):
                bus.write_memory(self.base + offset, width, value & (1 << 8 * width) - 1)
            case ("load", int(offset), int(width)):
                return bus.read_memory(self.base + offset, width)
            case ("notify", int(index)):
                world.card.notify(index)
            case ("wait", int(cycles)):
                world.wait(cycles)
        return None

    def check(self) -> None:
        """What is true after every step."""
        world = self.world
        assert all(14 <= len(sent) <= 14 + 0xFFFF for sent in world.cable.sent)
        assert len(world.card.config) == 12
        for ring in (world.card.queues[0], world.card.queues[1]):
            assert 0 <= ring.next_available <= 0xFFFF
        assert world.card.is_sending == (world.card._event is not None)


def run(steps: list[Step]) -> Guest:
    guest = Guest()
    for step in steps:
        guest.perform(step)
        guest.check()
    return guest


@LONG
@given(st.lists(STEPS, **LENGTHS))  # type: ignore[arg-type]
def test_a_network_card(steps: list[Step]) -> None:
    run([("start", 1 << 15 | 0x883), *steps])


HALF = st.lists(STEPS, min_size=20, max_size=80)


@FEWER
@given(FEATURES, HALF, HALF)
def test_a_restored_card_goes_on_as_the_original(features: int, before: list[Step], after: list[Step]) -> None:
    original = run([("start", features), *before])
    copy = Guest()
    copy.world.clock.now = original.world.clock.now
    copy.world.memory.view[:] = original.world.memory.view
    for index in range(3):
        ours, theirs = copy.ring(index), original.ring(index)
        ours.next, ours.seen = theirs.next, theirs.seen
    snapshot = original.world.pc.snapshot()
    copy.world.pc.restore(snapshot)
    assert copy.world.pc.snapshot() == snapshot
    original.world.cable.sent.clear()
    for step in after:
        assert copy.perform(step) == original.perform(step)
    assert copy.world.cable.sent == original.world.cable.sent
    assert copy.world.pc.snapshot() == original.world.pc.snapshot()
    assert copy.world.memory.view == original.world.memory.view
