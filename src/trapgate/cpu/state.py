"""The state block (arch/layout.py) from Python's side, and the segment registers."""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Mapping
from types import MappingProxyType

from trapgate.arch import layout
from trapgate.arch.registers import FS, SEGMENT_NAMES
from trapgate.arch.segments import (
    ATTRIBUTE_CODE,
    ATTRIBUTE_DB,
    ATTRIBUTE_DC,
    ATTRIBUTE_P,
    ATTRIBUTE_RW,
    ATTRIBUTE_S,
)
from trapgate.cpu import tlb

_MASK64 = (1 << 64) - 1


class State:
    """One processor's state block. `q` is it as 64-bit words: field at byte offset o is q[o >> 3]."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, tlb.STATE_SIZE)
        self.bytes = memoryview(self._memory)
        self.q = self.bytes.cast("Q")
        self.w = self.bytes.cast("H")
        self.d = self.bytes.cast("I")
        self.address = ctypes.addressof(ctypes.c_char.from_buffer(self._memory))
        self._segment_writes = 0

    @property
    def segment_writes(self) -> int:
        """How often ES, CS, SS or DS was written: two equal numbers mean that none was in between."""
        return self._segment_writes + self.q[layout.SEGMENT_LOADS >> 3]

    def note_segment_write(self, counted: bool) -> None:
        """A segment register is written; `counted` when it is one of those."""
        self._segment_writes += counted

    def get(self, offset: int) -> int:
        """A 64-bit field."""
        return self.q[offset >> 3]

    def set(self, offset: int, value: int) -> None:
        """Write a 64-bit field (modulo 2**64)."""
        self.q[offset >> 3] = value & _MASK64

    def counter(self, name: str) -> int:
        """A counter's value."""
        return self.q[layout.counter(name) >> 3]

    def empty_tlb(self) -> None:
        """Both levels of the modelled TLB, the walker's caches and the fast tables as after a reset."""
        for side in (tlb.DATA, tlb.INSTRUCTION):
            for offset in range(side.fast, side.fast + 2 * tlb.FAST_ENTRIES * tlb.FAST_SIZE, tlb.FAST_SIZE):
                self._empty_fast(offset)
            for i in range(tlb.L1_ENTRIES):
                self.set(side.tags + 8 * i, tlb.NO_PAGE)
            for i in range(tlb.L1_ENTRIES + 1):
                self.set(side.heads + 8 * i, tlb.NO_SLOT)
            for start, count in (
                (side.l2, tlb.OPTERON_2007.l2_sets * tlb.WAYS),
                (side.l2_large, tlb.OPTERON_2007.l2_large),
            ):
                for offset in range(start, start + count * tlb.L2_ENTRY, tlb.L2_ENTRY):
                    self.set(offset, tlb.NO_PAGE)
                    self.set(offset + 24, 0)
        for cache in (tlb.PAGE_WALK_CACHE, tlb.NESTED_TLB):
            for i in range(cache.entries):
                self.set(cache.tags + 8 * i, tlb.NO_PAGE)
                self.set(cache.stamps + 8 * i, 0)
        if self.counter("walk_memory_references"):
            size = tlb.OPTERON_2007.cache_lines * tlb.CACHE_ENTRY
            self.bytes[tlb.CACHE_LINES : tlb.CACHE_LINES + size] = bytes(size)
        for offset in range(tlb.NEVER, tlb.NEVER + tlb.FAST_ENTRIES * tlb.FAST_SIZE, tlb.FAST_SIZE):
            self._empty_fast(offset)

    def _empty_fast(self, offset: int) -> None:
        self.set(offset, -1)
        self.set(offset + 8, -1)
        self.w[(offset + 24) >> 1] = tlb.NO_OWNER


class SegmentRegister:
    """A segment register with its hidden part. `attributes` are bits 8..23 of a descriptor's upper half without the
    limit: type, S, DPL, P in bits 0..7, AVL, L, D/B, G in bits 8..11 (the VMCB's format, APM vol. 2, appendix B).

    All of it lives in the state block, where native code reads it, and writes it where the privilege changes.
    """

    __slots__ = ("_attributes", "_counted", "_limit", "_offset", "_selector", "_state", "name", "unchecked")

    def __init__(self, state: State, number: int) -> None:
        self._state = state
        self._counted = number < FS
        self._offset = layout.segment(number)
        self._selector = layout.selector(number) >> 3
        self._attributes = layout.attributes(number) >> 3
        self._limit = layout.limit(number) >> 3
        self.name = SEGMENT_NAMES[number]
        self.unchecked = False

    @property
    def attributes(self) -> int:
        """Type, rights and sizes, as the class says."""
        return self._state.q[self._attributes]

    @attributes.setter
    def attributes(self, value: int) -> None:
        self._state.q[self._attributes] = value

    @property
    def limit(self) -> int:
        """Highest offset, in bytes."""
        return self._state.q[self._limit]

    @limit.setter
    def limit(self, value: int) -> None:
        self._state.q[self._limit] = value

    @property
    def selector(self) -> int:
        """The visible part, 16 bits."""
        return self._state.q[self._selector]

    @selector.setter
    def selector(self, value: int) -> None:
        self._state.q[self._selector] = value & 0xFFFF
        self._state.note_segment_write(self._counted)

    @property
    def base(self) -> int:
        """Linear base address, 64 bits."""
        return self._state.q[self._offset >> 3]

    @base.setter
    def base(self, value: int) -> None:
        self._state.q[self._offset >> 3] = value & _MASK64
        self._state.note_segment_write(self._counted)

    def load(self, selector: int, base: int, limit: int, attributes: int) -> None:
        """Load the register and its hidden part; `limit` is in bytes (already scaled)."""
        state, q = self._state, self._state.q
        q[self._selector], q[self._limit], q[self._attributes] = selector & 0xFFFF, limit, attributes
        q[self._offset >> 3] = base & _MASK64
        state.note_segment_write(self._counted)
        self._derive()

    def _derive(self) -> None:
        """What native code checks: lowest and highest valid offset for reads and writes (APM vol. 2, 4.12)."""
        a = self.attributes
        low, high_read, high_write = 0, -1, -1
        if a & ATTRIBUTE_P and a & ATTRIBUTE_S:
            high = self.limit
            is_code = bool(a & ATTRIBUTE_CODE)
            if not is_code and a & ATTRIBUTE_DC:  # expand-down: above the limit
                low = self.limit + 1
                high = 0xFFFF_FFFF if a & ATTRIBUTE_DB else 0xFFFF
            if not is_code or a & ATTRIBUTE_RW:
                high_read = high
            if not is_code and a & ATTRIBUTE_RW:
                high_write = high
        o = self._offset
        self._state.set(o + layout.SEGMENT_LOW, low)
        self._state.set(o + layout.SEGMENT_HIGH_READ, high_read)
        self._state.set(o + layout.SEGMENT_HIGH_WRITE, high_write)
        self.unchecked = False

    def check_type(self, checked: bool) -> None:
        """For CS: without protection (CR0.PE = 0) nothing checks the type, and code segments can be written too."""
        if self.unchecked == checked:
            self._derive()
            if not checked:
                self._state.set(self._offset + layout.SEGMENT_HIGH_WRITE, self.limit)
                self.unchecked = True

    def is_flat(self, write: bool) -> bool:
        """Base 0 and every 32-bit offset valid."""
        q, o = self._state.q, self._offset
        high = q[(o + (layout.SEGMENT_HIGH_WRITE if write else layout.SEGMENT_HIGH_READ)) >> 3]
        return q[o >> 3] == 0 and q[(o + layout.SEGMENT_LOW) >> 3] == 0 and high == 0xFFFF_FFFF


class SystemCallMsrs(dict[int, int]):
    """The values of MSRs by number; those that SYSCALL and SYSRET use are kept in the state block, too."""

    _PLACES = MappingProxyType({0xC000_0081: layout.STAR, 0xC000_0082: layout.LSTAR, 0xC000_0084: layout.SFMASK})

    def __init__(self, state: State, values: Mapping[int, int]) -> None:
        super().__init__(values)
        self._state = state
        self.into_state()

    def __setitem__(self, number: int, value: int) -> None:
        super().__setitem__(number, value)
        place = self._PLACES.get(number)
        if place is not None:
            self._state.set(place, value)

    def into_state(self) -> None:
        """Make the state block agree."""
        for number, place in self._PLACES.items():
            self._state.set(place, self.get(number, 0))


class SystemSegment:
    """LDTR and TR."""

    __slots__ = ("attributes", "base", "limit", "selector")

    def __init__(self) -> None:
        self.selector = 0
        self.base = 0
        self.limit = 0xFFFF
        self.attributes = 0

    def load(self, selector: int, base: int, limit: int, attributes: int) -> None:
        """Load the register and its hidden part."""
        self.selector, self.base, self.limit, self.attributes = selector, base, limit, attributes


class TaskRegister(SystemSegment):
    """TR, whose base and limit are in the state block."""

    __slots__ = ("_state",)

    def __init__(self, state: State) -> None:
        self._state = state
        super().__init__()

    @property
    def base(self) -> int:
        """Linear address of the TSS."""
        return self._state.q[layout.TSS_BASE >> 3]

    @base.setter
    def base(self, value: int) -> None:
        self._state.set(layout.TSS_BASE, value)

    @property
    def limit(self) -> int:
        """Its highest offset."""
        return self._state.q[layout.TSS_LIMIT >> 3]

    @limit.setter
    def limit(self, value: int) -> None:
        self._state.set(layout.TSS_LIMIT, value)
