"""Guests of a hypervisor outside: VMRUN until #VMEXIT."""

from __future__ import annotations

from abc import abstractmethod

from trapgate.arch import layout, vmcb
from trapgate.cpu.faults import TripleFault, Unimplemented, VmExit
from trapgate.cpu.svm.world_switch import EXIT_LEFT_GUEST, NOT_RUN, SAME_ALL
from trapgate.engine.debug_traps import DebugTraps
from trapgate.engine.native_core import LOW, SLICE
from trapgate.engine.stepping import UNCOUNTED
from trapgate.machine.errors import UnimplementedDevice

_M64 = (1 << 64) - 1
# Words of the state block and of a VMCB.
_EXIT_BUDGET, _EXIT_UOP, _TSC_AT_ZERO = layout.EXIT_BUDGET >> 3, layout.EXIT_UOP >> 3, layout.TSC_AT_ZERO >> 3
_WORLD_VMCB, _WORLD_BUDGET, _WORLD_EXITS = layout.WORLD_VMCB >> 3, layout.WORLD_BUDGET >> 3, layout.WORLD_EXITS >> 3
_EXITCODE, _VIRTUAL_INTERRUPT = vmcb.EXITCODE >> 3, vmcb.VIRTUAL_INTERRUPT >> 3


class GuestRuns(DebugTraps):
    """A processor whose hypervisor may be a program outside."""

    #: What was wanted, where `run_guest` has returned "unimplemented".
    stop_report = ""

    @abstractmethod
    def go_on(self, limit: int | None, uop: int) -> str:
        """Run from a record (0: look up `rip`) until something stops the run; why."""

    def run_guest(self, vmcb_address: int, limit: int | None = None) -> str:
        """VMRUN of the VMCB at a host-physical address, until #VMEXIT or a stop of the run.

        Returns "vmexit", or the reason for which the run has stopped: "request", "triple-fault", "unimplemented" (see
        `stop_report`), or "limit" once `limit` instructions have run since the processor was made.
        """
        try:
            deadline = self.clock.deadline
            if self._is_quiet(vmcb_address) and limit is None and self.control.request is None:
                uop = self._run_again(vmcb_address, deadline)
            else:
                self.vmrun(vmcb_address)
                self.clock.now += self.charged
                self.charged = uop = 0
            return "vmexit" if self.left_guest else self.go_on(limit, uop)
        except (Unimplemented, UnimplementedDevice) as error:
            self.stop_report = str(error)
            return "unimplemented"
        except TripleFault:
            return "triple-fault"

    def _is_quiet(self, place: int) -> bool:
        """Whether the guest can go on where it has left, for all that plain Python knows."""
        mode, translation = self._mode, self._translation
        return (
            self.vmcb == place
            and self.stored_segments == self.state.segment_writes
            and self.translated == self._was_translated
            and not (self._intr or self._nmi or self._reset_wanted or self.smi_pending or self.step_wanted)
            and not (self.delivering or self.interpreting or self.charged or self.blocks.breakpoints.addresses)
            and mode is not None
            and translation is not None
            and translation.mode is mode
            and self.steps_left == UNCOUNTED
            and self.observer is None
            and self._rest is None
        )

    def _run_again(self, place: int, deadline: int | None) -> int:
        """VMRUN, and the loop's first turn, in one native call where nothing is new; the record to go on at.

        It does what `vmrun` and the loop do, at the same modelled cycles.
        """
        clock, q, controls = self.clock, self.q, self.controls
        self._charge_switch(True)
        now = clock.now + self.charged
        self.charged = 0
        zero = now + SLICE
        if deadline is not None and deadline <= zero:
            if deadline <= now:
                return self._enter_slowly(place, now)
            zero = deadline - 1
        self._zero = zero
        q[_TSC_AT_ZERO] = zero + self.tsc_offset + controls.tsc_offset & _M64
        q[_WORLD_VMCB], q[_WORLD_BUDGET] = place, (zero - now << 32) + LOW
        self.in_guest, self.redirected = True, False
        code = self.native_world_run(self.state.address)
        if code >= NOT_RUN:
            self.in_guest = False
            return self._enter_slowly(place, now, code - NOT_RUN)
        budget = q[_EXIT_BUDGET]
        if budget >> 63:
            budget -= 1 << 64
        clock.now = zero - (budget >> 32)
        self.instructions += LOW - (budget & LOW)
        if code == EXIT_LEFT_GUEST:
            self.in_guest, self.left_guest = False, True
            counts, code = self.exit_counts, self.ram_words[(place >> 3) + _EXITCODE]
            counts[code] = counts.get(code, 0) + 1
            self._charge_switch(False)
            clock.now += self.charged
            self.charged = 0
            return 0
        self.left_guest = False
        controls.v_word = self.ram_words[(place >> 3) + _VIRTUAL_INTERRUPT]
        self._pause_left = controls.pause_count
        self.tsc_offset += controls.tsc_offset
        self.settle_native(zero)
        try:
            return self._exits[code](q[_EXIT_UOP])
        except TripleFault:
            self.intercept_shutdown()
            self.spend_charged()
            return 0

    def _enter_slowly(self, place: int, now: int, same: int | None = None) -> int:
        """What `vmrun` does behind what has been done."""
        self.clock.now = now
        self._set_zero(now)
        self.q[_WORLD_VMCB] = place
        self.enter(place, self.native_world_enter(self.state.address) if same is None else same)
        self.clock.now += self.charged
        self.charged = 0
        translation = self._translation
        if same == SAME_ALL and translation is not None:
            block = translation.latest.get(self.rip)
            if block is not None:
                translation.remember(self.rip, block.address)  # where `world_run` looks
        return 0

    def interpret_guest(self, vmcb_address: int, instructions: int) -> str:
        """As `run_guest`, for the injected event and at most `instructions` (0 or 1) of the guest: then it is left.

        With this a hypervisor without AMD-V carries out in the guest's stead what the guest must not do itself.
        """
        self.interpreting = True
        try:
            self.vmrun(vmcb_address)
            if instructions and not self.left_guest:
                self._step()
            if not self.left_guest:
                self.leave_guest(VmExit(vmcb.EXIT_INTERPRETED, rip=self.rip))
        except (Unimplemented, UnimplementedDevice) as error:
            self.stop_report = str(error)
            return "unimplemented"
        except TripleFault:
            return "triple-fault"
        finally:
            self.interpreting = False
        if self.charged:
            self.spend_charged()
        return "vmexit"
