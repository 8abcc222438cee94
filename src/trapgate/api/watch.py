"""Watchpoints: ranges of linear addresses. While there are any, the machine goes one instruction at a time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import iced_x86 as iced

from trapgate.api.accesses import LONGEST_INSTRUCTION, Accesses, MemoryAccess
from trapgate.engine.processor import Processor
from trapgate.lab.processor_report import read_code


@dataclass(frozen=True, slots=True)
class Watchpoint:
    """`size` bytes from linear `address` on; reads count only with `reads`."""

    address: int
    size: int
    reads: bool = False


class Watcher:
    """Compares every access with the watchpoints (an engine Observer)."""

    def __init__(self, processor: Processor, on_hit: Callable[[int, MemoryAccess], None]) -> None:
        self._p = processor
        self._accesses = Accesses(processor)
        self._on_hit = on_hit
        self._rip = 0
        self._faults = 0
        self._pending: MemoryAccess | None = None
        self.watchpoints: list[Watchpoint] = []

    def before(self) -> None:
        """The instruction at rip comes next."""
        p = self._p
        linear = p.linear_rip()
        code = read_code(p, linear, LONGEST_INSTRUCTION)
        self._pending = None
        if not code:
            return
        instruction = iced.Decoder(p.bits, code, ip=p.rip).decode()
        self._rip, self._faults = p.rip, self._interruptions()
        self._pending = next(filter(self._hits, self._accesses.of(instruction)), None)

    def _hits(self, access: MemoryAccess) -> bool:
        return any(
            access.touches(watch.address, watch.size) and (access.is_write or watch.reads) for watch in self.watchpoints
        )

    def after(self) -> None:
        """An instruction that raised an exception has accessed nothing that counts; one that has left a guest of AMD-V
        may still be carried out in its stead."""
        if self._pending is not None and self._interruptions() == self._faults:
            self._on_hit(self._rip, self._pending)
            self._pending = None

    def emulated(self) -> None:
        """A hypervisor has carried out the instruction that has left its guest."""
        if self._pending is not None:
            self._on_hit(self._rip, self._pending)
            self._pending = None

    def _interruptions(self) -> int:
        return sum(self._p.exception_counts.values()) + sum(self._p.exit_counts.values())
