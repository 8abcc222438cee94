"""Control-transfer recording: DebugCtl.LBR and the four registers that it fills (APM vol. 2, 13.1.6).

While LBR is set the engine runs one instruction at a time (engine/debug_traps.py), so that every transfer is seen; else
recording costs nothing.
"""

from __future__ import annotations

from trapgate.arch import vectors
from trapgate.arch.registers import (
    DEBUG_CTL_BTF,
    DEBUG_CTL_LBR,
    MSR_DEBUG_CTL,
    MSR_LAST_BRANCH_FROM,
    MSR_LAST_BRANCH_TO,
    MSR_LAST_EXCEPTION_FROM,
    MSR_LAST_EXCEPTION_TO,
)
from trapgate.cpu.control import Control


class BranchRecords(Control):
    """A processor that records branches, interrupts and exceptions. The registers hold offsets in the code segment."""

    #: DebugCtl.LBR and DebugCtl.BTF.
    records_branches = steps_branches = False

    def reset(self) -> None:
        """The state after RESET#."""
        super().reset()
        self.debug_control_changed()

    def write_msr(self, number: int, value: int) -> None:
        """WRMSR."""
        super().write_msr(number, value)
        if number == MSR_DEBUG_CTL:
            self.debug_control_changed()

    def debug_control_changed(self) -> None:
        """DebugCtl has another value."""
        value = self.msrs.get(MSR_DEBUG_CTL, 0)
        self.records_branches, self.steps_branches = bool(value & DEBUG_CTL_LBR), bool(value & DEBUG_CTL_BTF)
        if self.records_branches:
            self.step_wanted = self.redirected = True

    def record_branch(self, origin: int, target: int) -> None:
        """A branch has been taken (13.1.6.1): its own rip, and that of the instruction after it."""
        self.msrs[MSR_LAST_BRANCH_FROM], self.msrs[MSR_LAST_BRANCH_TO] = origin, target

    def _enter_handler(self, vector: int, error: int | None, software: bool, resume: bool) -> None:
        """Interrupts and exceptions are recorded, too, and what came before them is kept; but #DB ends recording."""
        if not self.records_branches and not self.steps_branches:
            super()._enter_handler(vector, error, software, resume)
            return
        origin = self.instruction_rip if software else self.rip
        super()._enter_handler(vector, error, software, resume)
        self._record_event(vector, origin, software)

    def _deliver_virtual(self, vector: int) -> None:
        super()._deliver_virtual(vector)
        self._record_event(vector, self.instruction_rip, software=True)

    def _record_event(self, vector: int, origin: int, software: bool) -> None:
        msrs = self.msrs
        if vector == vectors.DB and not software:
            msrs[MSR_DEBUG_CTL] &= ~(DEBUG_CTL_LBR | DEBUG_CTL_BTF)
            self.debug_control_changed()
        elif self.records_branches:
            if vector != vectors.MC:
                msrs[MSR_LAST_EXCEPTION_FROM] = msrs.get(MSR_LAST_BRANCH_FROM, 0)
                msrs[MSR_LAST_EXCEPTION_TO] = msrs.get(MSR_LAST_BRANCH_TO, 0)
            self.record_branch(origin, self.rip)
