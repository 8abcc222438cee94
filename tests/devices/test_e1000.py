"""The 82540EM by the sections of Intel's manual (SDM: see devices/e1000/registers.py)."""

from __future__ import annotations

import struct
import zlib

import pytest

from trapgate.devices.e1000 import eeprom, phy
from trapgate.devices.e1000 import registers as reg

from .nic_world import (
    BROADCAST,
    BUFFERS,
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
    VLE,
    Nic,
    frame,
)


@pytest.fixture
def nic() -> Nic:
    found = Nic()
    found.start()
    return found


def test_configuration_space() -> None:
    """4.1: identity, windows, INTA#."""
    nic = Nic()
    assert nic.config(0x00) == 0x100E_8086
    assert nic.config(0x08) == 0x0200_0002
    assert nic.config(0x2C) == 0x001E_8086
    assert nic.config(0x3C) >> 8 & 0xFF == 1
    for place, size in ((0x10, 0x20000), (0x18, 32)):
        before = nic.config(place)
        nic.set_config(place, 0xFFFF_FFFF)
        assert nic.config(place) & ~1 == -size & 0xFFFF_FFFF
        nic.set_config(place, before)


def test_registers_by_io(nic: Nic) -> None:
    """13.2.2: IOADDR and IODATA."""
    nic.bus.write_port(nic.ports, 4, reg.FCAL)
    nic.bus.write_port(nic.ports + 4, 4, 0x1234_5678)
    assert nic.read(reg.FCAL) == nic.bus.read_port(nic.ports + 4, 4) == 0x1234_5678
    assert nic.bus.read_port(nic.ports, 4) == reg.FCAL
    nic.bus.write_port(nic.ports + 4, 2, 0)
    assert nic.read(reg.FCAL) == 0x1234_5678
    assert nic.faults == {"I/O access that is not 32 bits wide": 1}


def test_widths(nic: Nic) -> None:
    """13.2: registers are 32 bits wide."""
    nic.bus.write_memory(nic.base + reg.FCAL, 8, 0x1111_2222_3333_4444)
    assert (nic.read(reg.FCAL), nic.read(reg.FCAH)) == (0x3333_4444, 0x2222)
    assert nic.bus.read_memory(nic.base + reg.FCAL, 8) == 0x2222_3333_4444
    assert nic.bus.read_memory(nic.base + reg.FCAL + 2, 2) == 0x3333
    nic.bus.write_memory(nic.base + reg.FCAL, 2, 0)
    nic.bus.write_memory(nic.base + reg.FCAL + 1, 4, 0)
    assert nic.read(reg.FCAL) == 0x3333_4444
    nic.write(0x1FFC, 1)
    assert nic.faults == {"register write that is not 32 bits wide": 2, "write to a register that is not there": 1}


def test_reset(nic: Nic) -> None:
    """14.3.1: CTRL.RST clears rings and causes, loads the address, keeps the link and the multicast table."""
    nic.write(reg.RA, 0)
    nic.write(reg.MTA + 8, 7)
    nic.write(reg.IMS, 0xFF)
    nic.write(reg.CTRL, reg.CTRL_RST)
    assert nic.read(reg.CTRL) & reg.CTRL_RST == 0
    assert nic.read(reg.RA).to_bytes(4, "little") + (nic.read(reg.RA + 4) & 0xFFFF).to_bytes(2, "little") == MAC
    assert (nic.read(reg.RCTL), nic.read(reg.TDLEN), nic.read(reg.IMS)) == (0, 0, 0)
    assert nic.read(reg.MTA + 8) == 7
    assert nic.card.phy.link


# -- EEPROM


def microwire(nic: Nic, address: int) -> int:
    """5.4: a word, bit by bit."""

    def clock(bit: int) -> int:
        nic.write(reg.EECD, eeprom.REQUEST | eeprom.CS | bit * eeprom.DI)
        nic.write(reg.EECD, eeprom.REQUEST | eeprom.CS | bit * eeprom.DI | eeprom.SK)
        return int(bool(nic.read(reg.EECD) & eeprom.DO))

    nic.write(reg.EECD, eeprom.REQUEST)
    assert nic.read(reg.EECD) & eeprom.GRANT
    for position in range(8, -1, -1):
        clock((0b110 << 6 | address) >> position & 1)
    nic.write(reg.EECD, eeprom.REQUEST | eeprom.CS)
    assert not nic.read(reg.EECD) & eeprom.DO  # the dummy bit
    value = 0
    for _ in range(16):
        value = value << 1 | clock(0)
    nic.write(reg.EECD, 0)
    return value


def eerd(nic: Nic, address: int) -> int:
    nic.write(reg.EERD, address << 8 | 1)
    value = nic.read(reg.EERD)
    assert value & 0x10
    return value >> 16


def test_eeprom(nic: Nic) -> None:
    """5.3 and 5.6: the address, and a sum of BABAh over 64 words; both ways to read."""
    words = [eerd(nic, n) for n in range(64)]
    assert struct.pack("<3H", *words[:3]) == MAC
    assert sum(words) & 0xFFFF == 0xBABA
    assert [microwire(nic, n) for n in (0, 1, 2, 0x0D, 63)] == [words[n] for n in (0, 1, 2, 0x0D, 63)]


def test_eeprom_write(nic: Nic) -> None:
    """A word is written once writing was enabled; EE_RST loads the address from it."""

    def send(bits: int, count: int) -> None:
        nic.write(reg.EECD, eeprom.REQUEST)
        for position in range(count - 1, -1, -1):
            pins = eeprom.REQUEST | eeprom.CS | (bits >> position & 1) * eeprom.DI
            nic.write(reg.EECD, pins)
            nic.write(reg.EECD, pins | eeprom.SK)
        nic.write(reg.EECD, eeprom.REQUEST)

    write = 0b101 << 22 | 0 << 16 | 0x0252
    send(write, 25)
    assert eerd(nic, 0) == 0x5452
    send(0b100_110000, 9)
    send(write, 25)
    assert eerd(nic, 0) == 0x0252
    send(0b100_000000, 9)
    send(0b101 << 22 | 0x1111, 25)
    assert eerd(nic, 0) == 0x0252
    nic.write(reg.CTRL_EXT, reg.CTRL_EXT_EE_RST)
    assert nic.read(reg.RA) & 0xFFFF == 0x0252


# -- PHY


def mdic(nic: Nic, number: int, value: int | None = None, address: int = 1) -> int:
    operation = phy.READ if value is None else phy.WRITE
    nic.write(reg.MDIC, operation << 26 | address << 21 | number << 16 | (value or 0))
    return nic.read(reg.MDIC)


def test_phy(nic: Nic) -> None:
    """13.4.7: identity, link, a partner of 1000 Mb/s; another address has no PHY."""
    assert mdic(nic, 2) & 0xFFFF == 0x0141
    assert mdic(nic, 3) & 0xFFFF == 0x0C20
    mdic(nic, 1)
    assert mdic(nic, 1) & 0xFFFF == 0x796D
    assert mdic(nic, 17) & 0xFFFF == 0xAC00
    assert mdic(nic, 1, address=2) & phy.ERROR
    assert not mdic(nic, 1) & phy.ERROR
    nic.write(reg.MDIC, phy.READ << 26 | 1 << 21 | phy.INTERRUPT)
    assert nic.read(reg.ICR) & reg.MDAC


def test_negotiation(nic: Nic) -> None:
    """The link goes, comes again after its time with an interrupt, and its loss shows once in the status."""
    mdic(nic, 0, phy.NEGOTIATE | phy.RESTART)
    assert not nic.read(reg.STATUS) & reg.STATUS_LU
    assert nic.read(reg.ICR) & reg.LSC
    nic.send(frame())
    nic.wait(19_000 * MICROSECOND)
    assert not nic.cable.frames
    nic.wait(2_000 * MICROSECOND)
    assert len(nic.cable.frames) == 1
    assert nic.read(reg.ICR) & reg.LSC
    assert not mdic(nic, 1) & 4
    assert mdic(nic, 1) & 4


@pytest.mark.parametrize(("gigabit", "offer", "speed"), [(0, 0x01E1, 1), (0, 0x0061, 0), (0x200, 0x0061, 2)])
def test_speeds(nic: Nic, gigabit: int, offer: int, speed: int) -> None:
    """28.2.1 of IEEE 802.3: the best that both have; frames take their time by it."""
    mdic(nic, 9, gigabit)
    mdic(nic, 4, offer)
    mdic(nic, 0, phy.NEGOTIATE | phy.RESTART)
    nic.wait(30_000 * MICROSECOND)
    assert nic.read(reg.STATUS) >> 6 & 3 == speed
    start = nic.clock.now
    nic.send(frame(1514))
    nic.wait(2000 * MICROSECOND)
    assert nic.cable.cycles[0] - start == (1514 + 24) * 8 * MICROSECOND // 10 ** (speed + 1)


def test_no_common_speed(nic: Nic) -> None:
    mdic(nic, 9, 0)
    mdic(nic, 4, 0x0001)
    mdic(nic, 0, phy.NEGOTIATE | phy.RESTART)
    nic.wait(30_000 * MICROSECOND)
    assert not nic.card.phy.link


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
