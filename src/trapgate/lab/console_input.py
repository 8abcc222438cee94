"""Hands what is typed to a guest, at the pace of its modelled time, and lets it sleep meanwhile."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol

from trapgate.lab.console import GuestConsole
from trapgate.machine.clock import Clock
from trapgate.machine.control import RunControl

#: Modelled cycles between two looks at the console: 10 ms of the guest's time at 2 GHz.
POLL_PERIOD = 20_000_000
#: Seconds: for a shorter sleep of the guest no system call is made.
SHORTEST_WAIT = 0.0005
#: Seconds: after a longer wait for input, look whether the run is to end.
LONGEST_WAIT = 0.1


class Typed(Protocol):
    """A machine to which somebody types."""

    control: RunControl

    @property
    def clock(self) -> Clock:
        """Its modelled time."""

    @property
    def listens(self) -> bool:
        """Whether the guest has shown that it takes input."""

    def receive(self, data: bytes) -> None:
        """Take what was typed."""


class ConsoleInput:
    """Connects `console` to `machine`. `idle` is to be called when the guest's processor sleeps; `refresh` shows what
    the guest's screen has, before each look at the console."""

    def __init__(self, machine: Typed, console: GuestConsole, refresh: Callable[[], None] = lambda: None) -> None:
        self._machine, self._console, self._refresh = machine, console, refresh
        self._clock, self._control = machine.clock, machine.control
        self._received = False
        self._next_poll = self._clock.schedule(POLL_PERIOD, self._poll)

    def _poll(self) -> None:
        """Show what was sent and take what was typed, and again after POLL_PERIOD. No guest can see this event."""
        self._receive(0.0)
        self._poll_after(self._clock.now)

    def _poll_after(self, cycle: int) -> None:
        self._next_poll = self._clock.schedule(cycle + POLL_PERIOD, self._poll)

    def idle(self, cycles: int) -> None:
        """The processor sleeps. While somebody may type it sleeps for real, else time passes at once."""
        clock = self._clock
        clock.cancel(self._next_poll)
        if clock.deadline is None:
            # Only input can wake it; without input nothing can, and the processor's loop ends the run.
            while self._listens() and clock.deadline is None and self._control.request is None:
                self._receive(LONGEST_WAIT)
        else:
            self._sleep((clock.deadline - clock.now) / clock.hz)
        if clock.deadline is not None:
            self._poll_after(clock.deadline)

    def _sleep(self, seconds: float) -> None:
        """Wait for input, at most `seconds` of host time, if there can be any."""
        if seconds < SHORTEST_WAIT or not self._listens():
            self._receive(0.0)
            return
        self._received = False
        end = time.monotonic() + seconds
        while not self._received and self._control.request is None and (left := end - time.monotonic()) > 0:
            self._receive(min(left, LONGEST_WAIT))

    def _receive(self, seconds: float) -> None:
        """Hand over typed bytes, after waiting at most `seconds` of host time for them."""
        self._refresh()
        if not self._listens():
            self._console.flush()
            return
        data = self._console.wait(seconds) if seconds else self._console.poll()
        if data:
            self._machine.receive(data)
            self._received = True

    def _listens(self) -> bool:
        """True when input may come and is wanted.

        The bytes of a pipe or file wait until the guest listens, or its drivers would clear them away at boot.
        """
        return self._console.has_input and (self._console.is_interactive or self._machine.listens)
