"""Bit tests and scans: BT, BTS, BTR, BTC, BSF, BSR, POPCNT, LZCNT (APM vol. 3, chapter 3)."""

from __future__ import annotations

from collections.abc import Callable

from trapgate.isa.context import Context, Operand, semantics
from trapgate.isa.ir import Value


def _bit_operand(c: Context, target: Operand, index: Operand) -> tuple[Operand, Value]:
    """The word that holds the bit and the bit's number in it.

    A register index into memory reaches beyond the operand: it is a signed bit offset from the operand's address. An
    immediate index is taken modulo the operand size.
    """
    width = target.width
    offset = index.read()
    if target.is_memory and index.width == width:
        words = offset.sar({16: 4, 32: 5, 64: 6}[width])
        delta = words * (width // 8)
        address_bits = c.address_bits
        target = target.displaced(delta.sext(address_bits) if address_bits > width else delta.trunc(address_bits))
    return target, offset.resize(width) & (width - 1)


def _bit_test(c: Context, target: Operand, index: Operand, change: Callable[[Value, Value], Value] | None) -> None:
    operand, number = _bit_operand(c, target, index)
    value = operand.read() if change is None else operand.update()
    carry = (value >> number).trunc(1)
    if change is not None:
        operand.write(change(value, c.emit.constant(1, target.width) << number))
    if not c.flags.dead:
        c.flags.set_carry(carry)


@semantics("bt")
def bt(c: Context, target: Operand, index: Operand) -> None:
    _bit_test(c, target, index, None)


@semantics("bts")
def bts(c: Context, target: Operand, index: Operand) -> None:
    _bit_test(c, target, index, lambda value, bit: value | bit)


@semantics("btr")
def btr(c: Context, target: Operand, index: Operand) -> None:
    _bit_test(c, target, index, lambda value, bit: value & ~bit)


@semantics("btc")
def btc(c: Context, target: Operand, index: Operand) -> None:
    _bit_test(c, target, index, lambda value, bit: value ^ bit)


def _scan(c: Context, destination: Operand, source: Operand, intrinsic: str) -> None:
    """BSF and BSR: a source of 0 sets ZF and leaves the destination (its upper half too)."""
    value = source.read()
    is_zero = value.eq(0)
    found = c.emit.intrinsic(intrinsic, value.type, [value, c.emit.constant(0, 1)], f"i{value.width}")
    if intrinsic == "ctlz":
        found = found ^ (value.width - 1)
    with c.emit.when(is_zero ^ 1):
        destination.write(found)
    c.flags.set_result(is_zero.select(value, c.emit.constant(1, value.width)), is_zero ^ is_zero, is_zero ^ is_zero)


@semantics("bsf")
def bsf(c: Context, destination: Operand, source: Operand) -> None:
    _scan(c, destination, source, "cttz")


@semantics("bsr")
def bsr(c: Context, destination: Operand, source: Operand) -> None:
    _scan(c, destination, source, "ctlz")


@semantics("popcnt")
def popcnt(c: Context, destination: Operand, source: Operand) -> None:
    value = source.read()
    destination.write(c.emit.intrinsic("ctpop", value.type, [value]))
    c.flags.set_bits(value.eq(0).zext(64) << 6)


@semantics("lzcnt")
def lzcnt(c: Context, destination: Operand, source: Operand) -> None:
    value = source.read()
    count = c.emit.intrinsic("ctlz", value.type, [value, c.emit.constant(0, 1)], f"i{value.width}")
    destination.write(count)
    c.flags.set_result(count, value.eq(0), c.emit.constant(0, 1))
