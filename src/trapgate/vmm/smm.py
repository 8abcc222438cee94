"""System management mode of a virtual processor (APM vol. 2, 10.3): SMIs of its board, and RSM, which exits meanwhile.

As in the processor, SMM is real mode with limits of 4 GB at SMBASE, and NMIs wait until RSM.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from trapgate.arch import vectors, vmcb
from trapgate.arch.profiles.profile import AMD
from trapgate.arch.registers import CR0_EM, CR0_PE, CR0_PG, CR0_TS, CS, EFER_SVME, GS, RFLAGS_ONE
from trapgate.arch.segments import DATA_RW_ACCESSED, REAL_CODE
from trapgate.arch.smm import ENTRY, SAVE_AREA, SMBASE_RESET, SavedState, Segment
from trapgate.firmware.image import SegmentValue
from trapgate.machine.errors import UnimplementedDevice
from trapgate.vmm.control_block import SEGMENTS
from trapgate.vmm.emulate import GuestFault

if TYPE_CHECKING:
    from trapgate.vmm.vcpu import VirtualCpu


class SystemManagement:
    """One virtual processor's."""

    def __init__(self, vcpu: VirtualCpu) -> None:
        self._vcpu = vcpu
        self.smbase = SMBASE_RESET
        #: Whether an SMI waits; whether the guest is in SMM; whether it was in HLT when the SMI came.
        self.pending = self.inside = self.halted = False
        self._nmi_was_masked = False

    @property
    def taken_now(self) -> bool:
        """Whether an SMI is to be taken before the next entry."""
        return self.pending and not self.inside

    def before_entry(self) -> None:
        """Take the SMI, or see to it that the guest is left when what goes before is done."""
        vcpu = self._vcpu
        nested = vcpu.nested
        if nested.in_l2 and nested.gif and nested.vmcb12.intercepts(vmcb.EXIT["smi"]) and not vcpu.event:
            nested.leave(vmcb.EXIT["smi"], vmcb.SMI_EXTERNAL)  # it stays pending (15.13.3)
        if nested.in_l2 or not nested.gif:
            return  # taken when L1 goes on with GIF set
        if vcpu.event:
            vcpu.backend.interrupt(True)
        else:
            self._enter()

    def _area(self, offset: int) -> int:
        return self.smbase + SAVE_AREA + offset

    def _enter(self) -> None:
        vcpu = self._vcpu
        block, bus, memory, technique = vcpu.block, vcpu.vm.board.bus, vcpu.vm.memory, vcpu.technique
        if vcpu.vm.profile.vendor != AMD:
            raise UnimplementedDevice("lapic", "an SMI, with the save area of Intel's processors")
        self.pending = False
        vcpu.segment(GS)  # brings FS, GS, LDTR and TR into the VMCB
        vcpu.begin_registers()

        def save(offset: int, size: int, value: int) -> None:
            value &= (1 << 8 * size) - 1
            if memory.is_ram(self._area(offset), size):
                memory.write(self._area(offset), value.to_bytes(size, "little"))
            else:
                bus.write_memory(self._area(offset), size, value)

        SavedState(
            segments=tuple(block.segment(place) for place in SEGMENTS),
            ldtr=block.segment(vmcb.LDTR),
            tr=block.segment(vmcb.TR),
            gdtr=(block[vmcb.GDTR + 8], block[vmcb.GDTR] >> 32),
            idtr=(block[vmcb.IDTR + 8], block[vmcb.IDTR] >> 32),
            halted=self.halted,
            efer=technique.efer | (EFER_SVME if vcpu.nested.svme else 0),
            smbase=self.smbase,
            cr4=technique.cr4,
            cr3=technique.cr3,
            cr0=technique.cr0,
            dr7=block[vmcb.DR7],
            dr6=block[vmcb.DR6],
            rflags=block[vmcb.RFLAGS],
            rip=block[vmcb.RIP],
            registers=tuple(vcpu.gpr[:16]),
        ).store(save)
        self.inside, self.halted = True, False
        self._nmi_was_masked, vcpu.nmi_masked = vcpu.nmi_masked, True
        block.intercept("rsm")
        technique.set_control_registers(technique.cr0 & ~(CR0_PE | CR0_EM | CR0_TS | CR0_PG), technique.cr3, 0, 0)
        block[vmcb.RFLAGS], block[vmcb.RIP], block[vmcb.DR7] = RFLAGS_ONE, ENTRY, 0x400
        block.set_byte(vmcb.CPL, 0)
        block.set_byte(vmcb.INTERRUPT_SHADOW, 0)
        for place in SEGMENTS:
            block.set_segment(place, SegmentValue(0, 0, 0xFFFF_FFFF, DATA_RW_ACCESSED))
        code = SegmentValue(self.smbase >> 4 & 0xFFFF, self.smbase, 0xFFFF_FFFF, REAL_CODE)
        block.set_segment(SEGMENTS[CS], code)
        self._changed()

    def resume(self) -> None:
        """RSM: #UD outside of SMM; a saved state that the processor cannot be in means shutdown. Raises GuestFault."""
        vcpu = self._vcpu
        if not self.inside or vcpu.nested.in_l2:
            raise GuestFault(vectors.UD)
        block, bus, memory, profile = vcpu.block, vcpu.vm.board.bus, vcpu.vm.memory, vcpu.vm.profile

        def saved(offset: int, size: int) -> int:
            if memory.is_ram(self._area(offset), size):
                return int.from_bytes(memory.read(self._area(offset), size), "little")
            return bus.read_memory(self._area(offset), size)

        state = SavedState.load(saved)
        unprotected = state.cr0 & CR0_PG and not state.cr0 & CR0_PE
        if state.cr0 >> 32 or unprotected or state.cr4 & ~profile.cr4_bits:
            vcpu.triple_fault()
            return
        vcpu.backend.retire(1)
        for place, values in zip((*SEGMENTS, vmcb.LDTR, vmcb.TR), (*state.segments, state.ldtr, state.tr), strict=True):
            block.set_segment(place, _value(values))
        for place, (base, limit) in ((vmcb.GDTR, state.gdtr), (vmcb.IDTR, state.idtr)):
            block[place], block[place + 8] = limit << 32, base
        try:
            vcpu.technique.set_control_registers(state.cr0, state.cr3, state.cr4, state.efer & ~EFER_SVME)
        except GuestFault:
            vcpu.triple_fault()
            return
        vcpu.nested.set_svme(bool(state.efer & EFER_SVME) and vcpu.nested.offered)
        block[vmcb.DR6], block[vmcb.DR7] = state.dr6 & 0xFFFF_FFFF, state.dr7 & 0xFFFF_FFFF
        block[vmcb.RFLAGS], block[vmcb.RIP] = state.rflags, state.rip
        # SS's DPL is the CPL (4.9.1), but in real mode.
        block.set_byte(vmcb.CPL, state.segments[2][3] >> 5 & 3 if state.cr0 & CR0_PE else 0)
        for number, value in enumerate(state.registers):
            vcpu.gpr[number] = value
        vcpu.end_registers()
        self.smbase = state.smbase
        self.inside, vcpu.nmi_masked = False, self._nmi_was_masked
        block.intercept("rsm", False)
        self._changed()
        if state.halted:
            vcpu.vm.idle(vcpu)

    def _changed(self) -> None:
        self._vcpu.backend.vmload(self._vcpu.block.address)
        self._vcpu.extra_state_changed()


def _value(values: Segment) -> SegmentValue:
    selector, base, limit, attributes = values
    return SegmentValue(selector, base, limit, attributes)


def rsm(vcpu: VirtualCpu) -> None:
    """The exit of RSM."""
    try:
        vcpu.smm.resume()
    except GuestFault as fault:
        vcpu.inject(fault)


EXITS = {vmcb.EXIT["rsm"]: rsm}
