"""MUL, IMUL, DIV, IDIV (APM vol. 3, chapter 3).

Flags that the manual leaves undefined (SF, ZF, AF, PF after a multiplication, all after a division) are set from the
low half of a product, and kept by a division.
"""

from __future__ import annotations

from trapgate.arch.registers import RAX, RDX
from trapgate.isa.context import Context, Operand, semantics
from trapgate.isa.ir import Value

DIVIDE_ERROR = 0


def _set_wide(c: Context, width: int, low: Value, high: Value) -> None:
    """The pair that holds a product or a quotient and remainder: AH:AL, or rDX:rAX."""
    if width == 8:
        c.set_register(RAX, (high.zext(16) << 8) | low.zext(16))
    else:
        c.set_register(RAX, low)
        c.set_register(RDX, high)


def _wide_product(c: Context, source: Operand, is_signed: bool) -> None:
    width = source.width
    a, b = c.register(RAX, width), source.read()
    wide = 2 * width
    product = a.sext(wide) * b.sext(wide) if is_signed else a.zext(wide) * b.zext(wide)
    low, high = product.trunc(width), (product >> width).trunc(width)
    _set_wide(c, width, low, high)
    overflow = high.ne(low.sar(width - 1)) if is_signed else high.ne(0)
    c.flags.set_result(low, overflow, overflow)


@semantics("mul")
def mul(c: Context, source: Operand) -> None:
    _wide_product(c, source, is_signed=False)


@semantics("imul")
def imul(c: Context, first: Operand, second: Operand | None = None, third: Operand | None = None) -> None:
    if second is None:
        _wide_product(c, first, is_signed=True)
        return
    width = first.width
    a, b = (second.read(), third.read()) if third is not None else (first.read(), second.read())
    product = a.sext(2 * width) * b.sext(2 * width)
    result = product.trunc(width)
    first.write(result)
    overflow = product.ne(result.sext(2 * width))
    c.flags.set_result(result, overflow, overflow)


def _dividend(c: Context, width: int) -> tuple[Value, Value]:
    """(high, low) halves."""
    if width == 8:
        ax = c.register(RAX, 16)
        return (ax >> 8).trunc(8), ax.trunc(8)
    return c.register(RDX, width), c.register(RAX, width)


def _divide_wide(c: Context, high: Value, low: Value, divisor: Value) -> tuple[Value, Value]:
    """Unsigned (quotient, remainder) of high:low by divisor, where high < divisor."""
    width = low.width
    if width < 64:
        wide = (high.zext(2 * width) << width) | low.zext(2 * width)
        by = divisor.zext(2 * width)
        return wide.udiv(by).trunc(width), wide.urem(by).trunc(width)
    # LLVM would call a library function for 128 bits; the processor has an instruction.
    pair = c.emit.define(
        'call {i64, i64} asm "divq $4", "={ax},={dx},{ax},{dx},r,~{flags}"'
        f"(i64 {low.name}, i64 {high.name}, i64 {divisor.name})",
        "i64",
    )
    quotient = c.emit.define(f"extractvalue {{i64, i64}} {pair.name}, 0", "i64")
    return quotient, c.emit.define(f"extractvalue {{i64, i64}} {pair.name}, 1", "i64")


@semantics("div")
def div(c: Context, source: Operand) -> None:
    divisor = source.read()
    high, low = _dividend(c, source.width)
    c.fault_if(high.uge(divisor), DIVIDE_ERROR)  # covers a divisor of 0
    _set_wide(c, source.width, *_divide_wide(c, high, low, divisor))


@semantics("idiv")
def idiv(c: Context, source: Operand) -> None:
    width = source.width
    divisor = source.read()
    high, low = _dividend(c, width)
    # Divide magnitudes, then give the quotient and the remainder their signs.
    negative, divisor_negative = high.slt(0), divisor.slt(0)
    wide = (high.zext(2 * width) << width) | low.zext(2 * width)
    magnitude = negative.select(-wide, wide)
    by = divisor_negative.select(-divisor, divisor)
    top = (magnitude >> width).trunc(width)
    c.fault_if(top.uge(by), DIVIDE_ERROR)
    quotient, remainder = _divide_wide(c, top, magnitude.trunc(width), by)
    negate = negative ^ divisor_negative
    limit = c.emit.constant((1 << (width - 1)) - 1, width) + negate.zext(width)
    c.fault_if(quotient.ugt(limit), DIVIDE_ERROR)
    _set_wide(c, width, negate.select(-quotient, quotient), negative.select(-remainder, remainder))
