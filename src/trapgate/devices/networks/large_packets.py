"""IPv4 packets that are larger than the frames of a card: how a peer is told that it may send such, and their pieces.

Source: RFC 791 (fragments), RFC 9293, 3.7.1 (the maximum segment size option), RFC 1624 (checksums of changed headers).
"""

from __future__ import annotations

from collections.abc import Iterator

from trapgate.machine.network import HEADER

IPV4 = b"\x08\x00"
TCP = 6
SYN = 2
#: FIN and PSH, which belong to a packet's last piece.
LAST_ONLY = 0x09
MORE_FRAGMENTS, OFFSET_BITS = 0x2000, 0x1FFF
SMALLEST_IP, SMALLEST_TCP = 20, 20
END_OF_OPTIONS, NO_OPERATION, SEGMENT_SIZE = 0, 1, 2
LARGEST_PACKET = 0xFFFF


def _sum(data: bytes) -> int:
    """The ones' complement sum of an even number of bytes."""
    return int.from_bytes(data, "big") % 0xFFFF


def is_packet(frame: bytes) -> bool:
    """Whether a frame has an IPv4 packet."""
    return frame[12:14] == IPV4 and len(frame) >= HEADER + SMALLEST_IP


def raise_segment_size(frame: bytes) -> bytes:
    """A frame; if it opens a TCP connection over IPv4, with the largest maximum segment size instead of its own."""
    tcp = HEADER + (frame[HEADER] & 0xF) * 4 if is_packet(frame) else len(frame)
    if len(frame) < tcp + SMALLEST_TCP or frame[HEADER + 9] != TCP or not frame[tcp + 13] & SYN:
        return frame
    place, end = tcp + SMALLEST_TCP, min(tcp + (frame[tcp + 12] >> 4) * 4, len(frame))
    while place + 4 <= end and frame[place] not in (END_OF_OPTIONS, SEGMENT_SIZE):
        # An option of length 0 or 1 is none.
        place += 1 if frame[place] == NO_OPERATION else max(frame[place + 1], 2)
    if place + 4 > end or frame[place] != SEGMENT_SIZE or frame[place + 1] != 4 or (place - tcp) % 2:
        return frame
    changed = bytearray(frame)
    changed[place + 2 : place + 4] = (LARGEST_PACKET - SMALLEST_IP - SMALLEST_TCP).to_bytes(2, "big")
    old, new = _sum(frame[place + 2 : place + 4]), _sum(bytes(changed[place + 2 : place + 4]))
    # HC' = ~(~HC + ~m + m'), where ~x is -x modulo 65535.
    total = (new - old - _sum(frame[tcp + 16 : tcp + 18])) % 0xFFFF
    changed[tcp + 16 : tcp + 18] = (~total & 0xFFFF).to_bytes(2, "big")
    return bytes(changed)


def is_tcp(frame: bytes) -> bool:
    """Whether a frame has a TCP packet over IPv4."""
    return is_packet(frame) and frame[HEADER + 9] == TCP


def segments(frame: bytes, mtu: int) -> Iterator[bytes]:
    """Frames of at most `mtu` bytes of payload with the TCP segments that the packet of `frame` can be cut into."""
    length, total = (frame[HEADER] & 0xF) * 4, int.from_bytes(frame[HEADER + 2 : HEADER + 4], "big")
    tcp = HEADER + length
    if length < SMALLEST_IP or not length + SMALLEST_TCP <= total <= len(frame) - HEADER:
        return
    start = tcp + (frame[tcp + 12] >> 4) * 4
    size = mtu - (start - HEADER)
    if start < tcp + SMALLEST_TCP or start > HEADER + total or size <= 0:
        return
    data, sequence = frame[start : HEADER + total], int.from_bytes(frame[tcp + 4 : tcp + 8], "big")
    for place in range(0, len(data), size):
        piece = data[place : place + size]
        new = bytearray(frame[:start] + piece)
        new[HEADER + 2 : HEADER + 4] = (len(new) - HEADER).to_bytes(2, "big")
        new[tcp + 4 : tcp + 8] = (sequence + place & 0xFFFF_FFFF).to_bytes(4, "big")
        if place + size < len(data):
            new[tcp + 13] &= ~LAST_ONLY
        _put_checksum(new, HEADER + 10, bytes(new[HEADER:tcp]))
        tcp_length = len(new) - tcp
        pseudo = new[HEADER + 12 : HEADER + 20] + bytes((0, TCP)) + tcp_length.to_bytes(2, "big")
        _put_checksum(new, tcp + 16, bytes(pseudo + new[tcp:] + bytes(tcp_length % 2)))
        yield bytes(new)


def _put_checksum(frame: bytearray, place: int, covered: bytes) -> None:
    """The checksum at `place` of an even number of bytes, in which the old one is."""
    total = (_sum(covered) - _sum(bytes(frame[place : place + 2]))) % 0xFFFF
    frame[place : place + 2] = (~total & 0xFFFF).to_bytes(2, "big")


def fragments(frame: bytes, mtu: int) -> Iterator[bytes]:
    """Frames of at most `mtu` bytes of payload with the packet of `frame`; none for what is not IPv4."""
    if not is_packet(frame):
        return
    length = (frame[HEADER] & 0xF) * 4
    total = int.from_bytes(frame[HEADER + 2 : HEADER + 4], "big")
    if length < SMALLEST_IP or not length <= total <= len(frame) - HEADER:
        return
    header, data = frame[HEADER : HEADER + length], frame[HEADER + length : HEADER + total]
    flags = int.from_bytes(header[6:8], "big")
    size = (mtu - length) // 8 * 8
    for start in range(0, len(data), size):
        piece = data[start : start + size]
        more = flags & MORE_FRAGMENTS or (MORE_FRAGMENTS if start + size < len(data) else 0)
        place = (flags & OFFSET_BITS) + start // 8 & OFFSET_BITS
        new = bytearray(header)
        new[2:4] = (length + len(piece)).to_bytes(2, "big")
        new[6:8] = (more | place).to_bytes(2, "big")
        _put_checksum(new, 10, bytes(new))
        yield frame[:HEADER] + bytes(new) + piece
