"""The options of `trapgate run` that save a machine's state, and that go on from a saved one."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from trapgate.cli.errors import CommandLineError
from trapgate.lab.options import RunOptions

if TYPE_CHECKING:
    from trapgate.lab.courses import Course

LoadVm = Annotated[str | None, typer.Option(metavar="FILE", help="Go on from the state in FILE, with its options.")]
SaveVm = Annotated[str | None, typer.Option(metavar="FILE", help="Save the machine's state to FILE.")]
SaveVmAt = Annotated[str | None, typer.Option(metavar="N", help="Save it after N instructions, not at the end.")]
#: Options that a run from a saved state may have of its own.
_OWN = ("max_instructions", "drives")


def choose_course(
    options: RunOptions, loadvm: str | None, savevm: str | None, savevm_at: str | None
) -> tuple[RunOptions, Course | None]:
    """Options of the run, a saved state's if it has one, and how it goes. Raises CommandLineError, SnapshotError."""
    if savevm_at is not None and savevm is None:
        raise CommandLineError("--savevm with --savevm-at", "no file to save to", "add --savevm FILE")
    if loadvm is None and savevm is None:
        return options, None
    from trapgate.cli import console, sizes
    from trapgate.lab.courses import SavedCourse, Saving
    from trapgate.lab.snapshots import read

    saving = None
    if savevm is not None:
        console.check_writable("--savevm", savevm)
        saving = Saving(Path(savevm), None if savevm_at is None else sizes.parse_count(savevm_at, "--savevm-at"))
    loaded = None
    if loadvm is not None:
        loaded = read(Path(loadvm))
        options = loaded_options(options, loaded.run.get("options"), loadvm)
    return options, SavedCourse(saving, loaded)


def loaded_options(given: RunOptions, plain: object, path: str) -> RunOptions:
    """The options of a saved run, with those that are this run's own. Raises CommandLineError, SnapshotDamaged."""
    from trapgate.lab.plain_options import from_plain
    from trapgate.lab.snapshots import SnapshotDamaged

    try:
        saved = from_plain(RunOptions, plain)
    except ValueError as error:
        raise SnapshotDamaged(Path(path), "one without the options of its run") from error
    usual = RunOptions(guest=None if given.drives else RunOptions().guest)
    for field in fields(RunOptions):
        value = getattr(given, field.name)
        if field.name not in _OWN and value != getattr(usual, field.name) and value != getattr(saved, field.name):
            what = field.name.replace("_", " ")
            raise CommandLineError("with --loadvm the options of the saved run", f"another {what}", "leave it out")
    own = {"max_instructions": given.max_instructions, "drives": given.drives or saved.drives}
    return replace(saved, **own)  # type: ignore[arg-type]
