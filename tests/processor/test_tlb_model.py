"""The modelled TLB against a naive one: random accesses must give the same counts and the same translations.

The naive model is written from the description (docs/tlb.md): level 1 fully associative, filled in turn, place
after place, whether a place is empty or not (64 for data; 32 for small and 16 for large pages of instructions);
level 2 of 128 sets of 4 ways, least recently used, for 4 KB pages, and for data 128 direct-mapped 2 MB entries.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from trapgate.arch import layout
from trapgate.arch.paging import PF_I, PF_U, PF_W
from trapgate.cpu import tlb
from trapgate.cpu.faults import Fault

from .harness import TABLES, Bench

SMALL, LARGE = 1 << 12, 1 << 21
TABLE = 0x4000


@dataclass
class Entry:
    page: int
    size: int
    writable: bool
    user: bool
    is_global: bool
    dirty: bool
    no_execute: bool


class Turns:
    """Places filled in turn."""

    def __init__(self, size: int) -> None:
        self.places: list[Entry | None] = [None] * size
        self.next = 0

    def take(self, entry: Entry) -> None:
        self.places[self.next] = entry
        self.next = (self.next + 1) % len(self.places)

    def keep(self, wanted: Callable[[Entry], bool]) -> None:
        self.places = [e if e is not None and wanted(e) else None for e in self.places]


@dataclass
class NaiveSide:
    """One side of the TLB."""

    is_data: bool
    first: Turns = field(default_factory=lambda: Turns(64))  # data
    first_small: Turns = field(default_factory=lambda: Turns(32))  # code
    first_large: Turns = field(default_factory=lambda: Turns(16))
    sets: dict[int, list[Entry]] = field(default_factory=dict)  # least recently used first
    large: dict[int, Entry] = field(default_factory=dict)
    hits: int = 0
    misses: int = 0
    references: int = 0

    def firsts(self) -> list[Turns]:
        return [self.first] if self.is_data else [self.first_small, self.first_large]

    def find_first(self, linear: int) -> Entry | None:
        entries = (e for turns in self.firsts() for e in turns.places if e is not None)
        return next((e for e in entries if linear & -e.size == e.page), None)

    def find_second(self, linear: int) -> Entry | None:
        ways = self.sets.get(linear >> 12 & 127, [])
        for entry in ways:
            if entry.page == linear & -SMALL:
                ways.remove(entry)
                ways.append(entry)
                return entry
        entry_large = self.large.get(linear >> 21 & 127) if self.is_data else None
        return entry_large if entry_large is not None and entry_large.page == linear & -LARGE else None

    def take_first(self, entry: Entry) -> None:
        if self.is_data:
            self.first.take(entry)
        else:
            (self.first_small if entry.size == SMALL else self.first_large).take(entry)

    def take_second(self, entry: Entry) -> None:
        if entry.size == LARGE:
            if self.is_data:
                self.large[entry.page >> 21 & 127] = entry
            return
        ways = self.sets.setdefault(entry.page >> 12 & 127, [])
        ways.append(entry)
        if len(ways) > 4:
            ways.pop(0)


class Model:
    """The processor under test beside the naive model."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.bench = Bench.long64()
        self.p = self.bench.processor
        self.p.set_cr4(0x20 | 0x80)  # PAE, global pages
        memory = self.bench.memory
        self.entries: dict[int, int] = {}
        # 2 MB regions 1 to 3 in 4 KB pages with random rights; the rest large, with random rights.
        self.place: dict[int, tuple[int, int]] = {}  # page -> (guest-physical address of its entry, size)
        for region in range(1, 4):
            table = TABLE + (region - 1) * 0x1000
            memory.write_u64(TABLES + 0x2000 + 8 * region, table | 7)
            for i in range(512):
                page = (region << 21) + (i << 12)
                memory.write_u64(table + 8 * i, page % (8 << 20) | self._rights())
                self.place[page] = (table + 8 * i, SMALL)
        for region in range(4, 400):
            memory.write_u64(TABLES + 0x2000 + 8 * region, region % 4 << 21 | 0x80 | self._rights())
            self.place[region << 21] = (TABLES + 0x2000 + 8 * region, LARGE)
        for table in (TABLES, TABLES + 0x1000):
            memory.write_u64(table, memory.read_u64(table) | 7)
        self.data, self.code = NaiveSide(True), NaiveSide(False)
        self.p.native_flush(self.p.state.address, 0)

    def _rights(self) -> int:
        r = self.random
        value = 1 | 4  # present, user
        value |= 2 if r.random() < 0.8 else 0
        value |= 0x100 if r.random() < 0.2 else 0
        return value

    def flush(self, keep_global: bool) -> None:
        for side in (self.data, self.code):
            for turns in side.firsts():
                turns.keep(lambda e: keep_global and e.is_global)
            for ways in side.sets.values():
                ways[:] = [e for e in ways if keep_global and e.is_global]
            side.large = {k: e for k, e in side.large.items() if keep_global and e.is_global}

    def page_of(self, linear: int) -> int:
        return linear & -SMALL if linear & -SMALL in self.place else linear & -LARGE

    def walk(self, side: NaiveSide, linear: int, access: int) -> Entry | None:
        side.misses += 1
        page = self.page_of(linear)
        place, size = self.place[page]
        side.references += 4 if size == SMALL else 3
        value = self.bench.memory.read_u64(place)
        if access & PF_W and not value & 2:
            return None
        dirty = bool(value & 0x40 or access & PF_W)
        return Entry(page, size, bool(value & 2), bool(value & 4), bool(value & 0x100), dirty, False)

    def access(self, side: NaiveSide, linear: int, access: int) -> bool:
        """True when the access is allowed."""
        entry = side.find_first(linear)
        if entry is not None and self._serves(entry, access):
            return True
        if entry is None:
            entry = side.find_second(linear)
            if entry is not None and self._serves(entry, access):
                side.hits += 1
                side.take_first(entry)
                return True
        if entry is not None:
            self._drop(side, linear)
        found = self.walk(side, linear, access)
        if found is None:
            return False
        side.take_second(found)
        side.take_first(found)
        return True

    @staticmethod
    def _serves(entry: Entry, access: int) -> bool:
        return not access & PF_W or (entry.writable and entry.dirty)

    def _drop(self, side: NaiveSide, linear: int) -> None:
        for turns in side.firsts():
            turns.keep(lambda e: linear & -e.size != e.page)
        ways = side.sets.get(linear >> 12 & 127, [])
        ways[:] = [e for e in ways if e.page != linear & -SMALL]
        large = side.large.get(linear >> 21 & 127)
        if large is not None and large.page == linear & -LARGE:
            del side.large[linear >> 21 & 127]

    def check_subset(self) -> None:
        """Every fast entry belongs to a level 1 entry that is there, and to the same page."""
        q, w = self.p.q, self.p.state.w
        for side in (tlb.DATA, tlb.INSTRUCTION):
            for slot in range(2 * tlb.FAST_ENTRIES):
                at = side.fast + slot * tlb.FAST_SIZE
                tag = q[at >> 3]
                if tag == (1 << 64) - 1:
                    continue
                owner = w[(at + 24) >> 1]
                assert owner < tlb.L1_ENTRIES
                assert q[side.tags + 8 * owner >> 3] == tag & q[side.masks + 8 * owner >> 3]


def _counts(model: Model) -> tuple[int, ...]:
    names = ("l2_hits", "misses", "walk_references")
    return tuple(model.p.state.counter(f"{side}_{name}") for side in ("dtlb", "itlb") for name in names)


@pytest.mark.parametrize("seed", range(12))
def test_counts_and_subset(seed: int) -> None:
    model = Model(seed)
    r, p = model.random, model.p
    start = _counts(model)
    pages = list(model.place)
    hot: list[int] = []
    for step in range(4000):
        if step % 200 == 0:
            hot = r.sample(pages, r.choice((20, 70, 300)))
        what = r.random()
        linear = r.choice(hot if r.random() < 0.95 else pages) + r.randrange(SMALL)
        if what < 0.01:
            p.set_cr3(TABLES)
            model.flush(keep_global=True)
        elif what < 0.03:
            p.flush_page(linear)
            for side in (model.data, model.code):
                model._drop(side, linear)
        elif what < 0.05:
            place, _ = model.place[model.page_of(linear)]
            model.bench.memory.write_u64(place, model.bench.memory.read_u64(place) ^ 2)  # without INVLPG: stale entries
        elif what < 0.3:
            user = r.choice((0, PF_U))
            p.state.set(layout.STALL, 0)
            allowed = model.access(model.code, linear, user | PF_I)
            assert (p._translate_code(p.state.address, linear, user | PF_I) != 0) == allowed
        else:
            access = r.choice((0, PF_U, PF_W, PF_W | PF_U))
            allowed = model.access(model.data, linear, access)
            try:
                p.translate(linear, access)
                got = True
            except Fault:
                got = False
            assert got == allowed
        if step % 500 == 0:
            model.check_subset()
    model.check_subset()
    naive = (
        model.data.hits, model.data.misses, model.data.references,
        model.code.hits, model.code.misses, model.code.references,
    )  # fmt: skip
    assert tuple(b - a for a, b in zip(start, _counts(model), strict=True)) == naive
