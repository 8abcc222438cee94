"""Comparisons: FCOM, FUCOM, FICOM, FTST, FXAM, FCOMI, FUCOMI (APM vol. 5, 26569, chapter 2)."""

from __future__ import annotations

from functools import partial

from trapgate.isa.context import Context, Operand, semantics
from trapgate.isa.x87.unit import C0, C1, C3, CONDITION_CODES, UNORDERED, Outcome, Register, Unit

_FLOAT_SUFFIX = {32: "s", 64: "l"}
_INTEGER_SUFFIX = {16: "s", 32: "l"}


def _compare_registers(unit: Unit, mnemonic: str, a: Register, b: Register) -> Outcome:
    """Run FCOM or FUCOM on two registers; unequal NaN rules are in the mnemonic."""
    return unit.run(
        a.full() & b.full(),
        f"fldt {{1}}; fldt {{0}}; {mnemonic} %st(1)",
        "fstp %st(0); fstp %st(0)",
        [a.pointer, b.pointer],
        [],
        fault_codes=UNORDERED,
    )


def _compare_memory(unit: Unit, mnemonic: str, source: Operand) -> Outcome:
    place = unit.hand_over(source.read())
    st0 = unit.st(0)
    core = f"fldt {{0}}; {mnemonic} {{1}}"
    return unit.run(st0.full(), core, "fstp %st(0)", [st0.pointer, place], [], fault_codes=UNORDERED)


def _finish(unit: Unit, outcome: Outcome, pops: int) -> None:
    if pops:
        unit.pop_if(outcome.commit, pops)
    unit.report(outcome, CONDITION_CODES)


def _compare(mnemonic: str, pops: int, c: Context, *operands: Operand) -> None:
    """Of ST(0) with memory, with the register named second, or with ST(1)."""
    unit = Unit(c)
    if operands and operands[0].is_memory:
        outcome = _compare_memory(unit, mnemonic + _FLOAT_SUFFIX[operands[0].width], operands[0])
    else:
        index = operands[-1].st_index() if operands else 1
        outcome = _compare_registers(unit, mnemonic, unit.st(0), unit.st(index))
    _finish(unit, outcome, pops)


for _mnemonic in ("fcom", "fucom"):
    for _suffix, _pops in (("", 0), ("p", 1), ("pp", 2)):
        semantics(_mnemonic + _suffix)(partial(_compare, _mnemonic, _pops))


def _compare_integer(pops: int, c: Context, source: Operand) -> None:
    unit = Unit(c)
    _finish(unit, _compare_memory(unit, "ficom" + _INTEGER_SUFFIX[source.width], source), pops)


semantics("ficom")(partial(_compare_integer, 0))
semantics("ficomp")(partial(_compare_integer, 1))


def _compare_to_flags(mnemonic: str, pops: int, c: Context, first: Operand, second: Operand) -> None:
    """FCOM's C0, C2 and C3 become CF, PF and ZF; the other arithmetic flags become 0.

    Like FCOM's condition codes they tell of an unordered result even where an unmasked exception keeps the pop away.
    """
    unit = Unit(c)
    outcome = _compare_registers(unit, mnemonic, unit.st(first.st_index()), unit.st(second.st_index()))
    if not c.flags.dead:
        # C0, C2 and C3 are bits 8, 10 and 14 of the status word; CF, PF and ZF bits 0, 2 and 6 of RFLAGS.
        c.flags.set_bits((outcome.status.zext(64) >> 8) & 0x45)
    if pops:
        unit.pop_if(outcome.commit, pops)
    unit.report_keeping_codes(outcome)


for _name in ("fcom", "fucom"):
    semantics(f"{_name}i")(partial(_compare_to_flags, _name, 0))
    semantics(f"{_name}ip")(partial(_compare_to_flags, _name, 1))


@semantics("ftst")
def ftst(c: Context) -> None:
    unit = Unit(c)
    st0 = unit.st(0)
    outcome = unit.run(st0.full(), "fldt {0}; ftst", "fstp %st(0)", [st0.pointer], [], fault_codes=UNORDERED)
    _finish(unit, outcome, 0)


@semantics("fxam")
def fxam(c: Context) -> None:
    """The class of ST(0) in C3, C2, C0, and its sign, even that of an empty register, in C1; it raises nothing."""
    unit = Unit(c)
    st0 = unit.st(0)
    status = unit.run_plain("fldt {0}; fxam", "fstp %st(0)", [st0.pointer])
    empty = (status & C1) | (C0 | C3)
    unit.report(Outcome(st0.full().select(status & CONDITION_CODES, empty), c.emit.constant(1, 1)), CONDITION_CODES)
