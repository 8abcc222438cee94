"""Far transfers: JMP, CALL and RET far, and near branches out of the code segment (APM vol. 3)."""

from __future__ import annotations

import iced_x86 as iced
from iced_x86 import Code, Mnemonic, OpKind

from trapgate.arch.registers import CF, OF, PF, RCX, RSP, SF, SS, ZF
from trapgate.arch.vectors import GP
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


_LOOPS = {Mnemonic.LOOP: None, Mnemonic.LOOPE: True, Mnemonic.LOOPNE: False}
_COUNTED = {Mnemonic.JCXZ: 16, Mnemonic.JECXZ: 32, Mnemonic.JRCXZ: 64}


def _condition_holds(flags: int, condition: int) -> bool:
    """Condition code 0..15 of Jcc (APM vol. 3, table 1-7)."""
    less = bool(flags & SF) != bool(flags & OF)
    held = (flags & OF, flags & CF, flags & ZF, flags & (CF | ZF), flags & SF, flags & PF, less, less or flags & ZF)
    return bool(held[condition >> 1]) != bool(condition & 1)


#: How many bits of rCX the codes of LOOP, LOOPE and LOOPNE count in: their names end in CX, ECX or RCX.
_LOOP_BITS = {
    getattr(Code, name): {"R": 64, "E": 32}.get(name[-3], 16) for name in dir(Code) if name.startswith("LOOP")
}


@python_form("branch_outside")
def branch_outside(p: Processor, instruction: iced.Instruction) -> None:
    """A direct near branch whose target lies beyond the limit of CS: #GP(0) at the branch, if it is taken."""
    mnemonic = instruction.mnemonic
    if mnemonic in _LOOPS:
        bits = _LOOP_BITS[instruction.code]
        count = p.register(RCX, bits) - 1 & (1 << bits) - 1
        wanted = _LOOPS[mnemonic]
        if count and wanted in (None, bool(p.rflags & ZF)):
            p.fault(GP, 0)
        p.set_register(RCX, bits, count)
    elif mnemonic in _COUNTED:
        if p.register(RCX, _COUNTED[mnemonic]) == 0:
            p.fault(GP, 0)
    elif instruction.condition_code:
        if _condition_holds(p.rflags, _CONDITIONS[instruction.condition_code]):
            p.fault(GP, 0)
    else:
        if mnemonic == Mnemonic.CALL:
            # Its push comes first (APM vol. 3, CALL near).
            width = abs(instruction.stack_pointer_increment)
            bits = p.stack_bits
            at = p.register(RSP, bits) - width & (1 << bits) - 1
            p.write_segment(SS, at, width, p.rip & (1 << 8 * width) - 1)
        p.fault(GP, 0)


_CONDITIONS = {
    getattr(iced.ConditionCode, name.upper()): number
    for number, name in enumerate(
        ("o", "no", "b", "ae", "e", "ne", "be", "a", "s", "ns", "p", "np", "l", "ge", "le", "g")
    )
}
