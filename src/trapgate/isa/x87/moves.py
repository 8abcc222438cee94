"""Loads, stores, exchanges, conditional moves and constants (APM vol. 5, 26569, chapter 2)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from trapgate.isa.context import Context, Operand, semantics
from trapgate.isa.flags import BELOW, BELOW_EQUAL, PARITY, ZERO
from trapgate.isa.ir import Value
from trapgate.isa.x87.unit import IE, INDEFINITE, OE, UE, Outcome, Unit

_REAL_SUFFIX = {32: "s", 64: "l"}
_REAL_INDEFINITE = {32: 0xFFC0_0000, 64: 0xFFF8_0000_0000_0000, 80: INDEFINITE}
_INTEGER_SUFFIX = {16: "s", 32: "l", 64: "ll"}


# -- loads


def _push_from_host(unit: Unit, core: str, inputs: list[Value]) -> None:
    """Push what the host's instruction leaves in its ST(0). An unmasked denormal operand does not stop a load."""
    new = unit.st(7)
    taken = new.full()
    outcome = unit.run(
        taken ^ 1,
        core,
        f"fstpt {{{len(inputs)}}}",
        inputs,
        [(new.pointer, 80, INDEFINITE)],
        overflow=taken,
        undone_by=IE,
    )
    unit.push_if(outcome.commit)
    unit.report(outcome)


def _push_bits(unit: Unit, ready: Value, value: Value, taken: Value) -> None:
    """Push 80 bits as they are; `ready` also says that the source is not empty."""
    new = unit.st(7)
    outcome = unit.move(ready, lambda: new.write(value), lambda: new.write(INDEFINITE), overflow=taken)
    unit.push_if(outcome.commit)
    unit.report(outcome)


@semantics("fld")
def fld(c: Context, source: Operand) -> None:
    unit = Unit(c)
    if source.is_memory and source.width != 80:
        place = unit.hand_over(source.read())
        _push_from_host(unit, f"fld{_REAL_SUFFIX[source.width]} {{0}}", [place])
        return
    taken = unit.st(7).full()
    if source.is_memory:
        _push_bits(unit, taken ^ 1, source.read(), taken)
        return
    register = unit.st(source.st_index())
    full = register.full()
    _push_bits(unit, full & ~taken, register.read(), taken & full)


@semantics("fild")
def fild(c: Context, source: Operand) -> None:
    unit = Unit(c)
    place = unit.hand_over(source.read())
    _push_from_host(unit, f"fild{_INTEGER_SUFFIX[source.width]} {{0}}", [place])


@semantics("fbld")
def fbld(c: Context, source: Operand) -> None:
    unit = Unit(c)
    _push_from_host(unit, "fbld {0}", [unit.hand_over(source.read())])


def _constant(mnemonic: str, c: Context) -> None:
    _push_from_host(Unit(c), mnemonic, [])


for _name in ("fld1", "fldl2t", "fldl2e", "fldpi", "fldlg2", "fldln2", "fldz"):
    semantics(_name)(partial(_constant, _name))


# -- stores


def _write_memory(c: Context, target: Operand, outcome: Outcome, value: Callable[[], Value]) -> None:
    """Store, or where an unmasked exception keeps the result away, only see whether a store would be allowed.

    So a page fault comes before the x87 exception. APM vol. 2, 8.5.2 "Simultaneous Interrupts", has both in its last
    class without an order; this is AMD's processors'. Intel's report the x87 exception and do not look at the page.
    """
    target.address()  # both arms use it
    with c.emit.when(outcome.commit, likely=True):
        target.write(value())
    with c.emit.when(outcome.commit ^ 1, likely=False):
        target.update()


def _store_from_host(c: Context, target: Operand, mnemonic: str, indefinite: int, pops: bool) -> None:
    """Store ST(0) as the host's instruction, which pops, converts it. An unmasked exception but PE keeps it away."""
    unit = Unit(c)
    st0, place = unit.st(0), unit.scratch()
    width = target.width
    outcome = unit.run(
        st0.full(),
        f"fldt {{0}}; {mnemonic} {{1}}",
        "",
        [st0.pointer],
        [(place, width, indefinite)],
        undone_by=IE | OE | UE,
    )
    _write_memory(c, target, outcome, lambda: c.emit.load(width, place, 8))
    if pops:
        unit.pop_if(outcome.commit)
    unit.report(outcome)


def _store(pops: bool, c: Context, target: Operand) -> None:
    width = target.width
    if target.is_memory and width != 80:
        _store_from_host(c, target, f"fstp{_REAL_SUFFIX[width]}", _REAL_INDEFINITE[width], pops)
        return
    unit = Unit(c)
    st0 = unit.st(0)
    if target.is_memory:
        value = c.emit.variable(st0.read())
        outcome = unit.move(st0.full(), lambda: None, lambda: value.set(c.emit.constant(INDEFINITE, 80)))
        _write_memory(c, target, outcome, value.get)
    else:
        register = unit.st(target.st_index())
        outcome = unit.move(st0.full(), lambda: register.write(st0.read()), lambda: register.write(INDEFINITE))
        register.set_full(register.full() | outcome.commit)
    if pops:
        unit.pop_if(outcome.commit)
    unit.report(outcome)


semantics("fst")(partial(_store, False))
semantics("fstp")(partial(_store, True))


@semantics("fstpnce")
def fstpnce(c: Context, target: Operand) -> None:
    """FSTP's second encoding D9 D8+i, which processors carry out without looking for a stack underflow."""
    unit = Unit(c)
    st0, register = unit.st(0), unit.st(target.st_index())
    full = st0.full()
    with c.emit.when(full, likely=True):
        register.write(st0.read())
        register.set_full(True)
    unit.pop_if(c.emit.constant(1, 1))
    unit.clear_c1()


def _store_integer(mnemonic: str, pops: bool, c: Context, target: Operand) -> None:
    width = target.width
    _store_from_host(c, target, mnemonic + _INTEGER_SUFFIX[width], 1 << (width - 1), pops)


semantics("fist")(partial(_store_integer, "fistp", False))
semantics("fistp")(partial(_store_integer, "fistp", True))
semantics("fisttp")(partial(_store_integer, "fisttp", True))


@semantics("fbstp")
def fbstp(c: Context, target: Operand) -> None:
    # The indefinite decimal number (APM vol. 1, 24592, 6.3 "Operands") has the same bits as the indefinite real.
    _store_from_host(c, target, "fbstp", INDEFINITE, pops=True)


# -- between registers


@semantics("fxch")
def fxch(c: Context, first: Operand, second: Operand) -> None:
    """The masked response to empty registers fills them with the indefinite value before the exchange."""
    unit = Unit(c)
    a, b = unit.st(first.st_index()), unit.st(second.st_index())
    a_full, b_full = a.full(), b.full()
    nothing = c.emit.constant(INDEFINITE, 80)
    x, y = a_full.select(a.read(), nothing), b_full.select(b.read(), nothing)

    def exchange() -> None:
        a.write(y)
        b.write(x)

    outcome = unit.move(a_full & b_full, exchange, exchange)
    a.set_full(a_full | outcome.commit)
    b.set_full(b.full() | outcome.commit)
    unit.report(outcome)


#: Condition codes as Jcc numbers them.
_CONDITIONS = {
    "fcmovb": BELOW,
    "fcmove": ZERO,
    "fcmovbe": BELOW_EQUAL,
    "fcmovu": PARITY,
    "fcmovnb": BELOW + 1,
    "fcmovne": ZERO + 1,
    "fcmovnbe": BELOW_EQUAL + 1,
    "fcmovnu": PARITY + 1,
}


def _conditional_move(condition: int, c: Context, destination: Operand, source: Operand) -> None:
    """A stack fault does not wait for the condition to hold."""
    unit = Unit(c)
    holds = c.flags.condition(condition)
    a, b = unit.st(destination.st_index()), unit.st(source.st_index())

    def work() -> None:
        a.write(holds.select(b.read(), a.read()))

    outcome = unit.move(a.full() & b.full(), work, lambda: a.write(INDEFINITE))
    a.set_full(a.full() | outcome.commit)
    unit.report_keeping_codes(outcome)


for _name, _condition in _CONDITIONS.items():
    semantics(_name)(partial(_conditional_move, _condition))


# -- the stack itself


@semantics("ffree")
def ffree(c: Context, register: Operand) -> None:
    unit = Unit(c)
    unit.st(register.st_index()).set_full(False)
    unit.clear_c1()


@semantics("ffreep")
def ffreep(c: Context, register: Operand) -> None:
    """FFREE and a pop: an encoding that processors share but the manuals leave out."""
    unit = Unit(c)
    unit.st(register.st_index()).set_full(False)
    unit.pop_if(c.emit.constant(1, 1))
    unit.clear_c1()


def _rotate(by: int, c: Context) -> None:
    unit = Unit(c)
    unit.move_top(by)
    unit.clear_c1()


semantics("fincstp")(partial(_rotate, 1))
semantics("fdecstp")(partial(_rotate, -1))
