"""Cases on trapgate's own processor.

Slots are filled with HLT, on which the processor stops after the case: at CPL 3 it raises #GP there, at CPL 0 it halts.
Exceptions are caught where the processor would deliver them.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

from trapgate.arch import layout
from trapgate.arch.cpuid import OPTERON_2007
from trapgate.arch.registers import (
    CR0_ET,
    CR0_MP,
    CR0_NE,
    CR0_PE,
    CR0_PG,
    CR0_WP,
    CR4_OSFXSR,
    CR4_OSXMMEXCPT,
    CR4_PAE,
    CR4_PGE,
    CS,
    EFER_LMA,
    EFER_LME,
    EFER_NXE,
    FS,
    GS,
    SS,
)
from trapgate.arch.segments import ATTRIBUTE_DB, ATTRIBUTE_G, ATTRIBUTE_L, CODE_ACCESSED, DATA_RW_ACCESSED, DPL_SHIFT
from trapgate.cpu.faults import Fault
from trapgate.engine.handlers import HandlerStore
from trapgate.engine.processor import Processor
from trapgate.machine.bus import Bus
from trapgate.machine.clock import Clock
from trapgate.machine.control import RunControl
from trapgate.machine.memory import PhysicalMemory

from . import areas
from .areas import Case, Outcome, State

GENERAL_PROTECTION, PAGE_FAULT = 13, 14
#: Vector of a case that trapgate stopped at because it cannot do it yet.
UNIMPLEMENTED = -2
#: Vector of a case that did not come to its end.
ENDLESS = -3
_HLT = b"\xf4"
_MEMORY_SIZE = 4 << 20
_SLOTS_AT, _DATA_AT, _TABLES_AT = 0x10_0000, 0x08_0000, 0x1000
_TSS, _TSS_AT = 0x1000_0000, 0x07_0000
_PRESENT, _WRITABLE, _USER = 1, 2, 4
_MOST_INSTRUCTIONS = 200
_DPL3 = 3 << DPL_SHIFT


class _Caught(Exception):
    """The exception that the processor was about to deliver."""

    def __init__(self, fault: Fault) -> None:
        super().__init__(fault)
        self.fault = fault


class _Observed(Processor):
    """The processor, with exceptions handed to the test instead of the guest."""

    def deliver_exception(self, fault: Fault) -> None:
        raise _Caught(fault)


class TrapgateProcessor:
    """Trapgate in 64-bit user code, flat 32-bit code at CPL 0, or real mode."""

    def __init__(self, mode: str, handlers: HandlerStore) -> None:
        self._mode = mode
        self._places = areas.PLACES[mode]
        self.memory = PhysicalMemory(_MEMORY_SIZE)
        clock = Clock(OPTERON_2007.frequency)
        self.processor = _Observed(
            OPTERON_2007, self.memory, Bus(), clock, RunControl(), handlers, acknowledge=lambda: 0xFF
        )
        self._map_pages()
        enter = {
            "long64": self._enter_long_mode,
            "compat32": self._enter_long_mode,
            "protected32": self._enter_protected_mode,
            "real16": self._enter_real_mode,
        }
        enter[mode]()

    # -- where things are

    def _map_pages(self) -> None:
        """Page tables for the areas; real mode uses the addresses as they are."""
        places = self._places
        if self._mode == "real16":
            self._slots_at, self._window_at = places.slots, places.window
            self._data_at = places.read_only
            return
        self._slots_at, self._data_at = _SLOTS_AT, _DATA_AT
        self._window_at = _DATA_AT + 2 * areas.PAGE - areas.WINDOW_SIZE
        self._next_table = _TABLES_AT + areas.PAGE
        everything = _PRESENT | _WRITABLE | _USER
        for offset in range(0, places.slot_count * areas.SLOT_SIZE, areas.PAGE):
            self._map(places.slots + offset, self._slots_at + offset, everything)
        self._map(places.read_only, self._data_at, _PRESENT | _USER)
        self._map(places.read_only + areas.PAGE, self._data_at + areas.PAGE, everything)
        self.memory.write(self._data_at, areas.read_only_bytes())

    def _map(self, linear: int, physical: int, rights: int) -> None:
        """One 4 KB page, by four-level tables, or by the two levels of 32-bit ones."""
        table = _TABLES_AT
        shifts, size, bits = ((39, 30, 21), 8, 9) if self._mode in ("long64", "compat32") else ((22,), 4, 10)
        mask = (1 << bits) - 1
        for shift in shifts:
            place = table + (linear >> shift & mask) * size
            entry = int.from_bytes(self.memory.read(place, size), "little")
            if not entry:
                entry = self._next_table | _PRESENT | _WRITABLE | _USER
                self._next_table += areas.PAGE
                self.memory.write(place, entry.to_bytes(size, "little"))
            table = entry & ~0xFFF
        self.memory.write(table + (linear >> 12 & mask) * size, (physical | rights).to_bytes(size, "little"))

    def _enter_long_mode(self) -> None:
        self._control(CR0_PE | CR0_PG, CR4_PAE | CR4_PGE, EFER_LME | EFER_LMA | EFER_NXE)
        segments = self.processor.segments
        flat_data = DATA_RW_ACCESSED | ATTRIBUTE_DB | ATTRIBUTE_G | _DPL3
        for number, segment in enumerate(segments):
            is_null = number >= FS or (self._mode == "long64" and number not in (CS, SS))
            segment.load(0 if is_null else areas.USER_DATA, 0, 0xFFFF_FFFF, 0 if is_null else flat_data)
        if self._mode == "long64":
            segments[CS].load(areas.USER_CODE, 0, 0xFFFF_FFFF, CODE_ACCESSED | ATTRIBUTE_L | ATTRIBUTE_G | _DPL3)
            segments[GS].base = areas.GS_BASE
        else:
            attributes = CODE_ACCESSED | ATTRIBUTE_DB | ATTRIBUTE_G | _DPL3
            segments[CS].load(areas.USER_CODE_32, 0, 0xFFFF_FFFF, attributes)
        # A TSS whose I/O permission bitmap lies beyond its limit.
        self._map(_TSS, _TSS_AT, _PRESENT | _WRITABLE)
        self.memory.write_u16(_TSS_AT + 0x66, 0x68)
        self.processor.tr.load(0x40, _TSS, 0x67, 0x8B)
        self.processor.cpl = 3

    def _enter_protected_mode(self) -> None:
        self._control(CR0_PE | CR0_PG, CR4_PGE, 0)
        for number, segment in enumerate(self.processor.segments):
            attributes = CODE_ACCESSED if number == CS else DATA_RW_ACCESSED
            segment.load(0, 0, 0xFFFF_FFFF, attributes | ATTRIBUTE_DB | ATTRIBUTE_G)

    def _enter_real_mode(self) -> None:
        self._control(0, 0, 0)
        for number, segment in enumerate(self.processor.segments):
            segment.load(0, 0, 0xFFFF, CODE_ACCESSED if number == CS else DATA_RW_ACCESSED)

    def _control(self, cr0: int, cr4: int, efer: int) -> None:
        state = self.processor.state
        state.set(layout.CR0, cr0 | CR0_ET | CR0_MP | CR0_NE | CR0_WP)
        state.set(layout.CR4, cr4 | CR4_OSFXSR | CR4_OSXMMEXCPT)
        state.set(layout.EFER, efer)
        state.set(layout.CR3, _TABLES_AT)

    # -- running

    def run(self, cases: Sequence[Case]) -> list[Outcome]:
        """Run every case from its own state."""
        return [self._run(case) for case in cases]

    def _run(self, case: Case) -> Outcome:
        processor, state = self.processor, case.state
        slot = self._slots_at + (state.rip - areas.SLOT_START - self._places.slots)
        self.memory.write(slot, (_HLT * areas.SLOT_START + case.code).ljust(areas.SLOT_SIZE, _HLT))
        self.memory.write(self._window_at, state.window)
        self._load(state)
        processor.halted = False
        processor.mode_changed()
        fault: Fault | None = None
        try:
            stopped = processor.run(max_instructions=_MOST_INSTRUCTIONS)
        except _Caught as caught:
            fault = caught.fault
        rip = processor.rip
        if fault is None:
            if stopped.reason == "unimplemented":
                return Outcome(self._state(rip), UNIMPLEMENTED)
            if stopped.reason != "halted":
                return Outcome(self._state(rip), ENDLESS)
            return Outcome(self._state(rip - 1))
        if fault.vector == GENERAL_PROTECTION and rip != state.rip and self._byte_at(rip) == _HLT:
            return Outcome(self._state(rip))
        address = fault.address if fault.vector == PAGE_FAULT and fault.address is not None else 0
        return Outcome(self._state(rip), fault.vector, fault.error or 0, address)

    def _byte_at(self, rip: int) -> bytes:
        offset = rip - self._places.slots
        if not 0 <= offset < self._places.slot_count * areas.SLOT_SIZE:
            return b""
        return self.memory.read(self._slots_at + offset, 1)

    # -- state

    def _load(self, state: State) -> None:
        processor = self.processor
        block, fx = processor.state, state.fx
        for number, value in enumerate(state.gpr):
            block.q[number] = value
        processor.rip = state.rip
        processor.rflags = state.rflags
        control, status, tag = struct.unpack_from("<HHB", fx)
        block.w[layout.FPU_CONTROL >> 1] = control
        block.d[layout.FPU_CONTROL_MASKED >> 2] = control | 0x3F
        block.w[layout.FPU_STATUS >> 1] = status & ~0x3800
        top = status >> 11 & 7
        block.d[layout.FPU_TOP >> 2] = top
        for i in range(8):
            block.bytes[layout.FPU_VALID + i] = tag >> i & 1
            at, place = areas.FX_ST + 16 * i, layout.fpr((top + i) & 7)
            block.bytes[place : place + 10] = fx[at : at + 10]
        block.bytes[layout.XMM : layout.XMM + 256] = fx[areas.FX_XMM : areas.FX_XMM + 256]
        block.d[layout.MXCSR >> 2] = struct.unpack_from("<I", fx, areas.FX_MXCSR)[0]

    def _state(self, rip: int) -> State:
        processor = self.processor
        block = processor.state
        fx = bytearray(areas.FX_SIZE)
        top = block.d[layout.FPU_TOP >> 2]
        status = block.w[layout.FPU_STATUS >> 1] | top << 11
        tag = sum(bool(block.bytes[layout.FPU_VALID + i]) << i for i in range(8))
        struct.pack_into("<HHB", fx, 0, block.w[layout.FPU_CONTROL >> 1], status, tag)
        struct.pack_into("<I", fx, areas.FX_MXCSR, block.d[layout.MXCSR >> 2])
        for i in range(8):
            at, place = areas.FX_ST + 16 * i, layout.fpr((top + i) & 7)
            fx[at : at + 10] = block.bytes[place : place + 10]
        fx[areas.FX_XMM : areas.FX_XMM + 256] = block.bytes[layout.XMM : layout.XMM + 256]
        gpr = [block.q[number] for number in range(16)]
        window = self.memory.read(self._window_at, areas.WINDOW_SIZE)
        return State(gpr, processor.rflags, bytes(fx), window, rip)
