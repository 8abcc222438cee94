"""Why a run stopped: one class for each reason, made for `match`."""

from __future__ import annotations

import re
from dataclasses import dataclass

from trapgate.api.accesses import MemoryAccess
from trapgate.cpu.faults import NAMES


@dataclass(frozen=True, slots=True)
class ConsoleMatch:
    """The pattern has appeared on the console. `text` is what came before it, since the match before."""

    text: str
    matched: str
    #: None where the pattern is a plain text.
    match: re.Match[str] | None = None

    def __str__(self) -> str:
        return f"{self.matched!r} on the console"


@dataclass(frozen=True, slots=True)
class AddressReached:
    """The instruction at linear `address`, which `until_address` named, comes next."""

    address: int

    def __str__(self) -> str:
        return f"address {self.address:#x} reached"


@dataclass(frozen=True, slots=True)
class BreakpointHit:
    """The instruction at linear `address`, which has a breakpoint, comes next."""

    address: int

    def __str__(self) -> str:
        return f"breakpoint at {self.address:#x}"


@dataclass(frozen=True, slots=True)
class WatchpointHit:
    """The instruction at `rip` has made `access`; the next one has not begun."""

    rip: int
    access: MemoryAccess

    def __str__(self) -> str:
        return f"{self.access} by the instruction at {self.rip:#x}"


@dataclass(frozen=True, slots=True)
class ExceptionTaken:
    """An exception that `until_exception` names was delivered: the first instruction of its handler comes next.

    `rip` is that of the instruction that raised it; `address` is the linear address of a page fault.
    """

    vector: int
    error: int | None
    rip: int
    address: int | None

    def __str__(self) -> str:
        place = "" if self.address is None else f" for {self.address:#x}"
        return f"{NAMES.get(self.vector, self.vector)}{place} at {self.rip:#x}"


@dataclass(frozen=True, slots=True)
class DeadlineReached:
    """The time or the number of instructions that the run was given is over."""

    #: "seconds", "cycles" or "instructions".
    what: str

    def __str__(self) -> str:
        return f"the {self.what} of the run are used up"


@dataclass(frozen=True, slots=True)
class StepsDone:
    """step() has done all its instructions."""

    def __str__(self) -> str:
        return "all steps are done"


@dataclass(frozen=True, slots=True)
class StopRequested:
    """A hook, a device or a callback has called machine.stop()."""

    def __str__(self) -> str:
        return "the program asked for it"


@dataclass(frozen=True, slots=True)
class PoweredOff:
    """The guest turned the machine off."""

    def __str__(self) -> str:
        return "power off"


@dataclass(frozen=True, slots=True)
class GuestExited:
    """The guest wrote to isa-debug-exit (port F4h); `status` is (value << 1) | 1, as in QEMU."""

    status: int

    def __str__(self) -> str:
        return f"guest exit with status {self.status}"


@dataclass(frozen=True, slots=True)
class ResetRequested:
    """The guest asked for a reset of the whole machine."""

    def __str__(self) -> str:
        return "reset"


@dataclass(frozen=True, slots=True)
class Halted:
    """The processor sleeps and nothing can wake it."""

    def __str__(self) -> str:
        return "halted for ever"


@dataclass(frozen=True, slots=True)
class TripleFault:
    """The processor has shut down: an exception while delivering a double fault."""

    def __str__(self) -> str:
        return "triple fault"


@dataclass(frozen=True, slots=True)
class Unimplemented:
    """The guest used something that trapgate does not have yet; `report` says what and where."""

    report: str

    def __str__(self) -> str:
        return self.report


Result = (
    ConsoleMatch
    | AddressReached
    | BreakpointHit
    | WatchpointHit
    | ExceptionTaken
    | DeadlineReached
    | StepsDone
    | StopRequested
    | PoweredOff
    | GuestExited
    | ResetRequested
    | Halted
    | TripleFault
    | Unimplemented
)
