"""What pins do to the processor besides interrupts: SMI# and RSM with the AMD64 save area (APM vol. 2, 10.2 and 10.3),
INIT# (14.1.3), FERR# and IGNNE#.
"""

from __future__ import annotations

from collections.abc import Callable

from trapgate.arch import layout, vectors
from trapgate.arch.msrs import HWCR_IGNNE_EM, MSR_HWCR
from trapgate.arch.profiles.profile import AMD
from trapgate.arch.registers import CR0_CD, CR0_EM, CR0_NE, CR0_NW, CR0_PE, CR0_PG, CR0_TS, CS, RFLAGS_ONE
from trapgate.arch.segments import DATA_RW_ACCESSED, REAL_CODE
from trapgate.arch.smm import ENTRY, SAVE_AREA, SMBASE_RESET, SavedState
from trapgate.arch.vmcb import SMM_CTL_DISMISS, SMM_CTL_ENTER, SMM_CTL_EXIT
from trapgate.cpu.debug import Debugging
from trapgate.cpu.faults import Fault, TripleFault

#: ES and B of the x87 status word (APM vol. 1, 6.2.2).
X87_SUMMARY, X87_BUSY = 1 << 7, 1 << 15


class SystemManagement(Debugging):
    """A processor with SMM."""

    in_smm = False
    smbase = SMBASE_RESET
    #: Whether an SMI waits to be taken.
    smi_pending = False
    _nmi_was_blocked = False

    def reset(self) -> None:
        """The state after RESET#."""
        self.in_smm = self.smi_pending = self.ignne = False
        self.smbase = SMBASE_RESET
        super().reset()

    #: FERR#, connected by the machine.
    set_ferr: Callable[[bool], None] = staticmethod(lambda level: None)

    @property
    def x87_error_waits(self) -> bool:
        """An x87 exception is pending, and CR0.NE is clear (APM vol. 2, 3.1.1)."""
        return bool(self.state.w[layout.FPU_STATUS >> 1] & X87_SUMMARY and not (self.cr0 & CR0_NE or self.ignne))

    def set_ignne(self, level: bool) -> None:
        """IGNNE#: a pending exception no longer stops x87 instructions. ES is cleared at once, its flags stay.

        The pin's level is not kept. With HWCR.IGNNE_EM the pin does nothing.
        """
        if level and not self.msrs.get(MSR_HWCR, 0) & HWCR_IGNNE_EM:
            self._ignore_x87_error()

    def drive_ignne(self, level: bool) -> None:
        """The IGNNE MSR (15.30.2): the signal has this level until it is written again."""
        self.ignne = level
        if level:
            self._ignore_x87_error()

    def _ignore_x87_error(self) -> None:
        self.state.w[layout.FPU_STATUS >> 1] &= ~(X87_SUMMARY | X87_BUSY) & 0xFFFF
        self.set_ferr(False)

    def control_smm(self, value: int) -> None:
        """SMM_CTL (15.30.3): a hypervisor that has intercepted an SMI carries it out by itself.

        The bits are processed in the order ENTER, SMI_CYCLE, DISMISS, RSM_CYCLE, EXIT; the cycles are the bus's. No
        state is saved or loaded.
        """
        if value & SMM_CTL_ENTER and not self.in_smm:
            self.in_smm = True
            self._nmi_was_blocked, self.nmi_blocked = self.nmi_blocked, True
        if value & SMM_CTL_DISMISS:
            self.smi_pending = False
        if value & SMM_CTL_EXIT and self.in_smm:
            self.in_smm, self.nmi_blocked = False, self._nmi_was_blocked
        self.redirected = True

    def initialize(self) -> None:
        """INIT#: as RESET#, but x87, SSE and MSRs stay, CR0.CD and NW too (APM vol. 2, 14.1.3, table 14-1)."""
        state = self.state
        kept = bytes(state.bytes[layout.FPR : layout.MXCSR + 4])
        masked = state.d[layout.FPU_CONTROL_MASKED >> 2]
        fields = {offset: state.get(offset) for offset in (layout.TSC_AUX, layout.KERNEL_GS_BASE, layout.A20_MASK)}
        cache, msrs, smbase = self.cr0 & (CR0_CD | CR0_NW), self.msrs, self.smbase
        self.reset()
        state.bytes[layout.FPR : layout.MXCSR + 4] = kept
        state.d[layout.FPU_CONTROL_MASKED >> 2] = masked
        for offset, value in fields.items():
            state.set(offset, value)
        state.set(layout.CR0, self.cr0 & ~(CR0_CD | CR0_NW) | cache)
        self.msrs, self.smbase = msrs, smbase
        self.debug_control_changed()
        self.mode_changed()

    def enter_smm(self) -> None:
        """Take an SMI: save the state, and go on at SMBASE + 8000h as in real mode with 4 GB limits (10.3.1)."""
        self.smi_pending = False
        if self.profile.vendor != AMD:
            self.unimplemented("SMI with the save area of Intel's processors")
        area = self.smbase + SAVE_AREA

        def save(offset: int, size: int, value: int) -> None:
            self.write_physical(area + offset, size, value & ((1 << 8 * size) - 1))

        SavedState(
            segments=tuple((r.selector, r.base, r.limit, r.attributes) for r in self.segments),
            ldtr=(self.ldtr.selector, self.ldtr.base, self.ldtr.limit, self.ldtr.attributes),
            tr=(self.tr.selector, self.tr.base, self.tr.limit, self.tr.attributes),
            gdtr=(self.gdtr_base, self.gdtr_limit),
            idtr=(self.idtr_base, self.idtr_limit),
            halted=self.halted,
            efer=self.efer,
            smbase=self.smbase,
            cr4=self.cr4,
            cr3=self.cr3,
            cr0=self.cr0,
            dr7=self.dr[7],
            dr6=self.dr[6],
            rflags=self.rflags,
            rip=self.rip,
            registers=tuple(self.register(number, 64) for number in range(16)),
        ).store(save)
        self.in_smm, self.halted, self.shadow = True, False, False
        # NMIs wait until RSM, or until an IRET in the handler (10.3.4).
        self._nmi_was_blocked, self.nmi_blocked = self.nmi_blocked, True
        self._set_control(self.cr0 & ~(CR0_PE | CR0_EM | CR0_TS | CR0_PG), 0, 0)
        self.rflags = RFLAGS_ONE
        self.dr[7] = 0x400
        self.breakpoints_changed()
        for segment in self.segments:
            segment.load(0, 0, 0xFFFF_FFFF, DATA_RW_ACCESSED)
        self.segments[CS].load(self.smbase >> 4 & 0xFFFF, self.smbase, 0xFFFF_FFFF, REAL_CODE)
        self.cpl, self.rip = 0, ENTRY
        self.mode_changed()

    def leave_smm(self) -> None:
        """RSM (10.3.3): #UD outside SMM; a saved state that the processor cannot be in means shutdown."""
        if not self.in_smm:
            raise Fault(vectors.UD)
        area = self.smbase + SAVE_AREA
        state = SavedState.load(lambda offset, size: self.read_physical(area + offset, size))
        cr0, cr4 = state.cr0, state.cr4
        # With AMD-V it may be paged real mode (15.19).
        unprotected = cr0 & CR0_PG and not cr0 & CR0_PE and "SVM" not in self.profile.flags
        if cr0 >> 32 or unprotected or cr4 & ~self.profile.cr4_bits:
            raise TripleFault  # shutdown
        for segment, values in zip(self.segments, state.segments, strict=True):
            segment.load(*values)
        self.ldtr.load(*state.ldtr)
        self.tr.load(*state.tr)
        self.gdtr_base, self.gdtr_limit = state.gdtr
        self.idtr_base, self.idtr_limit = state.idtr
        # The descriptors that native code compares are not saved: it asks Python until they are loaded again.
        self.state.set(layout.CODE_DESCRIPTOR, -1)
        self.state.set(layout.STACK_DESCRIPTOR, -1)
        self.state.set(layout.CR3, state.cr3)
        self._set_control(cr0, cr4, state.efer)
        for number, value in enumerate(state.registers):
            self.set_register(number, 64, value)
        self.dr[6], self.dr[7] = state.dr6, state.dr7
        self.breakpoints_changed()
        self.rflags = state.rflags
        self.rip = state.rip
        # SS's DPL is the CPL (4.9.1), but in real mode.
        self.cpl = self.segments[2].attributes >> 5 & 3 if cr0 & CR0_PE else 0
        self.smbase = state.smbase
        self.halted = state.halted
        self.in_smm, self.nmi_blocked = False, self._nmi_was_blocked
        self.mode_changed()

    def _set_control(self, cr0: int, cr4: int, efer: int) -> None:
        for offset, value in ((layout.CR0, cr0), (layout.CR4, cr4), (layout.EFER, efer)):
            self.state.set(offset, value)
        self.native_flush_all(self.state.address)
        self.native_reset_fast(self.state.address)
