"""The arithmetic flags, lazily: remembered as operands and result, worked out when somebody asks.

In the state block they are three words (arch/layout.py): `zero`, which is 0 exactly when ZF is set; `sign`, whose bit
63 is SF and whose low byte's even parity is PF; `carry`, the vector of carries out of each bit, moved up so that bit
63 is CF and bit 62 the carry into the top bit (OF = bit 63 xor bit 62), with the carry out of bit 3 (AF) kept in bit
3. Any combination of the six flags can be expressed, so POPF and SAHF need nothing special.

The carries of a sum r = a + b (+ carry-in) are majority(a, b, not r), those of a difference r = a - b (- borrow) are
majority(not a, b, r): carry-ins need no place of their own.
"""

from __future__ import annotations

from typing import Protocol

from trapgate.arch import layout
from trapgate.isa.ir import Emitter, Value

# Condition codes without their lowest bit, which negates (APM vol. 3, 1.4, condition code encodings).
OVERFLOW, BELOW, ZERO, BELOW_EQUAL, SIGN, PARITY, LESS, LESS_EQUAL = range(0, 16, 2)


class _Holder(Protocol):
    @property
    def emit(self) -> Emitter: ...

    def field(self, offset: int, width: int = 64) -> Value: ...

    def set_field(self, offset: int, value: Value) -> None: ...


class Flags:
    """The arithmetic flags at one place of the generated code."""

    def __init__(self, holder: _Holder) -> None:
        self._c = holder
        self._kind = "stored"  # stored, add, sub, logic, inc, words, dead
        self._values: tuple[Value, ...] = ()
        #: True while nobody will look at what the current instruction sets.
        self.dead = False

    # -- setting

    def set_add(self, a: Value, b: Value, result: Value) -> None:
        """After result = a + b."""
        self._set("add", a, b, result)

    def set_sub(self, a: Value, b: Value, result: Value) -> None:
        """After result = a - b."""
        self._set("sub", a, b, result)

    def set_sbb(self, a: Value, b: Value, result: Value) -> None:
        """After result = a - b - CF: the carries as in set_sub, but comparing a and b does not tell the conditions."""
        wide = result.sext(64)
        self.set_words(wide, wide, _align_carries((~a & b) | ((~a | b) & result)))

    def set_logic(self, result: Value) -> None:
        """After AND, OR, XOR, TEST: CF, OF and AF are 0 (AF is undefined in the manual; processors clear it)."""
        self._set("logic", result)

    def set_adc(self, a: Value, b: Value, result: Value) -> None:
        """After result = a + b + CF."""
        self.set_add(a, b, result)

    def set_inc(self, carry: Value, result: Value, extreme: Value) -> None:
        """After INC and DEC: CF is the old `carry` (i1). OF is set where `extreme`, which for INC is the result and for
        DEC what was there before, is the least negative number, AF where its low four bits are 0."""
        self._set("inc", carry, result, extreme)

    def set_result(self, result: Value, carry: Value, overflow: Value, auxiliary: Value | None = None) -> None:
        """ZF, SF and PF from `result`, the others as given (i1 each; AF 0 if not given)."""
        wide = result.sext(64)
        self.set_words(wide, wide, self.carry_word(carry, overflow, auxiliary))

    def set_words(self, zero: Value, sign: Value, carry: Value) -> None:
        """All three words as they are to be stored."""
        self._set("words", zero, sign, carry)

    def set_bits(self, flags: Value) -> None:
        """All six from a value laid out as RFLAGS (at least 12 bits)."""
        f = flags.resize(64)
        zero = (f & 0x40) ^ 0x40
        sign = ((f & 0x80) << 56) | (((f >> 2) & 1) ^ 1)
        carry = f & 1
        overflow = (f >> 11) & 1
        self.set_words(zero, sign, (carry << 63) | ((carry ^ overflow) << 62) | ((f >> 1) & 8))

    def set_words_if(self, condition: Value, zero: Value, sign: Value, carry: Value) -> None:
        """Like set_words where `condition` holds; else the flags stay (shifts by a count of 0)."""
        if self.dead:
            return
        z, s, c = self.words()
        self.set_words(condition.select(zero, z), condition.select(sign, s), condition.select(carry, c))

    def set_carry(self, carry: Value) -> None:
        """CF alone (i1), the others stay: STC, CLC, CMC, BT."""
        zero, sign, word = self.words()
        overflow = (word ^ (word << 1)).slt(0)
        self.set_words(zero, sign, self.carry_word(carry, overflow, None) | (word & 8))

    def set_zero(self, zero: Value) -> None:
        """ZF alone (i1), the others stay: CMPXCHG8B, LAR, VERR."""
        _, sign, word = self.words()
        self.set_words((zero ^ 1).zext(64), sign, word)

    def carry_word(self, carry: Value, overflow: Value, auxiliary: Value | None) -> Value:
        """The word that gives CF, OF and AF (i1 each)."""
        c = carry.zext(64)
        word = (c << 63) | ((c ^ overflow.zext(64)) << 62)
        return word if auxiliary is None else word | (auxiliary.zext(64) << 3)

    def _set(self, kind: str, *values: Value) -> None:
        self._kind, self._values = ("dead", ()) if self.dead else (kind, values)

    # -- storing

    def stored(self) -> None:
        """The words in the state block are the truth again (at the start of a handler)."""
        self._kind, self._values = "stored", ()

    def flush(self) -> None:
        """Write the words into the state block if the current instructions changed them."""
        if self._kind in ("stored", "dead"):
            return
        zero, sign, carry = self.words()
        self._c.set_field(layout.FLAG_ZERO, zero)
        self._c.set_field(layout.FLAG_SIGN, sign)
        self._c.set_field(layout.FLAG_CARRY, carry)

    # -- reading

    def words(self) -> tuple[Value, Value, Value]:
        """(zero, sign, carry) words."""
        kind, values = self._kind, self._values
        if kind == "stored":
            field = self._c.field
            return field(layout.FLAG_ZERO), field(layout.FLAG_SIGN), field(layout.FLAG_CARRY)
        if kind == "words":
            return values[0], values[1], values[2]
        if kind == "logic":
            wide = values[0].sext(64)
            return wide, wide, self._c.emit.constant(0, 64)
        if kind == "inc":
            carry, result, extreme = values
            wide = result.sext(64)
            overflow = extreme.eq(1 << (extreme.width - 1))
            return wide, wide, self.carry_word(carry, overflow, (extreme & 15).eq(0))
        if kind == "dead":
            raise AssertionError("flags read where the decoder said that nobody reads them")
        a, b, result = values
        carries = (a & b) | ((a | b) & ~result) if kind == "add" else (~a & b) | ((~a | b) & result)
        wide = result.sext(64)
        return wide, wide, _align_carries(carries)

    def carry(self) -> Value:
        """CF as i1."""
        if self._kind == "logic":
            return self._c.emit.constant(0, 1)
        if self._kind == "inc":
            return self._values[0]
        return self.words()[2].slt(0)

    def overflow(self) -> Value:
        """OF as i1."""
        word = self.words()[2]
        return (word ^ (word << 1)).slt(0)

    def auxiliary(self) -> Value:
        """AF as i1."""
        return (self.words()[2] & 8).ne(0)

    def zero(self) -> Value:
        """ZF as i1."""
        return self.condition(ZERO)

    def bits(self) -> Value:
        """The six flags laid out as RFLAGS, 64 bits wide (without bit 1)."""
        zero, sign, carry = self.words()
        flags = (carry >> 63) | (zero.eq(0).zext(64) << 6) | ((sign >> 63) << 7)
        flags = flags | ((carry & 8) << 1) | (_even_parity(sign).zext(64) << 2)
        return flags | ((((carry ^ (carry << 1)) >> 63) & 1) << 11)

    def condition(self, code: int) -> Value:
        """The condition `code` (0..15) of Jcc as i1."""
        result = self._condition(code & ~1)
        return result ^ 1 if code & 1 else result

    def _condition(self, code: int) -> Value:
        kind, values = self._kind, self._values
        if kind == "sub":
            a, b, _ = values
            if code == BELOW:
                return a.ult(b)
            if code == BELOW_EQUAL:
                return a.ule(b)
            if code == LESS:
                return a.slt(b)
            if code == LESS_EQUAL:
                return a.sle(b)
        if kind in ("add", "sub", "logic", "inc") and code in (ZERO, SIGN, PARITY):
            result = {"logic": 0, "inc": 1}.get(kind, 2)
            if code == ZERO:
                return values[result].eq(0)
            if code == SIGN:
                return values[result].slt(0)
            return _even_parity(values[result])
        if kind == "logic":
            result_value = values[0]
            if code in (OVERFLOW, BELOW):
                return self._c.emit.constant(0, 1)
            return {BELOW_EQUAL: result_value.eq(0), LESS: result_value.slt(0), LESS_EQUAL: result_value.sle(0)}[code]
        if code == BELOW:
            return self.carry()
        zero, sign, carry = self.words()
        if code == ZERO:
            return zero.eq(0)
        if code == SIGN:
            return sign.slt(0)
        if code == PARITY:
            return _even_parity(sign)
        if code == BELOW_EQUAL:
            return carry.slt(0) | zero.eq(0)
        overflow_word = carry ^ (carry << 1)
        if code == OVERFLOW:
            return overflow_word.slt(0)
        less = (sign ^ overflow_word).slt(0)
        return less if code == LESS else less | zero.eq(0)


def _align_carries(carries: Value) -> Value:
    width = carries.width
    if width == 64:
        return carries
    wide = carries.zext(64)
    return (wide << (64 - width)) | (wide & 8)


def _even_parity(value: Value) -> Value:
    low = value.trunc(8)
    return (value.emit.intrinsic("ctpop", "i8", [low]) & 1).eq(0)
