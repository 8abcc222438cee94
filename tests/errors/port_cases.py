"""Errors of --serial, --parallel, --chardev and --virtfs, and of what is behind them."""

from __future__ import annotations

import os
from collections.abc import Callable

from trapgate.cli.characters import SEE, InvalidCharacters
from trapgate.cli.folders import InvalidFolder
from trapgate.lab.characters.backend import FileCharacters
from trapgate.lab.errors import CharactersUnusable, CharactersUnwritable, ConflictingOptions, FolderUnusable

from .cases import World, case


def _run(*arguments: str) -> Callable[[World], object]:
    return lambda world: world.cli("run", "embedded", *arguments)


def _full(world: World) -> None:
    FileCharacters(os.open("/dev/full", os.O_WRONLY), "COM2").write(b"line\n")


_LEAVE = "leave some of them out"
_CHARDEV = "write --chardev socket,id=c0,path=/tmp/c0,server=on,wait=off"
for arguments, option, wanted, got, remedy in (
    (("--serial", "tcp:localhost"), "--serial", "a port from 0 to 65535", "''", SEE),
    (("--serial", "tcp:localhost:70000"), "--serial", "a port from 0 to 65535", "'70000'", SEE),
    (("--serial", "stdio", "--serial", "unix:"), "--serial", "a path", "none", SEE),
    (("--serial", "stdio", "--serial", "unix:a,telnet"), "--serial", "server or nowait", "'telnet'", SEE),
    (("--serial", "a", "--serial", "b", "--serial", "c"), "--serial", "at most two ports", "3", _LEAVE),
    (("--chardev", "vc,id=a"), "--chardev", "one of stdio, null, pty, file, socket", "'vc'", _CHARDEV),
    (("--chardev", "file,id=a,mux=on"), "--chardev", "one of id, path", "'mux'", _CHARDEV),
    (("--chardev", "null"), "--chardev", "id= and a name of its own", "'null'", _CHARDEV),
    (("--chardev", "file,id=a"), "--chardev", "path=", "none", "name a file"),
    (
        ("--device", "virtconsole,chardev=x"), "--device virtconsole,chardev=", "the id of a --chardev", "'x'",
        "add --chardev KIND,id=ID",
    ),
):  # fmt: skip
    case(InvalidCharacters, f"wanted {wanted} after {option}, got {got}: {remedy}", _run(*arguments))
case(
    CharactersUnusable,
    "wanted file:missing/out behind COM2, got no such file or directory: correct it, or choose another back end",
    _run("--serial", "none", "--serial", "missing/out"),
)
case(
    CharactersUnwritable,
    "wanted to write what the guest sends to COM2, got no space left on device: make room, or choose another back end",
    _full,
)
case(
    ConflictingOptions,
    "wanted stdio for one port, got it for COM2, too: give it another back end",
    _run("--serial", "stdio", "--serial", "stdio"),
)
for text, wanted, got in (
    ("proxy,path=a", "local", "'proxy'"),
    ("local,path=a,fmode=1", "one of path, mount_tag, security_model, readonly, id", "'fmode'"),
    ("local,mount_tag=t", "path=", "none"),
    ("local,path=a", "mount_tag= with a name of at most 32 bytes", "''"),
    ("local,path=a,mount_tag=t,security_model=all", "security_model=none|mapped|mapped-xattr", "'all'"),
    ("local,path=a,mount_tag=t,readonly=no", "readonly=on|off", "'no'"),
):
    see = "write --virtfs local,path=folder,mount_tag=host,security_model=none"
    case(InvalidFolder, f"wanted {wanted} in --virtfs, got {got}: {see}", _run("--virtfs", text))
case(
    InvalidFolder,
    (
        "wanted a mount_tag= for each folder of its own in --virtfs, got one twice: write --virtfs "
        "local,path=folder,mount_tag=host,security_model=none"
    ),
    _run("--virtfs", "local,path=.,mount_tag=t", "--virtfs", "local,path=.,mount_tag=t"),
)
case(
    FolderUnusable,
    "wanted a folder for the guest at missing, got no such file or directory: correct --virtfs",
    _run("--virtfs", "local,path=missing,mount_tag=t"),
)
