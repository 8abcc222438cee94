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


StopRequest = PowerOff | GuestExit | Reset | UserQuit


class RunControl:
    """Why the run must end; None while it may go on. The run loop looks after every device access."""

    __slots__ = ("request",)

    def __init__(self) -> None:
        self.request: StopRequest | None = None

    def stop(self, request: StopRequest) -> None:
        """Ask for the end of the run. The first request wins; later ones are ignored."""
        if self.request is None:
            self.request = request
