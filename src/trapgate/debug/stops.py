"""Why a guest that is debugged has stopped."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal[
    "attached", "step", "breakpoint", "watchpoint", "interrupt", "begin", "loaded", "shutdown", "unimplemented", "ended"
]


@dataclass(frozen=True, slots=True)
class Stop:
    """`attached`: somebody has come; `begin`: there is no earlier state to go back to; `ended`: the run is over.

    `address` is a breakpoint's, or that of the access which a watchpoint of the kind `watch` has seen.
    """

    kind: Kind
    address: int = 0
    watch: str = ""


@dataclass(frozen=True, slots=True)
class Resume:
    """What is to be done next: go on, one instruction, or the same backwards."""

    step: bool = False
    backwards: bool = False
