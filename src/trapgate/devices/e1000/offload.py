"""What a transmit context asks for: checksums inserted, and a large TCP or UDP packet cut into segments.

Source: SDM 3.3.6 (context descriptor), 3.5 (segmentation), 3.6 (checksums).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from trapgate.devices.e1000.checksums import complement, insert, ones_sum

# TUCMD (table 3-15), as bits of the upper quad word from 24 on.
TUCMD_TCP, TUCMD_IPV4, TUCMD_TSE = 1, 2, 4
# POPTS (table 3-18).
IXSM, TXSM = 1, 2
IPV4_HEADER, IPV6_HEADER, TCP_FLAGS, UDP_HEADER = 20, 40, 13, 8
FIN_AND_PSH = 0x09
#: Segments that one packet is cut into at most; Linux sends 64 KB in pieces of 500 bytes or more.
MOST_SEGMENTS = 4096


class CannotSegment(Exception):
    """A context that contradicts its packet. `reason` is a few words for the statistics."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Context:
    """A context descriptor's fields: where headers and checksums are (bytes from the packet's beginning)."""

    ip_start: int
    ip_place: int
    ip_end: int
    start: int
    place: int
    end: int
    is_tcp: bool
    is_ipv4: bool
    header: int
    segment: int

    @classmethod
    def of(cls, low: int, high: int) -> Context:
        """From the descriptor's two quad words (figure 3-10)."""
        command = high >> 24 & 0xFF
        return cls(
            low & 0xFF, low >> 8 & 0xFF, low >> 16 & 0xFFFF, low >> 32 & 0xFF, low >> 40 & 0xFF, low >> 48 & 0xFFFF,
            bool(command & TUCMD_TCP), bool(command & TUCMD_IPV4), high >> 40 & 0xFF, high >> 48 & 0xFFFF,
        )  # fmt: skip


def insert_checksums(frame: bytearray, context: Context, options: int) -> None:
    """Insert what POPTS asks for. A UDP checksum of 0 would mean none, and goes out as FFFFh (RFC 768)."""
    if options & TXSM:
        insert(frame, context.start, context.place, context.end)
        if not context.is_tcp and frame[context.place : context.place + 2] == b"\0\0":
            frame[context.place : context.place + 2] = b"\xff\xff"
    if options & IXSM:
        insert(frame, context.ip_start, context.ip_place, context.ip_end)


def segments(packet: bytes | bytearray, context: Context, options: int) -> list[bytearray]:
    """The frames that `packet` is cut into (3.5.6 to 3.5.8). Raises CannotSegment."""
    header, size = context.header, context.segment
    if not size or not header or header > len(packet):
        raise CannotSegment("segmentation without a size or a header")
    if (len(packet) - header + size - 1) // size > MOST_SEGMENTS:
        raise CannotSegment("segmentation into too many packets")
    frames = []
    for number, offset in enumerate(range(header, len(packet), size)):
        frame = bytearray(packet[:header]) + packet[offset : offset + size]
        is_last = offset + size >= len(packet)
        _set_lengths(frame, context, number, offset - header, is_last)
        # The pseudo-header's sum that the driver has put there is without a length: each segment has its own.
        if options & TXSM and context.place + 2 <= header:
            stop = min(context.end + 1, len(frame)) if context.end else len(frame)
            total = ones_sum(memoryview(frame)[context.start : stop], len(frame) - context.start)
            checksum = complement(total)
            struct.pack_into(">H", frame, context.place, checksum if checksum or context.is_tcp else 0xFFFF)
        if options & IXSM:
            insert(frame, context.ip_start, context.ip_place, context.ip_end)
        frames.append(frame)
    return frames


def _set_lengths(frame: bytearray, context: Context, number: int, offset: int, is_last: bool) -> None:
    """The fields of the headers that differ from segment to segment."""
    ip, transport, header = context.ip_start, context.start, context.header
    if context.is_ipv4:
        if ip + IPV4_HEADER <= header:
            identity = struct.unpack_from(">H", frame, ip + 4)[0]
            struct.pack_into(">HH", frame, ip + 2, len(frame) - ip & 0xFFFF, identity + number & 0xFFFF)
    elif ip + IPV6_HEADER <= header:
        struct.pack_into(">H", frame, ip + 4, len(frame) - ip - IPV6_HEADER & 0xFFFF)
    if context.is_tcp:
        if transport + TCP_FLAGS < header:
            sequence = struct.unpack_from(">I", frame, transport + 4)[0]
            struct.pack_into(">I", frame, transport + 4, sequence + offset & 0xFFFF_FFFF)
            if not is_last:
                frame[transport + TCP_FLAGS] &= ~FIN_AND_PSH
    elif transport + UDP_HEADER <= header:
        struct.pack_into(">H", frame, transport + 4, len(frame) - transport & 0xFFFF)
