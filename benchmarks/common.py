"""Timing of whole processes, side by side."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

TRAPGATE = [str(Path(sys.executable).with_name("trapgate"))]
QEMU = shutil.which("qemu-system-x86_64")


def parser(description: str, runs: int) -> argparse.ArgumentParser:
    """The options that every benchmark has."""
    options = argparse.ArgumentParser(description=description)
    options.add_argument("--runs", type=int, default=runs, help=f"runs of each, in turn (default {runs})")
    options.add_argument("--json", type=Path, help="write every run's figures to this file")
    return options


def cpu_seconds(command: Sequence[str], environment: Mapping[str, str] | None = None) -> tuple[float, int]:
    """(CPU seconds of the finished process, its peak memory in KB); its output is thrown away."""
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, **(environment or {})},
    )
    _, _, usage = os.wait4(process.pid, 0)
    return usage.ru_utime + usage.ru_stime, usage.ru_maxrss


def in_turn(commands: Mapping[str, Sequence[str]], runs: int, warmup: int = 1) -> dict[str, list[float]]:
    """CPU seconds of every run of every command, the commands in turn; the first turns are not counted."""
    times: dict[str, list[float]] = {name: [] for name in commands}
    for turn in range(-warmup, runs):
        for name, command in commands.items():
            seconds, _ = cpu_seconds(command)
            if turn >= 0:
                times[name].append(seconds)
    return times


def report(title: str, rows: Mapping[str, Mapping[str, list[float]]], path: Path | None) -> None:
    """A table: median CPU seconds of each and the ratio of trapgate to QEMU, pair by pair."""
    table = Table(title=title)
    for column in ("work", "trapgate, s", "QEMU, s", "ratio"):
        table.add_column(column, justify="left" if column == "work" else "right")
    ratios = []
    for work, times in rows.items():
        ours = statistics.median(times["trapgate"])
        cells = [work, f"{ours:.2f}", "not installed", ""]
        if times.get("qemu"):
            pairs = [a / b for a, b in zip(times["trapgate"], times["qemu"], strict=True)]
            ratio = statistics.median(pairs)
            ratios.append(ratio)
            cells[2:] = [f"{statistics.median(times['qemu']):.2f}", f"{ratio:.2f}"]
        table.add_row(*cells)
    if len(ratios) > 1:
        table.add_row("geometric mean", "", "", f"{statistics.geometric_mean(ratios):.2f}")
    Console().print(table)
    if path is not None:
        path.write_text(json.dumps(rows, indent=2) + "\n")
