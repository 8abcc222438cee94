"""-s, -S, -gdb and -monitor, in QEMU's words."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from trapgate.cli.errors import CommandLineError

if TYPE_CHECKING:
    from trapgate.cli.terminal import ProcessConsole

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


def prepare_debugging(
    wishes: DebugWishes, terminal: ProcessConsole
) -> Callable[[object, Callable[[], dict[str, Any]]], None]:
    """Listen where debuggers and monitors are wanted; what is to be done with the machine (lab/run.py: prepare).

    A terminal always has the monitor behind Ctrl-A C.
    """
    nothing = wishes.gdb is None and wishes.monitor is None and not wishes.stopped
    if nothing and not (terminal.has_input and sys.stdin is not None and os.isatty(sys.stdin.fileno())):
        return lambda machine, describe: None
    from trapgate.cli.terminal import descriptor
    from trapgate.debug.attach import Debugging, DebugOptions

    options = DebugOptions(wishes.gdb, wishes.monitor, wishes.stopped)
    return Debugging(options, terminal, (descriptor(sys.stdin), descriptor(sys.stdout))).attach
