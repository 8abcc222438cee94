"""The protocol's framing: `$data#sum`, acknowledgements, and the byte that interrupts (E.1, "Overview")."""

from __future__ import annotations

from collections.abc import Iterator

#: Bytes of a packet's data, in either direction. gdb is told, and one that sends more is not gdb.
PACKET_SIZE = 0x4000
#: What `PacketReader` gives for Ctrl-C.
INTERRUPT = b"\x03"
_START, _END, _ESCAPE, _STAR = 0x24, 0x23, 0x7D, 0x2A
_SPECIAL = frozenset((_START, _END, _ESCAPE, _STAR))


class PacketReader:
    """Takes bytes as they come, and gives what they mean. Garbage between packets is skipped."""

    def __init__(self) -> None:
        self._data = bytearray()
        #: The packet that has begun, without its `$`; None between packets.
        self._packet: bytearray | None = None
        #: `-` to be sent for each packet whose sum was wrong, `+` for each good one.
        self.acknowledges = True
        #: What is to be sent back: acknowledgements.
        self.answers = bytearray()
        #: The other side has not understood the last packet.
        self.wants_again = False
        #: Packets that were too long or had a wrong sum.
        self.refused = 0

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Take bytes; the whole packets among them, unescaped, and INTERRUPT."""
        self._data += data
        at, pending = 0, self._data
        while at < len(pending):
            if self._packet is None:
                at = self._between(pending, at)
                if at < 0:
                    at = -at
                    yield INTERRUPT
                continue
            end = pending.find(_END, at)
            start = pending.find(_START, at, None if end < 0 else end)
            if start >= 0:  # a new packet begins: the other side has given the old one up
                self._packet, at = bytearray(), start + 1
                continue
            self._packet += pending[at : None if end < 0 else end]
            if len(self._packet) > PACKET_SIZE:
                self._packet, self.refused = None, self.refused + 1
                at = len(pending) if end < 0 else end + 1
                continue
            if end < 0 or end + 3 > len(pending):
                # The rest of it, or its sum, is still to come.
                at = len(pending) if end < 0 else end
                break
            packet, self._packet, at = bytes(self._packet), None, end + 3
            if not self._is_sum(pending[end + 1 : end + 3], packet):
                self.refused += 1
                self._answer(b"-")
                continue
            self._answer(b"+")
            yield unescape(packet)
        del pending[:at]

    def _between(self, pending: bytearray, at: int) -> int:
        """Look at one byte between packets; where to go on, negative behind an interrupt."""
        byte = pending[at]
        if byte == _START:
            self._packet = bytearray()
        elif byte == INTERRUPT[0]:
            return -(at + 1)
        elif byte == ord("-"):
            self.wants_again = True
        return at + 1

    def _answer(self, sign: bytes) -> None:
        if self.acknowledges:
            self.answers += sign

    def _is_sum(self, digits: bytes | bytearray, packet: bytes) -> bool:
        if not self.acknowledges:
            return True  # "the checksum must be present and need not be checked" (E.9)
        try:
            return int(digits, 16) == sum(packet) & 0xFF
        except ValueError:
            return False


def unescape(data: bytes) -> bytes:
    """Undo `}` (E.1, "Binary Data")."""
    if _ESCAPE not in data:
        return data
    found, escaped = bytearray(), False
    for byte in data:
        if escaped:
            found.append(byte ^ 0x20)
            escaped = False
        elif byte == _ESCAPE:
            escaped = True
        else:
            found.append(byte)
    return bytes(found)


def escape(data: bytes) -> bytes:
    """Escape what a packet's data must not hold."""
    found = bytearray()
    for byte in data:
        if byte in _SPECIAL:
            found += bytes((_ESCAPE, byte ^ 0x20))
        else:
            found.append(byte)
    return bytes(found)


def frame(data: bytes) -> bytes:
    """A packet with this data, which holds nothing that is to be escaped."""
    return b"$%b#%02x" % (data, sum(data) & 0xFF)
