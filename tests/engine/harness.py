"""A processor without a board, for small guests of a test's making.

Guest-physical memory:

    1000h  GDT          2000h  IDT         3000h  TSS          3800h  I/O bitmap
    4000h  one HLT for each vector, 16 bytes apart
    5000h  stack for interrupts, downwards from 6000h (long mode: IST 1 of every gate; 32-bit: the stack of CPL 0)
    6000h  stack of the guest, downwards from 7000h
    8000h  code
    10000h data
    40000h page tables; 10_0000h and up: free

With paging on, the first 512 KB are mapped to themselves, writable and for everybody.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest

from engine.assembly import Code
from support import PLAIN_COSTS
from trapgate.arch import layout
from trapgate.arch.cpuid import OPTERON_2007, CpuProfile
from trapgate.arch.registers import (
    CR0_ET,
    CR0_NE,
    CR0_PE,
    CR0_PG,
    CR0_WP,
    CR4_OSFXSR,
    CR4_PAE,
    CR4_PGE,
    CR4_PSE,
    CS,
    EFER_LMA,
    EFER_LME,
    EFER_NXE,
    EFER_SCE,
    GPR_NAMES,
)
from trapgate.arch.segments import ATTRIBUTE_DB, ATTRIBUTE_G, ATTRIBUTE_L, CODE_ACCESSED, DATA_RW_ACCESSED, DPL_SHIFT
from trapgate.cpu.faults import Fault
from trapgate.engine.handlers import HandlerStore
from trapgate.engine.processor import Processor, Stopped
from trapgate.machine.bus import Bus
from trapgate.machine.clock import Clock
from trapgate.machine.control import RunControl
from trapgate.machine.memory import PhysicalMemory

GDT, IDT, TSS, STUBS = 0x1000, 0x2000, 0x3000, 0x4000
INTERRUPT_STACK, STACK, CODE, DATA, TABLES = 0x6000, 0x7000, 0x8000, 0x1_0000, 0x4_0000
MEMORY_SIZE = 4 << 20
#: Guest-physical address of the device that tests look at; no RAM is there.
DEVICE = 0xF000_0000
PORT = 0x500
P, W, U, PS, G, NX = 1, 2, 4, 0x80, 0x100, 1 << 63

# Selectors. The user ones are for SYSRET's order too: 32-bit code, data, 64-bit code.
CODE64, DATA0, CODE32, CODE16, DATA16 = 0x08, 0x10, 0x18, 0x20, 0x28
USER32, USER_DATA, USER64 = 0x33, 0x3B, 0x43
TSS_SELECTOR, FREE = 0x50, 0x60
INTERRUPT_GATE, TRAP_GATE = 0x8E, 0x8F


def descriptor(attributes: int, base: int = 0, limit: int = 0xF_FFFF) -> int:
    """A segment descriptor; `limit` as the descriptor holds it (20 bits), `attributes` as in arch/segments.py."""
    return (
        limit & 0xFFFF | (base & 0xFF_FFFF) << 16 | (attributes & 0xFF) << 40 | (limit >> 16 & 0xF) << 48
        | (attributes >> 8 & 0xF) << 52 | (base >> 24 & 0xFF) << 56
    )  # fmt: skip


_FLAT = ATTRIBUTE_G | ATTRIBUTE_DB
_USER = 3 << DPL_SHIFT
DESCRIPTORS = {
    CODE64: descriptor(CODE_ACCESSED | ATTRIBUTE_L | ATTRIBUTE_G),
    DATA0: descriptor(DATA_RW_ACCESSED | _FLAT),
    CODE32: descriptor(CODE_ACCESSED | _FLAT),
    CODE16: descriptor(CODE_ACCESSED, limit=0xFFFF),
    DATA16: descriptor(DATA_RW_ACCESSED, limit=0xFFFF),
    USER32: descriptor(CODE_ACCESSED | _FLAT | _USER),
    USER_DATA: descriptor(DATA_RW_ACCESSED | _FLAT | _USER),
    USER64: descriptor(CODE_ACCESSED | ATTRIBUTE_L | ATTRIBUTE_G | _USER),
    TSS_SELECTOR: descriptor(0x89, TSS, 0x67),
}


class Caught(Exception):
    """The exception that the processor was about to deliver."""

    def __init__(self, fault: Fault) -> None:
        super().__init__(fault)
        self.fault = fault


def _catch(fault: Fault) -> None:
    raise Caught(fault)


@dataclass(frozen=True)
class Frame:
    """What the processor pushed for an exception or an interrupt. `error` is None where the vector has none."""

    vector: int
    error: int | None
    rip: int
    cs: int
    rflags: int
    rsp: int = 0
    ss: int = 0


class Device:
    """A page of registers and a few ports: remembers the accesses, and calls the test."""

    name = "device"
    port_width = 4

    def __init__(self) -> None:
        #: (offset, width, value) of every write, and (offset, width) of every read, ports and memory alike.
        self.writes: list[tuple[int, int, int]] = []
        self.reads: list[tuple[int, int]] = []
        self.content = bytearray(range(256)) * 16
        self.on_write: Callable[[int, int, int], None] = lambda offset, width, value: None

    def read_memory(self, offset: int, width: int) -> int:
        self.reads.append((offset, width))
        return int.from_bytes(self.content[offset : offset + width], "little")

    def write_memory(self, offset: int, width: int, value: int) -> None:
        self.writes.append((offset, width, value))
        self.on_write(offset, width, value)

    read_port = read_memory
    write_port = write_memory

    def reset(self) -> None:
        pass


class Guest:
    """A processor with 4 MB of RAM, a device and nothing else. Call one of the `enter_` methods first."""

    def __init__(
        self,
        handlers: HandlerStore,
        memory: PhysicalMemory | None = None,
        profile: CpuProfile = OPTERON_2007,
        hot: str | None = None,
        code_size: int | None = None,
    ) -> None:
        self.memory = memory or PhysicalMemory(MEMORY_SIZE)
        self.profile = profile
        self.clock = Clock(profile.frequency)
        self.control = RunControl()
        self.bus = Bus()
        self.device = Device()
        self.bus.map_memory(DEVICE, 0x1000, self.device)
        self.bus.map_ports(PORT, 8, self.device)
        self.interrupt = 0x40
        self.processor = Processor(
            profile,
            self.memory,
            self.bus,
            self.clock,
            self.control,
            handlers,
            self._acknowledge,
            PLAIN_COSTS,
            hot,
            code_size,
        )
        self.memory.write(STUBS, (b"\xf4" + bytes(15)) * 256)
        self._next_table = TABLES
        self._entry_size = 8
        self.root = 0

    def _acknowledge(self) -> int:
        self.processor.set_intr(False)
        return self.interrupt

    # -- modes

    def enter_real(self, segment: int = 0) -> Guest:
        """Real mode; every segment has `segment`'s base. Vectors lead to HLT at 0:4000h + 16 * vector."""
        p = self.processor
        for vector in range(256):
            self.memory.write_u32(4 * vector, STUBS + 16 * vector)
        p.idtr_base, p.idtr_limit = 0, 0x3FF
        p.state.set(layout.CR0, CR0_ET)
        for number, register in enumerate(p.segments):
            register.load(segment, segment << 4, 0xFFFF, CODE_ACCESSED if number == CS else DATA_RW_ACCESSED)
        return self._entered()

    def enter_protected(self, paging: str = "", cpl: int = 0, gate: int = INTERRUPT_GATE) -> Guest:
        """32-bit protected mode, flat; `paging` is "", "two-level" or "pae"."""
        p = self.processor
        self._tables()
        for vector in range(256):
            self.set_gate32(vector, CODE32, STUBS + 16 * vector, gate)
        self.memory.write_u32(TSS + 4, INTERRUPT_STACK)
        self.memory.write_u32(TSS + 8, DATA0)
        p.idtr_base, p.idtr_limit = IDT, 0x7FF
        cr0, cr4 = CR0_PE | CR0_ET | CR0_NE | CR0_WP, CR4_OSFXSR
        if paging:
            self._entry_size = 8 if paging == "pae" else 4
            self._levels = (30, 21) if paging == "pae" else (22,)
            self.root = self.new_root()
            cr0, cr4 = cr0 | CR0_PG, cr4 | CR4_PGE | (CR4_PAE if paging == "pae" else CR4_PSE)
            p.state.set(layout.EFER, EFER_NXE & self.profile.efer_bits)
            p.state.set(layout.CR3, self.root)
            if paging == "pae":
                for i in range(4):
                    p.state.set(layout.PDPTE + 8 * i, self.memory.read_u64(self.root + 8 * i))
        p.state.set(layout.CR0, cr0)
        p.state.set(layout.CR4, cr4 & self.profile.cr4_bits)
        self._flat(USER32 if cpl else CODE32, USER_DATA if cpl else DATA0, cpl)
        return self._entered()

    def enter_long(self, cpl: int = 0, compatibility: bool = False, ist: int = 1) -> Guest:
        """Long mode, 64-bit code or compatibility mode, four-level paging."""
        p = self.processor
        self._tables()
        for vector in range(256):
            self.set_gate64(vector, CODE64, STUBS + 16 * vector, INTERRUPT_GATE, ist)
        self.memory.write_u64(TSS + 4, INTERRUPT_STACK)
        self.memory.write_u64(TSS + 36, INTERRUPT_STACK)
        p.idtr_base, p.idtr_limit = IDT, 0xFFF
        self._entry_size, self._levels = 8, (39, 30, 21)
        self.root = self.new_root()
        p.state.set(layout.CR0, CR0_PE | CR0_ET | CR0_NE | CR0_WP | CR0_PG)
        p.state.set(layout.CR4, CR4_OSFXSR | CR4_PAE | CR4_PGE)
        p.state.set(layout.EFER, EFER_LME | EFER_LMA | EFER_NXE | EFER_SCE)
        p.state.set(layout.CR3, self.root)
        code = (USER32 if cpl else CODE32) if compatibility else (USER64 if cpl else CODE64)
        self._flat(code, USER_DATA if cpl else DATA0, cpl)
        return self._entered()

    def _tables(self) -> None:
        p = self.processor
        for selector, value in DESCRIPTORS.items():
            self.set_descriptor(selector, value)
        p.gdtr_base, p.gdtr_limit = GDT, 0xFF
        p.tr.load(TSS_SELECTOR, TSS, 0x67, 0x8B)

    def _flat(self, code: int, data: int, cpl: int) -> None:
        p = self.processor
        p.cpl = cpl
        for number in range(6):
            selector = code if number == CS else data
            value = DESCRIPTORS[selector]
            attributes = value >> 40 & 0xFF | (value >> 52 & 0xF) << 8
            p.segments[number].load(selector, 0, 0xFFFF_FFFF, attributes)
        p.set_state_field(layout.CODE_DESCRIPTOR, DESCRIPTORS[code])

    def _entered(self) -> Guest:
        self.processor.rip = CODE
        self.set(rsp=STACK)
        self.processor.mode_changed()
        return self

    # -- tables

    def set_descriptor(self, selector: int, value: int) -> None:
        """An entry of the GDT."""
        self.memory.write_u64(GDT + (selector & ~7), value)

    def set_gate32(self, vector: int, selector: int, offset: int, kind: int = INTERRUPT_GATE) -> None:
        """A gate of the 32-bit IDT; `kind` is the attribute byte."""
        self.memory.write_u64(
            IDT + 8 * vector, offset & 0xFFFF | selector << 16 | kind << 40 | (offset >> 16 & 0xFFFF) << 48
        )

    def set_gate64(self, vector: int, selector: int, offset: int, kind: int = INTERRUPT_GATE, ist: int = 0) -> None:
        """A gate of the 64-bit IDT."""
        low = offset & 0xFFFF | selector << 16 | ist << 32 | kind << 40 | (offset >> 16 & 0xFFFF) << 48
        self.memory.write(IDT + 16 * vector, low.to_bytes(8, "little") + (offset >> 32).to_bytes(8, "little"))

    def new_table(self) -> int:
        """Guest-physical address of an empty table."""
        table, self._next_table = self._next_table, self._next_table + 0x1000
        self.memory.write(table, bytes(0x1000))
        return table

    def new_root(self) -> int:
        """An address space: CR3, with the first 512 KB mapped to themselves."""
        root = self.new_table()
        if self._levels[0] == 30:
            for i in range(4):
                self.memory.write_u64(root + 8 * i, self.new_table() | P)
        for page in range(0, 0x8_0000, 0x1000):
            self.map(page, page, root=root)
        return root

    def _place(self, linear: int, root: int, levels: tuple[int, ...]) -> int:
        """Guest-physical address of the entry below the given levels."""
        size = self._entry_size
        mask = 511 if size == 8 else 1023
        table = root
        for shift in levels:
            place = table + (linear >> shift & mask) * size
            entry = int.from_bytes(self.memory.read(place, size), "little")
            if not entry & P:
                entry = self.new_table() | P | W | U
                self.memory.write(place, entry.to_bytes(size, "little"))
            table = entry & 0xF_FFFF_FFFF_F000
        return table

    def entry(self, linear: int, root: int = 0) -> int:
        """Guest-physical address of the page-table entry of a 4 KB page."""
        mask = 511 if self._entry_size == 8 else 1023
        return self._place(linear, root or self.root, self._levels) + (linear >> 12 & mask) * self._entry_size

    def map(self, linear: int, physical: int, rights: int = P | W | U, root: int = 0) -> None:
        """Map a 4 KB page. The TLB is not flushed."""
        place = self.entry(linear, root)
        self.memory.write(place, (physical | rights).to_bytes(self._entry_size, "little"))

    def map_large(self, linear: int, physical: int, shift: int, rights: int = P | W | U, root: int = 0) -> None:
        """Map a page of 2 ** `shift` bytes."""
        levels = tuple(level for level in self._levels if level > shift)
        mask = 511 if self._entry_size == 8 else 1023
        place = self._place(linear, root or self.root, levels) + (linear >> shift & mask) * self._entry_size
        self.memory.write(place, (physical | rights | PS).to_bytes(self._entry_size, "little"))

    def flush(self, linear: int) -> None:
        """As INVLPG does."""
        self.processor.flush_page(linear)

    # -- registers and code

    def load(self, code: Code, physical: int | None = None) -> Guest:
        """Put code where it belongs (or at a guest-physical address) and go there."""
        self.memory.write(code.origin if physical is None else physical, code.data)
        self.go(code.origin)
        return self

    def go(self, rip: int) -> None:
        """Go on at `rip`, no longer halted."""
        p = self.processor
        p.rip = rip
        p.halted = False
        p.mode_changed()

    def set(self, **values: int) -> Guest:
        """Write registers: rax to r15, rip, rflags."""
        for name, value in values.items():
            if name in ("rip", "rflags"):
                setattr(self.processor, name, value)
            else:
                self.processor.q[GPR_NAMES.index(name)] = value
        return self

    def __getitem__(self, name: str) -> int:
        if name in ("rip", "rflags"):
            return int(getattr(self.processor, name))
        return self.processor.q[GPR_NAMES.index(name)]

    def registers(self) -> dict[str, int]:
        """All general registers, rip and rflags."""
        return {name: self[name] for name in (*GPR_NAMES, "rip", "rflags")}

    def run(self, max_instructions: int | None = 100_000) -> Stopped:
        """Run; a guest that does not end is stopped at the limit."""
        return self.processor.run(max_instructions)

    def run_to_halt(self, max_instructions: int = 100_000) -> None:
        """Run until the guest halts."""
        stopped = self.run(max_instructions)
        assert stopped.reason == "halted", f"wanted a halt, got {stopped} at {self['rip']:#x}"

    def counter(self, name: str) -> int:
        """A counter of the TLB."""
        return self.processor.state.counter(name)

    def frame(self) -> Frame:
        """The exception or interrupt whose stub the guest halted in."""
        rip = self["rip"] - 1
        offset = rip - STUBS
        assert offset in range(0, 0x1000, 16), f"wanted a halt in a stub, got one at {rip:#x}"
        vector = offset // 16
        p = self.processor
        size = 2 if p.real_mode else 8 if p.long_mode else 4
        rsp = self["rsp"] + p.segments[2].base

        def word(number: int) -> int:
            return int.from_bytes(self.memory.read(rsp + number * size, size), "little")

        error = None
        first = 0
        if vector in (8, 10, 11, 12, 13, 14, 17) and not p.real_mode:
            error, first = word(0), 1
        cs = word(first + 1) & 0xFFFF
        has_stack = p.long_mode or (not p.real_mode and cs & 3 != p.cpl)
        outer = (word(first + 3), word(first + 4) & 0xFFFF) if has_stack else (0, 0)
        return Frame(vector, error, word(first), cs, word(first + 2), *outer)

    def first_exception(self, max_instructions: int = 1000) -> tuple[int, int | None]:
        """Run until the processor is about to deliver an exception: its vector and error code."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(self.processor, "deliver_exception", _catch)
            try:
                stopped = self.run(max_instructions)
            except Caught as caught:
                return caught.fault.vector, caught.fault.error
        raise AssertionError(f"wanted an exception, got {stopped}")

    def run_to_exception(self, max_instructions: int = 100_000) -> Frame:
        """Run until an exception's stub halts."""
        self.run_to_halt(max_instructions)
        return self.frame()
