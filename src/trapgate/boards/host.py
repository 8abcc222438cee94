"""The host of virtual machines: one processor with AMD-V, RAM, and no devices. The hypervisor is a Python program."""

from __future__ import annotations

from collections.abc import Callable, MutableSequence
from typing import cast

from trapgate.arch import layout
from trapgate.arch.costs import DEFAULT_COSTS, FULL
from trapgate.arch.costs import profile as cost_profile
from trapgate.arch.cpuid import CpuProfile
from trapgate.arch.registers import CR4_PAE, EFER_LMA, EFER_LME, EFER_NXE, EFER_SVME
from trapgate.engine.handlers import HandlerStore
from trapgate.engine.processor import Processor
from trapgate.machine.bus import Bus
from trapgate.machine.clock import Clock
from trapgate.machine.control import RunControl
from trapgate.machine.memory import PhysicalMemory


class HostMachine:
    """What vmm/backend.py asks for. `memory_size` is in bytes, `costs` the name of a cost profile,
    `model` what of translation is modelled (arch/costs), `code_size` as in MachineConfig."""

    def __init__(
        self,
        profile: CpuProfile,
        memory_size: int,
        handlers: HandlerStore,
        costs: str = DEFAULT_COSTS,
        model: str = FULL,
        code_size: int | None = None,
    ) -> None:
        self.profile = profile
        self.costs = cost_profile(costs, model)
        #: Modelled cycles of the hypervisor's work, and of the accesses to devices that it made for guests.
        self.charged = self.device_cycles = 0
        self.memory = PhysicalMemory(memory_size)
        self.clock = Clock(profile.frequency)
        self.control = RunControl()
        self.processor = Processor(
            profile, self.memory, Bus(), self.clock, self.control, handlers, _no_interrupt, self.costs,
            code_size=code_size,
        )  # fmt: skip
        processor = self.processor
        processor.python_host = True
        # Nested tables are in the format of the host's own paging: long mode with NX.
        processor.state.set(layout.HOST_CR4, CR4_PAE)
        processor.state.set(layout.HOST_EFER, EFER_LME | EFER_LMA | EFER_NXE | EFER_SVME)
        self.gprs = cast("MutableSequence[int]", processor.q[:16])
        #: Instructions of guests that the hypervisor carried out in the processor's place.
        self.emulated = 0
        #: VMRUNs.
        self.entries = 0
        #: The run ends when guests have come to so many instructions; None: never.
        self.max_instructions: int | None = None
        #: Asked when a guest has been stopped without #VMEXIT, with the reason: whether it goes on. For debuggers.
        self.on_stop: Callable[[str], bool] = lambda reason: False
        #: Called when the hypervisor has carried out an instruction.
        self.on_retire: Callable[[], None] = lambda: None

    @property
    def instructions(self) -> int:
        """Guests' instructions, whoever carried them out."""
        return self.processor.instructions + self.emulated

    def run(self, vmcb: int) -> str:
        """VMRUN until #VMEXIT."""
        self.entries += 1
        most = self.max_instructions
        reason = self.processor.run_guest(vmcb, None if most is None else most - self.emulated)
        while reason != "vmexit" and self.on_stop(reason):
            most = self.max_instructions
            reason = self.processor.resume_guest(None if most is None else most - self.emulated)
        return reason

    def retire(self, instructions: int) -> None:
        """The hypervisor has carried out so many instructions of its guest."""
        self.emulated += instructions
        self.processor.count_steps(instructions)
        self.on_retire()

    def run_translated(self, vmcb: int, deprivileged: bool) -> str:
        """Run a guest without AMD-V."""
        self.processor.set_translated(True, deprivileged)
        try:
            return self.run(vmcb)
        finally:
            self.processor.set_translated(False, False)

    def run_real_mode(self, vmcb: int) -> str:
        """Run a guest's real mode without AMD-V: all of its code is translated, to run on its own page tables."""
        self.processor.costs_as_translated = True
        try:
            return self.run(vmcb)
        finally:
            self.processor.costs_as_translated = False

    def interpret(self, vmcb: int, instructions: int) -> str:
        """Carry out an event or an instruction in a guest's stead."""
        self.entries += 1
        return self.processor.interpret_guest(vmcb, instructions)

    def vmload(self, vmcb: int) -> None:
        """VMLOAD."""
        self.processor.vmload(vmcb)

    def vmsave(self, vmcb: int) -> None:
        """VMSAVE."""
        self.processor.vmsave(vmcb)

    def invlpga(self, linear: int, asid: int) -> None:
        """INVLPGA."""
        self.processor.flush_page_of(linear, asid)

    def interrupt(self, level: bool) -> None:
        """INTR of the host's processor."""
        self.processor.set_intr(level)

    def charge(self, cycles: int) -> None:
        """Let modelled time pass."""
        self.charged += cycles
        self.clock.now += cycles

    def charge_device(self, cycles: int) -> None:
        """Let the modelled time of an access to a device pass."""
        self.device_cycles += cycles
        self.clock.now += cycles

    def xmm(self, number: int) -> bytes:
        """An XMM register."""
        place = layout.xmm(number)
        return bytes(self.processor.state.bytes[place : place + 16])

    def set_xmm(self, number: int, value: bytes) -> None:
        """Write an XMM register."""
        self.processor.set_state_bytes(layout.xmm(number), value)

    def breakpoint_address(self, number: int) -> int:
        """DR0 to DR3."""
        return self.processor.dr[number]

    def set_tsc_aux(self, value: int) -> None:
        """TSC_AUX."""
        self.processor.set_state_field(layout.TSC_AUX, value)

    def ignore_x87_error(self) -> None:
        """IGNNE#."""
        self.processor.set_ignne(True)

    @property
    def refusal(self) -> str:
        """Why the last VMRUN was refused."""
        return self.processor.refusal


def _no_interrupt() -> int:
    """Interrupts of the host are intercepted, so the processor never acknowledges one."""
    raise AssertionError("an interrupt of the host was acknowledged")
