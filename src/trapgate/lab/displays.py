"""The displays of a run: which adapter the machine has, and who shows its screen."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Literal, Protocol

from trapgate.boards.pc import Pc
from trapgate.boards.places import InputPlaces
from trapgate.devices.vga.adapter import Vga
from trapgate.devices.vga.picture import picture
from trapgate.firmware.bios.disk_image import DiskImage
from trapgate.firmware.image import BootImage
from trapgate.lab.console import GuestConsole
from trapgate.lab.console_input import ConsoleInput, Typed
from trapgate.lab.errors import ConflictingOptions, FileUnusable
from trapgate.lab.options import RunOptions
from trapgate.lab.png import png
from trapgate.lab.terminal_display import TerminalDisplay
from trapgate.machine.clock import Clock
from trapgate.machine.console import ConsoleBackend, NullConsole
from trapgate.machine.outside import Outside


def with_vga(options: RunOptions, image: BootImage) -> RunOptions:
    """`options` with the adapter settled: guests that are booted through the BIOS have one, others where it is asked
    for, or where a display is. Raises ConflictingOptions."""
    if isinstance(image, DiskImage):
        # The BIOS shows its screen on the console anyway.
        options = replace(options, displays=tuple(d for d in options.displays if d.kind != "terminal"))
    elif options.command is not None and shows_on_terminal(options):
        raise ConflictingOptions("--display terminal or a command", "both", "leave one of them out")
    if options.vga == "none" and options.displays:
        raise ConflictingOptions("a display adapter for --display", "-vga none", "leave one of them out")
    if options.vga is not None:
        return options
    if options.displays:
        return replace(options, vga="std")
    return replace(options, vga="any" if isinstance(image, DiskImage) else "none")


def shows_on_terminal(options: RunOptions) -> bool:
    """Whether the terminal is the guest's screen and keyboard, and not its COM1."""
    return any(display.kind == "terminal" for display in options.displays)


def serial_output(options: RunOptions, output: ConsoleBackend) -> ConsoleBackend:
    """Where COM1's output goes."""
    return NullConsole() if shows_on_terminal(options) else output


class _Machine(Typed, Protocol):
    """What the console needs of a machine."""

    outside: Outside

    def receive(self, data: bytes) -> None: ...
    def refresh_screen(self) -> None: ...


def connect_console(
    options: RunOptions, machine: _Machine, board: Pc, clock: Clock, console: GuestConsole
) -> TerminalDisplay | None:
    """Let what is typed at the console come in: to COM1 or the BIOS, or where the terminal is the screen, as keys."""
    if shows_on_terminal(options) and board.vga is not None:
        display = TerminalDisplay(board, board.vga, clock, console)
        deliver = machine.outside.add_place("console", display.type)
        machine.outside.add_source(ConsoleInput(display, console, display.refresh, deliver))
        return display
    deliver = machine.outside.add_place("console", machine.receive)
    machine.outside.add_source(ConsoleInput(machine, console, machine.refresh_screen, deliver))
    return None


def board_vga(options: RunOptions) -> Literal["std", "any"] | None:
    """The adapter as the board's configuration has it."""
    return None if options.vga is None or options.vga == "none" else options.vga


@contextmanager
def open_displays(options: RunOptions, vga: Vga | None, outside: Outside, places: InputPlaces) -> Iterator[None]:
    """Show the screen while the run goes on; pictures are written when it has ended. Raises RunError."""
    if vga is None:
        yield
        return
    with ExitStack() as stack:
        for display in options.displays:
            if display.kind == "vnc":
                from trapgate.lab.vnc.server import VncServer

                server = VncServer(display.address, display.password, lambda: vga, places)
                stack.callback(server.close)
                outside.add_source(server)
        yield
        for display in options.displays:
            if display.kind == "png":
                write_screen(vga, display.file)


def write_screen(vga: Vga, path: Path) -> None:
    """Write the screen as a PNG file. Raises FileUnusable."""
    try:
        path.write_bytes(png(picture(vga)))
    except OSError as error:
        got = error.strerror or "an error"
        raise FileUnusable("picture", str(path), got.lower(), "choose another file with --display") from error
