"""The console of a run whose serial ports are somewhere else than on standard input and output."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Self

from trapgate.cli.characters import parse_characters
from trapgate.cli.console import open_console
from trapgate.cli.terminal import ProcessConsole, descriptor
from trapgate.lab.characters.backend import CharacterBackend, NoCharacters
from trapgate.lab.characters.opening import open_characters
from trapgate.lab.options import CharacterOptions, RunOptions

#: Keys that are kept for a port whose guest does not listen yet.
MOST_KEPT = 1 << 16


class Stdio(NoCharacters):
    """Standard input and output behind another port than COM1. The keys of the console work all the time."""

    def __init__(self, owner: ProcessConsole) -> None:
        self._owner = owner
        self._kept = b""
        self.write = owner.write  # type: ignore[method-assign]
        self.descriptors = owner.descriptors  # type: ignore[method-assign]

    @property
    def has_input(self) -> bool:  # type: ignore[override]
        """Until its end."""
        return self._owner.has_input

    def flush(self) -> None:
        """Show what was written; what a person types meanwhile is kept."""
        self._owner.flush()
        if self._owner.is_interactive and len(self._kept) < MOST_KEPT:
            self._kept += self._owner.poll()

    def poll(self) -> bytes:
        """What was typed."""
        kept, self._kept = self._kept, b""
        return kept + self._owner.poll()


class RoutedConsole:
    """COM1 on `backend`; `owner` has the signals, and the terminal if a port uses it."""

    is_interactive = False

    def __init__(self, owner: ProcessConsole, backend: CharacterBackend) -> None:
        self._owner, self._backend = owner, backend
        self.write = backend.write
        self.poll = backend.poll
        self.descriptors = backend.descriptors

    @property
    def on_quit(self) -> Callable[[], None]:
        """Called when the user ends the run."""
        return self._owner.on_quit

    @on_quit.setter
    def on_quit(self, value: Callable[[], None]) -> None:
        self._owner.on_quit = value

    @property
    def quit_status(self) -> int | None:
        """The exit status that the user's end has."""
        return self._owner.quit_status

    @property
    def has_input(self) -> bool:
        """The back end's."""
        return self._backend.has_input

    def flush(self) -> None:
        """Send what was written so far."""
        self._backend.flush()

    def __enter__(self) -> Self:
        self._owner.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._backend.flush()
        finally:
            self._owner.__exit__(kind, value, trace)


@contextmanager
def open_serial(
    first: str, options: RunOptions, interactive: bool
) -> Iterator[tuple[ProcessConsole, ProcessConsole | RoutedConsole, CharacterBackend | None]]:
    """Who owns the terminal, the console that COM1 is, and standard input and output for another port."""
    others = (options.serial2, options.parallel, *(port.backend for port in options.virtio_ports))
    wants_stdio = any(other is not None and other.kind == "stdio" for other in others)
    is_stream = first == "pty" or first.startswith(("tcp:", "unix:"))
    if first == "stdio" or not (is_stream or wants_stdio):
        with open_console("none" if first == "null" else first, interactive) as console:
            yield console, console, None
        return
    owner = ProcessConsole(descriptor(sys.stdin), descriptor(sys.stdout)) if wants_stdio else ProcessConsole(None, None)
    which = parse_characters("--serial", first) or CharacterOptions(kind="null")
    backend = open_characters(which, "COM1", say)
    try:
        yield owner, RoutedConsole(owner, backend), Stdio(owner) if wants_stdio else None
    finally:
        backend.close()


def say(text: str) -> None:
    """Tell the user where a port is."""
    print(text, file=sys.stderr, flush=True)
