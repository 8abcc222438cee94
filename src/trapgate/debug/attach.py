"""Connects a run's machine with the debuggers and monitors that its user has asked for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

from trapgate.debug.channels import DescriptorChannel, Listener
from trapgate.debug.errors import InvalidChannel
from trapgate.debug.gdb.server import GdbServer
from trapgate.debug.guest import BareGuest
from trapgate.debug.monitor.commands import execute
from trapgate.debug.monitor.monitor import ChannelMonitor, TerminalMonitor
from trapgate.debug.session import Session
from trapgate.debug.virtual import VirtualGuest
from trapgate.lab.bare import BareRun
from trapgate.lab.displays import write_screen
from trapgate.lab.virtual import VirtualRun

STDIO = "stdio"


@dataclass(frozen=True, slots=True)
class DebugOptions:
    """`gdb` and `monitor` are addresses (debug/channels.py), `monitor` also "stdio"; `stopped`: wait before the first
    instruction."""

    gdb: str | None = None
    monitor: str | None = None
    stopped: bool = False


class Terminal(Protocol):
    """The console of a guest, which may be a person's terminal."""

    @property
    def is_interactive(self) -> bool:
        """True when a person types."""

    def give_monitor(self, monitor: TerminalMonitor) -> None:
        """Have Ctrl-A C lead to a monitor."""

    def descriptors(self) -> Sequence[int]:
        """The input's."""

    def look(self) -> None:
        """Take keys while the guest is stopped."""

    def show(self, data: bytes) -> None:
        """Print beside what the guest sends."""


class Debugging:
    """What a run's user wants besides the guest. Listens from the start; raises InvalidChannel, CannotListen."""

    def __init__(self, options: DebugOptions, terminal: Terminal, standard: tuple[int | None, int | None]) -> None:
        """`standard` are the descriptors of standard input and output."""
        self._options, self._terminal = options, terminal
        self._gdb = None if options.gdb is None else Listener("--gdb", options.gdb)
        self._monitor: Listener | None = None
        self._channel: DescriptorChannel | None = None
        if options.monitor == STDIO:
            number, output = standard
            if number is None or output is None:
                raise InvalidChannel("--monitor", "standard input and output that are open", STDIO)
            self._channel = DescriptorChannel(number, output)
        elif options.monitor is not None:
            self._monitor = Listener("--monitor", options.monitor)

    def attach(self, run: object, describe: Callable[[], dict[str, Any]]) -> tuple[Session, TerminalMonitor | None]:
        """Serve the guest of a run that is about to begin. `describe` gives what saved states hold besides."""
        assert isinstance(run, BareRun | VirtualRun)
        guest = BareGuest(run.machine) if isinstance(run, BareRun) else VirtualGuest(run.host, run.machine)
        session = Session(guest, self._options.stopped)
        session.command = partial(execute, session)
        session.describe = describe
        vga = run.machine.board.vga
        if vga is not None:
            session.screenshot = partial(write_screen, vga)
        if self._gdb is not None:
            session.add(GdbServer(session, self._gdb.open()))
        if self._monitor is not None or self._channel is not None:
            if self._monitor is not None:
                self._monitor.open()
            session.add(ChannelMonitor(session, self._monitor, self._channel))
        monitor = None
        if self._terminal.is_interactive:
            monitor = TerminalMonitor(session, self._terminal.show)
            session.add(monitor)
            session.others.append((self._terminal.descriptors, self._terminal.look))
            self._terminal.give_monitor(monitor)
        run.supervisor = session
        return session, monitor
