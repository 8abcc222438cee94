"""`trapgate compare`: parses, runs, prints. What is compared is lab/compare.py's business."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer

from trapgate.arch.costs import DEFAULT_COSTS
from trapgate.cli.guest_options import Costs, takes_guest
from trapgate.lab.options import RunOptions

if TYPE_CHECKING:
    from trapgate.lab.compare import Comparison
    from trapgate.lab.io_compare import IoComparison


@takes_guest
def compare(
    options: RunOptions,
    techniques: Annotated[str | None, typer.Option(metavar="A,B,...", help="Which; all by default.")] = None,
    io: Annotated[
        str | None, typer.Option(metavar="A,B,...", help="Compare kinds of devices: emulated, paravirtual.")
    ] = None,
    units: Annotated[str, typer.Option(metavar="N", help="With --io: frames, blocks and lines of each kind.")] = "1000",
    costs: Costs = DEFAULT_COSTS,
    jobs: Annotated[str, typer.Option("--jobs", "-j", metavar="N", help="How many run at a time.")] = "2",
    json: Annotated[str | None, typer.Option(metavar="FILE", help="Write everything counted to FILE.")] = None,
    csv: Annotated[str | None, typer.Option(metavar="FILE", help="Write the table to FILE.")] = None,
    max_instructions: Annotated[str | None, typer.Option(metavar="N", help="End each run after N.")] = None,
) -> int:
    """Run a guest under each technique, and show what each costs."""
    from trapgate.cli import console, sizes, status

    options = replace(options, costs=costs)
    if max_instructions is not None:
        options = replace(options, max_instructions=sizes.parse_count(max_instructions))
    for option, path in (("--json", json), ("--csv", csv)):
        if path is not None:
            console.check_writable(option, path)
    at_once = sizes.parse_jobs(jobs)
    with console.open_console("none", False) as nobody, console.progress(nobody) as show:
        from trapgate.lab import compare as lab

        names = lab.possible_techniques(options.processor) if techniques is None else tuple(techniques.split(","))
        if io is not None:
            from trapgate.lab.io_compare import compare_io

            found = compare_io(options, names, io.split(","), sizes.parse_units(units), at_once, show)
            return _report_io(found, json, csv)
        comparison = lab.compare(options, names, at_once, show)
    _report(comparison, json, csv)
    return status.SUCCESS if comparison.same else status.DIFFERENT


def _report_io(comparison: IoComparison, json: str | None, csv: str | None) -> int:
    """Print the table and what is wrong, and write the files; the exit status."""
    import sys

    from trapgate.cli import status
    from trapgate.cli.console import write_json
    from trapgate.cli.io_tables import print_io, write_io_csv

    print_io(comparison)
    for run in comparison.runs:
        if run.error:
            print(f"trapgate: {run.technique} {run.io}: {run.error}", file=sys.stderr)
            print(run.traceback, file=sys.stderr, end="")
    if json is not None:
        write_json(json, comparison.report())
    if csv is not None:
        write_io_csv(csv, comparison)
    return status.SUCCESS if comparison.complete else status.DIFFERENT


def _report(comparison: Comparison, json: str | None, csv: str | None) -> None:
    """Print the table and what is wrong, and write the files."""
    import sys

    from trapgate.cli.compare_tables import print_comparison, write_csv
    from trapgate.cli.console import write_json

    print_comparison(comparison)
    for run in comparison.runs:
        if run.outcome is None:
            print(f"trapgate: {run.technique}: {run.error}", file=sys.stderr)
            print(run.traceback, file=sys.stderr, end="")
        elif run.difference:
            first = comparison.ended[0].technique
            print(f"trapgate: the guest's console differs under {first} and {run.technique}:", file=sys.stderr)
            print("\n".join(run.difference), file=sys.stderr)
    if json is not None:
        write_json(json, comparison.report())
    if csv is not None:
        write_csv(csv, comparison)
