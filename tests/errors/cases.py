"""A case is one way to an error, with its class and its whole text; a recorder notes what a case has really made."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from trapgate.cli.errors import CommandLineError
from trapgate.cli.main import run_command
from trapgate.cpu.faults import Unimplemented
from trapgate.machine.errors import MachineError
from trapgate.vmm.errors import VmmError
from trapgate.vmm.memory.errors import VmmMemoryError

from .sites import PACKAGE

ROOTS = (MachineError, CommandLineError, Unimplemented, VmmError, VmmMemoryError)
ORIGIN = 0x7C00


@dataclass
class World:
    """What an action may use. The working directory is an empty folder."""

    folder: Path
    monkeypatch: pytest.MonkeyPatch

    def write(self, name: str, data: bytes) -> Path:
        """A file in the working directory, named as the user would name it."""
        (self.folder / name).write_bytes(data)
        return Path(name)

    def cli(self, *arguments: str) -> None:
        """`trapgate ARGUMENTS`; its error is recorded where it is made."""
        run_command(list(arguments))

    def machine(self, code: str = "31 db 43 eb fd", cpu: str = "opteron-2007"):  # type: ignore[no-untyped-def]
        """A machine that is about to run some 16-bit code: by default a loop that counts bx up."""
        from trapgate import Machine

        machine = Machine("1M", cpu)
        machine.boot(image=bytes.fromhex(code), address=ORIGIN)
        return machine


@dataclass(frozen=True)
class Case:
    """`action` makes an error of the class `kind` with the text `text`."""

    kind: str
    text: str
    action: Callable[[World], object]


CASES: list[Case] = []


def case(kind: type[Exception], text: str, action: Callable[[World], object]) -> None:
    """Add a case."""
    CASES.append(Case(kind.__name__, text, action))


@dataclass(frozen=True)
class Made:
    """An error that was made: where, and what it says."""

    file: str
    line: int
    error: Exception
    text: str


@contextmanager
def recorder() -> Iterator[list[Made]]:
    """Notes every error for the user that is made meanwhile, whether it is raised, caught or returned."""
    made: list[Made] = []
    originals = [(root, root.__dict__.get("__init__")) for root in ROOTS]

    def note(error: Exception) -> None:
        frame = sys._getframe(2)
        while frame.f_locals.get("self") is error and frame.f_back is not None:
            frame = frame.f_back
        path = Path(frame.f_code.co_filename)
        if path.is_relative_to(PACKAGE):
            made.append(Made(str(path.relative_to(PACKAGE)), frame.f_lineno, error, str(error)))

    def recording(root: type[Exception], original: Callable[..., None] | None) -> Callable[..., None]:
        def __init__(self: Exception, *arguments: object) -> None:
            if original is None:
                super(root, self).__init__(*arguments)
            else:
                original(self, *arguments)
            note(self)

        return __init__

    try:
        for root, original in originals:
            root.__init__ = recording(root, original)  # type: ignore[method-assign]
        yield made
    finally:
        for root, original in originals:
            if original is None:
                del root.__init__
            else:
                root.__init__ = original  # type: ignore[method-assign]
