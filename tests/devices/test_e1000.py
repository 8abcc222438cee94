"""The 82540EM by the sections of Intel's manual (SDM: see devices/e1000/registers.py)."""

from __future__ import annotations

import struct

import pytest

from trapgate.devices.e1000 import eeprom, phy
from trapgate.devices.e1000 import registers as reg

from .nic_world import (
    MAC,
    MICROSECOND,
    Nic,
    frame,
    mdic,
)


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
