"""INT 17h: printers.

Source: IBM PC AT Technical Reference, BIOS listing, INT 17h.
"""

from __future__ import annotations

from trapgate.firmware.bios import data_area
from trapgate.firmware.bios.call import Call
from trapgate.firmware.bios.host import Host
from trapgate.firmware.bios.waiting import Waiting

PORTS = 3
# Offsets of registers.
DATA, STATUS, CONTROL = 0, 1, 2
NOT_BUSY = 0x80
#: Acknowledge and error are active low at the port, and high in what the service gives; the low bits are not used.
INVERTED, USED = 0x48, 0xF8
#: Control: no strobe, no initialisation, selected; with a strobe; being initialised.
IDLE, STROBE, INITIALISE = 0x0C, 0x0D, 0x08
TIME_OUT = 0x01
#: Microseconds of a strobe with what the printer needs after it, and of an initialisation.
PULSE, RESET = 12, 50
#: Seconds that a busy printer is waited for, per unit of the data area's timeout byte.
BUSY_SECONDS = 1


class Printer:
    """The printer service."""

    def __init__(self, host: Host, waiting: Waiting) -> None:
        self._host = host
        self._waiting = waiting
        self._deadline: int | None = None

    def call(self, call: Call) -> None:
        """INT 17h: AH = 0 prints AL, 1 initialises, 2 gives the status. AH returns the status."""
        host = self._host
        port = host.memory.read_u16(data_area.PRINTER_PORTS + 2 * call.dx) if call.dx < PORTS else 0
        if not port:
            host.note(f"{call.describe()}: there is no printer")
            call.ah = TIME_OUT
        elif call.ah == 0:
            self._print(call, port)
        elif call.ah == 1:
            host.outb(port + CONTROL, INITIALISE)
            host.charge_microseconds(RESET)
            host.outb(port + CONTROL, IDLE)
            call.ah = self._status(port)
        elif call.ah == 2:
            call.ah = self._status(port)
        else:
            host.note(f"{call.describe()}: not supported")

    def _status(self, port: int) -> int:
        return (self._host.inb(port + STATUS) ^ INVERTED) & USED

    def _print(self, call: Call, port: int) -> None:
        host = self._host
        if not host.inb(port + STATUS) & NOT_BUSY:
            self._wait(call, port)
            return
        self._deadline = None
        host.outb(port + DATA, call.al)
        host.outb(port + CONTROL, STROBE)
        host.outb(port + CONTROL, IDLE)
        call.ah = self._status(port)
        host.charge_microseconds(PULSE)

    def _wait(self, call: Call, port: int) -> None:
        host = self._host
        if self._deadline is None:
            units = host.memory.read_u8(data_area.PRINTER_TIMEOUTS + call.dx) or 1
            self._deadline = host.clock.now + units * BUSY_SECONDS * host.clock.hz
        if host.clock.now >= self._deadline:
            self._deadline = None
            call.ah = self._status(port) | TIME_OUT
        else:
            self._waiting.slice(call)
