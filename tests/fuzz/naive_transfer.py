"""A naive second model of segment loads and far transfers, written from the manual's pseudo-code.

AMD64 APM vol. 3 (CALL, JMP, RET far, IRET, INT, MOV, LLDT, LTR) and vol. 2, 4.7 to 4.12, 8.6 to 8.9 and 12.3. Nothing
is shared with the processor under test. Memory is plain: in legacy mode there is no paging, in long mode the first
512 KB are mapped to themselves for everybody. What an instruction does is worked out on copies:
a fault leaves garbage behind.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

DB, DF, TS, NP, SS, GP, PF = 1, 8, 10, 11, 12, 13, 14
TF, IF, NT, RF, VM = 1 << 8, 1 << 9, 1 << 14, 1 << 16, 1 << 17
MAPPED = 0x8_0000


class NaiveFault(Exception):
    """An exception: vector, error code, address of a page fault."""

    def __init__(self, vector: int, error: int | None, address: int | None = None) -> None:
        super().__init__(vector, error, address)
        self.vector, self.error, self.address = vector, error, address


@dataclass
class Segment:
    """A segment register; `rights` is the access byte, `size` the nibble G, D/B, L, AVL above the limit."""

    selector: int = 0
    base: int = 0
    limit: int = 0
    rights: int = 0
    size: int = 0

    @property
    def big(self) -> bool:
        return bool(self.size & 4)

    @property
    def long(self) -> bool:
        return bool(self.size & 2)


class Entry:
    """A descriptor in memory."""

    def __init__(self, value: int, place: int) -> None:
        self.value, self.place = value, place
        self.type, self.s = value >> 40 & 15, value >> 44 & 1
        self.dpl, self.present = value >> 45 & 3, value >> 47 & 1
        self.code = bool(self.s and self.type & 8)
        self.conforming = bool(self.code and self.type & 4)
        self.readable = bool(self.s and (not self.code or self.type & 2))
        self.writable = bool(self.s and not self.code and self.type & 2)
        self.long, self.big = value >> 53 & 1, value >> 54 & 1
        limit = value & 0xFFFF | value >> 32 & 0xF_0000
        self.limit = limit << 12 | 0xFFF if value >> 55 & 1 else limit
        self.base = value >> 16 & 0xFF_FFFF | value >> 32 & 0xFF00_0000
        # As a gate.
        self.gate_selector = value >> 16 & 0xFFFF
        self.gate_offset = value & 0xFFFF | value >> 32 & 0xFFFF_0000

    def loaded(self, selector: int) -> Segment:
        return Segment(selector, self.base, self.limit, self.value >> 40 & 0xFF | 1, self.value >> 52 & 15)


@dataclass
class Naive:
    """The part of a processor that far transfers see."""

    ram: bytearray
    long_mode: bool
    #: ES, CS, SS, DS, FS, GS.
    seg: list[Segment]
    cpl: int
    ip: int
    sp: int
    flags: int
    gdt: tuple[int, int]
    idt: tuple[int, int]
    ldt: Segment = field(default_factory=Segment)
    tr: Segment = field(default_factory=Segment)
    #: EAX to EDI, which a task switch saves and loads; the stack pointer is `sp`.
    registers: list[int] = field(default_factory=lambda: [0] * 8)
    #: A task switch is past the point where faults belong to the old task.
    switched: bool = False

    # -- memory

    def _check_page(self, linear: int, write: bool, user: bool) -> None:
        if self.long_mode and not linear < MAPPED:
            raise NaiveFault(PF, write << 1 | user << 2, linear)

    def _bytes(self, linear: int, size: int) -> list[int]:
        mask = (1 << 64) - 1 if self.long_mode else 0xFFFF_FFFF
        return [linear + i & mask for i in range(size)]

    def read(self, linear: int, size: int, user: bool = False) -> int:
        places = self._bytes(linear, size)
        for place in places:
            self._check_page(place, False, user)
        return sum((self.ram[p] if p < len(self.ram) else 0xFF) << 8 * i for i, p in enumerate(places))

    def write(self, linear: int, size: int, value: int, user: bool = False) -> None:
        places = self._bytes(linear, size)
        for place in places:
            self._check_page(place, True, user)
        for i, place in enumerate(places):
            if place < len(self.ram):
                self.ram[place] = value >> 8 * i & 0xFF

    @property
    def bits64(self) -> bool:
        return self.long_mode and self.seg[1].long

    @property
    def stack_bits(self) -> int:
        return 64 if self.bits64 else 32 if self.seg[2].big else 16

    def _stack_linear(self, at: int, size: int, stack: Segment, bits: int, error: int, write: bool) -> int:
        """Linear address of a stack access through `stack` (4.12); #SS(error)."""
        if bits == 64:
            if not canonical(at) or not canonical(at + size - 1 & (1 << 64) - 1):
                raise NaiveFault(SS, error)
            return at
        low, high = 0, stack.limit
        if stack.rights & 0x1C == 0x14:  # expand-down
            low, high = stack.limit + 1, 0xFFFF_FFFF if stack.big else 0xFFFF
        if not stack.rights & 0x80 or at < low or at + size - 1 > high:
            raise NaiveFault(SS, error)
        return stack.base + at

    def peek(self, offset: int, size: int) -> int:
        """The stack at rSP + offset."""
        bits = self.stack_bits
        at = self.sp + offset & (1 << bits) - 1
        return self.read(self._stack_linear(at, size, self.seg[2], bits, 0, False), size, self.cpl == 3)

    def _push(self, words: list[int], size: int, sp: int, bits: int, stack: Segment, error: int, cpl: int) -> int:
        for word in words:
            sp = sp - size & (1 << bits) - 1
            at = self._stack_linear(sp, size, stack, bits, error, True)
            self.write(at, size, word & (1 << 8 * size) - 1, cpl == 3)
        return sp

    def _set_sp(self, value: int, bits: int) -> None:
        self.sp = self.sp & ~0xFFFF | value & 0xFFFF if bits == 16 else value & (1 << bits) - 1

    # -- descriptors

    def entry(self, selector: int, vector: int = GP, external: int = 0) -> Entry:
        """READ_DESCRIPTOR: an entry of the GDT or LDT."""
        base, limit = self.gdt
        if selector & 4:
            if not self.ldt.rights & 0x80:
                raise NaiveFault(vector, selector & 0xFFFC | external)
            base, limit = self.ldt.base, self.ldt.limit
        if (selector | 7) > limit:
            raise NaiveFault(vector, selector & 0xFFFC | external)
        return Entry(self.read(base + (selector & 0xFFF8), 8), base + (selector & 0xFFF8))

    def accessed(self, entry: Entry) -> None:
        if not entry.type & 1:
            self.write(entry.place + 5, 1, entry.value >> 40 & 0xFF | 1)

    # -- data segments

    def load(self, number: int, selector: int, vector: int = GP) -> None:
        """MOV to ES, SS, DS, FS, GS."""
        if number == 2:
            self.seg[2] = self.stack_segment(selector, self.cpl, vector)
            return
        if selector < 4:
            base = self.seg[number].base if self.long_mode and number >= 4 else 0
            self.seg[number] = Segment(selector, base)
            return
        e, error = self.entry(selector, vector), selector & 0xFFFC
        if not e.readable:
            raise NaiveFault(vector, error)
        if not e.conforming and (selector & 3 > e.dpl or self.cpl > e.dpl):
            raise NaiveFault(vector, error)
        if not e.present:
            raise NaiveFault(NP, error)
        self.accessed(e)
        self.seg[number] = e.loaded(selector)

    def stack_segment(self, selector: int, cpl: int, vector: int, external: int = 0) -> Segment:
        error = selector & 0xFFFC | external
        if selector < 4:
            if self.bits64 and cpl != 3 and selector == cpl:
                return Segment(selector)
            raise NaiveFault(vector, external)
        e = self.entry(selector, vector, external)
        if not e.writable or selector & 3 != cpl or e.dpl != cpl:
            raise NaiveFault(vector, error)
        if not e.present:
            raise NaiveFault(SS, error)
        self.accessed(e)
        return e.loaded(selector)

    def system_segment(self, selector: int, task: bool) -> None:
        """LLDT and LTR at CPL 0 (APM vol. 3)."""
        if self.cpl:
            raise NaiveFault(GP, 0)
        if selector < 4:
            if task:
                raise NaiveFault(GP, 0)
            self.ldt = Segment(selector)
            return
        error = selector & 0xFFFC
        if selector & 4:
            raise NaiveFault(GP, error)
        e = self.entry(selector)
        types = ((9,) if self.long_mode else (1, 9)) if task else (2,)
        if e.s or e.type not in types:
            raise NaiveFault(GP, error)
        if not e.present:
            raise NaiveFault(NP, error)
        loaded = e.loaded(selector)
        loaded.rights &= ~1
        if self.bits64:  # "in legacy and compatibility modes, the descriptor is 8 bytes long"
            if (selector & 0xFFF8) + 15 > self.gdt[1]:
                raise NaiveFault(GP, error)
            upper = self.read(e.place + 8, 8)
            if upper >> 40 & 0x1F:
                raise NaiveFault(GP, error)
            loaded.base |= (upper & 0xFFFF_FFFF) << 32
            if not canonical(loaded.base):
                raise NaiveFault(GP, error)
        if task:
            loaded.rights = e.value >> 40 & 0xFF | 2
            self.write(e.place + 5, 1, loaded.rights)
            self.tr = loaded
        else:
            self.ldt = loaded

    # -- code segments

    def code_checks(self, selector: int, returning: bool) -> Entry:
        if selector < 4:
            raise NaiveFault(GP, 0)
        e, error, rpl = self.entry(selector), selector & 0xFFFC, selector & 3
        if not e.code:
            raise NaiveFault(GP, error)
        if returning:
            good = e.dpl <= rpl if e.conforming else e.dpl == rpl
        else:
            good = e.dpl <= self.cpl if e.conforming else e.dpl == self.cpl and rpl <= self.cpl
        if not good or (self.long_mode and e.long and e.big):
            raise NaiveFault(GP, error)
        if not e.present:
            raise NaiveFault(NP, error)
        return e

    def target(self, e: Entry, offset: int, external: int = 0) -> None:
        bad = not canonical(offset) if self.long_mode and e.long else offset > e.limit
        if bad:
            raise NaiveFault(GP, external)

    def enter(self, e: Entry, selector: int, cpl: int, ip: int) -> None:
        self.accessed(e)
        self.seg[1] = e.loaded(selector & 0xFFFC | cpl)
        self.cpl, self.ip = cpl, ip

    # -- JMP and CALL

    def far(self, selector: int, offset: int, size: int, call: bool) -> None:
        """JMP or CALL far with an operand size of `size` bytes; `ip` is that of the next instruction."""
        if selector < 4:
            raise NaiveFault(GP, 0)
        e = self.entry(selector)
        if not e.s:
            self._system(e, selector, call)
            return
        e = self.code_checks(selector, False)
        self.target(e, offset)
        if call:
            bits = self.stack_bits
            sp = self._push([self.seg[1].selector, self.ip], size, self.sp, bits, self.seg[2], 0, self.cpl)
            self.enter(e, selector, self.cpl, offset)
            self._set_sp(sp, bits)
        else:
            self.enter(e, selector, self.cpl, offset)

    def _system(self, gate: Entry, selector: int, call: bool) -> None:
        error = selector & 0xFFFC
        if gate.type not in ((12,) if self.long_mode else (1, 9, 5, 4, 12)):
            raise NaiveFault(GP, error)
        if gate.dpl < self.cpl or gate.dpl < selector & 3:
            raise NaiveFault(GP, error)
        if not gate.present:
            raise NaiveFault(NP, error)
        if gate.type in (4, 12):
            self._call_gate(gate, selector, call)
        elif gate.type == 5:
            if gate.gate_selector & 4:
                raise NaiveFault(GP, gate.gate_selector & 0xFFFC)
            self.switch(gate.gate_selector, "call" if call else "jump")
        else:
            self.switch(selector, "call" if call else "jump")

    def _call_gate(self, gate: Entry, selector: int, call: bool) -> None:
        offset = gate.gate_offset if gate.type == 12 else gate.gate_offset & 0xFFFF
        size = 8 if self.long_mode else 4 if gate.type == 12 else 2
        if self.long_mode:
            limit = self.ldt.limit if selector & 4 else self.gdt[1]
            if (selector & 0xFFF8) + 15 > limit:
                raise NaiveFault(GP, selector & 0xFFFC)
            upper = self.read(gate.place + 8, 8)
            if upper >> 40 & 0x1F:
                raise NaiveFault(GP, selector & 0xFFFC)
            offset |= (upper & 0xFFFF_FFFF) << 32
        to = gate.gate_selector
        if to < 4:
            raise NaiveFault(GP, 0)
        e, error = self.entry(to), to & 0xFFFC
        if not e.code or e.dpl > self.cpl or (not call and not e.conforming and e.dpl != self.cpl):
            raise NaiveFault(GP, error)
        if self.long_mode and (not e.long or e.big):
            raise NaiveFault(GP, error)
        if not e.present:
            raise NaiveFault(NP, error)
        if not call:
            self.target(e, offset)
            self.enter(e, to, self.cpl, offset)
            return
        back = [self.seg[1].selector, self.ip]
        if e.conforming or e.dpl == self.cpl:
            bits = 64 if self.long_mode else self.stack_bits
            sp = self._push(back, size, self.sp, bits, self.seg[2], 0, self.cpl)
            self.target(e, offset)
            self.enter(e, to, self.cpl, offset)
            self._set_sp(sp, bits)
            return
        old = [self.seg[2].selector, self.sp]
        if self.long_mode:
            sp = self._push(old + back, 8, self.tss_field(4 + 8 * e.dpl, 8), 64, Segment(), 0, e.dpl)
            self.target(e, offset)
            self.enter(e, to, e.dpl, offset)
            self.seg[2] = Segment(e.dpl)
            self._set_sp(sp, 64)
            return
        stack, sp = self.inner_stack(e.dpl)
        count = gate.value >> 32 & 31
        copied = [self.peek(i * size, size) for i in range(count)][::-1]
        bits = 32 if stack.big else 16
        sp = self._push(old + copied + back, size, sp, bits, stack, stack.selector & 0xFFFC, e.dpl)
        self.target(e, offset)
        self.enter(e, to, e.dpl, offset)
        self.seg[2] = stack
        self._set_sp(sp, bits)

    def tss_field(self, offset: int, size: int, external: int = 0) -> int:
        if offset + size - 1 > self.tr.limit:
            raise NaiveFault(TS, self.tr.selector & 0xFFFC | external)
        return self.read(self.tr.base + offset, size)

    def inner_stack(self, cpl: int, external: int = 0) -> tuple[Segment, int]:
        if self.tr.rights & 15 in (1, 3):
            sp, ss = self.tss_field(2 + 4 * cpl, 2, external), self.tss_field(4 + 4 * cpl, 2, external)
        else:
            sp, ss = self.tss_field(4 + 8 * cpl, 4, external), self.tss_field(8 + 8 * cpl, 2, external)
        return self.stack_segment(ss, cpl, TS, external), sp

    def switch(self, selector: int, how: str, external: int = 0, error: int | None = None) -> None:
        """A task switch: naive_tasks.py."""
        from .naive_tasks import switch

        switch(self, selector, how, external, error)

    def copy(self) -> Naive:
        return replace(self, ram=bytearray(self.ram), seg=list(self.seg), registers=list(self.registers))


def canonical(linear: int) -> bool:
    return linear >> 47 == 0 or linear >> 47 == (1 << 17) - 1
