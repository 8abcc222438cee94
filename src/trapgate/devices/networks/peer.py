"""A scripted peer: it takes frames and sends frames at modelled times, the same in every run, for measuring.

It has one address, answers ARP and ICMP echo, takes and sends bytes by TCP (peer_tcp.py), and sends bursts of numbered
frames; all at the pace of a gigabit wire. A card that is not ready holds it up, so that nothing is lost. Bursts are
asked for by frames of type 88B5h (guests/io/peer.inc).

Sources: RFC 826 (ARP), 791 (IP), 792 (ICMP).
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Sequence

from trapgate.devices.networks.network import Network
from trapgate.devices.networks.peer_tcp import TCP, TcpServices
from trapgate.machine.clock import Event
from trapgate.machine.network import HEADER, LONGEST, SHORTEST

MAC = bytes.fromhex("52550a000202")
ADDRESS = bytes((10, 0, 2, 2))
ARP, IPV4, TEST = b"\x08\x06", b"\x08\x00", b"\x88\xb5"
ICMP = 1
# What a frame of type TEST asks for.
SINK, BURST, ECHO = 0, 1, 2
#: From a question to its answer.
ANSWER_MICROSECONDS = 20
#: Preamble, FCS and gap, in bytes; a gigabit wire.
FRAMING, BITS_PER_MICROSECOND = 24, 1000
#: Frames of one burst at most.
LARGEST_BURST = 1 << 24


def checksum(data: bytes) -> int:
    """The Internet checksum (RFC 1071) of an even number of bytes."""
    return ~(int.from_bytes(data, "big") % 0xFFFF or 0xFFFF) & 0xFFFF


def even(data: bytes) -> bytes:
    """`data`, padded to an even number of bytes."""
    return data + b"\0" * (len(data) % 2)


def pseudo_header(addresses: bytes, length: int) -> bytes:
    """What a TCP segment of `length` bytes between two addresses is summed up with (RFC 9293, 3.1)."""
    return addresses + struct.pack(">HH", TCP, length)


class PeerNetwork(Network):
    """The peer, and the cable to it."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        #: What is to be sent: a frame, or a burst as [station, frames sent, frames in all, bytes of each].
        self._script: deque[bytes | list[bytes | int]] = deque()
        self._event: Event | None = None
        self._identity = 0
        self._tcp = TcpServices(self._reply_tcp, self.counts)

    # From the card

    def transmit(self, frame: bytes) -> None:
        """Look at what has come."""
        if len(frame) < HEADER or (frame[:6] != MAC and not frame[0] & 1):
            return
        kind = frame[12:14]
        if kind == ARP:
            self._answer_arp(frame)
        elif kind == TEST:
            self._answer_test(frame)
        elif kind == IPV4 and len(frame) >= HEADER + 28 and frame[14] == 0x45 and frame[30:34] == ADDRESS:
            if frame[23] == ICMP and frame[34] == 8:
                self._answer_echo(frame)
            elif frame[23] == TCP:
                self._take_tcp(frame)

    def _answer_arp(self, frame: bytes) -> None:
        if frame[20:22] == b"\0\1" and frame[38:42] == ADDRESS:
            self._say(frame[6:12] + MAC + frame[12:20] + b"\0\2" + MAC + ADDRESS + frame[22:32])

    def _answer_test(self, frame: bytes) -> None:
        wish = frame[HEADER]
        if wish == ECHO:
            self._say(frame[6:12] + MAC + frame[12:])
        elif wish == BURST and len(frame) >= HEADER + 7:
            count, size = struct.unpack_from(">IH", frame, HEADER + 1)
            self._burst(frame[6:12], count, size)

    def _answer_echo(self, frame: bytes) -> None:
        total = struct.unpack_from(">H", frame, 16)[0]
        message = bytearray(frame[34 : HEADER + total])
        message[0] = 0
        message[2:4] = b"\0\0"
        message[2:4] = checksum(even(bytes(message))).to_bytes(2, "big")
        self._say(self._ip(frame, ICMP, bytes(message)))

    def _take_tcp(self, frame: bytes) -> None:
        """A segment whose checksums are right: a card that computes them for the guest is held to them here."""
        total = struct.unpack_from(">H", frame, 16)[0]
        segment = frame[34 : HEADER + total]
        if len(segment) < 20 or len(segment) != total - 20 or not 20 <= (segment[12] >> 4) * 4 <= len(segment):
            self.faults["segment of a bad form"] += 1
        elif checksum(frame[14:34]) or checksum(pseudo_header(frame[26:34], len(segment)) + even(segment)):
            self.faults["segment with a wrong checksum"] += 1
        else:
            self._tcp.take(frame, segment)

    def _reply_tcp(self, frame: bytes, segment: bytes) -> None:
        value = checksum(pseudo_header(frame[26:34], len(segment)) + even(segment))
        self._say(self._ip(frame, TCP, segment[:16] + value.to_bytes(2, "big") + segment[18:]))

    def _ip(self, frame: bytes, protocol: int, message: bytes) -> bytes:
        """An answer to `frame` over IPv4."""
        self._identity = self._identity + 1 & 0xFFFF
        header = struct.pack(
            ">BBHHHBBH4s4s", 0x45, 0, 20 + len(message), self._identity, 0x4000, 64, protocol, 0, ADDRESS, frame[26:30]
        )
        header = header[:10] + checksum(header).to_bytes(2, "big") + header[12:]
        return frame[6:12] + MAC + IPV4 + header + message

    # To the card

    def _say(self, frame: bytes) -> None:
        """Send a frame when what was to be sent before it has gone."""
        self._script.append(frame.ljust(SHORTEST, b"\0"))
        self._start()

    def _burst(self, station: bytes, count: int, size: int) -> None:
        self._script.append([station, 0, min(count, LARGEST_BURST), min(max(size, SHORTEST), LONGEST)])
        self._start()

    def _start(self) -> None:
        clock = self._clock
        if self._event is None and clock is not None:
            self._event = clock.schedule(clock.now + clock.hz * ANSWER_MICROSECONDS // 1_000_000, self._next)

    def _next(self) -> None:
        """Send the next frame, if the card has room, and come again when the wire is free."""
        self._event = None
        clock, card = self._clock, self._card
        assert clock is not None, "plugged in before anything is sent"
        length = LONGEST  # how long a card without room is left alone
        if card is not None and card.ready and self._script:
            frame = self._take()
            if frame is not None:
                length = len(frame)
                self._passes(frame)
                self.counts["frames_in"] += 1
                self.counts["bytes_in"] += length
                self._deliver(frame)
        if self._script:
            wire = (length + FRAMING) * 8 * clock.hz // (BITS_PER_MICROSECOND * 1_000_000)
            self._event = clock.schedule(clock.now + wire, self._next)

    def _take(self) -> bytes | None:
        """The next frame of the script; None at the end of a burst."""
        first = self._script[0]
        if isinstance(first, bytes):
            self._script.popleft()
            return first
        station, number, count, size = first
        assert isinstance(station, bytes)
        assert isinstance(number, int)
        assert isinstance(count, int)
        assert isinstance(size, int)
        if number >= count:
            self._script.popleft()
            return None
        first[1] = number + 1
        return (station + MAC + TEST + bytes((BURST,)) + number.to_bytes(4, "big")).ljust(size, b"\x5a")

    # Source: there is nothing outside.

    @property
    def period(self) -> int:
        """Nothing is to be seen by looking."""
        assert self._clock is not None, "plugged in before it is looked at"
        return self._clock.hz

    @property
    def listens(self) -> bool:
        """A guest that sleeps need not sleep for real."""
        return False

    def watched(self) -> Sequence[int]:
        """No descriptors."""
        return ()

    def fetch(self) -> None:
        """Nothing comes from the host."""

    def release(self) -> None:
        """Nothing was lent."""
