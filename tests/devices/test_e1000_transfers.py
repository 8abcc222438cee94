"""Intel's 82540EM: its rings of descriptors, by the sections of the manual."""

from __future__ import annotations

import struct
import zlib

import pytest

from trapgate.devices.e1000 import registers as reg

from .nic_world import (
    BUFFERS,
    EOP,
    IDE,
    IFCS,
    MICROSECOND,
    RS,
    RX_RING,
    TX_DATA,
    VLE,
    Nic,
    frame,
)

# -- transmit


def test_legacy_descriptor(nic: Nic) -> None:
    """3.3.3: a frame, DD where it was asked for, TXDW and TXQE."""
    nic.send(frame(200))
    assert not nic.cable.frames
    assert nic.read(reg.TDH) == 1
    nic.wait(10 * MICROSECOND)
    assert nic.cable.frames == [frame(200)]
    assert nic.sent_status(0) == 1
    assert nic.read(reg.ICR) == reg.TXDW | reg.TXQE
    nic.send(frame(60), EOP | IFCS)
    nic.wait()
    assert nic.sent_status(1) == 0
    assert nic.read(reg.ICR) == reg.TXQE


def test_packets_go_one_after_the_other(nic: Nic) -> None:
    """Several packets in flight: each takes its time on the wire (12.304 us for 1514 bytes at 1 Gb/s)."""
    nic.memory.write(TX_DATA, frame(1514))
    start = nic.clock.now
    nic.descriptors([(TX_DATA, 1514 | (EOP | IFCS | RS) << 24)] * 5)
    nic.wait()
    assert [cycle - start for cycle in nic.cable.cycles] == [24_608 * (n + 1) for n in range(5)]


def test_padding_and_fcs(nic: Nic) -> None:
    """3.3.3.1 (IFCS) and 13.4.33 (PSP): short frames are padded; without IFCS software's FCS is the last four bytes."""
    nic.send(frame(20))
    nic.send(frame(100) + b"FCS!", EOP | RS)
    nic.wait()
    assert nic.cable.frames == [frame(20).ljust(60, b"\0"), frame(100)]


def test_legacy_checksum(nic: Nic) -> None:
    """3.3.3.1: IC sums from CSS to the end and writes the complement at CSO."""
    data = bytearray(frame(101))
    data[50:52] = b"\0\0"
    nic.send(bytes(data), EOP | IFCS | RS | 4, 50 << 16 | 20 << 40)
    nic.wait()
    got = nic.cable.frames[0]
    total = sum(struct.unpack(">41H", data[20:] + b"\0"))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    assert struct.unpack_from(">H", got, 50)[0] == ~total & 0xFFFF
    assert got[:50] + got[52:] == bytes(data[:50] + data[52:])


def test_a_packet_of_many_descriptors(nic: Nic) -> None:
    """3.3: nothing goes out before EOP."""
    data = frame(9014)
    nic.memory.write(TX_DATA, data)
    nic.descriptors([(TX_DATA, 4000 | IFCS << 24), (TX_DATA + 4000, 4000 | IFCS << 24)])
    nic.wait()
    assert not nic.cable.frames
    nic.descriptors([(TX_DATA + 8000, 1014 | (EOP | IFCS | RS) << 24)])
    nic.wait()
    assert nic.cable.frames == [data]


def test_vlan_tag_is_inserted(nic: Nic) -> None:
    """9.3: VLE with CTRL.VME."""
    nic.write(reg.VET, 0x8100)
    nic.send(frame(100), EOP | IFCS | VLE, 0x2005 << 48)
    nic.wait()
    nic.write(reg.CTRL, nic.read(reg.CTRL) | reg.CTRL_VME)
    nic.send(frame(100), EOP | IFCS | VLE, 0x2005 << 48)
    nic.wait()
    tagged = frame(100)[:12] + bytes.fromhex("81002005") + frame(100)[12:]
    assert nic.cable.frames == [frame(100), tagged]


def test_transmit_delay(nic: Nic) -> None:
    """3.4.3.1, 13.4.44, 13.4.46: IDE waits TIDV after the last packet, TADV after the first at most; FPD ends it."""
    nic.write(reg.TIDV, 100)
    nic.write(reg.TADV, 250)
    nic.write(reg.IMS, reg.TXDW)
    nic.send(frame(60), EOP | IFCS | RS | IDE)
    nic.wait(90 * MICROSECOND)
    assert nic.sent_status(0) == 1
    assert not nic.line
    for _ in range(2):
        nic.send(frame(60), EOP | IFCS | RS | IDE)
        nic.wait(80 * MICROSECOND)
        assert not nic.line
    nic.wait(10 * MICROSECOND)  # 260 us: more than TADV after the first
    assert nic.line
    nic.read(reg.ICR)
    nic.send(frame(60), EOP | IFCS | RS | IDE)
    nic.wait(10 * MICROSECOND)
    assert not nic.line
    nic.write(reg.TIDV, 1 << 31 | 100)
    assert nic.line


def test_threshold(nic: Nic) -> None:
    """13.4.49: TXD_LOW when LWTHRESH times 8 descriptors are left."""
    nic.write(reg.TXDCTL, 1 << 25)
    nic.memory.write(TX_DATA, frame(60))
    nic.descriptors([(TX_DATA, 60 | (EOP | IFCS) << 24)] * 8)
    assert not nic.read(reg.ICR) & reg.TXD_LOW
    nic.wait()
    nic.descriptors([(TX_DATA, 60 | (EOP | IFCS) << 24)] * 9)
    assert nic.read(reg.ICR) & reg.TXD_LOW


def test_disabled(nic: Nic) -> None:
    """TCTL.EN, bus mastering: the ring waits."""
    nic.write(reg.TCTL, 0)
    nic.send(frame())
    nic.wait()
    assert not nic.cable.frames
    nic.set_config(4, 3)
    nic.write(reg.TCTL, reg.TCTL_EN)
    nic.wait()
    assert not nic.cable.frames
    nic.set_config(4, 7)
    nic.wait()
    assert nic.cable.frames == [frame()]


# -- receive


def test_receive(nic: Nic) -> None:
    """3.2.3: data with the FCS, length, DD and EOP, packet checksum; RXT0."""
    data = frame(300)
    nic.card.receive(data)
    assert nic.received() is None
    nic.wait(3 * MICROSECOND)
    got = nic.received()
    assert got is not None
    assert got[0] == data + zlib.crc32(data).to_bytes(4, "little")
    total = sum(struct.unpack(">150H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    assert got[1:] == (7, 0, struct.unpack("<H", struct.pack(">H", total))[0], 0)
    assert nic.read(reg.ICR) & reg.RXT0
    assert nic.read(reg.RDH) == 1


def test_crc_is_stripped_and_short_frames_padded(nic: Nic) -> None:
    """13.4.22: SECRC."""
    nic.write(reg.RCTL, reg.RCTL_EN | reg.RCTL_SECRC)
    nic.card.receive(frame(30))
    nic.wait()
    got = nic.received()
    assert got is not None
    assert got[0] == frame(30).ljust(60, b"\0")


@pytest.mark.parametrize(
    ("size", "bits"),
    [(2048, 0), (1024, 1 << 16), (512, 2 << 16), (256, 3 << 16), (4096, 3 << 16 | 1 << 25), (8192, 2 << 16 | 1 << 25),
     (16384, 1 << 16 | 1 << 25)],
)  # fmt: skip
def test_jumbo_frames_in_buffers_of_each_size(size: int, bits: int) -> None:
    """3.2.2: a packet fills as many buffers as it takes; the last has EOP and the status."""
    nic = Nic(rx_count=64)
    nic.rx_size = size
    nic.start(reg.RCTL_EN | reg.RCTL_LPE | bits)
    data = frame(9014)
    nic.card.receive(data)
    nic.wait()
    count = -(-9018 // size)
    lengths = [struct.unpack_from("<H", nic.memory.read(RX_RING + 16 * n + 8, 2))[0] for n in range(count)]
    statuses = [nic.memory.read_u8(RX_RING + 16 * n + 12) for n in range(count + 1)]
    assert lengths == [size] * (count - 1) + [9018 - size * (count - 1)]
    assert statuses == [1] * (count - 1) + [7, 0]
    got = nic.received()
    assert got is not None
    assert got[0][:9014] == data


def test_long_packets_need_lpe(nic: Nic) -> None:
    nic.card.receive(frame(1514))
    nic.card.receive(frame(1515))
    nic.wait()
    assert nic.received() is not None
    assert nic.received() is None
    assert nic.read(0x40AC) == 1


def test_null_descriptors(nic: Nic) -> None:
    """3.2.6: a null address takes nothing and is done at once."""
    nic.memory.write(RX_RING, bytes(16))
    nic.card.receive(frame(100))
    nic.wait()
    assert nic.memory.read(RX_RING, 16) == bytes(12) + b"\1" + bytes(3)
    assert nic.memory.read(BUFFERS + 2048, 100) == frame(100)
    assert nic.read(reg.RDH) == 2


def test_without_descriptors_packets_wait(nic: Nic) -> None:
    """13.7: RNBC once, RXO and MPC when the packet buffer is full."""
    nic.write(reg.RDT, nic.read(reg.RDH))
    for number in range(60):
        nic.card.receive(frame(1000, seed=number))
        nic.wait(20 * MICROSECOND)
    assert not nic.card.ready
    assert nic.read(0x40A0) == 1
    assert nic.read(0x4010) == 60 - 49152 // 1000
    assert nic.read(reg.ICR) & reg.RXO
    nic.write(reg.RDT, 15)
    assert nic.received() is not None
    assert nic.card.ready


def test_receive_delay(nic: Nic) -> None:
    """3.2.7.1: RDTR after the last packet, RADV after the first at most."""
    nic.write(reg.RDTR, 100)
    nic.write(reg.RADV, 150)
    nic.write(reg.IMS, reg.RXT0)
    nic.card.receive(frame(60))
    nic.wait(90 * MICROSECOND)
    assert not nic.line
    nic.card.receive(frame(60))
    nic.wait(50 * MICROSECOND)
    assert not nic.line
    nic.wait(20 * MICROSECOND)
    assert nic.line


def test_few_descriptors(nic: Nic) -> None:
    """3.2.7.2: RXDMT0 at half of the ring."""
    for _ in range(6):
        nic.card.receive(frame(60))
    nic.wait()
    assert not nic.read(reg.ICR) & reg.RXDMT0
    nic.card.receive(frame(60))
    nic.wait()
    assert nic.read(reg.ICR) & reg.RXDMT0


def test_small_packets(nic: Nic) -> None:
    """13.4.32: SRPD."""
    nic.write(reg.RSRPD, 100)
    nic.card.receive(frame(97))
    nic.wait()
    assert not nic.read(reg.ICR) & reg.SRPD
    nic.card.receive(frame(96))
    nic.wait()
    assert nic.read(reg.ICR) & reg.SRPD
