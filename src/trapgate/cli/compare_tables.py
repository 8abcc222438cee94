"""What `trapgate compare` prints and writes as CSV: one column for each technique."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from trapgate.cli.errors import CannotWrite
from trapgate.cli.tables import PLACE_TITLES
from trapgate.lab.compare import Comparison, TechniqueRun, busy, references_per_walk, walks
from trapgate.lab.statistics import PLACES, Statistics

#: How many reasons of exits the table shows; JSON and CSV have all.
TOP_EXITS = 8
Row = tuple[str, list[str]]


def print_comparison(comparison: Comparison) -> None:
    """Print the table to stdout."""
    ended = comparison.ended
    if not ended:
        return
    outcome = ended[0].outcome
    assert outcome is not None
    options = comparison.options
    print(f"{outcome.description}, processor {options.processor}, costs {options.costs}")
    rows: list[Row | None] = [("", [run.technique for run in ended]), *_rows(comparison, TOP_EXITS)]
    label = max(len(row[0]) for row in rows if row is not None)
    width = max(len(cell) for row in rows if row is not None for cell in row[1]) + 2
    for row in rows:
        if row is None:
            print()
        else:
            print((row[0].ljust(label) + "".join(cell.rjust(width) for cell in row[1])).rstrip())


def _rows(comparison: Comparison, exits: int | None) -> Iterator[Row | None]:
    """Rows of the table; None is an empty line. `exits`: how many reasons, None for all."""
    ended = comparison.ended

    def row(title: str, value: Callable[[Statistics], str]) -> Row:
        return title, [value(run.statistics) for run in ended]

    def count(title: str, value: Callable[[Statistics], int]) -> Row:
        return row(title, lambda statistics: f"{value(statistics):,}")

    yield None
    yield count("cycles, without time asleep", busy)
    yield "slowdown", [_slowdown(comparison, run) for run in ended]
    yield count("instructions", lambda s: s.instructions)
    yield None
    yield count("world switches", lambda s: s.world_switches)
    names = top_exits(ended, exits)
    for name in names:
        yield count(f"  {name}", lambda s, name=name: s.exits[name].samples if name in s.exits else 0)  # type: ignore[misc]
    others = [name for name in top_exits(ended, None) if name not in names]
    if others:
        yield count("  others", lambda s: sum(s.exits[name].samples for name in others if name in s.exits))
    yield None
    yield count("TLB misses, walks", walks)
    yield row("references per walk", lambda s: f"{references_per_walk(s):.2f}")
    yield count("references that go to memory", lambda s: s.tlb["walk_memory_references"])
    yield count("references lost to exits", lambda s: s.tlb["walk_references_lost_to_exits"])
    yield count("TLB hits in level 2", lambda s: s.tlb["itlb_l2_hits"] + s.tlb["dtlb_l2_hits"])
    yield count("TLB flushes", lambda s: s.tlb["tlb_flushes"])
    yield count("flushes of a page", lambda s: s.tlb["tlb_page_flushes"])
    yield None
    yield "cycles by place", [""] * len(ended)
    for place in PLACES:
        if any(run.statistics.cycles_by_place[place] for run in ended):
            yield row(f"  {PLACE_TITLES[place]}", lambda s, place=place: _share(s, place))  # type: ignore[misc]


def _share(statistics: Statistics, place: str) -> str:
    """Cycles of a place, and their share of all."""
    cycles = statistics.cycles_by_place[place]
    share = 100 * cycles / statistics.cycles if statistics.cycles else 0.0
    return f"{cycles:,} {share:4.1f}%"


def _slowdown(comparison: Comparison, run: TechniqueRun) -> str:
    slowdown = comparison.slowdown(run)
    return "-" if slowdown is None else f"{slowdown:.3f}"


def top_exits(runs: Sequence[TechniqueRun], most: int | None) -> list[str]:
    """The reasons of exits, those first of which some technique has most."""
    samples: dict[str, int] = {}
    for run in runs:
        for name, count in run.statistics.exits.items():
            samples[name] = max(samples.get(name, 0), count.samples)
    return sorted(samples, key=lambda name: (-samples[name], name))[:most]


def write_csv(path: str, comparison: Comparison) -> None:
    """Write one line for each technique and count: technique, group, name, value. Raises CannotWrite."""
    try:
        with Path(path).open("w", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(("technique", "group", "name", "value"))
            for run in comparison.ended:
                for group, name, value in _values(comparison, run):
                    writer.writerow((run.technique, group, name, value))
    except OSError as error:
        raise CannotWrite("--csv", path, error.strerror or "an error") from error


def _values(comparison: Comparison, run: TechniqueRun) -> Iterator[tuple[str, str, object]]:
    statistics = run.statistics
    slowdown = comparison.slowdown(run)
    yield "run", "cycles", statistics.cycles
    yield "run", "busy_cycles", busy(statistics)
    yield "run", "slowdown", "" if slowdown is None else round(slowdown, 4)
    yield "run", "instructions", statistics.instructions
    yield "run", "emulated_instructions", statistics.emulated_instructions
    yield "run", "world_switches", statistics.world_switches
    for name, count in statistics.exits.items():
        yield "exits", name, count.samples
        yield "exit_cycles", name, count.cycles
    for name, value in statistics.tlb.items():
        yield "tlb", name, value
    for place in PLACES:
        yield "cycles_by_place", place, statistics.cycles_by_place[place]
