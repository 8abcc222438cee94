"""How a run ends."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from trapgate.machine.control import GuestExit, PowerOff, Reset, StopRequest

#: `halted`: the processor sleeps and nothing can wake it. `user-quit`: the user's wish. `limit`: --max-instructions.
Reason = Literal["power-off", "guest-exit", "reset", "halted", "user-quit", "triple-fault", "unimplemented", "limit"]


@dataclass(frozen=True, slots=True)
class End:
    """How the machine stopped.

    `guest_status` is isa-debug-exit's (value << 1) | 1, whole. `report` has lines for the user: registers and code
    around a triple fault, what is not implemented.
    """

    reason: Reason
    guest_status: int = 0
    report: str = ""
    #: What the guest asked of the firmware and did not get, one line each.
    notes: tuple[str, ...] = ()


def requested_end(request: StopRequest) -> End:
    """The end that the guest or the user asked for."""
    match request:
        case PowerOff():
            return End("power-off")
        case GuestExit(status):
            return End("guest-exit", guest_status=status)
        case Reset():
            return End("reset")
        case _:
            return End("user-quit")
