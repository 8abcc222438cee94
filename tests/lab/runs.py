"""Runs of small guests under each technique, kept for all tests that look at them."""

from __future__ import annotations

import functools
from typing import NamedTuple

from trapgate.lab.compare import CapturedConsole
from trapgate.lab.options import BARE, RunOptions
from trapgate.lab.run import RunOutcome, run_guest
from trapgate.vmm.techniques import TECHNIQUES

ALL = (BARE, *TECHNIQUES)
VIRTUAL = tuple(TECHNIQUES)
MEMORY = 32 << 20


class Run(NamedTuple):
    """How a run ended, and its console."""

    outcome: RunOutcome
    console: bytes

    @property
    def exits(self) -> dict[str, int]:
        return {name: count.samples for name, count in self.outcome.statistics.exits.items()}

    @property
    def misses(self) -> int:
        tlb = self.outcome.statistics.tlb
        return tlb["itlb_misses"] + tlb["dtlb_misses"]

    @property
    def flushes(self) -> int:
        return self.outcome.statistics.tlb["tlb_flushes"]


@functools.cache
def run(
    guest: str,
    append: str,
    technique: str,
    costs: str = "opteron-2007",
    limit: int | None = None,
    processor: str = "opteron-2007",
    model: str = "full",
) -> Run:
    console = CapturedConsole()
    options = RunOptions(
        guest=guest,
        append=append,
        technique=technique,
        memory_size=MEMORY,
        costs=costs,
        max_instructions=limit,
        processor=processor,
        model=model,
    )
    return Run(run_guest(options, console), bytes(console.data))


def bench(what: str, technique: str, costs: str = "opteron-2007") -> Run:
    return run("bench", f"bench={what}", technique, costs)


def loop_cycles(console: bytes) -> dict[str, float]:
    """The embedded guest's table: cycles of one operation."""
    lines = console.decode().split("\n")
    table = lines[next(i for i, line in enumerate(lines) if line.startswith("operation")) + 1 : -2]
    return {line[:33].strip(): float(line.split()[-1]) for line in table if line[:33].strip() and "tests," not in line}
