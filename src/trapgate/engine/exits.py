"""Why native code was left, one method each (engine/record.py has the codes).

Each gets the host address of a record and returns the record to go on at, or 0 to look up `rip`.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from functools import cached_property

from iced_x86 import Register

import trapgate.isa.system  # noqa: F401  (registers the Python forms)
from trapgate.arch import layout, vectors, vmcb
from trapgate.arch.registers import IF, RSP
from trapgate.cpu.access import WATCHED
from trapgate.cpu.debug import DR7_GD
from trapgate.cpu.faults import Fault, VmExit
from trapgate.cpu.lookup import NON_CANONICAL
from trapgate.cpu.walk import NESTED_PAGE_FAULT
from trapgate.engine import record
from trapgate.engine.block import Block
from trapgate.engine.native_core import NativeCore
from trapgate.isa.ir.value import signed

_M64 = (1 << 64) - 1


class Exits(NativeCore):
    """Handlers of the exits of native code."""

    #: Cycles of the instruction that Python carries out in the middle of a block.
    _inside_cycles = 1

    def _deliver(self, fault: Fault) -> None:
        if self.debug_hits or self.q[layout.WATCH_HITS >> 3]:
            self.take_hits()  # what a faulting instruction touched does not count
        if isinstance(fault, VmExit):
            self.leave_guest(fault)
            self.clock.now += self.charged
            self.charged = 0
            self.redirected = True
            return
        if fault.vector == vectors.DB:
            self.dr[7] &= ~DR7_GD
        self.charge_event(self.costs.exception)
        try:
            self.deliver_exception(fault)
        except VmExit as exit_:
            self.charge_event(-self.costs.exception)  # it was not delivered
            self.leave_guest(exit_)
        self.spend_charged()
        self.redirected = True

    def spend_charged(self) -> None:
        """Let the modelled time pass that plain Python has charged."""
        self.clock.now += self.charged
        self.charged = 0

    @cached_property
    def _exits(self) -> tuple[Callable[[int], int], ...]:
        """What is done for each exit code of native code."""
        return (
            self._exit_budget, self._exit_unlinked_target, self._exit_unlinked_next, self._exit_fault,
            self._exit_python, self._exit_lookup, self._exit_stale, self._exit_python_inside, self._exit_window,
            self._exit_repeat, self._exit_refetch, self._exit_delivered, self._exit_port,
        )  # fmt: skip

    @abstractmethod
    def _exit_port(self, uop: int) -> int:
        """IN or OUT (engine/ports.py)."""

    @abstractmethod
    def read_port_run(self, port: int, size: int, segment: int, offset: int, count: int) -> int:
        """Several turns of INS at once (engine/ports.py)."""

    @abstractmethod
    def write_port_run(self, port: int, size: int, segment: int, offset: int, count: int) -> int:
        """Several turns of OUTS at once."""

    def _exit_budget(self, uop: int) -> int:
        block = self.blocks.block_at(uop)
        now = self.clock.now
        if now >= self._sample_at:
            self._next_sample(now)
            self.run_profile.add(block, now)
        elif self.hot is None or not self.hot.always:
            return uop
        if self.hot is not None:
            generation, rip = self.blocks.generation, block.rip_of(uop)
            self.hot.sample(block)
            if self.blocks.generation != generation:
                # The blocks of a kept region were one too many for the arena: all have gone.
                self.rip = rip
                return 0
        return uop

    def _exit_unlinked_target(self, uop: int) -> int:
        block = self.blocks.block_at(uop)
        assert block.target is not None
        return self._link(block, True, block.target)

    def _exit_unlinked_next(self, uop: int) -> int:
        block = self.blocks.block_at(uop)
        return self._link(block, False, block.next_rip)

    def _link(self, block: Block, is_target: bool, rip: int) -> int:
        translation = block.translation
        mode = translation.mode
        self.rip = rip
        if mode.decode.bits == 64:
            linear, here = rip, block.rip
        else:
            if rip > mode.code_limit:
                self.instruction_rip = rip
                self._deliver(Fault(vectors.GP, 0))
                return 0
            linear, here = mode.code_base + rip & 0xFFFF_FFFF, mode.code_base + block.rip & 0xFFFF_FFFF
        if linear >> 12 == here >> 12 and block.second_page is None:
            page = block.page
        else:
            try:
                page = self._fetch(linear)
            except Fault as fault:
                self.instruction_rip = rip
                self._deliver(fault)
                return 0
        self.blocks.read_log()  # it may be full
        generation = self.blocks.generation
        to = self.blocks.find(translation, rip, page)
        if self.blocks.generation != generation:
            return 0
        if to.watched:
            return 0
        record_ = self.blocks.link(block, is_target, to)
        if self.hot is not None:
            self.hot.force(to)
        return record_

    def _partial(self, uop: int) -> Block:
        """Count the instructions of a block that were done before the record."""
        block = self.blocks.block_at(uop)
        done = block.index_of(uop)
        self.instructions += done
        self.clock.now += block.cycles_before(done)
        self.rip = self.instruction_rip = block.rip_of(uop)
        return block

    def _exit_fault(self, uop: int) -> int:
        block = self._partial(uop)
        q = self.q
        self.charged += q[layout.KNOWN_STALL >> 3]
        vector, error = q[layout.FAULT_VECTOR >> 3], q[layout.FAULT_ERROR >> 3]
        if vector == WATCHED:
            self.step_wanted = True
            return 0
        if vector == vectors.PF:
            address = q[layout.FAULT_ADDRESS >> 3]
            if uop == block.address:
                # The check of a block's page names the page; the processor names the first byte that it wanted.
                mode = block.translation.mode
                address = block.rip if mode.decode.bits == 64 else mode.code_base + block.rip & 0xFFFF_FFFF
            fault = Fault(vector, error, address)
        elif vector == NESTED_PAGE_FAULT:
            address = q[layout.FAULT_ADDRESS >> 3]
            if uop == block.address and error & vmcb.NPF_FINAL:
                mode = block.translation.mode
                address = address & ~0xFFF | (mode.code_base + block.rip) & 0xFFF  # as above
            fault = VmExit(vmcb.EXIT_NPF, error, address)
        else:
            if vector == NON_CANONICAL:
                vector = vectors.SS if self._uses_stack(block, uop) else vectors.GP
            fault = Fault(vector, None if error == _M64 else error)
        try:
            self._deliver(fault)
        finally:
            q[layout.KNOWN_FAULT >> 3] = 0
        return 0

    def _uses_stack(self, block: Block, uop: int) -> bool:
        """64-bit mode: a non-canonical address in a stack reference is #SS(0), not #GP(0) (APM vol. 2, 8.2.13)."""
        if uop < block.first:
            return False
        decoded = block.decoded[block.index_of(uop)]
        if decoded.form is None:
            return False
        if decoded.form.stack:
            # Pushes and pops are near rSP; a memory operand (PUSH, POP, CALL) may be anywhere.
            distance = signed(self.q[layout.FAULT_ADDRESS >> 3] - self.register(RSP, 64), 64)
            if abs(distance) <= 64:
                return True
        # The base register decides; overrides by ES, CS, SS and DS do nothing in 64-bit code.
        instruction = decoded.instruction
        if not any(shape.startswith("m") for shape in decoded.form.operands):
            return False
        if instruction.segment_prefix in (Register.FS, Register.GS):
            return False
        return instruction.memory_base in (Register.RSP, Register.RBP, Register.ESP, Register.EBP)

    def _exit_python(self, uop: int) -> int:
        blocks = self.blocks
        words, base = blocks.words, blocks.base
        site = blocks.sites[words[(uop + record.LINK - base) >> 3]]
        self.rip, self.instruction_rip = site.next_rip, site.rip
        decoded = site.decoded
        try:
            self.forms[decoded.name](self, decoded.instruction)
        except Fault as fault:
            # It has not been carried out: native code has counted it.
            self.instructions -= 1
            self.clock.now -= decoded.cycles
            self.rip = site.rip
            self._deliver(fault)
            return 0
        if self.charged:
            self.spend_charged()
        if self.debug_hits and not self.q[layout.STEPPING >> 3]:
            if self.shadow:
                self.step_wanted = True  # after MOV SS and POP SS: with the next instruction
            else:
                self._deliver(self.debug_trap(self.take_hits(), single_step=False))
                return 0
        if self.redirected:
            return 0
        return words[(uop + record.NEXT_LINK - base) >> 3]

    def _exit_python_inside(self, uop: int) -> int:
        block = self._partial(uop)
        decoded = block.decoded[block.index_of(uop)]
        form = self.forms.get(decoded.name + "_python")
        if form is None and self.x87_error_waits:
            form = self.forms["x87_error"]
        if form is None:
            self.unimplemented(f"the instruction {decoded.instruction} with these operands")
        self.rip = self.instruction_rip + decoded.length
        self._inside_cycles = decoded.cycles
        try:
            form(self, decoded.instruction)
        except Fault as fault:
            self.rip = self.instruction_rip
            self._deliver(fault)
            return 0
        self.instructions += 1
        self.clock.now += decoded.cycles
        if self.charged:
            self.spend_charged()
        if self.debug_hits and not self.q[layout.STEPPING >> 3]:
            self._deliver(self.debug_trap(self.take_hits(), single_step=False))
        return 0

    def report_x87_error(self) -> None:
        """A waiting x87 instruction with an exception pending and CR0.NE clear: FERR#, and a wait for an interrupt."""
        self.set_ferr(True)
        if self.in_guest and self.controls.misc1 & vmcb.misc1("ferr_freeze"):
            raise VmExit(vmcb.EXIT["ferr_freeze"], rip=self.instruction_rip)  # 15.14.2
        self.halted = True
        self.rip = self.instruction_rip
        self.instructions -= 1
        self.clock.now -= self._inside_cycles

    def _exit_lookup(self, uop: int) -> int:
        rip = self.q[layout.RIP >> 3]
        q = self.q
        if q[layout.EXIT_BUDGET >> 3] >> 63 or (q[layout.INTERRUPT_PENDING >> 3] and q[layout.SYSTEM_FLAGS >> 3] & IF):
            # What is due comes first, as where the jump cache knows the target; so does an interrupt behind IRETQ.
            self.rip = rip
            return 0
        self.blocks.read_log()  # it may be full
        generation = self.blocks.generation
        found = self._exit_lookup_at(rip)
        if found and self.blocks.generation == generation:
            self.blocks.note_indirect(uop, found)
        if found and self.hot is not None:
            self.hot.force(self.blocks.block_at(found))
        return found

    def _exit_lookup_at(self, rip: int) -> int:
        self.rip = rip
        try:
            block = self._find(rip)
        except Fault as fault:
            self.instruction_rip = rip
            self._deliver(fault)
            return 0
        if block.watched:
            return 0
        translation = self._translation
        assert translation is not None
        translation.remember(rip, block.address)
        return block.address

    def _exit_stale(self, uop: int) -> int:
        old = self._partial(uop)
        if uop > old.address:
            return 0
        # The jump cache, or a link made before the block went, still led here.
        return self._exit_lookup_at(old.rip)

    def _exit_window(self, uop: int) -> int:
        block = self.blocks.block_at(uop)
        self.rip = block.next_rip
        self.shadow = block.decoded[-1].name == "sti"
        return 0

    def _exit_repeat(self, uop: int) -> int:
        self._partial(uop)
        return 0

    def _exit_delivered(self, uop: int) -> int:
        self.rip = self.q[layout.RIP >> 3]
        self.redirected = True
        return 0

    def _exit_refetch(self, uop: int) -> int:
        block = self.blocks.block_at(uop)
        self.rip = block.rip
        block.translation.latest.pop(block.rip, None)
        if block.second_page is not None and block.valid:
            # The page that its instruction crosses into has changed.
            self.blocks.forget(block)
            # The checked page is in the TLB now; when it is not RAM, this stops the run.
            self._fetch(self.blocks.words[(uop + record.PAGE_LINEAR - self.blocks.base) >> 3])
        return 0
