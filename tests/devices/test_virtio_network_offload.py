"""The virtio network card with whole TCP packets: checksums, large frames, and offloads that cannot be."""

from __future__ import annotations

import struct

import pytest

from trapgate.devices.virtio.network import TRANSMIT

from .network_world import SIZE, NetworkWorld, checksum, frame, is_right, tcp_frame

MERGE = 1 << 15
CSUM, GUEST_CSUM, GUEST_TSO, HOST_TSO = 1, 2, 1 << 7, 1 << 11
OFFLOADS = CSUM | GUEST_CSUM | GUEST_TSO | HOST_TSO
NEEDS_RESET = 0x40


def partial(packet: bytes) -> bytes:
    """A TCP packet as a driver gives it: the sum of the pseudo header where the checksum belongs."""
    pseudo = packet[26:34] + struct.pack(">BBH", 0, 6, len(packet) - 34)
    return packet[:50] + (~checksum(pseudo) & 0xFFFF).to_bytes(2, "big") + packet[52:]


@pytest.mark.parametrize("length", [0, 1, 1001, 65000])
def test_checksums_are_completed(length: int) -> None:
    world = NetworkWorld(OFFLOADS, offloads=True)
    whole = tcp_frame(bytes(n * 11 & 0xFF for n in range(length)))
    kind, mss = (1, 1460) if length > 1460 else (0, 0)
    ring, packet = world.transmit, struct.pack("<BBHHHHH", 1, kind, 54, mss, 34, 16, 0) + partial(whole)
    place = 0x20_0000
    world.memory.write(place, packet)
    ring.descriptor(0, place, len(packet), 0)
    ring.offer(0)
    world.card.notify(TRANSMIT)
    assert world.cable.sent == [whole.ljust(60, b"\0")]


def test_a_checksum_of_nought_is_written_as_all_ones() -> None:
    world = NetworkWorld(OFFLOADS, offloads=True)
    data = bytearray(64)
    data[14:16] = b"\xff\xff"
    world.send(bytes(data), struct.pack("<BBHHHHH", 1, 0, 0, 0, 14, 6, 0))
    assert world.cable.sent[0][20:22] == b"\xff\xff"


@pytest.mark.parametrize(
    ("features", "header", "fault"),
    [
        (0, (1, 0, 0, 0, 34, 16), "offload that was not agreed on"),
        (0, (0, 1, 54, 1460, 34, 16), "offload that was not agreed on"),
        (CSUM, (1, 1, 54, 1460, 34, 16), "offload that was not agreed on"),
        (OFFLOADS, (0, 1, 54, 1460, 34, 16), "offload that was not agreed on"),
        (OFFLOADS, (1, 3, 54, 1460, 34, 16), "offload that was not agreed on"),
        (OFFLOADS, (1, 0x81, 54, 1460, 34, 16), "offload that was not agreed on"),
        (OFFLOADS, (3, 1, 54, 1460, 34, 16), "offload that was not agreed on"),
        (OFFLOADS, (1, 0, 0, 0, 0xFFFF, 16), "checksum outside its frame"),
        (OFFLOADS, (1, 1, 54, 1460, 34, 0xFFFF), "checksum outside its frame"),
        (OFFLOADS, (1, 0, 0, 0, 99, 0), "checksum outside its frame"),
    ],
)
def test_offloads_that_cannot_be(features: int, header: tuple[int, ...], fault: str) -> None:
    world = NetworkWorld(features, offloads=True)
    world.send(frame(bytes(86)), struct.pack("<BBHHHHH", *header, 0))
    assert world.cable.sent == []
    assert world.faults == {fault: 1}
    assert not world.card.status & NEEDS_RESET


def test_a_large_packet_comes_in_with_what_tells_its_pieces() -> None:
    world = NetworkWorld(OFFLOADS | MERGE, offloads=True)
    for index in range(SIZE):
        world.receive.offer_room(index, 0x2000)
    whole = tcp_frame(bytes(n * 13 & 0xFF for n in range(20_000)))
    assert is_right(whole)
    world.card.receive(whole)
    [packet] = world.receive.received()
    assert packet[:12] == struct.pack("<BBHHHHH", 1, 1, 54, 1460, 34, 16, 3)
    assert packet[12:] == partial(whole)
    # Without the feature it is too long; what is no TCP packet is so with it.
    world.card.receive(whole[:12] + b"\x08\x06" + whole[14:])
    assert world.faults == {"received frame of a bad length": 1}
    world.start(MERGE)
    world.card.receive(whole)
    assert world.faults == {"received frame of a bad length": 2}


def test_a_network_keeps_large_packets_until_there_are_buffers() -> None:
    world = NetworkWorld(OFFLOADS | MERGE, offloads=True)
    for index in range(SIZE // 2 - 1):
        world.receive.offer_room(index, 0x2000)
    assert not world.card.ready
    world.receive.offer_room(SIZE // 2 - 1, 0x2000)
    assert world.card.ready
