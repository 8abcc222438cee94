"""SSE4a's bit fields: EXTRQ and INSERTQ (APM vol. 4); its stores MOVNTSS and MOVNTSD are among the moves.

A length of 0 means 64. The manual leaves open what fields beyond bit 63 give, and the upper half of the result: bits
beyond 63 are 0 here (are not inserted), and the upper half stays.
"""

from __future__ import annotations

from trapgate.isa.context import Context, Operand, semantics
from trapgate.isa.ir import Value
from trapgate.isa.simd.common import lanes, write_lane


def _ones(length: Value) -> Value:
    """`length` low ones; 64 of them for 0."""
    emit = length.emit
    # All ones shifted right by 64 - length, which is -length modulo 64.
    return emit.constant(-1, 64) >> (-length & 63)


def _six_bits(value: Value) -> Value:
    return value.resize(64) & 63


@semantics("extrq")
def extrq(c: Context, destination: Operand, *field: Operand) -> None:
    """The field's length and index are two immediates, or bits 5:0 and 13:8 of a register."""
    if len(field) == 2:
        length, index = _six_bits(field[0].read()), _six_bits(field[1].read())
    else:
        control = field[0].read().trunc(64)
        length, index = _six_bits(control), _six_bits(control >> 8)
    write_lane(destination, (destination.read().trunc(64) >> index) & _ones(length))


@semantics("insertq")
def insertq(c: Context, destination: Operand, source: Operand, *field: Operand) -> None:
    """The field's length and index are two immediates, or bits 69:64 and 77:72 of the source."""
    value = lanes(source.read(), 64)
    if field:
        length, index = _six_bits(field[0].read()), _six_bits(field[1].read())
    else:
        control = c.emit.extract(value, 1)
        length, index = _six_bits(control), _six_bits(control >> 8)
    ones = _ones(length)
    inserted = (c.emit.extract(value, 0) & ones) << index
    write_lane(destination, (destination.read().trunc(64) & ~(ones << index)) | inserted)
