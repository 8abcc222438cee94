"""Stepping: one instruction at a time, at the pace of native code.

Native code looks at interrupts and at the clock only where a block ends. A stepped run does the same: it takes the
block that native code would run, carries out its instructions one by one, and looks at the rest of the machine only
behind the last one. So a run that is stepped, traced or stopped at breakpoints has the same counts as one that is not.
"""

from __future__ import annotations

from typing import Protocol

import iced_x86 as iced

from trapgate.arch import layout
from trapgate.arch.registers import CS
from trapgate.cpu.faults import Fault
from trapgate.engine import record
from trapgate.engine.block import Block
from trapgate.engine.exits import Exits
from trapgate.engine.native_core import SLICE

#: `steps_left` of a processor that does not count its steps.
UNCOUNTED = 1 << 62
#: How a step ends when the instruction behind it in its block comes next.
_PLAIN = frozenset((record.EXIT_BUDGET, record.EXIT_UNLINKED_NEXT))
#: What a step ends with when its instruction could not be fetched.
_NO_CODE = -1


class Observer(Protocol):
    """Sees every instruction of a stepped run."""

    def before(self) -> None:
        """The instruction at `rip` comes next."""

    def after(self) -> None:
        """It has been carried out, or its exception has been delivered."""


class Stepping(Exits):
    """A processor that can go one instruction at a time."""

    #: Name of the operation that was stepped through last.
    last_operation = ""
    #: And the instruction.
    last_instruction = iced.Instruction()
    #: With an observer every block is stepped.
    observer: Observer | None = None
    steps_left = UNCOUNTED
    #: One instruction runs by itself.
    one_at_a_time = False
    #: The rest of a block in which the run was stopped: the block, the next instruction's index.
    _rest: tuple[Block, int] | None = None
    _paused = False
    #: The cycle at which a run with a limit ends if no instruction is completed until then.
    _stall_at: int | None = None
    #: Where the last breakpoint stopped the run: linear address, instructions so far. It does not stop it again.
    _passing = (-1, -1)

    def linear_rip(self, rip: int | None = None) -> int:
        """Linear address of the next instruction, or of the one at the offset `rip` of the code segment."""
        rip = self.rip if rip is None else rip
        return rip if self.bits == 64 else self.segments[CS].base + rip & 0xFFFF_FFFF

    def set_rip(self, value: int) -> None:
        """Go on at `value`, an offset in the code segment."""
        self.rip = value
        self._rest = None
        self.redirected = True

    def set_breakpoints(self, addresses: frozenset[int]) -> None:
        """Stop before the instructions at these linear addresses."""
        self.blocks.breakpoints.set(addresses)
        if self._rest is None:
            self.redirected = True

    def stop_again(self) -> None:
        """A breakpoint where the run has stopped before may stop it again: it was put back."""
        self._passing = (-1, -1)

    def rest_of_block(self, rip: int, page: int, index: int) -> None:
        """Go on in the middle of a block: that at `rip`, from a guest-physical page, before an instruction of it."""
        self._rest = self.blocks.find(self._select(), rip, page), index
        self.redirected = False

    def count_steps(self, count: int) -> None:
        """So many instructions have been carried out in the processor's stead."""
        self.steps_left -= count * (self.steps_left != UNCOUNTED)

    def pause(self) -> None:
        """Stop a stepped run behind the present instruction; for observers."""
        self._paused = True

    def _stops_here(self) -> bool:
        """Whether a breakpoint stops the run before the instruction at `rip`."""
        addresses = self.blocks.breakpoints.addresses
        if not addresses:
            return False
        place = self.linear_rip(), self.instructions
        if place[0] not in addresses or place == self._passing:
            return False
        self._passing = place
        return True

    def _resume(self) -> str:
        """Go through the rest of the block in which the run was stopped, as `_walk` does."""
        self._paused = False
        rest, self._rest = self.rest, None
        return "" if rest is None else self._walk(*rest)

    @property
    def rest(self) -> tuple[Block, int] | None:
        """The rest of a block in which the run was stopped, if it is still what comes next."""
        if self._rest is None:
            return None
        block, index = self._rest
        rip = block.rip + sum(d.length for d in block.decoded[:index])
        return self._rest if block.valid and not self.redirected and self.rip == rip else None

    def _walk(self, block: Block, index: int) -> str:
        """Step through a block from an instruction on.

        Returns "breakpoint" or "steps" when the run stops before an instruction, "" when the block has been left.
        """
        while index < len(block.decoded):
            why = "steps" if self.steps_left <= 0 else "breakpoint" if self._stops_here() else ""
            if why:
                self._rest = (block, index)
                return why
            form = block.decoded[index].form
            # A repeated instruction is left between two turns where native code would leave it.
            room = self._room(block, index) if form is not None and form.repeat else 0
            code = self._step(room)
            if code == record.EXIT_REPEAT and self._repeats_on(block, index) and not self._paused:
                continue
            index += 1
            plain = code in _PLAIN and block.valid
            if self._paused:
                self._paused = False
                if plain:
                    self._rest = (block, index)
                return "steps"
            if not plain:
                break
        return ""

    def _exit_repeat(self, uop: int) -> int:
        """The budget was used up in a repeated instruction.

        Where that is nobody's business but the run's (its slice or its limit has ended), the rest of the block comes
        next: it is the same block whenever native code happens to be left.
        """
        block = self._partial(uop)
        index = block.index_of(uop)
        if self._repeats_on(block, index):
            self._walk(block, index)
        return 0

    def _repeats_on(self, block: Block, index: int) -> bool:
        """Whether nothing happens between two turns of a block's instruction."""
        deadline, now = self.clock.deadline, self.clock.now
        if not block.valid or (self._stall_at is not None and now >= self._stall_at):
            return False
        if self.control.request is not None or (self._intr and self.takes_physical_interrupts()):
            return False
        if self.gif and (
            (self._nmi and not self.nmi_blocked) or ((self._reset_wanted or self.smi_pending) and not self.in_smm)
        ):
            return False
        return deadline is None or now - block.cycles_before(index) < deadline

    def _room(self, block: Block, index: int) -> int:
        """Cycles that an instruction of a block may take before native code would be left.

        Native code has by then spent what its page walks have cost; what the block's instructions cost it spends at the
        block's end.
        """
        deadline = self.clock.deadline
        spent = self.clock.now + self.charged - block.cycles_before(index)
        room = SLICE if self._stall_at is None else min(SLICE, self._stall_at - self.clock.now)
        return room if deadline is None else min(room, deadline - 1 - spent)

    def _step(self, room: int = 0) -> int:
        """Run exactly one instruction at rip, or take its fault; the exit code (engine/record.py) with which it ended.

        A repeated one may take `room` cycles before it is left between two turns.
        """
        observer = self.observer
        if observer is not None:
            observer.before()
        self.one_at_a_time = True
        try:
            code = self._step_natively(room)
        finally:
            self.one_at_a_time = False
        self.steps_left -= self.steps_left != UNCOUNTED
        if observer is not None:
            observer.after()
        return code

    def _step_natively(self, room: int) -> int:
        try:
            block = self._find(self.rip, single=True)
        except Fault as fault:
            self.instruction_rip = self.rip
            self._deliver(fault)
            return _NO_CODE
        self.last_operation, self.last_instruction = block.decoded[0].name, block.decoded[0].instruction
        self.redirected = False
        if self.charged:
            self.spend_charged()
        clock, q = self.clock, self.q
        self._set_zero(clock.now + room)
        delivers, q[layout.DELIVERS_FAULTS >> 3] = q[layout.DELIVERS_FAULTS >> 3], 0
        try:
            code = self.run_native(block.address, self._zero, room)
        finally:
            q[layout.DELIVERS_FAULTS >> 3] = delivers
        at = q[layout.EXIT_UOP >> 3]
        if code == record.EXIT_LOOKUP:
            self.rip = q[layout.RIP >> 3]
        elif code == record.EXIT_WINDOW:
            self._exit_window(at)
        elif code in (record.EXIT_PYTHON, record.EXIT_PORT):
            after = self._exit_python(at)
            if after:
                self.rip = self.blocks.block_at(after).rip_of(after)
        elif code == record.EXIT_FAULT:
            self._exit_fault(at)
        elif code == record.EXIT_PYTHON_INSIDE:
            self._exit_python_inside(at)
        elif code == record.EXIT_REFETCH:
            self._exit_refetch(at)
        elif code in (record.EXIT_UNLINKED_TARGET, record.EXIT_UNLINKED_NEXT):
            owner = self.blocks.block_at(at)
            taken = code == record.EXIT_UNLINKED_TARGET
            assert not taken or owner.target is not None
            self.rip = owner.target if taken and owner.target is not None else owner.next_rip
        elif code == record.EXIT_STALE:
            self._partial(at)  # it has written over itself
        else:
            self.rip = self.blocks.block_at(at).rip_of(at)
        return int(code)
