"""The guest of a virtual machine, as a debugger sees it.

While the guest runs the processor's registers are its own, but for what a technique keeps: with shadow paging the
control registers of the guest's paging are the hypervisor's to know, with `software` the privilege level too. Between
an exit and the next entry (a guest that sleeps) the VMCB has what #VMEXIT stores. Looking at the VMCB is not counted.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from trapgate.arch import vmcb
from trapgate.arch.registers import CR0_PE, CS, EFER_SVME, GPR_NAMES, RFLAGS_ONE, SS, VM
from trapgate.arch.segments import ATTRIBUTE_DB, ATTRIBUTE_L
from trapgate.boards.host import HostMachine
from trapgate.debug.errors import GuestUnreachable
from trapgate.debug.guest import PAGE, Guest, SegmentView
from trapgate.machine.control import DebugStop, StopRequest
from trapgate.vmm.control_block import SEGMENTS
from trapgate.vmm.techniques.shadow import Shadow
from trapgate.vmm.techniques.software import Software
from trapgate.vmm.vm import VirtualMachine

_M64 = (1 << 64) - 1
_IN_VMCB = {GPR_NAMES.index("rax"): vmcb.RAX, GPR_NAMES.index("rsp"): vmcb.RSP}
_TABLES = {"gdtr": vmcb.GDTR, "idtr": vmcb.IDTR}
_CONTROLS = {0: vmcb.CR0, 2: vmcb.CR2, 3: vmcb.CR3, 4: vmcb.CR4}

T = TypeVar("T")


class VirtualGuest(Guest):
    """The guest of `vm`, whose host's processor runs it."""

    def __init__(self, host: HostMachine, vm: VirtualMachine) -> None:
        super().__init__(host.processor, vm.memory, vm.board, vm.clock, vm.outside)
        self._host, self._vm, self._vcpu = host, vm, vm.vcpu
        self.technique = vm.technique.name

    @property
    def inside(self) -> bool:
        """Whether the processor has the guest's registers."""
        return self.processor.in_guest

    def _look(self, look: Callable[[], T]) -> T:
        """What `look` finds in the VMCB, without the hypervisor's being charged for it."""
        block = self._vcpu.block
        reads, writes = block.reads, block.writes
        try:
            return look()
        finally:
            block.reads, block.writes = reads, writes

    # -- running

    @property
    def instructions(self) -> int:
        """The processor's and those that the hypervisor carried out."""
        return self._host.instructions

    @property
    def request(self) -> StopRequest | None:
        """Of either control."""
        request = self._vm.control.request
        return self._host.control.request if request is None else request

    def ask_to_stop(self) -> None:
        """The processor looks at its own control while the guest runs; a guest that sleeps looks at its machine's."""
        self.end(DebugStop())

    def forget_stop(self) -> None:
        """Both."""
        self._vm.control.forget_debug_stop()
        self._host.control.forget_debug_stop()

    def end(self, request: StopRequest) -> None:
        """Both."""
        self._vm.control.stop(request)
        self._host.control.stop(request)

    pauses_by_limit = False

    def stop_at(self, instructions: int | None) -> None:
        super().stop_at(instructions)
        self._host.max_instructions = self.limit

    @property
    def can_take(self) -> bool:
        """Between two entries."""
        return not self.inside and self.at_top

    @property
    def can_put(self) -> bool:
        """With nothing of the hypervisor's loop on the stack."""
        return self.at_top

    def ask_to_pause(self) -> None:
        self._vcpu.pause_wanted = True

    @property
    def machine(self) -> VirtualMachine:
        """The virtual machine."""
        return self._vm

    def when_emulated(self, call: Callable[[], None]) -> None:
        def retired() -> None:
            call()
            if self.processor.steps_left <= 0:
                # A guest that goes to sleep with this instruction is to be stopped before it does.
                self._vm.control.stop(DebugStop())

        self._host.on_retire = retired

    # -- registers

    def gpr(self, number: int) -> int:
        if not self.inside and number in _IN_VMCB:
            return self._vcpu.block.peek(_IN_VMCB[number])
        return super().gpr(number)

    def set_gpr(self, number: int, value: int) -> None:
        if not self.inside and number in _IN_VMCB:
            self._look(lambda: self._vcpu.block.__setitem__(_IN_VMCB[number], value & _M64))
        else:
            super().set_gpr(number, value)

    @property
    def rip(self) -> int:
        return super().rip if self.inside else self._vcpu.block.peek(vmcb.RIP)

    def set_rip(self, value: int) -> None:
        if self.inside:
            super().set_rip(value)
        else:
            self._look(lambda: self._vcpu.block.__setitem__(vmcb.RIP, value & _M64))

    @property
    def rflags(self) -> int:
        return super().rflags if self.inside else self._vcpu.block.peek(vmcb.RFLAGS)

    def set_rflags(self, value: int) -> None:
        if self.inside:
            super().set_rflags(value)
        else:
            self._look(lambda: self._vcpu.block.__setitem__(vmcb.RFLAGS, value & 0xFFFF_FFFF | RFLAGS_ONE))

    @property
    def cpl(self) -> int:
        if isinstance(self._vm.technique, Software) and self.inside:
            if not self.control(0) & CR0_PE:
                return 0
            # Its kernel runs at CPL 3; SS has the level that it takes itself to have (APM vol. 2, 4.9.1).
            return 3 if self.rflags & VM else self.segment(SS).attributes >> 5 & 3
        return super().cpl if self.inside else self._look(lambda: self._vcpu.block.byte(vmcb.CPL))

    @property
    def bits(self) -> int:
        if self.inside:
            return super().bits
        attributes = self.segment(CS).attributes
        if attributes & ATTRIBUTE_L and self.efer >> 10 & 1:
            return 64
        return 32 if attributes & ATTRIBUTE_DB else 16

    def control(self, number: int) -> int:
        technique = self._vm.technique
        if isinstance(technique, Shadow) and number in (0, 3, 4):
            return {0: technique.cr0, 3: technique.cr3, 4: technique.cr4}[number]
        if not self.inside and number in _CONTROLS:
            return self._vcpu.block.peek(_CONTROLS[number])
        return super().control(number)

    @property
    def efer(self) -> int:
        technique = self._vm.technique
        if isinstance(technique, Shadow):
            return technique.efer & ~EFER_SVME
        return (super().efer if self.inside else self._vcpu.block.peek(vmcb.EFER)) & ~EFER_SVME

    def set_control(self, name: str, value: int) -> None:
        if name != "cr2" or not self.inside:
            raise GuestUnreachable(f"{name} cannot be changed under {self.technique}")
        self.processor.cr2 = value

    def segment(self, number: int) -> SegmentView:
        if self.inside or number >= 4:
            # #VMEXIT leaves FS and GS in the processor.
            return super().segment(number)
        return SegmentView(*self._look(lambda: self._vcpu.block.segment(SEGMENTS[number])))

    def set_selector(self, number: int, value: int) -> None:
        if not self.inside:
            raise GuestUnreachable("the guest sleeps under its hypervisor")
        super().set_selector(number, value)

    def set_segment_base(self, number: int, value: int) -> None:
        if not self.inside:
            raise GuestUnreachable("the guest sleeps under its hypervisor")
        super().set_segment_base(number, value)

    def table(self, name: str) -> tuple[int, int]:
        if self.inside:
            return super().table(name)
        _, base, limit, _ = self._look(lambda: self._vcpu.block.segment(_TABLES[name]))[:4]
        return base, limit & 0xFFFF

    def debug_register(self, number: int) -> int:
        if not self.inside and number in (6, 7):
            return self._vcpu.block.peek(vmcb.DR6 if number == 6 else vmcb.DR7)
        return super().debug_register(number)

    @property
    def halted(self) -> bool:
        """A guest that sleeps has left the processor."""
        return not self.inside

    # -- memory: a guest's guest has a second stage, of which only the processor knows

    def read(self, linear: int, length: int) -> bytes:
        if not (self._vcpu.nested.in_l2 and self.inside):
            return super().read(linear, length)
        found = bytearray()
        while len(found) < length:
            page = self.processor.blocks.peek_page(linear)
            size = min(length - len(found), PAGE - linear % PAGE)
            if page is None:
                break
            found += self._host.memory.read(page + linear % PAGE, size)
            linear = linear + size & _M64
        return bytes(found)

    def write(self, linear: int, data: bytes) -> None:
        if self._vcpu.nested.in_l2:
            raise GuestUnreachable("memory of a guest's guest cannot be changed")
        super().write(linear, data)
