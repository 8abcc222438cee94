"""The modelled TLB: its geometry, and where its tables lie in the state block.

Two levels for data and two for instructions. Level 1 is fully associative and replaces first-in first-out, which does
not depend on hits; level 2 is set-associative and replaces the least recently used, which is exact because every
lookup of level 2 passes through here. Large pages of 4 MB and 1 GB are held as 2 MB entries. The tag of an entry is its
linear page, with the ASID (12 bits) below.

In front of level 1 stand the fast tables that native code checks inline: one for each side and privilege, indexed by
the linear page number. A fast entry exists only while the level 1 entry that it came from does, so a hit in a fast
table is a hit in the model. A fast entry has 32 bytes: read tag, write tag (linear page addresses, all ones when
empty), host address minus linear address (data) or guest-physical page (instructions), and owner, next and previous
(u16 each): the level 1 entry it came from and its neighbours in that entry's list of fast entries. They are not tagged:
who changes the address space without a flush empties them.
"""

from __future__ import annotations

from typing import NamedTuple

from trapgate.arch import layout


class Geometry(NamedTuple):
    """Entries and ways. Sizes of level 2 are powers of two; level 1 has at most 64 entries."""

    l1_data: int = 64  # any page size
    l1_instruction_small: int = 32
    l1_instruction_large: int = 16
    l2_sets: int = 128  # of 4 ways, 4 KB pages
    l2_large: int = 128  # direct-mapped, 2 MB pages, data only
    walk_cache: int = 24  # fully associative, page-table entries
    nested_tlb: int = 16  # fully associative, 4 KB pages
    cache_lines: int = 33280  # of page tables, in all levels of the modelled caches together


#: Bhargava et al., "Accelerating Two-Dimensional Page Walks for Virtualized Systems", ASPLOS 2008, table 2.
OPTERON_2007 = Geometry()

WAYS = 4
FAST_ENTRIES = 1024
FAST_SIZE = 32
#: The tags of an empty fast entry.
EMPTY = -1
#: The tag of an empty entry of level 1 or 2: no page of any ASID, as it is not canonical.
NO_PAGE = 1 << 63
ASID_MASK = 0xFFF
NO_SLOT = 0xFFFF
L1_ENTRIES = 64
#: Owner of the fast entries that no entry of level 1 stands behind (paging off): they have a list as well.
UNOWNED = L1_ENTRIES
#: Owner of an empty fast entry.
NO_OWNER = 0xFFFF
L2_ENTRY = 32  # tag, page, rights, stamp

# Rights of an entry
RIGHT_W = 1
RIGHT_U = 2
RIGHT_NX = 4
RIGHT_G = 8
RIGHT_D = 16


class Side(NamedTuple):
    """Offsets in the state block of one side's tables."""

    name: str
    is_data: bool
    fast: int  # supervisor table, then user table
    tags: int
    masks: int
    pages: int
    rights: int
    heads: int
    next_small: int
    next_large: int
    l2: int
    l2_large: int
    hits: int
    misses: int
    references: int


_next = layout.TLB_TABLES


def _take(size: int, align: int = 64) -> int:
    global _next
    _next = (_next + align - 1) // align * align
    offset = _next
    _next += size
    return offset


def _side(name: str, prefix: str, is_data: bool) -> Side:
    def counter(what: str) -> int:
        return layout.counter(f"{prefix}_{what}")

    return Side(
        name=name,
        is_data=is_data,
        fast=_take(2 * FAST_ENTRIES * FAST_SIZE, 4096),
        tags=_take(8 * L1_ENTRIES),
        masks=_take(8 * L1_ENTRIES),
        pages=_take(8 * L1_ENTRIES),
        rights=_take(8 * L1_ENTRIES),
        heads=_take(8 * (L1_ENTRIES + 1)),
        next_small=_take(8, 8),
        next_large=_take(8, 8),
        l2=_take(OPTERON_2007.l2_sets * WAYS * L2_ENTRY),
        l2_large=_take(OPTERON_2007.l2_large * L2_ENTRY),
        hits=counter("l2_hits"),
        misses=counter("misses"),
        references=counter("walk_references"),
    )


DATA = _side("data", "dtlb", True)
INSTRUCTION = _side("instruction", "itlb", False)
#: A fast table in which nothing ever hits, for when every data access must take the slow path.
NEVER = _take(FAST_ENTRIES * FAST_SIZE, 4096)


class Cache(NamedTuple):
    """Offsets in the state block of one of the walker's caches (cpu/walk_cache.py)."""

    name: str
    size: int
    entries: int
    tags: int
    stamps: int
    pages: int


def _cache(name: str, size: int, entries: int) -> Cache:
    return Cache(name, size, entries, _take(8 * entries), _take(8 * entries), _take(8 * entries))


PAGE_WALK_CACHE = _cache("page_walk_cache", layout.PWC_SIZE, OPTERON_2007.walk_cache)
NESTED_TLB = _cache("nested_tlb", layout.NESTED_TLB_SIZE, OPTERON_2007.nested_tlb)
#: Counts lookups of level 2: the stamp of the least recently used way is the smallest.
STAMP = _take(8, 8)


class CacheLevel(NamedTuple):
    """Offsets in the state block of one level of the caches that walks go through (cpu/walk_memory.py)."""

    name: str
    #: Ways of a set that may hold lines of page tables; 0: there is no such level.
    held: int
    #: All ways of a set; the number of sets less one, and its logarithm.
    ways: int
    set_mask: int
    set_bits: int
    #: Where in the state block its lines begin.
    lines: int
    #: Cycles of a hit.
    cycles: int
    #: The counter of its hits.
    hits: int


def _level(name: str) -> CacheLevel:
    held, ways, mask, bits, lines, cycles = (_take(8, 8) for _ in range(6))
    return CacheLevel(name, held, ways, mask, bits, lines, cycles, layout.counter(f"walk_{name}_hits"))


CACHE_LEVELS = (_level("l1"), _level("l2"), _level("l3"))
#: Cycles of a reference that none of them holds.
COST_MEMORY = _take(8, 8)
#: Lines of other data that have gone through the caches: those of the processor's own accesses, and of hypervisors at
#: #VMEXIT; and how many go with a translation that level 1 of the TLB lacks.
DATA_LINES = _take(8, 8)
EXIT_LINES = _take(8, 8)
LINES_PER_MISS = _take(8, 8)
#: Not 0 if the page walk cache holds entries of nested tables.
PWC_NESTED = _take(8, 8)
#: An entry: 1 + line address (0: empty), DATA_LINES and EXIT_LINES at its last use. The last used of a set is first.
CACHE_ENTRY = 24
CACHE_LINES = _take(OPTERON_2007.cache_lines * CACHE_ENTRY)
STATE_SIZE = (_next + 4095) // 4096 * 4096
