"""The virtio network card: frames both ways, buffers that are merged, filters, whole TCP packets, rings that lie."""

from __future__ import annotations

import struct
from collections.abc import Callable

import pytest

from trapgate.boards.pc import Pc, PcConfig
from trapgate.boards.pci import NicConfig
from trapgate.devices.virtio.network import CONTROL, RECEIVE, TRANSMIT
from trapgate.devices.virtio.pci import VirtioPci
from trapgate.machine.clock import Clock
from trapgate.machine.console import MemoryConsole
from trapgate.machine.control import RunControl
from trapgate.machine.memory import PhysicalMemory

from .network_world import (
    EVENT_INDEX,
    MAC,
    MULTICAST,
    NEXT,
    OTHER,
    SIZE,
    VERSION_1,
    WINDOW,
    WRITE,
    Cable,
    NetworkWorld,
    frame,
)
from .support import HZ, Pins

MERGE = 1 << 15
CONTROLS = 1 << 17 | 1 << 18
EXTRA, SET_MAC = 1 << 20, 1 << 23
CSUM, GUEST_CSUM, GUEST_TSO, HOST_TSO = 1, 2, 1 << 7, 1 << 11
OFFLOADS = CSUM | GUEST_CSUM | GUEST_TSO | HOST_TSO
NEEDS_RESET = 0x40
ONE = bytes(10) + b"\1\0"


def test_what_is_offered() -> None:
    plain = VERSION_1 | EVENT_INDEX | 1 << 28 | 1 << 3 | 1 << 5 | MERGE | 1 << 16 | CONTROLS | EXTRA | SET_MAC
    assert NetworkWorld().card.features == plain
    assert NetworkWorld(offloads=True).card.features == plain | OFFLOADS
    card = NetworkWorld(mtu=9000).card
    assert card.config == MAC + struct.pack("<HHH", 1, 1, 9000)
    assert (card.device_id, card.class_code, len(card.queues)) == (1, 0x020000, 3)


def test_cards_stand_behind_each_other_on_the_bus_and_interrupt_by_their_pins() -> None:
    nics = tuple(NicConfig("virtio", bytes(5) + bytes((n,)), Cable()) for n in range(2))
    clock, memory = Clock(HZ), PhysicalMemory(4 << 20)
    pc = Pc(memory, clock, RunControl(), Pins(), MemoryConsole(), PcConfig(nics=nics))
    assert pc.pci is not None
    assert [card.name for card in pc.pci.cards] == ["net0", "net1"]
    for slot, card in zip((3, 4), pc.pci.cards, strict=True):
        function = pc.pci.bus.find(slot << 3)
        assert isinstance(function, VirtioPci)
        assert function.device is card
        assert function.config.get(0, 4) == 0x1041_1AF4
    raised: list[bool] = []
    function.on_interrupt = raised.append
    function.device.on_used(function.device.queues[0])
    assert raised == [True]
    assert function.read_memory(0x1000, 1) == 1
    assert raised == [True, False]


# Sending


@pytest.mark.parametrize("length", [60, 1514, 9014, 9018])
def test_a_frame_is_sent(length: int) -> None:
    world = NetworkWorld()
    sent = frame(bytes(n * 7 & 0xFF for n in range(length - 14)))
    world.send(sent)
    assert world.cable.sent == [sent]
    assert world.transmit.returned() == [(0, 0)]
    assert world.pci.counts()["net0"]["bytes_sent"] == length


def test_short_frames_are_padded_and_headers_may_lie_apart() -> None:
    world = NetworkWorld()
    ring, short = world.transmit, frame(b"ab")
    ring.memory.write(ring.buffer(0), bytes(12))
    ring.memory.write(ring.buffer(1), short)
    ring.descriptor(0, ring.buffer(0), 12, NEXT, 1)
    ring.descriptor(1, ring.buffer(1), len(short), 0)
    ring.offer(0)
    world.card.notify(TRANSMIT)
    assert world.cable.sent == [short.ljust(60, b"\0")]


@pytest.mark.parametrize("length", [0, 11, 12 + 13, 12 + 9019, 0x3000])
def test_frames_that_are_none_are_dropped(length: int) -> None:
    world = NetworkWorld()
    world.transmit.offer_data(0, bytes(length))
    world.send(frame(), index=1)
    assert len(world.cable.sent) == 1
    assert world.transmit.returned() == [(0, 0), (1, 0)]
    assert world.faults == {"frame of a bad length": 1}


@pytest.mark.parametrize("features", [0, EVENT_INDEX])
def test_a_burst_takes_one_notification(features: int) -> None:
    world = NetworkWorld(features)
    ring = world.transmit

    def wants_notification() -> bool:
        if features:
            return world.memory.read_u16(ring.used + 4 + 8 * SIZE) == ring.next
        return not world.memory.read_u16(ring.used)

    assert wants_notification()
    world.send(frame(b"1" * 50))
    assert not wants_notification()
    world.wait(WINDOW // 2)
    for index in (1, 2, 3):
        ring.offer_data(index, bytes(12) + frame(b"%d" % index * 50))
    assert len(world.cable.sent) == 1
    world.wait(WINDOW // 2)
    assert len(world.cable.sent) == 4
    assert not wants_notification()
    world.wait(5 * WINDOW)
    assert wants_notification()
    assert world.card.counts["notifications"] == 1
    world.wait(100 * WINDOW)
    assert not world.card.is_sending


def test_interrupts_follow_the_event_index() -> None:
    world = NetworkWorld(EVENT_INDEX)
    world.memory.write_u16(world.transmit.available + 4 + 2 * SIZE, 1)  # when the second has been sent
    world.send(frame(), index=0)
    world.wait(5 * WINDOW)
    assert (world.interrupts, len(world.transmit.returned())) == (0, 1)
    world.send(frame(), index=1)
    world.wait(5 * WINDOW)
    assert (world.interrupts, len(world.transmit.returned())) == (1, 1)


def test_a_burst_is_given_back_together() -> None:
    world = NetworkWorld(EVENT_INDEX)
    world.send(frame(), index=0)
    for _ in range(3):
        world.wait(WINDOW)
        assert world.transmit.returned() == []
    world.wait(WINDOW)
    assert (world.transmit.returned(), world.interrupts) == ([(0, 0)], 1)
    # A quarter of the queue, here two requests, is not kept.
    world.send(frame(), index=1)
    assert world.transmit.returned() == []
    world.send(frame(), index=2)
    assert world.transmit.returned() == [(1, 0), (2, 0)]
    world.wait(5 * WINDOW)
    assert not world.card.is_sending


# Receiving


@pytest.mark.parametrize("length", [60, 1514, 9014])
def test_a_frame_comes_in(length: int) -> None:
    world = NetworkWorld()
    world.receive.offer_room(3, 0x3000)
    came = frame(bytes(n * 3 & 0xFF for n in range(length - 14)))
    assert world.card.ready
    world.card.receive(came)
    assert world.receive.received() == [ONE + came]
    assert world.interrupts == 1
    assert not world.card.ready


def test_a_frame_without_a_buffer_is_dropped_and_counted() -> None:
    world = NetworkWorld()
    world.card.receive(frame())
    assert world.faults == {"no buffer for a frame": 1}
    world.card.set_status(0)
    world.card.receive(frame())
    assert world.faults == {"no buffer for a frame": 1, "frame without a driver": 1}
    assert not world.card.ready


@pytest.mark.parametrize("length", [100, 4000])
@pytest.mark.parametrize("sizes", [(12, 40, 3000, 4000), (1000, 1000, 1000, 1000, 1000), (1536, 1536, 1536)])
def test_a_frame_goes_into_several_buffers(sizes: tuple[int, ...], length: int) -> None:
    world = NetworkWorld(MERGE)
    for index, size in enumerate(sizes):
        world.receive.offer_room(index, size)
    came = frame(bytes(n * 5 & 0xFF for n in range(length - 14)))
    world.card.receive(came)
    [packet] = world.receive.received()
    used, room = 0, 0
    while room < 12 + length:
        room += sizes[used]
        used += 1
    assert packet == bytes(10) + used.to_bytes(2, "little") + came
    assert world.card.queues[RECEIVE].next_available == used


@pytest.mark.parametrize("length", [1000, 5000])
def test_too_few_buffers_are_left_for_the_next_frame(length: int) -> None:
    world = NetworkWorld(MERGE)
    world.receive.offer_room(0, 400)
    world.receive.offer_room(1, 400)
    world.card.receive(frame(bytes(length)))
    assert world.receive.returned() == []
    assert world.faults == {"no buffer for a frame": 1}
    world.card.receive(frame(bytes(600)))
    assert [len(packet) for packet in world.receive.received()] == [12 + 614]


def test_buffers_of_several_descriptors_are_filled() -> None:
    world = NetworkWorld(MERGE)
    ring = world.receive
    ring.descriptor(0, ring.buffer(0), 12, WRITE | NEXT, 1)
    ring.descriptor(1, ring.buffer(1), 0x2000, WRITE)
    ring.offer(0)
    came = frame(bytes(range(250)) * 20)
    world.card.receive(came)
    assert ring.returned() == [(0, 12 + len(came))]
    assert world.memory.read(ring.buffer(0), 12) + world.memory.read(ring.buffer(1), len(came)) == ONE + came


def test_the_ring_wraps() -> None:
    world = NetworkWorld(MERGE)
    for turn in range(5):
        for index in range(SIZE - 1):
            world.receive.offer_room(index, 0x600)
        for _ in range(2):
            came = frame(bytes(((turn + 1) * n) & 0xFF for n in range(4000)))
            world.card.receive(came)
            assert [packet[12:] for packet in world.receive.received()] == [came]
        world.receive.next = world.card.queues[RECEIVE].next_available
    assert not world.faults


@pytest.mark.parametrize("length", [13, 9019, 70_000])
def test_received_frames_of_a_bad_length_are_dropped(length: int) -> None:
    world = NetworkWorld(MERGE)
    world.receive.offer_room(0, 0x3000)
    world.card.receive(bytes(length))
    assert world.receive.returned() == []
    assert world.faults == {"received frame of a bad length": 1}


# Filters


def received(world: NetworkWorld, to: bytes) -> bool:
    world.receive.offer_room(0, 0x3000)
    world.card.receive(frame(to=to))
    got = bool(world.receive.received())
    if not got:
        world.receive.next = world.card.queues[RECEIVE].next_available
    return got


BROADCAST = b"\xff" * 6


def test_a_driver_without_filters_gets_everything() -> None:
    world = NetworkWorld()
    assert all(received(world, to) for to in (MAC, OTHER, MULTICAST, BROADCAST))


def test_receive_modes_and_tables() -> None:
    world = NetworkWorld(CONTROLS | EXTRA | SET_MAC)
    assert world.command(0, 0, b"\0") == 0
    assert [received(world, to) for to in (MAC, OTHER, MULTICAST, BROADCAST)] == [True, False, False, True]
    assert world.card.counts["frames_filtered"] == 2
    tables = struct.pack("<I", 1) + OTHER + struct.pack("<I", 1) + MULTICAST
    assert world.command(1, 0, tables) == 0
    assert [received(world, to) for to in (OTHER, MULTICAST, b"\2" * 6, b"\3" * 6)] == [True, True, False, False]
    assert world.command(1, 0, bytes(8)) == 0
    for mode, to in ((1, MULTICAST), (2, OTHER)):
        assert not received(world, to)
        assert world.command(0, mode, b"\1") == 0
        assert received(world, to)
    for mode, to in ((3, MULTICAST), (4, MAC), (5, BROADCAST)):
        assert received(world, to)
        assert world.command(0, mode, b"\1") == 0
        assert not received(world, to)
    assert world.command(0, 4, b"\0") == 0
    assert world.command(1, 1, OTHER) == 0
    assert (received(world, OTHER), world.card.config[:6]) == (True, OTHER)
    world.start(0)
    assert world.card.config[:6] == MAC
    assert not world.faults


def test_a_table_that_is_too_large_lets_everything_in() -> None:
    world = NetworkWorld(CONTROLS)
    world.command(0, 0, b"\0")
    many = b"".join(b"\2\0\0\0" + n.to_bytes(2, "big") for n in range(65))
    assert world.command(1, 0, struct.pack("<I", 65) + many + bytes(4)) == 0
    assert received(world, OTHER)
    assert not received(world, MULTICAST)
    assert world.command(1, 0, bytes(8)) == 0
    assert not received(world, OTHER)


@pytest.mark.parametrize(
    ("kind", "command", "data"),
    [
        (0, 0, b""), (0, 0, b"\0\0"), (0, 6, b"\0"), (0, 3, b"\0"), (1, 0, b""), (1, 0, bytes(7)), (1, 0, bytes(9)),
        (1, 0, b"\1\0\0\0\1\2\3\4\5" + bytes(4)), (1, 0, b"\xff\xff\xff\xff" + bytes(8)), (1, 1, MAC), (1, 2, MAC),
        (2, 0, bytes(2)), (255, 255, bytes(40_000)),
    ],
)  # fmt: skip
def test_commands_that_cannot_be_carried_out(kind: int, command: int, data: bytes) -> None:
    world = NetworkWorld(CONTROLS)
    before = world.card.snapshot()
    assert world.command(kind, command, data[:0x3F00]) == 1
    after = world.card.snapshot()
    assert {**after, "queues": 0} == {**before, "queues": 0}
    assert world.faults == {"command that cannot be carried out": 1}


# Rings that lie


def _outside(ring: object) -> None:
    ring.descriptor(0, 0x40_0000 - 4, 100, ring.flags)  # type: ignore[attr-defined]
    ring.offer(0)  # type: ignore[attr-defined]


def _loop(ring: object) -> None:
    ring.descriptor(0, ring.buffer(0), 4, ring.flags | NEXT, 0)  # type: ignore[attr-defined]
    ring.offer(0)  # type: ignore[attr-defined]


def _behind(ring: object) -> None:
    ring.offer(SIZE)  # type: ignore[attr-defined]


def _too_many(ring: object) -> None:
    ring.memory.write_u16(ring.available + 2, SIZE + 1)  # type: ignore[attr-defined]


def _table_outside(ring: object) -> None:
    ring.queue.descriptors = (1 << 64) - 8  # type: ignore[attr-defined]
    ring.offer(0)  # type: ignore[attr-defined]


LIES = [
    (_outside, "buffer outside memory"),
    (_loop, "descriptors that loop"),
    (_behind, "descriptor behind the table"),
    (_too_many, "more requests than the queue is long"),
    (_table_outside, "ring outside memory"),
]


@pytest.mark.parametrize(("lie", "fault"), LIES)
@pytest.mark.parametrize("index", [RECEIVE, TRANSMIT, CONTROL])
@pytest.mark.parametrize("length", [60, 4000])
def test_rings_that_lie(lie: Callable[[object], None], fault: str, index: int, length: int) -> None:
    world = NetworkWorld(MERGE | CONTROLS)
    ring = (world.receive, world.transmit, world.control)[index]
    ring.flags = WRITE if index == RECEIVE else 0  # type: ignore[attr-defined]
    lie(ring)
    if index == RECEIVE:
        assert world.card.ready
        world.card.receive(frame(bytes(length)))
    else:
        world.card.notify(index)
    assert world.faults == {fault: 1}
    assert world.card.status & NEEDS_RESET
    # Nothing more happens until it is reset, and then it works.
    world.card.receive(frame())
    world.card.notify(index)
    assert not world.card.ready
    world.wait(WINDOW)
    world.start(0)
    world.send(frame())
    assert len(world.cable.sent) == 1


@pytest.mark.parametrize(("features", "size"), [(0, 60), (MERGE, 11), (MERGE, 0)])
@pytest.mark.parametrize("length", [60, 4000])
def test_receive_buffers_that_are_too_small(features: int, size: int, length: int) -> None:
    world = NetworkWorld(features)
    for index in range(4):
        world.receive.offer_room(index, size)
    world.card.receive(frame(bytes(length)))
    assert world.faults == {"receive buffer that is too small": 1}
    assert world.receive.returned() == []


def test_a_peer_that_sends_more_than_a_buffer_takes_does_no_harm() -> None:
    world = NetworkWorld()
    world.receive.offer_room(0, 1526)
    world.card.receive(frame(bytes(1501)))
    assert world.faults == {"frame larger than a receive buffer": 1}
    world.card.receive(frame(bytes(1500)))
    assert [len(packet) for packet in world.receive.received()] == [1526]


def test_a_command_without_a_place_for_its_status() -> None:
    world = NetworkWorld(CONTROLS)
    world.control.offer_data(0, b"\0\0\0")
    world.card.notify(CONTROL)
    assert world.faults == {"command without a place for its status": 1}
    assert world.card.status & NEEDS_RESET


def test_a_queue_outside_memory_ends_the_window_too() -> None:
    world = NetworkWorld()
    world.send(frame())
    world.card.queues[TRANSMIT].driver = 1 << 40
    world.wait(WINDOW)
    assert world.faults == {"ring outside memory": 1}
    assert not world.card.is_sending


# Snapshots


def test_a_restored_card_looks_at_its_queue_at_the_same_cycle() -> None:
    world = NetworkWorld(CONTROLS)
    world.command(0, 0, b"\0")
    world.command(1, 0, struct.pack("<I", 1) + OTHER + bytes(4))
    world.send(frame())
    world.wait(WINDOW // 2)
    world.transmit.offer_data(1, bytes(12) + frame(b"more" * 20))
    copy = NetworkWorld(CONTROLS)
    copy.clock.now = world.clock.now
    copy.memory.view[:] = world.memory.view
    snapshot = world.pc.snapshot()
    copy.pc.restore(snapshot)
    assert copy.pc.snapshot() == snapshot
    for one in (world, copy):
        one.cable.sent.clear()
        one.wait(WINDOW // 2 - 1)
        assert one.cable.sent == []
        one.wait(1)
        assert one.cable.sent == [frame(b"more" * 20)]
        assert not one.card._wants(MULTICAST)
        assert one.card._wants(OTHER)
    assert copy.pc.snapshot() == world.pc.snapshot()
