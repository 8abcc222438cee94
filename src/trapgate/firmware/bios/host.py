"""What the BIOS sees of the machine: the processor's registers, RAM, ports and the clock, as Protocols."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from trapgate.machine.clock import Clock
from trapgate.machine.control import RunControl
from trapgate.machine.ram import Ram


class Processor(Protocol):
    """The processor in real or virtual-8086 mode. Widths are in bits, sizes in bytes."""

    @property
    def rip(self) -> int:
        """The offset behind the OUT by which the BIOS was called."""

    @property
    def segments(self) -> Sequence[Any]:
        """In the order ES, CS, SS, DS, FS, GS; each has `selector` and `base`."""

    def register(self, number: int, width: int) -> int:
        """The low `width` bits of general register `number` (0 rAX, 1 rCX, 2 rDX, 3 rBX, 4 rSP ... 7 rDI)."""

    def set_register(self, number: int, width: int, value: int) -> None:
        """Write the low `width` bits."""

    def read_system(self, linear: int, size: int) -> int:
        """`size` bytes (at most a page) at a linear address, little-endian."""

    def write_system(self, linear: int, size: int, value: int) -> None:
        """Write `size` bytes (at most a page) at a linear address."""

    def load_data_segment(self, number: int, selector: int) -> None:
        """Load a segment register, as MOV does."""

    def jump(self, rip: int) -> None:
        """Go on at `rip` of the current code segment, instead of behind the instruction."""

    def charge(self, cycles: int) -> None:
        """Let modelled time pass."""


class Ports(Protocol):
    """The I/O ports of the board."""

    def read_port(self, port: int, width: int) -> int:
        """IN of `width` bytes."""

    def write_port(self, port: int, width: int, value: int) -> None:
        """OUT of `width` bytes."""


@dataclass(frozen=True)
class Host:
    """The machine that the BIOS serves. `note` takes what the guest wanted and the BIOS does not have."""

    processor: Processor
    memory: Ram
    ports: Ports
    clock: Clock
    control: RunControl
    note: Callable[[str], None]

    def inb(self, port: int) -> int:
        """A byte from a port."""
        return self.ports.read_port(port, 1)

    def outb(self, port: int, value: int) -> None:
        """A byte to a port."""
        self.ports.write_port(port, 1, value & 0xFF)

    def charge_microseconds(self, microseconds: int) -> None:
        """Let modelled time pass: what a service takes on hardware."""
        self.processor.charge(self.clock.hz * microseconds // 1_000_000)
