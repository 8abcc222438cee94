"""A processor of any profile on a bench: flat 32-bit or 64-bit code, and a stop at the first exception."""

from __future__ import annotations

from dataclasses import dataclass

from trapgate.arch import layout
from trapgate.arch.cpuid import OPTERON_2007, CpuProfile
from trapgate.arch.registers import (
    CR0_ET,
    CR0_NE,
    CR0_PE,
    CR0_PG,
    CR4_OSFXSR,
    CR4_PAE,
    CS,
    EFER_LMA,
    EFER_LME,
    GPR_NAMES,
    SS,
)
from trapgate.arch.segments import (
    ATTRIBUTE_DB,
    ATTRIBUTE_G,
    ATTRIBUTE_L,
    CODE_ACCESSED,
    DATA_RW_ACCESSED,
    DPL_SHIFT,
)
from trapgate.cpu.faults import Fault
from trapgate.engine.handlers import HandlerStore
from trapgate.engine.processor import Processor
from trapgate.machine.bus import Bus
from trapgate.machine.clock import Clock
from trapgate.machine.control import RunControl
from trapgate.machine.memory import PhysicalMemory

CODE, DATA, STACK, TABLES = 0x1000, 0x8000, 0x7000, 0x10_0000
HLT = b"\xf4"


@dataclass(frozen=True)
class Exception_:
    """An exception about to be delivered: `rip` is what would be pushed."""

    vector: int
    error: int | None
    rip: int
    dr6: int


class Caught(Exception):
    """Ends the run at an exception."""

    def __init__(self, what: Exception_) -> None:
        super().__init__(what)
        self.what = what


class Observed(Processor):
    """Stops at exceptions, except while `delivers` is set."""

    delivers = False

    def deliver_exception(self, fault: Fault) -> None:
        if self.delivers:
            super().deliver_exception(fault)
            return
        raise Caught(Exception_(fault.vector, fault.error, self.rip, self.dr[6]))


class Bench:
    """One processor. `prepare32` or `prepare64` first."""

    def __init__(self, profile: CpuProfile = OPTERON_2007, handlers: HandlerStore | None = None) -> None:
        self.memory = PhysicalMemory(4 << 20)
        self.bus = Bus()
        self.clock = Clock(profile.frequency)
        self.processor = Observed(
            profile, self.memory, self.bus, self.clock, RunControl(), handlers or HandlerStore(), lambda: 0x20
        )

    def prepare32(self, cpl: int = 0) -> Bench:
        """Flat 32-bit protected mode without paging."""
        p = self.processor
        p.reset()
        p.state.set(layout.CR0, CR0_PE | CR0_ET | CR0_NE)
        p.state.set(layout.CR4, CR4_OSFXSR if p.profile.has("FXSR") else 0)
        self._flat(cpl, ATTRIBUTE_DB)
        return self

    def prepare64(self, cpl: int = 0) -> Bench:
        """64-bit mode, the first 4 MB mapped to themselves for everybody."""
        p = self.processor
        p.reset()
        for i, below in enumerate((TABLES + 0x1000, TABLES + 0x2000)):
            self.memory.write_u64(TABLES + 0x1000 * i, below | 7)
        for i in range(2):
            self.memory.write_u64(TABLES + 0x2000 + 8 * i, i << 21 | 0x87)
        p.state.set(layout.CR3, TABLES)
        p.state.set(layout.CR0, CR0_PE | CR0_ET | CR0_NE | CR0_PG)
        p.state.set(layout.CR4, CR4_OSFXSR | CR4_PAE)
        p.state.set(layout.EFER, EFER_LME | EFER_LMA)
        self._flat(cpl, ATTRIBUTE_L)
        return self

    def _flat(self, cpl: int, size: int) -> None:
        p = self.processor
        for number, segment in enumerate(p.segments):
            level = cpl << DPL_SHIFT
            if number == CS:
                segment.load(8 | cpl, 0, 0xFFFF_FFFF, CODE_ACCESSED | level | size | ATTRIBUTE_G)
            else:
                segment.load(0x10 | cpl, 0, 0xFFFF_FFFF, DATA_RW_ACCESSED | level | ATTRIBUTE_DB | ATTRIBUTE_G)
        p.cpl = cpl
        p.set_register(4, 64, STACK)
        assert p.segments[SS].selector & 3 == cpl
        p.mode_changed()

    def set(self, **registers: int) -> Bench:
        """Write registers by their 64-bit names, rflags among them."""
        for name, value in registers.items():
            if name == "rflags":
                self.processor.rflags = value
            else:
                self.processor.set_register(GPR_NAMES.index(name), 64, value)
        return self

    def get(self, name: str) -> int:
        """A register by its 64-bit name."""
        return self.processor.register(GPR_NAMES.index(name), 64)

    def run(self, code: str, limit: int = 1000) -> Exception_ | None:
        """Run code (hexadecimal) that ends in HLT; its first exception, or None when it got to the end."""
        data = bytes.fromhex(code)
        self.memory.write(CODE, data + HLT)
        return self.go(CODE, CODE + len(data), limit)

    def go(self, start: int, end: int, limit: int = 1000) -> Exception_ | None:
        """Run from `start` to the HLT at `end`."""
        p = self.processor
        p.rip, p.halted = start, False
        p.mode_changed()
        try:
            stopped = p.run(max_instructions=limit)
        except Caught as caught:
            if p.rip == end and p.cpl:
                return None  # HLT outside CPL 0
            return caught.what
        assert stopped.reason == "halted", stopped
        assert p.rip == end + 1
        return None
