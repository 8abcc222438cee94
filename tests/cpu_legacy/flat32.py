"""One instruction in 32-bit protected mode with a code segment of the test's size."""

from __future__ import annotations

from trapgate.arch import layout
from trapgate.arch.cpuid import OPTERON_2007
from trapgate.arch.registers import CR0_ET, CR0_PE, CS, GPR_NAMES, RSP
from trapgate.arch.segments import ATTRIBUTE_DB, ATTRIBUTE_G, CODE_ACCESSED, DATA_RW_ACCESSED
from trapgate.cpu.faults import Fault
from trapgate.engine.handlers import HandlerStore
from trapgate.engine.processor import Processor
from trapgate.machine.bus import Bus
from trapgate.machine.clock import Clock
from trapgate.machine.control import RunControl
from trapgate.machine.memory import PhysicalMemory

_BASE, _STACK = 0x1_0000, 0x8000


class _Caught(Exception):
    def __init__(self, fault: Fault) -> None:
        super().__init__(fault)
        self.fault = fault


class _Observed(Processor):
    def deliver_exception(self, fault: Fault) -> None:
        raise _Caught(fault)


class Flat32:
    """Paging off, CPL 0; CS has a base of 1_0000h."""

    def __init__(self, handlers: HandlerStore) -> None:
        self.memory = PhysicalMemory(1 << 20)
        clock = Clock(OPTERON_2007.frequency)
        self.processor = _Observed(
            OPTERON_2007, self.memory, Bus(), clock, RunControl(), handlers, acknowledge=lambda: 0xFF
        )

    def run(
        self, code: bytes, at: int, code_limit: int, **registers: int
    ) -> tuple[dict[str, int], Fault | None, dict[str, int]]:
        """(registers before, the exception, registers after) of one instruction; eip and eflags are among them."""
        p = self.processor
        p.reset()
        p.state.set(layout.CR0, CR0_PE | CR0_ET)
        for number, segment in enumerate(p.segments):
            if number == CS:
                segment.load(8, _BASE, code_limit, CODE_ACCESSED | ATTRIBUTE_DB)
            else:
                segment.load(16, 0, 0xFFFF_FFFF, DATA_RW_ACCESSED | ATTRIBUTE_DB | ATTRIBUTE_G)
        self.memory.write(_BASE + at, code + b"\x90" * 16)
        p.set_register(RSP, 32, _STACK)
        for name, value in registers.items():
            if name == "rflags":
                p.rflags = value
            else:
                p.set_register(GPR_NAMES.index("r" + name[1:]), 32, value)
        p.rip = at
        p.mode_changed()
        before = self._registers()
        fault = None
        try:
            p.step()
        except _Caught as caught:
            fault = caught.fault
        return before, fault, self._registers()

    def _registers(self) -> dict[str, int]:
        values = {"e" + name[1:]: self.processor.q[i] for i, name in enumerate(GPR_NAMES[:8])}
        return {**values, "eip": self.processor.rip, "eflags": self.processor.rflags}
