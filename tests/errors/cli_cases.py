"""Errors of the command line."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

from trapgate.cli import console
from trapgate.cli.errors import (
    CannotWrite,
    CommandLineError,
    ConsoleUnwritable,
    InvalidCount,
    InvalidMemory,
    OutputUnwritable,
    UnknownCommand,
    UnknownOption,
)
from trapgate.cli.lockstep import InvalidHot
from trapgate.cli.main import describe_usage, main
from trapgate.cli.terminal import ProcessConsole
from trapgate.cli.trace import InvalidTraceOption

from .cases import World, case


def _cli(*arguments: str) -> Callable[[World], object]:
    return lambda world: world.cli(*arguments)


def _output_without_permission(world: World) -> None:
    world.monkeypatch.setattr(os, "access", lambda path, mode: False)
    world.cli("run", "--json", "counts.json")


def _console_that_cannot_be_opened(world: World) -> None:
    world.monkeypatch.setattr(console, "check_writable", lambda option, path: None)
    world.cli("run", "--serial", "missing/output")


def _full_console(world: World) -> None:
    with open("/dev/full", "wb", buffering=0) as full, ProcessConsole(None, full.fileno()) as terminal:
        terminal.write(b"hello\n")


def _full_standard_output(world: World) -> None:
    with open("/dev/full", "w") as full:
        world.monkeypatch.setattr(sys, "stdout", full)
        try:
            world.cli("--version")
            full.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), full.fileno())


def _full_standard_output_at_the_end(world: World) -> None:
    with open("/dev/full", "w") as full:
        world.monkeypatch.setattr(sys, "stdout", full)
        world.monkeypatch.setattr(sys, "argv", ["trapgate", "--version"])
        main()


class _Usage(Exception):
    """A complaint of Typer's that trapgate has no better words for."""

    message = "Missing something."

    def format_message(self) -> str:
        return self.message


case(
    UnknownCommand,
    "wanted a command (run, compare, trace, lockstep, bench, doctor), got frob: see trapgate --help",
    _cli("frob"),
)
case(
    CommandLineError,
    ("wanted -- only after trapgate run or trapgate trace, got it after trapgate doctor: see trapgate doctor --help"),
    _cli("doctor", "--", "ls"),
)
case(
    UnknownOption, "wanted an option that trapgate run has, got --quux: see trapgate run --help", _cli("run", "--quux")
)
case(
    UnknownOption,
    "wanted an option that trapgate run has, got --mem: did you mean --memory or --model or --savevm?",
    _cli("run", "--mem", "1G"),
)
case(CommandLineError, "wanted a value after --memory, got none: see trapgate run --help", _cli("run", "--memory"))
case(CommandLineError, "wanted --stats without a value, got one: see trapgate run --help", _cli("run", "--stats=1"))
case(
    CommandLineError,
    "wanted at most one guest, got also b: put a command for the guest after --",
    _cli("run", "a", "b"),
)
case(CommandLineError, "wanted no argument, got also x y: see trapgate doctor --help", _cli("doctor", "x", "y"))
case(
    CommandLineError,
    "wanted a complete command line, got Missing something: see trapgate run --help",
    lambda w: describe_usage(_Usage(), "trapgate run"),
)  # type: ignore[arg-type]
case(
    InvalidMemory,
    "wanted a memory size such as 256M, 1G or 512 (megabytes), got 'lots': correct --memory",
    _cli("run", "-m", "lots"),
)
case(
    InvalidMemory,
    "wanted a memory size such as 256M, 1G or 512 (megabytes), got '0': correct --memory",
    _cli("run", "-m", "0"),
)
case(
    InvalidCount,
    "wanted a whole number of instructions above 0, got '0': correct --max-instructions",
    _cli("run", "--max-instructions", "0"),
)
case(
    InvalidCount,
    "wanted a whole number of instructions above 0, got 'all': correct --every",
    _cli("lockstep", "--every", "all"),
)
case(InvalidHot, "wanted auto or always after --hot, got 'off': correct --hot", _cli("lockstep", "--hot", "off"))
case(
    CannotWrite,
    "wanted a file that can be written at '', got no name: name another file with --json",
    _cli("run", "--json", ""),
)
case(
    CannotWrite,
    "wanted a file that can be written at /, got a directory: name another file with --json",
    _cli("run", "--json", "/"),
)
case(
    CannotWrite,
    (
        "wanted a file that can be written at missing/counts.json, got no directory missing: name another file "
        "with --json"
    ),
    _cli("run", "--json", "missing/counts.json"),
)
case(
    CannotWrite,
    "wanted a file that can be written at counts.json, got no permission: name another file with --json",
    _output_without_permission,
)
case(
    CannotWrite,
    ("wanted a file that can be written at /dev/full, got No space left on device: name another file with --json"),
    lambda w: console.write_json("/dev/full", {"x": "y" * 100_000}),
)
case(
    CannotWrite,
    (
        "wanted a file that can be written at missing/output, got No such file or directory: name another file "
        "with --serial"
    ),
    _console_that_cannot_be_opened,
)
case(
    ConsoleUnwritable,
    "wanted to write what the guest sends, got No space left on device: make room, or choose another --serial",
    _full_console,
)
case(
    OutputUnwritable,
    "wanted room for what trapgate writes, got No space left on device: make room, or send it elsewhere",
    _cli("trace", "real-loop", "--count", "500", "-o", "/dev/full"),
)
case(
    OutputUnwritable,
    "wanted room for what trapgate writes, got No space left on device: make room, or send it elsewhere",
    _full_standard_output_at_the_end,
)
case(
    InvalidTraceOption,
    "wanted some of in_asm,int,cpu,mem after --show, got 'exec': correct --show",
    _cli("trace", "-d", "exec"),
)
case(
    InvalidTraceOption,
    "wanted a privilege level from 0 to 3 after --cpl, got '4': correct --cpl",
    _cli("trace", "--cpl", "4"),
)
case(
    InvalidTraceOption,
    "wanted an address above --start after --end, got 'f': correct --end",
    _cli("trace", "--start", "10", "--end", "f"),
)
case(
    InvalidTraceOption,
    "wanted a hexadecimal address of at most 64 bits after --start, got 'main': correct --start",
    _cli("trace", "--start", "main"),
)
case(
    InvalidTraceOption,
    "wanted a whole number of instructions above 0 after --skip, got 'many': correct --skip",
    _cli("trace", "--skip", "many"),
)
