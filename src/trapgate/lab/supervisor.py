"""Who may stop a run between two instructions and let it go on: a debugger."""

from __future__ import annotations

from typing import Protocol


class Supervisor(Protocol):
    """Asked before a run's first instruction, and whenever the run has stopped."""

    @property
    def pause_at(self) -> int | None:
        """Instructions at which it wants to have a look, for the bare machine as a stop, else between two entries."""

    @property
    def limit(self) -> int | None:
        """Instructions at which the run is to be stopped next; None: nowhere."""

    def begin(self, end: int | None) -> bool:
        """The guest stands at its first instruction: whether it is to run. The run ends at `end` instructions."""

    def stopped(self, reason: str) -> bool:
        """The run has stopped, for a reason of engine/processor.py: Stopped. True when it is to go on."""

    def returned(self, reason: str) -> bool:
        """A hypervisor's loop has returned. True when it is to be entered again."""

    def close(self) -> None:
        """The run is over."""
