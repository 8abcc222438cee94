"""The bare machine: a PC with its processor, no hypervisor."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from trapgate.arch import layout
from trapgate.arch.costs import DEFAULT_COSTS, FULL
from trapgate.arch.costs import profile as cost_profile
from trapgate.arch.cpuid import OPTERON_2007, CpuProfile
from trapgate.arch.registers import CS, GPR_NAMES, SEGMENT_NAMES
from trapgate.arch.segments import DPL_SHIFT
from trapgate.boards.bios_board import BiosBoard
from trapgate.boards.boot import prepare_boot
from trapgate.boards.pc import Pc, PcConfig
from trapgate.boards.places import add_input_places
from trapgate.devices.uart16550a import IER_RECEIVED
from trapgate.engine.handlers import HandlerStore
from trapgate.engine.processor import Processor, Stopped
from trapgate.firmware.bios.bios import Bios
from trapgate.firmware.bios.disk_image import DiskImage
from trapgate.firmware.fw_cfg import FIRST_PORT, PORT_COUNT, FwCfg
from trapgate.firmware.image import BootImage, EntryState
from trapgate.machine.clock import Clock
from trapgate.machine.console import ConsoleBackend
from trapgate.machine.control import Reset, RunControl
from trapgate.machine.memory import PhysicalMemory
from trapgate.machine.outside import Outside
from trapgate.machine.ram import HIGH_BASE


@dataclass(frozen=True)
class MachineConfig:
    """What can be chosen about a machine. `memory_size` is in bytes."""

    memory_size: int = 256 << 20
    profile: CpuProfile = OPTERON_2007
    board: PcConfig = field(default_factory=PcConfig)
    #: Name of the cost profile (arch/costs).
    costs: str = DEFAULT_COSTS
    #: Whether TLB, walks and caches are modelled (arch/costs: MODELS).
    model: str = FULL
    #: When the hot tier is used: "auto", "off" or "always"; None: as TRAPGATE_HOT says. The guest cannot tell.
    hot: str | None = None
    #: Bytes of decoded code, and of regions' machine code, that are kept at most; None: as many as usual.
    code_size: int | None = None


class _Pins:
    """Connects the board, which is made first, to the processor."""

    def __init__(self) -> None:
        self.processor: Processor | None = None
        #: Called instead of a reset of the processor, where firmware would run behind it.
        self.on_reset: Callable[[], None] | None = None

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
        if self.on_reset is not None:
            self.on_reset()
        elif self.processor is not None:
            self.processor.request_reset()

    def set_a20(self, enabled: bool) -> None:
        if self.processor is not None:
            self.processor.set_a20(enabled)


class BareMachine:
    """A PC without a hypervisor. `console` gets what the guest writes to COM1, and what a BIOS's screen shows."""

    def __init__(self, config: MachineConfig, console: ConsoleBackend, handlers: HandlerStore) -> None:
        self.config = config
        self.memory = PhysicalMemory(config.memory_size, HIGH_BASE if config.board.vga else 0)
        self.clock = Clock(config.profile.frequency)
        self.control = RunControl()
        self._console = console
        #: The BIOS, where a disk image is booted.
        self.firmware: BiosBoard | None = None
        self._pins = pins = _Pins()
        self.board = Pc(self.memory, self.clock, self.control, pins, console, config.board)
        self.processor = Processor(
            config.profile, self.memory, self.board.bus, self.clock, self.control, handlers, self.board.acknowledge,
            cost_profile(config.costs, config.model), config.hot, config.code_size,
        )  # fmt: skip
        self.fw_cfg = FwCfg(self.memory)
        self.board.bus.map_ports(FIRST_PORT, PORT_COUNT, self.fw_cfg)
        self.processor.apic = self.board.lapic
        self.processor.expects_unmaskable = self.board.expects_unmaskable
        pins.processor = self.processor
        #: Where all input from outside comes in.
        self.outside = Outside(self.clock, self.control)
        self.input = add_input_places(self.outside, self.board)
        self.processor.on_idle = self.outside.idle
        self.outside.add_place("power-button", self.board.press_power_button)
        self.processor.set_ferr = self.board.numeric_error.set_ferr
        self.board.numeric_error.set_ignne = self.processor.set_ignne

    def load(self, image: BootImage) -> None:
        """Put a guest into memory and the processor into its entry state. Raises FirmwareError."""
        rsdp = prepare_boot(image, self.board, self.fw_cfg)
        if isinstance(image, DiskImage):
            self.firmware = BiosBoard(
                self.processor, self.memory, self.board, self.clock, self.control, self._console, image
            )
            # A processor that is reset goes through the BIOS's self-test, which starts the machine again.
            self._pins.on_reset = lambda: self.control.stop(Reset())
        enter_state(self.processor, image.load(self.memory, rsdp))

    @property
    def bios(self) -> Bios | None:
        """The firmware that a disk image is booted through; None for guests that are loaded by a protocol."""
        return None if self.firmware is None else self.firmware.bios

    def run(self, max_instructions: int | None = None) -> Stopped:
        """Run until something ends the run."""
        stopped = self.processor.run(max_instructions)
        if self.bios is not None:
            self.bios.screen.refresh()
        return stopped

    # The console

    def refresh_screen(self) -> None:
        """Show on the console what the guest has put on the BIOS's screen."""
        if self.bios is not None:
            self.bios.screen.refresh()

    def redraw_screen(self) -> None:
        """Show all of the BIOS's screen on a console that has not seen how it came about."""
        if self.bios is not None:
            self.bios.screen.redraw()

    @property
    def listens(self) -> bool:
        """True when the guest has shown that it takes input: its drivers would clear away what came before."""
        firmware = self.firmware
        return bool(self.board.serial.ier & IER_RECEIVED) if firmware is None else firmware.listens

    def receive(self, data: bytes) -> None:
        """Hand over what was typed."""
        if self.firmware is None:
            self.board.serial.receive(data)
        else:
            self.firmware.receive(data)


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
