"""The #DB that comes after an instruction: single steps, data and I/O breakpoints (APM vol. 2, 13.1)."""

from __future__ import annotations

from iced_x86 import FlowControl

from trapgate.arch import layout
from trapgate.arch.registers import RF, TF
from trapgate.cpu.faults import Fault
from trapgate.engine import record
from trapgate.engine.stepping import Stepping

#: Their handlers begin with TF clear, and no trap comes between.
_SOFTWARE_INTERRUPTS = frozenset(("int", "int3", "into", "int1"))
#: The flags that they leave say whether a trap follows (APM vol. 3, SYSCALL and SYSRET).
_LOAD_FLAGS_FIRST = frozenset((
    "syscall", "syscall_long", "syscall_long_python", "sysret", "sysretq", "sysretq_long", "sysretq_long_python",
))  # fmt: skip
_LOAD_STACK_SEGMENT = frozenset(("mov_sreg", "pop_sreg"))
#: Control transfers as iced-x86 sorts instructions, and what it counts among them that is none of the code's own.
_BRANCHES = frozenset((
    FlowControl.UNCONDITIONAL_BRANCH, FlowControl.INDIRECT_BRANCH, FlowControl.RETURN, FlowControl.CALL,
    FlowControl.INDIRECT_CALL,
))  # fmt: skip
_NO_BRANCHES = frozenset(("vmrun", "vmmcall", "rsm"))


class DebugTraps(Stepping):
    """A processor that takes the traps of its debug registers and of TF."""

    #: Whether the last step has branched; kept up to date while DebugCtl wants to know.
    branch_taken = False

    def _step_natively(self, room: int) -> int:
        """A step also records branches; in a traced run (engine/stepping.py) it stops at the guest's breakpoints."""
        if self.breakpoints and not self.q[layout.STEPPING >> 3]:
            self.instruction_rip = self.rip
            try:
                self.instruction_breakpoint()
            except Fault as fault:
                self._deliver(fault)
                return record.EXIT_FAULT
        if not self.records_branches and not self.steps_branches:
            return super()._step_natively(room)
        origin, guest, before = self.rip, self.in_guest, sum(self.exception_counts.values())
        code = super()._step_natively(room)
        done = self.in_guest == guest and sum(self.exception_counts.values()) == before
        self.branch_taken = done and self._is_branch(origin)
        if self.branch_taken and self.records_branches:
            self.record_branch(origin, self.rip)
        return code

    def _is_branch(self, origin: int) -> bool:
        """Whether the instruction just done, which was at `origin`, has branched."""
        instruction = self.last_instruction
        flow = instruction.flow_control
        if flow == FlowControl.CONDITIONAL_BRANCH:
            # It may go to the next instruction, which is also where it falls through to.
            at = self.q[layout.EXIT_UOP >> 3]
            return self.rip != origin + instruction.len or at == self.blocks.block_at(at).end + record.UNLINKED_TARGET
        return flow in _BRANCHES and self.last_operation not in _NO_BRANCHES

    def _single_step(self) -> None:
        """One instruction by itself, then what it has to trap for.

        RF goes with every instruction that does not load it; a string instruction keeps it until its last turn.
        """
        q = self.q
        flags, rip = q[layout.SYSTEM_FLAGS >> 3], self.rip
        self.step_wanted = self.records_branches
        if self.breakpoints and not flags & RF:
            self.instruction_rip = rip
            try:
                self.instruction_breakpoint()
            except Fault as fault:
                self._deliver(fault)
                return
        q[layout.SYSTEM_FLAGS >> 3] = flags & ~RF
        guest = self.in_guest
        before = sum(self.exception_counts.values())
        q[layout.STEPPING >> 3] = 1
        try:
            self._step()
        finally:
            q[layout.STEPPING >> 3] = 0
        if self.in_guest != guest:
            self.note_step(rip, flags)
            return
        if sum(self.exception_counts.values()) != before:
            return
        if flags & RF and self.rip == rip:
            q[layout.SYSTEM_FLAGS >> 3] |= RF
        name = self.last_operation
        if self.shadow and name in _LOAD_STACK_SEGMENT:
            # Held back until after the next instruction (APM vol. 2, 8.5).
            self.step_wanted = bool(self.records_branches or self.debug_hits or q[layout.WATCH_HITS >> 3])
            return
        traced = bool(flags & TF) and name not in _SOFTWARE_INTERRUPTS
        if name in _LOAD_FLAGS_FIRST:
            traced = bool(q[layout.SYSTEM_FLAGS >> 3] & TF)
        if self.steps_branches:
            traced = traced and self.branch_taken
        hits = self.take_hits()
        if hits or traced:
            self.halted = False
            self._deliver(self.debug_trap(hits, traced))
