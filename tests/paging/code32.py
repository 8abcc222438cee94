"""One 32-bit instruction on the processor, paging off, with segments and a descriptor table of the test's making."""

from __future__ import annotations

from trapgate.arch import layout
from trapgate.arch.cpuid import OPTERON_2007
from trapgate.arch.registers import CR0_ET, CR0_PE, CR4_OSFXSR, CS, SS
from trapgate.arch.segments import ATTRIBUTE_DB, ATTRIBUTE_G, CODE_ACCESSED, DATA_RW_ACCESSED, DPL_SHIFT
from trapgate.cpu.faults import Fault
from trapgate.engine.handlers import HandlerStore
from trapgate.engine.processor import Processor
from trapgate.machine.bus import Bus
from trapgate.machine.clock import Clock
from trapgate.machine.control import RunControl
from trapgate.machine.memory import PhysicalMemory

CODE_AT, TABLE_AT = 0x1000, 0x2000
_HLT = b"\xf4"


class _Caught(Exception):
    def __init__(self, fault: Fault) -> None:
        super().__init__(fault)
        self.fault = fault


class _Observed(Processor):
    def deliver_exception(self, fault: Fault) -> None:
        raise _Caught(fault)


class Code32:
    """A processor in 32-bit protected mode."""

    def __init__(self) -> None:
        self.memory = PhysicalMemory(4 << 20)
        clock = Clock(OPTERON_2007.frequency)
        self.processor = _Observed(
            OPTERON_2007, self.memory, Bus(), clock, RunControl(), HandlerStore(), acknowledge=lambda: 0xFF
        )

    def prepare(self, cpl: int = 0) -> None:
        """Flat segments at a privilege level."""
        processor = self.processor
        processor.reset()
        processor.state.set(layout.CR0, CR0_PE | CR0_ET)
        processor.state.set(layout.CR4, CR4_OSFXSR)
        for number, segment in enumerate(processor.segments):
            attributes = CODE_ACCESSED if number == CS else DATA_RW_ACCESSED
            level = cpl << DPL_SHIFT if number in (CS, SS) else 3 << DPL_SHIFT
            segment.load(8 | cpl, 0, 0xFFFF_FFFF, attributes | level | ATTRIBUTE_DB | ATTRIBUTE_G)
        processor.cpl = cpl

    def run(self, code: bytes, **registers: int) -> tuple[int, int] | None:
        """(vector, error code) of the exception that the instruction raises, or None."""
        processor = self.processor
        names = ("eax", "ecx", "edx", "ebx", "esp", "ebp", "esi", "edi")
        for name, value in registers.items():
            processor.set_register(names.index(name), 32, value)
        self.memory.write(CODE_AT, code + _HLT)
        processor.rip = CODE_AT
        processor.halted = False
        processor.mode_changed()
        try:
            stopped = processor.run(max_instructions=10)
        except _Caught as caught:
            fault = caught.fault
            if processor.rip == CODE_AT + len(code):
                return None  # HLT outside CPL 0
            return fault.vector, fault.error or 0
        assert stopped.reason == "halted", stopped
        return None
