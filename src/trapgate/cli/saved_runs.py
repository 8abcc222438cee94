"""The options of `trapgate run` that save a machine's state and go on from a saved one, record and replay."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from trapgate.cli.errors import CommandLineError
from trapgate.lab.options import RunOptions

if TYPE_CHECKING:
    from trapgate.lab.courses import Course
    from trapgate.machine.errors import MachineError

LoadVm = Annotated[str | None, typer.Option(metavar="FILE", help="Go on from the state in FILE, with its options.")]
SaveVm = Annotated[str | None, typer.Option(metavar="FILE", help="Save the machine's state to FILE.")]
SaveVmAt = Annotated[str | None, typer.Option(metavar="N", help="Save it after N instructions, not at the end.")]
Record = Annotated[str | None, typer.Option(metavar="FILE", help="Record all input to FILE.")]
Replay = Annotated[str | None, typer.Option(metavar="FILE", help="Repeat the run that FILE is a recording of.")]
#: Options that a run from a saved state may have of its own.
_OWN = ("max_instructions", "drives")


def choose_course(
    options: RunOptions,
    loadvm: str | None,
    savevm: str | None,
    savevm_at: str | None,
    record: str | None,
    replay: str | None,
) -> tuple[RunOptions, Course | None]:
    """Options of the run, a saved one's if it begins with one, and how it goes.

    Raises CommandLineError, RunError, SnapshotError, RecordingError.
    """
    if savevm_at is not None and savevm is None:
        raise CommandLineError("--savevm with --savevm-at", "no file to save to", "add --savevm FILE")
    named = {"--loadvm": loadvm, "--savevm": savevm, "--record": record, "--replay": replay}
    given = [name for name, value in named.items() if value is not None]
    if len(given) > 1 and given != ["--loadvm", "--savevm"]:
        raise CommandLineError(f"{given[0]} without {given[1]}", "both", "leave one of them out")
    if record is not None:
        return options, _recorded(options, record)
    if replay is not None:
        return _replayed(options, replay)
    return _saved(options, loadvm, savevm, savevm_at) if given else (options, None)


def _recorded(options: RunOptions, record: str) -> Course:
    from trapgate.cli import console
    from trapgate.lab.recordings import RecordedCourse

    console.check_writable("--record", record)
    return RecordedCourse(Path(record), options)


def _replayed(options: RunOptions, replay: str) -> tuple[RunOptions, Course]:
    from trapgate.lab.recordings import RecordingDamaged, ReplayedCourse, read_recording

    recording = read_recording(Path(replay))
    damaged = RecordingDamaged(Path(replay), "one without the options of its run")
    options = options_of_then(options, recording.start.get("options"), "--replay", damaged)
    return options, ReplayedCourse(recording)


def _saved(
    options: RunOptions, loadvm: str | None, savevm: str | None, savevm_at: str | None
) -> tuple[RunOptions, Course]:
    from trapgate.cli import console, sizes
    from trapgate.lab.courses import SavedCourse, Saving
    from trapgate.lab.snapshots import SnapshotDamaged, read

    saving = None
    if savevm is not None:
        console.check_writable("--savevm", savevm)
        saving = Saving(Path(savevm), None if savevm_at is None else sizes.parse_count(savevm_at, "--savevm-at"))
    loaded = None
    if loadvm is not None:
        loaded = read(Path(loadvm))
        damaged = SnapshotDamaged(Path(loadvm), "one without the options of its run")
        options = options_of_then(options, loaded.run.get("options"), "--loadvm", damaged)
    return options, SavedCourse(saving, loaded)


def options_of_then(given: RunOptions, plain: object, option: str, damaged: MachineError) -> RunOptions:
    """The options of a run of then, with those that are this run's own. Raises CommandLineError, or `damaged`."""
    from trapgate.lab.plain_options import from_plain

    try:
        saved = from_plain(RunOptions, plain)
    except ValueError as error:
        raise damaged from error
    # What was not given is as usual. A replayed run has nothing of its own.
    usual = RunOptions(guest=None if given.drives else RunOptions().guest)
    own = _OWN if option == "--loadvm" else ()
    for field in fields(RunOptions):
        value = getattr(given, field.name)
        if field.name not in own and value != getattr(usual, field.name) and value != getattr(saved, field.name):
            what = field.name.replace("_", " ")
            raise CommandLineError(f"with {option} the options of then", f"another {what}", "leave it out")
    if not own:
        return saved
    return replace(saved, max_instructions=given.max_instructions, drives=given.drives or saved.drives)
