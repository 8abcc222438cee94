"""What a run needs of the console that the user sits at."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Protocol

from trapgate.lab.console_output import ConsoleSplitter
from trapgate.machine.console import ConsoleBackend

#: Called with a stage's name, how much of it is done, and how much there is in all (0 when that is not known).
ProgressCallback = Callable[[str, int, int], None]


class GuestConsole(ConsoleBackend, AbstractContextManager["GuestConsole"], Protocol):
    """Both directions of a serial console. Entered just before the guest's first instruction, left after its last."""

    #: Called when the user ends the run.
    on_quit: Callable[[], None]

    @property
    def has_input(self) -> bool:
        """False when nothing will ever come: there is no input, or it has ended."""

    @property
    def is_interactive(self) -> bool:
        """True when a person types."""

    def flush(self) -> None:
        """Show what was written so far."""

    def poll(self) -> bytes:
        """Bytes that have come since the last call; never waits."""

    def descriptors(self) -> Sequence[int]:
        """File descriptors that become readable when bytes have come."""


class ShownOnce:
    """Lets through to `console` what a guest sends, but not what it sends again: a debugger has put it back."""

    def __init__(self, console: ConsoleBackend, repeats: Callable[[], bool]) -> None:
        self._console = console
        self._repeats = repeats

    def write(self, data: bytes) -> None:
        """Take console bytes of the guest."""
        if not self._repeats():
            self._console.write(data)


class CommandOutput:
    """Lets through to `console` what the guest's command writes, and nothing else that the guest sends."""

    def __init__(self, console: ConsoleBackend, splitter: ConsoleSplitter) -> None:
        self._console = console
        self._splitter = splitter

    def write(self, data: bytes) -> None:
        """Take console bytes of the guest."""
        output = self._splitter.feed(data)
        if output:
            self._console.write(output)

    def finish(self) -> None:
        """The guest sends nothing more."""
        rest = self._splitter.finish()
        if rest:
            self._console.write(rest)
