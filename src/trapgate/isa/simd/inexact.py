"""Whether a result is inexact when overflow or underflow is unmasked (APM vol. 1, 4.10.3).

The handler of an unmasked overflow or underflow gets the result as if the exponent had no bounds, so the precision
exception says whether *that* was rounded: the host, which runs with everything masked, cannot tell.
"""

from __future__ import annotations

from fractions import Fraction

OVERFLOW, UNDERFLOW = 1 << 3, 1 << 4
DENORMALS_ARE_ZERO, FLUSH_TO_ZERO = 1 << 6, 1 << 15
#: Width -> (bits of the stored significand, bias).
_FORMATS = {32: (23, 127), 64: (52, 1023)}


def value_of(bits: int, width: int, zero_denormals: bool) -> Fraction | None:
    """The number; None for infinities and NaNs."""
    stored, bias = _FORMATS[width]
    exponent = bits >> stored & 2 * bias + 1
    significand = bits & (1 << stored) - 1
    if exponent == 2 * bias + 1:
        return None
    if exponent == 0:
        if zero_denormals:
            return Fraction(0)
        exponent = 1
    else:
        significand |= 1 << stored
    value = Fraction(significand) * Fraction(2) ** (exponent - bias - stored)
    return -value if bits >> width - 1 else value


def _exact(operation: str, a: Fraction, b: Fraction) -> Fraction | None:
    if operation == "div":
        return a / b if b else None
    return {"add": a + b, "sub": a - b, "mul": a * b, "cvt": a}[operation]


def _fits(value: Fraction, step: Fraction) -> bool:
    return (value / step).denominator == 1


def _exponent(value: Fraction) -> int:
    """e with 2**e <= value < 2**(e + 1)."""
    e = value.numerator.bit_length() - value.denominator.bit_length()
    return e if Fraction(2) ** e <= value else e - 1


def any_inexact(operation: str, pairs: list[tuple[int, int]], width: int, unmasked: int, mxcsr: int) -> bool:
    """Whether any lane's result is inexact; `unmasked` has OVERFLOW and UNDERFLOW where MXCSR unmasks them."""
    source = 64 if operation == "cvt" else width
    stored, bias = _FORMATS[32 if operation == "cvt" else width]
    for pair in pairs:
        a, b = (value_of(bits, source, bool(mxcsr & DENORMALS_ARE_ZERO)) for bits in pair)
        result = None if a is None or b is None else _exact(operation, a, b)
        if not result:
            continue
        size = abs(result)
        exponent = _exponent(size)
        unbounded = _fits(size, Fraction(2) ** (exponent - stored))
        if exponent < 1 - bias:
            # A result that rounds up to the smallest normal number is inexact either way.
            bounded = _fits(size, Fraction(2) ** (1 - bias - stored)) and not mxcsr & FLUSH_TO_ZERO
            if not (unbounded if unmasked & UNDERFLOW else bounded):
                return True
        elif exponent > bias:
            if not (unbounded and unmasked & OVERFLOW):
                return True
        elif not unbounded:
            return True
    return False
