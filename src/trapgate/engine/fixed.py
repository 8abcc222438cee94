"""Handlers that belong to no instruction: ways out of native code, and the page check at the head of a block."""

from __future__ import annotations

from trapgate.arch import layout
from trapgate.cpu.tlb import FAST_ENTRIES
from trapgate.engine import record
from trapgate.isa.ir import CONVENTION, Emitter, Value


def generate_python_exit(name: str, code: int = record.EXIT_PYTHON) -> str:
    """The handler of every instruction that Python carries out."""
    e = Emitter()
    state, uop, budget = Value(e, "%state", "ptr", 0), Value(e, "%uop", "ptr", 0), Value(e, "%budget", "i64", 64)
    left = budget - e.load(64, e.offset(uop, record.COST))
    _store_exit(e, state, uop, left)
    e.ret(code)
    return e.text(_header(name))


def _header(name: str) -> str:
    return f"define {CONVENTION} i64 @{name}(ptr noalias %state, ptr noalias %uop, i64 %budget) #0"


def _store_exit(e: Emitter, state: Value, uop: Value, budget: Value) -> None:
    e.store(e.address(uop), e.offset(state, layout.EXIT_UOP))
    e.store(budget, e.offset(state, layout.EXIT_BUDGET))


def generate_exit(name: str, code: int) -> str:
    """A handler that only leaves with `code`; exit_uop is its record."""
    e = Emitter()
    state, uop, budget = Value(e, "%state", "ptr", 0), Value(e, "%uop", "ptr", 0), Value(e, "%budget", "i64", 64)
    _store_exit(e, state, uop, budget)
    e.ret(code)
    return e.text(_header(name))


def generate_page_check(name: str) -> str:
    """The header of a block: its page must be in the instruction TLB and map to the page it was decoded from."""
    e = Emitter()
    state, uop, budget = Value(e, "%state", "ptr", 0), Value(e, "%uop", "ptr", 0), Value(e, "%budget", "i64", 64)
    b = e.variable(budget)
    linear = e.load(64, e.offset(uop, record.PAGE_LINEAR))
    physical = e.load(64, e.offset(uop, record.PAGE_PHYSICAL))
    table = e.load_type("ptr", e.offset(state, layout.ITLB))
    entry = e.offset(table, (linear >> 7) & ((FAST_ENTRIES - 1) << 5))
    hit = e.load(64, entry).eq(linear)
    go, check = e.new_label("go"), e.new_label("check")
    with e.when(hit ^ 1, likely=False):
        fetch = e.load_type("ptr", e.offset(state, layout.FETCH_PAGE))
        found = e.call(fetch, "i64", [state, uop, budget, linear])
        with e.when(found.eq(0), likely=False):
            e.ret(record.EXIT_FAULT)
        b.set(e.load(64, e.offset(state, layout.EXIT_BUDGET)))
    e.jump(check)
    e.label(check)
    # After a fill the entry is there, unless paging is off and the page is no RAM.
    same = e.load(64, e.offset(entry, 16)).eq(physical) & e.load(64, entry).eq(linear)
    refetch = e.new_label("refetch")
    e.branch(same, go, refetch, likely=True)
    e.label(refetch)
    _store_exit(e, state, uop, b.get())
    e.ret(record.EXIT_REFETCH)
    e.label(go)
    following = e.offset(uop, record.RECORD_SIZE)
    e.tail(e.load_type("ptr", following), [state, following, b.get()])
    return e.text(_header(name))
