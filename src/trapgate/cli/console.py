"""Opens what a run writes to: the serial console, the JSON file, and the progress display on stderr."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from trapgate.cli.errors import CannotWrite
from trapgate.cli.progress import ProgressDisplay
from trapgate.cli.terminal import ProcessConsole, descriptor

#: QEMU writes a file backend as file:PATH; both forms are taken.
FILE_PREFIX = "file:"


def check_writable(option: str, path: str) -> None:
    """Raise CannotWrite now, rather than after a long run, when no file can be written at `path`."""
    parent = Path(path).parent
    if not path or Path(path).is_dir():
        raise CannotWrite(option, path or "''", "a directory" if path else "no name")
    if not parent.is_dir():
        raise CannotWrite(option, path, f"no directory {parent}")
    if not os.access(path if Path(path).exists() else parent, os.W_OK):
        raise CannotWrite(option, path, "no permission")


def write_json(path: str, report: dict[str, object]) -> None:
    """Write `report` to `path`. Raises CannotWrite."""
    try:
        Path(path).write_text(json.dumps(report, indent=2) + "\n")
    except OSError as error:
        raise CannotWrite("--json", path, error.strerror or "an error") from error


@contextmanager
def open_console(serial: str, interactive: bool) -> Iterator[ProcessConsole]:
    """The console that --serial names. `interactive` False: standard input is not the guest's.

    The terminal is left alone until the console itself is entered.
    """
    if serial == "stdio":
        yield ProcessConsole(descriptor(sys.stdin) if interactive else None, descriptor(sys.stdout))
        return
    if serial == "none":
        yield ProcessConsole(None, None)
        return
    path = serial.removeprefix(FILE_PREFIX)
    check_writable("--serial", path)
    try:
        number = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)
    except OSError as error:
        raise CannotWrite("--serial", path, error.strerror or "an error") from error
    try:
        yield ProcessConsole(None, number)
    finally:
        os.close(number)


@contextmanager
def progress(console: ProcessConsole) -> Iterator[ProgressDisplay]:
    """A display of long preparations on stderr, taken away in the end."""
    display = ProgressDisplay(console, sys.stderr is not None and sys.stderr.isatty())
    try:
        yield display
    finally:
        display.close()
