"""Far transfers: JMP, CALL and RET far (APM vol. 3)."""

from __future__ import annotations

import iced_x86 as iced
from iced_x86 import Code, OpKind

from trapgate.isa.processor import Processor, python_form

_WIDTH_OF_FAR_MEMORY = {
    Code.JMP_M1616: 16, Code.JMP_M1632: 32, Code.JMP_M1664: 64,
    Code.CALL_M1616: 16, Code.CALL_M1632: 32, Code.CALL_M1664: 64,
}  # fmt: skip


def _far_target(p: Processor, instruction: iced.Instruction) -> tuple[int, int, int]:
    """(selector, offset, operand size in bits)."""
    kind = instruction.op_kind(0)
    if kind == OpKind.FAR_BRANCH16:
        return instruction.far_branch_selector, instruction.far_branch16, 16
    if kind == OpKind.FAR_BRANCH32:
        return instruction.far_branch_selector, instruction.far_branch32, 32
    width = _WIDTH_OF_FAR_MEMORY[instruction.code]
    segment, at = p.memory_operand(instruction)
    offset = p.read_segment(segment, at, width // 8)
    return p.read_segment(segment, at + width // 8, 2), offset, width


@python_form("jmp_far")
def jmp_far(p: Processor, instruction: iced.Instruction) -> None:
    p.far_jump(*_far_target(p, instruction))


@python_form("call_far")
def call_far(p: Processor, instruction: iced.Instruction) -> None:
    p.far_call(*_far_target(p, instruction))


@python_form("retf")
def retf(p: Processor, instruction: iced.Instruction) -> None:
    code = instruction.code
    width = 16 if code in (Code.RETFW, Code.RETFW_IMM16) else 32 if code in (Code.RETFD, Code.RETFD_IMM16) else 64
    p.far_return(width, instruction.immediate(0) if instruction.op_count else 0)
