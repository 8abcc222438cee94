"""The serial console (COM1): what the guest has sent, and a way to send to it."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Protocol

from trapgate.api.errors import InvalidArgument
from trapgate.api.results import ConsoleMatch

#: A compiled pattern is looked for in this many of the last bytes.
WINDOW = 4096

Pattern = str | re.Pattern[str]


class Receiver(Protocol):
    """Takes what is typed."""

    def receive(self, data: bytes) -> None:
        """Bytes that a person's terminal sends."""


class Console:
    """Text of the guest. Also what the UART and the debug port E9h write to."""

    def __init__(self) -> None:
        self.bytes = bytearray()
        self._receiver: Receiver | None = None
        self._searched = 0
        self._pattern: Pattern | None = None
        self._needle = b""
        self._on_match: Callable[[ConsoleMatch], None] = lambda match: None
        #: Called with the bytes that the guest sends.
        self.on_output: Callable[[bytes], None] | None = None

    def connect(self, receiver: Receiver) -> None:
        """Send there from now on."""
        self._receiver = receiver

    @property
    def text(self) -> str:
        """All that the guest has sent, as UTF-8; bytes that are none are replaced."""
        return self.bytes.decode(errors="replace")

    def tail(self, lines: int = 20) -> str:
        """The last lines, without trailing blanks."""
        kept = self.text.replace("\r", "").rstrip("\n").split("\n")[-lines:]
        return "\n".join(line.rstrip() for line in kept)

    def send(self, data: str | bytes) -> None:
        """Type `data`. It goes over the line at the line's speed, at cycles that depend on nothing but the guest.

        A guest that was booted through the BIOS and does not use COM1 gets it as keys.

        A guest that does not listen yet may lose it: run until its prompt first.
        """
        assert self._receiver is not None
        if not isinstance(data, str | bytes | bytearray):
            raise InvalidArgument("a text or bytes to send", repr(data), "make a text of it with str()")
        self._receiver.receive(data.encode() if isinstance(data, str) else bytes(data))

    def write(self, data: bytes) -> None:
        """Take what the guest sends."""
        self.bytes += data
        if self.on_output is not None:
            self.on_output(data)
        if self._pattern is not None:
            self._search()

    def watch(self, pattern: Pattern, on_match: Callable[[ConsoleMatch], None]) -> None:
        """Call `on_match` once when `pattern` appears behind the last match; at once if it is there already."""
        self._pattern, self._on_match = pattern, on_match
        self._needle = pattern.encode() if isinstance(pattern, str) else b""
        self._search(everything=True)

    def unwatch(self) -> None:
        """Look for nothing any more."""
        self._pattern = None

    def _search(self, everything: bool = False) -> None:
        pattern, start = self._pattern, self._searched
        if isinstance(pattern, str):
            # New bytes come one at a time, so only the end has to be looked at.
            begin = start if everything else max(start, len(self.bytes) - len(self._needle))
            position = self.bytes.find(self._needle, begin)
            if position >= 0:
                self._found(position, position + len(self._needle), None)
        elif pattern is not None:
            begin = max(start, len(self.bytes) - WINDOW)
            window = self.bytes[begin:].decode("latin-1")
            match = pattern.search(window)
            if match is not None:
                self._found(begin + match.start(), begin + match.end(), match)

    def _found(self, begin: int, end: int, match: re.Match[str] | None) -> None:
        text = self.bytes[self._searched : begin].decode(errors="replace")
        matched = self.bytes[begin:end].decode(errors="replace")
        self._searched = end
        self._pattern = None
        self._on_match(ConsoleMatch(text, matched, match))
