"""Operands of instructions that plain Python carries out."""

from __future__ import annotations

import iced_x86 as iced
from iced_x86 import OpKind, Register

from trapgate.arch import layout
from trapgate.isa.operand_tables import REGISTER_SLOTS, SEGMENT_NUMBERS

_WIDTH = {"r8": 8, "r16": 16, "r32": 32, "r64": 64, "x": 128, "q": 64}


def register_of(register: int) -> tuple[int, int]:
    """(offset in the state block, width in bits) of an iced register."""
    shape, slot = REGISTER_SLOTS[register]
    return slot, _WIDTH[shape]


def operand_bits(instruction: iced.Instruction, index: int) -> int:
    """Width of a register or memory operand, or of an immediate's operand size."""
    kind = instruction.op_kind(index)
    if kind == OpKind.REGISTER:
        return register_of(instruction.op_register(index))[1]
    return int(iced.MemorySizeExt.size(instruction.memory_size)) * 8


def effective_address(q: memoryview[int], instruction: iced.Instruction, rip: int) -> tuple[int, int]:
    """(segment number, offset) of the memory operand, given the state block as 64-bit words."""
    segment = SEGMENT_NUMBERS[instruction.memory_segment]
    base, index = instruction.memory_base, instruction.memory_index
    displacement = instruction.memory_displacement
    if base in (Register.RIP, Register.EIP):
        bits = 64 if base == Register.RIP else 32
        return segment, (rip + displacement - instruction.ip) & ((1 << bits) - 1)
    known = base if base != Register.NONE else index
    if known == Register.NONE:
        bits = max(instruction.memory_displ_size * 8, 16)
        return segment, displacement & ((1 << bits) - 1)
    bits = register_of(known)[1]
    total = displacement
    if base != Register.NONE:
        total += q[(register_of(base)[0] - layout.GPR) >> 3]
    if index != Register.NONE:
        total += q[(register_of(index)[0] - layout.GPR) >> 3] * instruction.memory_index_scale
    return segment, total & ((1 << bits) - 1)
