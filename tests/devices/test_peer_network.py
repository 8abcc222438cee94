"""The scripted peer: ARP, echo, bursts at a wire's pace, TCP both ways, checksums that it does not let pass."""

from __future__ import annotations

import itertools
import struct
from collections.abc import Iterator

import pytest

from trapgate.devices.networks.peer import ADDRESS, BURST, ECHO, MAC, SINK, PeerNetwork, checksum, even, pseudo_header
from trapgate.machine.clock import Clock

from .nic_world import MAC as OWN
from .support import HZ, advance

OWN_ADDRESS = bytes((10, 0, 2, 15))
TEST = b"\x88\xb5"
FIN, SYN, RST, PSH, ACK = 1, 2, 4, 8, 16


class Card:
    """Takes everything, with the cycle, while it is ready."""

    mac = OWN

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.ready = True
        self.frames: list[bytes] = []
        self.cycles: list[int] = []

    def receive(self, data: bytes) -> None:
        assert self.ready
        self.frames.append(data)
        self.cycles.append(self.clock.now)


class Station:
    """A guest with its cable to the peer."""

    def __init__(self) -> None:
        self.clock = Clock(HZ)
        self.peer = PeerNetwork("net0-peer")
        self.card = Card(self.clock)
        self.peer.plug(self.card, self.card.receive, self.clock)
        self.sequence, self.expected = 100, 0

    def ask(self, frame: bytes, cycles: int = HZ // 100) -> list[bytes]:
        """What the peer answers to a frame."""
        before = len(self.card.frames)
        self.peer.send(frame)
        advance(self.clock, cycles)
        return self.card.frames[before:]

    def ip(self, protocol: int, message: bytes) -> bytes:
        header = struct.pack(">BBHHHBBH4s4s", 0x45, 0, 20 + len(message), 1, 0, 64, protocol, 0, OWN_ADDRESS, ADDRESS)
        header = header[:10] + checksum(header).to_bytes(2, "big") + header[12:]
        return MAC + OWN + b"\x08\x00" + header + message

    def tcp(self, port: int, flags: int, data: bytes = b"", options: bytes = b"", window: int = 0xFFFF) -> bytes:
        """A segment; the sequence goes on behind it."""
        head = struct.pack(
            ">HHIIBBHHH", 4000, port, self.sequence, self.expected, 5 + len(options) // 4 << 4, flags, window, 0, 0
        )
        segment = head + options + data
        value = checksum(pseudo_header(OWN_ADDRESS + ADDRESS, len(segment)) + even(segment))
        self.sequence += len(data) + bool(flags & (SYN | FIN))
        return self.ip(6, segment[:16] + value.to_bytes(2, "big") + segment[18:])

    def take(self, frames: list[bytes]) -> Iterator[tuple[int, bytes]]:
        """Flags and data of segments, which must be right and follow each other."""
        for frame in frames:
            segment = frame[34 : 14 + struct.unpack_from(">H", frame, 16)[0]]
            assert checksum(frame[14:34]) == 0
            assert checksum(pseudo_header(ADDRESS + OWN_ADDRESS, len(segment)) + even(segment)) == 0
            sequence, acknowledged, offset, flags = struct.unpack_from(">IIBB", segment, 4)
            data = segment[(offset >> 4) * 4 :]
            if not flags & SYN:
                assert sequence == self.expected
            assert acknowledged == self.sequence
            self.expected = sequence + len(data) + bool(flags & (SYN | FIN))
            yield flags, data

    def connect(self, port: int) -> None:
        answer = self.ask(self.tcp(port, SYN, options=struct.pack(">BBH", 2, 4, 1000)))
        assert [flags for flags, _ in self.take(answer)] == [SYN | ACK]
        assert self.ask(self.tcp(port, ACK)) == []


@pytest.fixture
def station() -> Station:
    return Station()


def test_arp_and_echo(station: Station) -> None:
    question = b"\0\1\x08\0\6\4\0\1" + OWN + OWN_ADDRESS + bytes(6) + ADDRESS
    [answer] = station.ask(b"\xff" * 6 + OWN + b"\x08\x06" + question)
    assert answer[:42] == OWN + MAC + b"\x08\x06\0\1\x08\0\6\4\0\2" + MAC + ADDRESS + OWN + OWN_ADDRESS
    message = struct.pack(">BBHHH", 8, 0, 0, 7, 1) + b"odd data!"
    [answer] = station.ask(station.ip(1, message))
    assert answer[34] == 0
    assert checksum(answer[14:34]) == 0
    assert checksum(even(answer[34:51])) == 0
    assert answer[42:51] == b"odd data!"


def test_frames_of_the_test_type(station: Station) -> None:
    head = MAC + OWN + TEST
    assert station.ask(head + bytes((SINK,)).ljust(50, b"x")) == []
    assert station.ask(head + bytes((ECHO,)).ljust(50, b"x")) == [OWN + MAC + TEST + bytes((ECHO,)).ljust(50, b"x")]
    frames = station.ask(head + struct.pack(">BIH", BURST, 5, 1514))
    assert [len(frame) for frame in frames] == [1514] * 5
    assert [int.from_bytes(frame[15:19], "big") for frame in frames] == list(range(5))
    cycles = station.card.cycles[-5:]
    assert {later - one for one, later in itertools.pairwise(cycles)} == {24_608}  # 1538 bytes at 1 Gb/s


def test_a_card_without_room_holds_the_peer_up(station: Station) -> None:
    station.card.ready = False
    assert station.ask(MAC + OWN + TEST + struct.pack(">BIH", BURST, 3, 60)) == []
    station.card.ready = True
    advance(station.clock, HZ // 100)
    assert len(station.card.frames) == 3


def test_what_is_not_for_the_peer(station: Station) -> None:
    for frame in (b"", bytes(13), OWN + MAC + TEST + bytes((ECHO,)) * 50, MAC + OWN + TEST + bytes((BURST,)),
                  MAC + OWN + b"\x08\x00" + bytes(60), MAC + OWN + b"\x08\x06" + bytes(46)):  # fmt: skip
        assert station.ask(frame) == []


def test_the_discard_service(station: Station) -> None:
    station.connect(9)
    assert station.ask(station.tcp(9, ACK, b"a" * 500)) == []
    assert list(station.take(station.ask(station.tcp(9, ACK, b"b" * 500)))) == [(ACK, b"")]  # by twos
    assert list(station.take(station.ask(station.tcp(9, ACK | PSH, b"c")))) == [(ACK, b"")]
    assert list(station.take(station.ask(station.tcp(9, ACK | FIN)))) == [(FIN | ACK, b"")]
    assert station.ask(station.tcp(9, ACK)) == []
    assert station.peer.counts["bytes_discarded"] == 1001


def test_the_source_service(station: Station) -> None:
    """Segments of the guest's size, as far as its window goes."""
    station.connect(19)
    first = list(station.take(station.ask(station.tcp(19, ACK | PSH, b"4500\n", window=2500))))
    assert [len(data) for _, data in first if data] == [1000, 1000]
    rest = list(station.take(station.ask(station.tcp(19, ACK, window=0xFFFF))))
    assert [len(data) for _, data in rest] == [1000, 1000, 500, 0]
    assert rest[2][0] & PSH
    assert rest[3][0] & FIN


def test_wrong_checksums_and_other_ports(station: Station) -> None:
    wrong = bytearray(station.tcp(9, SYN))
    wrong[-1] ^= 1
    station.sequence = 100
    assert station.ask(bytes(wrong)) == []
    assert station.peer.faults == {"segment with a wrong checksum": 1}
    assert station.ask(station.ip(6, bytes(19))) == []
    assert station.peer.faults["segment of a bad form"] == 1
    assert [flags for flags, _ in station.take(station.ask(station.tcp(80, SYN)))] == [RST | ACK]
