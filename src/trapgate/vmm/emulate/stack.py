"""PUSH, POP, PUSHA, LEAVE, near CALL, JMP and RET (APM vol. 3, chapter 3)."""

from __future__ import annotations

from iced_x86 import Code, OpKind, Register

from trapgate.arch.registers import CS, RBP, RSP, SS
from trapgate.arch.segments import ATTRIBUTE_DB
from trapgate.arch.vectors import GP
from trapgate.vmm.emulate.addresses import MASK64, SEGMENT_NUMBERS, Linear, is_canonical, linear_of
from trapgate.vmm.emulate.form import Build, Form, Step, UnknownForm
from trapgate.vmm.emulate.machine import CHECK, WRITE, Memory, Registers
from trapgate.vmm.emulate.operands import Operand, operand, register_operand
from trapgate.vmm.faults import GuestFault

_FRAME_REGISTERS = {Code.LEAVEW: Register.BP, Code.LEAVED: Register.EBP, Code.LEAVEQ: Register.RBP}
_NEAR_BITS = {OpKind.NEAR_BRANCH16: 16, OpKind.NEAR_BRANCH32: 32, OpKind.NEAR_BRANCH64: 64}


class _Stack:
    """The stack as `bits`-bit code sees it."""

    def __init__(self, bits: int) -> None:
        self._bits = bits
        self._linear: Linear = linear_of(bits, SS)

    def mask(self, registers: Registers) -> int:
        """Which bits of rSP (and of rBP in LEAVE) count (APM vol. 2, 4.7.3: SS.B)."""
        if self._bits == 64:
            return MASK64
        return 0xFFFF_FFFF if registers.segment(SS)[3] & ATTRIBUTE_DB else 0xFFFF

    def read(self, registers: Registers, memory: Memory, user: int, at: int, size: int) -> int:
        linear = self._linear(registers, at & self.mask(registers), size, False)
        return int.from_bytes(memory.read(linear, size, user), "little")

    def write(self, registers: Registers, memory: Memory, user: int, at: int, data: bytes) -> None:
        linear = self._linear(registers, at & self.mask(registers), len(data), True)
        memory.write(linear, data, user | WRITE)

    def check(self, registers: Registers, memory: Memory, user: int, at: int, size: int) -> None:
        """Fault where a write would."""
        linear = self._linear(registers, at & self.mask(registers), size, True)
        memory.read(linear, size, user | WRITE | CHECK)

    def push(self, registers: Registers, memory: Memory, user: int, size: int, value: int) -> None:
        at = registers.gpr[RSP] - size
        self.write(registers, memory, user, at, value.to_bytes(size, "little"))
        self.set_pointer(registers, at)

    def set_pointer(self, registers: Registers, value: int) -> None:
        mask = self.mask(registers)
        old = registers.gpr[RSP]
        registers.gpr[RSP] = value & mask | (old & ~mask if mask == 0xFFFF else 0)


def _moved(form: Form) -> int:
    """Bytes by which the instruction moves rSP; an immediate of RET counts."""
    return abs(int(form.instruction.stack_pointer_increment))


def _push(form: Form) -> Step:
    size = _moved(form)
    source = operand(form.instruction, 0, form.bits, 8 * size)
    stack = _Stack(form.bits)

    def step(registers: Registers, memory: Memory, user: int) -> None:
        stack.push(registers, memory, user, size, source.read(registers, memory, user))

    return step


def _pop(form: Form) -> Step:
    instruction = form.instruction
    if instruction.op0_kind == OpKind.REGISTER and instruction.op0_register in SEGMENT_NUMBERS:
        raise UnknownForm  # loads a descriptor
    size, stack = _moved(form), _Stack(form.bits)
    if form.is_memory(0):
        # Addressed with the incremented rSP (APM vol. 3, POP). With a 16-bit stack a 32-bit address takes in what is
        # above SP, which does not change.
        return _pop_to_memory(form, size, stack)
    (register,) = form.operands()

    def step(registers: Registers, memory: Memory, user: int) -> None:
        at = registers.gpr[RSP]
        value = stack.read(registers, memory, user, at, size)
        stack.set_pointer(registers, at + size)
        register.write(registers, memory, user, value)

    return step


def _pop_to_memory(form: Form, size: int, stack: _Stack) -> Step:
    target = form.memory(added_to_rsp=size)

    def step(registers: Registers, memory: Memory, user: int) -> None:
        at = registers.gpr[RSP]
        target.write(registers, memory, user, stack.read(registers, memory, user, at, size))
        stack.set_pointer(registers, at + size)

    return step


def _pusha(form: Form) -> Step:
    size, stack = _moved(form) // 8, _Stack(form.bits)
    mask = (1 << 8 * size) - 1

    def step(registers: Registers, memory: Memory, user: int) -> None:
        at = registers.gpr[RSP]
        for number in range(8):
            stack.check(registers, memory, user, at - (number + 1) * size, size)
        for number in range(8):
            data = (registers.gpr[number] & mask).to_bytes(size, "little")
            stack.write(registers, memory, user, at - (number + 1) * size, data)
        stack.set_pointer(registers, at - 8 * size)

    return step


def _leave(form: Form) -> Step:
    target = register_operand(_FRAME_REGISTERS[form.instruction.code])
    size, stack = target.width // 8, _Stack(form.bits)

    def step(registers: Registers, memory: Memory, user: int) -> None:
        at = registers.gpr[RBP]
        value = stack.read(registers, memory, user, at, size)
        stack.set_pointer(registers, at + size)
        target.write(registers, memory, user, value)

    return step


def _target(form: Form, registers: Registers, address: int) -> int:
    """The target of a near transfer, checked: canonical, or within CS."""
    if not is_canonical(address) if form.bits == 64 else address > registers.segment(CS)[2]:
        raise GuestFault(GP, 0)
    return address


def _jmp(form: Form) -> Step:
    source = _near_source(form)

    def step(registers: Registers, memory: Memory, user: int) -> int:
        return _target(form, registers, source.read(registers, memory, user))

    return step


def _call(form: Form) -> Step:
    source = _near_source(form)
    size, stack, length = source.width // 8, _Stack(form.bits), form.length
    mask = (1 << source.width) - 1

    def step(registers: Registers, memory: Memory, user: int) -> int:
        target = _target(form, registers, source.read(registers, memory, user))
        stack.push(registers, memory, user, size, registers.rip + length & mask)
        return target

    return step


class _Relative:
    """The target of a direct near branch."""

    def __init__(self, displacement: int, width: int) -> None:
        self.width = width
        self._displacement = displacement

    def read(self, registers: Registers, memory: Memory, user: int) -> int:
        return registers.rip + self._displacement & (1 << self.width) - 1

    def update(self, registers: Registers, memory: Memory, user: int) -> int:
        raise TypeError("a branch target cannot be written")

    def write(self, registers: Registers, memory: Memory, user: int, value: int) -> None:
        raise TypeError("a branch target cannot be written")


def _near_source(form: Form) -> Operand:
    """Where a near CALL or JMP gets its target from."""
    instruction = form.instruction
    if instruction.op0_kind in _NEAR_BITS:
        return _Relative(instruction.near_branch_target, _NEAR_BITS[instruction.op0_kind])
    if instruction.is_jmp_near_indirect or instruction.is_call_near_indirect:
        return form.operands()[0]
    raise UnknownForm


def _ret(form: Form) -> Step:
    extra = form.instruction.immediate(0) if form.instruction.op_count else 0
    size, stack = _moved(form) - extra, _Stack(form.bits)

    def step(registers: Registers, memory: Memory, user: int) -> int:
        at = registers.gpr[RSP]
        target = _target(form, registers, stack.read(registers, memory, user, at, size))
        stack.set_pointer(registers, at + size + extra)
        return target

    return step


OPERATIONS: dict[str, Build] = {
    "push": _push,
    "pop": _pop,
    "pusha": _pusha,
    "pushad": _pusha,
    "leave": _leave,
    "call": _call,
    "jmp": _jmp,
    "ret": _ret,
}
