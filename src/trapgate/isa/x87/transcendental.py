"""Logarithms and trigonometry: FYL2X, FYL2XP1, FPATAN, FPTAN, FSIN, FCOS, FSINCOS (APM vol. 5, 26569, chapter 2).

F2XM1 stands with the other operations on ST(0) in arithmetic.py. The last bit of these results is the host's: the
manuals bound the error, and makers differ within the bound.
"""

from __future__ import annotations

from functools import partial

from trapgate.isa.context import Context, semantics
from trapgate.isa.x87.unit import C1, C2, INDEFINITE, Unit


def _consume_two(mnemonic: str, c: Context) -> None:
    """ST(1) = f(ST(0), ST(1)), then pop."""
    unit = Unit(c)
    st0, st1 = unit.st(0), unit.st(1)
    outcome = unit.run(
        st0.full() & st1.full(),
        f"fldt {{1}}; fldt {{0}}; {mnemonic}",
        "fstpt {2}",
        [st0.pointer, st1.pointer],
        [(st1.pointer, 80, INDEFINITE)],
    )
    st1.set_full(st1.full() | outcome.commit)
    unit.pop_if(outcome.commit)
    unit.report(outcome)


for _name in ("fyl2x", "fyl2xp1", "fpatan"):
    semantics(_name)(partial(_consume_two, _name))


def _sine_or_cosine(mnemonic: str, c: Context) -> None:
    """C2 = 1 and ST(0) as it was when it is beyond 2**63."""
    unit = Unit(c)
    st0 = unit.st(0)
    outcome = unit.run(
        st0.full(), f"fldt {{0}}; {mnemonic}", "fstpt {1}", [st0.pointer], [(st0.pointer, 80, INDEFINITE)]
    )
    st0.set_full(st0.full() | outcome.commit)
    unit.report(outcome, C1 | C2)


for _name in ("fsin", "fcos"):
    semantics(_name)(partial(_sine_or_cosine, _name))


def _replace_and_push(mnemonic: str, c: Context) -> None:
    """ST(0) becomes one result and another is pushed, unless C2 = 1 says that ST(0) is beyond 2**63."""
    unit = Unit(c)
    st0, new = unit.st(0), unit.st(7)
    full, room = st0.full(), new.full() ^ 1
    first, second = unit.scratch(0), unit.scratch(16)
    # How many values the host's stack holds depends on C2, so FNINIT empties it; FNINIT also loads a control word.
    outcome = unit.run(
        full & room,
        f"fldt {{0}}; {mnemonic}",
        "fstpt {2}; fstpt {1}; fninit; fldcw {masked}",
        [st0.pointer],
        [(first, 80, INDEFINITE), (second, 80, INDEFINITE)],
        overflow=full,
    )
    pushes = outcome.commit & (outcome.status & C2).eq(0)
    with c.emit.when(pushes):
        st0.write(c.emit.load(80, first, 8))
        new.write(c.emit.load(80, second, 8))
    st0.set_full(full | outcome.commit)
    unit.push_if(pushes)
    unit.report(outcome, C1 | C2)


for _name in ("fptan", "fsincos"):
    semantics(_name)(partial(_replace_and_push, _name))
