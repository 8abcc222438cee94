"""Checksums of the Internet, as the card computes, inserts and checks them.

Sources: RFC 1071 (the sum), RFC 791 and 8200 (headers); SDM 3.2.9 (receive), 3.5 and 3.6 (transmit).
"""

from __future__ import annotations

import struct

IPV4, IPV6, VLAN = 0x0800, 0x86DD, 0x8100
TCP, UDP = 6, 17
ETHERNET_HEADER = 14


def ones_sum(data: bytes | bytearray | memoryview, start: int = 0) -> int:
    """The 16-bit one's complement sum of big-endian words, an odd byte padded with 0, added to `start`.

    65536 is 1 modulo 65535, so the number that all bytes make is congruent to the sum of its words.
    """
    number = int.from_bytes(data, "big")
    if len(data) & 1:
        number <<= 8
    if not number and not start:
        return 0
    return (number + start) % 0xFFFF or 0xFFFF


def complement(value: int) -> int:
    """What goes into a checksum field."""
    return ~value & 0xFFFF


def insert(frame: bytearray, start: int, place: int, end: int) -> None:
    """Sum up `frame` from `start` on, to `end` (inclusive; 0: all), and put the complement at `place`; the field's old
    content, a pseudo-header's sum, is part of it. A place outside the frame changes nothing."""
    stop = min(end + 1, len(frame)) if end else len(frame)
    if place + 2 <= len(frame) and start < stop:
        struct.pack_into(">H", frame, place, complement(ones_sum(memoryview(frame)[start:stop])))


class Checked:
    """What a received frame's checksums are: None where there is none to check, else whether it is right."""

    __slots__ = ("ip", "transport")

    def __init__(self, ip: bool | None = None, transport: bool | None = None) -> None:
        self.ip, self.transport = ip, transport


def check(frame: bytes) -> Checked:
    """Check the IPv4 header's checksum, and TCP's or UDP's over IPv4 and IPv6 without extension headers (table 3-6)."""
    offset = ETHERNET_HEADER
    kind = frame[12:14]
    if kind == b"\x81\x00":
        kind, offset = frame[16:18], offset + 4
    if kind == b"\x08\x00":
        return _check_ipv4(frame, offset)
    if kind == b"\x86\xdd" and len(frame) >= offset + 40:
        length, protocol = struct.unpack_from(">HB", frame, offset + 4)
        end = offset + 40 + length
        if end <= len(frame):
            addresses = frame[offset + 8 : offset + 40]
            return Checked(None, _check_transport(frame, offset + 40, end, protocol, addresses))
    return Checked()


def _check_ipv4(frame: bytes, offset: int) -> Checked:
    if len(frame) < offset + 20 or frame[offset] >> 4 != 4:
        return Checked()
    header = (frame[offset] & 15) * 4
    total, _, fragment = struct.unpack_from(">HHH", frame, offset + 2)
    if header < 20 or total < header or offset + total > len(frame):
        return Checked()
    right = ones_sum(frame[offset : offset + header]) == 0xFFFF
    if not right or fragment & 0x3FFF:  # a fragment has no checksum of its own
        return Checked(right)
    addresses = frame[offset + 12 : offset + 20]
    return Checked(right, _check_transport(frame, offset + header, offset + total, frame[offset + 9], addresses))


def _check_transport(frame: bytes, start: int, end: int, protocol: int, addresses: bytes) -> bool | None:
    length = end - start
    if protocol not in (TCP, UDP) or length < (20 if protocol == TCP else 8):
        return None
    if protocol == UDP and frame[start + 6 : start + 8] == b"\0\0":
        return None
    pseudo = ones_sum(addresses, protocol + length)
    return ones_sum(frame[start:end], pseudo) == 0xFFFF
