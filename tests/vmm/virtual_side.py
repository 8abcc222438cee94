"""System cases (tests/oracle/kvm) in a virtual machine of trapgate's own, under one of its techniques."""

from __future__ import annotations

from oracle.kvm.cases import ENDLESS, HALTED, OUTSIDE, SHUTDOWN, UNIMPLEMENTED, SystemCase, SystemOutcome
from oracle.kvm.world import (
    CSTAR,
    KERNEL_GS_BASE,
    LSTAR,
    MEMORY_SIZE,
    PAGE,
    PAT,
    SFMASK,
    STAR,
    SYSENTER_CS,
    SYSENTER_EIP,
    SYSENTER_ESP,
    MachineState,
    Mode,
    Segment,
    template,
)
from trapgate.arch import vmcb
from trapgate.arch.cpuid import OPTERON_2007
from trapgate.boards.host import HostMachine
from trapgate.cpu.faults import Unimplemented
from trapgate.engine.handlers import HandlerStore
from trapgate.firmware.image import SegmentValue, TableRegister
from trapgate.machine.console import MemoryConsole
from trapgate.vmm.asids import Loses
from trapgate.vmm.errors import DeviceInstruction
from trapgate.vmm.techniques import TECHNIQUES
from trapgate.vmm.vcpu import VirtualCpu
from trapgate.vmm.vm import VirtualMachine

_GUEST_MEMORY, _HOST_MEMORY = 1 << 20, 16 << 20
_MOST_INSTRUCTIONS, _MOST_ENTRIES = 300, 1500
_ENDS = {"halted": HALTED, "triple-fault": SHUTDOWN, "limit": ENDLESS, "unimplemented": UNIMPLEMENTED}
_SEGMENTS = (vmcb.ES, vmcb.CS, vmcb.SS, vmcb.DS, vmcb.FS, vmcb.GS)
_MSRS = {
    STAR: vmcb.STAR, LSTAR: vmcb.LSTAR, CSTAR: vmcb.CSTAR, SFMASK: vmcb.SFMASK, KERNEL_GS_BASE: vmcb.KERNEL_GS_BASE,
    SYSENTER_CS: vmcb.SYSENTER_CS, SYSENTER_ESP: vmcb.SYSENTER_ESP, SYSENTER_EIP: vmcb.SYSENTER_EIP, PAT: vmcb.G_PAT,
}  # fmt: skip


class VirtualSide:
    """One virtual machine for one mode and technique; HLT ends a case, no port answers."""

    def __init__(self, mode: Mode, technique: str, handlers: HandlerStore) -> None:
        self._host = HostMachine(OPTERON_2007, _HOST_MEMORY, handlers)
        self._vm = vm = VirtualMachine(self._host, _GUEST_MEMORY, OPTERON_2007, TECHNIQUES[technique], MemoryConsole())
        self._template = template(mode)
        self._pages = [self._template[at : at + PAGE] for at in range(0, MEMORY_SIZE, PAGE)]
        vm.memory.write(0, self._template)
        self._entries = 0
        # An empty bus, as the bare side has.
        bus = vm.board.bus
        bus._ports[:] = [bus._unmapped] * len(bus._ports)
        bus._pages.clear()
        vm.idle = self._halt  # type: ignore[method-assign]
        before_entry = vm.technique.before_entry

        def counted() -> None:
            self._entries += 1
            if self._entries > _MOST_ENTRIES:
                vm.vcpu.stopped = "limit"
            before_entry()

        vm.technique.before_entry = counted  # type: ignore[method-assign]

    @staticmethod
    def _halt(vcpu: VirtualCpu) -> None:
        vcpu.stopped = "halted"

    def run_one(self, case: SystemCase) -> SystemOutcome:
        """Run a case from its own state."""
        memory, vm = self._vm.memory, self._vm
        for address, data in case.patches:
            memory.write(address, data)
        memory.write((case.state.segments[1].base + case.state.rip) & 0xFFFF_FFFF, case.code)
        self._load(case.state)
        self._entries = 0
        self._host.max_instructions = self._host.instructions + _MOST_INSTRUCTIONS
        details = ""
        try:
            ended = _ENDS[vm.run()]
        except DeviceInstruction as error:
            ended, details = OUTSIDE, str(error)
        except Unimplemented as error:
            ended, details = UNIMPLEMENTED, str(error)
        after, pages = self._state(case), {}
        for number, wanted in enumerate(self._pages):
            found = memory.read(number * PAGE, PAGE)
            if found != wanted:
                pages[number * PAGE] = found
                memory.write(number * PAGE, wanted)
        return SystemOutcome(ended, after, pages, details)

    def _load(self, state: MachineState) -> None:
        vm, vcpu = self._vm, self._vm.vcpu
        block = vcpu.block
        vcpu.stopped, vcpu.event, vcpu.injected, vcpu.nmi_masked = "", 0, 0, False
        for number, value in enumerate(state.gpr):
            vcpu.gpr[number] = value
        block[vmcb.RAX], block[vmcb.RSP], block[vmcb.RIP] = state.gpr[0], state.gpr[4], state.rip
        block[vmcb.RFLAGS], block[vmcb.CR2], block[vmcb.EXITINTINFO] = state.rflags, state.cr2, 0
        for place, s in zip((*_SEGMENTS, vmcb.TR, vmcb.LDTR), (*state.segments, state.tr, state.ldtr), strict=True):
            block.set_segment(place, SegmentValue(s.selector, s.base, s.limit, s.attributes))
        for place, table in ((vmcb.GDTR, state.gdtr), (vmcb.IDTR, state.idtr)):
            block.set_table(place, TableRegister(*table))
        block.set_byte(vmcb.CPL, state.segments[2].attributes >> 5 & 3 if state.cr0 & 1 else 0)
        block.set_byte(vmcb.INTERRUPT_SHADOW, 0)
        for number in range(4):
            self._host.processor.dr[number] = state.dr[number]
        block[vmcb.DR6], block[vmcb.DR7] = state.dr[4:]
        for number, value in state.msrs.items():
            block[_MSRS[number]] = value
        vm.technique.set_control_registers(state.cr0, state.cr3, state.cr4, state.efer)
        vm.technique.loses = Loses.EVERYTHING
        self._host.processor.reset_fpu()
        vm.backend.vmload(block.address)

    def _state(self, case: SystemCase) -> MachineState:
        vcpu, technique = self._vm.vcpu, self._vm.technique
        block = vcpu.block
        self._vm.backend.vmsave(block.address)
        gpr = [vcpu.gpr[number] for number in range(16)]
        gpr[0], gpr[4] = block[vmcb.RAX], block[vmcb.RSP]
        tables = [(block.segment(place)[1], block.segment(place)[2]) for place in (vmcb.GDTR, vmcb.IDTR)]
        state = MachineState(
            gpr, block[vmcb.RIP], block[vmcb.RFLAGS], [Segment(*block.segment(place)) for place in _SEGMENTS],
            Segment(*block.segment(vmcb.TR)), Segment(*block.segment(vmcb.LDTR)), tables[0], tables[1],
            technique.cr0, block[vmcb.CR2], technique.cr3, technique.cr4, vcpu.efer,
        )  # fmt: skip
        state.dr = [*self._host.processor.dr[:4], block[vmcb.DR6], block[vmcb.DR7]]
        state.msrs = {number: block[_MSRS[number]] for number in case.state.msrs}
        return state
