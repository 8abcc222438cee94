"""A machine's state."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from trapgate.lab.snapshots.content import Content
from trapgate.lab.snapshots.media import MediumState


@dataclass(frozen=True, slots=True)
class MachineState:
    """Everything that a machine was, in plain values. States are never changed, and may share what they have alike.

    `configuration` says what the machine is made of: only such a one can take the state. `parts` are the processor,
    the clock, the board and so on; `block` is the processor's state block; `run` is for whoever runs the machine.
    """

    configuration: dict[str, Any]
    parts: dict[str, Any] = field(repr=False)
    block: bytes = field(repr=False)
    memory: Content = field(repr=False)
    media: tuple[MediumState | None, ...] = ()
    run: dict[str, Any] = field(default_factory=dict, repr=False)

    @property
    def cycle(self) -> int:
        """The modelled cycle at which it was taken."""
        cycle: int = self.parts["clock"]["now"]
        return cycle

    @property
    def instructions(self) -> int:
        """The guest's instructions until then."""
        processor: int = self.parts["processor"]["instructions"]
        host: dict[str, int] = self.parts.get("host", {})
        return processor + host.get("emulated", 0)
