"""Errors of --vga and --display."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path

from trapgate.cli.displays import InvalidDisplay, PasswordUnreadable, UnknownVga
from trapgate.cli.errors import CannotWrite, CommandLineError
from trapgate.lab.errors import ConflictingOptions, FileUnusable
from trapgate.lab.vnc.server import CannotListen
from trapgate.machine.errors import SnapshotMismatch
from trapgate.machine.memory import PhysicalMemory

from .cases import World, case

HOW = "write --display png=screen.png or --display vnc=:1"


def _run(*arguments: str) -> Callable[[World], object]:
    return lambda world: world.cli("run", "embedded", *arguments)


def _display(text: str) -> Callable[[World], object]:
    return _run("--display", text)


def _snapshot(world: World) -> None:
    from trapgate.devices.vga.adapter import Vga
    from trapgate.machine.clock import Clock

    Vga(PhysicalMemory(1 << 20, 4 << 30), Clock(1_000_000)).restore({})


def _taken(world: World) -> None:
    with socket.socket(socket.AF_UNIX) as other:
        other.bind("viewers")
        world.cli("run", "embedded", "--display", "vnc=unix:viewers")


def _unwritable(world: World) -> None:
    from trapgate.devices.vga.adapter import Vga
    from trapgate.lab.displays import write_screen
    from trapgate.machine.clock import Clock

    write_screen(Vga(PhysicalMemory(1 << 20, 4 << 30), Clock(1_000_000)), Path("gone/screen.png"))


case(UnknownVga, "wanted std or none, got 'cirrus': choose one with --vga", _run("--vga", "cirrus"))
case(InvalidDisplay, f"wanted none, terminal, png=FILE or vnc=[HOST]:N in --display, got 'sdl': {HOW}", _display("sdl"))
for wrong in ("1", ":x", ":59636"):
    case(
        InvalidDisplay, f"wanted vnc=[HOST]:N with N from 0 to 59635 in --display, got '{wrong}': {HOW}",
        _display(f"vnc={wrong}"),
    )  # fmt: skip
case(InvalidDisplay, f"wanted a path behind vnc=unix: in --display, got none: {HOW}", _display("vnc=unix:"))
case(
    InvalidDisplay, f"wanted password-file=FILE behind the address in --display, got 'sasl': {HOW}",
    _display("vnc=:1,sasl"),
)  # fmt: skip
case(
    PasswordUnreadable,
    "wanted a file with a password at missing, got no such file or directory: correct password-file= in --display",
    _display("vnc=:1,password-file=missing"),
)
case(
    CannotWrite,
    "wanted a file that can be written at gone/screen.png, got no directory gone: name another file with --display",
    _display("png=gone/screen.png"),
)
case(
    ConflictingOptions, "wanted a display adapter for --display, got -vga none: leave one of them out",
    _run("--vga", "none", "--display", "png=screen.png"),
)  # fmt: skip
case(
    ConflictingOptions, "wanted --display terminal or a command, got both: leave one of them out",
    lambda world: _conflict(world),
)  # fmt: skip
case(
    ConflictingOptions, "wanted --display with one run, got it with several: leave it out",
    lambda world: world.cli("compare", "embedded", "--display", "png=screen.png"),
)  # fmt: skip
case(
    ConflictingOptions, "wanted --display with one machine, got it with two: leave it out",
    lambda world: world.cli("lockstep", "embedded", "--display", "png=screen.png"),
)  # fmt: skip
case(
    CommandLineError, "wanted --display and --vga after trapgate run, got one after trapgate trace: leave it out",
    lambda world: world.cli("trace", "embedded", "--vga", "std"),
)  # fmt: skip
case(
    CannotListen,
    "wanted to wait for VNC viewers at unix:viewers, got address already in use: "
    "choose another address with --display vnc=",
    _taken,
)
case(
    FileUnusable,
    "wanted a picture file at gone/screen.png, got no such file or directory: choose another file with --display",
    _unwritable,
)
case(
    SnapshotMismatch,
    "Vga: wanted a snapshot with dispi, frame_buffer, is_plain, planes, registers, waited, got one with nothing: "
    "take the snapshot again with this version",
    _snapshot,
)


def _conflict(world: World) -> None:
    from trapgate import guests
    from trapgate.firmware.recognise import recognise
    from trapgate.lab.displays import with_vga
    from trapgate.lab.options import DisplayOptions, RunOptions

    options = RunOptions(command=("true",), displays=(DisplayOptions(kind="terminal"),))
    with_vga(options, recognise(guests.image("trapgate-guest"), "", name="embedded"))
