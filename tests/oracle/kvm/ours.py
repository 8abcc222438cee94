"""System cases on trapgate."""

from __future__ import annotations

from collections.abc import Sequence

from trapgate.arch import layout
from trapgate.arch.cpuid import OPTERON_2007
from trapgate.engine.handlers import HandlerStore
from trapgate.engine.processor import Processor
from trapgate.machine.bus import Bus
from trapgate.machine.clock import Clock
from trapgate.machine.control import RunControl
from trapgate.machine.memory import PhysicalMemory

from .cases import ENDLESS, HALTED, SHUTDOWN, UNIMPLEMENTED, SystemCase, SystemOutcome
from .world import KERNEL_GS_BASE, MEMORY_SIZE, PAGE, MachineState, Mode, Segment, template

#: The least that the machine can have: what lies beyond the world's memory is cleared between cases.
_MEMORY_SIZE = 1 << 20
_MOST_INSTRUCTIONS = 300
_ENDS = {"halted": HALTED, "triple-fault": SHUTDOWN, "limit": ENDLESS, "unimplemented": UNIMPLEMENTED}


class TrapgateMachine:
    """Trapgate in one mode, nothing but a processor and memory."""

    def __init__(self, mode: Mode, handlers: HandlerStore) -> None:
        self.memory = PhysicalMemory(_MEMORY_SIZE)
        clock = Clock(OPTERON_2007.frequency)
        self.processor = Processor(
            OPTERON_2007, self.memory, Bus(), clock, RunControl(), handlers, acknowledge=lambda: 0xFF
        )
        self._template = template(mode)
        self._pages = [self._template[at : at + PAGE] for at in range(0, MEMORY_SIZE, PAGE)]
        self.memory.write(0, self._template)

    def run(self, cases: Sequence[SystemCase]) -> list[SystemOutcome]:
        """Run every case from its own state."""
        return [self.run_one(case) for case in cases]

    def run_one(self, case: SystemCase) -> SystemOutcome:
        memory, processor = self.memory, self.processor
        for address, data in case.patches:
            memory.write(address, data)
        place = (case.state.segments[1].base + case.state.rip) & 0xFFFF_FFFF
        memory.write(place, case.code)
        self._load(case.state)
        stopped = processor.run(max_instructions=_MOST_INSTRUCTIONS)
        after = self._state(case)
        pages = {}
        view = memory.view
        for number, wanted in enumerate(self._pages):
            at = number * PAGE
            found = bytes(view[at : at + PAGE])
            if found != wanted:
                pages[at] = found
                memory.write(at, wanted)
        return SystemOutcome(_ENDS.get(stopped.reason, stopped.reason), after, pages, stopped.report)

    def clear_beyond(self) -> None:
        """Forget what a case has written beyond the world's memory."""
        self.memory.write(MEMORY_SIZE, bytes(_MEMORY_SIZE - MEMORY_SIZE))

    def _load(self, state: MachineState) -> None:
        processor = self.processor
        block = processor.state
        for number, value in enumerate(state.gpr):
            block.q[number] = value
        processor.rip = state.rip
        processor.rflags = state.rflags
        for register, segment in zip(processor.segments, state.segments, strict=True):
            register.load(segment.selector, segment.base, segment.limit, segment.attributes)
        for system, segment in ((processor.tr, state.tr), (processor.ldtr, state.ldtr)):
            system.load(segment.selector, segment.base, segment.limit, segment.attributes)
        processor.gdtr_base, processor.gdtr_limit = state.gdtr
        processor.idtr_base, processor.idtr_limit = state.idtr
        for place, value in (
            (layout.CR0, state.cr0), (layout.CR3, state.cr3), (layout.CR4, state.cr4), (layout.EFER, state.efer),
        ):  # fmt: skip
            block.set(place, value)
        processor.cr2 = state.cr2
        processor.cpl = state.segments[2].attributes >> 5 & 3 if state.cr0 & 1 else 0
        processor.dr[:4], processor.dr[6:] = state.dr[:4], state.dr[4:]
        processor.breakpoints = frozenset()
        for i in range(4):
            block.set(layout.PDPTE + 8 * i, int.from_bytes(self._template[state.cr3 + 8 * i :][:8], "little"))
        for number, value in state.msrs.items():
            if number == KERNEL_GS_BASE:
                block.set(layout.KERNEL_GS_BASE, value)
            else:
                processor.msrs[number] = value
        block.set(layout.CODE_DESCRIPTOR, -1)
        block.set(layout.STACK_DESCRIPTOR, -1)
        processor.reset_fpu()
        processor.halted = processor.shadow = processor.step_wanted = False
        processor.native_flush(block.address, 0)
        processor.native_reset_fast(block.address)
        processor.mode_changed()

    def _state(self, case: SystemCase) -> MachineState:
        processor = self.processor
        state = MachineState(
            [processor.q[i] for i in range(16)], processor.rip, processor.rflags,
            [Segment(s.selector, s.base, s.limit, s.attributes) for s in processor.segments],
            Segment(processor.tr.selector, processor.tr.base, processor.tr.limit, processor.tr.attributes),
            Segment(processor.ldtr.selector, processor.ldtr.base, processor.ldtr.limit, processor.ldtr.attributes),
            (processor.gdtr_base, processor.gdtr_limit), (processor.idtr_base, processor.idtr_limit),
            processor.cr0, processor.cr2, processor.cr3, processor.cr4, processor.efer,
        )  # fmt: skip
        state.dr = [*processor.dr[:4], *processor.dr[6:]]
        for number in case.state.msrs:
            found = processor.state.get(layout.KERNEL_GS_BASE) if number == KERNEL_GS_BASE else None
            state.msrs[number] = processor.msrs.get(number, 0) if found is None else found
        return state
