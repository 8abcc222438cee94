"""`trapgate bench`: loops of the `bench` image, timed as whole processes, with other emulators in turn.

Every time is CPU time, the children's and the background's included. Runs are interleaved: each turn runs every work
on every emulator once, so that a busy host is as busy for all. A first turn that nobody counts warms caches up.
"""

from __future__ import annotations

import json
import re
import statistics
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from trapgate import guests
from trapgate.lab.bench_peers import COUNTS, TRAPGATE, Peer, Timed, run_timed
from trapgate.lab.bench_works import START, Work
from trapgate.lab.errors import WorkNotDone

#: Called with what is being measured, how many runs are done, and how many there are.
Progress = Callable[[str, int, int], None]
Runner = Callable[[Sequence[str]], Timed]


@dataclass(frozen=True, slots=True)
class Row:
    """What came of one work: CPU seconds of each emulator's runs, in the order of the turns."""

    work: Work
    turns: int
    seconds: Mapping[str, list[float]]

    def median(self, peer: str) -> float:
        """Median CPU seconds of a run."""
        return statistics.median(self.seconds[peer])

    def ratio(self, peer: str) -> float:
        """trapgate's CPU time to another's, whole processes: the median over the pairs of runs of one turn."""
        pairs = zip(self.seconds[TRAPGATE.name], self.seconds[peer], strict=True)
        return statistics.median(ours / theirs for ours, theirs in pairs)


@dataclass(frozen=True, slots=True)
class Bench:
    """All that was measured. `instructions` are the guest's in a run of each work, as trapgate counted them."""

    start: Row
    rows: tuple[Row, ...]
    instructions: Mapping[str, int] = field(default_factory=dict)

    def each(self, row: Row, peer: str) -> float | None:
        """Nanoseconds of one operation, without start-up; None when start-up took as long."""
        net = row.median(peer) - self.start.median(peer)
        return net / row.turns * 1e9 if net > 0 else None

    def mips(self, row: Row, peer: str) -> float | None:
        """Millions of guest instructions for each CPU second, without start-up."""
        each, instructions = self.each(row, peer), self._instructions_each(row)
        return None if each is None or instructions is None else instructions / each * 1e3

    def _instructions_each(self, row: Row) -> float | None:
        """Guest instructions of one operation."""
        counted, of_start = self.instructions.get(row.work.name), self.instructions.get(START.name)
        return None if counted is None or of_start is None else (counted - of_start) / row.turns

    def net_ratio(self, row: Row, peer: str) -> float | None:
        """trapgate's time of one operation to another's, without start-up."""
        ours, theirs = self.each(row, TRAPGATE.name), self.each(row, peer)
        return None if ours is None or theirs is None else ours / theirs

    def report(self) -> dict[str, object]:
        """Everything, for --json."""
        return {"start": self._describe(self.start), "works": [self._describe(row) for row in self.rows]}

    def _describe(self, row: Row) -> dict[str, object]:
        others = [peer for peer in row.seconds if peer != TRAPGATE.name]
        figures: dict[str, object] = {
            "name": row.work.name, "group": row.work.group, "operation": row.work.what, "turns": row.turns,
            "instructions": self.instructions.get(row.work.name),
            "cpu_seconds": dict(row.seconds),
            "median_cpu_seconds": {peer: row.median(peer) for peer in row.seconds},
            "ratio": {peer: row.ratio(peer) for peer in others},
        }  # fmt: skip
        if row is not self.start:
            figures["instructions_each"] = self._instructions_each(row)
            figures["nanoseconds_each"] = {peer: self.each(row, peer) for peer in row.seconds}
            figures["net_ratio"] = {peer: self.net_ratio(row, peer) for peer in others}
            figures["mips"] = {peer: self.mips(row, peer) for peer in row.seconds}
        return figures


class _Line:
    """What every run of a work must print: one line, the same on all emulators."""

    def __init__(self, name: str, turns: int) -> None:
        self.command = f"bench={name} n={turns}"
        self._pattern = re.compile(rb"bench=%b n=%d checksum=\w+" % (name.encode(), turns))
        self._line: bytes | None = None

    def check(self, peer: Peer, run: Timed) -> None:
        """Raise WorkNotDone unless the run did the work."""
        found = self._pattern.findall(run.output)
        if run.status != peer.success or not found:
            last = run.output[-300:].decode(errors="replace").strip().replace("\n", " | ")
            raise WorkNotDone(peer.name, f"the line of {self.command!r}", f"status {run.status} and {last!r}")
        if self._line is None:
            self._line = found[-1]
        elif self._line != found[-1]:
            raise WorkNotDone(peer.name, repr(self._line.decode()), repr(found[-1].decode()))


def _ignore(what: str, done: int, total: int) -> None:
    pass


def _instructions(work: Work, image: Path) -> dict[str, int]:
    """What trapgate's last run counted, if it has left that."""
    try:
        return {work.name: int(json.loads(image.with_name(COUNTS).read_text())["instructions"])}
    except FileNotFoundError:
        return {}


def measure(
    works: Sequence[Work],
    peers: Sequence[Peer],
    runs: int,
    percent: int = 100,
    progress: Progress = _ignore,
    run: Runner = run_timed,
) -> Bench:
    """Run every work on trapgate and the other emulators, `runs` times and once more before. Raises WorkNotDone.

    `percent`: of the usual numbers of turns.
    """
    emulators = (TRAPGATE, *peers)
    all_works = (START, *works)
    turns = {work.name: work.turns if work is START else max(work.turns * percent // 100, 1) for work in all_works}
    lines = {work.name: _Line(work.name, turns[work.name]) for work in all_works}
    seconds: dict[str, dict[str, list[float]]] = {w.name: {p.name: [] for p in emulators} for w in all_works}
    counted: dict[str, int] = {}
    done, total = 0, (runs + 1) * len(all_works) * len(emulators)
    with tempfile.TemporaryDirectory() as folder:
        image = Path(folder) / "bench"
        image.write_bytes(guests.image("bench"))
        for turn in range(-1, runs):
            for work in all_works:
                for peer in emulators:
                    progress(f"{work.name} on {peer.name}", done, total)
                    result = run(peer.command(image, lines[work.name].command))
                    lines[work.name].check(peer, result)
                    done += 1
                    if peer is TRAPGATE:
                        counted |= _instructions(work, image)
                    if turn >= 0:
                        seconds[work.name][peer.name].append(result.seconds)
    progress("", total, total)
    rows = tuple(Row(work, turns[work.name], seconds[work.name]) for work in works)
    return Bench(Row(START, turns[START.name], seconds[START.name]), rows, counted)
