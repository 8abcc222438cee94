"""A second, naive model of the caches that references of page walks go through, after docs/tlb.md.

It keeps every line that was ever seen and where in time it was last used, and counts what came behind it.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from trapgate.arch.costs import Costs

LINE = 64


@dataclass
class Use:
    """The last use of a line: when, and how many other lines had gone by until then."""

    number: int
    data: int
    exits: int


@dataclass
class Level:
    """One cache: `share` of the ways of each set are for page tables."""

    name: str
    sets: int
    ways: int
    share: int
    cycles: int
    uses: dict[int, Use] = field(default_factory=dict)

    def newer_lines(self, line: int) -> int:
        """Lines of page tables in the same set that were used later."""
        mine = self.uses[line]
        return sum(
            use.number > mine.number for other, use in self.uses.items() if other % self.sets == line % self.sets
        )

    def holds(self, line: int, other_lines: int) -> bool:
        """Whether a line that was seen is still there, when so many lines of other data have gone by since."""
        newer = self.newer_lines(line)
        return newer < self.share and newer + other_lines // self.sets < self.ways


class CacheHierarchy:
    """The levels of a cost profile, empty at first."""

    def __init__(self, costs: Costs) -> None:
        sizes = {
            "l1": (costs.l1_size, costs.l1_ways, costs.l1_hit),
            "l2": (costs.l2_size, costs.l2_ways, costs.l2_hit),
            "l3": (costs.l3_size, costs.l3_ways, costs.l3_hit),
        }
        self.levels = [
            Level(name, size * 1024 // LINE // ways, ways, max(1, ways // costs.walk_share), cycles)
            for name, (size, ways, cycles) in sizes.items()
            if size
        ]
        self.memory_cycles = costs.memory
        self.hits: Counter[str] = Counter()
        self.cycles = self.lost_to_exits = self.number = 0
        #: Lines of other data so far: of the processor's own accesses, of hypervisors.
        self.data = self.exits = 0

    def reference(self, place: int) -> None:
        """A reference to a host-physical address."""
        line = place // LINE
        lost = False
        self.number += 1
        for level in self.levels:
            use = level.uses.get(line)
            found = False
            if use is not None:
                data, exits = self.data - use.data, self.exits - use.exits
                found = level.holds(line, data + exits)
                lost = lost or (not found and level.holds(line, data))
            level.uses[line] = Use(self.number, self.data, self.exits)
            if found:
                self.hits[level.name] += 1
                self.cycles += level.cycles
                break
        else:
            self.hits["memory"] += 1
            self.cycles += self.memory_cycles
        self.lost_to_exits += lost

    @property
    def counts(self) -> dict[str, int]:
        """By the names of the processor's counters."""
        return {
            "walk_l1_hits": self.hits["l1"],
            "walk_l2_hits": self.hits["l2"],
            "walk_l3_hits": self.hits["l3"],
            "walk_memory_references": self.hits["memory"],
            "walk_references_lost_to_exits": self.lost_to_exits,
        }
