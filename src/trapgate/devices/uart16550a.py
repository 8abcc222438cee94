"""A serial port: the National Semiconductor 16550A with its FIFOs.

Sending takes no time: a byte written to the transmitter is at the console at once, and the transmitter is always empty.
Receiving takes one character's time per byte, in modelled cycles, from the port's own baud rate.

Source: National Semiconductor PC16550D data sheet (TL/C/8652), section 8, "Registers".
"""

from __future__ import annotations

from collections import deque
from typing import ClassVar

from trapgate.machine.clock import Clock, Event
from trapgate.machine.console import ConsoleBackend
from trapgate.machine.device import IrqLine, PlainState, Snapshot

#: Hz: the crystal of a PC's serial port; the baud rate is this / 16 / divisor.
CRYSTAL = 1_843_200
FIFO_SIZE = 16

# Register offsets.
DATA = 0
INTERRUPT_ENABLE = 1
INTERRUPT_IDENTIFICATION = 2  # read; written it is FIFO control
LINE_CONTROL = 3
MODEM_CONTROL = 4
LINE_STATUS = 5
MODEM_STATUS = 6
SCRATCH = 7

IER_RECEIVED = 0x01
IER_TRANSMITTER_EMPTY = 0x02
IER_LINE_STATUS = 0x04
IER_MODEM_STATUS = 0x08

IIR_NONE = 0x01
IIR_LINE_STATUS = 0x06
IIR_RECEIVED = 0x04
IIR_TIMEOUT = 0x0C
IIR_TRANSMITTER_EMPTY = 0x02
IIR_MODEM_STATUS = 0x00
IIR_FIFOS = 0xC0

FCR_ENABLE = 0x01
FCR_CLEAR_RECEIVER = 0x02
FCR_TRIGGER_SHIFT = 6
TRIGGER_LEVELS = (1, 4, 8, 14)

LCR_WORD_MASK = 0x03
LCR_STOP = 0x04
LCR_PARITY = 0x08
LCR_DIVISOR = 0x80

MCR_WRITABLE = 0x1F
MCR_DTR = 0x01
MCR_OUT2 = 0x08
MCR_LOOP = 0x10

LSR_READY = 0x01
LSR_OVERRUN = 0x02
LSR_ERRORS = 0x1E
LSR_EMPTY = 0x60  # THRE and TEMT

MSR_DELTA_MASK = 0x0F
MSR_RING = 0x40
#: CTS, DSR and DCD: what a connected terminal asserts.
MSR_CONNECTED = 0xB0

#: Bytes on the wire with which no more are asked for.
ENOUGH_INPUT = 4096

#: Character times without a read after which data below the trigger level interrupts ("FIFO Interrupt Mode").
TIMEOUT_CHARACTERS = 4


class Uart16550A(PlainState):
    """Ports `offset` 0 to 7."""

    __slots__ = (
        "_arrival",
        "_timeout",
        "clock",
        "console",
        "divisor",
        "fifo",
        "fifo_enabled",
        "ier",
        "incoming",
        "lcr",
        "line",
        "lsr_errors",
        "mcr",
        "modem_inputs",
        "msr",
        "name",
        "next_arrival",
        "port_width",
        "received_bytes",
        "scratch",
        "sent_bytes",
        "set_irq",
        "thre_pending",
        "timed_out",
        "timeout_at",
        "trigger",
    )

    STATE: ClassVar[tuple[str, ...]] = (
        "divisor",
        "fifo_enabled",
        "ier",
        "lcr",
        "line",
        "lsr_errors",
        "mcr",
        "msr",
        "next_arrival",
        "received_bytes",
        "scratch",
        "sent_bytes",
        "thre_pending",
        "timed_out",
        "timeout_at",
        "trigger",
    )
    NESTED: ClassVar[tuple[str, ...]] = ("fifo", "incoming", "arriving")

    def __init__(
        self, name: str, clock: Clock, set_irq: IrqLine, console: ConsoleBackend, connected: bool = True
    ) -> None:
        """`connected`: a terminal at the other end asserts CTS, DSR and DCD."""
        self.name = name
        self.port_width = 1
        self.clock = clock
        self.set_irq = set_irq
        self.console = console
        self.modem_inputs = MSR_CONNECTED if connected else 0
        #: Bytes to the console and from it (metrics).
        self.sent_bytes = 0
        self.received_bytes = 0
        self.fifo: deque[int] = deque()
        #: Bytes on the wire, that have not arrived in the receiver.
        self.incoming: deque[int] = deque()
        self._arrival: Event | None = None
        self._timeout: Event | None = None
        self.next_arrival = 0
        self.line = False
        self.reset()

    def reset(self) -> None:
        """Master reset (data sheet, table II). Bytes on the wire are lost."""
        self.ier = 0
        self.lcr = 0
        self.mcr = 0
        self.lsr_errors = 0
        self.msr = self.modem_inputs
        self.scratch = 0
        #: The data sheet leaves it undefined; 9600 baud is what PC firmware sets.
        self.divisor = 12
        self.fifo_enabled = False
        self.trigger = 1
        self.thre_pending = False
        self.timed_out = False
        self.timeout_at = 0
        self.fifo.clear()
        self.incoming.clear()
        self._cancel_arrival()
        self._stop_timeout()
        self._update()

    # Interrupts

    def _source(self) -> int:
        """The interrupt of highest priority as the IIR's low 4 bits (data sheet, table IV)."""
        ier = self.ier
        if ier & IER_LINE_STATUS and self.lsr_errors:
            return IIR_LINE_STATUS
        if ier & IER_RECEIVED:
            if len(self.fifo) >= self.trigger:
                return IIR_RECEIVED
            if self.timed_out:
                return IIR_TIMEOUT
        if ier & IER_TRANSMITTER_EMPTY and self.thre_pending:
            return IIR_TRANSMITTER_EMPTY
        if ier & IER_MODEM_STATUS and self.msr & MSR_DELTA_MASK:
            return IIR_MODEM_STATUS
        return IIR_NONE

    def _update(self) -> None:
        # On a PC's serial card OUT2 gates the interrupt onto the bus.
        level = bool(self.mcr & MCR_OUT2) and self._source() != IIR_NONE
        if level != self.line:
            self.line = level
            self.set_irq(level)

    # Receiving

    @property
    def wants_input(self) -> bool:
        """Whether the guest takes input: its terminal is ready (DTR) or waits for bytes, and few are on the wire."""
        is_ready = self.ier & IER_RECEIVED or self.mcr & MCR_DTR
        return bool(is_ready) and not self.mcr & MCR_LOOP and len(self.incoming) < ENOUGH_INPUT

    def character_cycles(self) -> int:
        """Cycles that one character takes on the wire: start, data, parity and stop bits."""
        bits = 7 + (self.lcr & LCR_WORD_MASK) + bool(self.lcr & LCR_PARITY) + bool(self.lcr & LCR_STOP)
        return max(1, bits * 16 * (self.divisor or 0x10000) * self.clock.hz // CRYSTAL)

    def receive(self, data: bytes) -> None:
        """Put `data` on the wire to the guest. It arrives a character at a time, and waits while the FIFO is full."""
        self.incoming += data
        if self._arrival is None:
            self.next_arrival = max(self.next_arrival, self.clock.now + self.character_cycles())
            self._expect_arrival()

    def _expect_arrival(self) -> None:
        capacity = FIFO_SIZE if self.fifo_enabled else 1
        if self._arrival is None and self.incoming and len(self.fifo) < capacity and not self.mcr & MCR_LOOP:
            self._arrival = self.clock.schedule(max(self.next_arrival, self.clock.now + 1), self._arrive)

    def _cancel_arrival(self) -> None:
        if self._arrival is not None:
            self.clock.cancel(self._arrival)
            self._arrival = None

    def _arrive(self) -> None:
        self._arrival = None
        if not self.incoming:
            return
        self.received_bytes += 1
        self._put(self.incoming.popleft())
        self.next_arrival = max(self.next_arrival, self.clock.now) + self.character_cycles()
        self._expect_arrival()

    def _put(self, byte: int) -> None:
        """A character has arrived in the receiver."""
        fifo = self.fifo
        if self.fifo_enabled:
            if len(fifo) >= FIFO_SIZE:
                self.lsr_errors |= LSR_OVERRUN
            else:
                fifo.append(byte)
            self._start_timeout()
        else:
            if fifo:
                fifo.clear()
                self.lsr_errors |= LSR_OVERRUN
            fifo.append(byte)
        self._update()

    def _start_timeout(self) -> None:
        self._stop_timeout()
        if self.fifo and self.fifo_enabled:
            self.timeout_at = self.clock.now + TIMEOUT_CHARACTERS * self.character_cycles()
            self._timeout = self.clock.schedule(self.timeout_at, self._time_out)

    def _stop_timeout(self) -> None:
        self.timed_out = False
        self.timeout_at = 0
        if self._timeout is not None:
            self.clock.cancel(self._timeout)
            self._timeout = None

    def _time_out(self) -> None:
        self._timeout = None
        self.timeout_at = 0
        self.timed_out = True
        self._update()

    def _read_data(self) -> int:
        fifo = self.fifo
        if not fifo:
            return 0
        byte = fifo.popleft()
        self._start_timeout()
        self._expect_arrival()
        self._update()
        return byte

    # Sending

    def _send(self, byte: int) -> None:
        if self.lcr & LCR_WORD_MASK != LCR_WORD_MASK:
            byte &= 0xFF >> (3 - (self.lcr & LCR_WORD_MASK))
        if self.ier & IER_TRANSMITTER_EMPTY:
            # The write takes the interrupt back, and the byte that leaves at once raises it again: an edge.
            self.thre_pending = False
            self._update()
        self.thre_pending = True
        if self.mcr & MCR_LOOP:
            self._put(byte)
            return
        self.sent_bytes += 1
        self.console.write(bytes((byte,)))
        if self.ier & IER_TRANSMITTER_EMPTY:
            self._update()

    # Access

    def read_port(self, offset: int, width: int) -> int:
        """Register `offset`; the divisor's bytes at 0 and 1 while LCR bit 7 is set."""
        if offset == LINE_STATUS:
            status = LSR_EMPTY | self.lsr_errors
            if self.fifo:
                status |= LSR_READY
            if self.lsr_errors:
                self.lsr_errors = 0
                self._update()
            return status
        if offset == DATA:
            return self.divisor & 0xFF if self.lcr & LCR_DIVISOR else self._read_data()
        if offset == INTERRUPT_IDENTIFICATION:
            source = self._source()
            if source == IIR_TRANSMITTER_EMPTY:
                self.thre_pending = False
                self._update()
            return source | IIR_FIFOS if self.fifo_enabled else source
        if offset == INTERRUPT_ENABLE:
            return self.divisor >> 8 if self.lcr & LCR_DIVISOR else self.ier
        if offset == MODEM_STATUS:
            status = self.msr
            if status & MSR_DELTA_MASK:
                self.msr = status & ~MSR_DELTA_MASK
                self._update()
            return status
        if offset == LINE_CONTROL:
            return self.lcr
        if offset == MODEM_CONTROL:
            return self.mcr
        return self.scratch

    def write_port(self, offset: int, width: int, value: int) -> None:
        """Register `offset`; LSR and MSR cannot be written."""
        if offset == DATA:
            if self.lcr & LCR_DIVISOR:
                self.divisor = self.divisor & 0xFF00 | value
            else:
                self._send(value)
        elif offset == INTERRUPT_ENABLE:
            if self.lcr & LCR_DIVISOR:
                self.divisor = self.divisor & 0xFF | value << 8
            else:
                if value & ~self.ier & IER_TRANSMITTER_EMPTY:
                    # Enabling it with an empty transmitter interrupts, even if that was acknowledged before.
                    self.thre_pending = True
                self.ier = value & 0x0F
                self._update()
        elif offset == INTERRUPT_IDENTIFICATION:
            self._write_fifo_control(value)
        elif offset == LINE_CONTROL:
            self.lcr = value
        elif offset == MODEM_CONTROL:
            self.mcr = value & MCR_WRITABLE
            self._set_modem_status()
            self._expect_arrival()
            self._update()
        elif offset == SCRATCH:
            self.scratch = value

    def _write_fifo_control(self, value: int) -> None:
        enabled = bool(value & FCR_ENABLE)
        if enabled != self.fifo_enabled or value & FCR_CLEAR_RECEIVER:
            # Changing bit 0 clears the FIFOs too.
            self.fifo.clear()
            self._stop_timeout()
        self.fifo_enabled = enabled
        self.trigger = TRIGGER_LEVELS[value >> FCR_TRIGGER_SHIFT] if enabled else 1
        self._expect_arrival()
        self._update()

    def _set_modem_status(self) -> None:
        """Loopback connects RTS, DTR, OUT1 and OUT2 to CTS, DSR, RI and DCD (data sheet, "Modem Control Register")."""
        if self.mcr & MCR_LOOP:
            mcr = self.mcr
            inputs = (mcr & 0x02) << 3 | (mcr & 0x01) << 5 | (mcr & 0x04) << 4 | (mcr & 0x08) << 4
        else:
            inputs = self.modem_inputs
        changed = (self.msr ^ inputs) & 0xF0
        # The ring indicator counts its trailing edge only.
        if inputs & MSR_RING:
            changed &= ~MSR_RING
        self.msr = inputs | self.msr & MSR_DELTA_MASK | changed >> 4

    # Snapshot

    def snapshot(self) -> Snapshot:
        """The registers, the FIFO and the bytes on the wire."""
        return super().snapshot() | {
            "fifo": list(self.fifo),
            "incoming": list(self.incoming),
            "arriving": self._arrival is not None,
        }

    def restore(self, snapshot: Snapshot) -> None:
        """Put back what `snapshot` gave and schedule what was to come; the line itself is the PIC's to restore."""
        super().restore(snapshot)
        self.fifo = deque(snapshot["fifo"])
        self.incoming = deque(snapshot["incoming"])
        self._cancel_arrival()
        if self._timeout is not None:
            self.clock.cancel(self._timeout)
            self._timeout = None
        if self.timeout_at:
            self._timeout = self.clock.schedule(self.timeout_at, self._time_out)
        if snapshot["arriving"]:
            self._arrival = self.clock.schedule(max(self.next_arrival, self.clock.now + 1), self._arrive)
