"""One PCI function: its identity, its base address registers, its interrupt pin.

Source: PCI Local Bus Specification 3.0, 6.2 (header), 6.2.5 (base addresses).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from trapgate.devices.pci import config_space as config
from trapgate.devices.pci.config_space import ConfigSpace
from trapgate.machine.device import MemoryDevice, PortDevice, Snapshot
from trapgate.machine.ram import DevicePages

BARS = range(6)
SMALLEST_IO = 4
#: The bus decodes whole pages of memory.
SMALLEST_MEMORY = 4096
IO_BAR = 1
IO_ADDRESS = 0xFFFF_FFFC
MEMORY_ADDRESS = 0xFFFF_FFF0
#: A memory BAR of 64 bits: the next one has its upper half (6.2.5.1).
WIDE_BAR = 4


@dataclass(frozen=True, slots=True)
class Window:
    """A range of addresses that a function decodes: `size` ports, or bytes of guest-physical memory."""

    base: int
    size: int
    device: PortDevice | MemoryDevice
    offset: int = 0
    is_io: bool = True
    #: Memory that answers there in the device's place.
    pages: DevicePages | None = None


@dataclass(frozen=True, slots=True)
class _Bar:
    size: int
    device: PortDevice | MemoryDevice
    is_io: bool
    pages: DevicePages | None = None


class PciFunction:
    """What a slot of the bus holds. Chips are subclasses or owners of one.

    `vendor` and `device` are the identifiers, `class_code` is 24 bits (class, subclass, interface), `pin` is 0 for no
    interrupt, 1 to 4 for INTA# to INTD#.
    """

    def __init__(
        self,
        name: str,
        vendor: int,
        device: int,
        class_code: int,
        revision: int = 0,
        subsystem: tuple[int, int] = (0, 0),
        pin: int = 0,
    ) -> None:
        self.name = name
        #: What a guest did that cannot be carried out, by what it was (metric).
        self.faults: Counter[str] = Counter()
        self.config = space = ConfigSpace(name)
        self.pin = pin
        self._bars: dict[int, _Bar] = {}
        self._capability = config.FIRST_CAPABILITY
        self._level = False
        #: Called when what the function decodes may have changed.
        self.on_decode: Callable[[], None] = lambda: None
        #: INTx as the function drives it on the bus.
        self.on_interrupt: Callable[[bool], None] = lambda level: None
        space.define(config.VENDOR, 2, vendor)
        space.define(config.VENDOR + 2, 2, device)
        writable = config.IO_SPACE | config.MEMORY_SPACE | config.BUS_MASTER | config.INTERRUPT_DISABLE
        space.define(config.COMMAND, 2, 0, writable)
        space.define(config.REVISION, 1, revision)
        space.define(config.CLASS, 3, class_code)
        space.define(config.SUBSYSTEM_VENDOR, 2, subsystem[0])
        space.define(config.SUBSYSTEM_VENDOR + 2, 2, subsystem[1])
        space.define(config.INTERRUPT_PIN, 1, pin)
        if pin:
            space.define(config.INTERRUPT_LINE, 1, 0, 0xFF)

    # What the chip is made of

    def add_io_bar(self, index: int, size: int, device: PortDevice) -> None:
        """Base address register `index` decodes `size` ports (a power of two) for `device`."""
        self._add(index, _Bar(max(size, SMALLEST_IO), device, True), IO_BAR, IO_ADDRESS)

    def add_memory_bar(self, index: int, size: int, device: MemoryDevice, pages: DevicePages | None = None) -> None:
        """Base address register `index` decodes `size` bytes (a power of two, 4096 or more) anywhere below 4 GB.

        With `pages` guests reach these without the device, which answers for what is no plain access.
        """
        self._add(index, _Bar(max(size, SMALLEST_MEMORY), device, False, pages), 0, MEMORY_ADDRESS)

    def add_wide_memory_bar(self, index: int, size: int, device: MemoryDevice) -> None:
        """Base address registers `index` and `index + 1` decode `size` bytes, a power of two, 4096 to 2 GB."""
        self._add(index, _Bar(max(size, SMALLEST_MEMORY), device, False), WIDE_BAR, MEMORY_ADDRESS)
        self.config.define(config.FIRST_BAR + 4 * (index + 1), 4, 0, 0xFFFF_FFFF)

    def _add(self, index: int, bar: _Bar, kind: int, address: int) -> None:
        self._bars[index] = bar
        self.config.define(config.FIRST_BAR + 4 * index, 4, kind, ~(bar.size - 1) & address)

    def add_capability(self, identifier: int, body: bytes, writable: bytes = b"") -> int:
        """Put a capability into the list (6.7), `body` behind its identifier and pointer; returns its offset."""
        space, offset = self.config, self._capability
        space.define(config.STATUS, 2, config.CAPABILITIES_LIST)
        previous, place = config.CAPABILITIES, space.get(config.CAPABILITIES, 1)
        while place:
            previous, place = place + 1, space.get(place + 1, 1)
        space.define(previous, 1, offset)
        space.define(offset, 2, identifier)
        for place, byte in enumerate(body):
            space.define(offset + 2 + place, 1, byte, writable[place] if place < len(writable) else 0)
        self._capability = (offset + 2 + len(body) + 3) & ~3
        return offset

    # Access

    def read_config(self, offset: int, width: int) -> int:
        """A configuration read within one double word."""
        return self.config.get(offset, width)

    def write_config(self, offset: int, width: int, value: int) -> None:
        """A configuration write within one double word."""
        self.config.write(offset, width, value)
        if offset >> 2 == config.COMMAND >> 2:
            self._drive()
            self.on_decode()
        elif config.FIRST_BAR <= offset < config.FIRST_BAR + 4 * len(BARS):
            self.on_decode()

    def reset(self) -> None:
        """No address is decoded, no interrupt asserted."""
        self.config.reset()
        self.set_interrupt(False)
        self.on_decode()

    @property
    def command(self) -> int:
        """The command register."""
        return self.config.get(config.COMMAND, 2)

    @property
    def is_bus_master(self) -> bool:
        """Whether the guest lets the function access memory."""
        return bool(self.command & config.BUS_MASTER)

    def windows(self) -> list[Window]:
        """What the function decodes now."""
        command = self.command
        found = []
        for index, bar in self._bars.items():
            if not command & (config.IO_SPACE if bar.is_io else config.MEMORY_SPACE):
                continue
            place = config.FIRST_BAR + 4 * index
            low = self.config.get(place, 4)
            base = low & (IO_ADDRESS if bar.is_io else MEMORY_ADDRESS)
            if not bar.is_io and low & WIDE_BAR:
                base |= self.config.get(place + 4, 4) << 32
            found.append(Window(base, bar.size, bar.device, 0, bar.is_io, bar.pages))
        return found

    def bars(self) -> list[tuple[int, int, int, bool]]:
        """(number, size, base, whether I/O) of each base address register; a base of -1: not decoded. For people."""
        found = []
        for index, bar in self._bars.items():
            decoded = self.command & (config.IO_SPACE if bar.is_io else config.MEMORY_SPACE)
            base = self.config.get(config.FIRST_BAR + 4 * index, 4) & (IO_ADDRESS if bar.is_io else MEMORY_ADDRESS)
            found.append((index, bar.size, base if decoded else -1, bar.is_io))
        return found

    # INTx

    def set_interrupt(self, level: bool) -> None:
        """Assert or release the interrupt pin (6.2.3, Interrupt Status)."""
        if level != self._level:
            self._level = level
            status = self.config.get(config.STATUS, 2)
            flag = config.INTERRUPT_STATUS
            self.config.put(config.STATUS, 2, status | flag if level else status & ~flag)
            self._drive()

    def _drive(self) -> None:
        self.on_interrupt(self._level and not self.command & config.INTERRUPT_DISABLE)

    # Snapshot

    def snapshot(self) -> Snapshot:
        """Configuration space; the level of INTx is in it."""
        return {"config": self.config.snapshot()}

    def restore(self, snapshot: Snapshot) -> None:
        """Put back the registers, and decode what they say."""
        self.config.restore(snapshot["config"])
        self._level = bool(self.config.get(config.STATUS, 2) & config.INTERRUPT_STATUS)
        self._drive()
        self.on_decode()
