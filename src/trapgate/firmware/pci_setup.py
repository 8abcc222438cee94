"""What a PC's firmware does to PCI before it boots anything: addresses, interrupt routes, decoding switched on.

All of it goes through configuration mechanism 1, as any firmware's would.

Sources: PCI Local Bus Specification 3.0, 3.2.2.3.2 and 6; PCI Firmware Specification 3.0, 2; Intel 82371SB (PIIX3) data
sheet (order 290550-002), 2.2 and 2.3.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

ADDRESS, DATA = 0xCF8, 0xCFC
ENABLED = 1 << 31
SLOTS, FUNCTIONS, BARS = 32, 8, 6
NOBODY = 0xFFFF

VENDOR, COMMAND, CLASS, HEADER_TYPE, FIRST_BAR = 0x00, 0x04, 0x0A, 0x0E, 0x10
INTERRUPT_LINE, INTERRUPT_PIN = 0x3C, 0x3D
MULTI_FUNCTION = 0x80
IO_AND_MEMORY = 0x0003
MEMORY_64 = 4
CLASS_IDE, CLASS_ISA_BRIDGE = 0x0101, 0x0601

#: The PIIX3's registers: routes of PIRQA# to PIRQD#, timing of the IDE channels.
ROUTES, IDE_TIMING = 0x60, 0x40
IDE_ENABLED = 0x8000
#: ISA interrupts that PIRQA# to PIRQD# are brought to, as QEMU's firmware does. The I/O APIC has them on its inputs of
#: the same numbers.
PIRQ_IRQS = (10, 10, 11, 11)
#: Edge/level control registers of the 8259s.
ELCR = 0x4D0

#: Where addresses are given out: ports, and guest-physical addresses between RAM and the I/O APIC.
FIRST_PORT = 0xC000
MEMORY_WINDOW = range(0xC000_0000, 0xFEC0_0000)
FIRST_MEMORY = 0xFE00_0000
#: Frame buffers and what else takes a megabyte or more have a place of their own below.
LARGE = 1 << 20
FIRST_LARGE = 0xE000_0000


class Ports(Protocol):
    """What firmware needs of the machine's bus."""

    def read_port(self, port: int, width: int) -> int:
        """IN."""

    def write_port(self, port: int, width: int, value: int) -> None:
        """OUT."""


@dataclass(frozen=True, slots=True)
class PciInterrupt:
    """Pin 1 to 4 of slot `device` reaches ISA interrupt and I/O APIC input `irq`."""

    device: int
    pin: int
    irq: int


class _Configuration:
    """Configuration mechanism 1."""

    def __init__(self, ports: Ports) -> None:
        self._ports = ports

    def read(self, place: int, offset: int, width: int) -> int:
        self._ports.write_port(ADDRESS, 4, ENABLED | place << 8 | offset & 0xFC)
        return self._ports.read_port(DATA + offset % 4, width)

    def write(self, place: int, offset: int, width: int, value: int) -> None:
        self._ports.write_port(ADDRESS, 4, ENABLED | place << 8 | offset & 0xFC)
        self._ports.write_port(DATA + offset % 4, width, value)

    def functions(self) -> Iterator[int]:
        """Places (slot << 3 | function) where something answers."""
        for slot in range(SLOTS):
            place = slot << 3
            if self.read(place, VENDOR, 2) == NOBODY:
                continue
            yield place
            if self.read(place, HEADER_TYPE, 1) & MULTI_FUNCTION:
                yield from (p for p in range(place + 1, place + FUNCTIONS) if self.read(p, VENDOR, 2) != NOBODY)


def set_up_pci(ports: Ports) -> tuple[PciInterrupt, ...]:
    """Configure every function of bus 0; returns how interrupt pins are wired, for the tables. () without PCI."""
    space = _Configuration(ports)
    next_port, next_address, next_large = FIRST_PORT, FIRST_MEMORY, FIRST_LARGE
    interrupts = []
    for place in space.functions():
        index = -1
        while index < BARS - 1:
            index += 1
            offset = FIRST_BAR + 4 * index
            space.write(place, offset, 4, 0xFFFF_FFFF)
            sized = space.read(place, offset, 4)
            if not sized:
                continue
            if sized & 1:
                size = -(sized & ~3) & 0xFFFF_FFFF
                next_port = -(-next_port // size) * size
                space.write(place, offset, 4, next_port)
                next_port += size
            else:
                if sized & MEMORY_64:
                    # Windows of 64 bits get addresses below 4 GB, too: every guest reaches these.
                    index += 1
                    space.write(place, offset + 4, 4, 0)
                size = -(sized & ~15) & 0xFFFF_FFFF
                if size >= LARGE:
                    next_large = -(-next_large // size) * size
                    space.write(place, offset, 4, next_large)
                    next_large += size
                    continue
                next_address = -(-next_address // size) * size
                space.write(place, offset, 4, next_address)
                next_address += size
        pin = space.read(place, INTERRUPT_PIN, 1)
        if pin:
            irq = PIRQ_IRQS[(pin + (place >> 3) - 2) % len(PIRQ_IRQS)]
            space.write(place, INTERRUPT_LINE, 1, irq)
            interrupts.append(PciInterrupt(place >> 3, pin, irq))
        kind = space.read(place, CLASS, 2)
        if kind == CLASS_ISA_BRIDGE:
            for line, irq in enumerate(PIRQ_IRQS):
                space.write(place, ROUTES + line, 1, irq)
        elif kind == CLASS_IDE:
            for channel in (0, 1):
                space.write(place, IDE_TIMING + 2 * channel, 2, IDE_ENABLED)
        space.write(place, COMMAND, 2, IO_AND_MEMORY)
    for irq in {i.irq for i in interrupts}:
        register = ELCR + irq // 8
        ports.write_port(register, 1, ports.read_port(register, 1) | 1 << irq % 8)
    ports.write_port(ADDRESS, 4, 0)
    return tuple(interrupts)
