"""A TCP or UNIX socket as the other end of a port: either side may wait for the other.

Nothing that a peer does hurts the guest. While there is none, output is dropped, as on a line with nobody at its end. A
peer that reads slowly is waited for, as standard output is; one that takes nothing for some seconds loses its
connection, so that neither memory nor the run hangs on it.
"""

from __future__ import annotations

import contextlib
import select
import socket
import time
from collections import Counter
from pathlib import Path

READ_SIZE = 4096
#: Bytes that wait for a slow reader before the run waits for it, too.
MOST_WAITING = 1 << 18
#: Seconds of host time in which a peer has to take at least something.
PATIENCE = 5.0
#: Seconds that the end of a run waits for what is left.
FAREWELL = 1.0


class StreamCharacters:
    """A connected socket (`peer`), or one that listens (`listener`), for one peer at a time."""

    def __init__(
        self, peer: socket.socket | None, listener: socket.socket | None = None, remove: Path | None = None
    ) -> None:
        """`remove` is the name of a UNIX socket, which goes with it."""
        self._peer, self._listener, self._remove = peer, listener, remove
        self._waiting = bytearray()
        #: Bytes of the guest's that nobody has got (metric), by why.
        self.dropped: Counter[str] = Counter()
        for one in (peer, listener):
            if one is not None:
                one.setblocking(False)

    @property
    def has_input(self) -> bool:
        """False when the peer is gone and none can come."""
        return self._peer is not None or self._listener is not None

    def accept(self, seconds: float | None) -> bool:
        """Wait for a peer, at most `seconds` of host time; whether there is one."""
        if self._peer is None and self._listener is not None:
            ready, _, _ = select.select([self._listener], [], [], seconds)
            if ready:
                with contextlib.suppress(OSError):  # it has gone away already
                    self._peer, _ = self._listener.accept()
                    self._peer.setblocking(False)
        return self._peer is not None

    # Output

    def write(self, data: bytes) -> None:
        """Send it, with what comes after it."""
        if self._peer is None:
            self.dropped["no peer"] += len(data)
            return
        self._waiting += data
        if data.endswith(b"\n") or len(self._waiting) >= READ_SIZE:
            self._send()
        if len(self._waiting) >= MOST_WAITING:
            self._wait_for_reader(PATIENCE)

    def flush(self) -> None:
        """Send what was written, and see whether a peer has come."""
        self.accept(0)
        self._send()

    def _send(self) -> bool:
        """Send what the host takes now; whether the peer has taken something."""
        moved = False
        while self._waiting and self._peer is not None:
            try:
                del self._waiting[: self._peer.send(self._waiting)]
                moved = True
            except (BlockingIOError, InterruptedError):
                break
            except OSError:
                self._hang_up("peer gone")
        return moved

    def _wait_for_reader(self, seconds: float) -> None:
        """Until half of what waits is sent; a peer that takes nothing for `seconds` is given up."""
        end = time.monotonic() + seconds
        while self._peer is not None and len(self._waiting) > MOST_WAITING // 2:
            select.select([], [self._peer], [], 0.1)
            if self._send():
                end = time.monotonic() + seconds
            elif time.monotonic() >= end:
                self._hang_up("slow peer")

    def _hang_up(self, why: str) -> None:
        if self._peer is not None:
            self.dropped[why] += len(self._waiting)
            self._waiting.clear()
            self._peer.close()
            self._peer = None

    # Input

    def poll(self) -> bytes:
        """What the peer has sent."""
        self.flush()
        if self._peer is None:
            return b""
        try:
            data = self._peer.recv(READ_SIZE)
        except (BlockingIOError, InterruptedError):
            return b""
        except OSError:
            data = b""
        if not data:
            self._hang_up("peer gone")
        return data

    def descriptors(self) -> tuple[int, ...]:
        """The peer's, or where one may come."""
        one = self._peer or self._listener
        return () if one is None else (one.fileno(),)

    def close(self) -> None:
        """Send what is left, if the peer takes it soon."""
        end = time.monotonic() + FAREWELL
        while self._waiting and self._peer is not None and time.monotonic() < end:
            select.select([], [self._peer], [], 0.1)
            self._send()
        self._hang_up("slow peer")
        if self._listener is not None:
            self._listener.close()
            self._listener = None
        if self._remove is not None:
            self._remove.unlink(missing_ok=True)
