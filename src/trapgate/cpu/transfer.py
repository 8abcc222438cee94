"""Loading segment registers, and far transfers of control (APM vol. 2, 4.5 to 4.11)."""

from __future__ import annotations

from trapgate.arch import layout, vectors
from trapgate.arch.registers import (
    CS,
    DS,
    ES,
    FS,
    GS,
    IF,
    IOPL,
    IOPL_SHIFT,
    NT,
    RFLAGS_WRITABLE,
    RSP,
    SS,
    VIF,
    VIP,
    VM,
)
from trapgate.arch.segments import (
    ATTRIBUTE_CODE,
    ATTRIBUTE_DB,
    ATTRIBUTE_DC,
    ATTRIBUTE_L,
    ATTRIBUTE_P,
    ATTRIBUTE_RW,
    ATTRIBUTE_S,
    CODE_ACCESSED,
    DATA_RW_ACCESSED,
    DPL_SHIFT,
    attributes_of,
    base_of,
    limit_of,
)
from trapgate.cpu.core import Core, is_canonical
from trapgate.cpu.faults import Fault

#: Data segment of virtual-8086 mode: present, DPL 3, read and write, accessed.
V86_ATTRIBUTES = 0xF3


def dpl_of(attributes: int) -> int:
    """Descriptor privilege level."""
    return attributes >> DPL_SHIFT & 3


class Transfers(Core):
    """Segment loads and far transfers."""

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

    def _load_real(self, number: int, selector: int) -> None:
        segment = self.segments[number]
        if self.virtual8086:
            segment.load(selector, selector << 4, 0xFFFF, V86_ATTRIBUTES)
        elif number == CS:
            segment.load(selector, selector << 4, segment.limit, CODE_ACCESSED)
        else:
            # Limit and attributes stay as they are: "big real mode" depends on it.
            segment.load(selector, selector << 4, segment.limit, segment.attributes)

    def load_data_segment(self, number: int, selector: int) -> None:
        """MOV, POP, LDS ... into ES, SS, DS, FS, GS."""
        selector &= 0xFFFF
        if self.real_mode or self.virtual8086:
            self._load_real(number, selector)
        elif number == SS:
            self._load_stack_segment(selector, self.cpl)
        elif selector & ~3 == 0:
            segment = self.segments[number]
            # AMD keeps the base when a null selector is loaded (APM vol. 2, 4.5.3 and 4.8.3, 64-bit FS and GS).
            base = segment.base if self.long_mode and number in (FS, GS) else 0
            segment.load(selector, base, 0, 0)
        else:
            self._load_data(number, selector)
        self.mode_changed_for(number)

    def mode_changed_for(self, number: int) -> None:
        """A data segment has changed: matters to code only where segments count."""
        if self.bits != 64 and number in (ES, SS, DS):
            self.mode_changed()

    def _load_data(self, number: int, selector: int) -> None:
        descriptor, place = self.read_descriptor(selector)
        attributes = attributes_of(descriptor)
        is_code = attributes & ATTRIBUTE_CODE
        if not attributes & ATTRIBUTE_S or (is_code and not attributes & ATTRIBUTE_RW):
            raise Fault(vectors.GP, selector & ~3)
        checked = not is_code or not attributes & ATTRIBUTE_DC
        if checked and max(self.cpl, selector & 3) > dpl_of(attributes):
            raise Fault(vectors.GP, selector & ~3)
        if not attributes & ATTRIBUTE_P:
            raise Fault(vectors.NP, selector & ~3)
        self._set_accessed(descriptor, place)
        self.segments[number].load(selector, base_of(descriptor), limit_of(descriptor), attributes | 1)

    def _load_stack_segment(self, selector: int, cpl: int, vector: int = vectors.GP) -> None:
        loaded = self.check_stack_segment(selector, cpl, vector)
        self.segments[SS].load(*loaded)

    def check_stack_segment(self, selector: int, cpl: int, vector: int) -> tuple[int, int, int, int]:
        """What SS would hold: (selector, base, limit, attributes); faults with `vector` (or #SS when not present)."""
        if selector & ~3 == 0:
            if self.bits == 64 and cpl < 3 and selector & 3 == cpl:
                return selector, 0, 0, 0
            raise Fault(vector, 0)
        descriptor, place = self.read_descriptor(selector, vector)
        attributes = attributes_of(descriptor)
        writable_data = attributes & (ATTRIBUTE_S | ATTRIBUTE_CODE | ATTRIBUTE_RW) == ATTRIBUTE_S | ATTRIBUTE_RW
        if not writable_data or selector & 3 != cpl or dpl_of(attributes) != cpl:
            raise Fault(vector, selector & ~3)
        if not attributes & ATTRIBUTE_P:
            raise Fault(vectors.SS, selector & ~3)
        self._set_accessed(descriptor, place)
        return selector, base_of(descriptor), limit_of(descriptor), attributes | 1

    # -- code segments

    def _check_code(self, selector: int, cpl: int, returning: bool) -> tuple[int, int, int]:
        """(descriptor, its address, attributes) of a code segment that may be entered at `cpl`."""
        if selector & ~3 == 0:
            raise Fault(vectors.GP, 0)
        descriptor, place = self.read_descriptor(selector)
        attributes = attributes_of(descriptor)
        dpl, rpl = dpl_of(attributes), selector & 3
        if attributes & (ATTRIBUTE_S | ATTRIBUTE_CODE) != ATTRIBUTE_S | ATTRIBUTE_CODE:
            if not attributes & ATTRIBUTE_S and not returning:
                self._through_gate(selector, attributes)
            raise Fault(vectors.GP, selector & ~3)
        if attributes & ATTRIBUTE_DC:
            wrong = dpl > (rpl if returning else cpl)
        else:
            wrong = dpl != rpl if returning else dpl != cpl or rpl > cpl
        both = self.long_mode and attributes & ATTRIBUTE_L and attributes & ATTRIBUTE_DB
        if wrong or both:
            raise Fault(vectors.GP, selector & ~3)
        if not attributes & ATTRIBUTE_P:
            raise Fault(vectors.NP, selector & ~3)
        return descriptor, place, attributes

    def _through_gate(self, selector: int, attributes: int) -> None:
        if attributes & 0xF in (1, 3, 4, 5, 9, 11, 12):
            self.unimplemented(f"a far transfer through the gate or TSS {selector:#x} (type {attributes & 15:#x})")

    def _check_target(self, offset: int, attributes: int, limit: int) -> None:
        if self.long_mode and attributes & ATTRIBUTE_L:
            if not is_canonical(offset):
                raise Fault(vectors.GP, 0)
        elif offset > limit:
            raise Fault(vectors.GP, 0)

    def _enter_code(self, selector: int, descriptor: int, place: int, attributes: int, cpl: int) -> None:
        self._set_accessed(descriptor, place)
        self.segments[CS].load(selector & ~3 | cpl, base_of(descriptor), limit_of(descriptor), attributes | 1)
        self.set_state_field(layout.CODE_DESCRIPTOR, descriptor | 1 << 40)
        self.cpl = cpl
        self.mode_changed()

    def far_jump(self, selector: int, offset: int, width: int) -> None:
        """JMP FAR."""
        if self.real_mode or self.virtual8086:
            if offset > self.segments[CS].limit:
                raise Fault(vectors.GP, 0)
            self._load_real(CS, selector)
            self.rip = offset
            self.mode_changed()
            return
        descriptor, place, attributes = self._check_code(selector, self.cpl, returning=False)
        self._check_target(offset, attributes, limit_of(descriptor))
        self._enter_code(selector, descriptor, place, attributes, self.cpl)
        self.rip = offset

    def far_call(self, selector: int, offset: int, width: int) -> None:
        """CALL FAR."""
        if self.real_mode or self.virtual8086:
            if offset > self.segments[CS].limit:
                raise Fault(vectors.GP, 0)
            self._push_two(width, self.segments[CS].selector, self.rip)
            self._load_real(CS, selector)
            self.rip = offset
            self.mode_changed()
            return
        descriptor, place, attributes = self._check_code(selector, self.cpl, returning=False)
        self._check_target(offset, attributes, limit_of(descriptor))
        self._push_two(width, self.segments[CS].selector, self.rip)
        self._enter_code(selector, descriptor, place, attributes, self.cpl)
        self.rip = offset

    def _push_two(self, width: int, first: int, second: int) -> None:
        """Push two values; neither is pushed when the second cannot be."""
        before = self.register(RSP, 64)
        try:
            self.push(width, first)
            self.push(width, second)
        except Fault:
            self.set_register(RSP, 64, before)
            raise

    def far_return(self, width: int, extra: int) -> None:
        """RETF, with `extra` bytes of arguments released."""
        size = width // 8
        offset = self.stack_read(0, width)
        selector = self.stack_read(size, width) & 0xFFFF
        if self.real_mode or self.virtual8086:
            if offset > self.segments[CS].limit:
                raise Fault(vectors.GP, 0)
            self.add_to_stack_pointer(2 * size + extra)
            self._load_real(CS, selector)
            self.rip = offset
            self.mode_changed()
            return
        rpl = selector & 3
        if rpl < self.cpl:
            raise Fault(vectors.GP, selector & ~3)
        descriptor, place, attributes = self._check_code(selector, self.cpl, returning=True)
        self._check_target(offset, attributes, limit_of(descriptor))
        if rpl == self.cpl:
            self.add_to_stack_pointer(2 * size + extra)
            self._enter_code(selector, descriptor, place, attributes, rpl)
            self.rip = offset
            return
        new_sp = self.stack_read(2 * size + extra, width)
        new_ss = self.stack_read(3 * size + extra, width) & 0xFFFF
        self._return_outward(selector, descriptor, place, attributes, offset, new_ss, new_sp + extra)

    def _return_outward(
        self, selector: int, descriptor: int, place: int, attributes: int, offset: int, new_ss: int, new_sp: int
    ) -> None:
        """Enter an outer (or, for IRETQ, the same) privilege level with a stack of its own."""
        rpl = selector & 3
        to_64 = self.long_mode and bool(attributes & ATTRIBUTE_L)
        if new_ss & ~3 == 0 and to_64 and rpl < 3 and new_ss & 3 == rpl:
            stack = (new_ss, 0, 0, 0)
        elif new_ss & ~3 == 0:
            raise Fault(vectors.GP, 0)
        else:
            stack = self.check_stack_segment(new_ss, rpl, vectors.GP)
        outward = rpl > self.cpl
        self._enter_code(selector, descriptor, place, attributes, rpl)
        self.segments[SS].load(*stack)
        self._set_returned_stack_pointer(new_sp)
        self.rip = offset
        if outward:
            for number in (ES, DS, FS, GS):
                self._drop_inner_segment(number)

    def _set_returned_stack_pointer(self, value: int) -> None:
        self.set_register(RSP, self.stack_bits, value)

    def _drop_inner_segment(self, number: int) -> None:
        """A data segment that the outer level may not use becomes null (APM vol. 2, 4.11.2)."""
        segment = self.segments[number]
        a = segment.attributes
        conforming = a & ATTRIBUTE_CODE and a & ATTRIBUTE_DC
        if a & ATTRIBUTE_P and not conforming and dpl_of(a) < self.cpl:
            segment.load(0, segment.base if self.long_mode else 0, 0, 0)

    # -- IRET

    def interrupt_return(self, width: int) -> None:
        """IRET, IRETD, IRETQ (APM vol. 3)."""
        size = width // 8
        if self.real_mode or self.virtual8086:
            self._return_real(width)
            return
        if self.rflags & NT:
            if self.long_mode:
                raise Fault(vectors.GP, 0)
            self.unimplemented("IRET to a previous task")
        offset = self.stack_read(0, width)
        selector = self.stack_read(size, width) & 0xFFFF
        flags = self.stack_read(2 * size, width)
        if flags & VM and self.cpl == 0 and not self.long_mode and width == 32:
            self._return_to_v86(offset, selector, flags)
            return
        rpl = selector & 3
        if rpl < self.cpl:
            raise Fault(vectors.GP, selector & ~3)
        descriptor, place, attributes = self._check_code(selector, self.cpl, returning=True)
        self._check_target(offset, attributes, limit_of(descriptor))
        old_cpl = self.cpl
        if rpl > old_cpl or self.bits == 64:
            new_sp = self.stack_read(3 * size, width)
            new_ss = self.stack_read(4 * size, width) & 0xFFFF
            self._return_outward(selector, descriptor, place, attributes, offset, new_ss, new_sp)
        else:
            self.add_to_stack_pointer(3 * size)
            self._enter_code(selector, descriptor, place, attributes, rpl)
            self.rip = offset
        self._restore_flags(flags, width, old_cpl)

    def _restore_flags(self, flags: int, width: int, cpl: int) -> None:
        old = self.rflags
        mask = RFLAGS_WRITABLE & ~(VM | VIF | VIP | IOPL | IF)
        if cpl == 0:
            mask |= IOPL | IF | (VIF | VIP if width > 16 else 0)
        elif cpl <= old >> IOPL_SHIFT & 3:
            mask |= IF
        if width == 16:
            mask &= 0xFFFF
        self.rflags = old & ~mask | flags & mask
        self.mode_changed()

    def _return_real(self, width: int) -> None:
        size = width // 8
        v86 = self.virtual8086
        if v86 and self.rflags & IOPL != IOPL:
            raise Fault(vectors.GP, 0)
        offset = self.stack_read(0, width)
        selector = self.stack_read(size, width) & 0xFFFF
        flags = self.stack_read(2 * size, width)
        if offset > self.segments[CS].limit:
            raise Fault(vectors.GP, 0)
        self.add_to_stack_pointer(3 * size)
        self._load_real(CS, selector)
        self.rip = offset
        old = self.rflags
        mask = RFLAGS_WRITABLE & ~(VM | VIF | VIP)
        if v86:
            mask &= ~IOPL
        if width == 16:
            mask &= 0xFFFF
        self.rflags = old & ~mask | flags & mask
        self.mode_changed()

    def _return_to_v86(self, offset: int, selector: int, flags: int) -> None:
        new_sp, new_ss, es, ds, fs, gs = (self.stack_read(12 + 4 * i, 32) for i in range(6))
        self.rflags = flags
        for number, value in ((CS, selector), (SS, new_ss), (ES, es), (DS, ds), (FS, fs), (GS, gs)):
            value &= 0xFFFF
            self.segments[number].load(value, value << 4, 0xFFFF, V86_ATTRIBUTES)
        self.cpl = 3
        self.set_register(RSP, 32, new_sp)
        self.rip = offset & 0xFFFF
        self.mode_changed()

    def load_flat_code(self, selector: int, cpl: int, long: bool) -> None:
        """CS as SYSCALL and SYSENTER load it: flat, without looking at a descriptor."""
        size = ATTRIBUTE_L if long else ATTRIBUTE_DB
        attributes = CODE_ACCESSED | size | cpl << DPL_SHIFT | 0x800
        self.segments[CS].load(selector, 0, 0xFFFF_FFFF, attributes)
        self.set_state_field(layout.CODE_DESCRIPTOR, -1)
        self.cpl = cpl
        self.mode_changed()

    def load_flat_stack(self, selector: int, cpl: int) -> None:
        """SS as SYSCALL and SYSENTER load it."""
        attributes = DATA_RW_ACCESSED | ATTRIBUTE_DB | cpl << DPL_SHIFT | 0x800
        self.segments[SS].load(selector, 0, 0xFFFF_FFFF, attributes)
