"""A PC: which devices sit where, and how their interrupt lines run. Composition only.

ISA interrupt requests go to both 8259s and to the I/O APIC, of which firmware's tables tell the guest: IRQ n is input
n, but the timer's IRQ 0 is input 2, and input 0 is the 8259s' INTR. PCI is there when something sits on it
(boards/pci.py); else ports CF8h and CFCh read all ones. Disks and cards that are reached by hypercalls sit on no bus.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Literal

from trapgate.boards.cmos import fill_cmos
from trapgate.boards.pci import DiskConfig, FolderConfig, NicCard, NicConfig, PciBoard, virtio_devices
from trapgate.boards.virtio_mmio import VirtioMmioBoard
from trapgate.devices import ioapic, lapic_registers, parallel
from trapgate.devices.acpi_pm import (
    PM1A_CONTROL,
    PM1A_CONTROL_LENGTH,
    PM1A_EVENT,
    PM1A_EVENT_LENGTH,
    PM_TIMER,
    PM_TIMER_LENGTH,
    SCI_IRQ,
    AcpiControl,
    AcpiPm,
    AcpiTimer,
)
from trapgate.devices.debug_ports import DebugConsole, DebugExit, PostCode
from trapgate.devices.dma8237 import Dma8237, DmaPages
from trapgate.devices.hypercall.group import HypercallDevices
from trapgate.devices.i8042 import I8042
from trapgate.devices.lapic import LocalApic
from trapgate.devices.numeric_error import IRQ as NUMERIC_ERROR_IRQ
from trapgate.devices.numeric_error import NumericError
from trapgate.devices.parallel import ParallelPort
from trapgate.devices.pic8259 import PicPair
from trapgate.devices.pit8254 import Pit8254
from trapgate.devices.rtc146818 import Rtc146818
from trapgate.devices.system_control import A20Gate, ResetControl, SystemPortA, SystemPortB
from trapgate.devices.uart16550a import LINE_CONTROL, Uart16550A
from trapgate.devices.vga.adapter import WINDOW, WINDOW_SIZE, Vga
from trapgate.devices.vga.dispi import INDEX_PORT
from trapgate.devices.vga.ports import PORTS as VGA_PORTS
from trapgate.devices.vga.registers import BASE_PORT
from trapgate.devices.virtio.console import VirtioConsole, VirtioPort
from trapgate.machine.bus import Bus
from trapgate.machine.clock import Clock
from trapgate.machine.console import ConsoleBackend, NullConsole
from trapgate.machine.control import RunControl
from trapgate.machine.device import IrqLine, Snapshot, Snapshotable
from trapgate.machine.errors import UnimplementedDevice
from trapgate.machine.pins import ProcessorPins
from trapgate.machine.ram import Ram

TIMER_IRQ = 0
KEYBOARD_IRQ = 1
COM2_IRQ = 3
COM1_IRQ = 4
HYPERCALL_IRQ = 5
PARALLEL_IRQ = 7
RTC_IRQ = 8
MOUSE_IRQ = 12
#: The I/O APIC's input for IRQ 0, as the MADT's interrupt source override says.
TIMER_PIN = 2
PIC_PIN = 0

COM1 = 0x3F8
COM2 = 0x2F8
LPT1 = 0x378
#: Eight data bits, no parity, one stop bit: how firmware leaves the serial ports.
EIGHT_BITS = 0x03
DEBUG_EXIT = 0xF4
DEBUG_EXIT_PORTS = 4
#: Where the frame buffer of a VGA without PCI is (Bochs, vbe_display_api.txt, VBE_DISPI_LFB_PHYSICAL_ADDRESS).
ISA_FRAME_BUFFER = 0xE000_0000


@dataclass(frozen=True, slots=True)
class PcConfig:
    """What can be chosen about a PC, besides its memory."""

    #: The RTC's date and time at cycle 0, UTC. Fixed, so that two runs are the same.
    start_time: datetime = datetime(2007, 9, 10, 12, 0, 0)
    #: Disks and CD-ROM drives. With one, or another PCI device, there is PCI.
    disks: tuple[DiskConfig, ...] = ()
    #: PCI devices besides, names of boards.pci.DEVICES.
    devices: tuple[str, ...] = ()
    #: Network cards.
    nics: tuple[NicConfig, ...] = ()
    #: What COM2 and the parallel port send to; None: COM2 is not connected, there is no parallel port.
    serial2: ConsoleBackend | None = None
    parallel: ConsoleBackend | None = None
    #: Ports of the virtio console; () for one that sends where COM1 does.
    virtio_ports: tuple[VirtioPort, ...] = ()
    #: Folders of the host.
    folders: tuple[FolderConfig, ...] = ()
    #: A VGA: "std" is QEMU's PCI function, "isa" is without PCI, "any" the first where there is PCI anyway.
    vga: Literal["isa", "std", "any"] | None = None

    @property
    def uses_pci(self) -> bool:
        """Whether something sits on PCI."""
        has_disk = any(disk.interface in ("ide", "virtio") for disk in self.disks)
        has_card = any(nic.model != "hypercall" for nic in self.nics)
        return (
            has_disk
            or has_card
            or bool(self.folders)
            or self.vga == "std"
            or any(name.endswith("-pci") for name in self.devices)
        )


class Pc:
    """The board. The engine gives it the processor's pins and calls `acknowledge` when it takes an interrupt."""

    def __init__(
        self,
        memory: Ram,
        clock: Clock,
        control: RunControl,
        pins: ProcessorPins,
        console: ConsoleBackend,
        config: PcConfig | None = None,
        debug_console: ConsoleBackend | None = None,
    ) -> None:
        """`console` is COM1's; what the guest writes to port E9h goes there too unless `debug_console` is given."""
        self.config = config = config or PcConfig()
        self.memory = memory
        self.clock = clock
        self.control = control
        self.pins = pins
        self.bus = Bus()

        self.lapic = LocalApic(clock, pins)
        self.ioapic = ioapic.IoApic(self.lapic, self.lapic.set_extint_message)
        self.lapic.end_level = self.ioapic.end_of_interrupt
        self.pic = PicPair(self._set_pic_intr)

        self.pit = Pit8254(clock, self.irq_line(TIMER_IRQ))
        self.port_b = SystemPortB(self.pit)
        self.a20 = A20Gate(pins.set_a20)
        self.port_a = SystemPortA(self.a20, pins.request_reset)
        self.reset_control = ResetControl(control)
        self.rtc = Rtc146818(clock, self.irq_line(RTC_IRQ), config.start_time)
        fill_cmos(self.rtc.cmos, memory.ranges())
        self.serial = Uart16550A("com1", clock, self.irq_line(COM1_IRQ), console)
        second = config.serial2
        self.serial2 = Uart16550A(
            "com2", clock, self.irq_line(COM2_IRQ), second or NullConsole(), connected=second is not None
        )
        #: The parallel port, where something is connected to it.
        self.parallel: ParallelPort | None = None
        if config.parallel is not None:
            self.parallel = ParallelPort("parallel", clock, self.irq_line(PARALLEL_IRQ), config.parallel)
        self.keyboard = I8042(self.irq_line(KEYBOARD_IRQ), self.irq_line(MOUSE_IRQ), self.a20, pins.request_reset)
        self.acpi = AcpiPm(clock, self.irq_line(SCI_IRQ), control)
        self.numeric_error = NumericError(self.irq_line(NUMERIC_ERROR_IRQ))
        self.dma = (Dma8237("dma", 0), Dma8237("dma", 1))
        self.dma_pages = DmaPages()
        self.post = PostCode()
        self.debug_exit = DebugExit(control)
        self.debug_console = DebugConsole(debug_console or console)
        #: PCI and what sits on it; None when nothing does.
        self.pci: PciBoard | None = None
        self._map()
        ports = config.virtio_ports or (VirtioPort("", console),)
        #: Virtio devices in memory, often none.
        self.virtio_mmio = VirtioMmioBoard(
            self.bus,
            lambda pin: partial(self.ioapic.set_pin, pin),
            virtio_devices(memory, clock, config.disks, "virtio-mmio", config.devices, "-device", ports),
        )
        #: The display adapter; None where there is none.
        self.vga: Vga | None = None
        self._vga_function: Vga | None = None
        if config.vga is not None:
            self._map_vga(on_pci=config.uses_pci and config.vga != "isa")
        #: Disks and cards that the guest reaches by hypercalls; None where there are none.
        self.hypercall: HypercallDevices | None = None
        #: Network cards, in the order in which they were asked for.
        self.cards: list[NicCard] = []
        self._add_devices(config, console, ports)
        self.lapic.on_move = self._move_lapic
        self.reset()

    def _add_devices(self, config: PcConfig, console: ConsoleBackend, ports: tuple[VirtioPort, ...]) -> None:
        """What a PC need not have."""
        if config.uses_pci:
            disks = tuple(disk for disk in config.disks if disk.interface != "hypercall")
            nics = tuple(nic for nic in config.nics if nic.model != "hypercall")
            self.pci = PciBoard(
                self.bus, self.memory, self.clock, self.irq_line, self.lapic, console, disks, config.devices, nics,
                ports, config.folders, self._vga_function,
            )  # fmt: skip
        media = [disk.medium for disk in config.disks if disk.interface == "hypercall"]
        cards = [(nic.mac, nic.link) for nic in config.nics if nic.model == "hypercall"]
        if media or cards:
            self.hypercall = HypercallDevices(self.memory, self.clock, self.irq_line(HYPERCALL_IRQ), media, cards)
        on_pci = iter(() if self.pci is None else self.pci.cards)
        others = iter(() if self.hypercall is None else self.hypercall.cards)
        self.cards = [next(others if nic.model == "hypercall" else on_pci) for nic in config.nics]

    def _map(self) -> None:
        bus = self.bus
        bus.map_ports(0x00, 16, self.dma[0])
        bus.map_ports(0x20, 2, self.pic.master)
        bus.map_ports(0x40, 4, self.pit)
        bus.map_ports(0x60, 1, self.keyboard)
        bus.map_ports(0x61, 1, self.port_b)
        bus.map_ports(0x64, 1, self.keyboard, offset=4)
        bus.map_ports(0x70, 2, self.rtc)
        bus.map_ports(0x80, 1, self.post)
        bus.map_ports(0x81, 15, self.dma_pages, offset=1)
        bus.map_ports(0x92, 1, self.port_a)
        bus.map_ports(0xA0, 2, self.pic.slave)
        bus.map_ports(0xC0, 32, self.dma[1])
        bus.map_ports(0xE9, 1, self.debug_console)
        bus.map_ports(0xF0, 2, self.numeric_error)
        bus.map_ports(DEBUG_EXIT, DEBUG_EXIT_PORTS, self.debug_exit)
        bus.map_ports(COM2, 8, self.serial2)
        bus.map_ports(COM1, 8, self.serial)
        if self.parallel is not None:
            bus.map_ports(LPT1, parallel.PORTS, self.parallel)
        bus.map_ports(0x4D0, 2, self.pic.elcr)
        bus.map_ports(PM1A_EVENT, PM1A_EVENT_LENGTH, self.acpi)
        bus.map_ports(PM1A_CONTROL, PM1A_CONTROL_LENGTH, AcpiControl(self.acpi))
        bus.map_ports(PM_TIMER, PM_TIMER_LENGTH, AcpiTimer(self.acpi))
        bus.map_ports(0xCF9, 1, self.reset_control)
        bus.map_memory(ioapic.BASE, ioapic.SIZE, self.ioapic)
        bus.map_memory(lapic_registers.BASE, lapic_registers.SIZE, self.lapic)

    def _map_vga(self, on_pci: bool) -> None:
        self.vga = vga = Vga(self.memory, self.clock)
        for port, count in VGA_PORTS:
            self.bus.map_ports(port, count, vga.ports, port - BASE_PORT)
        self.bus.map_ports(INDEX_PORT, 2, vga.dispi_ports)
        self.bus.map_memory(WINDOW, WINDOW_SIZE, vga)
        self._vga_function = vga if on_pci else None
        if not on_pci:
            self.bus.map_memory(ISA_FRAME_BUFFER, vga.pages.size, vga.frame_buffer)
            vga.pages.map(ISA_FRAME_BUFFER)

    def reset(self) -> None:
        """Reset every device, to the state in which a PC's firmware hands over to a boot loader."""
        self.lapic.reset()
        self.ioapic.reset()
        self.lapic.enter_virtual_wire()
        self.pic.reset()
        self._program_pics()
        self.a20.reset()
        for device in (
            self.pit,
            self.port_b,
            self.port_a,
            self.reset_control,
            self.rtc,
            self.serial,
            self.serial2,
            self.keyboard,
            self.acpi,
            self.numeric_error,
            *self.dma,
            self.dma_pages,
            self.post,
            self.debug_exit,
            self.debug_console,
        ):
            device.reset()
        if self.parallel is not None:
            self.parallel.reset()
        self.virtio_mmio.reset()
        if self.vga is not None:
            self.vga.reset()
        if self.pci is not None:
            self.pci.reset()
        if self.hypercall is not None:
            self.hypercall.reset()
        for uart in (self.serial, self.serial2):
            uart.write_port(LINE_CONTROL, 1, EIGHT_BITS)

    def _program_pics(self) -> None:
        """Vectors 08h and 70h, everything masked but the cascade (IBM PC AT Technical Reference, BIOS listing)."""
        for chip, base, cascade in ((self.pic.master, 0x08, 0x04), (self.pic.slave, 0x70, 0x02)):
            chip.write_port(0, 1, 0x11)
            for value in (base, cascade, 0x01):
                chip.write_port(1, 1, value)
        self.pic.master.write_port(1, 1, 0xFB)
        self.pic.slave.write_port(1, 1, 0xFF)

    # Interrupt lines

    def irq_line(self, irq: int) -> IrqLine:
        """The line of ISA interrupt request `irq` (0..15): to the 8259s and to the I/O APIC."""
        return partial(self._set_irq, irq, TIMER_PIN if irq == TIMER_IRQ else irq)

    def _set_irq(self, irq: int, pin: int, level: bool) -> None:
        self.pic.set_irq(irq, level)
        self.ioapic.set_pin(pin, level)

    def _set_pic_intr(self, level: bool) -> None:
        self.lapic.set_lint0(level)
        self.ioapic.set_pin(PIC_PIN, level)

    def press_power_button(self, data: bytes) -> None:
        """The user presses the power button: a place that takes input."""
        if data:
            self.acpi.press_power_button()

    def expects_unmaskable(self) -> bool:
        """Whether a device's interrupt request would reach the processor as NMI, SMI or INIT: IF does not hold these
        back. Nothing drives LINT1 on this board."""
        by_message = self.pci is not None and self.pci.sends_unmaskable()
        return by_message or self.lapic.lint0_unmaskable() or self.ioapic.sends_unmaskable()

    def acknowledge(self) -> int:
        """The vector of the interrupt that the processor takes: the local APIC's own, else the 8259s'."""
        lapic = self.lapic
        vector = lapic.take()
        if vector >= 0:
            return vector
        if lapic.extint_pending() or not lapic.enabled:
            return self.pic.acknowledge()
        return lapic.spurious_vector

    def _move_lapic(self, old: int | None, new: int | None) -> None:
        if self.pci is not None:
            # A window of PCI that is in the way makes room, and comes back when it can.
            self.pci.bus.withdraw()
        if old is not None:
            self.bus.unmap_memory(old)
        size = lapic_registers.SIZE
        if new is not None and (self.memory.is_ram(new, size) or self.bus.is_mapped(new, size)):
            raise UnimplementedDevice("lapic", f"a register page at {new:#x}, over RAM or another device")
        if new is not None:
            self.bus.map_memory(new, lapic_registers.SIZE, self.lapic)
        if self.pci is not None:
            self.pci.bus.decode()

    # Metrics

    @property
    def virtio_console(self) -> VirtioConsole | None:
        """The virtio console, where there is one, whatever it is behind."""
        behind_pci = [] if self.pci is None else [function.device for function in self.pci.virtio]
        found = (device for device in (*behind_pci, *self.virtio_mmio.devices) if isinstance(device, VirtioConsole))
        return next(found, None)

    def counts(self) -> dict[str, dict[str, int]]:
        """What each drive, network card and virtio device has done."""
        found = {device.name: dict(device.counts) for device in self.virtio_mmio.devices if device.counts}
        for group in (self.pci, self.hypercall):
            found |= {} if group is None else group.counts()
        return found

    def faults(self) -> dict[str, dict[str, int]]:
        """What a guest has asked of each device in vain, and what its back end has refused."""
        found = {device.name: dict(device.faults) for device in self.virtio_mmio.devices if device.faults}
        for group in (self.pci, self.hypercall):
            found |= {} if group is None else group.faults()
        return found

    # Snapshot

    def _devices(self) -> dict[str, Snapshotable]:
        devices: dict[str, Snapshotable] = {
            "pit": self.pit,
            "port61": self.port_b,
            "port92": self.port_a,
            "reset": self.reset_control,
            "rtc": self.rtc,
            "com1": self.serial,
            "com2": self.serial2,
            "i8042": self.keyboard,
            "acpi": self.acpi,
            "numeric_error": self.numeric_error,
            "dma1": self.dma[0],
            "dma2": self.dma[1],
            "dma_pages": self.dma_pages,
            "post": self.post,
            "debug_console": self.debug_console,
            "a20": self.a20,
            "pic": self.pic,
            "ioapic": self.ioapic,
            "lapic": self.lapic,
        }
        if self.parallel is not None:
            devices["parallel"] = self.parallel
        if self.virtio_mmio.transports:
            devices["virtio_mmio"] = self.virtio_mmio
        if self.vga is not None:
            devices["vga"] = self.vga
        if self.pci is not None:
            devices["pci"] = self.pci
        if self.hypercall is not None:
            devices["hypercall"] = self.hypercall
        return devices

    def snapshot(self) -> Snapshot:
        """The state of every device as plain values; the clock, the memory and the processor are not in it."""
        return {name: device.snapshot() for name, device in self._devices().items()}

    def restore(self, snapshot: Snapshot) -> None:
        """Put back what `snapshot` gave, at a clock whose `now` is what it was then."""
        for name, device in self._devices().items():
            device.restore(snapshot[name])
