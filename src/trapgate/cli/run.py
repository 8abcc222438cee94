"""`trapgate run`: parses, runs, prints. What a run is made of is lab/run.py's business."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer

from trapgate.arch.costs import DEFAULT_COSTS, FULL
from trapgate.cli.characters import Parallel, Serials, parse_characters, parse_serials
from trapgate.cli.debugging import Gdb, GdbAt1234, MonitorAt, Stopped, debug_options, prepare_debugging
from trapgate.cli.guest_options import CodeSize, Costs, takes_guest
from trapgate.cli.saved_runs import LoadVm, Record, Replay, SaveVm, SaveVmAt, choose_course
from trapgate.lab.options import BARE, RunOptions

if TYPE_CHECKING:
    from trapgate.api.backtrace import Symbols
    from trapgate.lab.run import RunOutcome


@takes_guest
def run(
    options: RunOptions,
    serial: Serials = None,
    parallel: Parallel = None,
    stats: Annotated[bool, typer.Option("--stats", help="Print what the run counted to stderr.")] = False,
    profile: Annotated[bool, typer.Option("--profile", help="Print where the run spent its time to stderr.")] = False,
    symbols: Annotated[str | None, typer.Option(metavar="FILE", help="Names for that, from an ELF file.")] = None,
    json: Annotated[str | None, typer.Option(metavar="FILE", help="Write the same to FILE as JSON.")] = None,
    max_instructions: Annotated[str | None, typer.Option(metavar="N", help="End the run after N instructions.")] = None,
    technique: Annotated[str, typer.Option(metavar="NAME", help="How it is virtualized: bare, nested ...")] = BARE,
    costs: Costs = DEFAULT_COSTS,
    loadvm: LoadVm = None,
    savevm: SaveVm = None,
    savevm_at: SaveVmAt = None,
    record: Record = None,
    replay: Replay = None,
    gdb: Gdb = None,
    gdb_1234: GdbAt1234 = False,
    stopped: Stopped = False,
    monitor: MonitorAt = None,
    model: Annotated[str, typer.Option(metavar="NAME", help="full, or none: no model of TLB, walks, caches.")] = FULL,
    tb_size: CodeSize = None,
) -> int:
    """Run a guest on the bare machine, or under a hypervisor."""
    first, second = parse_serials(serial)
    printer = None if parallel is None else parse_characters("--parallel", parallel)
    options = replace(options, technique=technique, costs=costs, model=model, serial2=second, parallel=printer)
    from trapgate.cli import console, sizes
    from trapgate.cli.ports import open_serial, say

    if max_instructions is not None:
        options = replace(options, max_instructions=sizes.parse_count(max_instructions))
    if tb_size is not None:
        options = replace(options, code_size=sizes.parse_code_size(tb_size))
    if json is not None:
        console.check_writable("--json", json)
    options, course = choose_course(options, loadvm, savevm, savevm_at, record, replay)
    names = _symbols(symbols)
    interactive = options.command is None and replay is None
    wanted = debug_options(gdb, gdb_1234, stopped, monitor, first if interactive else "none")
    with open_serial(first, options, interactive) as (owner, terminal, stdio), console.progress(owner) as show:
        from trapgate.lab.run import run_guest

        prepare = prepare_debugging(wanted, owner)
        outcome = run_guest(options, terminal, show, course=course, stdio=stdio, say=say, prepare=prepare)
    _report(outcome, stats, json)
    if profile or names is not None:
        from trapgate.cli.tables import print_profile

        print_profile(outcome, names)
    return outcome.status if terminal.quit_status is None else terminal.quit_status


def _symbols(path: str | None) -> Symbols | None:
    """The symbols of an ELF file, if one is named."""
    if path is None:
        return None
    from trapgate.api.backtrace import Symbols

    return Symbols(path)


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
