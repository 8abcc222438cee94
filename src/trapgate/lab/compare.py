"""One guest under several techniques: what each cost, and whether the guest saw any difference."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self

from trapgate import __version__
from trapgate.arch.cpuid import PROFILES
from trapgate.lab.console import ProgressCallback
from trapgate.lab.disks import open_disks
from trapgate.lab.errors import ConflictingOptions, UnknownProcessor, UnknownTechnique
from trapgate.lab.guest import boot_disk, boots_disk, find_guest
from trapgate.lab.networks import check_shared
from trapgate.lab.options import BARE, RunOptions
from trapgate.lab.parallel import Failure, run_parallel
from trapgate.lab.report import json_report
from trapgate.lab.run import RunOutcome, run_guest
from trapgate.lab.same_console import difference
from trapgate.lab.statistics import SCHEMA_VERSION, Statistics
from trapgate.vmm.techniques import TECHNIQUES

#: Lines of a difference between two consoles that are kept.
DIFFERENCE_LINES = 40


class CapturedConsole:
    """A console that keeps what the guest writes, and has no input."""

    has_input = False
    is_interactive = False

    def __init__(self) -> None:
        self.data = bytearray()
        self.on_quit: Callable[[], None] = lambda: None

    def write(self, data: bytes) -> None:
        """Keep bytes of the guest."""
        self.data += data

    def flush(self) -> None:
        """Nobody looks before the end."""

    def poll(self) -> bytes:
        """Nothing is typed."""
        return b""

    def descriptors(self) -> Sequence[int]:
        """Nothing is typed."""
        return ()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        return None


@dataclass(frozen=True, slots=True)
class TechniqueRun:
    """A run under one technique: how it ended (None: it did not get that far), or the error that it ended with."""

    technique: str
    outcome: RunOutcome | None
    console: bytes = b""
    error: str = ""
    traceback: str = ""
    #: How the console differs from the first technique's, as lines of a diff.
    difference: Sequence[str] = field(default_factory=tuple)

    @property
    def statistics(self) -> Statistics:
        """What it counted; only of a run that has ended."""
        assert self.outcome is not None
        return self.outcome.statistics


@dataclass(frozen=True, slots=True)
class Comparison:
    """All of them, in the order asked for. The first that ran is what the others are compared with."""

    options: RunOptions
    runs: Sequence[TechniqueRun]

    @property
    def ended(self) -> list[TechniqueRun]:
        """Those that ran to an end."""
        return [run for run in self.runs if run.outcome is not None]

    @property
    def same(self) -> bool:
        """Every technique ran, and the guest said and did the same under each."""
        return not any(run.outcome is None or run.difference for run in self.runs)

    def slowdown(self, run: TechniqueRun) -> float | None:
        """Cycles over those of the bare machine, time asleep left out; None without a bare run."""
        bare = next((other for other in self.ended if other.technique == BARE), None)
        if bare is None or not busy(bare.statistics):
            return None
        return busy(run.statistics) / busy(bare.statistics)

    def report(self) -> dict[str, object]:
        """As JSON has it. All but each run's `host` is the same every time."""
        return {
            "schema_version": SCHEMA_VERSION,
            "trapgate_version": __version__,
            "same_console": self.same,
            "runs": {run.technique: self._run_report(run) for run in self.runs},
        }

    def _run_report(self, run: TechniqueRun) -> dict[str, object]:
        if run.outcome is None:
            return {"error": run.error}
        slowdown = self.slowdown(run)
        derived: Mapping[str, object] = {
            "busy_cycles": busy(run.statistics),
            "slowdown": None if slowdown is None else round(slowdown, 4),
            "references_per_walk": round(references_per_walk(run.statistics), 3),
            "console_difference": list(run.difference),
        }
        return {**json_report(run.outcome), **derived}


def busy(statistics: Statistics) -> int:
    """Modelled cycles without time asleep."""
    return statistics.cycles - statistics.cycles_by_place.get("idle", 0)


def walks(statistics: Statistics) -> int:
    """Misses of both sides of the TLB."""
    return statistics.tlb["itlb_misses"] + statistics.tlb["dtlb_misses"]


def references_per_walk(statistics: Statistics) -> float:
    """Memory references of a walk on average; 0 without walks."""
    made = statistics.tlb["itlb_walk_references"] + statistics.tlb["dtlb_walk_references"]
    return made / walks(statistics) if walks(statistics) else 0.0


def possible_techniques(processor: str) -> tuple[str, ...]:
    """Names of those that a processor profile can do, the bare machine first. Raises UnknownProcessor."""
    profile = PROFILES.get(processor)
    if profile is None:
        raise UnknownProcessor(processor, tuple(PROFILES))
    return (BARE, *(name for name, technique in TECHNIQUES.items() if not technique.missing(profile)))


def compare(
    options: RunOptions, techniques: Sequence[str], jobs: int, progress: ProgressCallback = lambda *stage: None
) -> Comparison:
    """Run the guest under each technique, `jobs` at a time. Raises RunError and FirmwareError for bad input."""
    for name in techniques:
        if name != BARE and name not in TECHNIQUES:
            raise UnknownTechnique(name, (BARE, *TECHNIQUES))
        if techniques.count(name) > 1:
            raise ConflictingOptions("each technique once", f"{name} twice", "leave one out of --techniques")
    # What can be wrong with the guest shows here, and what has to be fetched or built is, once.
    if options.write:
        raise ConflictingOptions("--write with one run", "it with several", "leave it out, the images stay as they are")
    check_shared(options)
    if options.virtio_ports or not all(folder.read_only for folder in options.folders):
        wanted = "--chardev and a --virtfs that is written with one run"
        raise ConflictingOptions(wanted, "one with several", "leave it out, or add readonly=on")
    if options.displays:
        raise ConflictingOptions("--display with one run", "it with several", "leave it out")
    with open_disks(options) as disks:
        guest = boot_disk(options, disks) if boots_disk(options) else find_guest(options, progress)
    from trapgate.lab.bare import usual_handlers

    usual_handlers(progress)
    exact = guest.splitter is not None
    results = run_parallel(
        run_captured,
        [replace(options, technique=name) for name in techniques],
        jobs,
        lambda number, done: progress(f"running {techniques[number]}", int(done), int(done)),
    )
    return Comparison(options, _judged([_run(name, r) for name, r in zip(techniques, results, strict=True)], exact))


def run_captured(options: RunOptions) -> tuple[RunOutcome, bytes]:
    """One run, in a process of its own: how it ended, and its console."""
    console = CapturedConsole()
    outcome = run_guest(options, console)
    return outcome, bytes(console.data)


def _run(technique: str, result: Any) -> TechniqueRun:
    if isinstance(result, Failure):
        return TechniqueRun(technique, None, error=result.message, traceback=result.traceback)
    outcome, console = result
    return TechniqueRun(technique, outcome, console)


def _judged(runs: list[TechniqueRun], exact: bool) -> list[TechniqueRun]:
    """The runs, each held to the first that ended."""
    first = next((run for run in runs if run.outcome is not None), None)
    if first is None or first.outcome is None:
        return runs
    judged = []
    for run in runs:
        if run.outcome is not None and run is not first:
            lines = difference(first.console, run.console, exact)[:DIFFERENCE_LINES]
            ends = (first.outcome.reason, first.outcome.status), (run.outcome.reason, run.outcome.status)
            if ends[0] != ends[1]:
                lines.append(f"ended with {ends[1][0]}, status {ends[1][1]}; not {ends[0][0]}, status {ends[0][1]}")
            run = replace(run, difference=tuple(lines))
        judged.append(run)
    return judged
