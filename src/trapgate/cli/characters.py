"""--serial, --parallel and --chardev: what stands behind ports, in QEMU's words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Literal

import typer

from trapgate.cli.errors import CommandLineError
from trapgate.lab.options import CharacterOptions, VirtioPortOptions

Serials = Annotated[
    list[str] | None,
    typer.Option(
        "--serial", "-serial", metavar="stdio|FILE|pty|tcp:HOST:PORT[,server]|unix:PATH|none",
        help="Where COM1 goes; given again, where COM2 goes.",
    ),
]  # fmt: skip
Parallel = Annotated[
    str | None, typer.Option("--parallel", "-parallel", metavar="file:PATH|null", help="Where the printer's bytes go.")
]
Chardevs = Annotated[
    list[str] | None,
    typer.Option("--chardev", "-chardev", metavar="KIND,id=ID,...", help="What stands behind a virtio port."),
]

MOST_SERIAL = 2
HIGHEST_PORT = 65535
SEE = "write stdio, file:PATH, pty, tcp:HOST:PORT[,server][,nowait], unix:PATH[,server][,nowait], null or none"
#: Kinds of --chardev, and the keys of each.
CHARDEVS = {
    "stdio": (), "null": (), "pty": (), "file": ("path",), "socket": ("host", "port", "path", "server", "wait"),
}  # fmt: skip
Kind = Literal["stdio", "file", "pty", "tcp", "unix", "null"]


class InvalidCharacters(CommandLineError):
    """--serial, --parallel or --chardev names no back end."""

    def __init__(self, option: str, wanted: str, got: str, remedy: str = SEE) -> None:
        super().__init__(f"{wanted} after {option}", got, remedy)


def parse_characters(option: str, text: str) -> CharacterOptions | None:
    """The back end that `text` names; a plain path is a file. None for none. Raises InvalidCharacters."""
    if text == "none":
        return None
    if text in ("stdio", "null", "pty"):
        return CharacterOptions(kind=text)  # type: ignore[arg-type]
    kind, colon, rest = text.partition(":")
    if not colon or kind not in ("file", "tcp", "unix"):
        kind, rest = "file", text
    if kind == "file":
        return CharacterOptions(kind="file", path=rest)
    place, *words = rest.split(",")
    server, wait = _listening(option, words)
    if kind == "unix":
        if not place:
            raise InvalidCharacters(option, "a path", "none")
        return CharacterOptions(kind="unix", path=place, server=server, wait=wait)
    host, colon, port = place.rpartition(":")
    return _tcp(option, host.removeprefix("[").removesuffix("]"), port if colon else "", server, wait)


def _tcp(option: str, host: str, port: str, server: bool, wait: bool) -> CharacterOptions:
    if not (port.isascii() and port.isdigit() and int(port) <= HIGHEST_PORT):
        raise InvalidCharacters(option, "a port from 0 to 65535", repr(port))
    return CharacterOptions(kind="tcp", host=host or "localhost", port=int(port), server=server, wait=wait)


def _listening(option: str, words: Sequence[str]) -> tuple[bool, bool]:
    """Whether a socket is the server's, and whether it waits."""
    server, wait = False, True
    for word in words:
        match word:
            case "server" | "server=on" | "server=off":
                server = not word.endswith("off")
            case "wait" | "wait=on" | "nowait" | "wait=off":
                wait = word in ("wait", "wait=on")
            case _:
                raise InvalidCharacters(option, "server or nowait", repr(word))
    return server, wait


def parse_serials(texts: Sequence[str] | None) -> tuple[str, CharacterOptions | None]:
    """COM1's word, as the user wrote it, and COM2's back end. Raises InvalidCharacters."""
    texts = texts or ("stdio",)
    if len(texts) > MOST_SERIAL:
        raise InvalidCharacters("--serial", "at most two ports", str(len(texts)), "leave some of them out")
    return texts[0], parse_characters("--serial", texts[1]) if len(texts) == MOST_SERIAL else None


def parse_chardevs(texts: Sequence[str] | None) -> dict[str, CharacterOptions]:
    """The back ends by their identifiers. Raises InvalidCharacters."""
    found: dict[str, CharacterOptions] = {}
    option, see = "--chardev", "write --chardev socket,id=c0,path=/tmp/c0,server=on,wait=off"
    for text in texts or ():
        kind, *words = text.split(",")
        if kind not in CHARDEVS:
            raise InvalidCharacters(option, f"one of {', '.join(CHARDEVS)}", repr(kind), see)
        values = {}
        for word in words:
            key, _, value = word.partition("=")
            if key not in (*CHARDEVS[kind], "id"):
                raise InvalidCharacters(option, f"one of {', '.join(('id', *CHARDEVS[kind]))}", repr(key), see)
            values[key] = value
        if not values.get("id") or values["id"] in found:
            raise InvalidCharacters(option, "id= and a name of its own", repr(text), see)
        found[values["id"]] = _chardev(kind, values)
    return found


def _chardev(kind: str, values: Mapping[str, str]) -> CharacterOptions:
    if kind in ("stdio", "null", "pty"):
        return CharacterOptions(kind=kind)  # type: ignore[arg-type]
    if kind == "socket" and "path" not in values:
        server, wait = values.get("server") in ("", "on"), values.get("wait") != "off"
        return _tcp("--chardev", values.get("host", ""), values.get("port", ""), server, wait)
    path = values.get("path", "")
    if not path:
        raise InvalidCharacters("--chardev", "path=", "none", "name a file")
    if kind == "file":
        return CharacterOptions(kind="file", path=path)
    return CharacterOptions(
        kind="unix", path=path, server=values.get("server") in ("", "on"), wait=values.get("wait") != "off"
    )


def virtio_port(name: str, values: Mapping[str, str], chardevs: Mapping[str, CharacterOptions]) -> VirtioPortOptions:
    """The port of `--device virtconsole` or `virtserialport`. Raises InvalidCharacters."""
    identifier = values.get("chardev", "")
    if identifier not in chardevs:
        remedy = "add --chardev KIND,id=ID"
        raise InvalidCharacters(f"--device {name},chardev=", "the id of a --chardev", repr(identifier), remedy)
    return VirtioPortOptions(
        backend=chardevs[identifier], name=values.get("name", ""), is_console=name == "virtconsole"
    )
