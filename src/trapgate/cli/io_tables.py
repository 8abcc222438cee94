"""What `trapgate compare --io` prints and writes as CSV: one line for each technique, devices and work."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

from trapgate.cli.errors import CannotWrite
from trapgate.lab.io_compare import UNITS, WORKS, IoComparison, WorkCost

#: Titles of the columns, and what is in them.
COLUMNS: tuple[tuple[str, Callable[[WorkCost], str]], ...] = (
    ("accesses", lambda work: f"{work.accesses:,.1f}"),
    ("exits", lambda work: f"{work.exits:,.1f}"),
    ("cycles", lambda work: f"{work.cycles:,.0f}"),
    ("cycles/byte", lambda work: f"{work.cycles_per_byte:,.1f}"),
    ("switches", lambda work: f"{100 * work.switch_share:.0f}%"),
    ("MB/s modelled", lambda work: f"{work.modelled_rate / 1e6:,.1f}"),
    ("MB/s host", lambda work: f"{work.host_rate / 1e6:,.2f}"),
)
NAMES = ("work", "per", "technique", "devices")


def _rows(comparison: IoComparison) -> list[tuple[str, ...]]:
    rows = []
    for name in WORKS:
        for run in comparison.runs:
            for work in run.works:
                if work.work == name:
                    cells = (value(work) for _, value in COLUMNS)
                    rows.append((name, UNITS[name], run.technique, run.io, *cells))
    return rows


def print_io(comparison: IoComparison) -> None:
    """Print the table to stdout."""
    options = comparison.options
    print(f"{comparison.description}, processor {options.processor}, costs {options.costs}")
    rows = [(*NAMES, *(title for title, _ in COLUMNS)), *_rows(comparison)]
    widths = [max(len(row[place]) for row in rows) for place in range(len(rows[0]))]
    before = ""
    for row in rows:
        if row[0] != before:
            print()
            before = row[0]
        left = "  ".join(cell.ljust(width) for cell, width in zip(row[:4], widths[:4], strict=True))
        right = "  ".join(cell.rjust(width) for cell, width in zip(row[4:], widths[4:], strict=True))
        print(f"{left}  {right}".rstrip())


def write_io_csv(path: str, comparison: IoComparison) -> None:
    """Write one line for each figure: technique, devices, work, name, value. Raises CannotWrite."""
    try:
        with Path(path).open("w", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(("technique", "devices", "work", "name", "value"))
            for run in comparison.runs:
                for work in run.works:
                    for name, value in work.report().items():
                        if name != "host":
                            writer.writerow((run.technique, run.io, work.work, name, value))
    except OSError as error:
        raise CannotWrite("--csv", path, error.strerror or "an error") from error
