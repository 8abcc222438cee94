"""Sockets that a debugger or a monitor's user connects to: one at a time, never waited for, bounded both ways.

Addresses are QEMU's: `tcp:HOST:PORT`, `tcp::PORT`, `unix:PATH`; `,server,nowait` and the like may follow.
"""

from __future__ import annotations

import contextlib
import os
import socket
import stat
from typing import Protocol

from trapgate.debug.errors import CannotListen, InvalidChannel

READ_SIZE = 1 << 16
#: Bytes that wait to be taken by the other side: one that takes nothing is dropped.
MOST_WAITING = 1 << 22
#: Connections that wait to be accepted; QEMU, too, talks to one at a time.
BACKLOG = 16
LOOPBACK = "127.0.0.1"
#: Words that QEMU takes behind an address, and which say what is so here anyway.
_HARMLESS = frozenset(("server", "server=on", "nowait", "wait=off", "nodelay", "nodelay=on"))


class Channel(Protocol):
    """A stream of bytes to somebody."""

    @property
    def closed(self) -> bool:
        """Nothing comes or goes any more."""

    def fileno(self) -> int:
        """The descriptor to wait at."""

    def receive(self) -> bytes:
        """What has come; b"" for nothing. Never waits."""

    def send(self, data: bytes) -> None:
        """Send `data`, as far as the other side takes it; the rest with the next `flush`."""

    def flush(self) -> bool:
        """Send what waits; True when nothing is left."""

    def close(self) -> None:
        """End it."""


class SocketChannel:
    """A connection that has been accepted."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._waiting = bytearray()
        self.closed = False
        connection.setblocking(False)
        if connection.family != socket.AF_UNIX:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def fileno(self) -> int:
        """The socket's descriptor."""
        return self._socket.fileno()

    def receive(self) -> bytes:
        """What has come; the end of the stream, or an error of it, closes the channel."""
        if self.closed:
            return b""
        try:
            data = self._socket.recv(READ_SIZE)
        except (BlockingIOError, InterruptedError):
            return b""
        except OSError:
            data = b""
        if not data:
            self.close()
        return data

    def send(self, data: bytes) -> None:
        """Send, or keep for later; a client that lets too much wait is dropped."""
        if self.closed:
            return
        self._waiting += data
        self.flush()
        if len(self._waiting) > MOST_WAITING:
            self.close()

    def flush(self) -> bool:
        """Send what the other side takes now."""
        while self._waiting and not self.closed:
            try:
                sent = self._socket.send(self._waiting)
            except (BlockingIOError, InterruptedError):
                return False
            except OSError:
                self.close()
                return True
            del self._waiting[:sent]
        return True

    def close(self) -> None:
        """Close the connection; what still waits is lost."""
        if not self.closed:
            self.closed = True
            self._waiting.clear()
            self._socket.close()


class DescriptorChannel:
    """Standard input and output, as a monitor's channel. The descriptors stay open."""

    def __init__(self, input: int, output: int) -> None:
        self._input, self._output = input, output
        self.closed = False

    def fileno(self) -> int:
        """The input's."""
        return self._input

    def receive(self) -> bytes:
        """What has been typed. To be called when the descriptor is readable."""
        try:
            data = os.read(self._input, READ_SIZE)
        except BlockingIOError:
            return b""
        except OSError:
            data = b""
        self.closed = self.closed or not data
        return data

    def send(self, data: bytes) -> None:
        """Print. Like any print it waits for whoever reads."""
        view = memoryview(data)
        while view and not self.closed:
            try:
                view = view[os.write(self._output, view) :]
            except BlockingIOError:
                continue
            except OSError:
                self.closed = True

    def flush(self) -> bool:
        """Nothing waits."""
        return True

    def close(self) -> None:
        """Read and print no more."""
        self.closed = True


class Listener:
    """Listens at an address once it is opened. Raises InvalidChannel, CannotListen, which name `option`."""

    def __init__(self, option: str, address: str) -> None:
        self._path = ""
        kind, _, rest = address.partition(":")
        rest, *words = rest.split(",")
        if any(word not in _HARMLESS for word in words):
            raise InvalidChannel(option, "tcp:HOST:PORT or unix:PATH", address)
        if kind == "tcp":
            host, colon, port = rest.rpartition(":")
            if not colon or not (port.isascii() and port.isdecimal()) or int(port) > 65535:
                raise InvalidChannel(option, "a port from 0 to 65535 (tcp:HOST:PORT)", address)
            self.place = f"{host or LOOPBACK}:{port}"
            self._socket = self._tcp(option, host.strip("[]") or LOOPBACK, int(port))
        elif kind == "unix" and rest:
            self.place = rest
            self._socket = self._unix(option, rest)
        else:
            raise InvalidChannel(option, "tcp:HOST:PORT or unix:PATH", address)
        self._socket.setblocking(False)

    def _tcp(self, option: str, host: str, port: int) -> socket.socket:
        try:
            family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
            found = socket.socket(family, kind, protocol)
        except OSError as error:
            raise CannotListen(option, self.place, (error.strerror or "no such host").lower()) from error
        try:
            found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            found.bind(address)
        except OSError as error:
            found.close()
            raise CannotListen(option, self.place, (error.strerror or "an error").lower()) from error
        self.place = f"{host}:{found.getsockname()[1]}"
        return found

    def _unix(self, option: str, path: str) -> socket.socket:
        found = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            with contextlib.suppress(FileNotFoundError):
                if stat.S_ISSOCK(os.stat(path).st_mode):
                    os.unlink(path)  # left by an earlier run, as QEMU takes it
            found.bind(path)
            self._path = path
        except OSError as error:
            found.close()
            raise CannotListen(option, path, (error.strerror or str(error)).lower()) from error
        return found

    def open(self) -> Listener:
        """Let connections come: what answers them is ready."""
        self._socket.listen(BACKLOG)
        return self

    def fileno(self) -> int:
        """Readable when somebody wants to connect."""
        return self._socket.fileno()

    def accept(self) -> SocketChannel | None:
        """A connection, if somebody wants one."""
        try:
            connection, _ = self._socket.accept()
        except OSError:
            return None
        return SocketChannel(connection)

    def close(self) -> None:
        """Listen no more."""
        self._socket.close()
        if self._path:
            with contextlib.suppress(OSError):
                os.unlink(self._path)
