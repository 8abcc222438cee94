"""Shifts and rotates (APM vol. 3, chapter 3).

Counts are taken modulo 32 (64 for 64-bit operands); a count of 0 leaves the flags alone. OF is defined for a count of 1
only; for other counts it is worked out the same way.
"""

from __future__ import annotations

from collections.abc import Callable

from trapgate.isa.context import Context, Operand, semantics
from trapgate.isa.ir import Value


def _count(source: Operand, width: int) -> Value:
    return source.read().resize(width) & (63 if width == 64 else 31)


def _finish_shift(c: Context, count: Value, result: Value, carry: Value, overflow: Value) -> None:
    wide = result.sext(64)
    c.flags.set_words_if(count.ne(0), wide, wide, c.flags.carry_word(carry, overflow, None))


@semantics("shl", "sal")
def shl(c: Context, destination: Operand, source: Operand) -> None:
    width = destination.width
    a, count = destination.update(), _count(source, width)
    # In a wider type, so that counts beyond the width shift everything out (8- and 16-bit operands) and the last bit
    # shifted out stays in sight.
    wide = 128 if width == 64 else 64
    shifted = a.zext(wide) << count.zext(wide)
    result = shifted.trunc(width)
    destination.write(result)
    carry = (shifted >> width).trunc(1)
    _finish_shift(c, count, result, carry, result.slt(0) ^ carry)


@semantics("shr")
def shr(c: Context, destination: Operand, source: Operand) -> None:
    width = destination.width
    a, count = destination.update(), _count(source, width)
    wide = 128 if width == 64 else 64
    shifted = (a.zext(wide) << 1) >> count.zext(wide)  # bit 0 is the last bit shifted out
    result = (shifted >> 1).trunc(width)
    destination.write(result)
    _finish_shift(c, count, result, shifted.trunc(1), a.slt(0))


@semantics("sar")
def sar(c: Context, destination: Operand, source: Operand) -> None:
    width = destination.width
    a, count = destination.update(), _count(source, width)
    wide = 128 if width == 64 else 64
    shifted = (a.sext(wide) << 1).sar(count.zext(wide))
    result = (shifted >> 1).trunc(width)
    destination.write(result)
    _finish_shift(c, count, result, shifted.trunc(1), c.emit.constant(0, 1))


def _set_rotate_flags(c: Context, happened: Value, carry: Value, overflow: Value) -> None:
    if c.flags.dead:
        return
    zero, sign, word = c.flags.words()
    c.flags.set_words(zero, sign, happened.select(c.flags.carry_word(carry, overflow, None) | (word & 8), word))


def _rotate(
    c: Context, destination: Operand, source: Operand, intrinsic: str, flags: Callable[[Value], tuple[Value, Value]]
) -> None:
    width = destination.width
    a, count = destination.update(), _count(source, width)
    result = c.emit.intrinsic(intrinsic, a.type, [a, a, count])
    destination.write(result)
    _set_rotate_flags(c, count.ne(0), *flags(result))


@semantics("rol")
def rol(c: Context, destination: Operand, source: Operand) -> None:
    def flags(result: Value) -> tuple[Value, Value]:
        carry = result.trunc(1)
        return carry, carry ^ result.slt(0)

    _rotate(c, destination, source, "fshl", flags)


@semantics("ror")
def ror(c: Context, destination: Operand, source: Operand) -> None:
    def flags(result: Value) -> tuple[Value, Value]:
        return result.slt(0), (result ^ (result << 1)).slt(0)

    _rotate(c, destination, source, "fshr", flags)


def _rotate_through_carry(c: Context, destination: Operand, source: Operand, left: bool) -> None:
    width = destination.width
    a, count = destination.update(), _count(source, width)
    wide = 128 if width == 64 else 64
    bits = width + 1
    turns = count.zext(wide).urem(bits) if width < 32 else count.zext(wide)
    old_carry = c.flags.carry()
    value = a.zext(wide) | (old_carry.zext(wide) << width)
    rest = c.emit.constant(bits, wide) - turns
    rotated = (value << turns) | (value >> rest) if left else (value >> turns) | (value << rest)
    result, carry = rotated.trunc(width), (rotated >> width).trunc(1)
    destination.write(result)
    overflow = result.slt(0) ^ carry if left else (result ^ (result << 1)).slt(0)
    _set_rotate_flags(c, count.ne(0), carry, overflow)


@semantics("rcl")
def rcl(c: Context, destination: Operand, source: Operand) -> None:
    _rotate_through_carry(c, destination, source, left=True)


@semantics("rcr")
def rcr(c: Context, destination: Operand, source: Operand) -> None:
    _rotate_through_carry(c, destination, source, left=False)


def _double_shift(c: Context, destination: Operand, source: Operand, by: Operand, left: bool) -> None:
    width = destination.width
    a, b, count = destination.update(), source.read(), _count(by, width)
    wide = 128 if width == 64 else 64
    n = count.zext(wide)
    # A 16-bit count beyond 16 is undefined in the manual; what comes in then is the destination again.
    x, y = a.zext(wide), b.zext(wide)
    if left:
        value = (x << width) | y if width > 16 else (x << 32) | (y << 16) | x
        low = width if width > 16 else 32
        shifted = value << n
        result = (shifted >> low).trunc(width)
        carry = (x << n >> width).trunc(1)
    else:
        value = (y << width) | x if width > 16 else (x << 32) | (y << 16) | x
        result = (value >> n).trunc(width)
        carry = ((x << 1) >> n).trunc(1)
    destination.write(result)
    _finish_shift(c, count, result, carry, (result ^ a).slt(0))


@semantics("shld")
def shld(c: Context, destination: Operand, source: Operand, by: Operand) -> None:
    _double_shift(c, destination, source, by, left=True)


@semantics("shrd")
def shrd(c: Context, destination: Operand, source: Operand, by: Operand) -> None:
    _double_shift(c, destination, source, by, left=False)
