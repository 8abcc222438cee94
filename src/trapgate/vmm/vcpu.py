"""A virtual processor: its VMCB, what waits to be delivered to it, and the loop of entries and exits."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from trapgate.arch import vectors, vmcb
from trapgate.arch.breakpoints import DR6_BS
from trapgate.arch.registers import CR0_PE, CS, DEBUG_CTL_BTF, EFER_LMA, EFER_SVME, RF, TF, VM
from trapgate.arch.segments import ATTRIBUTE_DB, ATTRIBUTE_L
from trapgate.arch.vectors import CONTRIBUTORY, WITH_ERROR_CODE
from trapgate.machine.control import DebugStop
from trapgate.vmm.backend import Backend
from trapgate.vmm.control_block import SEGMENTS, ControlBlock
from trapgate.vmm.emulate import GuestFault, NotEmulated, emulate
from trapgate.vmm.errors import EntryRefused, UnexpectedExit
from trapgate.vmm.linear import LinearMemory
from trapgate.vmm.nested_svm.events import intercept_exception, intercept_shutdown, prepare_event
from trapgate.vmm.nested_svm.exits import handler as nested_handler
from trapgate.vmm.nested_svm.paging import NestedPageFault
from trapgate.vmm.smm import SystemManagement
from trapgate.vmm.statistics import ExitStatistics

if TYPE_CHECKING:
    from trapgate.vmm.nested_svm import NestedSvm
    from trapgate.vmm.techniques.base import Technique
    from trapgate.vmm.vm import VirtualMachine

#: A virtual interrupt that only asks to be told when the guest can take one: highest priority, V_TPR ignored.
_WINDOW = vmcb.V_IRQ | 0xF << vmcb.V_PRIORITY_SHIFT | vmcb.V_IGNORE_TPR


class VirtualCpu:
    """The one processor of a virtual machine. `gpr` are rax ... r15; rax and rsp are brought from and to the VMCB."""

    def __init__(self, vm: VirtualMachine, backend: Backend, block: ControlBlock) -> None:
        self.vm, self.backend, self.block = vm, backend, block
        self.gpr = backend.gprs
        self._has_next_rip = "NRIP_SAVE" in backend.profile.svm_features
        self.technique: Technique
        #: The guest's own AMD-V.
        self.nested: NestedSvm
        #: Level of INTR, as the guest's board drives it.
        self.intr = False
        self.nmi = False
        #: An NMI handler runs: no other NMI before its IRET.
        self.nmi_masked = False
        self.smm = SystemManagement(self)
        #: INIT#: reset before the next entry.
        self.reset_wanted = False
        #: The loop is to return before the next entry, as with `pause_at`.
        self.pause_wanted = False
        #: What EVENTINJ is to deliver at the next entry, 0 for nothing.
        self.event = 0
        #: What EVENTINJ has had at the last entry.
        self.injected = 0
        self.inside = False
        #: V_IRQ only asks to be told when the guest can take an interrupt.
        self.window = False
        #: Why the guest can no longer run: "triple-fault", "halted"; "" while it can.
        self.stopped = ""
        self.statistics = ExitStatistics()
        self.memory = LinearMemory(vm.memory, vm.board.bus, self._translate, self._is_wide)
        self._extra_saved = False
        #: Modelled cycles of an exit's handler, and of an access to the guest's state: a VMCB, or plain memory.
        self._exit_work: dict[int, int] = {}
        self._read_cost = self._write_cost = 0
        #: Calls of the emulator in the present exit.
        self._emulated = 0
        self.exits: dict[int, Callable[[VirtualCpu], None]] = {}

    # -- pins of the board

    def set_intr(self, level: bool) -> None:
        """INTR: a guest that runs is left so that the hypervisor can deliver the interrupt."""
        self.intr = level
        if self.inside and level:
            self.backend.interrupt(True)

    def pulse_nmi(self) -> None:
        """NMI."""
        self.nmi = True
        if self.inside:
            self.backend.interrupt(True)

    def pulse_smi(self) -> None:
        """SMI#."""
        self.smm.pending = True
        if self.inside:
            self.backend.interrupt(True)

    def request_reset(self) -> None:
        """INIT#."""
        self.reset_wanted = True
        if self.inside:
            self.backend.interrupt(True)

    # -- the loop

    def run(self, pause_at: int | None = None) -> str:
        """Run the guest until the run is to end: "request", "limit", "triple-fault", "halted", "unimplemented"; or
        "paused", between two entries, once it has come to `pause_at` instructions."""
        backend, control, nested = self.backend, self.vm.control, self.nested
        exits, clock, smm = self.exits, backend.clock, self.smm
        statistics, memory, vm = self.statistics, self.memory, self.vm
        while not self.stopped:
            if self.reset_wanted and not smm.inside:
                self.reset_wanted = False
                self.vm.reset_processor()
            if control.request is not None and not isinstance(control.request, DebugStop):
                return "request"  # a debugger's is for the processor to see, once the guest runs
            if self.pause_wanted or (pause_at is not None and backend.instructions >= pause_at):
                self.pause_wanted = False
                return "paused"
            if smm.pending and not smm.inside:
                smm.before_entry()
            if nested.in_l2:
                prepare_event(nested)
                nested.before_entry()
            else:
                if self.event or self.intr or self.nmi or self.window:
                    self._prepare_event()
                else:
                    self.block[vmcb.EVENTINJ] = self.injected = 0
                self.technique.before_entry()
            block = self.block
            self.inside = True
            reason = self.technique.enter(block.address)
            self.inside = False
            if reason != "vmexit":
                return reason
            self._extra_saved = False
            code = block[vmcb.EXITCODE]
            started = clock.now
            interrupted = block[vmcb.EXITINTINFO]
            if interrupted & vmcb.EVENT_VALID:
                self.event = interrupted
            handler = nested_handler(nested, code) if nested.in_l2 else None
            handler = handler or self.technique.exits.get(code) or exits.get(code)
            if handler is None:
                raise self._unexpected(code)
            slept = vm.idle_cycles
            try:
                handler(self)
            except NestedPageFault as fault:
                nested.leave(vmcb.EXIT_NPF, fault.info1, fault.info2)
            backend.charge(self._work(code))
            if memory.device_accesses:
                backend.charge_device(memory.device_accesses * backend.costs.device_memory)
                memory.device_accesses = 0
            statistics.add(code, clock.now - started - (vm.idle_cycles - slept))
        return self.stopped

    def use(self, technique: Technique) -> None:
        """Run the guest by a technique, whose costs accesses to its state then have."""
        self.technique = technique
        costs = self.backend.costs
        self._read_cost = costs.vmcb_read if technique.needs_amd_v else costs.deprivileged_field
        self._write_cost = costs.vmcb_write if technique.needs_amd_v else costs.deprivileged_field

    def _work(self, code: int) -> int:
        """Modelled cycles of what the hypervisor did since the last exit, accesses to the guest's state included."""
        block = self.block
        work = self._exit_work.get(code)
        if work is None:
            work = self._exit_work[code] = self.backend.costs.exit_work(vmcb.exit_name(code))
        work += block.reads * self._read_cost + block.writes * self._write_cost
        block.reads = block.writes = 0
        if self._emulated:
            work += self._emulated * self.backend.costs.emulated_instruction
            self._emulated = 0
        return work

    def _unexpected(self, code: int) -> Exception:
        if code == vmcb.EXIT_INVALID:
            return EntryRefused(self.backend.refusal)
        return UnexpectedExit(vmcb.exit_name(code), self.rip)

    # -- events

    def _prepare_event(self) -> None:
        """Choose what EVENTINJ delivers; ask for an exit when the guest can take what has to wait.

        | waiting                            | the guest can take it | done                          |
        |------------------------------------|-----------------------|-------------------------------|
        | a an event, or one was interrupted | -                     | EVENTINJ                      |
        | b NMI                              | no NMI handler runs   | EVENTINJ                      |
        | c INTR                             | IF, no shadow         | acknowledged, EVENTINJ        |
        | d INTR                             | no, or after (a), (b) | V_IRQ, so that VINTR exits    |
        """
        block, gif = self.block, self.nested.gif
        event = self.take_event()
        if not event and self.nmi and not self.nmi_masked and gif:  # b
            self.nmi = False
            self.nmi_masked = True
            block.intercept("iret")
            event = vmcb.EVENT_VALID | vmcb.EVENT_NMI << vmcb.EVENT_TYPE_SHIFT | vectors.NMI
        if self.intr and gif:
            if not event and block.interruptible:  # c
                event = vmcb.EVENT_VALID | self.vm.board.acknowledge()
            if self.intr and not self.window:  # d
                self.set_window(True)
        elif self.window:
            self.set_window(False)
        block[vmcb.EVENTINJ] = self.injected = event

    def take_event(self) -> int:
        """What EVENTINJ is to deliver, 0 for nothing.

        INT n, INT3 and INTO whose delivery was interrupted are carried out again instead: rip is still theirs, and
        injected they would return to themselves.
        """
        event, self.event = self.event, 0
        kind = event >> vmcb.EVENT_TYPE_SHIFT & 7
        is_software = kind == vmcb.EVENT_SOFTWARE or (
            kind == vmcb.EVENT_EXCEPTION and event & 0xFF in (vectors.BP, vectors.OF)
        )
        return 0 if is_software and event != self.injected else event

    def set_window(self, wanted: bool) -> None:
        """Exit, or no longer, as soon as the guest can take an interrupt."""
        self.window = wanted
        block = self.block
        word = block[vmcb.VIRTUAL_INTERRUPT] & ~(_WINDOW | vmcb.V_IRQ)
        block[vmcb.VIRTUAL_INTERRUPT] = word | (_WINDOW if wanted else 0)
        block.intercept("vintr", wanted)

    def inject(self, fault: GuestFault) -> None:
        """Deliver an exception at the next entry; with one that was being delivered it may be #DF (8.2.9)."""
        vector, error = fault.vector, fault.error
        if intercept_exception(self.nested, vector, error, fault.address):
            return
        self.block.set_byte(vmcb.INTERRUPT_SHADOW, 0)
        if fault.address is not None:
            self.block[vmcb.CR2] = fault.address
        first = self.event
        if first & vmcb.EVENT_VALID and first >> vmcb.EVENT_TYPE_SHIFT & 7 == vmcb.EVENT_EXCEPTION:
            other = first & 0xFF
            if other == vectors.DF:
                self.triple_fault()
                return
            contributory = vector in CONTRIBUTORY
            if (other in CONTRIBUTORY and contributory) or (
                other == vectors.PF and (contributory or vector == vectors.PF)
            ):
                vector, error = vectors.DF, 0
                if intercept_exception(self.nested, vector, error, None):
                    return
        event = vmcb.EVENT_VALID | vmcb.EVENT_EXCEPTION << vmcb.EVENT_TYPE_SHIFT | vector
        if vector in WITH_ERROR_CODE and self.block[vmcb.CR0] & CR0_PE:
            event |= vmcb.EVENT_ERROR_VALID | (error or 0) << vmcb.EVENT_ERROR_SHIFT
        self.event = event

    def triple_fault(self) -> None:
        """Shutdown: the guest cannot go on, unless it is a guest's guest."""
        if intercept_shutdown(self.nested):
            return
        self.stopped = "triple-fault"

    # -- registers, as the emulator's Protocol wants them

    @property
    def rip(self) -> int:
        """Instruction pointer."""
        return self.block[vmcb.RIP]

    @rip.setter
    def rip(self, value: int) -> None:
        self.block[vmcb.RIP] = value

    @property
    def rflags(self) -> int:
        """Flags."""
        return self.block[vmcb.RFLAGS]

    @rflags.setter
    def rflags(self, value: int) -> None:
        self.block[vmcb.RFLAGS] = value

    @property
    def cpl(self) -> int:
        """Current privilege level."""
        return self.block.byte(vmcb.CPL)

    @property
    def cr0(self) -> int:
        """CR0 as the guest sees it."""
        return self.technique.cr0

    @property
    def cr3(self) -> int:
        """CR3 as the guest sees it."""
        return self.technique.cr3

    @property
    def cr4(self) -> int:
        """CR4 as the guest sees it."""
        return self.technique.cr4

    @property
    def efer(self) -> int:
        """EFER as the guest sees it: SVME is the hypervisor's."""
        return self.technique.efer & ~EFER_SVME

    def segment(self, number: int) -> tuple[int, int, int, int]:
        """(selector, base, limit, attributes)."""
        if number >= 4 and not self._extra_saved:
            self.backend.vmsave(self.block.address)
            self._extra_saved = True
        return self.block.segment(SEGMENTS[number])

    def xmm(self, number: int) -> bytes:
        """An XMM register."""
        return self.backend.xmm(number)

    def set_xmm(self, number: int, value: bytes) -> None:
        """Write an XMM register."""
        self.backend.set_xmm(number, value)

    def extra_state_changed(self) -> None:
        """FS, GS, TR, LDTR or the MSRs of VMSAVE have been written in the processor."""
        self._extra_saved = False

    @property
    def interruptible(self) -> bool:
        """Whether an interrupt of the board's would be taken now."""
        if self.nested.in_l2:
            return self.nested.takes_interrupts
        return self.nested.gif and self.block.interruptible

    @property
    def bits(self) -> int:
        """16, 32 or 64: the code segment's size."""
        attributes = self.block.segment(SEGMENTS[CS])[3]
        if attributes & ATTRIBUTE_L and self.efer & EFER_LMA:
            return 64
        return 32 if attributes & ATTRIBUTE_DB else 16

    @property
    def real_mode(self) -> bool:
        """CR0.PE is clear, or virtual-8086 mode."""
        return not self.cr0 & CR0_PE or bool(self.rflags & VM and not self.efer & EFER_LMA)

    def _is_wide(self) -> bool:
        return bool(self.technique.efer & EFER_LMA)

    def _translate(self, linear: int, access: int) -> int:
        return self.technique.translate(linear, access)

    # -- instructions

    @property
    def next_rip(self) -> int:
        """The instruction pointer behind the instruction that exited."""
        return self.block[vmcb.NEXT_RIP] if self._has_next_rip else self.vm.next_rip(self)

    def skip(self) -> bool:
        """Go on behind the instruction that exited; whether it ends in #DB."""
        self.block[vmcb.RIP] = self.next_rip
        return self.completed()

    def completed(self, hits: int = 0) -> bool:
        """One of the guest's instructions has been carried out in its stead: the shadow of STI ends, #DB may follow.

        `hits`: the I/O breakpoints that it has hit, bits 3:0 of DR6 (APM vol. 2, 13.1.4). Returns whether #DB follows.
        """
        block = self.block
        block.set_byte(vmcb.INTERRUPT_SHADOW, 0)
        self.backend.retire(1)
        flags = block.peek(vmcb.RFLAGS)
        if flags & RF:
            block[vmcb.RFLAGS] = flags & ~RF
        # DebugCtl.BTF: only branches trap, and those do not come here.
        stepped = flags & TF and not block.peek(vmcb.DBGCTL) & DEBUG_CTL_BTF
        if hits or stepped:
            block[vmcb.DR6] = block[vmcb.DR6] & ~0xF | hits | (DR6_BS if stepped else 0)
            self.inject(GuestFault(vectors.DB))
            return True
        return False

    def begin_registers(self) -> None:
        """Bring rax and rsp from the VMCB to `gpr`."""
        self.gpr[0], self.gpr[4] = self.block[vmcb.RAX], self.block[vmcb.RSP]

    def end_registers(self) -> None:
        """Bring them back."""
        self.block[vmcb.RAX], self.block[vmcb.RSP] = self.gpr[0], self.gpr[4]

    def emulate(self) -> bool:
        """Carry out the guest's instruction in its place; a fault is injected. False: the emulator does not know it."""
        self.begin_registers()
        self.memory.fetch_access = 4 if self.cpl == 3 else 0
        self._emulated += 1
        try:
            done = emulate(self, self.memory)
        except GuestFault as fault:
            self.end_registers()
            self.inject(fault)
            return True
        except NestedPageFault:
            self.end_registers()
            raise
        except NotEmulated:
            return False
        self.end_registers()
        if done.finished:
            self.completed()
        return True
