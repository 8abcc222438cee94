"""What the manuals leave undefined, instruction by instruction: such flags and registers are not compared.

iced-x86 knows the flags that are always undefined; what depends on a count or an operand is worked out here.
"""

from __future__ import annotations

from iced_x86 import Instruction, MemorySizeExt, OpKind, RegisterExt, RflagsBits

from .areas import State
from .forms import Form

CF, PF, AF, ZF, SF, TF, IF, DF, OF = 1, 4, 0x10, 0x40, 0x80, 0x100, 0x200, 0x400, 0x800
ARITHMETIC = CF | PF | AF | ZF | SF | OF

_FROM_ICED = {
    RflagsBits.CF: CF,
    RflagsBits.PF: PF,
    RflagsBits.AF: AF,
    RflagsBits.ZF: ZF,
    RflagsBits.SF: SF,
    RflagsBits.OF: OF,
}
_PUSHES_OF_SELECTORS = frozenset(f"PUSHD_{segment}" for segment in ("CS", "SS", "DS", "ES", "FS", "GS"))
_SHIFTS = {"SHL", "SAL", "SHR", "SAR", "ROL", "ROR", "RCL", "RCR"}
_DOUBLE_SHIFTS = {"SHLD", "SHRD"}


def _operand_size(instruction: Instruction) -> int:
    if instruction.op0_kind == OpKind.REGISTER:
        return 8 * RegisterExt.size(instruction.op0_register)
    return 8 * MemorySizeExt.size(instruction.memory_size)


def shift_count(instruction: Instruction, state: State) -> tuple[int, int]:
    """(masked count, operand size in bits) of a shift, rotate or double shift."""
    last = instruction.op_count - 1
    kind = instruction.op_kind(last)
    count = state.gpr[1] if kind == OpKind.REGISTER else instruction.immediate8
    size = _operand_size(instruction)
    return count & (63 if size == 64 else 31), size


def flags_from_iced(flags: int) -> int:
    """RFLAGS bits from iced-x86's."""
    return sum(bit for iced, bit in _FROM_ICED.items() if flags & iced)


def undefined_flags(form: Form, instruction: Instruction, state: State) -> int:
    """The RFLAGS bits not to compare."""
    name = form.mnemonic
    if name in _SHIFTS or name in _DOUBLE_SHIFTS:
        return _shift_flags(name, *shift_count(instruction, state))
    return flags_from_iced(instruction.rflags_undefined)


def _shift_flags(name: str, count: int, size: int) -> int:
    """APM vol. 3, ROL ... SHRD: a masked count of 0 changes no flag; OF is defined for a count of 1 only."""
    if count == 0:
        return 0
    undefined = 0 if count == 1 else OF
    if name in ("SHL", "SAL", "SHR", "SAR"):
        undefined |= AF
        # Intel SDM vol. 2, SAL/SAR/SHL/SHR: CF is undefined for SHL and SHR where the count reaches the operand size.
        if count >= size and name != "SAR":
            undefined |= CF
    if name in _DOUBLE_SHIFTS:
        undefined |= AF
        if count > size:
            undefined = ARITHMETIC
    return undefined


def undefined_registers(form: Form, instruction: Instruction, state: State) -> dict[int, int]:
    """Register number to the bits of it that are undefined."""
    name = form.mnemonic
    result_is_undefined = False
    if name in _DOUBLE_SHIFTS:
        count, size = shift_count(instruction, state)
        result_is_undefined = count > size
    if name == "BSWAP":
        result_is_undefined = RegisterExt.size(instruction.op0_register) == 2  # APM vol. 3, BSWAP
    if not result_is_undefined or instruction.op0_kind != OpKind.REGISTER:
        return {}
    register = instruction.op0_register
    mask = (1 << (8 * RegisterExt.size(register))) - 1
    return {RegisterExt.number(register): mask}


def ignored_memory(form: Form, size: int, offset: int, stack: int) -> tuple[tuple[int, int], ...]:
    """Bytes of the window, (offset, length), that saved x87 environments do not define.

    The last instruction's opcode and addresses: see `differences.AVOIDED`. MXCSR_MASK tells the
    processors apart: AMD's has the misaligned SSE bit.
    """
    name = form.mnemonic
    if name in ("FXSAVE", "FXSAVE64"):
        return ((offset + 6, 18), (offset + 28, 4))
    if name in ("FNSTENV", "FNSAVE"):
        start, end = (6, 14) if size in (14, 94) else (12, 28)
        return ((offset + start, end - start),)
    if form.name in _PUSHES_OF_SELECTORS:
        # SDM vol. 2, PUSH: with an operand size of 32 bits 'either a zero-extended value is pushed on the stack or the
        # segment selector is written on the stack using a 16-bit move'. AMD's processors push it zero-extended.
        return ((stack - 2, 2),)
    return ()


def undefined_xmm(form: Form, instruction: Instruction) -> dict[int, int]:
    """XMM register number to the bits of it that are undefined."""
    if form.mnemonic in ("EXTRQ", "INSERTQ"):
        # APM vol. 4, EXTRQ, INSERTQ: the upper quadword of the destination is undefined.
        return {RegisterExt.number(instruction.op0_register): ((1 << 64) - 1) << 64}
    return {}
