"""`trapgate lockstep`: parses, runs, prints. What is compared is lab/lockstep.py's business."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

import typer

from trapgate.cli.errors import CommandLineError
from trapgate.cli.guest_options import CodeSize, refuse_devices, takes_guest
from trapgate.lab.options import RunOptions

SETTINGS = ("auto", "always")


class InvalidHot(CommandLineError):
    """--hot is no setting in which the hot tier runs."""

    def __init__(self, text: str) -> None:
        super().__init__(f"{' or '.join(SETTINGS)} after --hot", repr(text), "correct --hot")


@takes_guest
def lockstep(
    options: RunOptions,
    every: Annotated[str, typer.Option(metavar="N", help="Compare every N instructions; 1: at every block.")] = "10000",
    hot: Annotated[str, typer.Option(metavar="auto|always", help="When the second machine makes regions.")] = "auto",
    skip: Annotated[str | None, typer.Option(metavar="N", help="Compare only from N instructions on.")] = None,
    max_instructions: Annotated[str | None, typer.Option(metavar="N", help="End after N instructions.")] = None,
    tb_size: CodeSize = None,
) -> int:
    """Run a guest with the hot tier and without it, side by side, and compare everything as they go."""
    import sys

    from trapgate.cli import console, sizes, status

    refuse_devices(options, "lockstep")
    if hot not in SETTINGS:
        raise InvalidHot(hot)
    stride = sizes.parse_count(every, "--every")
    first = 0 if skip is None else sizes.parse_count(skip, "--skip")
    if max_instructions is not None:
        options = replace(options, max_instructions=sizes.parse_count(max_instructions))
    if tb_size is not None:
        options = replace(options, code_size=sizes.parse_code_size(tb_size))
    with console.open_console("none", False) as nobody, console.progress(nobody) as show:
        from trapgate.lab.lockstep import run_lockstep

        result = run_lockstep(options, hot, stride, first, show)
    print(
        f"{result.description}: {result.instructions} instructions, {result.cycles} cycles, "
        f"{result.comparisons} comparisons, {result.installed} regions ({result.dropped} dropped), end: {result.end}"
    )
    if result.difference:
        print(f"trapgate: {result.difference}", file=sys.stderr)
        return status.DIFFERENT
    return status.SUCCESS
