"""A second, naive model of the two-level TLB and of the page tables behind it.

Geometry: Bhargava et al., "Accelerating Two-Dimensional Page Walks for Virtualized Systems", ASPLOS 2008, table 2.
Replacement: level 1 first-in first-out, level 2 least recently used, large pages direct-mapped.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

SMALL, LARGE, HUGE = 1 << 12, 1 << 21, 1 << 30
#: Memory references of a walk of four-level tables.
REFERENCES = {SMALL: 4, LARGE: 3, HUGE: 2}


@dataclass
class Mapping:
    """A leaf of the page tables. `page` is its linear address; an absent one is a 4 KB page."""

    page: int
    size: int
    physical: int
    present: bool = True
    writable: bool = True
    user: bool = True
    no_execute: bool = False
    is_global: bool = False
    dirty: bool = False


@dataclass
class Entry:
    """What a TLB holds of a mapping: at most 2 MB of it, with the rights of when it was walked."""

    page: int
    size: int
    physical: int
    writable: bool
    user: bool
    no_execute: bool
    is_global: bool
    dirty: bool
    asid: int

    def holds(self, linear: int, asid: int) -> bool:
        return self.asid == asid and self.page <= linear < self.page + self.size


@dataclass
class Side:
    """Instruction or data TLB, and what it counted."""

    is_data: bool
    level1: list[Entry | None] = field(default_factory=list)
    turns: dict[int, int] = field(default_factory=lambda: {SMALL: 0, LARGE: 0})
    #: Per set, least recently used first.
    level2: list[list[Entry]] = field(default_factory=lambda: [[] for _ in range(128)])
    level2_large: list[Entry | None] = field(default_factory=lambda: [None] * 128)
    hits: int = 0
    misses: int = 0
    references: int = 0
    nested_references: int = 0

    def __post_init__(self) -> None:
        self.level1 = [None] * (64 if self.is_data else 32 + 16)

    def find1(self, linear: int, asid: int) -> Entry | None:
        for entry in self.level1:
            if entry is not None and entry.holds(linear, asid):
                return entry
        return None

    def fill1(self, entry: Entry) -> None:
        if self.is_data:
            turn = self.turns[SMALL]
            self.level1[turn] = entry
            self.turns[SMALL] = (turn + 1) % 64
        else:
            turn, (first, count) = self.turns[entry.size], (0, 32) if entry.size == SMALL else (32, 16)
            self.level1[first + turn] = entry
            self.turns[entry.size] = (turn + 1) % count

    def find2(self, linear: int, asid: int) -> Entry | None:
        ways = self.level2[linear // SMALL % 128]
        for entry in ways:
            if entry.holds(linear, asid):
                ways.remove(entry)
                ways.append(entry)
                return entry
        if self.is_data:
            large = self.level2_large[linear // LARGE % 128]
            if large is not None and large.holds(linear, asid):
                return large
        return None

    def fill2(self, entry: Entry, linear: int) -> None:
        if entry.size == SMALL:
            ways = self.level2[linear // SMALL % 128]
            if len(ways) == 4:
                ways.pop(0)
            ways.append(entry)
        elif self.is_data:
            self.level2_large[linear // LARGE % 128] = entry

    def drop(self, linear: int, asid: int) -> None:
        self.level1 = [None if e is not None and e.holds(linear, asid) else e for e in self.level1]
        ways = self.level2[linear // SMALL % 128]
        ways[:] = [e for e in ways if not e.holds(linear, asid)]
        large = self.level2_large[linear // LARGE % 128]
        if large is not None and large.holds(linear, asid):
            self.level2_large[linear // LARGE % 128] = None

    def flush(self, keep_global: bool, asid: int | None) -> None:
        """Of one ASID, or of all."""

        def stays(entry: Entry | None) -> bool:
            if entry is None:
                return False
            return (asid is not None and entry.asid != asid) or (keep_global and entry.is_global)

        self.level1 = [e if stays(e) else None for e in self.level1]
        for ways in self.level2:
            ways[:] = [e for e in ways if stays(e)]
        self.level2_large = [e if stays(e) else None for e in self.level2_large]


class NaiveTlb:
    """Address spaces, and the TLB in front of them."""

    def __init__(self) -> None:
        self.data, self.instruction = Side(True), Side(False)
        #: For each root: mappings by linear page.
        self.spaces: dict[int, dict[int, Mapping]] = {}
        self.root = 0
        self.write_protect = True
        self.asid = 0
        #: Under nested paging: guest-physical address to the size of the nested page there. All of it is mapped to
        #: itself, with every right, and dirty.
        self.nested: Callable[[int], int] | None = None

    def _mapping(self, linear: int) -> Mapping | None:
        space = self.spaces[self.root]
        for size in (SMALL, LARGE, HUGE):
            mapping = space.get(linear & -size)
            if mapping is not None and mapping.size == size:
                return mapping
        return None

    def _allowed(self, rights: Mapping | Entry, write: bool, user: bool, fetch: bool) -> bool:
        if user and not rights.user:
            return False
        if fetch and rights.no_execute:
            return False
        return not (write and not rights.writable and (user or self.write_protect))

    def access(self, linear: int, write: bool = False, user: bool = False, fetch: bool = False) -> int | None:
        """Physical address, or None for a page fault."""
        side = self.instruction if fetch else self.data
        entry = side.find1(linear, self.asid)
        if entry is None:
            entry = side.find2(linear, self.asid)
            if entry is not None and self._serves(entry, write, user, fetch):
                side.hits += 1
                side.fill1(entry)
        if entry is not None and not self._serves(entry, write, user, fetch):
            side.drop(linear, self.asid)
            entry = None
        if entry is None:
            entry = self._walk(side, linear, write, user, fetch)
            if entry is None:
                return None
            side.fill2(entry, linear)
            side.fill1(entry)
        return entry.physical + linear - entry.page

    def _serves(self, entry: Entry, write: bool, user: bool, fetch: bool) -> bool:
        return self._allowed(entry, write, user, fetch) and (entry.dirty or not write)

    def _walk(self, side: Side, linear: int, write: bool, user: bool, fetch: bool) -> Entry | None:
        mapping = self._mapping(linear)
        assert mapping is not None, f"the test maps everything that it touches, not {linear:#x}"
        side.misses += 1
        own = REFERENCES[mapping.size]
        side.references += own
        if self.nested:
            # The tables are all in the lowest 4 KB page's region.
            self._count_nested(side, own * REFERENCES[self.nested(0)])
        if not mapping.present or not self._allowed(mapping, write, user, fetch):
            return None
        mapping.dirty = mapping.dirty or write
        size = min(mapping.size, LARGE)
        if self.nested:
            nested_size = self.nested(mapping.physical + linear - mapping.page)
            self._count_nested(side, REFERENCES[nested_size])
            size = min(size, nested_size)
        page = linear & -size
        return Entry(
            page, size, mapping.physical + page - mapping.page, mapping.writable, mapping.user, mapping.no_execute,
            mapping.is_global, mapping.dirty, self.asid,
        )  # fmt: skip

    def _count_nested(self, side: Side, references: int) -> None:
        side.references += references
        side.nested_references += references

    def invalidate(self, linear: int, asid: int | None = None) -> None:
        """INVLPG, or INVLPGA."""
        self.data.drop(linear, self.asid if asid is None else asid)
        self.instruction.drop(linear, self.asid if asid is None else asid)

    def flush(self, asid: int | None, keep_global: bool = False) -> None:
        """One ASID's entries, or all."""
        self.data.flush(keep_global, asid)
        self.instruction.flush(keep_global, asid)

    def switch(self, root: int) -> None:
        """MOV CR3."""
        self.root = root
        self.flush(self.asid, keep_global=True)

    def counters(self) -> dict[str, int]:
        """By the names of trapgate's counters."""
        counts: dict[str, int] = {}
        for name, side in (("itlb", self.instruction), ("dtlb", self.data)):
            counts[f"{name}_l2_hits"] = side.hits
            counts[f"{name}_misses"] = side.misses
            counts[f"{name}_walk_references"] = side.references
            counts[f"{name}_nested_references"] = side.nested_references
        return counts
