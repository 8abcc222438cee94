"""What a virtio network card does for its driver with whole TCP packets: checksums, and what tells a packet's pieces.

A card whose network takes TCP packets of up to 64 KB sends and receives them unsegmented: 5.1.6.2.1 and 5.1.6.3.1 say
what their headers are like on the driver's side. On the network's side they are plain frames with right checksums.

Source: "Virtual I/O Device (VIRTIO) Version 1.2", 5.1.6; RFC 1071 (checksums), RFC 791, RFC 9293.
"""

from __future__ import annotations

import struct

from trapgate.devices.virtio.queue import QueueFault
from trapgate.machine.network import HEADER, LARGEST

# Features (5.1.3).
CHECKSUM, GUEST_CHECKSUM, GUEST_TSO_4, HOST_TSO_4 = 1 << 0, 1 << 1, 1 << 7, 1 << 11
FEATURES = CHECKSUM | GUEST_CHECKSUM | GUEST_TSO_4 | HOST_TSO_4
#: flags and gso_type of struct virtio_net_hdr.
NEEDS_CHECKSUM = 1
NO_SEGMENTS, TCP_4 = 0, 1
#: flags, gso_type, hdr_len, gso_size, csum_start, csum_offset, num_buffers.
PACKET_HEADER = struct.Struct("<BBHHHHH")

IPV4 = b"\x08\x00"
TCP = 6
TCP_CHECKSUM = 16
SMALLEST_IP, SMALLEST_TCP = 20, 20


def ones_sum(data: bytes | bytearray | memoryview) -> int:
    """The ones' complement sum of `data` as big-endian 16-bit words, a last odd byte as the high one of its word.

    65536 is 1 modulo 65535, so the number that the bytes make has the sum of its words as remainder.
    """
    value = int.from_bytes(data, "big")
    return (value << 8 if len(data) % 2 else value) % 0xFFFF


def complete_checksum(frame: bytearray, start: int, offset: int) -> bool:
    """Put the checksum of what begins at `start` where it belongs, `offset` behind; there is the pseudo header's sum.

    False when the place is not in the frame.
    """
    place = start + offset
    if place + 2 > len(frame):
        return False
    value = ~ones_sum(memoryview(frame)[start:]) & 0xFFFF
    # 0 stands for "none" in UDP; in ones' complement FFFFh is the same number.
    frame[place : place + 2] = (value or 0xFFFF).to_bytes(2, "big")
    return True


def describe_large(frame: bytes, mtu: int) -> tuple[bytes, bytes] | None:
    """For a TCP packet that a wire would carry in pieces of `mtu` bytes: the header, but for its number of buffers, and
    the frame with the pseudo header's sum. None for a frame that is no such packet."""
    if frame[12:14] != IPV4 or len(frame) < HEADER + SMALLEST_IP + SMALLEST_TCP:
        return None
    ip_length = (frame[HEADER] & 0xF) * 4
    tcp = HEADER + ip_length
    is_fragment = int.from_bytes(frame[HEADER + 6 : HEADER + 8], "big") & 0x3FFF
    if ip_length < SMALLEST_IP or frame[HEADER + 9] != TCP or is_fragment or len(frame) < tcp + SMALLEST_TCP:
        return None
    tcp_length = (frame[tcp + 12] >> 4) * 4
    if tcp_length < SMALLEST_TCP or ip_length + tcp_length >= mtu or len(frame) < tcp + tcp_length:
        return None
    length = len(frame) - tcp
    pseudo = ones_sum(frame[HEADER + 12 : HEADER + 20] + bytes((0, TCP)) + length.to_bytes(2, "big"))
    header = PACKET_HEADER.pack(
        NEEDS_CHECKSUM, TCP_4, tcp + tcp_length, mtu - ip_length - tcp_length, tcp, TCP_CHECKSUM, 0
    )
    place = tcp + TCP_CHECKSUM
    return header[:10], frame[:place] + pseudo.to_bytes(2, "big") + frame[place + 2 :]


def finish_packet(data: bytes, agreed: int, longest: int) -> bytes:
    """The frame of a driver's packet with its header `data`: its checksum complete, at most `longest` bytes unless it
    is a TCP packet to be segmented. `agreed`: the features that were agreed on. Raises QueueFault with what is wrong.
    """
    flags, kind, _, _, start, offset, _ = PACKET_HEADER.unpack_from(data)
    length = len(data) - PACKET_HEADER.size
    is_large = kind == TCP_4 and bool(agreed & HOST_TSO_4) and bool(flags & NEEDS_CHECKSUM)
    if (kind != NO_SEGMENTS and not is_large) or flags & ~NEEDS_CHECKSUM or (flags and not agreed & CHECKSUM):
        raise QueueFault("offload that was not agreed on")
    if not HEADER <= length <= (LARGEST if is_large else longest):
        raise QueueFault("frame of a bad length")
    if not flags:
        return data[PACKET_HEADER.size :]
    frame = bytearray(memoryview(data)[PACKET_HEADER.size :])
    if not complete_checksum(frame, start, offset):
        raise QueueFault("checksum outside its frame")
    return bytes(frame)
