"""Guests of a hypervisor outside: VMRUN until #VMEXIT."""

from __future__ import annotations

from abc import abstractmethod

from trapgate.arch import layout, vmcb
from trapgate.arch.registers import EFER_LMA, RF, TF
from trapgate.cpu.faults import TripleFault, Unimplemented, VmExit
from trapgate.cpu.svm import world_switch
from trapgate.cpu.svm.guest_mode import NOWHERE
from trapgate.cpu.svm.guest_state import Host
from trapgate.cpu.svm.world_switch import EXIT_LEFT_GUEST, NOT_RUN, SAME_ALL
from trapgate.engine import record
from trapgate.engine.native_core import LOW
from trapgate.engine.ports import Ports
from trapgate.engine.stepping import UNCOUNTED
from trapgate.machine.errors import UnimplementedDevice

assert world_switch.EXIT_PYTHON == record.EXIT_PYTHON
assert (world_switch.SLOTS, world_switch.DISPLACEMENT) == (record.SLOTS, record.DISPLACEMENT)

_M64 = (1 << 64) - 1
# Words of the state block and of a VMCB.
_EXIT_UOP, _TSC_AT_ZERO = layout.EXIT_UOP >> 3, layout.TSC_AT_ZERO >> 3
_WORLD_VMCB, _WORLD_BUDGET, _WORLD_EXITS = layout.WORLD_VMCB >> 3, layout.WORLD_BUDGET >> 3, layout.WORLD_EXITS >> 3
_CPL = layout.CPL >> 3
_WORLD_STATE_OF, _WORLD_DR6, _EFER = layout.WORLD_STATE_OF >> 3, layout.WORLD_DR6 >> 3, layout.EFER >> 3
_EXITCODE, _VIRTUAL_INTERRUPT = vmcb.EXITCODE >> 3, vmcb.VIRTUAL_INTERRUPT >> 3


class GuestRuns(Ports):
    """A processor whose hypervisor may be a program outside."""

    #: What was wanted, where `run_guest` has returned "unimplemented".
    stop_report = ""
    #: Of the run that goes on.
    _limit: int | None = None

    @abstractmethod
    def _settle(self, uop: int) -> None: ...

    @abstractmethod
    def go_on(self, limit: int | None, uop: int) -> str:
        """Run from a record (0: look up `rip`) until something stops the run; why."""

    def run_guest(self, vmcb_address: int, limit: int | None = None) -> str:
        """VMRUN of the VMCB at a host-physical address, until #VMEXIT or a stop of the run.

        Returns "vmexit", or the reason for which the run has stopped: "request", "triple-fault", "unimplemented" (see
        `stop_report`), or "limit" once `limit` instructions have run since the processor was made.
        """
        try:
            if (
                limit is None
                and self.control.request is None
                and self.stored_segments == self.state.segment_writes
                and self.translated == self._was_translated
                and self._is_quiet(vmcb_address)
            ):
                uop = self._run_again(vmcb_address)
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

    def resume_guest(self, limit: int | None = None) -> str:
        """Go on where `run_guest` has stopped without #VMEXIT; returns what that does."""
        try:
            return self.go_on(limit, 0)
        except (Unimplemented, UnimplementedDevice) as error:
            self.stop_report = str(error)
            return "unimplemented"
        except TripleFault:
            return "triple-fault"

    def vmrun(self, place: int) -> None:
        """VMRUN, and for a host that the processor runs as much as one native call does where nothing is new."""
        kept, q = self.kept_guest, self.q
        if (
            not self._python_host
            and kept is not None
            and self._limit is None
            and not self.one_at_a_time
            and self.control.request is None
            and not self.dr[7] & 0xFF
            and q[_EFER] & EFER_LMA
            and self._is_quiet(place)
            and self.is_current(kept)
        ):
            self._round_trip(place)
        else:
            super().vmrun(place)

    def _is_quiet(self, place: int) -> bool:
        """Whether the guest can go on where it has left, for all that plain Python knows."""
        mode, translation = self._mode, self._translation
        return (
            self.vmcb == place
            and not (self._intr or self._nmi or self._reset_wanted or self.smi_pending or self.step_wanted)
            and not (self.delivering or self.interpreting or self.charged or self.blocks.breakpoints.addresses)
            and mode is not None
            and translation is not None
            and translation.mode is mode
            and self.steps_left == UNCOUNTED
            and self.observer is None
            and self._rest is None
        )

    def _begin(self, place: int) -> int:
        """Charge VMRUN and set the budget; the cycle at which that is 0, or 0 when an event is due first."""
        clock, q = self.clock, self.q
        self._charge_switch(True)
        clock.now += self.charged
        self.charged = 0
        now, deadline = clock.now, clock.deadline
        zero = self._sample_at if self._sample_at > now else self._next_sample(now)
        if deadline is not None and deadline <= zero:
            if deadline <= now:
                return 0
            zero = deadline - 1
        self._zero = zero
        q[_TSC_AT_ZERO] = zero + self.tsc_offset + self.controls.tsc_offset & _M64
        q[_WORLD_VMCB], q[_WORLD_BUDGET] = place, (zero - now << 32) + LOW
        self.in_guest, self.redirected = True, False
        return zero

    def _count_exit(self, place: int) -> None:
        """A #VMEXIT that native code has done."""
        if self._forced or self._pending_error is not None:
            self.settle_native(self._zero)
        self.in_guest = False
        counts, code = self.exit_counts, self.ram_words[(place >> 3) + _EXITCODE]
        counts[code] = counts.get(code, 0) + 1
        self._charge_switch(False)

    def _run_again(self, place: int) -> int:
        """VMRUN, and the loop's first turn, in one native call where nothing is new; the record to go on at.

        It does what `vmrun` and the loop do, at the same modelled cycles.
        """
        zero = self._begin(place)
        code = self.native_world_run(self.state.address) if zero else NOT_RUN
        if code >= NOT_RUN:
            self._enter_slowly(place, code - NOT_RUN)
            return 0
        if self.q[_CPL] != self._selected_cpl:
            self._follow_privilege()
        self.count_native(zero)
        if code != EXIT_LEFT_GUEST:
            return self._go_on_inside(code)
        self.left_guest = True
        self.stored_segments = self.state.segment_writes
        self._count_exit(place)
        self.clock.now += self.charged
        self.charged = 0
        return 0

    def _round_trip(self, place: int) -> None:
        """The same for a host that the processor runs. Where the guest has been left again, plain Python has the host's
        state still."""
        host = Host(self)
        zero = self._begin(place)
        if not zero:
            self.q[_WORLD_STATE_OF] = 0
        privileges, self._privileges = self._privileges, None  # the guest's privilege is not followed here
        code = self.native_world_round_trip(self.state.address)
        self._privileges = privileges
        if code == EXIT_LEFT_GUEST:
            self.count_native(zero)
            self._count_exit(place)
            if self.controls.tsc_offset:
                self._set_zero(zero)
            self.gif, self.redirected = False, True
            self.dr[6], self.dr[7] = self.q[_WORLD_DR6], 0x400
            self._fast_context = ()
            return
        self.host = host
        if code < NOT_RUN:
            self.count_native(zero)
            self.take_guest()
            uop = self._go_on_inside(code)
            if uop:
                self._settle(uop)
            self.redirected = True
            return
        if code == NOT_RUN + SAME_ALL:
            self.take_guest()
        self._enter_slowly(place, code - NOT_RUN)

    def _go_on_inside(self, code: int) -> int:
        """Native code was left in the guest: plain Python follows it there, and does what it was left for."""
        controls = self.controls
        self.vmcb, self.shadow_place = self.q[_WORLD_VMCB], NOWHERE
        self.in_guest = True
        self.left_guest = self.halted = self.shadow = self.redirected = False
        controls.v_word = self.ram_words[(self.vmcb >> 3) + _VIRTUAL_INTERRUPT]
        self._pause_left = controls.pause_count
        self.tsc_offset += controls.tsc_offset
        self.settle_native(self._zero)
        try:
            return self._exits[code](self.q[_EXIT_UOP])
        except TripleFault:
            self.intercept_shutdown()
            self.spend_charged()
            return 0

    def _enter_slowly(self, place: int, same: int) -> None:
        """What `vmrun` does, behind `_begin`."""
        self._set_zero(self.clock.now)
        self.q[_WORLD_VMCB] = place
        self.in_guest = False
        self.enter(place, same)
        self.clock.now += self.charged
        self.charged = 0
        translation = self._translation
        if same == SAME_ALL and translation is not None:
            block = translation.latest.get(self.rip)
            if block is not None:
                translation.remember(self.rip, block.address)  # where `world_run` looks

    def interpret_guest(self, vmcb_address: int, instructions: int) -> str:
        """As `run_guest`, for the injected event and at most `instructions` (0 or 1) of the guest: then it is left.

        With this a hypervisor without AMD-V carries out in the guest's stead what the guest must not do itself.
        """
        self.interpreting = True
        try:
            self.vmrun(vmcb_address)
            if instructions and not self.left_guest:
                try:
                    if self.q[layout.SYSTEM_FLAGS >> 3] & (TF | RF) or self.dr[7] & 0xFF:
                        self._single_step()
                    else:
                        self._step()
                except TripleFault:
                    self.intercept_shutdown()
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
