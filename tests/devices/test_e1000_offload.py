"""What the 82540EM computes for its driver: checksums and segmentation, held to the naive sums of RFC 1071."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trapgate.devices.e1000 import offload
from trapgate.devices.e1000 import registers as reg
from trapgate.devices.e1000.checksums import check, ones_sum

from .nic_world import DEXT, EOP, IFCS, MAC, OTHER, RS, TSE, TX_DATA, Nic

TCP, UDP = 6, 17
ADDRESSES = bytes((10, 0, 2, 15, 10, 0, 2, 2))
ADDRESSES_6 = bytes(range(32))
TCP_CONTEXT, IP_CONTEXT = 1, 2


def naive_sum(data: bytes) -> int:
    """RFC 1071, 4.1."""
    total = sum(struct.unpack(f">{(len(data) + 1) // 2}H", data + b"\0" * (len(data) % 2)))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def pseudo(protocol: int, length: int, addresses: bytes = ADDRESSES) -> bytes:
    return addresses + struct.pack(">II" if len(addresses) > 8 else ">HH", protocol, length)


def packet(payload: bytes, protocol: int = TCP, is_ipv6: bool = False, filled: bool = False) -> bytearray:
    """A frame over IPv4 or IPv6. Without `filled` the transport's sum is the pseudo-header's, as drivers leave it."""
    if protocol == TCP:
        transport = struct.pack(">HHIIBBHHH", 1000, 80, 0xFFFF_FFF0, 7, 5 << 4, 0x19, 0x1000, 0, 0)
    else:
        transport = struct.pack(">HHHH", 1000, 53, 8 + len(payload), 0)
    place = 16 if protocol == TCP else 6
    length = len(transport) + len(payload)
    addresses = ADDRESSES_6 if is_ipv6 else ADDRESSES
    head = pseudo(protocol, length, addresses)
    value = ~naive_sum(head + transport + payload) & 0xFFFF if filled else naive_sum(head)
    transport = transport[:place] + struct.pack(">H", value) + transport[place + 2 :]
    if is_ipv6:
        ip = struct.pack(">IHBB", 6 << 28, length, protocol, 64) + addresses
    else:
        ip = struct.pack(">BBHHHBBH", 0x45, 0, 20 + length, 0xFFFF, 0, 64, protocol, 0) + addresses
        if filled:
            ip = ip[:10] + struct.pack(">H", ~naive_sum(ip) & 0xFFFF) + ip[12:]
    return bytearray(MAC + OTHER + (b"\x86\xdd" if is_ipv6 else b"\x08\x00") + ip + transport + payload)


def context(protocol: int, is_ipv6: bool = False, segment: int = 0, length: int = 0) -> tuple[int, int]:
    """A context descriptor (3.3.6) for `packet`."""
    start = 54 if is_ipv6 else 34
    place = start + (16 if protocol == TCP else 6)
    header = start + (20 if protocol == TCP else 8)
    command = DEXT | (TCP_CONTEXT if protocol == TCP else 0) | (0 if is_ipv6 else IP_CONTEXT) | (TSE if segment else 0)
    low = 14 | 24 << 8 | (0 if is_ipv6 else 33) << 16 | start << 32 | place << 40
    return low, length | command << 24 | (header if segment else 0) << 40 | segment << 48


def data(length: int, options: int, tse: bool = False) -> tuple[int, int]:
    return TX_DATA, length | 1 << 20 | (DEXT | EOP | IFCS | RS | (TSE if tse else 0)) << 24 | options << 40


@given(st.binary(max_size=300), st.integers(0, 0xFFFF))
def test_the_sum(content: bytes, start: int) -> None:
    folded = naive_sum(content) + start
    assert ones_sum(content, start) == (folded & 0xFFFF) + (folded >> 16)


@pytest.mark.parametrize("protocol", [TCP, UDP])
@pytest.mark.parametrize("is_ipv6", [False, True])
def test_checksums_are_inserted(protocol: int, is_ipv6: bool) -> None:
    """3.6: IXSM and TXSM by the context without TSE."""
    nic = Nic()
    nic.start()
    payload = bytes(range(101))
    nic.memory.write(TX_DATA, packet(payload, protocol, is_ipv6))
    length = len(packet(payload, protocol, is_ipv6))
    nic.descriptors([context(protocol, is_ipv6), data(length, 2 if is_ipv6 else 3)])
    nic.wait()
    assert nic.cable.frames == [bytes(packet(payload, protocol, is_ipv6, filled=True))]


def test_a_udp_sum_of_zero_goes_out_as_ones() -> None:
    """RFC 768: 0 would mean that there is none."""
    payload = bytearray(10)
    head = pseudo(UDP, 18) + struct.pack(">HHHH", 1000, 53, 18, 0)
    payload[:2] = struct.pack(">H", 0xFFFF - naive_sum(head))
    frame = packet(bytes(payload), UDP)
    offload.insert_checksums(frame, offload.Context.of(*context(UDP)), 2)
    assert frame[40:42] == b"\xff\xff"


@pytest.mark.parametrize("is_ipv6", [False, True])
def test_segmentation(is_ipv6: bool) -> None:
    """3.5: lengths, identities, sequence numbers, flags and sums of every segment."""
    nic = Nic()
    nic.start()
    payload = bytes(n * 5 & 0xFF for n in range(5000))
    whole = packet(payload, TCP, is_ipv6)
    start = 54 if is_ipv6 else 34
    # As a driver does for segmentation: the pseudo-header's sum is without a length.
    whole[start + 16 : start + 18] = struct.pack(">H", naive_sum(pseudo(TCP, 0, ADDRESSES_6 if is_ipv6 else ADDRESSES)))
    nic.memory.write(TX_DATA, whole)
    nic.descriptors([context(TCP, is_ipv6, 1400, 5000), data(len(whole), 2 if is_ipv6 else 3, tse=True)])
    nic.wait()
    frames = nic.cable.frames
    assert [len(frame) - start - 20 for frame in frames] == [1400, 1400, 1400, 800]
    assert b"".join(frame[start + 20 :] for frame in frames) == payload
    for number, frame in enumerate(frames):
        found = check(frame)
        assert found.transport is True
        assert found.ip is (None if is_ipv6 else True)
        sequence, _, _, flags = struct.unpack_from(">IIBB", frame, start + 4)
        assert sequence == 0xFFFF_FFF0 + 1400 * number & 0xFFFF_FFFF
        assert flags == (0x19 if number == 3 else 0x10)
        if is_ipv6:
            assert struct.unpack_from(">H", frame, 18)[0] == len(frame) - 54
        else:
            assert struct.unpack_from(">HH", frame, 16) == (len(frame) - 14, 0xFFFF + number & 0xFFFF)
    assert nic.sent_status(1) == 1
    assert not nic.faults


def test_udp_segmentation() -> None:
    payload = bytes(3000)
    whole = packet(payload, UDP)
    whole[40:42] = struct.pack(">H", naive_sum(pseudo(UDP, 0)))
    frames = offload.segments(whole, offload.Context.of(*context(UDP, segment=1000, length=3000)), 3)
    assert [struct.unpack_from(">H", frame, 38)[0] for frame in frames] == [1008] * 3
    assert all(check(bytes(frame)).transport for frame in frames)


@pytest.mark.parametrize(
    ("low", "high", "fault"),
    [
        (0, (DEXT | TSE) << 24, "segmentation without a size or a header"),
        (0, (DEXT | TSE) << 24 | 200 << 40 | 100 << 48, "segmentation without a size or a header"),
        (0, (DEXT | TSE) << 24 | 54 << 40 | 1 << 48, "segmentation into too many packets"),
    ],
)
def test_contexts_that_contradict_their_packet(low: int, high: int, fault: str) -> None:
    nic = Nic()
    nic.start()
    nic.memory.write(TX_DATA, bytes(6000))
    length = 100 if "header" in fault else 6000
    nic.descriptors([(low, high), data(length, 3, tse=True)])
    nic.wait()
    assert nic.faults == {fault: 1}
    assert nic.sent_status(1) == 1


@pytest.mark.parametrize("protocol", [TCP, UDP])
@pytest.mark.parametrize("is_ipv6", [False, True])
@pytest.mark.parametrize("wrong", ["", "ip", "transport"])
def test_received_sums_are_checked(protocol: int, is_ipv6: bool, wrong: str) -> None:
    """3.2.9: IPCS and TCPCS say what was checked, IPE and TCPE what was wrong."""
    nic = Nic()
    nic.start()
    nic.write(reg.RXCSUM, reg.IPOFL | reg.TUOFL)
    frame = packet(bytes(100), protocol, is_ipv6, filled=True)
    if wrong == "transport":
        frame[-1] ^= 1
    elif wrong == "ip" and not is_ipv6:
        frame[22] ^= 1
    nic.card.receive(bytes(frame))
    nic.wait()
    got = nic.received()
    assert got is not None
    status, errors = got[1] & 0x64, got[2]
    if is_ipv6:
        assert (status, errors) == (0x20, 0x20 if wrong == "transport" else 0)
    elif wrong == "ip":
        assert (status, errors) == (0x40, 0x40)
    else:
        assert (status, errors) == (0x60, 0x20 if wrong else 0)


def test_what_has_no_sum_is_not_checked() -> None:
    """IXSM: other protocols, fragments, UDP without a sum."""
    assert (check(bytes(100)).ip, check(bytes(100)).transport) == (None, None)
    fragment = packet(bytes(100), UDP, filled=True)
    fragment[20:22] = b"\x20\x00"
    fragment[24:26] = b"\0\0"
    fragment[24:26] = struct.pack(">H", ~naive_sum(bytes(fragment[14:34])) & 0xFFFF)
    found = check(bytes(fragment))
    assert (found.ip, found.transport) == (True, None)
    without = packet(bytes(100), UDP, filled=True)
    without[40:42] = b"\0\0"
    assert check(bytes(without)).transport is None


@given(st.binary(min_size=14, max_size=120), st.binary(max_size=60))
def test_no_frame_upsets_the_check(noise: bytes, tail: bytes) -> None:
    check(noise)
    check(bytes(packet(tail, TCP))[: 40 + len(noise) % 40])
    check(MAC + OTHER + b"\x08\x00\x45" + noise)
    check(MAC + OTHER + b"\x86\xdd" + noise)
