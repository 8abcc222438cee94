"""Addition, subtraction, logic, decimal adjustment (APM vol. 3, chapter 3)."""

from __future__ import annotations

from trapgate.arch.registers import RAX
from trapgate.isa.context import Context, Operand, semantics


@semantics("add")
def add(c: Context, destination: Operand, source: Operand) -> None:
    a, b = destination.update(), source.read()
    result = a + b
    destination.write(result)
    c.flags.set_add(a, b, result)


@semantics("adc")
def adc(c: Context, destination: Operand, source: Operand) -> None:
    carry = c.flags.carry()
    a, b = destination.update(), source.read()
    result = a + b + carry.zext(destination.width)
    destination.write(result)
    c.flags.set_adc(a, b, result)


@semantics("sub")
def sub(c: Context, destination: Operand, source: Operand) -> None:
    a, b = destination.update(), source.read()
    result = a - b
    destination.write(result)
    c.flags.set_sub(a, b, result)


@semantics("sbb")
def sbb(c: Context, destination: Operand, source: Operand) -> None:
    carry = c.flags.carry()
    a, b = destination.update(), source.read()
    result = a - b - carry.zext(destination.width)
    destination.write(result)
    c.flags.set_sbb(a, b, result)


@semantics("cmp")
def cmp(c: Context, first: Operand, second: Operand) -> None:
    a, b = first.read(), second.read()
    c.flags.set_sub(a, b, a - b)


@semantics("and")
def and_(c: Context, destination: Operand, source: Operand) -> None:
    result = destination.update() & source.read()
    destination.write(result)
    c.flags.set_logic(result)


@semantics("or")
def or_(c: Context, destination: Operand, source: Operand) -> None:
    result = destination.update() | source.read()
    destination.write(result)
    c.flags.set_logic(result)


@semantics("xor")
def xor(c: Context, destination: Operand, source: Operand) -> None:
    result = destination.update() ^ source.read()
    destination.write(result)
    c.flags.set_logic(result)


@semantics("test")
def test(c: Context, first: Operand, second: Operand) -> None:
    c.flags.set_logic(first.read() & second.read())


@semantics("not")
def not_(c: Context, destination: Operand) -> None:
    destination.write(~destination.update())


@semantics("neg")
def neg(c: Context, destination: Operand) -> None:
    a = destination.update()
    zero = c.emit.constant(0, destination.width)
    result = zero - a
    destination.write(result)
    c.flags.set_sub(zero, a, result)


@semantics("inc")
def inc(c: Context, destination: Operand) -> None:
    a = destination.update()
    result = a + 1
    carry = None if c.flags.dead else c.flags.carry()
    destination.write(result)
    if carry is not None:
        c.flags.set_inc(carry, result, result)


@semantics("dec")
def dec(c: Context, destination: Operand) -> None:
    a = destination.update()
    result = a - 1
    carry = None if c.flags.dead else c.flags.carry()
    destination.write(result)
    if carry is not None:
        c.flags.set_inc(carry, result, a)


def _decimal_adjust(c: Context, subtract: bool) -> None:
    """DAA and DAS (APM vol. 3): OF is undefined; it becomes 0 here."""
    al = c.register(RAX, 8)
    old_carry, old_auxiliary = c.flags.carry(), c.flags.auxiliary()
    low = (al & 15).ugt(9) | old_auxiliary
    high = al.ugt(0x99) | old_carry
    zero = c.emit.constant(0, 8)
    amount = low.select(c.emit.constant(6, 8), zero) + high.select(c.emit.constant(0x60, 8), zero)
    result = al - amount if subtract else al + amount
    carry = high
    if subtract:
        carry = high | (low & al.ult(6))  # the borrow of the low adjustment counts
    c.set_register(RAX, result)
    c.flags.set_result(result, carry, c.emit.constant(0, 1), low)


@semantics("daa")
def daa(c: Context) -> None:
    _decimal_adjust(c, subtract=False)


@semantics("das")
def das(c: Context) -> None:
    _decimal_adjust(c, subtract=True)


def _ascii_adjust(c: Context, subtract: bool) -> None:
    """AAA and AAS (APM vol. 3): AL and AH are adjusted as one word; OF, SF, ZF, PF are undefined."""
    ax = c.register(RAX, 16)
    adjust = (ax & 15).ugt(9) | c.flags.auxiliary()
    amount = adjust.select(c.emit.constant(0x106, 16), c.emit.constant(0, 16))
    result = (ax - amount if subtract else ax + amount) & 0xFF0F
    c.set_register(RAX, result)
    c.flags.set_result(result.trunc(8), adjust, c.emit.constant(0, 1), adjust)


@semantics("aaa")
def aaa(c: Context) -> None:
    _ascii_adjust(c, subtract=False)


@semantics("aas")
def aas(c: Context) -> None:
    _ascii_adjust(c, subtract=True)


@semantics("aam")
def aam(c: Context, base: Operand) -> None:
    al, divisor = c.register(RAX, 8), base.read()
    c.fault_if(divisor.eq(0), 0)
    result = al.urem(divisor)
    c.set_register(RAX, (al.udiv(divisor).zext(16) << 8) | result.zext(16))
    c.flags.set_logic(result)


@semantics("aad")
def aad(c: Context, base: Operand) -> None:
    ax = c.register(RAX, 16)
    result = ax.trunc(8) + (ax >> 8).trunc(8) * base.read()
    c.set_register(RAX, result.zext(16))
    c.flags.set_logic(result)
