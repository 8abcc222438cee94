"""The PC's x87 error logic: FERR# to IRQ 13, port F0h to IGNNE#.

Source: IBM PC AT Technical Reference, "Coprocessor" (port F0h clears the latched error, F1h resets the unit); Intel SDM
vol. 1, appendix D "Guidelines for Writing x87 FPU Exception Handlers", D.2.1.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

from trapgate.machine.device import IrqLine, PlainState

IRQ = 13


class NumericError(PlainState):
    """Latches FERR# until the handler of IRQ 13 writes port F0h."""

    __slots__ = ("irq", "latched", "name", "port_width", "set_ignne")

    STATE: ClassVar[tuple[str, ...]] = ("latched",)

    def __init__(self, irq: IrqLine) -> None:
        self.name = "numeric-error"
        self.port_width = 1
        self.irq = irq
        #: Drives the processor's IGNNE#; the machine connects it.
        self.set_ignne: Callable[[bool], None] = lambda level: None
        self.latched = False

    def reset(self) -> None:
        """No error."""
        self.latched = False
        self.irq(False)

    def set_ferr(self, level: bool) -> None:
        """The processor's FERR#: a rise is latched."""
        if level and not self.latched:
            self.latched = True
            self.irq(True)

    def read_port(self, offset: int, width: int) -> int:
        """Nothing drives the bus."""
        return 0xFF

    def write_port(self, offset: int, width: int, value: int) -> None:
        """Port F0h (offset 0), any value: the latch is cleared and IGNNE# asserted."""
        if offset == 0 and self.latched:
            self.latched = False
            self.irq(False)
            self.set_ignne(True)

    def after_restore(self) -> None:
        """Drive the line again."""
        self.irq(self.latched)
