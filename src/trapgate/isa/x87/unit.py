"""The x87 unit as one instruction sees it: the register stack, the status word, and running the host's own unit.

A guest's instruction is carried out by the same instruction of the host on copies of the guest's registers, so that
80-bit results, NaNs, rounding and flags are the hardware's. While native code runs, the host's control word is the
guest's with all exceptions masked, and the host's register stack is empty between instructions.

What an instruction does has three arms:

* all operands are there and the guest masks every exception (nearly always): the host runs it with masked exceptions;
* the guest unmasks some exception: the host runs it with the guest's own control word, so that the hardware decides
  what is stored, and its flags are cleared (FNCLEX does not wait) before a waiting instruction could trap on the host;
* a register that should be full is empty, or the other way round: invalid operation with SF, whose masked response is
  the indefinite value (APM vol. 1, 24592, 6.8 "x87 Floating-Point Exceptions").

The last-instruction pointer, last-data pointer and last opcode are not followed: they change only when an image is
loaded. Software cannot count on them without a pending exception either, because FXSAVE, with which systems switch
tasks, leaves them out of the image unless the status word's ES bit is set (APM vol. 5, 26569, FXSAVE).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from trapgate.arch import layout
from trapgate.arch.registers import CR0_NE
from trapgate.isa.context import Context
from trapgate.isa.ir import Value

# Status word (APM vol. 1, 6.2.2).
IE, DE, ZE, OE, UE, PE, SF, ES = (1 << i for i in range(8))
C0, C1, C2, C3, BUSY = 1 << 8, 1 << 9, 1 << 10, 1 << 14, 1 << 15
TOP_SHIFT = 11
EXCEPTIONS = IE | DE | ZE | OE | UE | PE
CONDITION_CODES = C0 | C1 | C2 | C3
#: What ordering instructions report of operands that have no order.
UNORDERED = C0 | C2 | C3

# Control word (APM vol. 1, 6.2.3). Bits 0 to 5 mask the exceptions of the same number in the status word.
#: Bit 6 is always 1, bits 7 and 13 to 15 always 0.
CONTROL_ONE, CONTROL_WRITABLE = 1 << 6, 0x1F7F
CONTROL_INITIAL = 0x037F

#: The default NaN of the extended format, "indefinite" (APM vol. 1, 6.3 "Operands").
INDEFINITE = 0xFFFF_C000_0000_0000_0000

MATH_FAULT = 16

_CLOBBERS = "~{memory},~{dirflag},~{fpsr},~{flags}"


@dataclass(frozen=True)
class Outcome:
    """What came of an instruction: `status` is the host's status word (i16), `commit` (i1) whether results count."""

    status: Value
    commit: Value


class Register:
    """ST(i) of one instruction, by the physical register (i32) that it is."""

    def __init__(self, unit: Unit, physical: Value) -> None:
        self._unit = unit
        self._emit = physical.emit
        index = physical.zext(64)
        state = unit.c.state
        self.pointer = self._emit.offset(self._emit.offset(state, layout.FPR), index << 4)
        self._tag = self._emit.offset(self._emit.offset(state, layout.FPU_VALID), index)

    def full(self) -> Value:
        """Whether it holds a value (i1)."""
        return self._emit.load(8, self._tag).ne(0)

    def set_full(self, full: Value | bool) -> None:
        """Mark it full or empty."""
        value = self._emit.constant(full, 8) if isinstance(full, bool) else full.zext(8)
        self._emit.store(value, self._tag)

    def read(self) -> Value:
        """Its 80 bits."""
        return self._emit.load(80, self.pointer, 8)

    def write(self, value: Value | int) -> None:
        """Replace its 80 bits; the tag stays."""
        value = value if isinstance(value, Value) else self._emit.constant(value, 80)
        self._emit.store(value, self.pointer, 8)


class Unit:
    """The x87 state during one instruction; an instruction that `waits` first reports a pending exception."""

    def __init__(self, c: Context, waits: bool = True) -> None:
        self.c = c
        self.emit = c.emit
        if waits:
            self._report_pending()
        self.top = c.field(layout.FPU_TOP, 32)

    def _report_pending(self) -> None:
        """#MF (APM vol. 2, 24593, 8.2), or with CR0.NE clear the FERR pin, which is the plain Python form's work."""
        c = self.c
        pending = (c.field(layout.FPU_STATUS, 16) & ES).ne(0)
        native = (c.field(layout.CR0) & CR0_NE).ne(0)
        c.plain_python_if(pending & ~native)
        c.fault_if(pending, MATH_FAULT)

    # -- registers

    def st(self, index: Value | int) -> Register:
        """ST(index), counted from the top that the instruction found."""
        return Register(self, (self.top + index) & 7)

    def move_top(self, by: Value | int) -> None:
        """Add `by` (i32) to TOP, as the instruction found it."""
        self.c.set_field(layout.FPU_TOP, (self.top + by) & 7)

    def push_if(self, condition: Value) -> None:
        """TOP goes down by one and the new top is full where `condition` holds."""
        new = self.st(7)
        new.set_full(new.full() | condition)
        self.move_top(-condition.zext(32))

    def pop_if(self, condition: Value, count: int = 1) -> None:
        """The top `count` registers become empty where `condition` holds."""
        for i in range(count):
            old = self.st(i)
            old.set_full(old.full() & ~condition)
        self.move_top(condition.zext(32) * count)

    # -- the host's unit

    def scratch(self, offset: int = 0) -> Value:
        """Pointer into 64 bytes of scratch memory."""
        return self.c.state_pointer(layout.FPU_SCRATCH + offset)

    def hand_over(self, value: Value) -> Value:
        """Put a memory operand's value into scratch memory for the host to read; where."""
        pointer = self.scratch(48)
        self.emit.store(value, pointer, 8)
        return pointer

    def _host(self, text: str, pointers: Sequence[Value]) -> Value:
        """Run x87 instructions; {0}, {1} ... are what the pointers point to. The result is AX."""
        places = [f"(${i + 2})" for i in range(len(pointers))]
        text = text.format(*places, own=f"{layout.FPU_CONTROL}($1)", masked=f"{layout.FPU_CONTROL_MASKED}($1)")
        constraints = ",".join(["={ax}", *["r"] * (1 + len(pointers)), _CLOBBERS])
        result = self.emit.assembly(text, constraints, "i16", [self.c.state, *pointers])
        assert result is not None
        return result

    def _clear_foreign_flags(self) -> None:
        """Clear the host's flags unless the guest has them all set, in which case they add nothing to the guest's.

        FNCLEX takes longer than an addition and its loads and stores together; FNSTSW costs next to nothing.
        """
        of_host = self._host("fnstsw %ax", [])
        foreign = of_host & ~self.c.field(layout.FPU_STATUS, 16) & EXCEPTIONS
        with self.emit.when(foreign.ne(0), likely=False):
            self.emit.raw(f'call void asm sideeffect "fnclex", "{_CLOBBERS}"()')

    def run_plain(self, core: str, finish: str, inputs: Sequence[Value]) -> Value:
        """Run what raises no exception; the host's status word."""
        return self._host(f"{core}; fnstsw %ax; {finish}", inputs)

    def run(
        self,
        ready: Value,
        core: str,
        finish: str,
        inputs: Sequence[Value],
        results: Sequence[tuple[Value, int, int]],
        *,
        fault_codes: int = 0,
        overflow: Value | None = None,
        undone_by: int = IE | DE | ZE,
    ) -> Outcome:
        """Carry out an instruction on the host.

        `core` loads the operands, which are at `inputs` ({0}, {1} ...), and computes; `finish` stores the results and
        leaves the host's stack as empty as it was. Results are (pointer, width in bits, indefinite value); their places
        follow those of the inputs, and {own} and {masked} are the control words.

        `ready` says that no stack fault happens; a fault sets the condition codes `fault_codes`, and C1 where
        `overflow` holds. Unmasked exceptions of `undone_by` keep the results from counting.
        """
        emit, c = self.emit, self.c
        control = c.field(layout.FPU_CONTROL, 16)
        unmasked = ~control & EXCEPTIONS
        plain, rare, fault, careful, done = (emit.new_label(x) for x in ("plain", "rare", "fault", "careful", "done"))
        emit.branch(ready & unmasked.eq(0), plain, rare, likely=True)

        emit.label(plain)
        pointers = [*inputs, *(pointer for pointer, _, _ in results)]
        self._clear_foreign_flags()
        status_plain = self._host(f"{core}; fnstsw %ax; {finish}", pointers)
        plain = emit.current_label
        yes = emit.constant(1, 1)
        emit.jump(done)

        emit.label(rare)
        emit.branch(ready, careful, fault)

        emit.label(fault)
        status_fault = emit.constant(IE | SF | fault_codes, 16)
        if overflow is not None:
            status_fault = overflow.select(emit.constant(IE | SF | C1 | fault_codes, 16), status_fault)
        commit_fault = (unmasked & IE).eq(0)
        with emit.when(commit_fault):
            for pointer, width, indefinite in results:
                emit.store(emit.constant(indefinite, width), pointer, 2)
        emit.jump(done)
        fault = emit.current_label

        emit.label(careful)
        copies = [self.scratch(16 * i) for i in range(len(results))]
        status_careful = self._host(
            f"fnclex; fldcw {{own}}; {core}; fnstsw %ax; fnclex; fldcw {{masked}}; {finish}; fninit; fldcw {{masked}}",
            [*inputs, *copies],
        )
        commit_careful = (status_careful & unmasked & undone_by).eq(0)
        with emit.when(commit_careful):
            for copy, (pointer, width, _) in zip(copies, results, strict=True):
                if copy.name != pointer.name:
                    emit.store(emit.load(width, copy, 2), pointer, 2)
        emit.jump(done)
        careful = emit.current_label

        emit.label(done)
        status = emit.phi([(status_plain, plain), (status_fault, fault), (status_careful, careful)])
        commit = emit.phi([(yes, plain), (commit_fault, fault), (commit_careful, careful)])
        return Outcome(status, commit)

    def move(
        self, ready: Value, work: Callable[[], None], otherwise: Callable[[], None], overflow: Value | None = None
    ) -> Outcome:
        """Carry out an instruction that raises nothing but stack faults: `work`, or `otherwise` if one is masked."""
        emit = self.emit
        unmasked = (self.c.field(layout.FPU_CONTROL, 16) & IE).eq(0)
        status_fault = emit.constant(IE | SF, 16)
        if overflow is not None:
            status_fault = overflow.select(emit.constant(IE | SF | C1, 16), status_fault)
        fault = ready ^ 1
        with emit.when(ready, likely=True):
            work()
        with emit.when(fault & ~unmasked):
            otherwise()
        return Outcome(ready.select(emit.constant(0, 16), status_fault), ready | ~unmasked)

    # -- the status word

    def report(self, outcome: Outcome, codes: int | Value = C1) -> None:
        """Add the flags raised to the status word and replace the condition codes `codes` (a mask; i16)."""
        c = self.c
        if isinstance(codes, int):
            codes = c.emit.constant(codes, 16)
        status = (c.field(layout.FPU_STATUS, 16) & ~codes) | (outcome.status & (codes | EXCEPTIONS | SF))
        c.set_field(layout.FPU_STATUS, summarized(status, c.field(layout.FPU_CONTROL, 16)))

    def report_keeping_codes(self, outcome: Outcome) -> None:
        """The same for instructions that change condition codes only by a stack fault, which clears C1."""
        self.report(outcome, (outcome.status & SF) << (C1 // SF).bit_length() - 1)

    def clear_c1(self) -> None:
        """C1 = 0, as most instructions leave it that raise nothing."""
        self.c.set_field(layout.FPU_STATUS, self.c.field(layout.FPU_STATUS, 16) & ~C1)


def summarized(status: Value, control: Value) -> Value:
    """The status word with ES and B as they follow from the flags and masks: set while an unmasked flag is set."""
    pending = (status & ~control & EXCEPTIONS).ne(0)
    clear = status & ~(ES | BUSY)
    return pending.select(clear | (ES | BUSY), clear)


def set_control(c: Context, control: Value) -> None:
    """Load the control word (i16), the host's too, and what follows from it in the status word."""
    control = (control & CONTROL_WRITABLE) | CONTROL_ONE
    c.set_field(layout.FPU_CONTROL, control)
    c.set_field(layout.FPU_CONTROL_MASKED, (control | EXCEPTIONS).zext(32))
    c.set_field(layout.FPU_STATUS, summarized(c.field(layout.FPU_STATUS, 16), control))
    masked = c.state_pointer(layout.FPU_CONTROL_MASKED)
    c.emit.assembly("fldcw ($0)", f"r,{_CLOBBERS}", "void", [masked])


def status_word(c: Context) -> Value:
    """The status word (i16) with TOP in bits 11 to 13."""
    return c.field(layout.FPU_STATUS, 16) | (c.field(layout.FPU_TOP, 32).trunc(16) << TOP_SHIFT)


def set_status_word(c: Context, word: Value) -> None:
    """Load TOP and the flags; ES and B follow from the flags and the control word."""
    c.set_field(layout.FPU_TOP, ((word >> TOP_SHIFT) & 7).zext(32))
    c.set_field(layout.FPU_STATUS, summarized(word & ~(7 << TOP_SHIFT), c.field(layout.FPU_CONTROL, 16)))
