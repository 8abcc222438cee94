"""A decoded instruction as the emulator's operations see it, and what they make of it."""

from __future__ import annotations

from collections.abc import Callable

import iced_x86 as iced
from iced_x86 import OpKind

from trapgate.vmm.emulate.machine import Memory, Registers
from trapgate.vmm.emulate.operands import MemoryOperand, Operand, UnknownForm, memory_operand, operand

#: A compiled instruction: (registers, memory, USER or 0) -> where to go on: None for the next instruction, STAY, or a
#: value of rip. It raises GuestFault before it changes anything.
Step = Callable[[Registers, Memory, int], int | None]
#: Turns of a REP remain.
STAY = -1


class Form:
    """One instruction, decoded at address 0 in `bits`-bit code."""

    def __init__(self, instruction: iced.Instruction, bits: int) -> None:
        self.instruction = instruction
        self.bits = bits
        self.length: int = instruction.len

    def operands(self) -> list[Operand]:
        """All explicit operands; immediates as wide as the first. Raises UnknownForm."""
        found: list[Operand] = []
        for index in range(self.instruction.op_count):
            found.append(operand(self.instruction, index, self.bits, found[0].width if found else 64))
        return found

    def memory(self, added_to_rsp: int = 0) -> MemoryOperand:
        """The memory operand."""
        return memory_operand(self.instruction, self.bits, added_to_rsp)

    def is_memory(self, index: int) -> bool:
        """Whether an operand lies in memory."""
        return bool(self.instruction.op_kind(index) == OpKind.MEMORY)


#: Makes a step of a form, or raises UnknownForm.
Build = Callable[[Form], Step]

__all__ = ["STAY", "Build", "Form", "Step", "UnknownForm"]
