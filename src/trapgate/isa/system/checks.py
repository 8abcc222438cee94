"""LAR, LSL, VERR, VERW, ARPL (APM vol. 3)."""

from __future__ import annotations

import iced_x86 as iced

from trapgate.arch.registers import ZF
from trapgate.arch.segments import (
    ATTRIBUTE_CODE,
    ATTRIBUTE_DC,
    ATTRIBUTE_RW,
    ATTRIBUTE_S,
    DPL_SHIFT,
    attributes_of,
    limit_of,
)
from trapgate.arch.vectors import UD
from trapgate.isa.processor import Processor, python_form

_LAR_TYPES_LEGACY = frozenset((1, 2, 3, 4, 5, 9, 11, 12))
_LAR_TYPES_LONG = frozenset((2, 9, 11, 12))
_LSL_TYPES_LEGACY = frozenset((1, 2, 3, 9, 11))
_LSL_TYPES_LONG = frozenset((2, 9, 11))


def _visible(p: Processor, selector: int, system_types: frozenset[int]) -> int | None:
    """The descriptor, or None when the current privilege may not see it."""
    if p.real_mode or p.virtual8086:
        p.fault(UD)
    if selector & ~3 == 0:
        return None
    table_limit = p.ldtr.limit if selector & 4 else p.gdtr_limit
    if (selector & ~7) + 7 > table_limit or (selector & 4 and not p.ldtr.attributes & 0x80):
        return None
    descriptor, _ = p.read_descriptor(selector)
    attributes = attributes_of(descriptor)
    if attributes & ATTRIBUTE_S:
        if attributes & ATTRIBUTE_CODE and attributes & ATTRIBUTE_DC:
            return descriptor
    elif attributes & 0xF not in system_types:
        return None
    dpl = attributes >> DPL_SHIFT & 3
    return descriptor if max(p.cpl, selector & 3) <= dpl else None


def _set_zf(p: Processor, value: bool) -> None:
    p.rflags = p.rflags & ~ZF | (ZF if value else 0)


def _source(p: Processor, instruction: iced.Instruction) -> int:
    return p.operand(instruction, 1) & 0xFFFF


@python_form("lar")
def lar(p: Processor, instruction: iced.Instruction) -> None:
    descriptor = _visible(p, _source(p, instruction), _LAR_TYPES_LONG if p.long_mode else _LAR_TYPES_LEGACY)
    if descriptor is not None:
        p.set_operand(instruction, 0, descriptor >> 32 & 0x00FF_FF00)
    _set_zf(p, descriptor is not None)


@python_form("lsl")
def lsl(p: Processor, instruction: iced.Instruction) -> None:
    descriptor = _visible(p, _source(p, instruction), _LSL_TYPES_LONG if p.long_mode else _LSL_TYPES_LEGACY)
    if descriptor is not None:
        p.set_operand(instruction, 0, limit_of(descriptor))
    _set_zf(p, descriptor is not None)


@python_form("verr")
def verr(p: Processor, instruction: iced.Instruction) -> None:
    descriptor = _visible(p, p.operand(instruction, 0) & 0xFFFF, frozenset())
    attributes = attributes_of(descriptor or 0)
    _set_zf(p, descriptor is not None and (not attributes & ATTRIBUTE_CODE or bool(attributes & ATTRIBUTE_RW)))


@python_form("verw")
def verw(p: Processor, instruction: iced.Instruction) -> None:
    descriptor = _visible(p, p.operand(instruction, 0) & 0xFFFF, frozenset())
    attributes = attributes_of(descriptor or 0)
    writable = not attributes & ATTRIBUTE_CODE and bool(attributes & ATTRIBUTE_RW)
    _set_zf(p, descriptor is not None and writable)


@python_form("arpl")
def arpl(p: Processor, instruction: iced.Instruction) -> None:
    if p.real_mode or p.virtual8086:
        p.fault(UD)
    destination = p.operand(instruction, 0)
    rpl = p.operand(instruction, 1) & 3
    smaller = destination & 3 < rpl
    if smaller:
        p.set_operand(instruction, 0, destination & ~3 | rpl)
    _set_zf(p, smaller)
