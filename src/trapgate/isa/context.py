"""What a semantic function may use: the processor seen from inside one instruction.

A tier of the engine implements `Context` and the operands. A semantic function reads its operands, computes with
`Value`s, writes memory before it writes registers (a memory access may fault or restart the instruction), and leaves
through `goto_target`, `goto_next`, `goto_address` or `leave` when it ends a block; otherwise it just returns.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Protocol

from trapgate.arch import layout
from trapgate.isa.flags import Flags
from trapgate.isa.ir import Emitter, Value


class Operand(Protocol):
    """A register, a memory operand or an immediate of `width` bits.

    XMM registers are 128 bits wide, MMX registers 64; writing a narrower value to an XMM register changes its low part
    only.
    """

    width: int

    def read(self) -> Value:
        """Its value."""

    def update(self) -> Value:
        """Its value, with write permission checked: the read half of a read-modify-write."""

    def write(self, value: Value) -> None:
        """Replace it. 32-bit register writes clear the upper half of the 64-bit register."""

    def address(self) -> Value:
        """Effective address (offset in the segment), of the instruction's address size; memory operands only."""

    def linear(self) -> Value:
        """Linear address (64 bits): segment base plus effective address; memory operands only."""

    def st_index(self) -> Value:
        """i of ST(i) (32 bits); x87 register operands only."""

    def displaced(self, delta: Value) -> Operand:
        """The memory operand `delta` bytes (address size bits, signed) further on."""

    @property
    def is_memory(self) -> bool:
        """True for a memory operand."""


class Context(ABC):
    """One instruction being generated."""

    emit: Emitter
    state: Value
    flags: Flags
    #: Condition code 0..15 of Jcc, SETcc, CMOVcc; -1 where there is none.
    condition: int
    #: 16, 32 or 64: the default operand size of the code segment.
    bits: int
    #: 16, 32 or 64: size of the stack pointer.
    stack_bits: int
    #: Operand size of the instruction where its operands do not tell it (near branches, string instructions).
    operand_bits: int
    #: Address size of the instruction.
    address_bits: int
    #: "", "rep" or "repne"
    repeat: str
    #: Whether SSE exceptions may be unmasked, so that every result must be looked at before it is kept.
    checked = False

    # -- state fields

    def field(self, offset: int, width: int = 64) -> Value:
        """A field of the state block."""
        return self.emit.load(width, self.emit.offset(self.state, offset))

    def set_field(self, offset: int, value: Value) -> None:
        """Write a field of the state block."""
        self.emit.store(value, self.emit.offset(self.state, offset))

    def state_pointer(self, offset: Value | int) -> Value:
        """Pointer to a field of the state block."""
        return self.emit.offset(self.state, offset)

    @abstractmethod
    def register(self, number: int, width: int) -> Value:
        """The low `width` bits of general-purpose register `number`."""

    @abstractmethod
    def set_register(self, number: int, value: Value) -> None:
        """Write a general-purpose register; 32-bit values clear the upper half, 8- and 16-bit ones keep the rest."""

    # -- memory

    @abstractmethod
    def load(self, segment: int, offset: Value, width: int) -> Value:
        """Read `width` bits at `offset` (address size bits) in `segment` (arch.registers.DS ...)."""

    @abstractmethod
    def store(self, segment: int, offset: Value, value: Value) -> None:
        """Write at `offset` in `segment`."""

    @abstractmethod
    def load_system(self, linear: Value, width: int) -> Value:
        """Read at a linear address as the processor itself does; only in code at CPL 0."""

    @abstractmethod
    def string_source_segment(self) -> int:
        """DS or the overriding segment of a string instruction."""

    def stack_pointer(self) -> Value:
        """The stack pointer, of stack_bits."""
        return self.register(4, self.stack_bits)

    def set_stack_pointer(self, value: Value) -> None:
        """Write the stack pointer, of stack_bits."""
        self.set_register(4, value)

    @abstractmethod
    def stack_load(self, offset: Value, width: int) -> Value:
        """Read from the stack segment at `offset` (stack_bits wide)."""

    @abstractmethod
    def stack_store(self, offset: Value, value: Value) -> None:
        """Write to the stack segment at `offset` (stack_bits wide)."""

    @abstractmethod
    def stack_probe(self, offset: Value) -> None:
        """Raise the fault that a write of a byte to the stack segment at `offset` (stack_bits wide) would."""

    @abstractmethod
    def after_pop(self, operand: Operand, size: int) -> Operand:
        """The memory operand as POP addresses it: an rSP base counts `size` bytes further."""

    # -- faults

    @abstractmethod
    def fault_if(self, condition: Value, vector: int, error: int | None = None) -> None:
        """Raise an exception when `condition` holds; nothing of the instruction has been written yet."""

    # -- leaving a block

    @abstractmethod
    def branch_if(self, condition: Value) -> None:
        """End of block: to the branch target if `condition`, else to the next instruction."""

    @abstractmethod
    def goto_target(self) -> None:
        """End of block: to the direct branch target."""

    @abstractmethod
    def goto_next(self) -> None:
        """End of block: to the next instruction."""

    @abstractmethod
    def goto_address(self, rip: Value) -> None:
        """End of block: to a computed rip (64 bits)."""

    @abstractmethod
    def next_ip(self) -> Value:
        """rip of the next instruction (64 bits)."""

    @abstractmethod
    def time_stamp(self) -> Value:
        """The time-stamp counter, this instruction included; only in instructions that end a block."""

    @abstractmethod
    def leave_if(self, condition: Value) -> None:
        """End of block, after the next `goto_next`: let Python look for interrupts first when `condition` holds."""

    @abstractmethod
    def repeated(self) -> AbstractContextManager[RepeatLoop]:
        """The turns of a string instruction: `with c.repeated() as turn:` holds the body of one element.

        Without a REP prefix the body happens once. With one, each turn counts rCX down (of address size) and takes one
        modelled cycle; the instruction can be left between turns, with its registers as far as it came.
        """

    @abstractmethod
    def string_run(self, fill: Value | None) -> Value:
        """Do as many elements of a repeated MOVS (or STOS of `fill`) as lie on one page, upwards; how many (64 bits).

        0 where it cannot be done at once; the caller then does one element. Index registers and rCX are the caller's.
        """

    @abstractmethod
    def plain_python_if(self, condition: Value) -> None:
        """Hand the whole instruction to its plain Python form when `condition` holds; nothing was written yet."""


class RepeatLoop(Protocol):
    """The turns of a string instruction."""

    def again_after(self, elements: Value) -> None:
        """`elements` (64 bits) were done at once: count them and start the next turn."""

    def stop_after_if(self, condition: Value) -> None:
        """No further turn when `condition` holds (REPE, REPNE); to be called at the end of the body."""


Semantics = Callable[..., None]


class Definition:
    """How one operation is carried out: its semantic function, and whether it ends a block."""

    __slots__ = ("ends_block", "function", "name")

    def __init__(self, name: str, function: Semantics, ends_block: bool) -> None:
        self.name = name
        self.function = function
        self.ends_block = ends_block


#: Every operation that becomes native code, by the mnemonic of iced-x86 in lower case.
DEFINITIONS: dict[str, Definition] = {}


def semantics(*names: str, ends_block: bool = False) -> Callable[[Semantics], Semantics]:
    """Register a semantic function `f(context, *operands)` under the mnemonics it carries out."""

    def register(function: Semantics) -> Semantics:
        for name in names:
            if name in DEFINITIONS:
                raise ValueError(f"{name} is defined twice")
            DEFINITIONS[name] = Definition(name, function, ends_block)
        return function

    return register


SEGMENT_OF_NUMBER = {number: layout.segment(number) for number in range(6)}
