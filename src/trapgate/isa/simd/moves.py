"""Moves between XMM registers, MMX registers, memory and general-purpose registers (APM vol. 4 and 5, MOV...)."""

from __future__ import annotations

from trapgate.isa.context import Context, Operand, semantics
from trapgate.isa.ir import Value
from trapgate.isa.simd.common import (
    begin_mmx,
    enter_mmx_state,
    lanes,
    read_source,
    require_alignment,
    write_lane,
    write_mmx,
)


@semantics("movaps", "movapd", "movdqa", "movntps", "movntpd", "movntdq")
def move_aligned(c: Context, destination: Operand, source: Operand) -> None:
    require_alignment(c, destination)
    destination.write(_in_one_piece(read_source(c, source)))


@semantics("movups", "movupd", "movdqu", "lddqu")
def move_unaligned(c: Context, destination: Operand, source: Operand) -> None:
    destination.write(_in_one_piece(source.read()))


def _in_one_piece(value: Value) -> Value:
    """The same 128 bits as a vector: LLVM carries an i128 from one basic block to another in two registers."""
    return value.bitcast("<2 x i64>")


def _move_scalar(c: Context, destination: Operand, source: Operand, bits: int) -> None:
    """MOVSS, MOVSD: between registers only the low lane changes, a load clears the rest."""
    value = source.read()
    if destination.is_memory:
        destination.write(value.trunc(bits))
    elif source.is_memory:
        destination.write(value.zext(128))
    else:
        write_lane(destination, value.trunc(bits))


@semantics("movss", "movntss")
def movss(c: Context, destination: Operand, source: Operand) -> None:
    _move_scalar(c, destination, source, 32)


@semantics("movsd", "movntsd")
def movsd(c: Context, destination: Operand, source: Operand) -> None:
    _move_scalar(c, destination, source, 64)


@semantics("movlps", "movlpd")
def movlps(c: Context, destination: Operand, source: Operand) -> None:
    if destination.is_memory:
        destination.write(source.read().trunc(64))
    else:
        write_lane(destination, source.read())


@semantics("movhps", "movhpd")
def movhps(c: Context, destination: Operand, source: Operand) -> None:
    if destination.is_memory:
        destination.write(c.emit.extract(lanes(source.read(), 64), 1))
    else:
        write_lane(destination, source.read(), 1)


@semantics("movlhps")
def movlhps(c: Context, destination: Operand, source: Operand) -> None:
    write_lane(destination, source.read().trunc(64), 1)


@semantics("movhlps")
def movhlps(c: Context, destination: Operand, source: Operand) -> None:
    write_lane(destination, c.emit.extract(lanes(source.read(), 64), 1))


@semantics("movd")
def movd(c: Context, destination: Operand, source: Operand) -> None:
    """Between a 32-bit register or memory and an MMX (64) or XMM (128) register."""
    if 128 in (destination.width, source.width):
        destination.write(source.read().resize(destination.width))
    elif destination.width == 64:
        begin_mmx(c)
        write_mmx(c, destination, source.read().zext(64))
    else:
        begin_mmx(c)
        destination.write(source.read().trunc(32))
        enter_mmx_state(c)


@semantics("movq")
def movq(c: Context, destination: Operand, source: Operand) -> None:
    """All forms but the one from an MMX to a general-purpose register, which is `movq_from_mmx`.

    A narrower source than destination is zero-extended, also between XMM registers.
    """
    if 128 in (destination.width, source.width):
        destination.write(source.read().trunc(64).zext(destination.width))
        return
    begin_mmx(c)
    value = source.read()
    if destination.is_memory:
        destination.write(value)
        enter_mmx_state(c)
    else:
        write_mmx(c, destination, value)


@semantics("movq_from_mmx")
def movq_from_mmx(c: Context, destination: Operand, source: Operand) -> None:
    """MOVQ r/m64, mm (REX.W 0F 7E): widths alone do not tell it from MOVQ mm, r/m64."""
    begin_mmx(c)
    destination.write(source.read())
    enter_mmx_state(c)


@semantics("movntq")
def movntq(c: Context, destination: Operand, source: Operand) -> None:
    begin_mmx(c)
    destination.write(source.read())
    enter_mmx_state(c)


@semantics("movdq2q")
def movdq2q(c: Context, destination: Operand, source: Operand) -> None:
    begin_mmx(c)
    write_mmx(c, destination, source.read().trunc(64))


@semantics("movq2dq")
def movq2dq(c: Context, destination: Operand, source: Operand) -> None:
    begin_mmx(c)
    destination.write(source.read().zext(128))
    enter_mmx_state(c)
