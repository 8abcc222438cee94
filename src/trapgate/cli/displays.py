"""-vga and --display, in QEMU's words."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from trapgate.cli.errors import CommandLineError
from trapgate.lab.options import DisplayOptions

VgaKind = Annotated[
    str | None, typer.Option("--vga", "-vga", metavar="std|none", help="A VGA; default: std for guests of the BIOS.")
]
Displays = Annotated[
    list[str] | None,
    typer.Option("--display", "-display", metavar="none|terminal|png=FILE|vnc=[HOST]:N", help="Where the screen goes."),
]
FIRST_VNC_PORT = 5900
MOST_VNC_DISPLAY = 65535 - FIRST_VNC_PORT
PASSWORD_FILE = "password-file"


class UnknownVga(CommandLineError):
    """-vga names none."""

    def __init__(self, got: str) -> None:
        super().__init__("std or none", repr(got), "choose one with --vga")


class InvalidDisplay(CommandLineError):
    """--display says nothing that trapgate has."""

    def __init__(self, wanted: str, got: str) -> None:
        super().__init__(f"{wanted} in --display", got, "write --display png=screen.png or --display vnc=:1")


class PasswordUnreadable(CommandLineError):
    """The file with the password for VNC cannot be read."""

    def __init__(self, path: str, got: str) -> None:
        super().__init__(f"a file with a password at {path}", got, f"correct {PASSWORD_FILE}= in --display")


def parse_vga(text: str | None) -> Literal["std", "none"] | None:
    """The adapter. Raises UnknownVga."""
    if text is None:
        return None
    if text == "std":
        return "std"
    if text == "none":
        return "none"
    raise UnknownVga(text)


def parse_displays(texts: list[str] | None) -> tuple[DisplayOptions, ...]:
    """All displays of a command line. Raises InvalidDisplay, CannotWrite, PasswordUnreadable."""
    return tuple(display for text in texts or () if (display := _parse(text)) is not None)


def _parse(text: str) -> DisplayOptions | None:
    kind, equals, value = text.partition("=")
    if text == "none":
        return None
    if text == "terminal":
        return DisplayOptions(kind="terminal")
    if kind == "png" and equals:
        from trapgate.cli.console import check_writable

        check_writable("--display", value)
        return DisplayOptions(kind="png", file=Path(value))
    if kind == "vnc" and equals:
        return _vnc(value)
    raise InvalidDisplay("none, terminal, png=FILE or vnc=[HOST]:N", repr(text))


def _vnc(value: str) -> DisplayOptions:
    address, _, option = value.partition(",")
    password = None
    if option:
        key, _, path = option.partition("=")
        if key != PASSWORD_FILE or not path:
            raise InvalidDisplay(f"{PASSWORD_FILE}=FILE behind the address", repr(option))
        try:
            password = Path(path).read_text().rstrip("\n")
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else None
            raise PasswordUnreadable(path, (reason or "no text").lower()) from error
    if address.startswith("unix:"):
        if not address.removeprefix("unix:"):
            raise InvalidDisplay("a path behind vnc=unix:", "none")
        return DisplayOptions(kind="vnc", address=(address.removeprefix("unix:"), None), password=password)
    host, colon, number = address.rpartition(":")
    if not colon or not number.isascii() or not number.isdigit() or int(number) > MOST_VNC_DISPLAY:
        raise InvalidDisplay(f"vnc=[HOST]:N with N from 0 to {MOST_VNC_DISPLAY}", repr(value))
    return DisplayOptions(kind="vnc", address=(host.strip("[]"), int(number)), password=password)
