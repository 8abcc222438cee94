"""Tables on stderr: what --stats prints."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from trapgate.cpu.faults import NAMES
from trapgate.lab.run import RunOutcome
from trapgate.lab.statistics import Statistics

if TYPE_CHECKING:
    from trapgate.api.backtrace import Symbols

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
    "walk_l1_hits": "references that hit the L1 cache",
    "walk_l2_hits": "references that hit the L2 cache",
    "walk_l3_hits": "references that hit the L3 cache",
    "walk_memory_references": "references that went to memory",
    "walk_references_lost_to_exits": "references whose line exits had pushed out",
    "tlb_flushes": "flushes of the whole TLB",
    "tlb_page_flushes": "flushes of one page",
}
#: What the places where cycles go are called in tables.
PLACE_TITLES = {
    "guest": "guest's instructions", "translation": "TLB misses and walks", "events": "exceptions, interrupts",
    "world_switches": "world switches", "hypervisor": "hypervisor's work", "devices": "devices", "idle": "asleep",
}  # fmt: skip


def print_statistics(outcome: RunOutcome) -> None:
    """Print the statistics of `outcome` to stderr."""
    statistics = outcome.statistics
    console = Console(stderr=True, highlight=False)
    run = _table("run")
    run.add_row("instructions", f"{statistics.instructions:,}")
    if statistics.world_switches:
        run.add_row("the hypervisor's instructions among them", f"{statistics.emulated_instructions:,}")
        run.add_row("world switches", f"{statistics.world_switches:,}")
    run.add_row("model of translation", outcome.options.model)
    run.add_row("modelled cycles", f"{statistics.cycles:,}")
    run.add_row("host seconds", f"{statistics.host_seconds:.3f}")
    run.add_row("guest MIPS", f"{statistics.guest_mips:.1f}")
    run.add_row("blocks translated", f"{statistics.translated_blocks:,}")
    run.add_row("handlers built", f"{statistics.handlers_built:,}")
    run.add_row("regions of the hot tier", f"{statistics.regions:,}")
    run.add_row("found in them", f"{statistics.hot_share:.0%}")
    console.print(run)
    _print_places(console, statistics)
    _print_exits(console, statistics)
    titled = {TLB_TITLES.get(name, name.replace("_", " ")): count for name, count in statistics.tlb.items()}
    _print_counts(console, "TLB", titled.items())
    _print_counts(console, "interrupts by vector", _vectors(statistics.interrupts))
    _print_counts(console, "exceptions by vector", _vectors(statistics.exceptions))
    _print_counts(console, "port accesses by device", _largest_first(statistics.port_accesses))
    _print_counts(console, "MMIO accesses by device", _largest_first(statistics.memory_accesses))
    for name, counts in statistics.device_counts.items():
        _print_counts(console, name, ((what.replace("_", " "), count) for what, count in counts.items()))
    for name, faults in statistics.device_faults.items():
        _print_counts(console, f"went wrong with {name}", _largest_first(faults))


#: Rows of a profile.
MOST_ROWS = 30


def print_profile(outcome: RunOutcome, symbols: Symbols | None) -> None:
    """Print where the run spent its modelled cycles to stderr: blocks of code, the most first."""
    table = Table(title="modelled cycles by block of code, from samples", title_justify="left")
    for title in ("share", "rip", "CPL", "code"):
        table.add_column(title, justify="right")
    table.add_column("in regions", justify="right")
    if symbols is not None:
        table.add_column("symbol")
    for place in outcome.statistics.hottest[:MOST_ROWS]:
        row = [f"{place.share:.1%}", f"{place.rip:#x}", str(place.cpl), f"{place.bits}-bit", f"{place.hot:.0%}"]
        table.add_row(*row, *([] if symbols is None else [symbols.describe(place.rip)]))
    Console(stderr=True, highlight=False).print(table)


def _table(title: str) -> Table:
    table = Table(title=title, title_justify="left", show_header=False, min_width=48)
    table.add_column()
    table.add_column(justify="right")
    return table


def _print_places(console: Console, statistics: Statistics) -> None:
    places = {name: cycles for name, cycles in statistics.cycles_by_place.items() if cycles}
    if not places:
        return
    table = _table("modelled cycles by place")
    table.add_column(justify="right")
    for name, cycles in places.items():
        table.add_row(PLACE_TITLES[name], f"{cycles:,}", f"{100 * cycles / statistics.cycles:.1f}%")
    console.print(table)


def _print_exits(console: Console, statistics: Statistics) -> None:
    """The columns of `perf kvm stat`; cycles are those between #VMEXIT and VMRUN."""
    if not statistics.exits:
        return
    table = Table(title="exits; cycles from #VMEXIT to VMRUN, without time asleep", title_justify="left")
    table.add_column("exit")
    for title in ("samples", "samples %", "time %", "min", "max", "mean"):
        table.add_column(title, justify="right")
    samples = sum(count.samples for count in statistics.exits.values())
    cycles = sum(count.cycles for count in statistics.exits.values())
    for name, count in statistics.exits.items():
        shares = 100 * count.samples / samples, 100 * count.cycles / cycles if cycles else 0.0
        table.add_row(
            name, f"{count.samples:,}", f"{shares[0]:.2f}%", f"{shares[1]:.2f}%", f"{count.least:,}",
            f"{count.most:,}", f"{count.mean:,.1f}",
        )  # fmt: skip
    console.print(table)


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
