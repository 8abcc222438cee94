"""The user network: a guest of a few lines talks to libslirp, and through it to sockets of this host."""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Iterator

import pytest

from trapgate.devices.networks.errors import NetworkError
from trapgate.devices.networks.forward import GUEST, Forward
from trapgate.devices.networks.large_packets import fragments, is_tcp, raise_segment_size, segments
from trapgate.devices.networks.slirp_library import SlirpMissing, load_slirp
from trapgate.devices.networks.user import UserNetwork

from .network_card import Card, Plugged
from .network_world import checksum, frame, is_right, tcp_frame

LOCAL = "127.0.0.1"
MAC = Card.mac
HOST = bytes((10, 0, 2, 2))
OURS = bytes((10, 0, 2, 15))
BROADCAST = b"\xff" * 6
SYN, ACK, PUSH, FIN, RESET = 2, 16, 8, 1, 4
MSS_OPTION = b"\2\4\x05\xb4"

try:
    load_slirp()
except SlirpMissing as error:
    pytest.skip(str(error), allow_module_level=True)


class MiniGuest(Plugged):
    """A guest with one address, UDP, and one TCP connection that loses nothing."""

    def __init__(self, *arguments: object, card: Card | None = None, **words: object) -> None:
        super().__init__(UserNetwork("net0-user", *arguments, **words), card)  # type: ignore[arg-type]
        self.gateway = BROADCAST
        self.sequence, self.acknowledged = 1000, 0
        self.segments: list[bytes] = []
        self._seen = 0

    def new(self) -> list[bytes]:
        """Frames that have come since the last call."""
        found = self.card.got[self._seen :]
        self._seen = len(self.card.got)
        return found

    def wait_for(self, place: slice, value: bytes) -> bytes:
        """The next frame with `value` at `place`."""
        found: list[bytes] = []

        def has_come() -> bool:
            found.extend(one for one in self.new() if one[place] == value)
            return bool(found)

        self.until(has_come)
        return found[0]

    def resolve(self) -> None:
        """The host's station address, by ARP."""
        ask = struct.pack(">HHBBH", 1, 0x0800, 6, 4, 1) + MAC + OURS + bytes(6) + HOST
        self.network.send(BROADCAST + MAC + b"\x08\x06" + ask.ljust(46, b"\0"))
        self.gateway = self.wait_for(slice(12, 14), b"\x08\x06")[6:12]

    def _ip(self, protocol: int, data: bytes, source: bytes = OURS, to: bytes = HOST) -> None:
        header = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(data), 1, 0, 64, protocol, 0) + source + to
        header = header[:10] + checksum(header).to_bytes(2, "big") + header[12:]
        self.network.send((self.gateway + MAC + b"\x08\x00" + header + data).ljust(60, b"\0"))

    def udp(self, port: int, data: bytes, own: int = 3000, source: bytes = OURS, to: bytes = HOST) -> None:
        self._ip(17, struct.pack(">HHHH", own, port, 8 + len(data), 0) + data, source, to)

    def tcp(self, port: int, flags: int, data: bytes = b"", options: bytes = b"", own: int = 2000) -> None:
        header = struct.pack(
            ">HHIIBBHHH", own, port, self.sequence, self.acknowledged, (20 + len(options)) << 2, flags, 0xFFFF, 0, 0
        )  # fmt: skip
        whole = header + options + data
        pseudo = OURS + HOST + struct.pack(">BBH", 0, 6, len(whole))
        whole = whole[:16] + checksum(pseudo + whole).to_bytes(2, "big") + whole[18:]
        self._ip(6, whole)
        self.sequence += len(data) + bool(flags & (SYN | FIN))

    def take_tcp(self) -> list[tuple[int, bytes]]:
        """Flags and data of what has come on the connection, in order; the frames are kept in `segments`."""
        found = []
        for one in self.new():
            if one[12:14] != b"\x08\x00" or one[23] != 6:
                continue
            length = int.from_bytes(one[16:18], "big") - 20
            packet = one[34 : 34 + length]
            sequence, flags = int.from_bytes(packet[4:8], "big"), packet[13]
            data = packet[(packet[12] >> 4) * 4 :]
            if flags & SYN:
                self.acknowledged = sequence
            if sequence != self.acknowledged & 0xFFFF_FFFF:
                continue
            self.acknowledged += len(data) + bool(flags & (SYN | FIN))
            self.segments.append(one)
            found.append((flags, data))
        return found

    def connect(self, port: int) -> None:
        """Open the connection."""
        self.resolve()
        self.tcp(port, SYN, options=MSS_OPTION)
        flags: list[int] = []
        self.until(lambda: bool(flags.extend(one for one, _ in self.take_tcp()) or flags))
        assert flags == [SYN | ACK]
        self.tcp(port, ACK)


@pytest.fixture
def server() -> Iterator[socket.socket]:
    with socket.create_server((LOCAL, 0)) as one:
        one.settimeout(10)
        yield one


def port_of(one: socket.socket) -> int:
    return int(one.getsockname()[1])


def test_dhcp_gives_an_address() -> None:
    guest = MiniGuest()
    discover = struct.pack(">BBBBIHH16s16s192xI", 1, 1, 6, 0, 77, 0, 0, b"", MAC, 0x6382_5363) + b"\x35\1\1\xff"
    guest.udp(67, discover, own=68, source=bytes(4), to=b"\xff" * 4)
    offer = guest.wait_for(slice(34, 38), struct.pack(">HH", 67, 68))
    assert offer[42 + 16 : 42 + 20] == OURS
    options = offer[42 + 240 :]
    assert options[:3] == b"\x35\1\2"
    assert struct.pack("BB4s", 3, 4, HOST) in options
    assert struct.pack("BB4s", 6, 4, bytes((10, 0, 2, 3))) in options
    guest.network.close()


@pytest.mark.parametrize("offloads", [False, True])
def test_udp_goes_out_and_comes_back_in_fragments_of_the_mtu(offloads: bool) -> None:
    guest = MiniGuest(offloads=offloads, card=Card(takes_large=offloads))
    guest.resolve()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as echo:
        echo.bind((LOCAL, 0))
        echo.settimeout(10)
        guest.udp(port_of(echo), b"question")
        data, sender = echo.recvfrom(100)
        assert data == b"question"
        answer = bytes(n * 7 & 0xFF for n in range(5000))
        echo.sendto(answer, sender)
        pieces: dict[int, bytes] = {}

        def is_whole() -> bool:
            for one in guest.new():
                if one[12:14] == b"\x08\x00" and one[23] == 17:
                    assert len(one) <= 1514
                    assert checksum(one[14:34]) == 0
                    start = (int.from_bytes(one[20:22], "big") & 0x1FFF) * 8
                    pieces[start] = one[34 : 14 + int.from_bytes(one[16:18], "big")]
            return sum(map(len, pieces.values())) == 8 + len(answer)

        guest.until(is_whole)
        assert b"".join(pieces[start] for start in sorted(pieces))[8:] == answer
    guest.network.close()


@pytest.mark.parametrize("takes_large", [False, True])
@pytest.mark.parametrize(("offloads", "mtu"), [(False, 1500), (True, 1500), (False, 9000), (True, 9000)])
def test_tcp_from_the_host(server: socket.socket, offloads: bool, mtu: int, takes_large: bool) -> None:
    guest = MiniGuest(mtu=mtu, offloads=offloads, card=Card(takes_large=takes_large))
    guest.connect(port_of(server))
    sent = bytes(n * 3 & 0xFF for n in range(40_000))
    with server.accept()[0] as connection:
        connection.sendall(sent)
        connection.shutdown(socket.SHUT_WR)
        got = bytearray()
        ends: list[int] = []

        def has_ended() -> bool:
            for flags, data in guest.take_tcp():
                got.extend(data)
                guest.tcp(port_of(server), ACK)
                ends.append(flags & FIN)
            return any(ends)

        guest.until(has_ended)
    assert got == sent
    largest = max(map(len, guest.segments))
    assert (largest > 14 + mtu) == (offloads and takes_large)
    assert all(is_right(one[: 14 + int.from_bytes(one[16:18], "big")]) for one in guest.segments)
    guest.network.close()


def test_tcp_to_a_host_that_reads_late(server: socket.socket) -> None:
    """libslirp keeps what the socket does not take, and is told when it can be written."""
    server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    guest = MiniGuest()
    guest.connect(port_of(server))
    with server.accept()[0] as connection:
        connection.settimeout(10)
        sent = got = 0
        for _ in range(4000):
            guest.tcp(port_of(server), ACK | PUSH, bytes(1400))
            sent += 1400
            guest.look()
            windows = [int.from_bytes(one[48:50], "big") for one in guest.new() if one[23] == 6]
            if windows and windows[-1] < 1400:
                break
        else:
            pytest.fail("the window never closed")
        end = time.monotonic() + 10
        connection.setblocking(False)
        while got < sent - 1400:
            assert time.monotonic() < end
            try:
                got += len(connection.recv(1 << 16))
            except BlockingIOError:
                guest.until(lambda: True)
                guest.look()
    guest.network.close()


def test_a_forwarded_port_leads_to_the_guest() -> None:
    with socket.create_server((LOCAL, 0)) as one:
        port = port_of(one)
    guest = MiniGuest((Forward("tcp", LOCAL, port, GUEST, 22),))
    guest.resolve()
    with socket.create_connection((LOCAL, port)) as visitor:
        opened = guest.wait_for(slice(36, 38), (22).to_bytes(2, "big"))
        assert opened[47] & SYN
        visitor.settimeout(10)
    with pytest.raises(NetworkError, match=f"wanted to open the port of hostfwd=tcp:{LOCAL}:{port}-10.0.2.15:22"):
        UserNetwork("net0-user", (Forward("tcp", LOCAL, port, GUEST, 22),))
    guest.network.close()
    UserNetwork("net0-user", (Forward("tcp", LOCAL, port, GUEST, 22),)).close()


def test_a_restricted_network_reaches_nobody(server: socket.socket) -> None:
    guest = MiniGuest(is_restricted=True)
    guest.resolve()
    guest.tcp(port_of(server), SYN, options=MSS_OPTION)
    server.settimeout(0.3)
    for _ in range(10):
        guest.look()
    with pytest.raises(TimeoutError):
        server.accept()
    guest.network.close()


def test_router_advertisements_come_by_its_timer() -> None:
    guest = MiniGuest()
    network = guest.network
    assert isinstance(network, UserNetwork)
    [timer] = network._timers.values()
    assert timer.due is not None
    wait = network.timeout()
    assert wait is not None
    assert wait > 1
    timer.due = 0
    assert network.timeout() == 0
    guest.look()
    [advertisement] = [one for one in guest.new() if one[12:14] == b"\x86\xdd"]
    assert advertisement[54] == 134
    assert timer.due > 0
    network.close()
    network.close()


@pytest.mark.parametrize(
    "data", [b"", bytes(14), bytes(60), b"\xff" * 1514, BROADCAST + MAC + b"\x08\x00" + b"\x4f" * 20]
)
def test_frames_that_are_nonsense_do_nothing(data: bytes) -> None:
    guest = MiniGuest(offloads=True, card=Card(takes_large=True))
    guest.network.send(data)
    guest.resolve()
    guest.network.close()


def test_a_host_that_floods_is_kept_waiting(server: socket.socket) -> None:
    guest = MiniGuest()
    guest.resolve()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as flood:
        flood.bind((LOCAL, 0))
        flood.settimeout(10)
        guest.udp(port_of(flood), b"hello")
        _, sender = flood.recvfrom(100)
        guest.card.room = 0
        for _ in range(50):
            for _ in range(100):
                flood.sendto(bytes(1000), sender)
            guest.look()
    assert len(guest.network._pending) < 1024
    assert not guest.network.faults
    guest.network.close()


# Large packets


def test_the_segment_size_of_an_opening_is_raised() -> None:
    for options in (
        MSS_OPTION,
        b"\1\1" + MSS_OPTION + b"\1\1",
        b"\3\3\7\1" + MSS_OPTION,
        b"\4\2" + MSS_OPTION + b"\0\0",
    ):
        opening = tcp_frame(b"", SYN, options)
        raised = raise_segment_size(opening)
        assert raised == opening.replace(MSS_OPTION, b"\2\4\xff\xd7")[:50] + raised[50:52] + raised[52:]
        assert b"\2\4\xff\xd7" in raised
        assert is_right(raised)


@pytest.mark.parametrize(
    "options", [b"", b"\0" * 4, b"\1" * 4, b"\2\3\x05\xb4", b"\1" + MSS_OPTION + b"\1" * 3, b"\3\0\0\0", b"\1\1\2\4"]
)
def test_other_packets_stay(options: bytes) -> None:
    for flags in (SYN, ACK):
        packet = tcp_frame(b"data", flags, options)
        assert raise_segment_size(packet) == packet
    opening = tcp_frame(b"", SYN, MSS_OPTION)
    for cut in range(len(opening)):
        assert raise_segment_size(opening[:cut])[:48] == opening[:cut][:48]
    assert raise_segment_size(frame()) == frame()


def test_a_packet_is_cut_into_segments() -> None:
    data = bytes(n * 5 & 0xFF for n in range(4001))
    found = list(segments(tcp_frame(data, ACK | PUSH | FIN, b"\1\1\1\1"), 1500))
    assert [len(one) for one in found] == [1514, 1514, 58 + 4001 - 2 * 1456]
    assert b"".join(one[58:] for one in found) == data
    assert [int.from_bytes(one[38:42], "big") for one in found] == [1, 1457, 2913]
    assert [one[47] for one in found] == [ACK, ACK, ACK | PUSH | FIN]
    assert all(is_right(one) for one in found)
    for damage in (14, 16, 46):
        broken = bytearray(tcp_frame(data))
        broken[damage] = 0xFF if damage == 16 else 0x40
        assert list(segments(bytes(broken), 1500)) == []


def test_fragments_of_a_fragment() -> None:
    header = struct.pack(">BBHHHBBH", 0x45, 0, 20 + 4001, 9, 0x2000 | 100, 64, 17, 0) + HOST + OURS
    data = bytes(n & 0xFF for n in range(4001))
    found = list(fragments(MAC + MAC + b"\x08\x00" + header + data + b"padding", 1500))
    assert [len(one) for one in found] == [1514, 1514, 14 + 20 + 4001 - 2 * 1480]
    assert b"".join(one[34:] for one in found) == data
    assert [int.from_bytes(one[20:22], "big") for one in found] == [0x2000 | 100 + 185 * n for n in range(3)]
    assert all(checksum(one[14:34]) == 0 for one in found)
    assert list(fragments(MAC + MAC + b"\x08\x00" + header + data[:-1], 1500)) == []
    assert list(fragments(MAC + MAC + b"\x86\xdd" + bytes(4000), 1500)) == []
    assert not is_tcp(found[0])
