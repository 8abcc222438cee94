"""TCP as the scripted peer speaks it: two services, on a cable that loses nothing.

Port 9 takes everything (RFC 863); port 19 sends as many bytes as a line of text has asked for, then closes. Segments
are acknowledged by twos, or when a push says that no more comes. Nothing is sent twice, for nothing is ever lost.

Sources: RFC 9293 (segments), 7323 (window scale), 1122, 4.2.3.2 (delayed acknowledgements).
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Callable

DISCARD_PORT, SOURCE_PORT = 9, 19
FIN, SYN, RST, PSH, ACK = 1, 2, 4, 8, 16
HEADER = 20
TCP = 6
WORD = 0xFFFF_FFFF
# Options (RFC 9293, 3.2; RFC 7323, 2.2).
END, NOTHING, SEGMENT_SIZE, WINDOW_SCALE = 0, 1, 2, 3
SCALE = 7
#: Our window, in units of 2**SCALE bytes, and what we have in flight at most.
WINDOW, MOST_IN_FLIGHT = 0x2000, 1 << 18
DEFAULT_SEGMENT, LARGEST_SEGMENT = 536, 8960
#: A source sends so much at most.
MOST_BYTES = 1 << 32
MOST_CONNECTIONS = 64
LONGEST_LINE = 16
FIRST_SEQUENCE = 0x1000_0000

#: Sends a TCP segment (without its checksum) to the guest in an answer to its frame.
Reply = Callable[[bytes, bytes], None]


class Connection:
    """One connection. `reply(frame, segment)` sends."""

    def __init__(self, frame: bytes, segment: bytes, reply: Reply) -> None:
        self._reply = reply
        #: A frame of the guest's, for the addresses.
        self.frame = frame[:34]
        self.guest_port, self.port, sequence = struct.unpack_from(">HHI", segment)
        self.expected = sequence + 1 & WORD
        self.next = self.acknowledged = FIRST_SEQUENCE
        self.size, self.scale = DEFAULT_SEGMENT, -1
        self._read_options(segment)
        self.window = 0
        #: Segments that wait for an acknowledgement; bytes that are still to be sent; what the guest has asked for.
        self.unanswered = 0
        self.left = 0
        self.line = b""
        self.closes = self.closed = False
        options = struct.pack(">BBH", SEGMENT_SIZE, 4, self.size)
        if self.scale >= 0:
            options += bytes((WINDOW_SCALE, 3, SCALE, NOTHING))
        self._send(SYN | ACK, b"", options)

    def _read_options(self, segment: bytes) -> None:
        options = segment[HEADER : (segment[12] >> 4) * 4]
        while options and options[0] != END:
            if options[0] == NOTHING:
                options = options[1:]
                continue
            length = options[1] if len(options) > 1 else 0
            if length < 2 or length > len(options):
                return
            if options[0] == SEGMENT_SIZE and length == 4:
                self.size = min(max(int.from_bytes(options[2:4], "big"), 64), LARGEST_SEGMENT)
            elif options[0] == WINDOW_SCALE and length == 3:
                self.scale = min(options[2], 14)
            options = options[length:]

    def _send(self, flags: int, data: bytes = b"", options: bytes = b"") -> None:
        scale = SCALE if self.scale >= 0 and not flags & SYN else 0
        window = min(WINDOW << SCALE >> scale, 0xFFFF)
        offset = (HEADER + len(options)) // 4
        header = struct.pack(
            ">HHIIBBHHH", self.port, self.guest_port, self.next, self.expected, offset << 4, flags, window, 0, 0
        )
        self.unanswered = 0
        self.next = self.next + len(data) + bool(flags & (SYN | FIN)) & WORD
        self._reply(self.frame, header + options + data)

    def take(self, segment: bytes) -> None:
        """A segment of the guest's, which is at least a header long."""
        sequence, acknowledged, offset, flags, window = struct.unpack_from(">IIBBH", segment, 4)
        if flags & RST:
            self.closed = True
            return
        if flags & ACK and (acknowledged - self.acknowledged & WORD) <= (self.next - self.acknowledged & WORD):
            self.acknowledged = acknowledged
            self.window = window << max(self.scale, 0)
        data = segment[(offset >> 4) * 4 :]
        if (data or flags & FIN) and sequence == self.expected:
            self._take_data(data, flags)
        elif data or flags & (FIN | SYN):
            self._send(ACK)  # seen before
        self._fill()
        if self.closes and self.acknowledged == self.next:
            self.closed = True

    def _take_data(self, data: bytes, flags: int) -> None:
        self.expected = self.expected + len(data) & WORD
        if self.port == SOURCE_PORT and not self.left:
            self.line += data[:LONGEST_LINE]
            text, end, _ = self.line.partition(b"\n")
            if end:
                self.line = b""
                self.left = min(int(text), MOST_BYTES) if text.isdigit() and len(text) < LONGEST_LINE else 0
                self._fill()
        self.unanswered += bool(data)
        if flags & FIN:
            self.expected = self.expected + 1 & WORD
            if self.left:
                self._send(ACK)
            else:
                self._close()
        elif self.unanswered >= 2 or (self.unanswered and flags & PSH):
            self._send(ACK)

    def _fill(self) -> None:
        """Send what the guest's window has room for."""
        while self.left:
            room = min(self.window, MOST_IN_FLIGHT) - (self.next - self.acknowledged & WORD)
            length = min(self.size, self.left)
            if room < length:
                return
            self.left -= length
            self._send(ACK | (0 if self.left else PSH), b"\x5a" * length)
            if not self.left:
                self._close()

    def _close(self) -> None:
        if not self.closes:
            self.closes = True
            self._send(FIN | ACK)


class TcpServices:
    """The connections of one peer."""

    def __init__(self, reply: Reply, counts: Counter[str]) -> None:
        self._reply, self._counts = reply, counts
        self._connections: dict[bytes, Connection] = {}

    def take(self, frame: bytes, segment: bytes) -> None:
        """A segment in an Ethernet frame; its checksums are right."""
        key, flags = frame[26:30] + segment[:4], segment[13]
        port = int.from_bytes(segment[2:4], "big")
        connection = self._connections.get(key)
        if connection is None:
            if flags & (SYN | ACK) == SYN and port in (DISCARD_PORT, SOURCE_PORT):
                if len(self._connections) < MOST_CONNECTIONS:
                    self._connections[key] = Connection(frame, segment, self._reply)
            elif not flags & RST:
                self._refuse(frame, segment)
            return
        if port == DISCARD_PORT:
            self._counts["bytes_discarded"] += len(segment) - (segment[12] >> 4) * 4
        connection.take(segment)
        if connection.closed:
            del self._connections[key]

    def _refuse(self, frame: bytes, segment: bytes) -> None:
        source, target, sequence, acknowledged = struct.unpack_from(">HHII", segment)
        data = len(segment) - (segment[12] >> 4) * 4 + bool(segment[13] & (SYN | FIN))
        answer = struct.pack(
            ">HHIIBBHHH", target, source, acknowledged, sequence + data & WORD, HEADER << 2, RST | ACK, 0, 0, 0
        )
        self._reply(frame, answer)
