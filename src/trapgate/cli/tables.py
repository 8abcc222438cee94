"""Tables on stderr: what --stats prints."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from rich.console import Console
from rich.table import Table

from trapgate.cpu.faults import NAMES
from trapgate.lab.run import RunOutcome

#: What the TLB's counters are called in the table, in its order. The JSON names are the keys.
TLB_TITLES = {
    "itlb_l2_hits": "instruction: misses in L1, hits in L2",
    "itlb_misses": "instruction: misses in both, walks",
    "itlb_walk_references": "instruction: memory references of walks",
    "dtlb_l2_hits": "data: misses in L1, hits in L2",
    "dtlb_misses": "data: misses in both, walks",
    "dtlb_walk_references": "data: memory references of walks",
    "itlb_nested_references": "instruction: those to nested tables",
    "dtlb_nested_references": "data: those to nested tables",
    "pwc_hits": "references that the page walk cache held",
    "nested_tlb_hits": "nested walks that the nested TLB saved",
    "tlb_flushes": "flushes of the whole TLB",
    "tlb_page_flushes": "flushes of one page",
}


def print_statistics(outcome: RunOutcome) -> None:
    """Print the statistics of `outcome` to stderr."""
    statistics = outcome.statistics
    console = Console(stderr=True, highlight=False)
    run = _table("run")
    run.add_row("instructions", f"{statistics.instructions:,}")
    run.add_row("modelled cycles", f"{statistics.cycles:,}")
    run.add_row("host seconds", f"{statistics.host_seconds:.3f}")
    run.add_row("guest MIPS", f"{statistics.guest_mips:.1f}")
    run.add_row("blocks translated", f"{statistics.translated_blocks:,}")
    run.add_row("handlers built", f"{statistics.handlers_built:,}")
    console.print(run)
    titled = {TLB_TITLES.get(name, name.replace("_", " ")): count for name, count in statistics.tlb.items()}
    _print_counts(console, "TLB", titled.items())
    _print_counts(console, "interrupts by vector", _vectors(statistics.interrupts))
    _print_counts(console, "exceptions by vector", _vectors(statistics.exceptions))
    _print_counts(console, "port accesses by device", _largest_first(statistics.port_accesses))
    _print_counts(console, "MMIO accesses by device", _largest_first(statistics.memory_accesses))


def _table(title: str) -> Table:
    table = Table(title=title, title_justify="left", show_header=False, min_width=48)
    table.add_column()
    table.add_column(justify="right")
    return table


def _print_counts(console: Console, title: str, counts: Iterable[tuple[str, int]]) -> None:
    rows = [(name, count) for name, count in counts if count]
    if not rows:
        return
    table = _table(title)
    for name, count in rows:
        table.add_row(name, f"{count:,}")
    console.print(table)


def _vectors(counts: Mapping[int, int]) -> Iterable[tuple[str, int]]:
    return ((f"{vector} {NAMES.get(vector, f'({vector:#04x})')}", counts[vector]) for vector in sorted(counts))


def _largest_first(counts: Mapping[str, int]) -> Iterable[tuple[str, int]]:
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))
