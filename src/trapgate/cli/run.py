"""`trapgate run`: parses, runs, prints. What a run is made of is lab/run.py's business."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from trapgate.lab.run import RunOutcome

EPILOG = (
    "GUEST: nothing for the embedded guest, 'debian' for Debian's kernel with busybox (fetched through apt), or the "
    "path of an image: Linux bzImage, multiboot kernel, ELF kernel with a PVH entry, or boot sector. "
    "After --: a command for 'debian' to run instead of its shell. "
    "Keys on a terminal: Ctrl-A X ends the run, Ctrl-A H shows help, Ctrl-A Ctrl-A sends Ctrl-A."
)


def run(
    context: typer.Context,
    guest: Annotated[str | None, typer.Argument(metavar="GUEST", help="See below; its command comes after --.")] = None,
    kernel: Annotated[str | None, typer.Option(metavar="FILE", help="Boot this kernel.")] = None,
    initrd: Annotated[str | None, typer.Option(metavar="FILE", help="Initial RAM disk, or multiboot module.")] = None,
    append: Annotated[str | None, typer.Option(metavar="TEXT", help="Kernel command line.")] = None,
    memory: Annotated[str, typer.Option("--memory", "-m", metavar="SIZE", help="RAM: 256M, 1G, 512 (MB).")] = "256M",
    cpu: Annotated[str, typer.Option(metavar="NAME", help="Processor profile.")] = "opteron-2007",
    serial: Annotated[str, typer.Option(metavar="stdio|FILE|none", help="Where COM1 goes.")] = "stdio",
    stats: Annotated[bool, typer.Option("--stats", help="Print what the run counted to stderr.")] = False,
    json: Annotated[str | None, typer.Option(metavar="FILE", help="Write the same to FILE as JSON.")] = None,
    max_instructions: Annotated[str | None, typer.Option(metavar="N", help="End the run after N instructions.")] = None,
) -> int:
    """Run a guest on the bare machine."""
    from pathlib import Path

    from trapgate.cli import console, sizes
    from trapgate.lab.options import EMBEDDED, RunOptions

    options = RunOptions(
        guest=guest if guest is not None or kernel is not None else EMBEDDED,
        kernel=None if kernel is None else Path(kernel),
        initrd=None if initrd is None else Path(initrd),
        append=append,
        memory_size=sizes.parse_memory(memory),
        processor=cpu,
        max_instructions=None if max_instructions is None else sizes.parse_count(max_instructions),
        command=context.obj,
    )
    if json is not None:
        console.check_writable("--json", json)
    interactive = options.command is None
    with console.open_console(serial, interactive) as terminal, console.progress(terminal) as show:
        from trapgate.lab.run import run_guest

        outcome = run_guest(options, terminal, show)
    _report(outcome, stats, json)
    return outcome.status if terminal.quit_status is None else terminal.quit_status


def _report(outcome: RunOutcome, stats: bool, json: str | None) -> None:
    """Print what is to be said about the end, the statistics, and write the JSON file."""
    import sys

    if outcome.message:
        print(outcome.message, file=sys.stderr)
    if stats:
        from trapgate.cli.tables import print_statistics

        print_statistics(outcome)
    if json is not None:
        from trapgate.cli.console import write_json
        from trapgate.lab.report import json_report

        write_json(json, json_report(outcome))
