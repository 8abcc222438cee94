"""From a memory operand to a linear address: effective addresses, segment limits and rights, canonical form.

Sources: APM vol. 1, 2.2 (effective addresses), vol. 2, 4.12 (limit checks), 5.3.1 (canonical addresses). In 64-bit code
only FS and GS have bases, and nothing has limits or rights.
"""

from __future__ import annotations

from collections.abc import Callable

import iced_x86 as iced
from iced_x86 import Register, RegisterExt

from trapgate.arch.registers import CR0_PE, DS, FS, GS, RSP, SEGMENT_NAMES, SS, VM
from trapgate.arch.segments import (
    ATTRIBUTE_CODE,
    ATTRIBUTE_DB,
    ATTRIBUTE_DC,
    ATTRIBUTE_P,
    ATTRIBUTE_RW,
    ATTRIBUTE_S,
)
from trapgate.arch.vectors import GP
from trapgate.arch.vectors import SS as STACK_FAULT
from trapgate.vmm.emulate.machine import Registers
from trapgate.vmm.faults import GuestFault

MASK32, MASK64 = (1 << 32) - 1, (1 << 64) - 1
#: The last canonical address of the lower half, the first of the upper.
_LOWER_LAST, _UPPER_FIRST = (1 << 47) - 1, (1 << 64) - (1 << 47)

#: Bases whose segment is SS if there is no override (APM vol. 1, 2.1.5), in 64-bit code.
_STACK_BASES = frozenset((Register.RSP, Register.RBP, Register.ESP, Register.EBP))

#: An effective address, within the instruction's address size.
Offset = Callable[[Registers], int]
#: (registers, offset, size in bytes, whether it writes) -> linear address; raises GuestFault #GP(0) or #SS(0).
Linear = Callable[[Registers, int, int, bool], int]

SEGMENT_NUMBERS: dict[int, int] = {getattr(Register, name.upper()): number for number, name in enumerate(SEGMENT_NAMES)}


def is_canonical(address: int) -> bool:
    """Bits 63 to 47 are equal."""
    return not _LOWER_LAST < address < _UPPER_FIRST


def segment_of(instruction: iced.Instruction, bits: int) -> int:
    """The segment of the memory operand. 64-bit code knows no overrides but FS and GS (APM vol. 3, 1.2.4)."""
    if bits != 64 or instruction.memory_segment in (Register.FS, Register.GS):
        return SEGMENT_NUMBERS[instruction.memory_segment]
    return SS if instruction.memory_base in _STACK_BASES else DS


def linear_of(bits: int, segment: int) -> Linear:
    """How `bits`-bit code gets linear addresses in a segment."""
    if bits != 64:
        return _segmented(segment)
    return _with_base(segment) if segment in (FS, GS) else _flat(segment)


def base_of(bits: int, segment: int) -> Offset:
    """The base that `bits`-bit code adds."""
    if bits == 64 and segment not in (FS, GS):
        return lambda registers: 0
    return lambda registers: registers.segment(segment)[1]


def _flat(segment: int) -> Linear:
    vector = STACK_FAULT if segment == SS else GP

    def linear(registers: Registers, offset: int, size: int, write: bool) -> int:
        if _LOWER_LAST - size < offset - 1 and offset < _UPPER_FIRST:
            raise GuestFault(vector, 0)
        return offset

    return linear


def _with_base(segment: int) -> Linear:
    def linear(registers: Registers, offset: int, size: int, write: bool) -> int:
        address = offset + registers.segment(segment)[1] & MASK64
        if _LOWER_LAST - size < address - 1 and address < _UPPER_FIRST:
            raise GuestFault(GP, 0)
        return address

    return linear


def _segmented(segment: int) -> Linear:
    vector = STACK_FAULT if segment == SS else GP

    def linear(registers: Registers, offset: int, size: int, write: bool) -> int:
        _, base, limit, attributes = registers.segment(segment)
        last = offset + size - 1
        if attributes & (ATTRIBUTE_CODE | ATTRIBUTE_DC) == ATTRIBUTE_DC:  # expand-down: what lies above the limit
            inside = offset > limit and last <= (MASK32 if attributes & ATTRIBUTE_DB else 0xFFFF)
        else:
            inside = last <= limit
        if not inside or not _may_access(registers, attributes, write):
            raise GuestFault(vector, 0)
        return base + offset & MASK32

    return linear


def _may_access(registers: Registers, attributes: int, write: bool) -> bool:
    """Rights of a segment (APM vol. 2, 4.8.1 and 4.8.2). Real and virtual-8086 mode have none: CS is writable."""
    if not registers.cr0 & CR0_PE or registers.rflags & VM:
        return True
    if attributes & (ATTRIBUTE_P | ATTRIBUTE_S) != ATTRIBUTE_P | ATTRIBUTE_S:
        return False
    if attributes & ATTRIBUTE_CODE:
        return not write and bool(attributes & ATTRIBUTE_RW)
    return not write or bool(attributes & ATTRIBUTE_RW)


def address_bits(instruction: iced.Instruction) -> int:
    """Size of the memory operand's effective address."""
    for register in (instruction.memory_base, instruction.memory_index):
        if register != Register.NONE:
            return int(RegisterExt.size(register)) * 8
    return max(int(instruction.memory_displ_size) * 8, 16)


def offset_of(instruction: iced.Instruction, added_to_rsp: int = 0) -> Offset:
    """The effective address of an instruction that was decoded at address 0.

    `added_to_rsp` bytes count as popped already (APM vol. 3, POP).
    """
    base, index, scale = instruction.memory_base, instruction.memory_index, instruction.memory_index_scale
    displacement = int(instruction.memory_displacement)
    mask = (1 << address_bits(instruction)) - 1
    if base in (Register.RIP, Register.EIP):
        return lambda registers: registers.rip + displacement & mask
    b = RegisterExt.number(base) if base != Register.NONE else -1
    i = RegisterExt.number(index) if index != Register.NONE else -1
    if b == RSP:
        displacement += added_to_rsp
    if b < 0 and i < 0:
        absolute = displacement & mask
        return lambda registers: absolute
    if i < 0:
        return lambda registers: registers.gpr[b] + displacement & mask
    if b < 0:
        return lambda registers: registers.gpr[i] * scale + displacement & mask
    return lambda registers: registers.gpr[b] + registers.gpr[i] * scale + displacement & mask
