"""What is typed at a run's console, as a source of a machine's input."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from trapgate.lab.console import GuestConsole
from trapgate.machine.outside import TYPING_PERIOD, Deliver


class Typed(Protocol):
    """A machine to which somebody types."""

    @property
    def listens(self) -> bool:
        """Whether the guest has shown that it takes input."""


class ConsoleInput:
    """What is typed at `console`, for `deliver`; `refresh` shows what the guest's screen has, before each look."""

    period = TYPING_PERIOD

    def __init__(self, machine: Typed, console: GuestConsole, refresh: Callable[[], None], deliver: Deliver) -> None:
        self._machine, self._console, self._refresh, self._deliver = machine, console, refresh, deliver

    @property
    def listens(self) -> bool:
        """True when input may come and is wanted.

        The bytes of a pipe or file wait until the guest listens, or its drivers would clear them away at boot.
        """
        return self._console.has_input and (self._console.is_interactive or self._machine.listens)

    def descriptors(self) -> Sequence[int]:
        """The console's."""
        return self._console.descriptors()

    def timeout(self) -> float | None:
        """None: what is typed makes its descriptor readable."""
        return None

    def poll(self) -> None:
        """Show what was sent, and take what was typed."""
        self._refresh()
        if not self.listens:
            self._console.flush()
            return
        data = self._console.poll()
        if data:
            self._deliver(data)
