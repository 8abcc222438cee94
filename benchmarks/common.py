"""Timing of whole processes, side by side."""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from rich.console import Console
from rich.table import Table

TRAPGATE = [str(Path(sys.executable).with_name("trapgate"))]
QEMU = shutil.which("qemu-system-x86_64")
CONSOLE = Console()


@dataclass(frozen=True)
class Run:
    """One process that has ended: CPU seconds (user and system, its children included), peak memory in KB."""

    seconds: float
    memory: int
    status: int
    output: bytes


class BenchmarkFailed(SystemExit):
    """A process did not do the work: its time means nothing."""

    def __init__(self, command: Sequence[str], wanted: str, run: Run) -> None:
        last = run.output[-500:].decode(errors="replace")
        super().__init__(f"{' '.join(command)}\nwanted {wanted}, got status {run.status} and the output\n{last}")


def parser(description: str, runs: int) -> argparse.ArgumentParser:
    """The options that every benchmark has."""
    options = argparse.ArgumentParser(description=description)
    options.add_argument("--runs", type=int, default=runs, help=f"runs of each, in turn (default {runs})")
    options.add_argument("--json", type=Path, help="write every run's figures to this file")
    return options


def run(command: Sequence[str], environment: Mapping[str, str] | None = None) -> Run:
    """Run a process to its end."""
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, **(environment or {})},
        )
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        output.seek(0)
        return Run(usage.ru_utime + usage.ru_stime, usage.ru_maxrss, process.returncode, output.read())


Name = TypeVar("Name")
#: Says what a run should have been, or None when it was that.
Check = Callable[[Run], str | None]


def in_turn(
    commands: Mapping[Name, Sequence[str]],
    runs: int,
    check: Check,
    warmup: int = 1,
    before: Callable[[], None] = lambda: None,
) -> dict[Name, list[float]]:
    """CPU seconds of every run of every command, the commands in turn; the first turns are not counted. `before` is
    called before each run."""
    times: dict[Name, list[float]] = {name: [] for name in commands}
    for turn in range(-warmup, runs):
        for name, command in commands.items():
            before()
            done = run(command)
            wanted = check(done)
            if wanted is not None:
                raise BenchmarkFailed(command, wanted, done)
            if turn >= 0:
                times[name].append(done.seconds)
    return times


def qemu(kernel: Path, initramfs: Path, *options: str) -> list[str]:
    """The command that boots a kernel as `trapgate run debian` does, on QEMU's TCG; `options` are more of QEMU's."""
    return [
        QEMU or "", "-accel", "tcg", "-M", "pc", "-m", "256", "-nographic", "-no-reboot", "-vga", "none",
        *(options or ("-net", "none")), "-kernel", str(kernel), "-initrd", str(initramfs), "-append", "console=ttyS0",
    ]  # fmt: skip


def quiet() -> bool:
    """Whether nothing else seems to run on this machine; says so when not."""
    load = os.getloadavg()[0]
    if load > 0.5:
        CONSOLE.print(f"The machine is not quiet (load {load:.2f}): what follows is preliminary.", style="yellow")
    return load <= 0.5


def summary(times: Mapping[str, list[float]]) -> dict[str, float]:
    """Medians, and the median ratio of trapgate to QEMU, pair by pair."""
    medians = {name: round(statistics.median(values), 3) for name, values in times.items()}
    if "qemu" in times:
        pairs = [a / b for a, b in zip(times["trapgate"], times["qemu"], strict=True)]
        medians["ratio"] = round(statistics.median(pairs), 3)
    return medians


def report(title: str, rows: Mapping[str, Mapping[str, list[float]]], path: Path | None, is_quiet: bool) -> None:
    """A table: median CPU seconds of each and the ratio of trapgate to QEMU."""
    table = Table(title=title)
    for column in ("work", "trapgate, s", "QEMU, s", "ratio"):
        table.add_column(column, justify="left" if column == "work" else "right")
    summaries = {work: summary(times) for work, times in rows.items()}
    for work, medians in summaries.items():
        other = f"{medians['qemu']:.2f}" if "qemu" in medians else "not installed"
        table.add_row(
            work, f"{medians['trapgate']:.2f}", other, f"{medians['ratio']:.2f}" if "ratio" in medians else ""
        )
    ratios = [medians["ratio"] for medians in summaries.values() if "ratio" in medians]
    if len(ratios) > 1:
        table.add_row("geometric mean", "", "", f"{statistics.geometric_mean(ratios):.2f}")
    CONSOLE.print(table)
    write_json(path, {"quiet": is_quiet, "median_cpu_seconds": summaries, "cpu_seconds": rows})


def write_json(path: Path | None, figures: Mapping[str, object]) -> None:
    """Keep figures with what they were measured on."""
    if path is not None:
        host = {"processor": processor(), "cores": os.cpu_count(), "python": platform.python_version()}
        path.write_text(json.dumps({"host": host, **figures}, indent=2) + "\n")


def processor() -> str:
    """The host processor's name."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())
