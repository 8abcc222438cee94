"""Alignment checks: #AC(0) at CPL 3 with CR0.AM and RFLAGS.AC (APM vol. 2, 3.1.1 and 8.2.17)."""

from __future__ import annotations

from trapgate.arch.vectors import AC
from trapgate.vmm.emulate.machine import CHECK, WRITE, Memory
from trapgate.vmm.faults import GuestFault


class AlignmentChecked:
    """Memory whose operands must lie at multiples of their size. A page fault goes before #AC (table 8-8)."""

    def __init__(self, memory: Memory) -> None:
        self._memory = memory

    def read(self, linear: int, size: int, access: int) -> bytes:
        self._check(linear, size, access)
        return self._memory.read(linear, size, access)

    def write(self, linear: int, data: bytes, access: int) -> None:
        self._check(linear, len(data), access | WRITE)
        self._memory.write(linear, data, access)

    def fetch(self, linear: int, size: int) -> bytes:
        return self._memory.fetch(linear, size)

    def _check(self, linear: int, size: int, access: int) -> None:
        if linear & (size - 1):
            self._memory.read(linear, size, access | CHECK)
            raise GuestFault(AC, 0)
