"""The 82540EM as a PCI function: its registers, and what they lead to.

Registers are 32 bits wide; narrower writes are ignored and counted, as are writes to registers that are not there.
Not there: wake-up, power management, management traffic, PAUSE frames, the TBI interface, the packet buffer as memory.

Source: SDM 4.1 (configuration), 13.2 (the two ways to the registers), 13.4, 14.3 (reset).
"""

from __future__ import annotations

from collections import Counter
from typing import ClassVar

from trapgate.devices.e1000 import phy as phy_registers
from trapgate.devices.e1000 import registers as reg
from trapgate.devices.e1000.eeprom import Eeprom
from trapgate.devices.e1000.interrupts import Interrupts
from trapgate.devices.e1000.phy import SPEEDS, Phy
from trapgate.devices.e1000.receive import Receiver
from trapgate.devices.e1000.statistics import Statistics
from trapgate.devices.e1000.transmit import Transmitter
from trapgate.devices.pci.function import PciFunction
from trapgate.devices.pci.host_bridge import VENDOR_INTEL
from trapgate.machine.clock import Clock
from trapgate.machine.device import Snapshot
from trapgate.machine.network import Link
from trapgate.machine.ram import Ram

DEVICE_82540EM = 0x100E
SUBSYSTEM = (0x8086, 0x001E)
ETHERNET = 0x020000
REVISION = 2
INTERRUPT_A = 1
MEMORY_BAR, MEMORY_SIZE = 0, 0x20000
IO_BAR, IO_SIZE = 2, 32
# The I/O window (13.2.2.1).
IO_ADDRESS, IO_DATA = 0, 4
#: Preamble, FCS and gap between two frames, in bytes (IEEE 802.3, 4.4.2).
FRAMING = 8 + 4 + 12
CTRL_RESET = reg.CTRL_FD | 2 << 8
CTRL_KEPT = 0xFFFF_FFFF & ~(reg.CTRL_RST | reg.CTRL_PHY_RST)
STATISTICS = range(reg.FIRST_STATISTIC, reg.LAST_STATISTIC + 4)
#: Registers that are for reading, and those that clear, set or begin something: a write needs more than to keep it.
WRITE_ONLY = (reg.ICS, reg.IMC)


class _IoWindow:
    """IOADDR and IODATA."""

    port_width = 4

    def __init__(self, card: E1000) -> None:
        self.name = f"{card.name}-io"
        self._card = card

    def reset(self) -> None:
        """The card resets it."""

    def read_port(self, offset: int, width: int) -> int:
        """The address, or the register that it names."""
        if width < 4 or offset % 4:
            self._card.faults["I/O access that is not 32 bits wide"] += 1
            return (1 << 8 * width) - 1
        if offset == IO_ADDRESS:
            return self._card.io_address
        return self._card.read_register(self._card.io_address) if offset == IO_DATA else 0

    def write_port(self, offset: int, width: int, value: int) -> None:
        """The address, or the register that it names."""
        if width < 4 or offset % 4:
            self._card.faults["I/O access that is not 32 bits wide"] += 1
        elif offset == IO_ADDRESS:
            self._card.io_address = value & 0xF_FFFC
        elif offset == IO_DATA:
            self._card.write_register(self._card.io_address, value)


class E1000(PciFunction):
    """A card with station address `mac` on `link`. Frames from the network come by `receive`."""

    #: What it keeps itself, besides its parts.
    OWN: ClassVar[tuple[str, ...]] = ("registers", "io_address")

    def __init__(self, name: str, memory: Ram, clock: Clock, mac: bytes, link: Link) -> None:
        super().__init__(name, VENDOR_INTEL, DEVICE_82540EM, ETHERNET, REVISION, SUBSYSTEM, INTERRUPT_A)
        self._clock, self._link = clock, link
        #: The station address that it was made with; a guest may write another one into the EEPROM.
        self.mac = mac
        #: What went through it (metric).
        self.counts: Counter[str] = Counter()
        self.registers: dict[int, int] = dict.fromkeys((reg.CTRL, *reg.PLAIN), 0)
        self.io_address = 0
        self.statistics = Statistics()
        self.eeprom = Eeprom(mac)
        self.interrupts = Interrupts(clock, self._interval, self.set_interrupt)
        self.phy = Phy(clock, self._link_changed)
        add = self.interrupts.add
        self.receiver = Receiver(
            memory, clock, self.registers, self.statistics, self.faults, self._may_store, self._wire_cycles, add
        )
        self.transmitter = Transmitter(
            memory, clock, self.registers, self.faults, self._may_send, self._wire_cycles, self._send, add
        )
        self.add_memory_bar(MEMORY_BAR, MEMORY_SIZE, self)
        self.add_io_bar(IO_BAR, IO_SIZE, _IoWindow(self))
        self._reset_registers()

    # The network

    @property
    def ready(self) -> bool:
        """Whether a frame would be taken now."""
        return self.phy.link and self.receiver.is_enabled and self.receiver.has_room

    def receive(self, data: bytes) -> None:
        """A frame from the network."""
        if not self.phy.link or self._is_looped:
            self.counts["frames_lost"] += 1
            return
        self.counts["frames_received"] += 1
        self.counts["bytes_received"] += len(data)
        self.receiver.take(data)

    @property
    def _is_looped(self) -> bool:
        return bool(self.registers[reg.RCTL] & reg.RCTL_LBM) or self.phy.is_looped

    def _send(self, frame: bytes) -> None:
        self.statistics.sent(frame)
        self.counts["frames_sent"] += 1
        self.counts["bytes_sent"] += len(frame)
        if self._is_looped:
            self.receiver.take(frame, from_wire=False)
        else:
            self._link.send(frame)

    def _wire_cycles(self, length: int) -> int:
        return (length + FRAMING) * 8 * self._clock.hz // (SPEEDS[self.phy.speed] * 1_000_000)

    def _may_store(self) -> bool:
        return self.is_bus_master

    def _may_send(self) -> bool:
        return self.is_bus_master and (self.phy.link or self._is_looped)

    def _link_changed(self) -> None:
        self.interrupts.add(reg.LSC)
        if self.phy.link:
            self.transmitter.run()
        else:
            self.receiver.unplug()

    def _interval(self) -> int:
        return self.registers[reg.ITR] * reg.INTERVAL_NANOSECONDS * self._clock.hz // 1_000_000_000

    # Reset

    def reset(self) -> None:
        """Power on."""
        self.eeprom.reset()
        self._reset_registers()
        self.phy.reset()
        self.interrupts.reset()
        super().reset()

    def _reset_registers(self) -> None:
        """CTRL.RST: all but the PHY, the EEPROM and the tables of filters (14.3.1)."""
        for offset in self.registers:
            if not any(offset in table for table in reg.KEPT_TABLES):
                self.registers[offset] = reg.RESET_VALUES.get(offset, 0)
        self.registers[reg.CTRL] = CTRL_RESET
        self.io_address = 0
        self.receiver.reset()
        self.transmitter.reset()
        self.statistics.reset()
        self.interrupts.reset()
        self._load_address()

    def _load_address(self) -> None:
        """The first receive address is the EEPROM's (5.6.1)."""
        mac = self.eeprom.mac
        self.registers[reg.RA] = int.from_bytes(mac[:4], "little")
        self.registers[reg.RA + 4] = int.from_bytes(mac[4:], "little") | reg.RAH_VALID
        self.receiver.filters.forget()

    # Access

    def read_memory(self, offset: int, width: int) -> int:
        """A register, or a part of one; two for 64 bits."""
        if width > 4 or offset % 4 + width > 4:
            data = b"".join(
                self.read_register(place).to_bytes(4, "little") for place in range(offset & ~3, offset + width, 4)
            )
            return int.from_bytes(data[offset % 4 : offset % 4 + width], "little")
        return self.read_register(offset & ~3) >> 8 * (offset % 4) & (1 << 8 * width) - 1

    def write_memory(self, offset: int, width: int, value: int) -> None:
        """A register; two for 64 bits."""
        if offset % 4 or width % 4:
            self.faults["register write that is not 32 bits wide"] += 1
            return
        for place in range(offset, offset + width, 4):
            self.write_register(place, value & 0xFFFF_FFFF)
            value >>= 32

    def read_register(self, offset: int) -> int:
        """The register at `offset`; 0 where there is none, or one that is for writing."""
        if offset in self.registers:
            return self.registers[offset]
        if offset in STATISTICS:
            return self.statistics.read(offset)
        match offset:
            case reg.STATUS:
                up = self.phy.link and self.registers[reg.CTRL] & reg.CTRL_SLU
                speed = self.phy.speed << 6 | self.phy.speed << 8
                return reg.STATUS_FD | speed | (reg.STATUS_LU if up else 0)
            case reg.EECD:
                return self.eeprom.read_control()
            case reg.EERD:
                return self.eeprom.read_word()
            case reg.MDIC:
                return self.phy.mdic
            case reg.ICR:
                return self.interrupts.read_and_clear()
            case reg.IMS:
                return self.interrupts.mask
        return 0

    def write_register(self, offset: int, value: int) -> None:
        """Write the register at `offset`."""
        match offset:
            case reg.CTRL:
                self._write_control(value)
            case reg.EECD:
                self.eeprom.write_control(value)
            case reg.EERD:
                self.eeprom.write_word(value)
            case reg.MDIC:
                if self.phy.write_mdic(value) & phy_registers.INTERRUPT:
                    self.interrupts.add(reg.MDAC)
                self.transmitter.run()
            case reg.ICR:
                self.interrupts.clear(value)
            case reg.ICS:
                self.interrupts.add(value)
            case reg.IMS:
                self.interrupts.enable(value)
            case reg.IMC:
                self.interrupts.disable(value)
            case _ if offset in self.registers:
                self.registers[offset] = value & reg.PLAIN[offset]
                self._written(offset, value)
            case _ if offset in STATISTICS or offset == reg.STATUS or reg.PBM <= offset < reg.PBM_END:
                pass
            case _:
                self.faults["write to a register that is not there"] += 1

    def _written(self, offset: int, value: int) -> None:
        """A register that is kept, and at which something begins."""
        if offset == reg.TDT:
            self.transmitter.kick()
        elif offset == reg.RDT:
            self.receiver.kick()
        elif offset == reg.TCTL:
            self.transmitter.run()
        elif offset == reg.RCTL:
            self.receiver.run()
            self.transmitter.run()
        elif reg.RA <= offset < reg.RA + 4 * reg.RA_WORDS:
            self.receiver.filters.forget()
        elif offset == reg.CTRL_EXT and value & reg.CTRL_EXT_EE_RST:
            self._load_address()
        elif offset == reg.RDTR and value & reg.FLUSH_NOW:
            self.receiver.delay.stop()
            self.interrupts.add(reg.RXT0)
        elif offset == reg.TIDV and value & reg.FLUSH_NOW:
            self.transmitter.delay.stop()
            self.interrupts.add(reg.TXDW)

    def _write_control(self, value: int) -> None:
        if value & reg.CTRL_RST:
            self._reset_registers()
            return
        if value & reg.CTRL_PHY_RST:
            self.phy.reset()
        self.registers[reg.CTRL] = value & CTRL_KEPT

    def write_config(self, offset: int, width: int, value: int) -> None:
        """Bus mastering may have been allowed."""
        super().write_config(offset, width, value)
        self.transmitter.run()
        self.receiver.run()

    # Snapshot

    def snapshot(self) -> Snapshot:
        """The registers and every part."""
        own = {"registers": dict(self.registers), "io_address": self.io_address}
        parts = {
            part.name: part.snapshot()
            for part in (self.eeprom, self.phy, self.interrupts, self.statistics, self.receiver, self.transmitter)
        }
        return {**super().snapshot(), **own, **parts}

    def restore(self, snapshot: Snapshot) -> None:
        """Put all of it back."""
        super().restore(snapshot)
        self.registers.update(snapshot["registers"])
        self.io_address = snapshot["io_address"]
        for part in (self.eeprom, self.phy, self.interrupts, self.statistics, self.receiver, self.transmitter):
            part.restore(snapshot[part.name])
