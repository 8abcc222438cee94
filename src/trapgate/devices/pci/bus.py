"""The PCI bus: functions by their place, and which of their windows the machine's bus decodes.

A window that would lie over RAM, over a device of the board or over another function's window is not decoded, and is
tried again whenever any window moves. Of two that want the same place the one that had it keeps it. Nothing a guest
writes into base addresses can so take away memory or a device.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Protocol, cast

from trapgate.devices.pci.function import PciFunction, Window
from trapgate.machine.bus import PORTS, Bus
from trapgate.machine.device import MemoryDevice, PortDevice, Snapshot
from trapgate.machine.errors import MappingConflict
from trapgate.machine.ram import Ram

FUNCTIONS = 8
#: Physical addresses have 40 bits at least on every processor that has 64-bit windows' drivers (arch/cpuid.py).
HIGHEST_MEMORY = 1 << 40


class InterruptRouter(Protocol):
    """Who takes INTx: the chip set."""

    def set_pin(self, source: PciFunction, device: int, pin: int, level: bool) -> None:
        """INTA# (pin 1) to INTD# of slot `device`, driven by `source`."""


@dataclass
class _Slot:
    function: PciFunction
    #: What the machine's bus decodes for it.
    mapped: list[Window] = field(default_factory=list)
    #: Windows that cannot be decoded where they are now; each is counted once.
    refused: list[Window] = field(default_factory=list)


class PciBus:
    """Bus 0, the only one."""

    def __init__(self, bus: Bus, memory: Ram) -> None:
        self._bus, self._memory = bus, memory
        self._slots: dict[int, _Slot] = {}

    def add(self, device: int, number: int, function: PciFunction, router: InterruptRouter | None = None) -> None:
        """Put `function` at slot `device` (0 to 31) as its function `number` (0 to 7)."""
        self._slots[device << 3 | number] = _Slot(function)
        function.on_decode = self.decode
        if router is not None and function.pin:
            function.on_interrupt = _pin(router, function, device)

    def find(self, place: int) -> PciFunction | None:
        """The function at device << 3 | function."""
        slot = self._slots.get(place)
        return None if slot is None else slot.function

    def functions(self) -> Iterator[PciFunction]:
        """All functions, in the order of their places."""
        return (self._slots[place].function for place in sorted(self._slots))

    # Decoding

    def decode(self) -> None:
        """Have the machine's bus decode what the functions' registers say."""
        wanted = {place: slot.function.windows() for place, slot in self._slots.items()}
        for place, slot in self._slots.items():
            for window in slot.mapped:
                if window not in wanted[place]:
                    self._unmap(window)
            slot.mapped = [window for window in slot.mapped if window in wanted[place]]
        for place in sorted(self._slots):
            slot = self._slots[place]
            before, slot.refused = slot.refused, []
            for window in wanted[place]:
                if window in slot.mapped:
                    continue
                reason = self._map(window)
                if not reason:
                    slot.mapped.append(window)
                    continue
                slot.refused.append(window)
                if window not in before:
                    slot.function.faults[reason] += 1

    def withdraw(self) -> None:
        """Decode no memory: a device of the board is about to move, and goes before PCI. `decode` follows."""
        for slot in self._slots.values():
            for window in slot.mapped:
                if not window.is_io:
                    self._unmap(window)
            slot.mapped = [window for window in slot.mapped if window.is_io]

    def _map(self, window: Window) -> str:
        """Have a window decoded; why that cannot be, or nothing."""
        last = window.base + window.size
        try:
            if window.is_io:
                if last > PORTS:
                    return "I/O window above port FFFFh"
                self._bus.map_ports(window.base, window.size, cast("PortDevice", window.device), window.offset)
                return ""
            if any(ram.start < last and window.base < ram.stop for ram in self._memory.ranges()):
                return "memory window over RAM"
            if last > HIGHEST_MEMORY:
                return "memory window off the address space"
            self._bus.map_memory(window.base, window.size, cast("MemoryDevice", window.device))
            if window.pages is not None:
                window.pages.map(window.base)
        except MappingConflict:
            return "window over another device"
        return ""

    def _unmap(self, window: Window) -> None:
        if window.is_io:
            self._bus.unmap_ports(window.base, window.size)
        else:
            if window.pages is not None:
                window.pages.unmap()
            self._bus.unmap_memory(window.base)

    # Snapshot

    def snapshot(self) -> Snapshot:
        """Which windows are decoded: of two on one place the registers do not tell."""
        windows = {
            place: [n for n, window in enumerate(slot.function.windows()) if window in slot.mapped]
            for place, slot in self._slots.items()
        }
        return {"windows": windows}

    def restore(self, snapshot: Snapshot) -> None:
        """Have the same windows decoded, after the functions' registers have been put back."""
        for slot in self._slots.values():
            for window in slot.mapped:
                self._unmap(window)
            slot.mapped = []
        for place, slot in self._slots.items():
            held = snapshot["windows"][place]
            slot.mapped = [w for n, w in enumerate(slot.function.windows()) if n in held and not self._map(w)]
        self.decode()

    def reset(self) -> None:
        """Reset every function."""
        for function in self.functions():
            function.reset()


def _pin(router: InterruptRouter, function: PciFunction, device: int) -> Callable[[bool], None]:
    return lambda level: router.set_pin(function, device, function.pin, level)
