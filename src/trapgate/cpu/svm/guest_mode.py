"""Guest mode: VMRUN, #VMEXIT, GIF, SMM in a guest (APM vol. 2, 15.5 to 15.7, 15.13, 15.17).

A guest may be started by a hypervisor that the processor runs itself, or by one outside (`python_host`), for which the
processor stops at #VMEXIT. Both take the same way; only the host's registers are nobody's business in the second case.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping

from trapgate.arch import layout, vectors, vmcb
from trapgate.arch.registers import CR0_PG, CR0_WP, RF, TF
from trapgate.arch.vmrun_checks import control_fault, event_fault
from trapgate.cpu import tlb
from trapgate.cpu.faults import TripleFault, VmExit
from trapgate.cpu.mode import KeptMode
from trapgate.cpu.svm import guest_state
from trapgate.cpu.svm.controls import Controls
from trapgate.cpu.svm.intercepts import guest_forms, translated_forms
from trapgate.cpu.svm.native_intercepts import NativeIntercepts
from trapgate.cpu.svm.world_switch import SAME_ALL, SAME_CONTROLS
from trapgate.isa.processor import PythonForm

# As words of the state block, and of a VMCB.
_WORLD_VMCB, _RIP, _IN_GUEST = layout.WORLD_VMCB >> 3, layout.RIP >> 3, layout.IN_GUEST >> 3
_VIRTUAL_INTERRUPT, _NEXT_RIP = vmcb.VIRTUAL_INTERRUPT >> 3, vmcb.NEXT_RIP >> 3
_INTERRUPT_SHADOW = vmcb.INTERRUPT_SHADOW >> 3
_EXITCODE, _V_IRQ = vmcb.EXITCODE, vmcb.V_IRQ
_EXIT = struct.Struct("<4Q")
_QWORD = struct.Struct("<Q")
_END = vmcb.LBR_CONTROL + 8
NOWHERE = (-1, -1)
_EXIT_CODES_WITH_BYTES = frozenset((vmcb.EXIT_EXCEPTION + vectors.PF, vmcb.EXIT_NPF))
_M64 = (1 << 64) - 1


class GuestMode(NativeIntercepts):
    """A processor with AMD-V."""

    _python_host = False
    #: Set at #VMEXIT for such a hypervisor.
    left_guest = False
    #: It is charged as such a guest, though nothing of its code needs replacing: in real mode.
    costs_as_translated = False
    #: The hypervisor carries out an event or an instruction in its guest's stead.
    interpreting = False
    #: `segment_writes` of the state block at the last #VMEXIT.
    stored_segments = -1
    #: Host RAM as 64-bit words.
    ram_words: memoryview
    #: `translated` at the last VMRUN.
    _was_translated = False
    _host_forms: Mapping[str, PythonForm] = {}
    _forms_inside: Mapping[str, PythonForm] = {}
    #: Why the last VMRUN was refused.
    refusal = ""
    #: #VMEXITs by exit code.
    exit_counts: dict[int, int]
    #: The guest that an SMI has interrupted: its ASID and whether it has nested paging.
    _under_smm: tuple[int, int] | None = None
    #: The host's registers of last-branch recording, while a guest has its own.
    host_lbr: tuple[int, ...] = ()
    #: RFLAGS.TF was set at the host's VMRUN: #DB follows when that is done, at #VMEXIT.
    trap_after_vmrun = False
    #: Where the last interrupt shadow was: rip and instructions done.
    shadow_place = NOWHERE
    forms: Mapping[str, PythonForm]
    #: Features of the profile.
    _saves_next_rip = _saves_bytes = False

    @property
    def python_host(self) -> bool:
        """Whether the hypervisor is a program outside, for which the processor stops at #VMEXIT."""
        return self._python_host

    @python_host.setter
    def python_host(self, value: bool) -> None:
        self._python_host = value
        self.q[layout.WORLD_STATE_OF >> 3] = 0
        if not value and self.forms is self._forms_inside:
            # What runs next is a host's own code.
            self.forms = self._host_forms
            self.intercepts_changed()

    def reset(self) -> None:
        """The state after RESET#: no guest, GIF set."""
        if self.in_guest:
            self.in_guest = self.v_irq = False
            self._move_time_stamp(-self.controls.tsc_offset)
            if not self._python_host:
                self._leave_forms()
            self.pending_changed()
        self._saves_next_rip = "NRIP_SAVE" in self.profile.svm_features
        self._saves_bytes = "DECODE_ASSISTS" in self.profile.svm_features
        self.segments = self.own_segments
        self.gif = True
        self.trap_after_vmrun = False
        self.vm_cr = self.hsave_pa = self.svm_key = 0
        self._fast_context: tuple[int, ...] = ()
        self._under_smm = None
        self._pause_left = self._pause_last = 0
        super().reset()
        self.intercepts_changed()

    def initialize(self) -> None:
        """INIT# leaves MSRs alone, AMD-V's too (APM vol. 2, 14.1.3)."""
        kept = self.vm_cr, self.hsave_pa, self.svm_key
        super().initialize()
        self.vm_cr, self.hsave_pa, self.svm_key = kept

    # -- VMRUN

    def vmrun(self, place: int) -> None:
        """Enter the guest whose VMCB is at host-physical `place`, which was checked to be a page of RAM."""
        self._charge_switch(True)
        self.vmcb = self.q[_WORLD_VMCB] = place
        if not self._python_host:
            same = self._leave_host()
        elif self.stored_segments == self.state.segment_writes and self.translated == self._was_translated:
            same = self.native_world_enter(self.state.address)
        else:
            same = 0
        self.enter(place, same)

    def enter(self, place: int, same: int) -> None:
        """The rest of VMRUN, behind `world_enter` or `world_exchange`, and with what that has said."""
        self.vmcb, self.shadow_place = place, NOWHERE
        if same == SAME_ALL:
            self._enter_again(place)
        else:
            self._enter_anew(place, same)

    def _leave_host(self) -> int:
        """Keep the state of a host that the processor runs itself; what `world_exchange` says."""
        self.host = guest_state.Host(self)
        if self.dr[7] & 0xFF:
            self.q[layout.WORLD_STATE_OF >> 3] = 0  # breakpoints are worked out anew
        same = self.native_world_exchange(self.state.address)
        if same == SAME_ALL:
            self.take_guest()
        return same

    def take_guest(self) -> None:
        """What plain Python keeps is the last guest's again, behind `world_exchange`."""
        self._enter_forms()
        guest_state.take_guest(self)

    def _enter_again(self, place: int) -> None:
        """The guest that was left last, and nothing in its VMCB is new that would have to be checked or worked out."""
        q, controls, words = self.q, self.controls, self.ram_words
        self.rip = q[_RIP]
        self.in_guest = self.redirected = True
        self.left_guest = self.halted = False
        q[_IN_GUEST] = 1
        place >>= 3
        self.shadow = bool(words[place + _INTERRUPT_SHADOW] & 1)
        controls.v_word = words[place + _VIRTUAL_INTERRUPT]  # the guest may have written CR8
        self._pause_left = controls.pause_count
        if controls.tsc_offset:
            self._move_time_stamp(controls.tsc_offset)
        if controls.tlb_control:
            self._flush_as_told(controls)
        if controls.v_irq:
            self.v_irq = True
            self.pending_changed()

    def _enter_anew(self, place: int, same: int) -> None:
        """Any other guest, or one whose VMCB has changed."""
        q = self.q
        self.before_write(place, vmcb.SIZE)
        if not same & SAME_CONTROLS:
            q[layout.WORLD_CONTROLS_OF >> 3] = 0
            controls = Controls(self.ram, place, self.profile.svm_features)
            host_cr0 = q[layout.CR0 >> 3] if not self._python_host else CR0_PG
            refused = control_fault(controls, self.profile, bool(host_cr0 & CR0_PG))
            self.controls = controls
            if refused:
                self._refuse(refused)
                return
            if not controls.lbr_virtualization:
                self.native_world_accept(self.state.address)
        else:
            controls = self.controls
            controls.v_word = self.ram_words[place + vmcb.VIRTUAL_INTERRUPT >> 3]
            controls.eventinj = self.ram_words[place + vmcb.EVENTINJ >> 3]
            refused = event_fault(controls.eventinj)
            if refused:
                self._refuse(refused)
                return
        refused = guest_state.load_guest(self, place, same)
        if refused:
            self._refuse(refused)
            return
        self._enter_mode(controls)
        self._inject_event(place)

    def _inject_event(self, place: int) -> None:
        """EVENTINJ's valid bit is cleared when the event has been delivered or its delivery intercepted (15.20)."""
        event = self.controls.eventinj
        if not event & vmcb.EVENT_VALID:
            return
        self.ram_words[place + vmcb.EVENTINJ >> 3] = event & ~vmcb.EVENT_VALID
        try:
            self.inject(event)
        except VmExit as exit_:
            self.leave_guest(exit_)
        except TripleFault:
            self.intercept_shutdown()

    def _enter_forms(self) -> None:
        """Instructions are the last guest's again."""
        if self.forms is not self._host_forms:
            self._host_forms = self.forms
            self._forms_inside = guest_forms(self.forms)
        self.forms, self.intercepted = self._forms_inside, self._intercepted_inside

    def keep_mode(self) -> KeptMode:
        """The present mode, if it comes back; the engine knows its code."""
        return None

    def take_mode(self, kept: KeptMode) -> None:
        """Go on in a mode that was kept, with the fields of the state block that belong to it in place."""
        self.mode_changed()

    def set_translated(self, translated: bool, deprivileged: bool) -> None:
        """How the next guest runs: its code translated, or as it is; its kernel at CPL 3."""
        if translated != self.translated:
            self.translated = translated
            self.mode_changed()
        if deprivileged != self.deprivileged:
            self.deprivileged = deprivileged
            self.mode_changed()

    def _charge_switch(self, entering: bool) -> None:
        if self.interpreting:
            return  # nobody is entered: the hypervisor works
        if self.translated or self.costs_as_translated:
            cycles = self.costs.deprivileged_entry if entering else self.costs.deprivileged_exit
        else:
            cycles = self.costs.vmrun if entering else self.costs.vmexit
        self.charged += cycles
        self.switch_cycles += cycles
        if not entering:
            self.q[tlb.EXIT_LINES >> 3] += self.costs.exit_lines

    def _refuse(self, why: str) -> None:
        """#VMEXIT(INVALID): the guest is not entered, and its state not saved (15.5.1)."""
        self.refusal = why
        self.exit_counts[vmcb.EXIT_INVALID] = self.exit_counts.get(vmcb.EXIT_INVALID, 0) + 1
        _EXIT.pack_into(self.ram, self.vmcb + vmcb.EXITCODE, vmcb.EXIT_INVALID, 0, 0, 0)
        self._charge_switch(False)
        self.left_guest = self.python_host
        if not self.python_host:
            self.gif = False
            self.write_dr(7, 0x400)  # as at every #VMEXIT

    def _enter_mode(self, controls: Controls) -> None:
        q = self.q
        self.in_guest, self.left_guest = True, False
        self._open_gate(True)
        q[layout.ASID >> 3] = controls.asid
        q[layout.NESTED >> 3] = int(controls.nested)
        q[layout.NESTED_CR3 >> 3] = controls.n_cr3
        self._move_time_stamp(controls.tsc_offset)
        self.q[layout.IN_GUEST >> 3] = 1
        self._flush_as_told(controls)
        self.fast_tables_belong_to_mode()
        if self.forms is not self._forms_inside or not self.python_host:
            self._host_forms = self.forms
        self._was_translated = self.translated
        make = translated_forms if self.translated else guest_forms
        self.forms = self._forms_inside = make(self._host_forms)
        self.halted = False
        self.shadow = bool(self.ram[self.vmcb + vmcb.INTERRUPT_SHADOW] & 1)
        self.v_irq = controls.v_irq
        self._pause_left = controls.pause_count
        self.intercepts_changed()
        self.pending_changed()

    def fast_tables_belong_to_mode(self) -> None:
        """The fast tables are not tagged: empty them when they were made for another ASID or other rules."""
        q = self.q
        context = (
            q[layout.ASID >> 3], q[layout.NESTED >> 3], q[layout.NESTED_CR3 >> 3],
            q[layout.CR0 >> 3] & (CR0_WP | CR0_PG),
        )  # fmt: skip
        if context != self._fast_context:
            self._fast_context = context
            self.native_reset_fast(self.state.address)

    def _flush_as_told(self, controls: Controls) -> None:
        """TLB_CONTROL (15.16.1). Without FlushByAsid every request flushes everything.

        | TLB_CONTROL | FlushByAsid | flushed                              |
        |-------------|-------------|--------------------------------------|
        | a 0         | any         | nothing                              |
        | b 1         | any         | all entries of all ASIDs             |
        | c 3         | yes         | all entries of the guest's ASID      |
        | d 7         | yes         | its entries that are not global      |
        | e others    | any         | reserved; here all, as (b)           |
        """
        what = controls.tlb_control
        if what == vmcb.FLUSH_NOTHING:  # a
            return
        by_asid = "FLUSH_BY_ASID" in self.profile.svm_features
        if by_asid and what in (vmcb.FLUSH_GUEST, vmcb.FLUSH_GUEST_NON_GLOBAL):  # c, d
            self.native_flush_asid(self.state.address, controls.asid, int(what == vmcb.FLUSH_GUEST_NON_GLOBAL))
        else:  # b, e
            self.native_flush_all(self.state.address)

    # -- #VMEXIT

    def leave_guest(self, exit_: VmExit) -> None:
        """#VMEXIT (15.6): save the guest, note why, and go on in the host."""
        place, controls, counts, code = self.vmcb, self.controls, self.exit_counts, exit_.code
        counts[code] = counts.get(code, 0) + 1
        self._charge_switch(False)
        if exit_.rip is not None:
            self.rip = exit_.rip
        guest_state.save_guest(self, place)
        words = self.ram_words
        _EXIT.pack_into(self.ram, place + _EXITCODE, code, exit_.info1, exit_.info2, self.delivering)
        self.delivering = 0
        word = controls.v_word & ~_V_IRQ
        at = place >> 3
        if self.v_irq:
            self.v_irq = False
            self.pending_changed()
            word |= _V_IRQ
        words[at + _VIRTUAL_INTERRUPT] = word
        shadowed = self.shadow or (
            self.shadow_place[0] == self.rip and self.shadow_place[1] == self.instructions_done()
        )
        self.ram[place + vmcb.INTERRUPT_SHADOW] = shadowed
        if self._saves_next_rip:
            words[at + _NEXT_RIP] = exit_.next_rip
        if self._saves_bytes:
            self._save_bytes(exit_)
        self.in_guest = self.shadow = self.halted = False
        if controls.tsc_offset:
            self._move_time_stamp(-controls.tsc_offset)
        self.q[_IN_GUEST] = 0
        if self._python_host:
            self.left_guest = True  # and the next instruction is a guest's again
        else:
            self._enter_host()

    def _enter_host(self) -> None:
        """Go on in the host that the processor runs itself."""
        self.gif = False
        self._leave_forms()
        assert self.host is not None
        guest_state.restore_host(self, self.host)
        self._fast_context = ()  # they are empty
        if self.trap_after_vmrun:
            self.trap_after_vmrun = False
            self.deliver_exception(self.debug_trap(0, single_step=True))

    def note_step(self, rip: int, flags: int) -> None:
        """A single step has begun or ended with the guest; `rip` and `flags` were those before it.

        VMRUN is one instruction of the host's, whose trap comes when it is done; a guest's instruction that was
        intercepted traps no more, and keeps RF (15.5.1, "VMRUN and TF/RF Bits in EFLAGS").
        """
        if self.in_guest:
            self.trap_after_vmrun = bool(flags & TF)
        elif flags & RF and _QWORD.unpack_from(self.ram, self.vmcb + vmcb.RIP)[0] == rip:
            place = self.vmcb + vmcb.RFLAGS
            _QWORD.pack_into(self.ram, place, _QWORD.unpack_from(self.ram, place)[0] | RF)

    def _move_time_stamp(self, amount: int) -> None:
        if amount:
            self.tsc_offset += amount
            self.time_stamp_moved()

    def time_stamp_moved(self) -> None:
        """The offset of the TSC has changed; the engine tells native code."""

    def _leave_forms(self) -> None:
        """Instructions are the host's again."""
        self.kept_guest = self.keep_mode()
        self.forms, self.intercepted = self._host_forms, self.seen_natives

    def _save_bytes(self, exit_: VmExit) -> None:
        """The bytes of the instruction whose data access faulted (15.8.4); none for a fetch and for other exits."""
        place = self.vmcb + vmcb.FETCHED_COUNT
        if exit_.code not in _EXIT_CODES_WITH_BYTES:
            self.ram[place] = 0
            return
        fetched = b"" if exit_.info1 & 0x10 else self.peek_code(15)
        self.ram[place : place + 16] = bytes([len(fetched)]) + fetched.ljust(15, b"\0")

    def peek_code(self, size: int) -> bytes:
        """Up to `size` bytes at rip without side effects; the engine knows."""
        return b""

    def instructions_done(self) -> int:
        """Instructions so far; the engine knows."""
        return 0

    # -- instructions

    def is_vmcb_page(self, place: int) -> bool:
        """Whether a VMCB can lie at host-physical `place`: memory must be there."""
        return self.is_ram(place)

    def vmload(self, place: int) -> None:
        """VMLOAD."""
        guest_state.vmload(self, place)

    def vmsave(self, place: int) -> None:
        """VMSAVE."""
        self.before_write(place + vmcb.FS, 0x300)
        guest_state.vmsave(self, place)

    def set_gif(self, value: bool) -> None:
        """STGI and CLGI (15.17): what waited is taken when GIF is set again."""
        self._open_gate(value)
        self.pending_changed()
        self.refetch()

    def _open_gate(self, value: bool) -> None:
        if value != self.gif:
            self.gif = value
            if self.dr[7] & 0xFF:
                self.breakpoints_changed()

    def flush_page_of(self, linear: int, asid: int) -> None:
        """INVLPGA (15.16.2)."""
        if asid >= self.profile.svm_asids:
            return
        self.native_flush_page_asid(self.state.address, linear, asid)
        self.refetch()

    # -- SMM

    def enter_smm(self) -> None:
        """An SMI that is not intercepted: SMM is outside the guest, which waits (15.13.3)."""
        q = self.q
        if self.in_guest:
            self._under_smm = q[layout.ASID >> 3], q[layout.NESTED >> 3]
            self.in_guest, self.forms = False, self._host_forms
            q[layout.IN_GUEST >> 3] = 0
            q[layout.ASID >> 3] = q[layout.NESTED >> 3] = 0
            self.intercepts_changed()
        super().enter_smm()
        self.native_flush_all(self.state.address)

    def leave_smm(self) -> None:
        """RSM: back to the guest, if one was interrupted."""
        super().leave_smm()
        self.native_flush_all(self.state.address)
        if self._under_smm is not None:
            q = self.q
            q[layout.ASID >> 3], q[layout.NESTED >> 3] = self._under_smm
            self._under_smm = None
            self._host_forms = self.forms
            self.in_guest, self.forms = True, guest_forms(self.forms)
            q[layout.IN_GUEST >> 3] = 1
            self.intercepts_changed()
            self.fast_tables_belong_to_mode()
