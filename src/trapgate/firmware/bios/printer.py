"""INT 17h: printers, of which the board has none.

Source: IBM PC AT Technical Reference, BIOS listing, INT 17h.
"""

from __future__ import annotations

from trapgate.firmware.bios.call import Call
from trapgate.firmware.bios.host import Host

#: Timed out, not selected: what a port without a printer gives.
TIME_OUT = 0x01


class Printer:
    """The printer service."""

    def __init__(self, host: Host) -> None:
        self._host = host

    def call(self, call: Call) -> None:
        """INT 17h."""
        self._host.note(f"{call.describe()}: there is no printer")
        call.ah = TIME_OUT
