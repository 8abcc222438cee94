"""What a case is and what came of it."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..areas import Case
from .world import MachineState, Mode

#: How a case ended.
HALTED, SHUTDOWN, OUTSIDE, ENDLESS, UNIMPLEMENTED = "halted", "shutdown", "outside memory", "endless", "unimplemented"


@dataclass
class SystemCase:
    """Code, the registers that it starts with, and what it finds in memory beside the mode's template."""

    mode: Mode
    code: bytes
    state: MachineState
    #: (guest-physical address, bytes), in the order in which they are written; the code is put after them.
    patches: list[tuple[int, bytes]] = field(default_factory=list)
    family: str = ""
    seed: int = 0
    #: Whether debug registers and MSRs are set and compared.
    uses_dr: bool = False
    uses_msrs: bool = False
    #: Of a case that was made for the other oracles: what of it is not defined.
    plain: Case | None = None


@dataclass
class SystemOutcome:
    """How a case ended, the registers then, and memory: (guest-physical page address, its bytes) where it changed."""

    ended: str
    state: MachineState
    pages: dict[int, bytes]
    details: str = ""
