"""How a run is ended: by the guest through a device, or by the user."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class PowerOff:
    """The guest turned the machine off (ACPI S5)."""


@dataclass(frozen=True, slots=True)
class GuestExit:
    """The guest ended the run through isa-debug-exit; `status` is (value << 1) | 1, as in QEMU."""

    status: int


@dataclass(frozen=True, slots=True)
class Reset:
    """The guest asked for a reset of the whole machine."""


@dataclass(frozen=True, slots=True)
class UserQuit:
    """The user ended the run (Ctrl-A X, Ctrl-C)."""


@dataclass(frozen=True, slots=True)
class DebugStop:
    """A debugger or a monitor wants to look between two instructions: the run goes on afterwards."""


StopRequest = PowerOff | GuestExit | Reset | UserQuit | DebugStop


class RunControl:
    """Why the run must end; None while it may go on. The run loop looks after every device access."""

    __slots__ = ("request",)

    def __init__(self) -> None:
        self.request: StopRequest | None = None

    def stop(self, request: StopRequest) -> None:
        """Ask for the end of the run. The first request wins, but for a debugger's; later ones are ignored."""
        if self.request is None or isinstance(self.request, DebugStop):
            self.request = request

    def forget_debug_stop(self) -> None:
        """The debugger has looked."""
        if isinstance(self.request, DebugStop):
            self.request = None
