"""The processor that runs: the loop between native code and Python."""

from __future__ import annotations

from dataclasses import dataclass

import trapgate.isa.system  # noqa: F401  (registers the Python forms)
from trapgate.arch import layout, vectors
from trapgate.arch.registers import RF, TF
from trapgate.arch.vmcb import EVENT_INTR, EVENT_NMI, VM_CR_R_INIT
from trapgate.cpu.faults import Fault, TripleFault, Unimplemented, VmExit
from trapgate.engine.collection import without_collection
from trapgate.engine.guest_runs import GuestRuns
from trapgate.engine.stepping import UNCOUNTED
from trapgate.machine.errors import UnimplementedDevice

_M64 = (1 << 64) - 1
# Words of the state block.
_EXIT_UOP, _SYSTEM_FLAGS, _TSC_AT_ZERO = layout.EXIT_UOP >> 3, layout.SYSTEM_FLAGS >> 3, layout.TSC_AT_ZERO >> 3
#: How long a run with a limit may go on without completing an instruction: modelled cycles of work (an exception costs
#: 100, a turn of a repeated instruction 1: longer than any string that is meant), modelled seconds in HLT.
MOST_STALLED = 1 << 26
MOST_IDLE = 3600


@dataclass(frozen=True)
class Stopped:
    """Why the processor stopped: "request" (see RunControl), "limit", "triple-fault", "unimplemented", "halted",
    "breakpoint", "steps", "vmexit" (for a hypervisor outside)."""

    reason: str
    report: str = ""


_LEFT_GUEST = Stopped("vmexit")


class Processor(GuestRuns):
    """One processor with its engine."""

    # -- the loop

    def run(self, max_instructions: int | None = None, max_stall: int = MOST_STALLED) -> Stopped:
        """Run until something stops the run.

        A run with a limit ends, whatever the guest does: also, as "limit", when it has spent `max_stall` modelled
        cycles, or MOST_IDLE seconds in HLT, without completing an instruction.
        """
        limit = None if max_instructions is None else self.instructions + max_instructions
        with without_collection():
            try:
                return self._run(limit, max_stall)
            except (Unimplemented, UnimplementedDevice) as error:
                return Stopped("unimplemented", str(error))
            except TripleFault:
                return Stopped("triple-fault")

    def _run(self, limit: int | None, max_stall: int = MOST_STALLED) -> Stopped:
        while True:
            try:
                return self._loop(limit, max_stall)
            except TripleFault:
                self.intercept_shutdown()
                self.spend_charged()

    def go_on(self, limit: int | None, uop: int) -> str:
        """Run from a record (0: look up `rip`) until something stops the run; why."""
        try:
            return self._loop(limit, MOST_STALLED, uop).reason
        except TripleFault:
            self.intercept_shutdown()
            self.spend_charged()
        return self._run(limit).reason

    def step(self, count: int = 1) -> Stopped:
        """Run `count` instructions, the delivery of interrupts between them included; "steps" when all are done.

        The run goes on afterwards as if it had not been stopped.
        """
        self.steps_left = count
        try:
            return self.run()
        finally:
            self.steps_left = UNCOUNTED

    def _loop(self, limit: int | None, max_stall: int, uop: int = 0) -> Stopped:
        self._limit = limit
        self._stall_at = None
        clock, control, q = self.clock, self.control, self.q
        run_native, exits = self.run_native, self._exits
        stepped = self.observer is not None or self.steps_left != UNCOUNTED
        why = self._resume()
        # Instructions when the last one was completed, and when it was: cycles of work and of all since then.
        completed, working_from, waiting_from = -1, 0, 0
        while True:
            if why:
                return Stopped(why)
            if self.left_guest:
                return _LEFT_GUEST
            deadline = clock.deadline
            if deadline is not None and deadline <= clock.now:
                clock.run_due()
                deadline = clock.deadline
            if control.request is not None:
                self._settle(uop)
                return Stopped("request")
            if limit is not None:
                if self.instructions != completed:
                    completed, working_from, waiting_from = self.instructions, clock.now, clock.now
                stalled = clock.now - working_from >= max_stall
                if completed >= limit or stalled or clock.now - waiting_from >= MOST_IDLE * clock.hz:
                    self._settle(uop)
                    return Stopped("limit")
            if stepped and self.steps_left <= 0:
                self._settle(uop)
                return Stopped("steps")
            if self.shadow and self._stops_here():
                return Stopped("breakpoint")
            if (
                self._intr or self._nmi or self.halted or self._reset_wanted or self.shadow or self.smi_pending
                or self.v_irq
            ):  # fmt: skip
                uop = self._attend(uop)
                if self.left_guest:
                    continue
                if self.halted:
                    before = clock.now
                    if not self._wait():
                        return Stopped("halted")
                    working_from += clock.now - before
                    continue
            flags = q[_SYSTEM_FLAGS]
            if flags & (TF | RF) or self.step_wanted:
                if flags & RF and not self.breakpoints:
                    flags = q[_SYSTEM_FLAGS] = flags & ~RF  # only instruction breakpoints look at it
                if flags & (TF | RF) or self.step_wanted:
                    self._settle(uop)
                    uop = 0
                    if self._stops_here():
                        return Stopped("breakpoint")
                    self._single_step()
                    continue
            if uop == 0 or self.redirected or stepped:
                self.redirected = False
                if uop:
                    self._settle(uop)
                uop = self._look_up()
                if uop == 0:
                    continue
                if stepped or self.blocks.breakpoints.addresses:
                    block = self.blocks.block_at(uop)
                    if stepped or block.watched:
                        why, uop = self._walk(block, 0), 0
                        continue
            if self.charged:
                clock.now += self.charged
                self.charged = 0
            now = clock.now
            zero = self._sample_at if self._sample_at > now else self._next_sample(now)
            if deadline is not None and deadline <= zero:
                # Native code is left at the first block's end at or behind the deadline, whatever else it is left for.
                zero = deadline - 1
            if limit is not None:
                # So too at the first block's end at or behind the limit: no instruction takes less than one cycle.
                self._stall_at = working_from + max_stall
                zero = min(zero, now + limit - self.instructions - 1, self._stall_at - 1)
            if zero != self._zero:
                self._zero = zero  # as _set_zero
                q[_TSC_AT_ZERO] = zero + self.tsc_offset & _M64
            code = run_native(uop, zero, zero - now)
            uop = exits[code](q[_EXIT_UOP])

    def _settle(self, uop: int) -> None:
        """Make `rip` true where the run has come to."""
        if uop:
            self.rip = self.blocks.block_at(uop).rip_of(uop)

    def _look_up(self) -> int:
        """The record at rip, or 0 when a fault was delivered instead."""
        translation = self._translation
        if translation is not None and self._mode is translation.mode:
            block = translation.latest.get(self.rip)
            if block is not None:
                return block.address  # its header looks the page up
        try:
            return self._find(self.rip).address
        except Fault as fault:
            self.instruction_rip = self.rip
            self._deliver(fault)
            return 0

    def _attend(self, uop: int) -> int:
        """Look at INIT, SMI, NMI, INTR and the virtual interrupt between two instructions (APM vol. 2, table 8-8)."""
        self._settle(uop)
        if not self.gif:
            self.shadow = False
            return uop
        if self._reset_wanted and not self.in_smm:
            if not self.event_intercepted("init"):
                self._reset_wanted = False
                if self.vm_cr & VM_CR_R_INIT:
                    self.halted = False
                    self._deliver(Fault(vectors.SX, 1))  # INIT redirected (15.21.8 and 15.28)
                else:
                    self.initialize()
            return self._left()
        if self.smi_pending and not self.in_smm:
            if not self.event_intercepted("smi"):
                self.enter_smm()
            return self._left()
        if self.shadow:
            self.shadow = False
            self.shadow_place = self.rip, self.instructions
            nmi = self._nmi and not self.nmi_blocked
            if not self.halted and (nmi or self._intr_passes() or self.takes_virtual_interrupt()):
                # The instruction after STI, MOV SS or POP SS comes first; what it shadows itself does not count.
                guest = self.in_guest
                self._single_step()
                self.shadow, uop = False, 0
                if self.in_guest != guest or not self.gif:
                    return 0
        if self._nmi and not self.nmi_blocked:
            if not self.event_intercepted("nmi"):
                self._nmi = False
                self.nmi_blocked = True
                self.pending_changed()
                self._interrupt(vectors.NMI, EVENT_NMI)
            return self._left()
        if self._intr_passes():
            if not self.event_intercepted("intr"):
                self._interrupt(self._acknowledge())
            return self._left()
        if self.v_irq and self.takes_virtual_interrupt():
            self.halted = False
            try:
                self.take_virtual_interrupt()
            except VmExit as exit_:
                self.leave_guest(exit_)
            return self._left()
        return uop

    def _intr_passes(self) -> bool:
        return self._intr and self.takes_physical_interrupts()

    def _interrupt(self, vector: int, kind: int = EVENT_INTR) -> None:
        self.halted = False
        self.charge_event(self.costs.interrupt)
        try:
            self.deliver_interrupt(vector, kind)
        except VmExit as exit_:
            self.leave_guest(exit_)

    def _left(self) -> int:
        """Behind an interrupt: look up `rip`."""
        self.spend_charged()
        self.redirected = True
        return 0

    def _wait(self) -> bool:
        """Halted: let time pass to the next event. False when nothing will ever wake the processor."""
        deadline = self.clock.deadline
        if deadline is None:
            return False
        if not self.takes_physical_interrupts() and (self.in_smm or not self.expects_unmaskable()):
            return False
        cycles = deadline - self.clock.now
        if cycles > 0:
            self.on_idle(cycles)
            deadline = self.clock.deadline
            if deadline is None:
                return False
            slept = max(0, deadline - self.clock.now)
            self.idle_cycles += slept
            self.clock.now += slept
        return True
