"""A parallel port in its standard mode, with a printer that is always ready: what a guest prints goes to a back end.

The printer takes 10 us for a byte: it is busy from the strobe on, and acknowledges for the second half of that.

Sources: IBM PC AT Technical Reference, "Parallel Printer Adapter" (registers, interrupt); IEEE 1284-1994,
"Compatibility Mode" (handshake).
"""

from __future__ import annotations

from typing import ClassVar

from trapgate.machine.clock import Clock, Event
from trapgate.machine.console import ConsoleBackend
from trapgate.machine.device import IrqLine, PlainState, Snapshot

# Register offsets.
DATA, STATUS, CONTROL = 0, 1, 2
PORTS = 3

# Status. BUSY and ACK are as the guest reads them: 0 while the printer is busy, or acknowledges.
NOT_BUSY = 0x80
NOT_ACK = 0x40
SELECTED = 0x10
NO_ERROR = 0x08
#: Not connected, and so high. Were bit 0 low, drivers would take the port for an EPP.
UNUSED_STATUS = 0x07

# Control: bits that a guest can write; the others read 1.
STROBE = 0x01
NOT_INIT = 0x04
SELECT_IN = 0x08
IRQ_ENABLE = 0x10
WRITABLE = 0x1F
UNUSED = 0xE0

#: Microseconds from the end of the strobe to the acknowledgement, and to its end (assumed; IEEE 1284 has 0.5 us at
#: least for the latter).
ACKNOWLEDGE_AFTER, READY_AFTER = 5, 10


class ParallelPort(PlainState):
    """Ports `offset` 0 to 2."""

    STATE: ClassVar[tuple[str, ...]] = ("data", "control", "taken_at", "line", "due", "sent_bytes")

    def __init__(self, name: str, clock: Clock, set_irq: IrqLine, printer: ConsoleBackend) -> None:
        self.name = name
        self.port_width = 1
        self.clock = clock
        self.set_irq = set_irq
        self._printer = printer
        self._event: Event | None = None
        #: Bytes printed (metric).
        self.sent_bytes = 0
        self.line = False
        self.reset()

    def reset(self) -> None:
        """The printer is ready and selected, no interrupt is enabled."""
        self.data = 0
        self.control = NOT_INIT | SELECT_IN
        #: The cycle at which the strobe for the last byte ended; -1: the printer is idle.
        self.taken_at = -1
        #: The cycle at which the acknowledgement ends and interrupts; -1: none is awaited.
        self.due = -1
        self._cancel()
        self._set_line(False)

    # The printer

    def _cycles(self, microseconds: int) -> int:
        return self.clock.hz * microseconds // 1_000_000

    def _strobe_begins(self) -> None:
        """The printer takes the byte when it is selected, not being initialised, and has taken the one before."""
        if self.control & SELECT_IN and self.control & NOT_INIT and not self._is_busy():
            self.sent_bytes += 1
            self._printer.write(bytes((self.data,)))
            self.taken_at = self.clock.now

    def _strobe_ends(self) -> None:
        if self.taken_at < 0:
            return
        self.taken_at = self.clock.now
        self.due = self.clock.now + self._cycles(READY_AFTER)

    def _is_busy(self) -> bool:
        return self.taken_at >= 0 and self.clock.now < self.taken_at + self._cycles(READY_AFTER)

    def _expect(self) -> None:
        """An interrupt at the end of the acknowledgement, while it is enabled."""
        self._cancel()
        if self.due > self.clock.now and self.control & IRQ_ENABLE:
            self._event = self.clock.schedule(self.due, self._acknowledged)

    def _cancel(self) -> None:
        if self._event is not None:
            self.clock.cancel(self._event)
            self._event = None

    def _acknowledged(self) -> None:
        self._event = None
        self.due = -1
        self._set_line(True)

    def _set_line(self, level: bool) -> None:
        if level != self.line:
            self.line = level
            self.set_irq(level)

    # Access

    def read_port(self, offset: int, width: int) -> int:
        """A register; reading the status takes the interrupt back."""
        if offset == DATA:
            return self.data
        if offset == CONTROL:
            return self.control | UNUSED
        self._set_line(False)
        status = NOT_BUSY | NOT_ACK | SELECTED | NO_ERROR | UNUSED_STATUS
        if self.control & STROBE and self.taken_at >= 0:
            return status & ~NOT_BUSY
        if self._is_busy():
            status &= ~NOT_BUSY
            if self.clock.now >= self.taken_at + self._cycles(ACKNOWLEDGE_AFTER):
                status &= ~NOT_ACK
        return status

    def write_port(self, offset: int, width: int, value: int) -> None:
        """Data is latched; the strobe's edges are in the control register. The status is for reading."""
        if offset == DATA:
            self.data = value
        elif offset == CONTROL:
            before, self.control = self.control, value & WRITABLE
            if self.control & ~before & STROBE:
                self._strobe_begins()
            elif before & ~self.control & STROBE:
                self._strobe_ends()
            if not self.control & IRQ_ENABLE:
                self._set_line(False)
            if not self.control & NOT_INIT:
                # The printer starts again.
                self.taken_at = self.due = -1
            self._expect()

    # Snapshot

    def restore(self, snapshot: Snapshot) -> None:
        """Put back the registers, and wait on for the acknowledgement; the line itself is the PIC's to restore."""
        super().restore(snapshot)
        self._expect()
