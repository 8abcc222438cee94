"""The arithmetic flags of results, and the conditions made of them (APM vol. 3, chapter 3 and 1.4)."""

from __future__ import annotations

from collections.abc import Callable

from trapgate.arch.registers import AF, ARITHMETIC_FLAGS, CF, OF, PF, SF, ZF

#: Every flag that arithmetic leaves alone.
OTHERS = (1 << 64) - 1 & ~ARITHMETIC_FLAGS
_PARITY = tuple(0 if value.bit_count() & 1 else PF for value in range(256))


def of_result(result: int, width: int) -> int:
    """ZF, SF and PF of a result of `width` bits."""
    return (0 if result else ZF) | (SF if result >> (width - 1) else 0) | _PARITY[result & 0xFF]


def _of_carries(carries: int, width: int) -> int:
    """CF, OF and AF, given the carry out of each bit."""
    out, into = carries >> (width - 1) & 1, carries >> (width - 2) & 1
    return out | (carries & 8) << 1 | (OF if out != into else 0)


def of_sum(a: int, b: int, result: int, width: int) -> int:
    """All six after result = a + b, or a + b + 1."""
    return of_result(result, width) | _of_carries(a & b | (a | b) & ~result, width)


def of_difference(a: int, b: int, result: int, width: int) -> int:
    """All six after result = a - b, or a - b - 1."""
    return of_result(result, width) | _of_carries(~a & b | (~a | b) & result, width)


def _below_equal(flags: int) -> bool:
    return bool(flags & (CF | ZF))


def _less(flags: int) -> bool:
    return bool(flags & SF) != bool(flags & OF)


def _less_equal(flags: int) -> bool:
    return bool(flags & ZF) or _less(flags)


def _any_of(mask: int) -> Callable[[int], bool]:
    return lambda flags: bool(flags & mask)


def _negated(condition: Callable[[int], bool]) -> Callable[[int], bool]:
    return lambda flags: not condition(flags)


_PLAIN = (_any_of(OF), _any_of(CF), _any_of(ZF), _below_equal, _any_of(SF), _any_of(PF), _less, _less_equal)
#: By condition code 0 ... 15: whether the condition holds in RFLAGS.
CONDITIONS = tuple(test for plain in _PLAIN for test in (plain, _negated(plain)))

__all__ = ["AF", "CF", "CONDITIONS", "OF", "OTHERS", "ZF", "of_difference", "of_result", "of_sum"]
