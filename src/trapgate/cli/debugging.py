"""-s, -S, -gdb and -monitor, in QEMU's words."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from trapgate.cli.errors import CommandLineError

if TYPE_CHECKING:
    from trapgate.cli.terminal import ProcessConsole
    from trapgate.debug.monitor.monitor import TerminalMonitor
    from trapgate.debug.session import Session

Gdb = Annotated[
    str | None, typer.Option("--gdb", "-gdb", metavar="tcp:HOST:PORT|unix:PATH", help="Wait for gdb there.")
]
GdbAt1234 = Annotated[bool, typer.Option("-s", help="The same as --gdb tcp::1234.")]
Stopped = Annotated[bool, typer.Option("-S", help="Do not start the guest: wait for gdb or the monitor.")]
MonitorAt = Annotated[
    str | None, typer.Option("--monitor", "-monitor", metavar="stdio|tcp:...|unix:...", help="Where the monitor is.")
]
GDB_1234, STDIO = "tcp::1234", "stdio"


@dataclass(frozen=True, slots=True)
class DebugWishes:
    """What the command line asks for, not yet looked at."""

    gdb: str | None
    monitor: str | None
    stopped: bool


def debug_options(gdb: str | None, at_1234: bool, stopped: bool, monitor: str | None, serial: str) -> DebugWishes:
    """Raises CommandLineError for options that cannot be had together."""
    if gdb is not None and at_1234:
        raise CommandLineError("one of -s and --gdb", "both", "leave one of them out")
    if monitor == STDIO and serial == STDIO:
        raise CommandLineError(
            "--monitor stdio with the serial port elsewhere", "both on stdio", "add --serial none or --serial FILE"
        )
    return DebugWishes(GDB_1234 if at_1234 else gdb, monitor, stopped)


class LateMonitor:
    """The monitor behind Ctrl-A C of a run that nobody has asked to debug: what it needs is loaded when it is called.

    It supervises the run (lab/supervisor.py) from the start, and takes the keys (cli/terminal.py).
    """

    def __init__(self, terminal: ProcessConsole, run: Any, describe: Callable[[], dict[str, Any]]) -> None:
        self._terminal, self._run, self._describe = terminal, run, describe
        self._session: Session | None = None
        self._monitor: TerminalMonitor | None = None
        self._end: int | None = None
        terminal.give_monitor(self)
        run.supervisor = self

    # -- the run's supervisor

    @property
    def pause_at(self) -> int | None:
        """Nowhere, unless the monitor wants it."""
        return None if self._session is None else self._session.pause_at

    @property
    def limit(self) -> int | None:
        """The run's end, or what the monitor wants."""
        return self._end if self._session is None else self._session.limit

    def begin(self, end: int | None) -> bool:
        """The run may begin."""
        self._end = end
        return True if self._session is None else self._session.begin(end)

    def stopped(self, reason: str) -> bool:
        """It has ended, or the monitor has stopped it."""
        return False if self._session is None else self._session.stopped(reason)

    def returned(self, reason: str) -> bool:
        """The same for a hypervisor's loop."""
        return False if self._session is None else self._session.returned(reason)

    def close(self) -> None:
        """The run is over."""
        if self._session is not None:
            self._session.close()

    # -- the taker of keys

    def enter(self) -> None:
        """Ctrl-A C for the first time."""
        from trapgate.debug.attach import Debugging, DebugOptions

        session, monitor = Debugging(DebugOptions(), self._terminal, (None, None)).attach(self._run, self._describe)
        assert monitor is not None
        session.join(self._end)
        self._session, self._monitor = session, monitor
        self._run.supervisor = self
        monitor.enter()

    def leave(self) -> None:
        """The monitor has taken over as the taker of keys."""

    def feed(self, data: bytes) -> None:
        """Keys typed in one breath with Ctrl-A C."""
        if self._monitor is not None:
            self._monitor.feed(data)


def prepare_debugging(
    wishes: DebugWishes, terminal: ProcessConsole
) -> Callable[[Any, Callable[[], dict[str, Any]]], object]:
    """Listen where debuggers and monitors are wanted; what is to be done with the machine (lab/run.py: Prepare).

    A terminal always has the monitor behind Ctrl-A C.
    """
    if wishes.gdb is None and wishes.monitor is None and not wishes.stopped:
        return lambda run, describe: LateMonitor(terminal, run, describe) if terminal.is_interactive else None
    from trapgate.cli.terminal import descriptor
    from trapgate.debug.attach import Debugging, DebugOptions

    options = DebugOptions(wishes.gdb, wishes.monitor, wishes.stopped)
    return Debugging(options, terminal, (descriptor(sys.stdin), descriptor(sys.stdout))).attach
