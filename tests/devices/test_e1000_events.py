"""Intel's 82540EM: interrupts, filters, statistics, what is wrong, snapshots, by the sections of the manual."""

from __future__ import annotations

import struct

import pytest

from trapgate.devices.e1000 import phy
from trapgate.devices.e1000 import registers as reg

from .nic_world import (
    BROADCAST,
    DEXT,
    EOP,
    IDE,
    IFCS,
    MAC,
    MICROSECOND,
    OTHER,
    RS,
    RX_RING,
    TX_DATA,
    TX_RING,
    Nic,
    frame,
    mdic,
)

# -- interrupts


def test_causes_and_mask(nic: Nic) -> None:
    """13.4.17 to 13.4.21: ICS sets, reading ICR clears, IMS and IMC set and clear the mask."""
    nic.write(reg.ICS, reg.LSC)
    assert not nic.line
    nic.write(reg.IMS, reg.LSC | reg.RXO)
    assert nic.line
    assert nic.read(reg.IMS) == reg.LSC | reg.RXO
    nic.write(reg.IMC, reg.LSC)
    assert not nic.line
    nic.write(reg.IMS, reg.LSC)
    assert nic.line
    assert nic.read(reg.ICR) == reg.LSC
    assert not nic.line
    nic.write(reg.ICS, reg.LSC | reg.RXT0)
    nic.write(reg.ICR, reg.LSC)
    assert nic.read(reg.ICR) == reg.RXT0


def test_throttling(nic: Nic) -> None:
    """13.4.18: at least ITR x 256 ns between two interrupts."""
    nic.write(reg.ITR, 1000)
    nic.write(reg.IMS, reg.LSC)
    nic.write(reg.ICS, reg.LSC)
    assert nic.line
    nic.read(reg.ICR)
    nic.write(reg.ICS, reg.LSC)
    nic.wait(255 * MICROSECOND)
    assert not nic.line
    nic.wait(1 * MICROSECOND)
    assert nic.line


# -- filters


def test_filters(nic: Nic) -> None:
    """13.5: exact addresses, broadcast, the multicast hash of each kind, promiscuous modes."""
    group = bytes.fromhex("01005e7f0102")

    def passes(data: bytes) -> bool:
        nic.card.receive(data)
        nic.wait()
        return nic.received() is not None

    assert passes(frame(destination=MAC))
    assert not passes(frame(destination=OTHER))
    assert passes(frame(destination=BROADCAST))
    nic.write(reg.RCTL, reg.RCTL_EN)
    assert not passes(frame(destination=BROADCAST))
    assert not passes(frame(destination=group))
    nic.write(reg.RCTL, reg.RCTL_EN | reg.RCTL_UPE)
    assert passes(frame(destination=OTHER))
    assert not passes(frame(destination=group))
    nic.write(reg.RCTL, reg.RCTL_EN | reg.RCTL_MPE)
    assert passes(frame(destination=group))
    nic.write(reg.RA + 8, int.from_bytes(OTHER[:4], "little"))
    nic.write(reg.RA + 12, int.from_bytes(OTHER[4:], "little") | 1 << 31)
    assert passes(frame(destination=OTHER))
    for kind, shift in enumerate((4, 3, 2, 0)):
        value = 0x0201 >> shift
        nic.write(reg.RCTL, reg.RCTL_EN | kind << 12)
        nic.write(reg.MTA + 4 * (value >> 5), 1 << (value & 31))
        nic.card.receive(frame(destination=group))
        nic.wait()
        got = nic.received()
        assert got is not None
        assert got[1] & 0x80  # PIF
        nic.write(reg.MTA + 4 * (value >> 5), 0)
        assert not passes(frame(destination=group))


def test_vlan_filter_and_stripping(nic: Nic) -> None:
    """9.2 and 9.3."""
    nic.write(reg.VET, 0x8100)
    tagged = frame(100)[:12] + bytes.fromhex("81002005") + frame(100)[12:]
    nic.card.receive(tagged)
    nic.wait()
    got = nic.received()
    assert got is not None
    assert (got[0][:104], got[1] & 8, got[4]) == (tagged, 0, 0)
    nic.write(reg.CTRL, nic.read(reg.CTRL) | reg.CTRL_VME)
    nic.write(reg.RCTL, reg.RCTL_EN | reg.RCTL_VFE)
    nic.card.receive(tagged)
    nic.wait()
    assert nic.received() is None
    nic.write(reg.VFTA, 1 << 5)
    nic.card.receive(tagged)
    nic.wait()
    got = nic.received()
    assert got is not None
    assert (got[0][:100], got[1] & 8, got[4]) == (frame(100), 8, 0x2005)
    nic.write(reg.RCTL, reg.RCTL_EN | reg.RCTL_VFE | reg.RCTL_CFIEN | reg.RCTL_CFI)
    nic.card.receive(tagged)
    nic.wait()
    assert nic.received() is None


def test_loopback(nic: Nic) -> None:
    """13.4.22 (LBM), and the PHY's: what is sent is received, and the network sees nothing."""
    nic.write(reg.RCTL, reg.RCTL_EN | reg.RCTL_LBM)
    nic.send(frame(100))
    nic.wait()
    got = nic.received()
    assert got is not None
    assert got[0][:100] == frame(100)
    assert not nic.cable.frames
    nic.write(reg.RCTL, reg.RCTL_EN)
    mdic(nic, 0, phy.LOOPBACK | phy.NEGOTIATE | phy.DUPLEX | phy.SPEED_HIGH)
    nic.send(frame(100))
    nic.wait()
    assert nic.received() is not None
    assert not nic.cable.frames


def test_statistics(nic: Nic) -> None:
    """13.7: counters by size and kind, cleared by reading; 64-bit ones by their high half."""
    for length in (60, 61, 123, 124, 1514):
        nic.send(frame(length))
        nic.wait()
    nic.card.receive(frame(252, BROADCAST))
    nic.wait()
    assert nic.read(0x4080) == 5
    assert [nic.read(0x40D8 + 4 * n) for n in range(6)] == [1, 2, 1, 0, 0, 1]
    assert nic.read(0x4080) == 0
    assert nic.read(0x4090) == 60 + 61 + 123 + 124 + 1514 + 20
    assert nic.read(0x4094) == 0
    assert nic.read(0x4090) == 0
    assert (nic.read(0x4074), nic.read(0x4078), nic.read(0x4064), nic.read(0x40D0)) == (1, 1, 0, 1)
    assert nic.read(0x4068) == 1


# -- what is wrong


@pytest.mark.parametrize(
    ("wrong", "fault"),
    [
        ("head", "transmit head or tail outside the ring"),
        ("ring", "transmit ring outside memory"),
        ("buffer", "transmit buffer outside memory"),
        ("long", "packet that cannot be sent"),
        ("type", "transmit descriptor of type 5"),
        ("short", "frame of a bad length"),
        ("too long", "frame of a bad length"),
    ],
)
def test_wrong_transmit_rings(nic: Nic, wrong: str, fault: str) -> None:
    match wrong:
        case "head":
            nic.write(reg.TDH, 100)
            nic.send(frame())
        case "ring":
            nic.write(reg.TDBAL, 0x40_0000)
            nic.send(frame())
        case "buffer":
            nic.descriptors([(0x3F_FFF0, 100 | EOP << 24)])
        case "long":
            nic.descriptors([(TX_DATA, 0x4000 | EOP << 24)])
        case "type":
            nic.descriptors([(0, 5 << 20 | DEXT << 24)])
        case "short":
            nic.write(reg.TCTL, reg.TCTL_EN)
            nic.send(b"123456")
        case _:
            nic.send(frame(9019))
    nic.wait()
    assert not nic.cable.frames
    assert fault in nic.faults
    # A driver that starts again finds a card that works.
    nic.write(reg.CTRL, reg.CTRL_RST)
    nic.tx_tail = 0
    nic.start()
    nic.send(frame(100))
    nic.wait()
    assert nic.cable.frames == [frame(100)]


def test_wrong_receive_rings(nic: Nic) -> None:
    nic.memory.write_u64(RX_RING, 0x3F_FFFF)
    nic.card.receive(frame(100))
    nic.wait()
    assert nic.memory.read_u8(RX_RING + 13) == 0x80
    assert nic.faults == {"receive buffer outside memory": 1}
    nic.write(reg.RDBAL, 0x40_0000)
    nic.card.receive(frame(100))
    nic.wait()
    assert nic.faults["receive ring outside memory"] == 1
    nic.write(reg.RDBAL, RX_RING)
    nic.write(reg.RDH, 500)
    nic.write(reg.RDT, 3)
    assert nic.faults["receive head or tail outside the ring"] == 1


def test_a_packet_longer_than_the_ring_is_dropped() -> None:
    nic = Nic(rx_count=8)
    nic.rx_size = 256
    nic.start(reg.RCTL_EN | reg.RCTL_LPE | 3 << 16)
    nic.card.receive(frame(3000))
    nic.card.receive(frame(100))
    nic.wait()
    assert nic.faults == {"packet longer than the whole ring": 1}
    got = nic.received()
    assert got is not None
    assert got[0][:100] == frame(100)


def test_rings_that_overlap(nic: Nic) -> None:
    """Both rings and the buffers in one place: nothing but memory suffers."""
    nic.write(reg.RDBAL, TX_RING)
    for number in range(16):
        nic.memory.write(TX_RING + 16 * number, struct.pack("<QQ", TX_RING, 100 | (EOP | IFCS | RS) << 24))
    nic.card.receive(frame(200))
    nic.write(reg.TDT, 15)
    nic.wait()
    nic.card.receive(frame(200))
    nic.wait()


# -- snapshot


def test_a_snapshot_in_the_middle_goes_on_the_same() -> None:
    """Frames on the wire in both directions, delays, negotiation."""

    def begin() -> Nic:
        nic = Nic()
        nic.start()
        nic.write(reg.IMS, 0xFF)
        nic.write(reg.ITR, 500)
        nic.write(reg.RDTR, 30)
        nic.write(reg.TIDV, 40)
        nic.memory.write(TX_DATA, frame(1500))
        nic.descriptors([(TX_DATA, 1500 | (EOP | IFCS | RS | IDE) << 24)] * 4)
        for seed in range(4):
            nic.card.receive(frame(1000, seed=seed))
        nic.wait(15 * MICROSECOND)
        return nic

    original, copy = begin(), Nic()
    copy.clock.now = original.clock.now
    copy.memory.view[:] = original.memory.view
    snapshot = original.pc.snapshot()
    copy.pc.restore(snapshot)
    assert copy.pc.snapshot() == snapshot
    sent = len(original.cable.frames)
    for _ in range(20):
        for nic in (original, copy):
            nic.wait(7 * MICROSECOND)
        assert original.line == copy.line
        assert original.read(reg.TDH) == copy.read(reg.TDH)
        assert original.pc.snapshot() == copy.pc.snapshot()
    assert original.cable.frames[sent:] == copy.cable.frames
    assert bytes(original.memory.view) == bytes(copy.memory.view)
