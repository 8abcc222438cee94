"""The bare machine: a PC with its processor, no hypervisor."""

from __future__ import annotations

from dataclasses import dataclass, field

from trapgate.arch import layout
from trapgate.arch.cpuid import OPTERON_2007, CpuProfile
from trapgate.arch.registers import CS, GPR_NAMES, SEGMENT_NAMES
from trapgate.arch.segments import DPL_SHIFT
from trapgate.boards.pc import Pc, PcConfig
from trapgate.engine.handlers import HandlerStore
from trapgate.engine.processor import Processor, Stopped
from trapgate.firmware.acpi import AcpiHardware
from trapgate.firmware.fw_cfg import FIRST_PORT, PORT_COUNT, FwCfg
from trapgate.firmware.image import BootImage, EntryState
from trapgate.firmware.linux import LinuxImage
from trapgate.firmware.tables import write_tables
from trapgate.machine.clock import Clock
from trapgate.machine.console import ConsoleBackend
from trapgate.machine.control import RunControl
from trapgate.machine.memory import PhysicalMemory


@dataclass(frozen=True)
class MachineConfig:
    """What can be chosen about a machine. `memory_size` is in bytes."""

    memory_size: int = 256 << 20
    profile: CpuProfile = OPTERON_2007
    board: PcConfig = field(default_factory=PcConfig)


class _Pins:
    """Connects the board, which is made first, to the processor."""

    def __init__(self) -> None:
        self.processor: Processor | None = None

    def set_intr(self, level: bool) -> None:
        if self.processor is not None:
            self.processor.set_intr(level)

    def pulse_nmi(self) -> None:
        if self.processor is not None:
            self.processor.pulse_nmi()

    def pulse_smi(self) -> None:
        if self.processor is not None:
            self.processor.pulse_smi()

    def request_reset(self) -> None:
        if self.processor is not None:
            self.processor.request_reset()

    def set_a20(self, enabled: bool) -> None:
        if self.processor is not None:
            self.processor.set_a20(enabled)


class BareMachine:
    """A PC without a hypervisor. `console` gets what the guest writes to COM1."""

    def __init__(self, config: MachineConfig, console: ConsoleBackend, handlers: HandlerStore) -> None:
        self.config = config
        self.memory = PhysicalMemory(config.memory_size)
        self.clock = Clock(config.profile.frequency)
        self.control = RunControl()
        pins = _Pins()
        self.board = Pc(self.memory, self.clock, self.control, pins, console, config.board)
        self.processor = Processor(
            config.profile, self.memory, self.board.bus, self.clock, self.control, handlers, self.board.acknowledge
        )
        self.fw_cfg = FwCfg(self.memory)
        self.board.bus.map_ports(FIRST_PORT, PORT_COUNT, self.fw_cfg)
        self.processor.apic = self.board.lapic
        self.processor.expects_unmaskable = self.board.expects_unmaskable
        pins.processor = self.processor
        self.processor.set_ferr = self.board.numeric_error.set_ferr
        self.board.numeric_error.set_ignne = self.processor.set_ignne

    def load(self, image: BootImage) -> None:
        """Put a guest into memory and the processor into its entry state. Raises FirmwareError."""
        if isinstance(image, LinuxImage):
            self.fw_cfg.set_boot_files(image.kernel, image.initrd, image.command_line.decode(errors="surrogateescape"))
        hardware = AcpiHardware(fw_cfg_port=FIRST_PORT)
        # Firmware gives the I/O APIC the identifier that its tables name.
        self.board.bus.write_memory(hardware.io_apic_address, 4, 0)
        self.board.bus.write_memory(hardware.io_apic_address + 0x10, 4, hardware.io_apic_id << 24)
        rsdp = write_tables(self.memory, hardware)
        enter_state(self.processor, image.load(self.memory, rsdp))

    def run(self, max_instructions: int | None = None) -> Stopped:
        """Run until something ends the run."""
        return self.processor.run(max_instructions)


def enter_state(processor: Processor, entry: EntryState) -> None:
    """Put the processor into the state that a boot protocol promises."""
    for i, name in enumerate(GPR_NAMES):
        processor.q[i] = entry.registers[name]
    processor.rflags = entry.registers["rflags"]
    for i, name in enumerate(SEGMENT_NAMES):
        value = entry.segments[name]
        processor.segments[i].load(value.selector, value.base, value.limit, value.attributes)
    for table, name in ((processor.ldtr, "ldtr"), (processor.tr, "tr")):
        value = entry.segments[name]
        table.load(value.selector, value.base, value.limit, value.attributes)
    processor.gdtr_base, processor.gdtr_limit = entry.gdt.base, entry.gdt.limit
    processor.idtr_base, processor.idtr_limit = entry.idt.base, entry.idt.limit
    state = processor.state
    for offset, value_ in (
        (layout.CR0, entry.cr0), (layout.CR3, entry.cr3), (layout.CR4, entry.cr4), (layout.EFER, entry.efer)
    ):  # fmt: skip
        state.set(offset, value_)
    processor.cpl = processor.segments[CS].attributes >> DPL_SHIFT & 3 if entry.cr0 & 1 else 0
    processor.rip = entry.registers["rip"]
    processor.mode_changed()
