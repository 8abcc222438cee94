"""A PC with an 82540EM, and a driver's way of touching it."""

from __future__ import annotations

import struct
from collections.abc import Sequence

from trapgate.boards.pc import Pc, PcConfig
from trapgate.boards.pci import NicConfig
from trapgate.devices.e1000 import phy
from trapgate.devices.e1000 import registers as reg
from trapgate.devices.e1000.card import E1000
from trapgate.firmware.pci_setup import set_up_pci
from trapgate.machine.clock import Clock
from trapgate.machine.console import MemoryConsole
from trapgate.machine.control import RunControl
from trapgate.machine.memory import PhysicalMemory

from .support import HZ, Pins, advance

MAC = bytes.fromhex("525400123456")
OTHER = bytes.fromhex("525400abcdef")
BROADCAST = b"\xff" * 6
PLACE = 3 << 3
MICROSECOND = HZ // 1_000_000
RX_RING, TX_RING, BUFFERS, TX_DATA = 0x10_0000, 0x11_0000, 0x12_0000, 0x18_0000
EOP, IFCS, RS, DEXT, VLE, IDE, TSE = 1, 2, 8, 0x20, 0x40, 0x80, 4


class Cable:
    """Keeps what the card sends, with the cycle."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.frames: list[bytes] = []
        self.cycles: list[int] = []

    def send(self, frame: bytes) -> None:
        self.frames.append(frame)
        self.cycles.append(self.clock.now)


def frame(length: int = 100, destination: bytes = MAC, kind: int = 0x88B5, seed: int = 0) -> bytes:
    """A frame of `length` bytes without the FCS."""
    body = bytes((seed + 7 * n) & 0xFF for n in range(length - 14))
    return destination + OTHER + struct.pack(">H", kind) + body


class Nic:
    """The card set up as firmware does; `start()` as a driver does."""

    def __init__(self, memory_mb: int = 4, rx_count: int = 16, tx_count: int = 16) -> None:
        self.clock = Clock(HZ)
        self.cable = Cable(self.clock)
        self.memory = PhysicalMemory(memory_mb << 20)
        board = PcConfig(nics=(NicConfig("e1000", MAC, self.cable),))
        self.pc = Pc(self.memory, self.clock, RunControl(), Pins(), MemoryConsole(), board)
        assert self.pc.pci is not None
        self.pci, self.bus = self.pc.pci, self.pc.bus
        card = self.pci.cards[0]
        assert isinstance(card, E1000)
        self.card = card
        self.interrupts = set_up_pci(self.bus)
        self.rx_count, self.tx_count = rx_count, tx_count
        self.rx_size = 2048
        self.base = self.config(0x10) & ~15
        self.ports = self.config(0x18) & ~3
        self.rx_next = self.tx_tail = 0

    # Access

    def config(self, offset: int) -> int:
        self.bus.write_port(0xCF8, 4, 1 << 31 | PLACE << 8 | offset)
        return self.bus.read_port(0xCFC, 4)

    def set_config(self, offset: int, value: int) -> None:
        self.bus.write_port(0xCF8, 4, 1 << 31 | PLACE << 8 | offset)
        self.bus.write_port(0xCFC, 4, value)

    def read(self, offset: int) -> int:
        return self.bus.read_memory(self.base + offset, 4)

    def write(self, offset: int, value: int) -> None:
        self.bus.write_memory(self.base + offset, 4, value)

    def wait(self, cycles: int = 1000 * MICROSECOND) -> None:
        advance(self.clock, cycles)

    @property
    def line(self) -> bool:
        """INTA# of slot 3, at the I/O APIC's input."""
        return any(self.pc.ioapic.levels >> irq & 1 for irq in (10, 11))

    @property
    def faults(self) -> dict[str, int]:
        return dict(self.card.faults)

    # A driver

    def start(self, receive: int = reg.RCTL_EN | reg.RCTL_BAM, transmit: int = reg.TCTL_EN | reg.TCTL_PSP) -> None:
        """Bus mastering, link, rings."""
        self.set_config(0x04, 0x0007)
        self.write(reg.CTRL, reg.CTRL_SLU | reg.CTRL_FD)
        self.wait(50_000 * MICROSECOND)
        assert self.read(reg.STATUS) & reg.STATUS_LU
        for number in range(self.rx_count):
            self.memory.write(RX_RING + 16 * number, struct.pack("<QQ", BUFFERS + self.rx_size * number, 0))
        self.ring(reg.RDBAL, RX_RING, self.rx_count)
        self.ring(reg.TDBAL, TX_RING, self.tx_count)
        self.write(reg.RCTL, receive)
        self.write(reg.TCTL, transmit)
        self.write(reg.RDT, self.rx_count - 1)
        self.read(reg.ICR)

    def ring(self, first: int, address: int, count: int) -> None:
        for place, value in ((0, address), (4, 0), (8, 16 * count), (0x10, 0), (0x18, 0)):
            self.write(first + place, value)

    def descriptors(self, descriptors: Sequence[tuple[int, int]]) -> None:
        """Put descriptors (two quad words each) behind the tail, and move it."""
        for low, high in descriptors:
            self.memory.write(TX_RING + 16 * self.tx_tail, struct.pack("<QQ", low, high))
            self.tx_tail = (self.tx_tail + 1) % self.tx_count
        self.write(reg.TDT, self.tx_tail)

    def send(self, data: bytes, command: int = EOP | IFCS | RS, extra: int = 0, at: int = TX_DATA) -> None:
        """A packet in one legacy descriptor."""
        self.memory.write(at, data)
        self.descriptors([(at, len(data) | command << 24 | extra)])

    def sent_status(self, number: int) -> int:
        return self.memory.read_u8(TX_RING + 16 * number + 12)

    def received(self) -> tuple[bytes, int, int, int, int] | None:
        """The next packet: data, status, errors, checksum, special; its descriptors are given back."""
        data = b""
        number = self.rx_next
        while True:
            buffer, length, checksum, status, errors, special = struct.unpack(
                "<QHHBBH", self.memory.read(RX_RING + 16 * number, 16)
            )
            if not status & 1:
                return None
            data += self.memory.read(buffer, length)
            self.memory.write_u8(RX_RING + 16 * number + 12, 0)
            number = (number + 1) % self.rx_count
            if status & 2:
                break
        self.rx_next = number
        self.write(reg.RDT, (number - 1) % self.rx_count)
        return data, status, errors, checksum, special


def mdic(nic: Nic, number: int, value: int | None = None, address: int = 1) -> int:
    operation = phy.READ if value is None else phy.WRITE
    nic.write(reg.MDIC, operation << 26 | address << 21 | number << 16 | (value or 0))
    return nic.read(reg.MDIC)
