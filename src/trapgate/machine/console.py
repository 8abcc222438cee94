"""Where a serial port's bytes go. Input comes the other way: the owner of the terminal calls the UART's `receive`."""

from __future__ import annotations

from typing import Protocol


class ConsoleBackend(Protocol):
    """Takes what the guest sends."""

    def write(self, data: bytes) -> None:
        """Take the bytes `data`, in order."""


class NullConsole:
    """A console that nobody reads."""

    __slots__ = ()

    def write(self, data: bytes) -> None:
        """Drop `data`."""


class MemoryConsole:
    """A console that keeps everything in `data`."""

    __slots__ = ("data",)

    def __init__(self) -> None:
        self.data = bytearray()

    def write(self, data: bytes) -> None:
        """Append `data`."""
        self.data += data
