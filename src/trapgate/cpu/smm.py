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
from trapgate.arch.vmcb import SMM_CTL_DISMISS, SMM_CTL_ENTER, SMM_CTL_EXIT
from trapgate.cpu.debug import Debugging
from trapgate.cpu.faults import Fault, TripleFault

#: SMBASE after RESET#, and offsets from it (10.2.1, 10.2.3).
SMBASE_RESET, ENTRY, SAVE_AREA = 0x3_0000, 0x8000, 0xFE00
#: SMM-revision identifier: SMBASE relocation, I/O restart, AMD64 save area (10.2.4).
REVISION = 0x0003_0064

#: ES and B of the x87 status word (APM vol. 1, 6.2.2).
X87_SUMMARY, X87_BUSY = 1 << 7, 1 << 15

# The save area, table 10-1: offsets from SMBASE + FE00h.
_SEGMENTS = ((0x00, 0), (0x10, 1), (0x20, 2), (0x30, 3), (0x40, 4), (0x50, 5))  # ES, CS, SS, DS, FS, GS
_GDTR, _LDTR, _IDTR, _TR = 0x60, 0x70, 0x80, 0x90
AUTO_HALT_RESTART, EFER_PLACE, REVISION_PLACE, SMBASE_PLACE = 0xC9, 0xD0, 0xFC, 0x100
_CR4, _CR3, _CR0, _DR7, _DR6, _RFLAGS, _RIP = 0x148, 0x150, 0x158, 0x160, 0x168, 0x170, 0x178
#: R15 at 180h ... R8 at 1B8h, RDI, RSI, RBP, RSP, RBX, RDX, RCX, RAX at 1F8h.
_REGISTERS = (15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0)


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

        for offset, number in _SEGMENTS:
            segment = self.segments[number]
            save(offset, 2, segment.selector)
            save(offset + 2, 2, segment.attributes)
            save(offset + 4, 4, segment.limit)
            save(offset + 8, 8, segment.base)
        for offset, table in ((_LDTR, self.ldtr), (_TR, self.tr)):
            save(offset, 2, table.selector)
            save(offset + 2, 2, table.attributes)
            save(offset + 4, 4, table.limit)
            save(offset + 8, 8, table.base)
        save(_GDTR + 4, 4, self.gdtr_limit)
        save(_GDTR + 8, 8, self.gdtr_base)
        save(_IDTR + 4, 4, self.idtr_limit)
        save(_IDTR + 8, 8, self.idtr_base)
        save(AUTO_HALT_RESTART, 1, int(self.halted))
        save(EFER_PLACE, 8, self.efer)
        save(REVISION_PLACE, 4, REVISION)
        save(SMBASE_PLACE, 4, self.smbase)
        for offset, value in (
            (_CR4, self.cr4), (_CR3, self.cr3), (_CR0, self.cr0), (_DR7, self.dr[7]), (_DR6, self.dr[6]),
            (_RFLAGS, self.rflags), (_RIP, self.rip),
        ):  # fmt: skip
            save(offset, 8, value)
        for i, number in enumerate(_REGISTERS):
            save(0x180 + 8 * i, 8, self.register(number, 64))
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

        def saved(offset: int, size: int) -> int:
            return self.read_physical(area + offset, size)

        cr0, cr4, efer = saved(_CR0, 8), saved(_CR4, 8), saved(EFER_PLACE, 8)
        # With AMD-V it may be paged real mode (15.19).
        unprotected = cr0 & CR0_PG and not cr0 & CR0_PE and "SVM" not in self.profile.flags
        if cr0 >> 32 or unprotected or cr4 & ~self.profile.cr4_bits:
            raise TripleFault  # shutdown
        for offset, number in _SEGMENTS:
            self.segments[number].load(
                saved(offset, 2), saved(offset + 8, 8), saved(offset + 4, 4), saved(offset + 2, 2) & 0xFFF
            )
        for offset, table in ((_LDTR, self.ldtr), (_TR, self.tr)):
            table.load(saved(offset, 2), saved(offset + 8, 8), saved(offset + 4, 4), saved(offset + 2, 2) & 0xFFF)
        self.gdtr_limit, self.gdtr_base = saved(_GDTR + 4, 4), saved(_GDTR + 8, 8)
        self.idtr_limit, self.idtr_base = saved(_IDTR + 4, 4) & 0xFFFF, saved(_IDTR + 8, 8)
        # The descriptors that native code compares are not saved: it asks Python until they are loaded again.
        self.state.set(layout.CODE_DESCRIPTOR, -1)
        self.state.set(layout.STACK_DESCRIPTOR, -1)
        self.state.set(layout.CR3, saved(_CR3, 8))
        self._set_control(cr0, cr4, efer)
        for i, number in enumerate(_REGISTERS):
            self.set_register(number, 64, saved(0x180 + 8 * i, 8))
        self.dr[6], self.dr[7] = saved(_DR6, 8), saved(_DR7, 8)
        self.breakpoints_changed()
        self.rflags = saved(_RFLAGS, 8)
        self.rip = saved(_RIP, 8)
        # SS's DPL is the CPL (4.9.1), but in real mode.
        self.cpl = self.segments[2].attributes >> 5 & 3 if cr0 & CR0_PE else 0
        self.smbase = saved(SMBASE_PLACE, 4)
        self.halted = bool(saved(AUTO_HALT_RESTART, 1) & 1)
        self.in_smm, self.nmi_blocked = False, self._nmi_was_blocked
        self.mode_changed()

    def _set_control(self, cr0: int, cr4: int, efer: int) -> None:
        for offset, value in ((layout.CR0, cr0), (layout.CR4, cr4), (layout.EFER, efer)):
            self.state.set(offset, value)
        self.native_flush_all(self.state.address)
        self.native_reset_fast(self.state.address)
