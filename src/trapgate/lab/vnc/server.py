"""Viewers of one machine's screen: a source of its input, that takes keys and movements and sends pictures.

The guest waits for no viewer: whoever reads slowly gets fewer pictures, and making them takes a quarter of the time
at most.
"""

from __future__ import annotations

import os
import select
import socket
import time
from collections.abc import Callable, Sequence
from contextlib import suppress

from trapgate.boards.places import InputPlaces
from trapgate.devices.i8042 import MOVEMENT
from trapgate.devices.vga.adapter import Vga
from trapgate.devices.vga.picture import Picture, picture, shown_bytes
from trapgate.lab.errors import RunError
from trapgate.lab.vnc.client import Client, Events, Refused
from trapgate.lab.vnc.keys import scan_codes
from trapgate.machine.outside import TYPING_PERIOD

FIRST_PORT = 5900
#: An address without a host: this machine's own viewers alone.
LOCAL = "127.0.0.1"
MOST_CLIENTS = 16
#: How QEMU's extension sends a movement of 0.
NO_MOVEMENT = 0x7FFF
#: Seconds between two looks at the screen, and for a viewer to come through the handshake.
FRAME_TIME = 0.03
HANDSHAKE_TIME = 30.0
#: How many times as long as it took to make the last pictures the next ones wait.
PAUSE = 4
#: Buttons of RFB to those of the mouse: 1 left, 2 middle, 3 right; 4 and 5 are the wheel.
_LEFT, _MIDDLE, _RIGHT, _UP, _DOWN = 1, 2, 4, 8, 16


class CannotListen(RunError):
    """The address for viewers cannot be had."""

    def __init__(self, address: str, got: str) -> None:
        super().__init__(f"to wait for VNC viewers at {address}", got, "choose another address with --display vnc=")


class VncServer:
    """Waits at `address`: (host, display number), or (path, None) for a UNIX socket. Raises CannotListen."""

    period = TYPING_PERIOD
    listens = True

    def __init__(
        self,
        address: tuple[str, int | None],
        password: str | None,
        vga: Callable[[], Vga],
        places: InputPlaces,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._vga, self._password, self._places, self._clock = vga, password, places, clock
        self._path = address[0] if address[1] is None else None
        self._listener = self._listen(address)
        self._clients: dict[Client, float] = {}
        self._poller = select.poll()
        self._poller.register(self._listener, select.POLLIN)
        self._picture: Picture | None = None
        self._followed = b""
        self._next_look = 0.0
        self._events = Events(self._key, self._pointer)
        self._held: set[int] = set()
        #: Where each viewer's pointer was, and the buttons that are held.
        self._pointers: dict[object, tuple[int, int]] = {}
        self._buttons = 0

    def _listen(self, address: tuple[str, int | None]) -> socket.socket:
        host, number = address
        name = f"unix:{host}" if number is None else f"{host or LOCAL}:{number}"
        listener: socket.socket | None = None
        try:
            if number is None:
                listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
                listener.bind(host)
            else:
                found = socket.getaddrinfo(host or LOCAL, FIRST_PORT + number, type=socket.SOCK_STREAM)
                family, kind, protocol, _, where = found[0]
                listener = socket.socket(family, kind, protocol)
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                listener.bind(where)
            listener.listen(MOST_CLIENTS)
            listener.setblocking(False)
        except OSError as error:
            if listener is not None:
                listener.close()
            raise CannotListen(name, (error.strerror or "an error").lower()) from error
        return listener

    @property
    def port(self) -> int:
        """The TCP port."""
        port: int = self._listener.getsockname()[1]
        return port

    def close(self) -> None:
        """Let all viewers go."""
        for client in list(self._clients):
            self._drop(client)
        self._listener.close()
        if self._path is not None:
            with suppress(OSError):
                os.unlink(self._path)

    # As a source (machine/outside.py)

    def descriptors(self) -> Sequence[int]:
        """The listening socket and every viewer's."""
        return [self._listener.fileno(), *(client.connection.fileno() for client in self._clients)]

    def timeout(self) -> float | None:
        """Soon again while somebody has not read what was sent, or waits for a picture that may be there."""
        return FRAME_TIME if any(client.is_writing or client.wants_update for client in self._clients) else None

    def poll(self) -> None:
        """Take what viewers have sent, and send what is new on the screen."""
        if self._poller.poll(0):
            self._accept()
            for client in list(self._clients):
                self._guard(client, client.receive)
        if not self._clients:
            return
        now = self._clock()
        for client, deadline in list(self._clients.items()):
            if not client.ready and now > deadline:
                self._drop(client)
        if now >= self._next_look and any(client.wants_update for client in self._clients):
            current = self._current()
            for client in list(self._clients):
                if client.wants_update:
                    client.update(current)
            self._next_look = now + max(FRAME_TIME, PAUSE * (self._clock() - now))
        for client in list(self._clients):
            if client.is_writing:
                self._guard(client, client.send)

    def _accept(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except OSError:
            return
        if len(self._clients) >= MOST_CLIENTS:
            connection.close()
            return
        if connection.family != socket.AF_UNIX:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        client = Client(connection, self._events, self._current, self._password, os.urandom)
        self._clients[client] = self._clock() + HANDSHAKE_TIME
        self._poller.register(connection, select.POLLIN)
        self._guard(client, client.send)

    def _guard(self, client: Client, action: Callable[[], None]) -> None:
        try:
            action()
        except Refused:
            self._drop(client)

    def _drop(self, client: Client) -> None:
        if self._clients.pop(client, None) is None:
            return
        self._pointers.pop(client, None)
        self._poller.unregister(client.connection)
        client.connection.close()
        if not self._clients:
            self._release_all()

    def _current(self) -> Picture:
        """The screen now; the same picture as before where nothing has changed."""
        vga = self._vga()
        follows = shown_bytes(vga)
        if self._picture is None or follows != self._followed:
            self._picture, self._followed = picture(vga), follows
        return self._picture

    # What users do

    def _key(self, keysym: int, down: bool) -> None:
        codes = scan_codes(keysym, down)
        if not codes:
            return
        if down:
            self._held.add(keysym)
        else:
            self._held.discard(keysym)
        self._places.keyboard(codes)

    def _release_all(self) -> None:
        """Nobody is there to release what is held."""
        for keysym in list(self._held):
            self._key(keysym, False)
        if self._buttons:
            self._buttons = 0
            self._places.mouse(MOVEMENT.pack(0, 0, 0, 0))

    def _pointer(self, viewer: object, is_movement: bool, buttons: int, x: int, y: int) -> None:
        """The mouse knows movements alone: those that a viewer reports, or those between two places."""
        old_x, old_y = (NO_MOVEMENT, NO_MOVEMENT) if is_movement else self._pointers.get(viewer, (x, y))
        self._pointers[viewer] = x, y
        turn = (1 if buttons & _DOWN else 0) - (1 if buttons & _UP else 0)
        held = (1 if buttons & _LEFT else 0) | (2 if buttons & _RIGHT else 0) | (4 if buttons & _MIDDLE else 0)
        dx, dy = (max(-0x7FFF, min(0x7FFF, d)) for d in (x - old_x, y - old_y))
        if dx or dy or turn or held != self._buttons:
            self._buttons = held
            self._places.mouse(MOVEMENT.pack(dx, dy, turn, held))
