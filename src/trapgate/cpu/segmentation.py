"""Segment registers: loading and checking them, and the frames that transfers of control write.

Source: APM vol. 2, 4.5 to 4.12.
"""

from __future__ import annotations

from collections.abc import Callable

from trapgate.arch import layout, vectors
from trapgate.arch.paging import PF_U, PF_W
from trapgate.arch.registers import CS, DS, ES, FS, GS, SS
from trapgate.arch.segment_rules import data_fault, stack_fault
from trapgate.arch.segments import (
    ATTRIBUTE_CODE,
    ATTRIBUTE_DB,
    ATTRIBUTE_DC,
    ATTRIBUTE_L,
    ATTRIBUTE_P,
    ATTRIBUTE_RW,
    ATTRIBUTE_S,
    DPL_SHIFT,
    REAL_CODE,
    TSS16_AVAILABLE,
    TSS16_BUSY,
    attributes_of,
    base_of,
    limit_of,
)
from trapgate.cpu.core import Core, is_canonical
from trapgate.cpu.faults import Fault

#: Data segment of virtual-8086 mode: present, DPL 3, read and write, accessed.
V86_ATTRIBUTES = 0xF3

#: What a segment register holds: (selector, base, limit in bytes, attributes).
StackSegment = tuple[int, int, int, int]

#: What the attributes of every code segment have.
CODE_MASK = ATTRIBUTE_S | ATTRIBUTE_CODE
_M64 = (1 << 64) - 1
_WRITABLE_MASK = ATTRIBUTE_P | ATTRIBUTE_S | ATTRIBUTE_CODE | ATTRIBUTE_RW
_WRITABLE_DATA = ATTRIBUTE_P | ATTRIBUTE_S | ATTRIBUTE_RW


def _nothing() -> None:
    pass


def _joined(words: list[int], bits: int) -> int:
    """Words pushed one after the other, as one number."""
    frame = 0
    for word in words:
        frame = frame << bits | word & ((1 << bits) - 1)
    return frame


def dpl_of(attributes: int) -> int:
    """Descriptor privilege level."""
    return attributes >> DPL_SHIFT & 3


class Segmentation(Core):
    """Segment loads, checks and frames."""

    # -- descriptors

    def read_descriptor(self, selector: int, vector: int = vectors.GP) -> tuple[int, int]:
        """(descriptor, its linear address); a selector beyond its table faults with `vector`."""
        offset = selector & ~7
        if selector & 4:
            base, limit = self.ldtr.base, self.ldtr.limit
            if not self.ldtr.attributes & ATTRIBUTE_P:
                raise Fault(vector, selector & ~3)
        else:
            base, limit = self.gdtr_base, self.gdtr_limit
        if offset + 7 > limit:
            raise Fault(vector, selector & ~3)
        return self.read_system(base + offset, 8), base + offset

    def _set_accessed(self, descriptor: int, place: int) -> None:
        if not descriptor >> 40 & 1:
            self.write_system(place + 5, 1, descriptor >> 40 & 0xFF | 1)

    def load_real(self, number: int, selector: int) -> None:
        """A segment register in real and virtual-8086 mode."""
        segment = self.segments[number]
        if self.virtual8086:
            segment.load(selector, selector << 4, 0xFFFF, V86_ATTRIBUTES)
        elif number == CS:
            segment.load(selector, selector << 4, segment.limit, REAL_CODE)
        else:
            # Limit and attributes stay as they are: "big real mode" depends on it.
            segment.load(selector, selector << 4, segment.limit, segment.attributes)

    def load_data_segment(self, number: int, selector: int) -> None:
        """MOV, POP, LDS ... into ES, SS, DS, FS, GS."""
        selector &= 0xFFFF
        if self.real_mode or self.virtual8086:
            self.load_real(number, selector)
        elif number == SS:
            self._load_stack_segment(selector, self.cpl)
        elif selector & ~3 == 0:
            segment = self.segments[number]
            # AMD keeps the base when a null selector is loaded (APM vol. 2, 4.5.3 and 4.8.3, 64-bit FS and GS).
            base = segment.base if self.long_mode and number in (FS, GS) else 0
            segment.load(selector, base, 0, 0)
        else:
            self.load_data(number, selector)
        self.mode_changed_for(number)

    def mode_changed_for(self, number: int) -> None:
        """A data segment has changed: matters to code only where segments count."""
        if self.bits != 64 and number in (ES, SS, DS):
            self.mode_changed()

    def load_data(self, number: int, selector: int, vector: int = vectors.GP) -> None:
        """ES, DS, FS or GS with a selector that is not null; what cannot be loaded faults with `vector`."""
        descriptor, place = self.read_descriptor(selector, vector)
        attributes = attributes_of(descriptor)
        refused = data_fault(selector, attributes, self.cpl, vector)
        if refused:
            raise Fault(refused, selector & ~3)
        self._set_accessed(descriptor, place)
        self.segments[number].load(selector, base_of(descriptor), limit_of(descriptor), attributes | 1)

    def _load_stack_segment(self, selector: int, cpl: int, vector: int = vectors.GP) -> None:
        loaded = self.check_stack_segment(selector, cpl, vector)
        self.segments[SS].load(*loaded)

    def check_stack_segment(self, selector: int, cpl: int, vector: int) -> StackSegment:
        """What SS would hold: (selector, base, limit, attributes); faults with `vector` (or #SS when not present)."""
        if selector & ~3 == 0:
            if self.bits == 64 and cpl < 3 and selector & 3 == cpl:
                return selector, 0, 0, 0
            raise Fault(vector, 0)
        descriptor, place = self.read_descriptor(selector, vector)
        attributes = attributes_of(descriptor)
        refused = stack_fault(selector, attributes, cpl, vector)
        if refused:
            raise Fault(refused, selector & ~3)
        self._set_accessed(descriptor, place)
        return selector, base_of(descriptor), limit_of(descriptor), attributes | 1

    # -- code segments

    def check_code(self, selector: int, returning: bool) -> tuple[int, int, int]:
        """(descriptor, its address, attributes) of the code segment that a far jump, call or return names.

        Not a gate or TSS: those are told apart before (gates.py).

        | segment       | jump, call               | return, IRET |
        |---------------|--------------------------|--------------|
        | a nonconforming | DPL = CPL and RPL <= CPL | DPL = RPL    |
        | b conforming    | DPL <= CPL               | DPL <= RPL   |

        (APM vol. 2, 4.11.1 and 4.11.2)
        """
        if selector & ~3 == 0:
            raise Fault(vectors.GP, 0)
        descriptor, place = self.read_descriptor(selector)
        attributes = attributes_of(descriptor)
        if attributes & CODE_MASK != CODE_MASK:
            raise Fault(vectors.GP, selector & ~3)
        dpl, rpl = dpl_of(attributes), selector & 3
        if attributes & ATTRIBUTE_DC:
            wrong = dpl > (rpl if returning else self.cpl)
        else:
            wrong = dpl != rpl if returning else dpl != self.cpl or rpl > self.cpl
        both = self.long_mode and attributes & ATTRIBUTE_L and attributes & ATTRIBUTE_DB
        if wrong or both:
            raise Fault(vectors.GP, selector & ~3)
        if not attributes & ATTRIBUTE_P:
            raise Fault(vectors.NP, selector & ~3)
        return descriptor, place, attributes

    def check_target(self, offset: int, descriptor: int, external: int = 0) -> None:
        """#GP(0) unless `offset` can be executed in the code segment: canonical, or within its limit."""
        attributes = attributes_of(descriptor)
        if self.long_mode and attributes & ATTRIBUTE_L:
            if not is_canonical(offset):
                raise Fault(vectors.GP, external)
        elif offset > limit_of(descriptor):
            raise Fault(vectors.GP, external)

    def enter_code(self, selector: int, descriptor: int, place: int, cpl: int) -> None:
        """Load CS; CPL becomes `cpl`."""
        self._set_accessed(descriptor, place)
        attributes = attributes_of(descriptor) | 1
        self.segments[CS].load(selector & ~3 | cpl, base_of(descriptor), limit_of(descriptor), attributes)
        self.set_state_field(layout.CODE_DESCRIPTOR, descriptor | 1 << 40)
        self.cpl = cpl
        self.mode_changed()

    # -- frames on stacks

    def inner_stack(self, cpl: int, external: int = 0) -> tuple[StackSegment, int]:
        """(SS as loaded, stack pointer) of an inner level, from a legacy TSS (APM vol. 2, 4.11.2 and 12.2.5)."""
        if self.tr.attributes & 0xF in (TSS16_AVAILABLE, TSS16_BUSY):
            sp, ss = self.from_tss(2 + 4 * cpl, 2, external), self.from_tss(4 + 4 * cpl, 2, external)
        else:
            sp, ss = self.from_tss(4 + 8 * cpl, 4, external), self.from_tss(8 + 8 * cpl, 2, external)
        try:
            return self.check_stack_segment(ss, cpl, vectors.TS), sp
        except Fault as fault:
            if fault.vector in (vectors.TS, vectors.SS) and fault.error is not None:
                fault.error |= external
            raise

    def from_tss(self, offset: int, size: int, external: int = 0) -> int:
        """A field of the current TSS; #TS with its selector beyond its limit."""
        if offset + size - 1 > self.tr.limit:
            raise Fault(vectors.TS, self.tr.selector & ~3 | external)
        return self.read_system(self.tr.base + offset, size)

    def write_frame(
        self,
        words: list[int],
        size: int,
        sp: int,
        bits: int,
        stack: StackSegment | None,
        cpl: int,
        external: int = 0,
        check: Callable[[], None] = _nothing,
    ) -> int:
        """Write `words` of `size` bytes downwards from `sp`, a stack pointer of `bits` (16 or 32); returns the new one.

        `stack` is the segment when it is not yet in SS. Nothing is written when any part cannot be, or when `check`
        raises, which is called when all parts can be; the fault is that of the first word pushed that has one. A 16-bit
        stack pointer wraps between two words (APM vol. 2, 4.12.2).
        """
        mask = (1 << bits) - 1
        segment = self.segments[SS]
        if stack is None:
            base, limit, attributes, error = segment.base, segment.limit, segment.attributes, external
        else:
            _, base, limit, attributes = stack
            error = stack[0] & ~3 | external
        low, high = 0, limit
        if attributes & ATTRIBUTE_DC:
            low, high = limit + 1, 0xFFFF_FFFF if attributes & ATTRIBUTE_DB else 0xFFFF
        if attributes & _WRITABLE_MASK != _WRITABLE_DATA:
            raise Fault(vectors.SS, error)
        access = PF_U if cpl == 3 else 0

        def probe(offset: int, length: int) -> None:
            if offset < low or offset + length - 1 > high:
                raise Fault(vectors.SS, error)
            self.probe_write(base + offset & 0xFFFF_FFFF, length, access)

        total, at = size * len(words), sp & mask
        parts = [(at - total, total, _joined(words, 8 * size))]
        try:
            whole = at >= total
            if whole:
                probe(at - total, total)
        except Fault:
            whole = False
        if not whole:
            parts = []
            for word in words:
                at = at - size & mask
                probe(at, size)
                parts.append((at, size, word & ((1 << 8 * size) - 1)))
        check()
        for offset, length, value in parts:
            self.write_linear(base + offset & 0xFFFF_FFFF, length, value, access)
        return sp - total & mask

    def write_long_frame(
        self, words: list[int], rsp: int, cpl: int, external: int = 0, check: Callable[[], None] = _nothing
    ) -> int:
        """Write quadwords downwards from `rsp` in long mode, as `write_frame` does; returns the new rsp."""
        access = PF_U if cpl == 3 else 0

        def probe(at: int, size: int) -> None:
            if not (is_canonical(at) and is_canonical(at + size - 1 & _M64)):
                raise Fault(vectors.SS, external)
            self.probe_write(at, size, access)

        size = 8 * len(words)
        bottom = rsp - size & _M64
        try:
            probe(bottom, size)
        except Fault:
            for i in range(1, len(words) + 1):
                probe(rsp - 8 * i & _M64, 8)
        check()
        self.write_linear(bottom, size, _joined(words, 64), access)
        return bottom

    def probe_write(self, linear: int, size: int, access: int) -> None:
        """Raise the fault that a write would, without writing."""
        self._parts(linear, size, access | PF_W)

    def probe_segment(self, segment: int, offset: int, size: int) -> None:
        """The same through a segment, at the current privilege."""
        self.probe_write(self.segment_linear(segment, offset, size, True), size, self._user_access)
