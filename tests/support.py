"""What tests of the command line share."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

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
