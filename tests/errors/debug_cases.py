"""Errors of the debugger's and the monitor's options."""

from __future__ import annotations

import socket

from trapgate.cli.errors import CommandLineError
from trapgate.debug.errors import CannotListen, InvalidChannel
from trapgate.debug.symbols import NoSymbols, symbol_file

from .cases import World, case

HOW = ": write --gdb tcp::1234 or --gdb unix:PATH"


def _busy(world: World) -> None:
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind(("127.0.0.1", 47113))
        taken.listen()
        world.cli("run", "-gdb", "tcp::47113")


case(
    InvalidChannel,
    "wanted tcp:HOST:PORT or unix:PATH for --gdb, got 'tcp::1234,reconnect=on'" + HOW,
    lambda w: w.cli("run", "-gdb", "tcp::1234,reconnect=on"),
)
case(
    InvalidChannel,
    "wanted a port from 0 to 65535 (tcp:HOST:PORT) for --gdb, got 'tcp:localhost:99999'" + HOW,
    lambda w: w.cli("run", "-gdb", "tcp:localhost:99999"),
)
case(
    InvalidChannel,
    "wanted tcp:HOST:PORT or unix:PATH for --gdb, got 'pty'" + HOW,
    lambda w: w.cli("run", "-gdb", "pty"),
)
case(
    InvalidChannel,
    "wanted standard input and output that are open for --monitor, got 'stdio': "
    "write --monitor tcp::1234 or --monitor unix:PATH",
    lambda w: (w.monkeypatch.setattr("sys.stdin", None), w.cli("run", "--serial", "none", "-monitor", "stdio")),
)
case(
    CannotListen,
    "wanted to listen at no.such.host.invalid:1, got name or service not known: choose another place with --gdb",
    lambda w: (
        w.monkeypatch.setattr(socket, "getaddrinfo", _unknown_host),
        w.cli("run", "-gdb", "tcp:no.such.host.invalid:1"),
    ),
)
case(
    CannotListen,
    "wanted to listen at 127.0.0.1:47113, got address already in use: choose another place with --gdb",
    _busy,
)
case(
    CannotListen,
    "wanted to listen at no/such/folder, got no such file or directory: choose another place with --monitor",
    lambda w: w.cli("run", "-monitor", "unix:no/such/folder"),
)
case(
    CommandLineError,
    "wanted one of -s and --gdb, got both: leave one of them out",
    lambda w: w.cli("run", "-s", "-gdb", "tcp::1"),
)
case(
    CommandLineError,
    "wanted --monitor stdio with the serial port elsewhere, got both on stdio: add --serial none or --serial FILE",
    lambda w: w.cli("run", "-monitor", "stdio"),
)
case(
    NoSymbols,
    "wanted the lines of a kernel's /proc/kallsyms, got no symbol with an address: read it as root in the guest",
    lambda w: symbol_file(["0000000000000000 T start_kernel"]),
)


def _unknown_host(*_: object, **__: object) -> None:
    raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
