"""Ports for developers: isa-debug-exit (F4h), POST codes (80h) and the debug console (E9h).

Sources: QEMU, hw/misc/debugexit.c (exit status); IBM PC AT Technical Reference (port 80h is a free DMA page register
that BIOSes use for POST codes); Bochs user manual, "port_e9_hack".
"""

from __future__ import annotations

from typing import ClassVar

from trapgate.machine.console import ConsoleBackend
from trapgate.machine.control import GuestExit, RunControl
from trapgate.machine.device import PlainState

#: What a read of port E9h gives where the debug console exists.
E9_PRESENT = 0xE9


class DebugExit(PlainState):
    """isa-debug-exit: a write ends the run with status (value << 1) | 1."""

    __slots__ = ("control", "name", "port_width")

    def __init__(self, control: RunControl) -> None:
        self.name = "isa-debug-exit"
        self.port_width = 4
        self.control = control

    def reset(self) -> None:
        """The device has no state."""

    def read_port(self, offset: int, width: int) -> int:
        """Always 0."""
        return 0

    def write_port(self, offset: int, width: int, value: int) -> None:
        """End the run."""
        self.control.stop(GuestExit((value << 1) | 1))


class PostCode(PlainState):
    """Port 80h: keeps the last byte; its accesses are also the traditional 1 us delay."""

    __slots__ = ("name", "port_width", "value")

    STATE: ClassVar[tuple[str, ...]] = ("value",)

    def __init__(self) -> None:
        self.name = "post"
        self.port_width = 1
        self.value = 0

    def reset(self) -> None:
        """No code yet."""
        self.value = 0

    def read_port(self, offset: int, width: int) -> int:
        """The last byte written."""
        return self.value

    def write_port(self, offset: int, width: int, value: int) -> None:
        """Keep a POST code."""
        self.value = value


class DebugConsole(PlainState):
    """Port E9h: bytes written go to a console."""

    __slots__ = ("console", "name", "port_width", "written_bytes")

    STATE: ClassVar[tuple[str, ...]] = ("written_bytes",)

    def __init__(self, console: ConsoleBackend) -> None:
        self.name = "debug-console"
        self.port_width = 1
        self.console = console
        #: Bytes that the guest wrote (metric).
        self.written_bytes = 0

    def reset(self) -> None:
        """The device has no state that a guest sees."""

    def read_port(self, offset: int, width: int) -> int:
        """E9h, by which guests find the device."""
        return E9_PRESENT

    def write_port(self, offset: int, width: int, value: int) -> None:
        """Send one byte to the console."""
        self.write(bytes((value,)))

    def write(self, data: bytes) -> None:
        """Send bytes to the console."""
        self.written_bytes += len(data)
        self.console.write(data)
