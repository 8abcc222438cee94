"""What a page walk costs natively and in two dimensions, as docs/costs.md has it.

    python scripts/walk_costs.py [GUEST:TEXT ...]

Runs each guest on the bare machine and under `nested-tagged`: with the host's frames as they come, so that nested
pages have 2 MB, and with frames scattered, so that they have 4 KB; with the cost profile `opteron-2007` and with the
one whose caches of walks know nothing of nested tables. TEXT is the end of the kernel's command line, for `debian` the
command.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

from trapgate.arch.costs import profile
from trapgate.lab.compare import CapturedConsole, references_per_walk, walks
from trapgate.lab.options import RunOptions
from trapgate.lab.run import run_guest
from trapgate.lab.statistics import Statistics
from trapgate.vmm.memory.errors import OutOfHostMemory
from trapgate.vmm.memory.frames import RUN, FrameAllocator

AWK = "awk 'BEGIN { for (i = 0; i < 60000; i++) a[int(rand() * 1000000)] = i; print length(a) }'"
GUESTS = ("bench:bench=stride n=500000", "debian:uname -a", f"debian:{AWK}")
RUNS = (
    ("bare", "opteron-2007", False), ("nested-tagged", "opteron-2007", False),
    ("nested-tagged", "opteron-2007", True), ("nested-tagged", "opteron-2007-plain", False),
    ("nested-tagged", "opteron-2007-plain", True),
)  # fmt: skip


@contextmanager
def scattered_frames(wanted: bool) -> Iterator[None]:
    """While inside, the host has no 2 MB in a row for a guest, if `wanted`."""
    allocate = FrameAllocator.allocate_run

    def no_large_page(self: FrameAllocator, owner: str, frames: int, align: int | None = None) -> int:
        if frames == RUN:
            raise OutOfHostMemory(owner, "2 MB in a row", self.free_frames)
        return allocate(self, owner, frames, align)

    if wanted:
        FrameAllocator.allocate_run = no_large_page  # type: ignore[method-assign]
    try:
        yield
    finally:
        FrameAllocator.allocate_run = allocate  # type: ignore[method-assign]


def run(guest: str, text: str, technique: str, costs: str, scattered: bool) -> Statistics:
    """What one run counted."""
    command = ("sh", "-c", text) if guest == "debian" else None
    append = None if command else text
    options = RunOptions(guest=guest, append=append, command=command, technique=technique, costs=costs)
    with scattered_frames(scattered):
        return run_guest(options, CapturedConsole()).statistics


def cycles_per_walk(statistics: Statistics, costs: str) -> float:
    """Modelled cycles of a walk, without hits of the TLB's level 2."""
    tlb = statistics.tlb
    level2 = (tlb["itlb_l2_hits"] + tlb["dtlb_l2_hits"]) * profile(costs).l2_tlb_hit
    return (statistics.cycles_by_place["translation"] - level2) / walks(statistics)


def shares(statistics: Statistics) -> list[str]:
    """Where references hit, in percent: page walk cache, L2, L3, memory."""
    tlb = statistics.tlb
    names = ("pwc_hits", "walk_l2_hits", "walk_l3_hits", "walk_memory_references")
    made = tlb["itlb_walk_references"] + tlb["dtlb_walk_references"]
    return [f"{100 * tlb[name] / made:.0f}%" for name in names]


def main() -> None:
    """Print a table for each guest."""
    for guest, text in (argument.split(":", 1) for argument in sys.argv[1:] or GUESTS):
        print(f"{guest} {text}")
        print(
            "| run | profile | nested pages | walks | references | PWC | L2 | L3 | memory | cycles of a walk | ratio |"
        )
        print("|---|---|---|---|---|---|---|---|---|---|---|")
        native = 0.0
        for technique, costs, scattered in RUNS:
            statistics = run(guest, text, technique, costs, scattered)
            cost = cycles_per_walk(statistics, costs)
            native = native or cost
            pages = "-" if technique == "bare" else "4 KB" if scattered else "2 MB"
            cells = (
                technique, f"`{costs}`", pages, f"{walks(statistics):,}", f"{references_per_walk(statistics):.2f}",
                *shares(statistics), f"{cost:.1f}", f"{cost / native:.2f}",
            )  # fmt: skip
            print("| " + " | ".join(cells) + " |", flush=True)
        print()


if __name__ == "__main__":
    main()
