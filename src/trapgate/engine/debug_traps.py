"""The #DB that comes after an instruction: single steps, data and I/O breakpoints (APM vol. 2, 13.1)."""

from __future__ import annotations

from trapgate.arch import layout
from trapgate.arch.registers import RF, TF
from trapgate.cpu.faults import Fault
from trapgate.engine import record
from trapgate.engine.stepping import Stepping

#: Their handlers begin with TF clear, and no trap comes between.
_SOFTWARE_INTERRUPTS = frozenset(("int", "int3", "into", "int1"))
#: The flags that they leave say whether a trap follows (APM vol. 3, SYSCALL and SYSRET).
_LOAD_FLAGS_FIRST = frozenset(("syscall", "sysret", "sysretq"))
_LOAD_STACK_SEGMENT = frozenset(("mov_sreg", "pop_sreg"))


class DebugTraps(Stepping):
    """A processor that takes the traps of its debug registers and of TF."""

    def _step_natively(self, room: int) -> int:
        """A step of a traced run (engine/stepping.py) stops at the guest's own breakpoints too."""
        if self.breakpoints and not self.q[layout.STEPPING >> 3]:
            self.instruction_rip = self.rip
            try:
                self.instruction_breakpoint()
            except Fault as fault:
                self._deliver(fault)
                return record.EXIT_FAULT
        return super()._step_natively(room)

    def _single_step(self) -> None:
        """One instruction by itself, then what it has to trap for.

        RF goes with every instruction that does not load it; a string instruction keeps it until its last turn.
        """
        q = self.q
        flags, rip = q[layout.SYSTEM_FLAGS >> 3], self.rip
        self.step_wanted = False
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
            self.step_wanted = bool(self.debug_hits or q[layout.WATCH_HITS >> 3])
            return
        traced = bool(flags & TF) and name not in _SOFTWARE_INTERRUPTS
        if name in _LOAD_FLAGS_FIRST:
            traced = bool(q[layout.SYSTEM_FLAGS >> 3] & TF)
        hits = self.take_hits()
        if hits or traced:
            self.halted = False
            self._deliver(self.debug_trap(hits, traced))
