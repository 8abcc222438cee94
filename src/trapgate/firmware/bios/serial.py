"""INT 14h: the serial ports.

Source: IBM PC AT Technical Reference, BIOS listing, INT 14h; National Semiconductor PC16550D data sheet.
"""

from __future__ import annotations

from trapgate.firmware.bios import data_area
from trapgate.firmware.bios.call import Call
from trapgate.firmware.bios.host import Host
from trapgate.firmware.bios.waiting import Waiting
from trapgate.machine.device import PlainState

PORTS = 4
#: Divisors for 110 to 9600 baud, by AL's bits 7 to 5.
DIVISORS = (1047, 768, 384, 192, 96, 48, 24, 12)
# Offsets of registers.
DATA, INTERRUPT_ENABLE, LINE_CONTROL, MODEM_CONTROL, LINE_STATUS, MODEM_STATUS = 0, 1, 3, 4, 5, 6
DIVISOR_LATCH = 0x80
DTR_RTS = 0x03
READY = 0x01
HOLDING_EMPTY = 0x20
TIME_OUT = 0x80
#: Seconds that a receive waits, per unit of the data area's timeout byte (1 when the data area is made).
RECEIVE_SECONDS = 1


class Serial(PlainState):
    """The serial service."""

    STATE = ("_deadline",)

    def __init__(self, host: Host, waiting: Waiting) -> None:
        self._host = host
        self._waiting = waiting
        self._deadline: int | None = None

    def call(self, call: Call) -> None:
        """INT 14h."""
        host = self._host
        port = host.memory.read_u16(data_area.SERIAL_PORTS + 2 * call.dx) if call.dx < PORTS else 0
        if not port or call.ah > 3:
            host.note(f"{call.describe()} dx={call.dx:04x}h: not supported")
            call.ah = TIME_OUT
            return
        (self._initialise, self._send, self._receive, self._status)[call.ah](call, port)

    def _initialise(self, call: Call, port: int) -> None:
        host = self._host
        divisor = DIVISORS[call.al >> 5]
        host.outb(port + LINE_CONTROL, DIVISOR_LATCH)
        host.outb(port, divisor)
        host.outb(port + INTERRUPT_ENABLE, divisor >> 8)
        host.outb(port + LINE_CONTROL, call.al & 0x1F)
        host.outb(port + INTERRUPT_ENABLE, 0)
        self._status(call, port)

    def _status(self, call: Call, port: int) -> None:
        call.ah = self._host.inb(port + LINE_STATUS)
        call.al = self._host.inb(port + MODEM_STATUS)

    def _send(self, call: Call, port: int) -> None:
        host = self._host
        host.outb(port + MODEM_CONTROL, DTR_RTS)
        # The board's transmitters are always empty.
        host.outb(port + DATA, call.al)
        call.ah = host.inb(port + LINE_STATUS)

    def _receive(self, call: Call, port: int) -> None:
        host = self._host
        host.outb(port + MODEM_CONTROL, 0x01)
        status = host.inb(port + LINE_STATUS)
        if status & READY:
            self._deadline = None
            call.al = host.inb(port + DATA)
            call.ah = status & 0x1E
            return
        if self._deadline is None:
            units = host.memory.read_u8(data_area.SERIAL_TIMEOUTS + call.dx) or 1
            self._deadline = host.clock.now + units * RECEIVE_SECONDS * host.clock.hz
        if host.clock.now >= self._deadline:
            self._deadline = None
            call.ah = status | TIME_OUT
        else:
            self._waiting.slice(call)
