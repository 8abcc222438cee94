"""The monitor at a socket, at standard input and output, or at the guest's own terminal behind Ctrl-A C."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Sequence

from trapgate import __version__
from trapgate.debug.channels import Channel, Listener
from trapgate.debug.monitor.commands import execute
from trapgate.debug.session import Session
from trapgate.debug.stops import Resume, Stop

PROMPT = b"(trapgate) "
BANNER = f"trapgate {__version__} monitor - type 'help' for more information\n".encode()
#: Bytes of a line: what is longer is no command.
LONGEST_LINE = 4096
#: Lines that wait for the guest to be stopped.
MOST_LINES = 256
#: Lines that the terminal remembers.
HISTORY = 100


class _Lines(ABC):
    """Lines to carry out, and how to print: what all monitors have in common."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._lines: deque[str] = deque(maxlen=MOST_LINES)

    @abstractmethod
    def write(self, data: bytes) -> None:
        """Print. Lines end in a newline."""

    def serve(self) -> Resume | None:
        """Carry out what waits. How the guest goes on is the session's to know."""
        while self._lines and not self._session.busy:
            self.write(execute(self._session, self._lines.popleft()).encode(errors="replace") + PROMPT)
        return None

    def report(self, stop: Stop) -> None:
        """A monitor is not told of stops."""
        return None


class ChannelMonitor(_Lines):
    """A monitor on a channel that gives whole lines: a socket, or standard input."""

    def __init__(self, session: Session, listener: Listener | None, channel: Channel | None = None) -> None:
        super().__init__(session)
        self._listener, self._channel = listener, channel
        self._pending = b""
        if channel is not None:
            channel.send(BANNER + PROMPT)

    @property
    def attached(self) -> bool:
        """Whether somebody is there."""
        return self._channel is not None

    def filenos(self) -> Sequence[int]:
        """The channel's, or where somebody may come."""
        source = self._channel or self._listener
        return () if source is None else (source.fileno(),)

    def look(self) -> bool:
        """Take lines."""
        channel = self._channel
        if channel is None:
            if self._listener is None:
                return False
            channel = self._channel = self._listener.accept()
            if channel is None:
                return False
            self._pending = b""
            channel.send(BANNER + PROMPT)
        *lines, self._pending = (self._pending + channel.receive()).replace(b"\r\n", b"\n").split(b"\n")
        if len(self._pending) > LONGEST_LINE:
            self._pending = b""
            channel.send(b"the line is too long\n" + PROMPT)
        self._lines += (line[:LONGEST_LINE].decode(errors="replace") for line in lines)
        channel.flush()
        if channel.closed and not self._lines:
            self._channel = None
        return bool(self._lines)

    def write(self, data: bytes) -> None:
        """Print at the channel's other end."""
        if self._channel is not None:
            self._channel.send(data)

    def close(self) -> None:
        """The run is over."""
        if self._channel is not None:
            self._channel.flush()
            self._channel.close()
        if self._listener is not None:
            self._listener.close()


class TerminalMonitor(_Lines):
    """A monitor at a terminal in raw mode: it echoes, edits and remembers lines itself."""

    def __init__(self, session: Session, show: Callable[[bytes], None]) -> None:
        super().__init__(session)
        self._show = show
        self._line = bytearray()
        self._history: deque[bytes] = deque(maxlen=HISTORY)
        self._place = 0
        self._escape = b""

    def filenos(self) -> Sequence[int]:
        """The console is looked at by whoever reads it."""
        return ()

    def look(self) -> bool:
        """Whether there are lines."""
        return bool(self._lines)

    def write(self, data: bytes) -> None:
        """Print at the terminal."""
        self._show(data.replace(b"\n", b"\r\n"))

    def enter(self) -> None:
        """The keys come here from now on."""
        self.write(b"\n" + BANNER + PROMPT + bytes(self._line))

    def leave(self) -> None:
        """They go to the guest again."""
        self.write(b"\n")

    def feed(self, data: bytes) -> None:
        """Take keys."""
        for byte in data:
            self._key(byte)
        self._session.look()

    def _key(self, byte: int) -> None:
        if self._escape or byte == 0x1B:
            self._arrow(byte)
        elif byte in b"\r\n":
            line = bytes(self._line)
            self._line.clear()
            self.write(b"\n")
            if line.strip():
                self._history.append(line)
            self._place = len(self._history)
            self._lines.append(line.decode(errors="replace"))
        elif byte in (0x08, 0x7F):
            if self._line:
                self._line.pop()
                self._show(b"\b \b")
        elif byte in (0x03, 0x15):  # Ctrl-C, Ctrl-U
            self._replace(b"")
        elif byte >= 0x20 and len(self._line) < LONGEST_LINE:
            self._line.append(byte)
            self._show(bytes((byte,)))

    def _arrow(self, byte: int) -> None:
        """Up and down, ESC [ A and ESC [ B; other sequences do nothing."""
        self._escape += bytes((byte,))
        if self._escape in (b"\x1b", b"\x1b[", b"\x1bO"):
            return
        key, self._escape = self._escape[-1:], b""
        if key in b"AB":
            place = self._place + (1 if key == b"B" else -1)
            if 0 <= place <= len(self._history):
                self._place = place
                self._replace(self._history[place] if place < len(self._history) else b"")

    def _replace(self, line: bytes) -> None:
        self._show(b"\b \b" * len(self._line) + line)
        self._line = bytearray(line)

    def close(self) -> None:
        """The run is over."""
