"""A pseudo-terminal as the other end of a port: a terminal program opens it by its name."""

from __future__ import annotations

import errno
import os
import pty
import tty

READ_SIZE = 4096
#: Bytes that wait for a reader; of what nobody reads the oldest are dropped, as a terminal's screen does.
MOST_WAITING = 1 << 16


class PseudoTerminal:
    """A pair of which the guest's port has one side. `name` is the other's, such as /dev/pts/3."""

    has_input = True

    def __init__(self) -> None:
        """Raises OSError when the host has none."""
        # Kept open: without it the host reports the end of a terminal that nobody has opened yet.
        self._ours, self._theirs = pty.openpty()
        tty.setraw(self._theirs)
        os.set_blocking(self._ours, False)
        self.name = os.ttyname(self._theirs)
        self._waiting = bytearray()

    def write(self, data: bytes) -> None:
        """Show it, or keep it for a reader."""
        self._waiting += data
        if data.endswith(b"\n") or len(self._waiting) >= READ_SIZE:
            self.flush()

    def flush(self) -> None:
        """Show what was written, as far as the terminal takes it."""
        try:
            while self._waiting:
                del self._waiting[: os.write(self._ours, self._waiting)]
        except BlockingIOError:
            del self._waiting[: max(0, len(self._waiting) - MOST_WAITING)]

    def poll(self) -> bytes:
        """What was typed."""
        self.flush()
        try:
            return os.read(self._ours, READ_SIZE)
        except OSError as error:
            if error.errno not in (errno.EAGAIN, errno.EIO):
                raise
            return b""

    def descriptors(self) -> tuple[int, ...]:
        """Our side."""
        return (self._ours,)

    def close(self) -> None:
        """The terminal goes away."""
        self.flush()
        os.close(self._ours)
        os.close(self._theirs)
