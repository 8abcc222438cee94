"""The PIIX3's PCI-to-ISA bridge: it brings INTA# to INTD# of every slot to four lines, and these to ISA interrupts.

Lines PIRQA# to PIRQD# are wired to slots as on QEMU's board: pin p of slot s is line (p + s - 2) mod 4, p from 1.

Source: Intel 82371SB (PIIX3) data sheet (order 290550-002), 2.2 (PIRQRCx, 60h to 63h).
"""

from __future__ import annotations

from collections.abc import Callable

from trapgate.devices.pci import config_space as config
from trapgate.devices.pci.function import PciFunction
from trapgate.devices.pci.host_bridge import QEMU_SUBSYSTEM, VENDOR_INTEL
from trapgate.machine.device import Snapshot

DEVICE_PIIX3_ISA = 0x7000
ISA_BRIDGE = 0x060100
FIRST_ROUTE = 0x60
LINES = 4
NOT_ROUTED = 0x80
ROUTE_MASK = 0x8F


def line_of(device: int, pin: int) -> int:
    """Which of PIRQA# (0) to PIRQD# (3) pin 1 to 4 of slot `device` drives."""
    return (pin + device - 2) % LINES


class Piix3Bridge(PciFunction):
    """The bridge and its interrupt router. `set_irq(irq, level)` drives an ISA interrupt request."""

    def __init__(self, set_irq: Callable[[int, bool], None]) -> None:
        super().__init__("isa-bridge", VENDOR_INTEL, DEVICE_PIIX3_ISA, ISA_BRIDGE, 0, QEMU_SUBSYSTEM)
        self._set_irq = set_irq
        #: Functions that assert each line.
        self._asserted: list[set[str]] = [set() for _ in range(LINES)]
        self._driven = 0
        self.config.define(config.HEADER_TYPE, 1, config.MULTI_FUNCTION)
        for line in range(LINES):
            self.config.define(FIRST_ROUTE + line, 1, NOT_ROUTED, ROUTE_MASK)

    def set_pin(self, source: PciFunction, device: int, pin: int, level: bool) -> None:
        """A function drives its pin; lines are shared."""
        asserted = self._asserted[line_of(device, pin)]
        if level:
            asserted.add(source.name)
        else:
            asserted.discard(source.name)
        self._update()

    def write_config(self, offset: int, width: int, value: int) -> None:
        """A new route takes effect at once."""
        super().write_config(offset, width, value)
        if offset >> 2 == FIRST_ROUTE >> 2:
            self._update()

    def reset(self) -> None:
        """No line is routed."""
        super().reset()
        self._update()

    def _update(self) -> None:
        wanted = 0
        for line, asserted in enumerate(self._asserted):
            route = self.config.get(FIRST_ROUTE + line, 1)
            if asserted and not route & NOT_ROUTED:
                wanted |= 1 << (route & 15)
        for irq in range(16):
            if (wanted ^ self._driven) >> irq & 1:
                self._set_irq(irq, bool(wanted >> irq & 1))
        self._driven = wanted

    def restore(self, snapshot: Snapshot) -> None:
        """Put back the routes; the functions say their levels again when they are restored."""
        super().restore(snapshot)
        self._update()
