"""What decoding gives: an instruction as its block needs it, wherever it stands."""

from __future__ import annotations

import struct

import iced_x86 as iced
from iced_x86 import OpKind

from trapgate.isa.form import Form
from trapgate.isa.operand_tables import CONTROL_READS, MAY_FAULT, SHIFTS, STACK_OPERATIONS

ALL_ARITHMETIC = iced.RflagsBits.OF | iced.RflagsBits.SF | iced.RflagsBits.ZF | iced.RflagsBits.AF
ALL_ARITHMETIC |= iced.RflagsBits.CF | iced.RflagsBits.PF
#: Ends the names of SSE operations that look for unmasked exceptions (isa/simd/checked.py).
CHECKED = "_checked"


class Decoded:
    """How one instruction is carried out, wherever it stands."""

    __slots__ = (
        "body", "cycles", "dead_text", "ends_block", "flags_killed", "flags_read", "form", "instruction", "length",
        "may_fault", "name", "numbers", "patterned", "python", "records", "relative", "target", "target_mask", "text",
        "writes_memory",
    )  # fmt: skip

    def __init__(self, instruction: iced.Instruction, name: str, cycles: int = 1) -> None:
        self.instruction = instruction
        self.length: int = instruction.len
        #: Name of the operation: a key of DEFINITIONS, or of the Python forms when `python`.
        self.name = name
        #: Modelled cycles, without those of its memory accesses.
        self.cycles = cycles
        self.python = False
        self.form: Form | None = None
        #: The key of its handler, and of the one for when nobody reads the flags that it sets ("" in Python).
        self.text = self.dead_text = ""
        #: Bytes 8..31 of the record.
        self.body = b""
        #: For the engine: what of the record does not depend on where it stands, by the handler's key.
        self.records: dict[str, bytes] = {}
        #: For the engine: its number among the instructions that are kept (engine/templates.py), by the same key.
        self.numbers: dict[str, int] = {}
        #: For the engine: the handlers' keys with which its pattern is known; all of one pattern share it.
        self.patterned: set[str] = set()
        #: The 64-bit field is rip plus this (rip-relative operands), or None.
        self.relative: int | None = None
        #: A direct branch goes to (rip + target) & target_mask, or None.
        self.target: int | None = None
        self.target_mask = 0
        self.ends_block = False
        self.may_fault = True
        self.writes_memory = False
        self.flags_read = True
        self.flags_killed = False


class Kind:
    """What all instructions of one code, one form and one effect on the flags share."""

    __slots__ = ("dead_text", "flags_killed", "flags_read", "form", "may_fault", "text", "writes_memory")

    def __init__(self, form: Form, instruction: iced.Instruction, has_memory: bool, ends_block: bool) -> None:
        name = form.name
        stack = name in STACK_OPERATIONS
        self.form = form
        self.may_fault = has_memory or stack or ends_block or name in MAY_FAULT or name[0] == "f"
        self.may_fault = self.may_fault or name.endswith(CHECKED)
        self.writes_memory = (has_memory or stack) and not ends_block
        # iced-x86 has what Intel leaves undefined; AMD's MOV CRn changes no flag (APM vol. 3, MOV CRn).
        modified = 0 if name in CONTROL_READS.values() else instruction.rflags_modified & ALL_ARITHMETIC
        self.flags_read = bool(instruction.rflags_read & ALL_ARITHMETIC)
        # A shift by 0 and a repeated instruction without turns leave the flags as they were.
        certain = not form.repeat and (name not in SHIFTS or shifts_for_certain(instruction))
        self.flags_killed = modified == ALL_ARITHMETIC and certain
        can_be_dead = modified and not ends_block and not form.repeat
        self.text = form.text()
        self.dead_text = form._replace(live=False).text() if can_be_dead else self.text


def shifts_for_certain(instruction: iced.Instruction) -> bool:
    """Whether the count is an immediate that, cut to the operand's size, is not 0."""
    last = instruction.op_count - 1
    return instruction.op_kind(last) != OpKind.REGISTER and bool(instruction.rflags_modified)


class Fields:
    """The operand fields of a record while they are collected."""

    def __init__(self) -> None:
        self.slots: list[int] = []
        self.displacement = 0
        self.immediate = 0
        self.wide = 0
        self._has_immediate = False

    def add_immediate(self, bits: int, value: int, kind: int) -> str:
        """Place an immediate; returns its shape."""
        if kind == OpKind.IMMEDIATE64:
            self.wide = value
            return "I64"
        if self._has_immediate:
            self.displacement = value & 0xFFFF_FFFF
            return f"j{bits}"
        self._has_immediate = True
        self.immediate = value & 0xFFFF_FFFF
        return f"i{bits}"

    def pack(self) -> bytes:
        """Bytes 8..31 of the record."""
        slots = [*self.slots, 0, 0, 0, 0][:4]
        if len(self.slots) > 4:
            raise ValueError("an instruction with more than four operand slots")
        return struct.pack("<4HIIQ", *slots, self.displacement, self.immediate, self.wide & ((1 << 64) - 1))
