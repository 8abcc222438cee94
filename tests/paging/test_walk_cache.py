"""The page walk cache and the nested TLB against naive ones: hits, references and cycles of every walk."""

from __future__ import annotations

import random
from collections import OrderedDict

import pytest

from trapgate.arch import layout
from trapgate.arch.costs import DEFAULT_COSTS, profile
from trapgate.engine.processor import Processor

from . import naive
from .nested_tables import NESTED_AT, HostTables, World, install_world
from .tables import TABLES_AT, Setup

PAGE_TABLES = 6
LAST_LEVEL = {TABLES_AT + (3 + i) * 4096 for i in range(PAGE_TABLES)}
COSTS = profile(DEFAULT_COSTS)
COUNTERS = ("dtlb_misses", "dtlb_walk_references", "pwc_hits", "nested_tlb_hits")


class Caches:
    """Least recently used last; keys are (what, ASID, whether it came from nested tables)."""

    def __init__(self, walk_cache: int, nested_tlb: int) -> None:
        self.walk_cache_size, self.nested_tlb_size = walk_cache, nested_tlb
        self.walk_cache: OrderedDict[tuple[int, int, bool], None] = OrderedDict()
        self.nested_tlb: OrderedDict[tuple[int, int, bool], int] = OrderedDict()
        self.asid = 0
        self.held = self.saved = 0

    def reference(self, place: int) -> None:
        """An entry is read."""
        nested = NESTED_AT <= place < NESTED_AT + 0x10_0000
        if not self.walk_cache_size or place & -4096 in LAST_LEVEL:
            return
        key = (place // 8, self.asid, nested)
        if key in self.walk_cache:
            self.held += 1
            self.walk_cache.move_to_end(key)
            return
        if len(self.walk_cache) == self.walk_cache_size:
            self.walk_cache.popitem(last=False)
        self.walk_cache[key] = None

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
@pytest.mark.parametrize(("walk_cache", "nested_tlb"), [(0, 0), (24, 0), (0, 16), (24, 16), (5, 6)])
def test_hits_and_cycles(processor: Processor, walk_cache: int, nested_tlb: int, nested: bool) -> None:
    choose = random.Random(walk_cache * 100 + nested_tlb)
    world = _world(choose)
    install_world(processor, world, asid=0)
    state, caches = processor.state, Caches(walk_cache, nested_tlb)
    state.set(layout.NESTED, nested)
    state.set(layout.PWC_SIZE, walk_cache)
    state.set(layout.NESTED_TLB_SIZE, nested_tlb)

    def read(physical: int, size: int) -> int:
        caches.reference(physical)
        return int.from_bytes(processor.memory.read(physical, size), "little")

    start = [state.counter(name) for name in COUNTERS]
    misses = references = 0
    try:
        for number in range(1500):
            what = choose.random()
            linear, asid = choose.choice(world.guest.linear), choose.randrange(2)
            if what < 0.9:
                before, charged, hits = state.counter("dtlb_misses"), processor.charged, (caches.held, caches.saved)
                l2_hits = state.counter("dtlb_l2_hits")
                got = processor.translate(linear + 8, 0)
                if state.counter("dtlb_misses") == before:
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
                cycles = (
                    (made - held) * COSTS.walk_reference + held * COSTS.walk_cache_hit + saved * COSTS.nested_tlb_hit
                )
                assert processor.charged - charged == cycles, f"after step {number}"
            elif what < 0.92:
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
        counts = [b - state_then for b, state_then in zip((state.counter(n) for n in COUNTERS), start, strict=True)]
        assert counts == [misses, references, caches.held, caches.saved]
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
    cold_hits = 3 * 3 + 3
    assert seen[0] == (1, 24, cold_hits, 0, (24 - cold_hits) * COSTS.walk_reference + cold_hits * COSTS.walk_cache_hit)
    warm = COSTS.walk_reference + 7 * COSTS.walk_cache_hit + 4 * COSTS.nested_tlb_hit
    assert seen[1] == (1, 8, 7, 4, warm)
