"""What tests of the command line share."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from trapgate.arch.costs import DEFAULT_COSTS, profile

#: Costs in which what a test counts can be worked out by hand: no caches in the walker, interrupts for nothing.
PLAIN_COSTS = replace(profile(DEFAULT_COSTS), walk_cache_entries=0, nested_tlb_entries=0, interrupt=0, device_memory=0)
ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Answer:
    """How a command line ended: its exit status and what it printed."""

    status: int
    output: str
    errors: str


Command = Callable[..., Answer]


def child_environment(**extra: str) -> dict[str, str]:
    """This process's environment, with the sources under test first on the path."""
    return {**os.environ, "PYTHONPATH": str(ROOT / "src"), **extra}
