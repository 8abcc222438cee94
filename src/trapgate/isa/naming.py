"""Which operation an instruction is: its mnemonic, and where that has several meanings, which."""

from __future__ import annotations

import iced_x86 as iced
from iced_x86 import Code, OpKind, Register

from trapgate.isa.operand_tables import (
    CODES,
    CONDITION_OF,
    CONTROL_READS,
    CONTROL_WRITES,
    FAR,
    IMPLICIT_KINDS,
    MNEMONICS,
    NEAR,
    SYSTEM_REGISTERS,
)


def control_move(instruction: iced.Instruction) -> str:
    """MOV CRn at CPL 0: what native code can do has a name of its own."""
    first = instruction.op_register(0)
    if Register.CR0 <= first <= Register.CR15:
        return CONTROL_WRITES.get(first - Register.CR0, "mov_cr")
    return CONTROL_READS.get(instruction.op_register(1) - Register.CR0, "mov_cr")


def name_of(instruction: iced.Instruction, features: frozenset[str]) -> tuple[str, int]:
    """(operation, condition)."""
    mnemonic = MNEMONICS[instruction.mnemonic]
    if mnemonic in CONDITION_OF:
        return CONDITION_OF[mnemonic]
    kind = instruction.op_kind(0) if instruction.op_count else -1
    if mnemonic in ("jmp", "call"):
        if kind in NEAR:
            return mnemonic, -1
        code = CODES[instruction.code]
        far = kind in FAR or "M1616" in code or "M1632" in code or "M1664" in code
        return f"{mnemonic}_{'far' if far else 'indirect'}", -1
    if mnemonic in ("movsd", "cmpsd") and kind in (*IMPLICIT_KINDS, OpKind.MEMORY_SEG_ESI):
        return f"{mnemonic}_string", -1
    if instruction.code == Code.MOVQ_RM64_MM:
        return "movq_from_mmx", -1  # its operand widths are those of MOVQ mm, r64
    if mnemonic == "tzcnt" and "BMI1" not in features:
        return "bsf", -1  # F3 0F BC without BMI1 is BSF (APM vol. 3, TZCNT)
    if mnemonic == "lzcnt" and "LZCNT" not in features:
        return "bsr", -1  # F3 0F BD without ABM is BSR (APM vol. 3, LZCNT)
    return mnemonic, -1


def system_operand(instruction: iced.Instruction) -> str:
    """The kind of system register that is an operand ("cr", "dr", "sreg"), or none."""
    for i in range(instruction.op_count):
        if instruction.op_kind(i) == OpKind.REGISTER:
            kind = SYSTEM_REGISTERS.get(instruction.op_register(i))
            if kind:
                return kind
    return ""
