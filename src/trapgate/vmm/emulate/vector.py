"""SSE moves between memory and XMM registers (APM vol. 4, chapter 2).

Forms with MMX registers are not known: the emulator does not see the x87 stack.
"""

from __future__ import annotations

import iced_x86 as iced
from iced_x86 import OpKind, Register, RegisterExt

from trapgate.arch.registers import CR0_EM, CR0_TS, CR4_OSFXSR
from trapgate.arch.vectors import NM, UD
from trapgate.vmm.emulate.form import Build, Form, Step, UnknownForm
from trapgate.vmm.emulate.machine import WRITE, Memory, Registers
from trapgate.vmm.emulate.operands import MemoryOperand, register_operand
from trapgate.vmm.faults import GuestFault


def _check(registers: Registers) -> None:
    """APM vol. 4, 1.3 and the exceptions of each instruction: #UD for EM or without OSFXSR, #NM for TS."""
    cr0 = registers.cr0
    if cr0 & CR0_EM or not registers.cr4 & CR4_OSFXSR:
        raise GuestFault(UD)
    if cr0 & CR0_TS:
        raise GuestFault(NM)


def _xmm(form: Form, index: int) -> int:
    """The number of an XMM register operand."""
    register = form.instruction.op_register(index)
    if form.instruction.op_kind(index) != OpKind.REGISTER or not Register.XMM0 <= register <= Register.XMM15:
        raise UnknownForm
    return int(RegisterExt.number(register))


def _locate(target: MemoryOperand, registers: Registers, write: bool, aligned: bool) -> int:
    return target.locate_aligned(registers, write) if aligned else target.locate(registers, write)


def _load(form: Form, place: int, clears: bool, aligned: bool) -> Step:
    """Memory to bytes `place` and up of a register; the other bytes become 0 where `clears`."""
    number, source = _xmm(form, 0), form.memory()
    size = source.size

    def step(registers: Registers, memory: Memory, user: int) -> None:
        _check(registers)
        data = memory.read(_locate(source, registers, False, aligned), size, user)
        old = bytes(16) if clears else registers.xmm(number)
        registers.set_xmm(number, old[:place] + data + old[place + size :])

    return step


def _store(form: Form, place: int, aligned: bool) -> Step:
    number, target = _xmm(form, 1), form.memory()
    size = target.size

    def step(registers: Registers, memory: Memory, user: int) -> None:
        _check(registers)
        linear = _locate(target, registers, True, aligned)
        memory.write(linear, registers.xmm(number)[place : place + size], user | WRITE)

    return step


def _between(form: Form, size: int, clears: bool) -> Step:
    to, source = _xmm(form, 0), _xmm(form, 1)

    def step(registers: Registers, memory: Memory, user: int) -> None:
        _check(registers)
        rest = bytes(16) if clears else registers.xmm(to)
        registers.set_xmm(to, registers.xmm(source)[:size] + rest[size:])

    return step


def _moving(size: int, aligned: bool, clears: bool = True) -> Build:
    """`size` bytes; `clears`: between registers, too, what is above them becomes 0 (a load always clears it)."""

    def build(form: Form) -> Step:
        if form.is_memory(1):
            return _load(form, 0, True, aligned)
        if form.is_memory(0):
            return _store(form, 0, aligned)
        return _between(form, size, clears)

    return build


def _half(place: int) -> Build:
    """MOVLPS, MOVHPS, MOVLPD, MOVHPD with memory: one half, the other stays."""

    def build(form: Form) -> Step:
        return _load(form, place, False, False) if form.is_memory(1) else _store(form, place, False)

    return build


def _to_general(form: Form) -> Step:
    number, target = _xmm(form, 1), register_operand(form.instruction.op0_register)
    size = target.width // 8

    def step(registers: Registers, memory: Memory, user: int) -> None:
        _check(registers)
        target.write(registers, memory, user, int.from_bytes(registers.xmm(number)[:size], "little"))

    return step


def _from_general(form: Form) -> Step:
    number, source = _xmm(form, 0), register_operand(form.instruction.op1_register)

    def step(registers: Registers, memory: Memory, user: int) -> None:
        _check(registers)
        registers.set_xmm(number, source.read(registers, memory, user).to_bytes(16, "little"))

    return step


def _movd(form: Form) -> Step:
    """MOVD and MOVQ: between an XMM register and memory, a general-purpose register, or (MOVQ) another one."""
    instruction: iced.Instruction = form.instruction
    for index, build in ((0, _to_general), (1, _from_general)):
        if instruction.op_kind(index) == OpKind.REGISTER and RegisterExt.is_gpr(instruction.op_register(index)):
            return build(form)
    return _moving(8, False)(form)


OPERATIONS: dict[str, Build] = {
    "movd": _movd,
    "movq": _movd,
    **dict.fromkeys(("movups", "movupd", "movdqu", "lddqu"), _moving(16, False)),
    **dict.fromkeys(("movaps", "movapd", "movdqa", "movntdq", "movntps", "movntpd"), _moving(16, True)),
    "movss": _moving(4, False, clears=False),
    "movsd": _moving(8, False, clears=False),
    **dict.fromkeys(("movlps", "movlpd"), _half(0)),
    **dict.fromkeys(("movhps", "movhpd"), _half(8)),
}
