"""Instructions that differ in their displacement and immediate alone: decoded once, and copied from then on."""

from __future__ import annotations

import struct
from typing import NamedTuple

import iced_x86 as iced
from iced_x86 import OpKind, Register

from trapgate.isa.decoded import Decoded
from trapgate.isa.operand_tables import IMMEDIATE_BITS, NEAR, SHIFTS

_CONSTANTS = struct.Struct("<IIQ")
_SLOTS = 8
_M64 = (1 << 64) - 1

#: What is the same of all instructions of a pattern: bytes around the constants, and where those are.
PatternKey = tuple[bytes, int, int, int, int]


class Pattern(NamedTuple):
    """`example` is one of them. `immediate` is the number of the immediate operand, or -1; `displaced` whether its
    memory operand has the displacement in the record."""

    example: Decoded
    immediate: int
    displaced: bool

    def like(self, instruction: iced.Instruction) -> Decoded:
        """An instruction of this pattern."""
        example = self.example
        d = Decoded(instruction, example.name, example.cycles)
        displacement = instruction.memory_displacement & 0xFFFF_FFFF if self.displaced else 0
        immediate = instruction.immediate(self.immediate) & 0xFFFF_FFFF if self.immediate >= 0 else 0
        d.body = example.body[:_SLOTS] + _CONSTANTS.pack(displacement, immediate, 0)
        if example.relative is not None:
            d.relative = (instruction.memory_displacement - instruction.ip) & _M64
        if example.target is not None:
            d.target_mask = example.target_mask
            d.target = (instruction.near_branch_target - instruction.ip) & d.target_mask
        d.form, d.text, d.dead_text = example.form, example.text, example.dead_text
        d.patterned = example.patterned
        d.ends_block, d.may_fault, d.writes_memory = example.ends_block, example.may_fault, example.writes_memory
        d.flags_read, d.flags_killed = example.flags_read, example.flags_killed
        return d


def pattern_key(decoder: iced.Decoder, instruction: iced.Instruction, code: bytes) -> PatternKey | None:
    """The key of the pattern of an instruction; None where it has no constants, or two immediates."""
    constants = decoder.get_constant_offsets(instruction)
    displacement = constants.displacement_size
    immediate = constants.immediate_size
    if not (displacement or immediate) or constants.has_immediate2:
        return None
    displaced, placed = constants.displacement_offset, constants.immediate_offset
    around = code
    if immediate:
        around = around[:placed] + around[placed + immediate :]
    if displacement:
        around = around[:displaced] + around[displaced + displacement :]
    return around, displaced, displacement, placed, immediate


def pattern_of(example: Decoded) -> Pattern | None:
    """The pattern of an instruction; None where more than numbers in its record follows from its constants."""
    if example.python or example.form is None or example.name in SHIFTS or example.name.startswith("enter"):
        return None
    instruction = example.instruction
    immediate, displaced = -1, False
    for i in range(instruction.op_count):
        kind = instruction.op_kind(i)
        if kind == OpKind.MEMORY:
            if instruction.memory_displ_size == 8 and instruction.memory_base == Register.NONE:
                return None
            displaced = example.relative is None
        elif kind in IMMEDIATE_BITS:
            if kind == OpKind.IMMEDIATE64 or immediate >= 0:
                return None
            immediate = i
        elif kind != OpKind.REGISTER and kind not in NEAR:
            return None
    return Pattern(example, immediate, displaced)
