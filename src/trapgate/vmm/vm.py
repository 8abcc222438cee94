"""A virtual machine: guest memory out of the host's, a board of devices, and one virtual processor."""

from __future__ import annotations

from collections.abc import Callable

from trapgate.arch import vmcb
from trapgate.arch.cpuid import CpuProfile
from trapgate.arch.registers import CR0_PE, EFER_SVME, GPR_NAMES
from trapgate.arch.segments import DPL_SHIFT
from trapgate.arch.vectors import GP
from trapgate.boards.bios_board import BiosBoard
from trapgate.boards.boot import prepare_boot
from trapgate.boards.pc import Pc, PcConfig
from trapgate.boards.places import add_input_places
from trapgate.devices.uart16550a import IER_RECEIVED
from trapgate.firmware.bios.disk_image import DiskImage
from trapgate.firmware.fw_cfg import FIRST_PORT, PORT_COUNT, FwCfg
from trapgate.firmware.image import SEGMENT_NAMES, BootImage, EntryState
from trapgate.machine.clock import Clock
from trapgate.machine.console import ConsoleBackend
from trapgate.machine.control import DebugStop, Reset, RunControl
from trapgate.machine.outside import Outside
from trapgate.machine.ram import HIGH_BASE
from trapgate.vmm.asids import Asids
from trapgate.vmm.backend import Backend
from trapgate.vmm.bios_processor import BiosProcessor
from trapgate.vmm.control_block import ControlBlock
from trapgate.vmm.errors import NoSuchTechnique
from trapgate.vmm.exits import EXITS
from trapgate.vmm.exits.operands import decode
from trapgate.vmm.memory.frames import FrameAllocator
from trapgate.vmm.memory.guest import GuestMemory
from trapgate.vmm.msrs import VirtualMsrs
from trapgate.vmm.nested_svm import NestedSvm
from trapgate.vmm.permissions import PermissionMaps
from trapgate.vmm.techniques.base import Technique, TechniqueClass
from trapgate.vmm.vcpu import VirtualCpu

OWNER = "hypervisor"
#: The state save area's place of each segment that a boot protocol sets.
_PLACES = dict(
    zip(
        SEGMENT_NAMES,
        (vmcb.ES, vmcb.CS, vmcb.SS, vmcb.DS, vmcb.FS, vmcb.GS, vmcb.LDTR, vmcb.TR),
        strict=True,
    )
)


class _Pins:
    """Connects the board, which is made first, to the virtual processor."""

    vcpu: VirtualCpu | None = None
    a20 = True

    def set_intr(self, level: bool) -> None:
        if self.vcpu is not None:
            self.vcpu.set_intr(level)

    def pulse_nmi(self) -> None:
        if self.vcpu is not None:
            self.vcpu.pulse_nmi()

    def pulse_smi(self) -> None:
        if self.vcpu is not None:
            self.vcpu.pulse_smi()

    def request_reset(self) -> None:
        if self.vcpu is not None:
            self.vcpu.request_reset()

    def set_a20(self, enabled: bool) -> None:
        self.a20 = enabled
        if self.vcpu is not None:
            self.vcpu.technique.set_a20(enabled)
            self.vcpu.nested.forget()


class VirtualMachine:
    """`memory_size` bytes of guest RAM out of `backend`'s, under a technique. `profile` is the processor that the guest
    sees. Raises OutOfHostMemory, NoSuchTechnique."""

    def __init__(
        self,
        backend: Backend,
        memory_size: int,
        profile: CpuProfile,
        technique: TechniqueClass,
        console: ConsoleBackend,
        board: PcConfig | None = None,
        frames: FrameAllocator | None = None,
        asids: Asids | None = None,
    ) -> None:
        missing = technique.missing(backend.profile)
        if missing:
            raise NoSuchTechnique(technique.name, backend.profile.name, missing)
        self.backend, self.profile = backend, profile
        self.asids = asids or Asids(backend.profile)
        self.asid = self.asids.first()
        self.control = RunControl()
        self.console = console
        #: The BIOS, where a disk image is booted.
        self.firmware: BiosBoard | None = None
        self.frames = frames or FrameAllocator(backend.memory)
        device_top = HIGH_BASE if board is not None and board.vga else 0
        self.memory = GuestMemory(self.frames, memory_size, device_top=device_top)
        pins = _Pins()
        self.board = Pc(self.memory, backend.clock, self.control, pins, console, board)
        self.board.numeric_error.set_ignne = self._set_ignne
        self.fw_cfg = FwCfg(self.memory)
        self.board.bus.map_ports(FIRST_PORT, PORT_COUNT, self.fw_cfg)
        self.permissions = PermissionMaps(self.frames, OWNER)
        self.msrs = VirtualMsrs(self)
        block = ControlBlock(backend.memory, self.frames.allocate(OWNER))
        self.vcpu = VirtualCpu(self, backend, block)
        self.vcpu.exits = EXITS
        self.technique: Technique = technique(self)
        self.vcpu.use(self.technique)
        #: Modelled cycles for which the guest had nothing to do.
        self.idle_cycles = 0
        self.vcpu.nested = NestedSvm(self.vcpu, self.technique.offers_svm)
        self._prepare_block()
        pins.vcpu = self.vcpu
        self.memory.on_layout = self._memory_changed
        #: Where all input from outside comes in.
        self.outside = Outside(backend.clock, self.control)
        self.input = add_input_places(self.outside, self.board)
        self.on_idle: Callable[[int], None] = self.outside.idle
        #: Asked when a guest that sleeps is to be stopped, with the reason: whether it goes on. For debuggers.
        self.on_stop: Callable[[str], bool] = lambda reason: False
        self.outside.add_place("power-button", self.board.press_power_button)

    def _prepare_block(self) -> None:
        """What every technique asks of AMD-V."""
        block = self.vcpu.block
        block[vmcb.IOPM_BASE_PA] = self.permissions.ports
        block[vmcb.MSRPM_BASE_PA] = self.permissions.msrs
        block.set_word(vmcb.ASID, self.asid)
        block[vmcb.VIRTUAL_INTERRUPT] = vmcb.V_INTR_MASKING
        for name in (
            "intr", "nmi", "smi", "init", "cpuid", "hlt", "ioio", "msr", "shutdown", "vmrun", "vmmcall", "vmload",
            "ferr_freeze", "vmsave", "stgi", "clgi", "skinit", "invlpga", "monitor", "mwait", "invd", "wbinvd", "rdpmc",
        ):  # fmt: skip
            block.intercept(name)
        # CR8 is the local APIC's, which has to know.
        block.set_word(vmcb.INTERCEPT_CR, 1 << 8 | 1 << 16 + 8)
        block.set_word(vmcb.INTERCEPT_EXCEPTIONS, 1 << GP)
        self.technique.prepare(block)

    # -- the guest

    def load(self, image: BootImage) -> None:
        """Put a guest into memory and the virtual processor into its entry state. Raises FirmwareError."""
        rsdp = prepare_boot(image, self.board, self.fw_cfg)
        if isinstance(image, DiskImage):
            processor = BiosProcessor(self.vcpu)
            clock = self.backend.clock
            self.firmware = BiosBoard(processor, self.memory, self.board, clock, self.control, self.console, image)
        self.enter_state(image.load(self.memory, rsdp))

    def enter_state(self, entry: EntryState) -> None:
        """Put the virtual processor into the state that a boot protocol promises."""
        vcpu, block = self.vcpu, self.vcpu.block
        for i, name in enumerate(GPR_NAMES):
            vcpu.gpr[i] = entry.registers[name]
        block[vmcb.RAX], block[vmcb.RSP] = entry.registers["rax"], entry.registers["rsp"]
        block[vmcb.RFLAGS], block[vmcb.RIP] = entry.registers["rflags"], entry.registers["rip"]
        for name, place in _PLACES.items():
            block.set_segment(place, entry.segments[name])
        block.set_table(vmcb.GDTR, entry.gdt)
        block.set_table(vmcb.IDTR, entry.idt)
        block[vmcb.DR6], block[vmcb.DR7] = 0xFFFF_0FF0, 0x400
        block[vmcb.G_PAT] = self.profile.reset_msrs.get(0x277, 0)
        block[vmcb.EFER] = EFER_SVME
        cpl = entry.segments["cs"].attributes >> DPL_SHIFT & 3 if entry.cr0 & CR0_PE else 0
        block.set_byte(vmcb.CPL, cpl)
        self.technique.set_control_registers(entry.cr0, entry.cr3, entry.cr4, entry.efer)
        self.backend.vmload(block.address)

    def reset_processor(self) -> None:
        """INIT#: the guest's firmware starts the machine again; without one the guest cannot go on."""
        if self.firmware is None:
            self.vcpu.stopped = "triple-fault"
        else:
            self.control.stop(Reset())

    def _memory_changed(self, address: int, length: int) -> None:
        """A device has moved its memory."""
        self.technique.memory_changed(address, length)
        self.vcpu.nested.forget()

    def _set_ignne(self, level: bool) -> None:
        """IGNNE# of the board."""
        if level:
            self.backend.ignore_x87_error()

    @property
    def clock(self) -> Clock:
        """The host's clock, which is the guest's too."""
        return self.backend.clock

    @property
    def listens(self) -> bool:
        """Whether the guest has shown that it takes input on COM1."""
        return bool(self.board.serial.ier & IER_RECEIVED) if self.firmware is None else self.firmware.listens

    def receive(self, data: bytes) -> None:
        """Somebody has typed: to COM1, or on the keyboard of a guest that uses the BIOS's screen."""
        if self.firmware is None:
            self.board.serial.receive(data)
        else:
            self.firmware.receive(data)

    def refresh_screen(self) -> None:
        """Show on the console what the guest has put on the BIOS's screen."""
        if self.firmware is not None:
            self.firmware.bios.screen.refresh()

    def redraw_screen(self) -> None:
        """Show all of the BIOS's screen on a console that has not seen how it came about."""
        if self.firmware is not None:
            self.firmware.bios.screen.redraw()

    def idle(self, vcpu: VirtualCpu) -> None:
        """The guest has halted: let events happen until one is for it. With interrupts off only NMI or INIT is."""
        clock = self.backend.clock
        while not (vcpu.nmi or vcpu.reset_wanted or vcpu.smm.taken_now or (vcpu.intr and vcpu.interruptible)):
            deadline = clock.deadline
            if deadline is not None and deadline > clock.now:
                self.on_idle(deadline - clock.now)
                deadline = clock.deadline
            request = self.control.request
            if request is not None:
                if not isinstance(request, DebugStop) or not self.on_stop("request"):
                    return
                if deadline is None:
                    continue  # it goes on sleeping; else the rest of the sleep passes at once
            if deadline is None or not (vcpu.interruptible or self.board.expects_unmaskable()):
                if self.on_stop("halted"):
                    continue
                vcpu.stopped = "halted"
                return
            if deadline > clock.now:
                self.idle_cycles += deadline - clock.now
                clock.now = deadline
            clock.run_due()
        vcpu.smm.halted = vcpu.smm.taken_now

    def next_rip(self, vcpu: VirtualCpu) -> int:
        """The instruction pointer behind the present instruction, for processors that do not save it."""
        return vcpu.rip + decode(vcpu).len & ((1 << 64) - 1 if vcpu.bits == 64 else 0xFFFF_FFFF)

    def run(self, pause_at: int | None = None) -> str:
        """Run until something ends the run: "request", "limit", "triple-fault", "halted", "unimplemented".

        "paused": at the first exit behind `pause_at` instructions since the machine was made. A run that was paused, or
        ended by a request to this machine alone, goes on when this is called again, as if it had not been stopped.
        """
        self.msrs.use_tsc_aux()
        reason = self.vcpu.run(pause_at)
        self.refresh_screen()
        return reason
