"""The processor's pins that the board drives, and the bus cycle by which it answers.

The engine implements ProcessorPins; the board implements InterruptAcknowledge.
"""

from __future__ import annotations

from typing import Protocol

from trapgate.machine.device import IrqLine

__all__ = ["InterruptAcknowledge", "IrqLine", "ProcessorPins"]


class ProcessorPins(Protocol):
    """What boards and devices drive on the processor."""

    def set_intr(self, level: bool) -> None:
        """Set the level of INTR; called whenever it changes."""

    def pulse_nmi(self) -> None:
        """Signal one non-maskable interrupt."""

    def pulse_smi(self) -> None:
        """Signal one system management interrupt."""

    def request_reset(self) -> None:
        """Reset the processor (INIT#): the board's devices keep their state."""

    def set_a20(self, enabled: bool) -> None:
        """False forces address line 20 to 0 (A20M#)."""


class InterruptAcknowledge(Protocol):
    """The interrupt acknowledge cycle."""

    def acknowledge(self) -> int:
        """The vector (0..255) of the interrupt that the processor takes because INTR is high."""
