"""How a service waits: time passes by modelled cycles, and interrupts are served meanwhile.

The service runs again after each piece of the wait, with the registers that it was called with.
"""

from __future__ import annotations

from trapgate.firmware.bios import rom
from trapgate.firmware.bios.call import CS, Call
from trapgate.firmware.bios.host import Host

PIC_MASK = 0x21
TIMER_MASKED = 0x01
#: Microseconds of a piece of a wait that does not sleep: how late an interrupt may be served.
SLICE = 100


class Waiting:
    """Ways to wait for the services that rom.WAITING lists."""

    def __init__(self, host: Host) -> None:
        self._host = host

    def sleep(self, call: Call) -> None:
        """Sleep until an interrupt, the timer's at the latest, 55 ms; where that cannot come, wait a slice."""
        if self._host.inb(PIC_MASK) & TIMER_MASKED:
            self.slice(call)
        else:
            self._go(rom.sleep_entry(call.vector))

    def slice(self, call: Call) -> None:
        """Let SLICE microseconds pass, and then let interrupts in."""
        self._host.charge_microseconds(SLICE)
        self._go(rom.yield_entry(call.vector))

    def _go(self, offset: int) -> None:
        """To a routine of the ROM, whatever segment was used to reach it."""
        processor = self._host.processor
        base: int = processor.segments[CS].base
        processor.jump(rom.ROM_BASE + offset - base)
