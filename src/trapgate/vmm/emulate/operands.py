"""Operands of a compiled instruction: registers, immediates, memory."""

from __future__ import annotations

from typing import Protocol

import iced_x86 as iced
from iced_x86 import OpKind, Register, RegisterExt

from trapgate.arch.vectors import GP
from trapgate.vmm.emulate.addresses import (
    MASK32,
    MASK64,
    SEGMENT_NUMBERS,
    Linear,
    Offset,
    base_of,
    linear_of,
    offset_of,
    segment_of,
)
from trapgate.vmm.emulate.machine import WRITE, Memory, Registers
from trapgate.vmm.faults import GuestFault

_HIGH_BYTES: dict[int, int] = {Register.AH: 0, Register.CH: 1, Register.DH: 2, Register.BH: 3}
#: iced-x86's general-purpose registers: number and size in bytes.
_GENERAL: dict[int, tuple[int, int]] = {
    register: (RegisterExt.number(RegisterExt.full_register(register)), RegisterExt.size(register))
    for register in (value for name, value in vars(Register).items() if name.isupper())
    if RegisterExt.is_gpr(register)
}
#: Operand kinds that are immediates; iced-x86 extends their signs.
_IMMEDIATES = frozenset(
    getattr(OpKind, name)
    for name in (
        "IMMEDIATE8", "IMMEDIATE16", "IMMEDIATE32", "IMMEDIATE64", "IMMEDIATE8TO16", "IMMEDIATE8TO32",
        "IMMEDIATE8TO64", "IMMEDIATE32TO64",
    )
)  # fmt: skip
IMPLICIT_ADDRESS_BITS = {
    OpKind.MEMORY_SEG_SI: 16, OpKind.MEMORY_SEG_ESI: 32, OpKind.MEMORY_SEG_RSI: 64,
    OpKind.MEMORY_ESDI: 16, OpKind.MEMORY_ESEDI: 32, OpKind.MEMORY_ESRDI: 64,
}  # fmt: skip


class UnknownForm(Exception):
    """The emulator does not know this form of an instruction; becomes NotEmulated."""


class Operand(Protocol):
    """A place of `width` bits. `user` is USER for an access at CPL 3, else 0."""

    width: int

    def read(self, registers: Registers, memory: Memory, user: int) -> int: ...

    def update(self, registers: Registers, memory: Memory, user: int) -> int:
        """The read of a read-modify-write: faults where the write would."""
        ...

    def write(self, registers: Registers, memory: Memory, user: int, value: int) -> None: ...


class RegisterOperand:
    """A general-purpose register of 64 bits."""

    width = 64

    def __init__(self, number: int) -> None:
        self.number = number

    def read(self, registers: Registers, memory: Memory, user: int) -> int:
        return registers.gpr[self.number]

    def update(self, registers: Registers, memory: Memory, user: int) -> int:
        return self.read(registers, memory, user)

    def write(self, registers: Registers, memory: Memory, user: int, value: int) -> None:
        registers.gpr[self.number] = value


class Register32(RegisterOperand):
    """Writes clear the upper half (APM vol. 1, 3.1.2)."""

    width = 32

    def read(self, registers: Registers, memory: Memory, user: int) -> int:
        return registers.gpr[self.number] & MASK32


class PartialRegister(RegisterOperand):
    """8 or 16 bits from bit `shift`; writes keep the others."""

    def __init__(self, number: int, width: int, shift: int) -> None:
        super().__init__(number)
        self.width = width
        self._shift = shift
        self._mask = (1 << width) - 1
        self._others = MASK64 & ~(self._mask << shift)

    def read(self, registers: Registers, memory: Memory, user: int) -> int:
        return registers.gpr[self.number] >> self._shift & self._mask

    def write(self, registers: Registers, memory: Memory, user: int, value: int) -> None:
        registers.gpr[self.number] = registers.gpr[self.number] & self._others | value << self._shift


class Selector:
    """A segment register as a source: 16 bits."""

    width = 16

    def __init__(self, number: int) -> None:
        self._number = number

    def read(self, registers: Registers, memory: Memory, user: int) -> int:
        return registers.segment(self._number)[0]

    def update(self, registers: Registers, memory: Memory, user: int) -> int:
        raise TypeError("a segment register is not loaded here")

    def write(self, registers: Registers, memory: Memory, user: int, value: int) -> None:
        raise TypeError("a segment register is not loaded here")


class Immediate:
    """A constant."""

    def __init__(self, value: int, width: int) -> None:
        self.width = width
        self.value = value & ((1 << width) - 1)

    def read(self, registers: Registers, memory: Memory, user: int) -> int:
        return self.value

    def update(self, registers: Registers, memory: Memory, user: int) -> int:
        raise TypeError("a constant cannot be written")

    def write(self, registers: Registers, memory: Memory, user: int, value: int) -> None:
        raise TypeError("a constant cannot be written")


class MemoryOperand:
    """Memory of `size` bytes."""

    def __init__(self, offset: Offset, base: Offset, linear: Linear, size: int) -> None:
        self.offset, self.base, self.linear, self.size = offset, base, linear, size
        self.width = 8 * size

    def locate(self, registers: Registers, write: bool) -> int:
        """The linear address, checked; raises GuestFault."""
        return self.linear(registers, self.offset(registers), self.size, write)

    def locate_aligned(self, registers: Registers, write: bool) -> int:
        """The same for 16 bytes that must be aligned: else #GP(0), before limits and canonical form are looked at."""
        if self.base(registers) + self.offset(registers) & 15:
            raise GuestFault(GP, 0)
        return self.locate(registers, write)

    def read(self, registers: Registers, memory: Memory, user: int) -> int:
        linear = self.linear(registers, self.offset(registers), self.size, False)
        return int.from_bytes(memory.read(linear, self.size, user), "little")

    def update(self, registers: Registers, memory: Memory, user: int) -> int:
        linear = self.linear(registers, self.offset(registers), self.size, True)
        return int.from_bytes(memory.read(linear, self.size, user | WRITE), "little")

    def write(self, registers: Registers, memory: Memory, user: int, value: int) -> None:
        linear = self.linear(registers, self.offset(registers), self.size, True)
        memory.write(linear, value.to_bytes(self.size, "little"), user | WRITE)


def memory_operand(instruction: iced.Instruction, bits: int, added_to_rsp: int = 0) -> MemoryOperand:
    """The memory operand of an instruction of `bits`-bit code that was decoded at address 0."""
    segment, size = segment_of(instruction, bits), iced.MemorySizeExt.size(instruction.memory_size)
    offset = offset_of(instruction, added_to_rsp)
    return MemoryOperand(offset, base_of(bits, segment), linear_of(bits, segment), size)


def register_operand(register: int) -> Operand:
    """An operand for an iced-x86 register."""
    if register in _HIGH_BYTES:
        return PartialRegister(_HIGH_BYTES[register], 8, 8)
    if register in SEGMENT_NUMBERS:
        return Selector(SEGMENT_NUMBERS[register])
    if register not in _GENERAL:
        raise UnknownForm
    number, size = _GENERAL[register]
    if size == 8:
        return RegisterOperand(number)
    return Register32(number) if size == 4 else PartialRegister(number, 8 * size, 0)


def operand(instruction: iced.Instruction, index: int, bits: int, width: int) -> Operand:
    """Operand `index`; an immediate gets `width` bits."""
    kind = instruction.op_kind(index)
    if kind == OpKind.REGISTER:
        return register_operand(instruction.op_register(index))
    if kind == OpKind.MEMORY:
        return memory_operand(instruction, bits)
    if kind in _IMMEDIATES:
        return Immediate(instruction.immediate(index), width)
    raise UnknownForm
