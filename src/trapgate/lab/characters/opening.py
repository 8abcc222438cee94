"""Opens the back ends that a run's ports are given, and closes them in the end."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from trapgate.devices.virtio.console import VirtioPort
from trapgate.lab.characters.backend import CharacterBackend, FileCharacters, NoCharacters
from trapgate.lab.characters.pseudo_terminal import PseudoTerminal
from trapgate.lab.characters.stream import StreamCharacters
from trapgate.lab.errors import CharactersUnusable, ConflictingOptions
from trapgate.lab.options import CharacterOptions, RunOptions

#: Takes a line for the user: where a pseudo-terminal is, what is waited for.
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class PortBackends:
    """What stands behind a run's ports besides COM1; None where nothing is connected."""

    serial2: CharacterBackend | None = None
    parallel: CharacterBackend | None = None
    #: Of the virtio console's ports, in order.
    virtio: tuple[CharacterBackend, ...] = ()
    virtio_ports: tuple[VirtioPort, ...] = ()


@contextmanager
def open_ports(options: RunOptions, stdio: CharacterBackend | None, say: Say) -> Iterator[PortBackends]:
    """The back ends of a run's ports. `stdio` is for those that ask for it. Raises RunError."""
    with ExitStack() as stack:

        def opened(which: CharacterOptions | None, port: str) -> CharacterBackend | None:
            if which is None:
                return None
            if which.kind == "stdio":
                if stdio is None:
                    raise ConflictingOptions("stdio for one port", f"it for {port}, too", "give it another back end")
                return stdio
            backend = open_characters(which, port, say)
            stack.callback(backend.close)
            return backend

        virtio = tuple(
            opened(port.backend, f"port {number} of the virtio console") or NoCharacters()
            for number, port in enumerate(options.virtio_ports)
        )
        yield PortBackends(
            serial2=opened(options.serial2, "COM2"),
            parallel=opened(options.parallel, "the parallel port"),
            virtio=virtio,
            virtio_ports=tuple(
                VirtioPort(port.name, backend, port.is_console)
                for port, backend in zip(options.virtio_ports, virtio, strict=True)
            ),
        )


def open_characters(options: CharacterOptions, port: str, say: Say) -> CharacterBackend:
    """One back end; `port` is its port, for messages. Raises CharactersUnusable."""
    try:
        if options.kind == "file":
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
            return FileCharacters(os.open(options.path, flags, 0o666), port)
        if options.kind == "pty":
            terminal = PseudoTerminal()
            say(f"trapgate: {port} is {terminal.name}")
            return terminal
        if options.kind in ("tcp", "unix"):
            return _open_socket(options, port, say)
    except (OSError, ValueError) as error:
        # Of a name that cannot be resolved the number is the resolver's, and the text is good.
        reason = (error.strerror if isinstance(error, OSError) else None) or "no valid name"
        raise CharactersUnusable(port, options.describe(), reason.lower()) from error
    return NoCharacters()


def _open_socket(options: CharacterOptions, port: str, say: Say) -> StreamCharacters:
    if not options.server:
        return StreamCharacters(_connected(options))
    listener = _listening(options)
    if options.kind == "tcp" and not options.port:
        say(f"trapgate: {port} is at port {listener.getsockname()[1]}")
    backend = StreamCharacters(None, listener, options.path_or_none if options.kind == "unix" else None)
    if options.wait:
        say(f"trapgate: {port} waits for a connection at {options.describe()}")
        try:
            backend.accept(None)
        except BaseException:
            backend.close()
            raise
    return backend


def _connected(options: CharacterOptions) -> socket.socket:
    if options.kind == "tcp":
        peer = socket.create_connection((options.host, options.port))
        peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return peer
    peer = socket.socket(socket.AF_UNIX)
    try:
        peer.connect(options.path)
    except BaseException:
        peer.close()
        raise
    return peer


def _listening(options: CharacterOptions) -> socket.socket:
    if options.kind == "tcp":
        # Without a host only this one: a guest's console is not for everybody on the network.
        host = options.host or "localhost"
        family = socket.getaddrinfo(host, options.port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, options.port), family=family)
    listener = socket.socket(socket.AF_UNIX)
    try:
        listener.bind(options.path)
        listener.listen(1)
    except BaseException:
        listener.close()
        raise
    return listener
