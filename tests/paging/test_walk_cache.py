"""The page walk cache, the nested TLB and the caches behind them against naive ones: hits, references and cycles of
every walk."""

from __future__ import annotations

import ctypes
import random
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import replace

import pytest

from trapgate.arch import layout
from trapgate.arch.costs import DEFAULT_COSTS, Costs, profile
from trapgate.cpu import tlb, walk_memory
from trapgate.cpu.walk import LAST_LEVEL as NOT_IN_WALK_CACHE
from trapgate.engine.processor import Processor

from . import naive
from .naive_caches import CacheHierarchy
from .nested_tables import NESTED_AT, HostTables, World, install_world
from .tables import TABLES_AT, Setup

PAGE_TABLES = 6
LAST_LEVEL = {TABLES_AT + (3 + i) * 4096 for i in range(PAGE_TABLES)}
COSTS = profile(DEFAULT_COSTS)
COUNTERS = ("dtlb_misses", "dtlb_walk_references", "pwc_hits", "nested_tlb_hits")
#: So small that the tables of these tests do not fit.
SMALL = replace(
    COSTS, l1_size=1, l1_ways=4, l1_hit=4, l2_size=2, l2_ways=4, l2_hit=11, l3_size=8, l3_ways=16, l3_hit=46,
    walk_share=2, data_lines=3, exit_lines=7,
)  # fmt: skip
HIERARCHIES = {
    "default": COSTS,
    "three": SMALL,
    "two": replace(SMALL, l1_size=0, l3_ways=4, walk_share=1),
    "one": replace(SMALL, l2_size=0, l3_size=0, l1_ways=16),
    "plain": replace(SMALL, walk_cache_nested_entries=0),
    "none": replace(SMALL, l1_size=0, l2_size=0, l3_size=0),
}


@pytest.fixture(autouse=True)
def costs_put_back(processor: Processor) -> Iterator[None]:
    """Other tests share the processor: its caches are emptied before and after."""
    configure(processor, COSTS)
    yield
    configure(processor, COSTS)


def configure(processor: Processor, costs: Costs) -> None:
    """Empty caches of a profile's sizes."""
    walk_memory.configure(processor.state, costs)
    size = tlb.OPTERON_2007.cache_lines * tlb.CACHE_ENTRY
    processor.state.bytes[tlb.CACHE_LINES : tlb.CACHE_LINES + size] = bytes(size)


class Caches:
    """Least recently used last; keys are (what, ASID, whether it came from nested tables)."""

    def __init__(self, walk_cache: int, nested_tlb: int, memory: CacheHierarchy) -> None:
        self.memory = memory
        self.holds_nested = True
        self.walk_cache_size, self.nested_tlb_size = walk_cache, nested_tlb
        self.walk_cache: OrderedDict[tuple[int, int, bool], None] = OrderedDict()
        self.nested_tlb: OrderedDict[tuple[int, int, bool], int] = OrderedDict()
        self.asid = 0
        self.held = self.saved = 0

    def reference(self, place: int) -> None:
        """An entry is read."""
        nested = NESTED_AT <= place < NESTED_AT + 0x10_0000
        if not self.walk_cache_size or place & -4096 in LAST_LEVEL or (nested and not self.holds_nested):
            self.memory.reference(place)
            return
        key = (place // 8, self.asid, nested)
        if key in self.walk_cache:
            self.held += 1
            self.walk_cache.move_to_end(key)
            return
        if len(self.walk_cache) == self.walk_cache_size:
            self.walk_cache.popitem(last=False)
        self.walk_cache[key] = None
        self.memory.reference(place)

    def find(self, guest_physical: int) -> int | None:
        key = (guest_physical // 4096, self.asid, True)
        if key not in self.nested_tlb:
            return None
        self.saved += 1
        self.nested_tlb.move_to_end(key)
        return self.nested_tlb[key] + guest_physical % 4096

    def fill(self, guest_physical: int, physical: int) -> None:
        if not self.nested_tlb_size:
            return
        if len(self.nested_tlb) == self.nested_tlb_size:
            self.nested_tlb.popitem(last=False)
        self.nested_tlb[guest_physical // 4096, self.asid, True] = physical & -4096

    def flush(self, asid: int | None, keep_nested: bool) -> None:
        for cache in (self.walk_cache, self.nested_tlb):
            for key in list(cache):
                if (asid is None or key[1] == asid) and not (keep_nested and key[2]):
                    del cache[key]  # type: ignore[attr-defined]


def _world(choose: random.Random) -> World:
    """A guest with 40 pages under six page tables; its tables in nested pages of 4 KB, the rest also of 2 MB."""
    tables = bytearray(16 * 4096)

    def put(table: int, index: int, value: int) -> None:
        tables[table * 4096 + index * 8 : table * 4096 + index * 8 + 8] = value.to_bytes(8, "little")

    put(0, 0, TABLES_AT + 4096 | 7)
    put(1, 0, TABLES_AT + 2 * 4096 | 7)
    nested = HostTables("long", choose)
    for page in range(16):
        nested.map(TABLES_AT + 4096 * page, TABLES_AT + 4096 * page)
    linear = []
    for i in range(PAGE_TABLES):
        put(2, i, TABLES_AT + (3 + i) * 4096 | 7)
    for _ in range(40):
        table, index = choose.randrange(PAGE_TABLES), choose.randrange(512)
        frame = choose.randrange(1024, 8192) << 12
        put(3 + table, index, frame | 7)
        linear.append(table << 21 | index << 12)
        nested.map(frame, choose.randrange(1024) << 12, choose.choice((12, 21)))
    setup = Setup(naive.Registers(cr3=TABLES_AT, pdptes=None), linear, bytes(tables))
    return World(setup, naive.Registers(cr3=NESTED_AT), bytes(nested.bytes), TABLES_AT)


@pytest.mark.parametrize("nested", [False, True], ids=["plain", "nested"])
@pytest.mark.parametrize(
    ("walk_cache", "nested_tlb", "hierarchy"),
    [
        (0, 0, "three"), (0, 0, "default"), (0, 0, "none"), (24, 0, "two"), (0, 16, "one"), (24, 16, "default"),
        (5, 6, "three"), (24, 0, "plain"),
    ],
)  # fmt: skip
def test_hits_and_cycles(processor: Processor, walk_cache: int, nested_tlb: int, hierarchy: str, nested: bool) -> None:
    choose = random.Random(walk_cache * 100 + nested_tlb)
    costs = HIERARCHIES[hierarchy]
    world = _world(choose)
    install_world(processor, world, asid=0)
    configure(processor, costs)
    memory = CacheHierarchy(costs)
    state, caches = processor.state, Caches(walk_cache, nested_tlb, memory)
    caches.holds_nested = hierarchy != "plain"
    state.set(layout.NESTED, nested)
    state.set(layout.PWC_SIZE, walk_cache)
    state.set(layout.NESTED_TLB_SIZE, nested_tlb)

    def read(physical: int, size: int) -> int:
        caches.reference(physical)
        return int.from_bytes(processor.memory.read(physical, size), "little")

    start = [state.counter(name) for name in (*COUNTERS, *memory.counts)]
    misses = references = 0
    try:
        for number in range(1500):
            what = choose.random()
            linear, asid = choose.choice(world.guest.linear), choose.randrange(2)
            if what < 0.9:
                before, charged, hits = state.counter("dtlb_misses"), processor.charged, (caches.held, caches.saved)
                spent = memory.cycles
                l2_hits = state.counter("dtlb_l2_hits")
                got = processor.translate(linear + 8, 0)
                if state.counter("dtlb_misses") == before:
                    memory.data += costs.data_lines * (state.counter("dtlb_l2_hits") - l2_hits)
                    continue
                misses += 1
                registers = world.guest.registers
                if nested:
                    outcome = naive.translate_nested(read, registers, world.host, linear + 8, naive.Access(), caches)
                    result, made = outcome.result, outcome.references
                else:
                    result = naive.translate(read, registers, linear + 8, naive.Access())
                    made = result.references
                assert isinstance(result, naive.Translation)
                assert got == result.physical
                held, saved = caches.held - hits[0], caches.saved - hits[1]
                references += made
                assert state.counter("dtlb_l2_hits") == l2_hits
                cycles = memory.cycles - spent + held * COSTS.walk_cache_hit + saved * COSTS.nested_tlb_hit
                assert processor.charged - charged == cycles, f"after step {number}"
                memory.data += costs.data_lines
            elif what < 0.91:
                state.set(tlb.EXIT_LINES, state.get(tlb.EXIT_LINES) + costs.exit_lines)
                memory.exits += costs.exit_lines
            elif what < 0.925:
                state.set(layout.ASID, asid)
                processor.native_reset_fast(state.address)
                caches.asid = asid
            elif what < 0.95:
                processor.set_cr3(TABLES_AT)
                caches.flush(caches.asid, keep_nested=True)
            elif what < 0.97:
                processor.flush_page(linear)
                caches.flush(caches.asid, keep_nested=True)
            elif what < 0.98:
                processor.native_flush_page_asid(state.address, linear, asid)
                caches.flush(asid, keep_nested=False)
            elif what < 0.99:
                processor.native_flush_asid(state.address, asid, choose.randrange(2))
                caches.flush(asid, keep_nested=False)
            else:
                processor.native_flush_all(state.address)
                caches.flush(None, keep_nested=False)
        ends = (state.counter(name) for name in (*COUNTERS, *memory.counts))
        counts = [end - then for end, then in zip(ends, start, strict=True)]
        assert counts == [misses, references, caches.held, caches.saved, *memory.counts.values()]
        assert sum(memory.hits.values()) + caches.held == references
        assert all(memory.hits[level.name] for level in memory.levels[: 1 if costs is COSTS else None])
        assert memory.lost_to_exits or hierarchy != "three"
        assert misses > 200
        assert bool(caches.held) == bool(walk_cache)
        assert bool(caches.saved) == bool(nested_tlb and nested)
    finally:
        state.set(layout.PWC_SIZE, 0)
        state.set(layout.NESTED_TLB_SIZE, 0)


def test_a_cold_and_a_warm_walk(processor: Processor) -> None:
    """24 references at first; then, in the next page, the nested TLB leaves the guest's four and the final four, and
    the page walk cache holds all but the guest's last.
    """
    world = _world(random.Random(1))
    tables = bytearray(world.guest.tables)
    for i in range(2):
        tables[3 * 4096 + 8 * i : 3 * 4096 + 8 * i + 8] = (0x5000 | 7).to_bytes(8, "little")
    nested = HostTables("long", random.Random(1))
    for page in (*range(16), 5 - (TABLES_AT >> 12)):
        nested.map(TABLES_AT + 4096 * page, TABLES_AT + 4096 * page)
    world = World(Setup(world.guest.registers, [], bytes(tables)), world.host, bytes(nested.bytes), TABLES_AT)
    install_world(processor, world)
    state = processor.state
    state.set(layout.PWC_SIZE, 24)
    state.set(layout.NESTED_TLB_SIZE, 16)
    try:
        seen = []
        for linear in (0, 0x1000):
            before, charged = [state.counter(name) for name in COUNTERS], processor.charged
            processor.translate(linear, 0)
            counts = [state.counter(name) - b for name, b in zip(COUNTERS, before, strict=True)]
            seen.append((*counts, processor.charged - charged))
    finally:
        state.set(layout.PWC_SIZE, 0)
        state.set(layout.NESTED_TLB_SIZE, 0)
    # Cold: the four guest tables are in one nested page table, whose upper three entries four of the five walks find.
    # Of the other twelve references two are to lines that another one has brought: the nested tables' last level has
    # the guest's four tables in one line.
    cold_hits, again = 3 * 3 + 3, 3
    cold = (12 - again) * COSTS.memory + again * COSTS.l2_hit + cold_hits * COSTS.walk_cache_hit
    assert seen[0] == (1, 24, cold_hits, 0, cold)
    warm = COSTS.l2_hit + 7 * COSTS.walk_cache_hit + 4 * COSTS.nested_tlb_hit
    assert seen[1] == (1, 8, 7, 4, warm)


def test_who_pushes_a_line_out(processor: Processor) -> None:
    """A line goes when its set has seen as many others as it has ways: of page tables, of data, of exits."""
    state = processor.state
    # 8 sets of 8 ways, two of which page tables may hold.
    configure(processor, replace(SMALL, l1_size=4, l1_ways=8, walk_share=4, l2_size=0, l3_size=0, memory=100))
    address = processor.handlers._compiler.address("walk_reference")
    native = ctypes.CFUNCTYPE(ctypes.c_uint64, ctypes.c_uint64, ctypes.c_uint64, ctypes.c_uint64)(address)
    seen = {4: "hit", 100: "missed"}

    def reference(*lines: int) -> list[str]:
        lost = state.counter("walk_references_lost_to_exits")
        answers = []
        for line in lines:
            answer = seen[native(state.address, line * 64 + 56, 2**64 + NOT_IN_WALK_CACHE)]
            now = state.counter("walk_references_lost_to_exits")
            answers.append("lost" if now > lost else answer)
            lost = now
        return answers

    def others(place: int, lines: int) -> None:
        state.set(place, state.get(place) + lines)

    assert reference(0, 8, 0, 8) == ["missed", "missed", "hit", "hit"]
    # Lines 0, 8 and 16 are one set, whose share is two; line 1 is in the next set.
    assert reference(16, 1, 8, 0, 16) == ["missed", "missed", "hit", "missed", "missed"]
    # 63 lines are seven for each set and seven over.
    others(tlb.DATA_LINES, 63)
    assert reference(16, 0) == ["hit", "missed"]
    others(tlb.DATA_LINES, 64)
    assert reference(0) == ["missed"]
    others(tlb.DATA_LINES, 40)
    others(tlb.EXIT_LINES, 24)
    assert reference(0) == ["lost"]
    others(tlb.DATA_LINES, 64)
    others(tlb.EXIT_LINES, 24)
    assert reference(0) == ["missed"]


def test_sizes_that_cannot_be(processor: Processor) -> None:
    with pytest.raises(ValueError, match=r"^opteron-2007, l2: wanted a power of two for the number of sets, got 48$"):
        walk_memory.configure(processor.state, replace(COSTS, l2_size=48))
    with pytest.raises(ValueError, match=r"^opteron-2007: wanted at most 33280 lines of page tables, got 1052672$"):
        walk_memory.configure(processor.state, replace(COSTS, l3_size=128 << 10))
