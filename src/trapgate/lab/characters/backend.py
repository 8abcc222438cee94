"""What any back end of a port is, and those without a peer: nothing, and a file."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from typing import Protocol

from trapgate.lab.errors import CharactersUnwritable
from trapgate.machine.console import ConsoleBackend

#: Bytes of output that are kept to go out together.
FLUSH_SIZE = 4096


class CharacterBackend(ConsoleBackend, Protocol):
    """Both directions of a port, as the host sees them."""

    @property
    def has_input(self) -> bool:
        """Whether anything may ever come in."""

    def poll(self) -> bytes:
        """Bytes that have come since the last call; never waits. Also sends what was written."""

    def flush(self) -> None:
        """Send what was written so far, and look after the connection."""

    def descriptors(self) -> Sequence[int]:
        """File descriptors that become readable when something has come."""

    def close(self) -> None:
        """Send what is left, and give the host's resources back."""


class NoCharacters:
    """Nothing is connected: what a guest sends is dropped."""

    has_input = False

    def write(self, data: bytes) -> None:
        """Drop it."""

    def poll(self) -> bytes:
        """Never anything."""
        return b""

    def flush(self) -> None:
        """Nothing is kept."""

    def descriptors(self) -> tuple[int, ...]:
        """None."""
        return ()

    def close(self) -> None:
        """Nothing is open."""


class FileCharacters(NoCharacters):
    """A file that gets what the guest sends; `port` is for messages. There is no input.

    When nobody reads a pipe any more, the rest is dropped. Raises CharactersUnwritable when there is no room.
    """

    def __init__(self, descriptor: int, port: str) -> None:
        self._descriptor: int | None = descriptor
        self._port = port
        self._pending = bytearray()

    def write(self, data: bytes) -> None:
        """Whole lines and larger pieces go out at once, the rest with the next look at the port."""
        self._pending += data
        if data.endswith(b"\n") or len(self._pending) >= FLUSH_SIZE:
            self.flush()

    def flush(self) -> None:
        """Write what there is."""
        if not self._pending:
            return
        view = memoryview(bytes(self._pending))
        self._pending.clear()
        while view and self._descriptor is not None:
            try:
                view = view[os.write(self._descriptor, view) :]
            except OSError as error:
                self._give_up()
                if error.errno != errno.EPIPE:
                    raise CharactersUnwritable(self._port, (error.strerror or "an error").lower()) from error

    def poll(self) -> bytes:
        """Only writes."""
        self.flush()
        return b""

    def _give_up(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def close(self) -> None:
        """Write what is left."""
        try:
            self.flush()
        finally:
            self._give_up()
