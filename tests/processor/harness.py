"""A processor with RAM and an empty bus, for tests that run a few instructions.

`Bench.long64` starts in 64-bit mode with the first gigabyte mapped to itself in 2 MB pages, supervisor, writable;
the tables lie at TABLES. `Bench.real` starts in real mode. Code ends with HLT, interrupts off, which stops the run
as "halted".
"""

from __future__ import annotations

import functools
import struct

from support import PLAIN_COSTS
from trapgate.arch import layout
from trapgate.arch.cpuid import OPTERON_2007
from trapgate.arch.registers import CS, GPR_NAMES
from trapgate.engine.handlers import HandlerStore
from trapgate.engine.processor import Processor, Stopped
from trapgate.machine.bus import Bus
from trapgate.machine.clock import Clock
from trapgate.machine.control import RunControl
from trapgate.machine.memory import PhysicalMemory

TABLES = 0x1000  # PML4, PDPT, PD at 1000h, 2000h, 3000h; free ones from 4000h on
IDT = 0x8000
GDT = 0x9000
CODE = 0x10000
STACK = 0x20000
DATA = 0x100000
HLT = b"\xf4"
CODE64, DATA64 = 0x08, 0x10


@functools.cache
def handlers() -> HandlerStore:
    """One store for all tests of a process."""
    return HandlerStore()


class Bench:
    """A processor under test."""

    def __init__(self, memory_size: int = 16 << 20) -> None:
        self.memory = PhysicalMemory(memory_size)
        self.bus = Bus()
        self.clock = Clock(OPTERON_2007.frequency)
        self.control = RunControl()
        self.processor = Processor(
            OPTERON_2007, self.memory, self.bus, self.clock, self.control, handlers(), self._acknowledge, PLAIN_COSTS
        )
        self.vector = 0x20

    def _acknowledge(self) -> int:
        self.processor.set_intr(False)
        return self.vector

    @classmethod
    def long64(cls) -> Bench:
        """In 64-bit mode at CODE, rsp at STACK, a GDT, and an IDT whose gates are empty."""
        bench = cls()
        p, memory = bench.processor, bench.memory
        memory.write_u64(TABLES, TABLES + 0x1000 | 3)
        memory.write_u64(TABLES + 0x1000, TABLES + 0x2000 | 3)
        for i in range(512):
            memory.write_u64(TABLES + 0x2000 + 8 * i, i << 21 | 0x83)
        memory.write(GDT, struct.pack("<3Q", 0, 0x00AF_9B00_0000_FFFF, 0x00CF_9300_0000_FFFF))
        state = p.state
        state.set(layout.CR3, TABLES)
        state.set(layout.CR4, 0x20)
        state.set(layout.EFER, 0xD00)
        state.set(layout.CR0, 0x8001_0031)
        for i, segment in enumerate(p.segments):
            if i == CS:
                segment.load(CODE64, 0, 0xFFFF_FFFF, 0xA9B)
            else:
                segment.load(DATA64, 0, 0xFFFF_FFFF, 0xC93)
        p.gdtr_base, p.gdtr_limit = GDT, 23
        p.idtr_base, p.idtr_limit = IDT, 0xFFF
        p.set_register(4, 64, STACK)
        p.rip = CODE
        p.mode_changed()
        return bench

    @classmethod
    def real(cls) -> Bench:
        """In real mode at 0:7C00."""
        bench = cls()
        p = bench.processor
        for i, segment in enumerate(p.segments):
            segment.load(0, 0, 0xFFFF, 0x9B if i == CS else 0x93)
        p.set_register(4, 64, 0x7C00)
        p.rip = 0x7C00
        p.mode_changed()
        return bench

    def gate(self, vector: int, address: int) -> None:
        """An interrupt gate of long mode."""
        low = address & 0xFFFF | CODE64 << 16 | 0x8E << 40 | (address >> 16 & 0xFFFF) << 48
        self.memory.write(IDT + 16 * vector, struct.pack("<QQ", low, address >> 32))

    def map_small(self, linear: int, table: int, entries: dict[int, int]) -> None:
        """Replace the 2 MB page of `linear` by a table of 4 KB entries at guest-physical `table` (others: identity)."""
        base = linear & ~0x1FFFFF
        for i in range(512):
            self.memory.write_u64(table + 8 * i, entries.get(i, base + (i << 12) | 3))
        self.memory.write_u64(TABLES + 0x2000 + 8 * (base >> 21), table | 7)

    def run(self, code: bytes | str = b"", at: int | None = None, limit: int = 1_000_000) -> Stopped:
        """Write code (bytes or hex) at rip, or at a guest-physical address, and run."""
        data = bytes.fromhex(code) if isinstance(code, str) else code
        if data:
            self.memory.write(self.processor.rip if at is None else at, data)
        return self.processor.run(limit)

    def registers(self) -> dict[str, int]:
        """The general registers by name."""
        return {name: self.processor.q[i] for i, name in enumerate(GPR_NAMES)}

    def set(self, **registers: int) -> None:
        """Set general registers."""
        for name, value in registers.items():
            self.processor.q[GPR_NAMES.index(name)] = value & (1 << 64) - 1
