"""Where a memory reference of a page walk hits, and what it costs, as native code.

A reference that the page walk cache does not hold goes through up to three levels of caches: sets of ways, lines of 64
bytes by host-physical address, the least recently used way replaced. A level that misses takes the line in. Sizes and
cycles are those of the cost profile (arch/costs); a level of size 0 is not there.

Only walks are modelled. The processor's other accesses go through the same caches, and of them the model knows how many
lines there were (DATA_LINES, EXIT_LINES), not which:

- Lines of page tables have a share of each set's ways: so many are remembered, those last used.
- Other lines spread evenly over the sets. So a line of page tables has been pushed out once as many lines have come to
  its set after its last use as the set has ways: later lines of page tables, and (DATA_LINES + EXIT_LINES since then) /
  sets, rounded down.

`walk_references_lost_to_exits` counts references that missed a level which would have held the line without EXIT_LINES.
"""

from __future__ import annotations

from trapgate.arch import layout
from trapgate.arch.costs import Costs
from trapgate.cpu import tlb
from trapgate.cpu.state import State
from trapgate.cpu.tlb import CACHE_ENTRY, CACHE_LEVELS, CacheLevel
from trapgate.cpu.walk import FROM_NESTED, LAST_LEVEL, NativeFunction

LINE_BITS = 6
#: What `find_<level>` returns.
MISS, HIT, LOST_TO_EXITS = 0, 1, 2


def configure(state: State, costs: Costs) -> None:
    """Write a cost profile's caches into the state block."""
    place = tlb.CACHE_LINES
    for level, (kilobytes, ways, cycles) in zip(CACHE_LEVELS, costs.caches, strict=True):
        held = max(1, ways // costs.walk_share) if kilobytes else 0
        sets = (kilobytes << 10 >> LINE_BITS) // ways if kilobytes else 1
        if sets & (sets - 1):
            raise ValueError(f"{costs.name}, {level.name}: wanted a power of two for the number of sets, got {sets}")
        for offset, value in (
            (level.held, held), (level.ways, ways), (level.set_mask, sets - 1),
            (level.set_bits, sets.bit_length() - 1), (level.lines, place), (level.cycles, cycles),
        ):  # fmt: skip
            state.set(offset, value)
        place += sets * held * CACHE_ENTRY
    lines = (place - tlb.CACHE_LINES) // CACHE_ENTRY
    if lines > tlb.OPTERON_2007.cache_lines:
        raise ValueError(
            f"{costs.name}: wanted at most {tlb.OPTERON_2007.cache_lines} lines of page tables, got {lines}"
        )
    state.set(tlb.COST_MEMORY, costs.memory)
    state.set(tlb.LINES_PER_MISS, costs.data_lines)
    state.set(tlb.PWC_NESTED, costs.walk_cache_nested_entries)


def emit_walk_memory(declarations: set[str]) -> list[str]:
    """`@walk_reference`, and a `@find_<level>` for each level."""
    return [*(_emit_find(level, declarations) for level in CACHE_LEVELS), _emit_reference(declarations)]


def _emit_find(level: CacheLevel, declarations: set[str]) -> str:
    """`i64 @find_<level>(state, line)`: MISS, HIT or LOST_TO_EXITS; the line is the set's last used from now on.

    The set's entries move up by one, until the place where the line was, or the last falls out.
    """
    f = NativeFunction(f"find_{level.name}", "i64", (("i64", "line"),), declarations)
    e, line = f.emit, f.argument("line")
    tag, ways, set_bits = line + 1, f.field(level.ways), f.field(level.set_bits)
    data, exits = f.field(tlb.DATA_LINES), f.field(tlb.EXIT_LINES)
    held = f.field(level.held)
    entry = f.field(level.lines) + (line & f.field(level.set_mask)) * held * CACHE_ENTRY
    i, place = e.variable(0), e.variable(entry)
    moved = tuple(e.variable(value) for value in (tag, data, exits))
    with e.loop() as loop:
        loop.break_if(i.get().eq(held))
        here = place.get()
        old = tuple(f.field(here + 8 * n) for n in range(3))
        for n, variable in enumerate(moved):
            f.set_field(here + 8 * n, variable.get())
        with e.when(old[0].eq(tag)):
            from_exits = exits - old[2]
            others = data - old[1] + from_exits
            within = (i.get() + (others >> set_bits)).ult(ways)
            alone = (i.get() + ((others - from_exits) >> set_bits)).ult(ways)
            missed = alone.select(e.constant(LOST_TO_EXITS, 64), e.constant(MISS, 64))
            e.ret(within.select(e.constant(HIT, 64), missed))
        for variable, value in zip(moved, old, strict=True):
            variable.set(value)
        i.set(i.get() + 1)
        place.set(here + CACHE_ENTRY)
    e.ret(MISS)
    return f.text()


def _emit_reference(declarations: set[str]) -> str:
    """`i64 @walk_reference(state, place, kind)`: count a reference to a host-physical address by where it hits; its
    modelled cycles. `kind` is 0, FROM_NESTED, or LAST_LEVEL for an entry that the page walk cache does not hold.
    """
    f = NativeFunction("walk_reference", "i64", (("i64", "place"), ("i64", "kind")), declarations)
    e, place, kind = f.emit, f.argument("place"), f.argument("kind")
    may = kind.ne(FROM_NESTED) | f.field(tlb.PWC_NESTED).ne(0)
    held = kind.ne(LAST_LEVEL) & f.field(layout.PWC_SIZE).ne(0) & may
    with e.when(held), e.when(e.call("@walk_cache", "i64", [f.state, place, kind]).ne(0)):
        e.ret(f.field(layout.COST_PWC_HIT))
    line = place >> LINE_BITS
    lost = e.variable(0)
    for level in CACHE_LEVELS:
        with e.when(f.field(level.held).ne(0)):
            found = e.call(f"@find_{level.name}", "i64", [f.state, line])
            with e.when(found.eq(HIT)):
                f.add_to_field(level.hits, 1)
                f.add_to_field(layout.counter("walk_references_lost_to_exits"), lost.get())
                e.ret(f.field(level.cycles))
            lost.set(lost.get() | (found >> 1))
    f.add_to_field(layout.counter("walk_memory_references"), 1)
    f.add_to_field(layout.counter("walk_references_lost_to_exits"), lost.get())
    e.ret(f.field(tlb.COST_MEMORY))
    return f.text()
