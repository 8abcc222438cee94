"""Networks of the host, with real sockets: frames both ways, peers that flood, lie or do not read; captures."""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from trapgate.devices.networks.capture import PcapFile
from trapgate.devices.networks.datagrams import DatagramNetwork
from trapgate.devices.networks.hub import HubNetwork, hubs_folder
from trapgate.devices.networks.network import ACTIVE_LOOKS, BATCH, PENDING, QUIET_LOOKS, Network
from trapgate.devices.networks.stream import LONGEST_RECORD, MOST_UNSENT, StreamNetwork
from trapgate.devices.networks.tap import TapNetwork, TapUnusable

from .network_card import Card, Plugged
from .network_world import frame
from .support import HZ

LOCAL = "127.0.0.1"
#: The type of `frame`; SIOCSIFFLAGS with IFF_UP and IFF_RUNNING.
KIND, SIOCSIFFLAGS, UP_AND_RUNNING = 0x88B5, 0x8914, 0x41
FRAMES = [frame(bytes([n]) * (50 + 31 * n)) for n in range(200)]


class Loop(Network):
    """A network of frames that a test puts on it."""

    def __init__(self) -> None:
        super().__init__("net0-loop")
        self.coming: list[bytes] = []
        self.sent: list[bytes] = []
        self.is_open = True

    def transmit(self, frame: bytes) -> None:
        self.sent.append(frame)

    def fetch(self) -> None:
        for one in self.coming:
            self.put(one)
        self.coming = []

    def watched(self) -> tuple[int, ...]:
        return (99,)

    def release(self) -> None:
        self.is_open = False


# What all have in common


def test_frames_wait_for_a_card_that_has_no_room_and_a_flood_is_dropped() -> None:
    loop, card = Loop(), Card(room=0)
    plugged = Plugged(loop, card)
    loop.coming = [frame()] * (PENDING + 10)
    plugged.look()
    assert loop.faults == {"flood": 10}
    assert (loop.room, loop.descriptors()) == (BATCH - PENDING, ())
    assert not loop.listens
    card.room = 300
    plugged.look()
    assert len(card.got) == 300
    card.room = 5000
    plugged.look()
    assert len(card.got) == PENDING == loop.counts["frames_in"]
    assert (loop.listens, loop.descriptors()) == (True, (99,))


def test_frames_of_a_bad_length_are_dropped() -> None:
    loop = Loop()
    plugged = Plugged(loop)
    loop.coming = [bytes(13), bytes(14), bytes(9018), bytes(9019)]
    plugged.look()
    assert [len(one) for one in plugged.card.got] == [14, 9018]
    assert loop.faults == {"frame of a bad length": 2}


def test_it_is_looked_at_more_often_while_frames_come_and_go() -> None:
    loop = Loop()
    plugged = Plugged(loop)
    assert loop.period == HZ // QUIET_LOOKS
    loop.send(frame())
    assert loop.period == HZ // ACTIVE_LOOKS
    plugged.clock.now += HZ // 50 + 1
    assert loop.period == HZ // QUIET_LOOKS
    loop.coming = [frame()]
    plugged.look()
    assert loop.period == HZ // ACTIVE_LOOKS


def test_an_answer_that_is_there_comes_soon() -> None:
    class Answering(Loop):
        def transmit(self, frame: bytes) -> None:
            self.put(frame[::-1])

    plugged = Plugged(Answering())
    plugged.clock.now = 1000
    plugged.network.send(FRAMES[0])
    assert plugged.card.got == []
    assert plugged.clock.deadline == 1000 + HZ // 100_000
    plugged.look()
    assert plugged.card.got == [FRAMES[0][::-1]]


def test_everything_that_comes_in_is_a_delivery() -> None:
    loop = Loop()
    plugged = Plugged(loop)
    told: list[tuple[int, str, bytes]] = []
    plugged.outside.on_delivery = lambda cycle, place, data: told.append((cycle, place, data))
    loop.coming = FRAMES[:3]
    plugged.look()
    assert told == [(plugged.clock.now, "net0", one) for one in FRAMES[:3]]


# Captures


def test_a_capture_has_every_frame_with_its_modelled_time(tmp_path: Path) -> None:
    loop, path = Loop(), tmp_path / "net.pcap"
    plugged = Plugged(loop)
    loop.capture = PcapFile(path)
    plugged.clock.now = 3 * HZ + 4
    loop.send(FRAMES[0])
    loop.coming = [FRAMES[1]]
    plugged.clock.now += HZ // 2 - 4
    plugged.clock.run_due()
    loop.close()
    assert not loop.is_open
    length = len(FRAMES[0]), len(FRAMES[1])
    assert path.read_bytes() == (
        bytes.fromhex("4d3cb2a1 0200 0400 00000000 00000000 3a230000 01000000")
        + struct.pack("<IIII", 3, 2, length[0], length[0]) + FRAMES[0]
        + struct.pack("<IIII", 3, 500_000_000, length[1], length[1]) + FRAMES[1]
    )  # fmt: skip


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
def test_a_capture_ends_when_the_disk_is_full(tmp_path: Path) -> None:
    path = tmp_path / "link"
    capture = PcapFile(path)
    os.dup2(os.open("/dev/full", os.O_WRONLY), capture._file.fileno())
    for _ in range(100):
        capture.write(0, bytes(1000))
    capture.close()
    assert capture.failure == "no space left on device"


# Streams


def pair(card: Card | None = None) -> tuple[Plugged, socket.socket]:
    """A stream network that listens, and a peer's socket."""
    network = StreamNetwork("net0-socket", (LOCAL, 0), listens_at=True)
    plugged = Plugged(network, card)
    peer = socket.create_connection((LOCAL, network.port))
    plugged.until(lambda: network.counts["connections"] == 1)
    return plugged, peer


def record(data: bytes) -> bytes:
    return len(data).to_bytes(4, "big") + data


def test_two_streams_exchange_frames() -> None:
    listening = StreamNetwork("net0-socket", (LOCAL, 0), listens_at=True)
    one, two = Plugged(listening), Plugged(StreamNetwork("net1-socket", (LOCAL, listening.port), listens_at=False))
    one.until(lambda: listening.counts["connections"] == 1)
    for sent in FRAMES:
        one.network.send(sent)
        two.network.send(sent[::-1])
    one.until(lambda: len(one.card.got) == len(two.card.got) == len(FRAMES), (two,))
    assert two.card.got == FRAMES
    assert one.card.got == [sent[::-1] for sent in FRAMES]
    two.network.close()
    one.until(lambda: listening.counts["hang-ups"] == 1)
    one.network.send(frame())
    assert listening.faults == {"nobody connected": 1}
    again = Plugged(StreamNetwork("net1-socket", (LOCAL, listening.port), listens_at=False))
    one.until(lambda: listening.counts["connections"] == 2)
    one.network.send(frame())
    again.until(lambda: again.card.got == [frame()])
    one.network.close()
    again.network.close()


def test_records_come_in_any_pieces() -> None:
    plugged, peer = pair()
    data = b"".join(record(one) for one in FRAMES[:5])
    for place in range(0, len(data), 7):
        peer.sendall(data[place : place + 7])
        plugged.look()
    plugged.until(lambda: plugged.card.got == FRAMES[:5])
    peer.close()
    plugged.network.close()


@pytest.mark.parametrize("length", [LONGEST_RECORD + 1, 0xFFFF_FFFF])
def test_a_record_that_is_none_ends_the_connection(length: int) -> None:
    plugged, peer = pair()
    peer.sendall(record(frame()) + length.to_bytes(4, "big") + bytes(100))
    plugged.until(lambda: bool(plugged.network.faults))
    assert plugged.network.faults == {"record of a bad length": 1}
    assert plugged.card.got == [frame()]
    assert peer.recv(1) == b""
    plugged.network.close()


def test_records_of_other_lengths_are_passed_over() -> None:
    plugged, peer = pair()
    peer.sendall(record(b"") + record(bytes(13)) + record(bytes(60_000)) + record(frame()))
    plugged.until(lambda: plugged.card.got == [frame()])
    assert plugged.network.faults == {"frame of a bad length": 3}
    peer.close()
    plugged.network.close()


def test_a_peer_that_floods_costs_bounded_memory_and_loses_nothing() -> None:
    plugged, peer = pair(Card(room=0))
    peer.setblocking(False)
    data = b"".join(record(frame(n.to_bytes(4, "big") * 300)) for n in range(8000))
    sent = 0
    for _ in range(300):
        with contextlib.suppress(BlockingIOError):
            sent += peer.send(data[sent : sent + (1 << 16)])
        plugged.look()
    network = plugged.network
    assert isinstance(network, StreamNetwork)
    assert sent < len(data), "the kernel's buffers take it all"
    assert (len(network._pending), len(network._unread) <= (1 << 18) + LONGEST_RECORD) == (BATCH, True)
    assert network.descriptors() == ()
    plugged.card.room = 1 << 30
    while sent < len(data):
        with contextlib.suppress(BlockingIOError):
            sent += peer.send(data[sent : sent + (1 << 16)])
        plugged.look()
    plugged.until(lambda: len(plugged.card.got) == 8000)
    assert plugged.card.got == [frame(n.to_bytes(4, "big") * 300) for n in range(8000)]
    assert not network.faults
    peer.close()
    network.close()


def test_a_peer_that_does_not_read_loses_frames() -> None:
    plugged, peer = pair()
    network = plugged.network
    assert isinstance(network, StreamNetwork)
    while not network.faults:
        network.send(frame(bytes(9000)))
    assert set(network.faults) == {"peer does not read"}
    assert MOST_UNSENT - 10_000 < len(network._unsent) <= MOST_UNSENT
    assert network.timeout() is not None
    got = 0
    peer.settimeout(10)
    while network.timeout() is not None:
        got += len(peer.recv(1 << 20))
        plugged.look()
    peer.close()
    plugged.until(lambda: network.counts["hang-ups"] + len(network.faults) > 1)
    network.close()


# Datagrams


def free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        one.bind((LOCAL, 0))
        return int(one.getsockname()[1])


def test_datagrams_both_ways_and_from_nobody_else() -> None:
    ports = free_port(), free_port()
    one = Plugged(DatagramNetwork("net0-socket", (LOCAL, ports[0]), (LOCAL, ports[1])))
    one.network.send(frame())  # nobody there yet
    one.look()
    assert sum(one.network.faults.values()) <= 1
    two = Plugged(DatagramNetwork("net1-socket", (LOCAL, ports[1]), (LOCAL, ports[0])))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
        stranger.sendto(frame(b"stranger" * 10), (LOCAL, ports[0]))
    for sent in FRAMES[:50]:
        one.network.send(sent)
        two.network.send(sent[::-1])
    one.until(lambda: len(one.card.got) == len(two.card.got) == 50, (two,))
    assert two.card.got == FRAMES[:50]
    assert one.card.got == [sent[::-1] for sent in FRAMES[:50]]
    one.network.close()
    two.network.close()


def test_one_look_takes_a_bounded_number_of_datagrams() -> None:
    ports = free_port(), free_port()
    one = Plugged(DatagramNetwork("net0-socket", (LOCAL, ports[0]), (LOCAL, ports[1])))
    one.network._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)  # type: ignore[attr-defined]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as flood:
        flood.bind((LOCAL, ports[1]))
        for _ in range(600):
            flood.sendto(bytes(14), (LOCAL, ports[0]))
    one.look()
    assert 0 < len(one.card.got) <= BATCH
    one.network.close()


# Hubs


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    yield "lab"
    assert not (hubs_folder() / "lab").exists()


def test_a_hub_passes_frames_to_everybody_else(hub: str) -> None:
    three = [Plugged(HubNetwork(f"net{n}-hub", hub)) for n in range(3)]
    for sent in FRAMES:
        three[0].network.send(sent)
    three[1].network.send(frame(b"one" * 30))
    wanted = [1, len(FRAMES), len(FRAMES) + 1]
    three[0].until(lambda: [len(one.card.got) for one in three] == wanted, tuple(three[1:]))
    assert three[1].card.got == FRAMES
    assert [got for got in three[2].card.got if got in FRAMES] == FRAMES
    for one in three:
        assert not one.network.faults
        one.network.close()


def test_a_member_that_does_not_read_costs_bounded_memory_and_one_that_has_gone_nothing(hub: str) -> None:
    one, silent = Plugged(HubNetwork("net0-hub", hub)), Plugged(HubNetwork("net1-hub", hub))
    gone = HubNetwork("net2-hub", hub)
    gone._socket.close()  # it has been killed
    for _ in range(1500):
        one.network.send(frame(bytes(1400)))
    assert one.network.counts["members gone"] == 1
    assert one.network.faults["peer does not read"] > 100
    assert one.network.timeout() is not None
    silent.until(lambda: len(silent.card.got) + one.network.faults["peer does not read"] == 1500, (one,))
    assert one.network.timeout() is None
    one.network.close()
    silent.network.close()


def test_members_of_two_processes(hub: str) -> None:
    one = Plugged(HubNetwork("net0-hub", hub))
    child = os.fork()
    if child == 0:
        status = 1
        try:
            two = Plugged(HubNetwork("net0-hub", hub))
            two.network.send(frame(b"hello" * 20))
            two.until(lambda: two.card.got == [frame(b"welcome" * 20)])
            two.network.close()
            status = 0
        finally:
            os._exit(status)
    one.until(lambda: bool(one.card.got))
    assert one.card.got == [frame(b"hello" * 20)]
    one.network.send(frame(b"welcome" * 20))
    assert os.waitpid(child, 0)[1] == 0
    one.network.close()


# Tap


def test_a_tap_interface_carries_frames_both_ways() -> None:
    """The host's side is a packet socket, so that its addresses and routes stay as they are."""
    name = f"tgtest{os.getpid() % 10_000}"
    try:
        network = TapNetwork("net0-tap", name)
        host = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(KIND))
    except (TapUnusable, PermissionError) as error:
        pytest.skip(str(error))
    plugged = Plugged(network)
    network.send(frame())
    assert network.faults == {"host: input/output error": 1}  # it is not up
    with host:
        try:
            up = struct.pack("16sH22x", name.encode(), UP_AND_RUNNING)
            fcntl.ioctl(host, SIOCSIFFLAGS, up)
        except OSError as error:
            network.close()
            pytest.skip(f"an interface cannot be brought up here: {error}")
        host.bind((name, KIND))
        host.settimeout(10)
        for sent in FRAMES[:20]:
            network.send(sent)
            assert host.recv(9018) == sent
            host.send(sent + b"back")
        network.send(frame(bytes(1500)))
        assert len(host.recv(9018)) == 1514
        ours = [sent + b"back" for sent in FRAMES[:20]]
        plugged.until(lambda: [got for got in plugged.card.got if got in ours] == ours)
    network.close()
