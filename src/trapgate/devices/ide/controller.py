"""The PIIX3's IDE function: two channels in compatibility mode, and bus-master DMA.

The channels are at the PC's ports: 1F0h-1F7h and 3F6h with IRQ 14, 170h-177h and 376h with IRQ 15. Each is decoded
while its timing register enables it.

Source: Intel 82371SB (PIIX3) data sheet (order 290550-002), 2.3 and 2.5.
"""

from __future__ import annotations

from collections.abc import Callable

from trapgate.devices.ide.bus_master import PORTS as DMA_PORTS
from trapgate.devices.ide.bus_master import BusMaster
from trapgate.devices.ide.channel import Channel
from trapgate.devices.ide.drive import AtaDrive
from trapgate.devices.pci import config_space as config
from trapgate.devices.pci.function import PciFunction, Window
from trapgate.devices.pci.host_bridge import QEMU_SUBSYSTEM, VENDOR_INTEL
from trapgate.machine.device import IrqLine, PortDevice, Snapshot
from trapgate.machine.ram import Ram

DEVICE_PIIX3_IDE = 0x7010
#: IDE controller, bus master, both channels in compatibility mode for good.
IDE_BUS_MASTER = 0x010180
TIMING = 0x40
DECODE_ENABLE = 0x8000
DMA_BAR = 4

COMMAND_BLOCKS = (0x1F0, 0x170)
CONTROL_BLOCKS = (0x3F6, 0x376)
IRQS = (14, 15)


class _Ports:
    """What the parts of the controller have in common for the bus."""

    name = "ide"
    port_width = 1

    def __init__(self, channel: Channel) -> None:
        self.channel = channel

    def reset(self) -> None:
        """The controller resets its channels."""


class _DataPort(_Ports):
    """The data register: 16 bits, or two words as one access of 32 bits."""

    port_width = 4

    def read_port(self, offset: int, width: int) -> int:
        """Data."""
        return self.channel.read_data(width)

    def write_port(self, offset: int, width: int, value: int) -> None:
        """Data."""
        self.channel.write_data(width, value)

    def read_run(self, offset: int, width: int, count: int) -> bytes:
        """Data before the last of a block."""
        drive = self.channel.drives[self.channel.selected]
        return b"" if drive is None else drive.read_run(width, count)

    def write_run(self, offset: int, width: int, data: bytes) -> int:
        """Data before the last of a block."""
        drive = self.channel.drives[self.channel.selected]
        return 0 if drive is None else drive.write_run(width, data)


class _CommandBlock(_Ports):
    def read_port(self, offset: int, width: int) -> int:
        """Registers 1 to 7."""
        return self.channel.read(offset)

    def write_port(self, offset: int, width: int, value: int) -> None:
        """Registers 1 to 7."""
        self.channel.write(offset, value)


class _ControlBlock(_Ports):
    def read_port(self, offset: int, width: int) -> int:
        """Alternate status."""
        return self.channel.alternate_status()

    def write_port(self, offset: int, width: int, value: int) -> None:
        """Device control."""
        self.channel.write_control(value)


class _DmaPorts:
    name = "ide-dma"
    port_width = 4

    def __init__(self, engines: tuple[BusMaster, BusMaster]) -> None:
        self._engines = engines

    def reset(self) -> None:
        """The channels reset them."""

    def read_port(self, offset: int, width: int) -> int:
        """Eight ports for each channel."""
        return self._engines[offset // DMA_PORTS].read(offset % DMA_PORTS, width)

    def write_port(self, offset: int, width: int, value: int) -> None:
        """Eight ports for each channel."""
        self._engines[offset // DMA_PORTS].write(offset % DMA_PORTS, width, value)


class IdeController(PciFunction):
    """`drives` are primary master and slave, secondary master and slave. `irq_line(n)` is ISA interrupt request n."""

    def __init__(self, memory: Ram, drives: tuple[AtaDrive | None, ...], irq_line: Callable[[int], IrqLine]) -> None:
        super().__init__("ide", VENDOR_INTEL, DEVICE_PIIX3_IDE, IDE_BUS_MASTER, 0, QEMU_SUBSYSTEM)
        self.engines = engines = (self._engine(memory), self._engine(memory))
        self.channels = tuple(
            Channel(f"ide{n}", (drives[2 * n], drives[2 * n + 1]), irq_line(IRQS[n]), engines[n]) for n in (0, 1)
        )
        for n in (0, 1):
            self.config.define(TIMING + 2 * n, 2, 0, 0xFFFF)
        self.config.define(TIMING + 4, 1, 0, 0xFF)
        self.add_io_bar(DMA_BAR, 2 * DMA_PORTS, _DmaPorts(engines))
        self._fixed = tuple(self._fixed_windows(channel, n) for n, channel in enumerate(self.channels))

    def _engine(self, memory: Ram) -> BusMaster:
        return BusMaster(memory, lambda: self.is_bus_master)

    @staticmethod
    def _fixed_windows(channel: Channel, number: int) -> tuple[Window, ...]:
        base = COMMAND_BLOCKS[number]
        data: PortDevice = _DataPort(channel)
        return (
            Window(base, 1, data),
            Window(base + 1, 7, _CommandBlock(channel), 1),
            Window(CONTROL_BLOCKS[number], 1, _ControlBlock(channel)),
        )

    @property
    def drives(self) -> list[AtaDrive]:
        """Those that there are."""
        return [drive for channel in self.channels for drive in channel.drives if drive is not None]

    def windows(self) -> list[Window]:
        """The channels that are enabled, besides the DMA registers."""
        found = super().windows()
        if self.command & config.IO_SPACE:
            for number, fixed in enumerate(self._fixed):
                if self.config.get(TIMING + 2 * number, 2) & DECODE_ENABLE:
                    found.extend(fixed)
        return found

    def write_config(self, offset: int, width: int, value: int) -> None:
        """The timing registers enable the channels."""
        super().write_config(offset, width, value)
        if offset >> 2 == TIMING >> 2:
            self.on_decode()

    def reset(self) -> None:
        """Power on."""
        for channel in self.channels:
            channel.reset()
        super().reset()

    def snapshot(self) -> Snapshot:
        """Configuration space and the channels."""
        return {**super().snapshot(), "channels": [channel.snapshot() for channel in self.channels]}

    def restore(self, snapshot: Snapshot) -> None:
        """Put all of it back."""
        super().restore(snapshot)
        for channel, state in zip(self.channels, snapshot["channels"], strict=True):
            channel.restore(state)
