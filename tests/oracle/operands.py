"""Random operands for an instruction form, encoded by iced-x86."""

from __future__ import annotations

from dataclasses import dataclass, field

from iced_x86 import Encoder, Instruction, MemorySizeExt, OpCodeInfo, OpKind, Register
from iced_x86 import OpCodeOperandKind as Kind

from . import values
from .forms import BRANCHES, Form
from .values import Choices

_NUMBERED = ["AX", "CX", "DX", "BX", "SP", "BP", "SI", "DI"]


def _registers(pattern: str) -> tuple[int, ...]:
    return tuple(getattr(Register, pattern.format(i)) for i in range(8, 16))


GPR64 = tuple(getattr(Register, "R" + n) for n in _NUMBERED) + _registers("R{}")
GPR32 = tuple(getattr(Register, "E" + n) for n in _NUMBERED) + _registers("R{}D")
GPR16 = tuple(getattr(Register, n) for n in _NUMBERED) + _registers("R{}W")
GPR8_LEGACY = tuple(getattr(Register, n) for n in ["AL", "CL", "DL", "BL", "AH", "CH", "DH", "BH"])
GPR8_REX = tuple(getattr(Register, n) for n in ["AL", "CL", "DL", "BL", "SPL", "BPL", "SIL", "DIL"]) + _registers(
    "R{}L"
)
XMM = tuple(getattr(Register, f"XMM{i}") for i in range(16))
MM = tuple(getattr(Register, f"MM{i}") for i in range(8))
ST = tuple(getattr(Register, f"ST{i}") for i in range(8))
SEGMENTS = tuple(getattr(Register, s) for s in ("ES", "CS", "SS", "DS", "FS", "GS"))
RSP = 4

_R8 = {Kind.R8_OR_MEM, Kind.R8_REG, Kind.R8_OPCODE}
_R16 = {Kind.R16_OR_MEM, Kind.R16_REG, Kind.R16_OPCODE, Kind.R16_RM, Kind.R16_REG_MEM}
_R32 = {Kind.R32_OR_MEM, Kind.R32_REG, Kind.R32_OPCODE, Kind.R32_RM, Kind.R32_REG_MEM}
_R64 = {Kind.R64_OR_MEM, Kind.R64_REG, Kind.R64_OPCODE, Kind.R64_RM, Kind.R64_REG_MEM}
_XMM = {Kind.XMM_OR_MEM, Kind.XMM_REG, Kind.XMM_RM}
_MM = {Kind.MM_OR_MEM, Kind.MM_REG, Kind.MM_RM}
_OR_MEMORY = {Kind.R8_OR_MEM, Kind.R16_OR_MEM, Kind.R32_OR_MEM, Kind.R64_OR_MEM, Kind.XMM_OR_MEM, Kind.MM_OR_MEM}
_FIXED = {
    Kind.AL: Register.AL, Kind.AX: Register.AX, Kind.EAX: Register.EAX, Kind.RAX: Register.RAX, Kind.CL: Register.CL,
    Kind.DX: Register.DX, Kind.ST0: Register.ST0, Kind.ES: Register.ES, Kind.CS: Register.CS, Kind.SS: Register.SS,
    Kind.DS: Register.DS, Kind.FS: Register.FS, Kind.GS: Register.GS,
}  # fmt: skip
_IMMEDIATES = {
    Kind.IMM8: (OpKind.IMMEDIATE8, 8), Kind.IMM16: (OpKind.IMMEDIATE16, 16), Kind.IMM32: (OpKind.IMMEDIATE32, 32),
    Kind.IMM64: (OpKind.IMMEDIATE64, 64), Kind.IMM8SEX16: (OpKind.IMMEDIATE8TO16, 8),
    Kind.IMM8SEX32: (OpKind.IMMEDIATE8TO32, 8), Kind.IMM8SEX64: (OpKind.IMMEDIATE8TO64, 8),
    Kind.IMM32SEX64: (OpKind.IMMEDIATE32TO64, 32),
}  # fmt: skip
_NEAR = {
    Kind.BR16_1: 16, Kind.BR16_2: 16, Kind.BR32_1: 32, Kind.BR32_4: 32, Kind.BR64_1: 64, Kind.BR64_4: 64,
}  # fmt: skip
_STRING_KINDS = {
    Kind.SEG_RSI: {16: OpKind.MEMORY_SEG_SI, 32: OpKind.MEMORY_SEG_ESI, 64: OpKind.MEMORY_SEG_RSI},
    Kind.ES_RDI: {16: OpKind.MEMORY_ESDI, 32: OpKind.MEMORY_ESEDI, 64: OpKind.MEMORY_ESRDI},
    Kind.SEG_RDI: {16: OpKind.MEMORY_SEG_DI, 32: OpKind.MEMORY_SEG_EDI, 64: OpKind.MEMORY_SEG_RDI},
}
_REPEATABLE = frozenset(("MOVS", "STOS", "LODS", "CMPS", "SCAS", "INS", "OUTS"))
#: Instructions whose memory operand LOCK may precede (APM vol. 3, 1.2.5).
_LOCKABLE = frozenset(
    (
        "ADC", "ADD", "AND", "BTC", "BTR", "BTS", "CMPXCHG", "CMPXCHG8B", "CMPXCHG16B", "DEC", "INC", "NEG", "NOT",
        "OR", "SBB", "SUB", "XADD", "XCHG", "XOR",
    )
)  # fmt: skip


@dataclass
class Memory:
    """A memory operand before its displacement is known. Registers by number, -1 for none."""

    base: int = -1
    index: int = -1
    scale: int = 1
    bits: int = 64
    segment: int = Register.NONE
    ip_relative: bool = False
    offset_only: bool = False
    #: Values that address registers must have for the operand to lie where it was placed.
    values: dict[int, int] = field(default_factory=dict)
    displacement: int = 0


@dataclass
class Draft:
    """An instruction being made: everything but the displacement of its memory operand."""

    form: Form
    instruction: Instruction
    memory: Memory | None = None
    #: Size in bytes of the memory operand.
    size: int = 0
    address_bits: int = 64
    is_branch: bool = False


def draft(form: Form, choices: Choices, may_use_memory: bool = True) -> Draft:
    """Choose registers, immediates, prefixes and the shape of the memory operand."""
    info = OpCodeInfo(form.code)
    instruction = Instruction()
    instruction.code = form.code
    kinds = info.op_kinds()
    address_bits = _address_size(form, info, choices)
    made = Draft(form, instruction, address_bits=address_bits)
    wants_memory = may_use_memory and choices.bits(1) == 1
    high_bytes = Kind.R8_REG in kinds or Kind.R8_OR_MEM in kinds or Kind.R8_OPCODE in kinds
    high_bytes = high_bytes and (form.bits < 64 or choices.chance(50))
    count = 16 if form.bits == 64 and not high_bytes else 8
    for number, kind in enumerate(kinds):
        if kind == Kind.MEM or (kind in _OR_MEMORY and wants_memory):
            made.memory = _memory(form, choices, address_bits, count)
            instruction.set_op_kind(number, OpKind.MEMORY)
        elif kind == Kind.MEM_OFFS:
            made.memory = Memory(bits=address_bits, offset_only=True)
            instruction.set_op_kind(number, OpKind.MEMORY)
        elif kind == Kind.SEG_RBX_AL:
            made.memory = Memory(base=3, index=0, bits=address_bits)
            instruction.set_op_kind(number, OpKind.MEMORY)
        elif kind in _STRING_KINDS:
            instruction.set_op_kind(number, _STRING_KINDS[kind][address_bits])
        else:
            _plain_operand(instruction, number, kind, choices, count, high_bytes)
    _prefixes(made, info, choices)
    if made.memory is not None:
        made.size = MemorySizeExt.size(instruction.memory_size)
    made.is_branch = form.mnemonic in BRANCHES
    return made


def _address_size(form: Form, info: OpCodeInfo, choices: Choices) -> int:
    if info.address_size:
        return int(info.address_size)
    if form.mode == "compat32":
        return form.bits  # nothing is mapped within the reach of 16 bits
    other = {64: 32, 32: 16, 16: 32}[form.bits]
    return other if choices.chance(15) else form.bits


def _plain_operand(
    instruction: Instruction, number: int, kind: int, choices: Choices, count: int, high_bytes: bool
) -> None:
    if kind in _IMMEDIATES:
        op_kind, width = _IMMEDIATES[kind]
        if number and instruction.op_kind(number - 1) == OpKind.IMMEDIATE8 and kind == Kind.IMM8:
            op_kind = OpKind.IMMEDIATE8_2ND  # ENTER, EXTRQ, INSERTQ
        elif number and instruction.op_kind(number - 1) == OpKind.IMMEDIATE16:
            op_kind = OpKind.IMMEDIATE8_2ND
        instruction.set_op_kind(number, op_kind)
        value = values.integer(choices, width)
        if op_kind == OpKind.IMMEDIATE8_2ND:
            instruction.immediate8_2nd = value
        elif op_kind == OpKind.IMMEDIATE64:
            instruction.immediate64 = value
        elif op_kind in (OpKind.IMMEDIATE8, OpKind.IMMEDIATE16, OpKind.IMMEDIATE32):
            instruction.set_immediate_u64(number, value)
        else:
            instruction.set_immediate_i64(number, value - (value >> (width - 1) << width))
        return
    if kind == Kind.IMM8_CONST_1:
        instruction.set_op_kind(number, OpKind.IMMEDIATE8)
        instruction.immediate8 = 1
        return
    if kind in _NEAR:
        bits = _NEAR[kind]
        instruction.set_op_kind(number, getattr(OpKind, f"NEAR_BRANCH{bits}"))
        return
    instruction.set_op_kind(number, OpKind.REGISTER)
    instruction.set_op_register(number, _register(kind, choices, count, high_bytes))


def _register(kind: int, choices: Choices, count: int, high_bytes: bool) -> int:
    if kind in _FIXED:
        return int(_FIXED[kind])
    if kind in _R8:
        return choices.pick(GPR8_LEGACY if high_bytes else GPR8_REX[:count] if count > 8 else GPR8_LEGACY)
    for kinds, registers in ((_R16, GPR16), (_R32, GPR32), (_R64, GPR64), (_XMM, XMM)):
        if kind in kinds:
            return choices.pick(registers[:count])
    if kind in _MM:
        return choices.pick(MM)
    if kind == Kind.STI_OPCODE:
        return choices.pick(ST)
    if kind == Kind.SEG_REG:
        return choices.pick(SEGMENTS)
    raise ValueError(f"no operand of kind {kind}: add it to operands.py")


def _memory(form: Form, choices: Choices, address_bits: int, count: int) -> Memory:
    memory = Memory(bits=address_bits)
    if form.bits == 64 and choices.chance(8):
        memory.segment = Register.GS
    if address_bits == 16:
        memory.base, memory.index = choices.pick(
            ((3, 6), (3, 7), (5, 6), (5, 7), (6, -1), (7, -1), (5, -1), (3, -1), (-1, -1))
        )
        return memory
    shape = choices.between(0, 9)
    if shape == 0 and form.bits == 64:
        memory.ip_relative = True
    elif shape == 1:
        pass  # absolute
    elif shape <= 5:
        memory.base = choices.between(0, count - 1)
    else:
        memory.base = choices.between(0, count - 1) if shape < 9 else -1
        index = choices.between(0, count - 1)
        memory.index = index if index != RSP else -1
        memory.scale = choices.pick((1, 2, 4, 8)) if memory.index >= 0 else 1
    return memory


def _prefixes(made: Draft, info: OpCodeInfo, choices: Choices) -> None:
    instruction, form = made.instruction, made.form
    stem = form.mnemonic[:-1]
    if form.family == "string" or (form.family == "privileged" and stem in _REPEATABLE):
        repeat = choices.between(0, 3)
        instruction.has_rep_prefix = repeat == 1 or (repeat == 2 and stem in ("MOVS", "STOS", "LODS"))
        instruction.has_repne_prefix = repeat == 2 and stem in ("CMPS", "SCAS")
    if made.memory is not None and info.can_use_lock_prefix and form.mnemonic in _LOCKABLE and choices.chance(20):
        first = instruction.op0_kind == OpKind.MEMORY
        instruction.has_lock_prefix = first or form.mnemonic == "XCHG"


def encode(made: Draft, rip: int) -> bytes:
    """The machine code for address `rip`; ValueError when these operands have no encoding together."""
    instruction, memory = made.instruction, made.memory
    if memory is not None:
        registers = {64: GPR64, 32: GPR32, 16: GPR16}[memory.bits]
        displacement = memory.displacement
        if memory.ip_relative:
            instruction.memory_base = Register.RIP if memory.bits == 64 else Register.EIP
        else:
            instruction.memory_base = registers[memory.base] if memory.base >= 0 else Register.NONE
        if made.form.mnemonic == "XLATB" or made.form.name == "XLAT_M8":
            instruction.memory_index = Register.AL
        else:
            instruction.memory_index = registers[memory.index] if memory.index >= 0 else Register.NONE
        instruction.memory_index_scale = memory.scale
        instruction.memory_displacement = displacement & ((1 << 64) - 1)
        instruction.memory_displ_size = _displacement_size(memory)
        instruction.segment_prefix = memory.segment
    encoder = Encoder(made.form.bits)
    encoder.encode(instruction, rip)
    return bytes(encoder.take_buffer())


def _displacement_size(memory: Memory) -> int:
    if memory.ip_relative or memory.offset_only or (memory.base < 0 and memory.index < 0):
        return memory.bits // 8
    signed = memory.displacement
    if signed == 0 and (memory.base & 7) != 5 and memory.base >= 0:
        return 0
    if -128 <= signed < 128 and memory.base >= 0:
        return 1
    return 2 if memory.bits == 16 else memory.bits // 8
