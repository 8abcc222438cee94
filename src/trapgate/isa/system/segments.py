"""Segment registers and descriptor tables: MOV sreg, PUSH/POP sreg, LDS..., LGDT..., LLDT, LTR (APM vol. 3)."""

from __future__ import annotations

import iced_x86 as iced

from trapgate.arch.registers import CS, SS
from trapgate.arch.segments import ATTRIBUTE_P, TSS16_AVAILABLE, TSS32_AVAILABLE, attributes_of, base_of, limit_of
from trapgate.arch.vectors import GP, NP, UD
from trapgate.isa.operand_tables import SEGMENT_LOADS, SEGMENT_NUMBERS
from trapgate.isa.processor import Processor, python_form


@python_form("mov_sreg", *(f"{name}_python" for name in SEGMENT_LOADS.values()))
def mov_sreg(p: Processor, instruction: iced.Instruction) -> None:
    if instruction.op_kind(0) == iced.OpKind.REGISTER and instruction.op_register(0) in SEGMENT_NUMBERS:
        number = SEGMENT_NUMBERS[instruction.op_register(0)]
        if number == CS:
            p.fault(UD)
        selector = p.operand(instruction, 1) & 0xFFFF
        p.load_data_segment(number, selector)
        p.shadow = number == SS
    else:
        number = SEGMENT_NUMBERS[instruction.op_register(1)]
        p.set_operand(instruction, 0, p.segments[number].selector)


def _width(p: Processor, instruction: iced.Instruction) -> int:
    return abs(instruction.stack_pointer_increment) * 8


@python_form("push_sreg")
def push_sreg(p: Processor, instruction: iced.Instruction) -> None:
    width = _width(p, instruction)
    p.push(width, p.segments[SEGMENT_NUMBERS[instruction.op_register(0)]].selector)


@python_form("pop_sreg")
def pop_sreg(p: Processor, instruction: iced.Instruction) -> None:
    width = _width(p, instruction)
    number = SEGMENT_NUMBERS[instruction.op_register(0)]
    selector = p.stack_read(0, width) & 0xFFFF
    bits = p.stack_bits
    p.load_data_segment(number, selector)
    # With POP SS the stack pointer still counts in the old stack's size.
    p.set_register(4, bits, p.register(4, bits) + width // 8)
    p.shadow = number == SS


@python_form("lds", "les", "lfs", "lgs", "lss")
def load_far_pointer(p: Processor, instruction: iced.Instruction) -> None:
    width = p.operand_bits(instruction, 0)
    segment, offset = p.memory_operand(instruction)
    pointer = p.read_segment(segment, offset, width // 8)
    selector = p.read_segment(segment, offset + width // 8, 2)
    name = iced.Mnemonic
    number = {name.LES: 0, name.LSS: 2, name.LDS: 3, name.LFS: 4, name.LGS: 5}[instruction.mnemonic]
    p.load_data_segment(number, selector)
    p.set_operand(instruction, 0, pointer)


def _require_cpl0(p: Processor) -> None:
    if p.cpl != 0:
        p.fault(GP, 0)


def _operand_is_16_bits(instruction: iced.Instruction) -> bool:
    code = iced.Code
    return instruction.code in (code.LGDT_M1632_16, code.LIDT_M1632_16)


def _load_table(p: Processor, instruction: iced.Instruction) -> tuple[int, int]:
    _require_cpl0(p)
    segment, offset = p.memory_operand(instruction)
    limit = p.read_segment(segment, offset, 2)
    if p.bits == 64:
        base = p.read_segment(segment, offset + 2, 8)
        if base >> 47 not in (0, 0x1_FFFF):
            p.fault(GP, 0)  # APM vol. 3, LGDT, LIDT: the new base address is not canonical
        return base, limit
    base = p.read_segment(segment, offset + 2, 4)
    return base & 0xFF_FFFF if _operand_is_16_bits(instruction) else base, limit


@python_form("lgdt")
def lgdt(p: Processor, instruction: iced.Instruction) -> None:
    p.gdtr_base, p.gdtr_limit = _load_table(p, instruction)


@python_form("lidt")
def lidt(p: Processor, instruction: iced.Instruction) -> None:
    p.idtr_base, p.idtr_limit = _load_table(p, instruction)


def _store_table(p: Processor, instruction: iced.Instruction, base: int, limit: int) -> None:
    segment, offset = p.memory_operand(instruction)
    size = 8 if p.bits == 64 else 4
    p.write_segment(segment, offset, 2 + size, limit & 0xFFFF | (base & ((1 << 8 * size) - 1)) << 16)


@python_form("sgdt")
def sgdt(p: Processor, instruction: iced.Instruction) -> None:
    _store_table(p, instruction, p.gdtr_base, p.gdtr_limit)


@python_form("sidt")
def sidt(p: Processor, instruction: iced.Instruction) -> None:
    _store_table(p, instruction, p.idtr_base, p.idtr_limit)


def _protected_only(p: Processor) -> None:
    if p.real_mode or p.virtual8086:
        p.fault(UD)


def _system_descriptor(p: Processor, selector: int, types: tuple[int, ...]) -> tuple[int, int, int, int]:
    """(base, limit, attributes, address of the descriptor) of an LDT or TSS, for LLDT and LTR."""
    if selector & 4:
        p.fault(GP, selector & ~3)
    descriptor, place = p.read_descriptor(selector)
    attributes = attributes_of(descriptor)
    if attributes & 0x1F not in types:
        p.fault(GP, selector & ~3)
    if not attributes & ATTRIBUTE_P:
        p.fault(NP, selector & ~3)
    base = base_of(descriptor)
    if p.bits == 64:
        # 16 bytes in 64-bit mode; the type field of the upper half must be 0 (APM vol. 2, 4.8.3 and figure 4-22).
        if (selector & ~7) + 15 > p.gdtr_limit:
            p.fault(GP, selector & ~3)
        upper = p.read_system(place + 8, 8)
        if upper >> 40 & 0x1F:
            p.fault(GP, selector & ~3)
        base |= (upper & 0xFFFF_FFFF) << 32
        if base >> 47 not in (0, 0x1_FFFF):
            p.fault(GP, selector & ~3)
    return base, limit_of(descriptor), attributes, place


@python_form("lldt")
def lldt(p: Processor, instruction: iced.Instruction) -> None:
    _protected_only(p)
    _require_cpl0(p)
    selector = p.operand(instruction, 0) & 0xFFFF
    if selector & ~3 == 0:
        p.ldtr.load(selector, 0, 0, 0)
        return
    base, limit, attributes, _ = _system_descriptor(p, selector, (2,))
    p.ldtr.load(selector, base, limit, attributes)


@python_form("ltr")
def ltr(p: Processor, instruction: iced.Instruction) -> None:
    _protected_only(p)
    _require_cpl0(p)
    selector = p.operand(instruction, 0) & 0xFFFF
    if selector & ~3 == 0:
        p.fault(GP, 0)
    types = (TSS32_AVAILABLE,) if p.long_mode else (TSS16_AVAILABLE, TSS32_AVAILABLE)
    base, limit, attributes, place = _system_descriptor(p, selector, types)
    busy = attributes | 2
    p.write_system(place + 5, 1, busy & 0xFF)
    p.tr.load(selector, base, limit, busy)


@python_form("sldt")
def sldt(p: Processor, instruction: iced.Instruction) -> None:
    _protected_only(p)
    p.set_operand(instruction, 0, p.ldtr.selector)


@python_form("str")
def str_(p: Processor, instruction: iced.Instruction) -> None:
    _protected_only(p)
    p.set_operand(instruction, 0, p.tr.selector)
