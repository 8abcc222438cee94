"""A typed value: the operand of every operator in a semantic function.

Integers have a width in bits and wrap as machine words do. Comparisons are named (`ult` is unsigned less-than, `slt`
signed), because Python's `<` cannot tell the two apart. Plain Python ints mix in as constants of the other side's
width.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trapgate.isa.ir.emitter import Emitter


def signed(value: int, width: int) -> int:
    """`value` modulo 2**width as a two's-complement number."""
    value &= (1 << width) - 1
    return value - (1 << width) if value >> (width - 1) else value


class Value:
    """An LLVM value: `name` is its text, `type` its LLVM type, `width` its size in bits (0 for pointers)."""

    __slots__ = ("emit", "name", "type", "width")

    def __init__(self, emit: Emitter, name: str, type_: str, width: int) -> None:
        self.emit = emit
        self.name = name
        self.type = type_
        self.width = width

    def _other(self, other: Value | int) -> Value:
        if isinstance(other, Value):
            if other.type != self.type:
                raise TypeError(f"operands differ in type: {self.type} and {other.type}")
            return other
        return self.emit.constant_like(other, self)

    def __add__(self, other: Value | int) -> Value:
        return self.emit.binary("add", self, self._other(other))

    def __sub__(self, other: Value | int) -> Value:
        return self.emit.binary("sub", self, self._other(other))

    def __rsub__(self, other: int) -> Value:
        return self.emit.binary("sub", self._other(other), self)

    def __mul__(self, other: Value | int) -> Value:
        return self.emit.binary("mul", self, self._other(other))

    def __and__(self, other: Value | int) -> Value:
        return self.emit.binary("and", self, self._other(other))

    def __or__(self, other: Value | int) -> Value:
        return self.emit.binary("or", self, self._other(other))

    def __xor__(self, other: Value | int) -> Value:
        return self.emit.binary("xor", self, self._other(other))

    def __lshift__(self, other: Value | int) -> Value:
        return self.emit.binary("shl", self, self._other(other))

    def __rshift__(self, other: Value | int) -> Value:
        """Logical (unsigned) shift right."""
        return self.emit.binary("lshr", self, self._other(other))

    def __invert__(self) -> Value:
        return self ^ -1

    def __neg__(self) -> Value:
        return self.emit.binary("sub", self._other(0), self)

    def sar(self, other: Value | int) -> Value:
        """Arithmetic shift right."""
        return self.emit.binary("ashr", self, self._other(other))

    def udiv(self, other: Value | int) -> Value:
        """Unsigned quotient; the divisor must not be 0."""
        return self.emit.binary("udiv", self, self._other(other))

    def urem(self, other: Value | int) -> Value:
        """Unsigned remainder; the divisor must not be 0."""
        return self.emit.binary("urem", self, self._other(other))

    def sdiv(self, other: Value | int) -> Value:
        """Signed quotient, truncated; the divisor must not be 0 and the quotient must fit."""
        return self.emit.binary("sdiv", self, self._other(other))

    def srem(self, other: Value | int) -> Value:
        """Signed remainder; the divisor must not be 0 and the quotient must fit."""
        return self.emit.binary("srem", self, self._other(other))

    def eq(self, other: Value | int) -> Value:
        """Equal, as i1 (a vector of i1 for vectors)."""
        return self.emit.compare("eq", self, self._other(other))

    def ne(self, other: Value | int) -> Value:
        """Not equal."""
        return self.emit.compare("ne", self, self._other(other))

    def ult(self, other: Value | int) -> Value:
        """Unsigned less than."""
        return self.emit.compare("ult", self, self._other(other))

    def ule(self, other: Value | int) -> Value:
        """Unsigned less than or equal."""
        return self.emit.compare("ule", self, self._other(other))

    def ugt(self, other: Value | int) -> Value:
        """Unsigned greater than."""
        return self.emit.compare("ugt", self, self._other(other))

    def uge(self, other: Value | int) -> Value:
        """Unsigned greater than or equal."""
        return self.emit.compare("uge", self, self._other(other))

    def slt(self, other: Value | int) -> Value:
        """Signed less than."""
        return self.emit.compare("slt", self, self._other(other))

    def sle(self, other: Value | int) -> Value:
        """Signed less than or equal."""
        return self.emit.compare("sle", self, self._other(other))

    def sgt(self, other: Value | int) -> Value:
        """Signed greater than."""
        return self.emit.compare("sgt", self, self._other(other))

    def sge(self, other: Value | int) -> Value:
        """Signed greater than or equal."""
        return self.emit.compare("sge", self, self._other(other))

    def zext(self, width: int) -> Value:
        """Zero-extended to `width` bits (itself when it has that width)."""
        return self if width == self.width else self.emit.cast("zext", self, width)

    def sext(self, width: int) -> Value:
        """Sign-extended to `width` bits (itself when it has that width)."""
        return self if width == self.width else self.emit.cast("sext", self, width)

    def trunc(self, width: int) -> Value:
        """The low `width` bits (itself when it has that width)."""
        return self if width == self.width else self.emit.cast("trunc", self, width)

    def resize(self, width: int) -> Value:
        """Zero-extended or truncated to `width` bits."""
        return self.zext(width) if width > self.width else self.trunc(width)

    def select(self, if_true: Value, if_false: Value) -> Value:
        """`if_true` where this i1 is 1, else `if_false`."""
        return self.emit.select(self, if_true, if_false)

    def bitcast(self, type_: str) -> Value:
        """The same bits as another LLVM type, for example 'i128' as '<4 x i32>'."""
        return self if type_ == self.type else self.emit.bitcast(self, type_)
