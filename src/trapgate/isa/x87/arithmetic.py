"""Arithmetic: FADD, FSUB, FMUL, FDIV and relatives, FSQRT, FPREM, FRNDINT, FSCALE, FXTRACT, FABS, FCHS.

APM vol. 5 (26569), chapter 2.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from trapgate.isa.context import Context, Operand, semantics
from trapgate.isa.ir import Value
from trapgate.isa.x87.unit import C1, C2, CONDITION_CODES, INDEFINITE, Unit

#: (operation, name of the form with an integer in memory): the names with "p" pop as well. "r" reverses the operands.
BINARY = {
    "fadd": "fiadd",
    "fsub": "fisub",
    "fsubr": "fisubr",
    "fmul": "fimul",
    "fdiv": "fidiv",
    "fdivr": "fidivr",
}
_FLOAT_SUFFIX = {32: "s", 64: "l"}
_INTEGER_SUFFIX = {16: "s", 32: "l"}


def _with_memory(mnemonic: str, suffixes: dict[int, str], c: Context, source: Operand) -> None:
    """ST(0) = ST(0) op memory, converted to the extended format by the host's instruction."""
    unit = Unit(c)
    place = unit.hand_over(source.read())
    st0 = unit.st(0)
    outcome = unit.run(
        st0.full(),
        f"fldt {{0}}; {mnemonic}{suffixes[source.width]} {{1}}",
        "fstpt {2}",
        [st0.pointer, place],
        [(st0.pointer, 80, INDEFINITE)],
    )
    st0.set_full(st0.full() | outcome.commit)
    unit.report(outcome)


def _between_registers(mnemonic: str, pops: bool, c: Context, destination: Operand, source: Operand) -> None:
    """ST(destination) = ST(destination) op ST(source), then a pop if the mnemonic says so."""
    unit = Unit(c)
    a, b = unit.st(destination.st_index()), unit.st(source.st_index())
    outcome = unit.run(
        a.full() & b.full(),
        f"fldt {{1}}; fldt {{0}}; {mnemonic} %st(1), %st",
        "fstpt {2}; fstp %st(0)",
        [a.pointer, b.pointer],
        [(a.pointer, 80, INDEFINITE)],
    )
    a.set_full(a.full() | outcome.commit)
    if pops:
        unit.pop_if(outcome.commit)
    unit.report(outcome)


def _binary(mnemonic: str, c: Context, first: Operand, second: Operand | None = None) -> None:
    if second is None:
        _with_memory(mnemonic, _FLOAT_SUFFIX, c, first)
    else:
        _between_registers(mnemonic, False, c, first, second)


for _name, _integer in BINARY.items():
    semantics(_name)(partial(_binary, _name))
    semantics(f"{_name}p")(partial(_between_registers, _name, True))
    semantics(_integer)(partial(_with_memory, _integer, _INTEGER_SUFFIX))


#: Operations on ST(0) alone: name of the instruction.
UNARY = ("fsqrt", "frndint", "f2xm1")
#: ST(0) = ST(0) op ST(1)
WITH_NEXT = ("fscale", "fprem", "fprem1")


def _unary(mnemonic: str, c: Context) -> None:
    unit = Unit(c)
    st0 = unit.st(0)
    outcome = unit.run(
        st0.full(), f"fldt {{0}}; {mnemonic}", "fstpt {1}", [st0.pointer], [(st0.pointer, 80, INDEFINITE)]
    )
    st0.set_full(st0.full() | outcome.commit)
    unit.report(outcome)


def _with_next(mnemonic: str, c: Context) -> None:
    unit = Unit(c)
    st0, st1 = unit.st(0), unit.st(1)
    outcome = unit.run(
        st0.full() & st1.full(),
        f"fldt {{1}}; fldt {{0}}; {mnemonic}",
        "fstpt {2}; fstp %st(0)",
        [st0.pointer, st1.pointer],
        [(st0.pointer, 80, INDEFINITE)],
    )
    st0.set_full(st0.full() | outcome.commit)
    if mnemonic == "fscale":
        unit.report(outcome)
        return
    # C2 = the remainder is not final; C0, C3 and C1 are the quotient's bits 2, 1 and 0. Where there is no quotient (the
    # result is a NaN, or nothing was stored) C0 and C3 stay.
    is_number = (c.emit.load(16, c.emit.offset(st0.pointer, 8)) & 0x7FFF).ne(0x7FFF)
    computed = outcome.commit & is_number
    unit.report(outcome, computed.select(c.emit.constant(CONDITION_CODES, 16), c.emit.constant(C1 | C2, 16)))


for _name in UNARY:
    semantics(_name)(partial(_unary, _name))
for _name in WITH_NEXT:
    semantics(_name)(partial(_with_next, _name))


@semantics("fxtract")
def fxtract(c: Context) -> None:
    """ST(0) becomes the exponent; then the significand is pushed."""
    unit = Unit(c)
    st0, new = unit.st(0), unit.st(7)
    full, room = st0.full(), new.full() ^ 1
    outcome = unit.run(
        full & room,
        "fldt {0}; fxtract",
        "fstpt {2}; fstpt {1}",
        [st0.pointer],
        [(st0.pointer, 80, INDEFINITE), (new.pointer, 80, INDEFINITE)],
        overflow=full,
    )
    st0.set_full(full | outcome.commit)
    unit.push_if(outcome.commit)
    unit.report(outcome)


def _change_sign(c: Context, change: Callable[[Value], Value]) -> None:
    """FABS and FCHS look at nothing but the sign, and so raise nothing but a stack fault."""
    unit = Unit(c)
    st0 = unit.st(0)
    high = c.emit.offset(st0.pointer, 8)

    def work() -> None:
        c.emit.store(change(c.emit.load(16, high)), high)

    outcome = unit.move(st0.full(), work, lambda: st0.write(INDEFINITE))
    st0.set_full(st0.full() | outcome.commit)
    unit.report(outcome)


@semantics("fabs")
def fabs(c: Context) -> None:
    _change_sign(c, lambda high: high & 0x7FFF)


@semantics("fchs")
def fchs(c: Context) -> None:
    _change_sign(c, lambda high: high ^ 0x8000)
