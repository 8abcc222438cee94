"""Far transfers of control: JMP, CALL, RET and IRET (APM vol. 2, 4.11 and 8.9; vol. 3).

A fault finds everything as it was, except behind the commit point of a task switch (tasks.py).
"""

from __future__ import annotations

from trapgate.arch import layout, vectors
from trapgate.arch.registers import (
    CR4_VME,
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
    TF,
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
    CODE_ACCESSED,
    DATA_RW_ACCESSED,
    DPL_SHIFT,
    attributes_of,
)
from trapgate.cpu.faults import Fault
from trapgate.cpu.gates import Gates
from trapgate.cpu.segmentation import V86_ATTRIBUTES, StackSegment, dpl_of

_M64 = (1 << 64) - 1


class Transfers(Gates):
    """Far transfers."""

    # -- JMP and CALL

    def far_jump(self, selector: int, offset: int, width: int) -> None:
        """JMP FAR."""
        if self.real_mode or self.virtual8086:
            self._check_real_target(offset)
            self._enter_real(selector, offset)
            return
        if self.through_system_descriptor(selector, call=False):
            return
        descriptor, place, _ = self.check_code(selector, returning=False)
        self.check_target(offset, descriptor)
        self.enter_code(selector, descriptor, place, self.cpl)
        self.rip = offset

    def far_call(self, selector: int, offset: int, width: int) -> None:
        """CALL FAR."""
        if self.real_mode or self.virtual8086:
            self._check_real_target(offset)
            self.set_register(RSP, *self._write_return_address(width))
            self._enter_real(selector, offset)
            return
        if self.through_system_descriptor(selector, call=True):
            return
        descriptor, place, _ = self.check_code(selector, returning=False)
        self.check_target(offset, descriptor)
        stack_pointer = self._write_return_address(width)
        self.enter_code(selector, descriptor, place, self.cpl)
        self.set_register(RSP, *stack_pointer)
        self.rip = offset

    def _check_real_target(self, offset: int) -> None:
        if offset > self.segments[CS].limit:
            raise Fault(vectors.GP, 0)

    def _enter_real(self, selector: int, offset: int) -> None:
        self.load_real(CS, selector)
        self.rip = offset
        self.mode_changed()

    def _write_return_address(self, width: int) -> tuple[int, int]:
        """CS and rip onto the current stack; (width, value) of the new stack pointer."""
        words, size, bits = [self.segments[CS].selector, self.rip], width // 8, self.stack_bits
        sp = self.register(RSP, bits)
        if bits == 64:
            first, sp = sp - size & _M64, sp - 2 * size & _M64
            try:
                self.write_segment(SS, sp, 2 * size, words[0] << width | words[1] & ((1 << width) - 1))
            except Fault:
                # Nothing is written; CS is pushed first, and its fault is the one that counts.
                self.probe_write(self.segment_linear(SS, first, size, True), size, self._user_access)
                raise
        else:
            sp = self.write_frame(words, size, sp, bits, None, self.cpl)
        return bits, sp

    # -- RET

    def far_return(self, width: int, extra: int) -> None:
        """RETF, with `extra` bytes of arguments released."""
        size = width // 8
        offset = self.stack_read(0, width)
        selector = self.stack_read(size, width) & 0xFFFF
        if self.real_mode or self.virtual8086:
            self._check_real_target(offset)
            self.add_to_stack_pointer(2 * size + extra)
            self._enter_real(selector, offset)
            return
        rpl = selector & 3
        if rpl < self.cpl:
            raise Fault(vectors.GP, selector & ~3)
        descriptor, place, _ = self.check_code(selector, returning=True)
        self.check_target(offset, descriptor)
        if rpl == self.cpl:
            self._enter_same_level(selector, descriptor, place, offset, 2 * size + extra)
            return
        new_sp = self.stack_read(2 * size + extra, width)
        new_ss = self.stack_read(3 * size + extra, width) & 0xFFFF
        self._return_outward(selector, descriptor, place, offset, new_ss, new_sp + extra)

    def _enter_same_level(self, selector: int, descriptor: int, place: int, offset: int, released: int) -> None:
        """Return within the level, with `released` bytes taken from the stack."""
        bits = self.stack_bits
        sp = self.register(RSP, bits) + released & (1 << bits) - 1
        self.enter_code(selector, descriptor, place, self.cpl)
        self.set_register(RSP, bits, sp)
        self.rip = offset

    def _return_outward(
        self, selector: int, descriptor: int, place: int, offset: int, new_ss: int, new_sp: int
    ) -> None:
        """Enter an outer (or, for IRETQ, the same) privilege level with a stack of its own."""
        rpl = selector & 3
        to_64 = self.long_mode and bool(attributes_of(descriptor) & ATTRIBUTE_L)
        if new_ss & ~3 == 0 and to_64 and rpl < 3 and new_ss & 3 == rpl:
            stack: StackSegment = (new_ss, 0, 0, 0)
        elif new_ss & ~3 == 0:
            raise Fault(vectors.GP, 0)
        else:
            stack = self.check_stack_segment(new_ss, rpl, vectors.GP)
        outward = rpl > self.cpl
        self.enter_code(selector, descriptor, place, rpl)
        self.segments[SS].load(*stack)
        self.set_register(RSP, self.stack_bits, new_sp)
        self.rip = offset
        if outward:
            for number in (ES, DS, FS, GS):
                self._drop_inner_segment(number)

    def _drop_inner_segment(self, number: int) -> None:
        """A data segment that the outer level may not use becomes null (APM vol. 2, 4.11.2)."""
        segment = self.segments[number]
        a = segment.attributes
        conforming = a & ATTRIBUTE_CODE and a & ATTRIBUTE_DC
        if a & ATTRIBUTE_P and not conforming and dpl_of(a) < self.cpl:
            segment.load(0, segment.base if self.long_mode else 0, 0, 0)

    # -- IRET

    def interrupt_return(self, width: int) -> None:
        """IRET, IRETD, IRETQ (APM vol. 3).

        NMIs are recognized again (APM vol. 2, 8.2.3), even where IRET itself faults: it has been executed.
        """
        self.nmi_blocked = False
        self._return_from_interrupt(width)

    def _return_from_interrupt(self, width: int) -> None:
        size = width // 8
        if self.virtual8086:
            self._return_in_virtual(width)
            return
        if self.real_mode:
            self._return_real(width, RFLAGS_WRITABLE & ~(VM | VIF | VIP))
            return
        if self.rflags & NT:
            if self.long_mode:
                raise Fault(vectors.GP, 0)
            self.return_from_task()
            return
        offset = self.stack_read(0, width)
        selector = self.stack_read(size, width) & 0xFFFF
        flags = self.stack_read(2 * size, width)
        if flags & VM and self.cpl == 0 and not self.long_mode and width == 32:
            self._return_to_virtual(offset, selector, flags)
            return
        rpl = selector & 3
        if rpl < self.cpl:
            raise Fault(vectors.GP, selector & ~3)
        descriptor, place, _ = self.check_code(selector, returning=True)
        self.check_target(offset, descriptor)
        old_cpl = self.cpl
        if rpl > old_cpl or self.bits == 64:
            new_sp = self.stack_read(3 * size, width)
            new_ss = self.stack_read(4 * size, width) & 0xFFFF
            self._return_outward(selector, descriptor, place, offset, new_ss, new_sp)
        else:
            self._enter_same_level(selector, descriptor, place, offset, 3 * size)
        self._restore_flags(flags, width, old_cpl)

    def _restore_flags(self, flags: int, width: int, cpl: int) -> None:
        mask = RFLAGS_WRITABLE & ~(VM | VIF | VIP | IOPL | IF)
        if cpl == 0:
            mask |= IOPL | IF | (VIF | VIP if width > 16 else 0)
        elif cpl <= self.rflags >> IOPL_SHIFT & 3:
            mask |= IF
        self._merge_flags(flags, mask, width)

    def _merge_flags(self, flags: int, mask: int, width: int) -> None:
        if width == 16:
            mask &= 0xFFFF
        self.rflags = self.rflags & ~mask | flags & mask
        self.mode_changed()

    def _return_real(self, width: int, mask: int) -> None:
        """With the frame of real mode; the flags in `mask` are restored."""
        size = width // 8
        offset = self.stack_read(0, width)
        selector = self.stack_read(size, width) & 0xFFFF
        flags = self.stack_read(2 * size, width)
        self._check_real_target(offset)
        self.add_to_stack_pointer(3 * size)
        self._enter_real(selector, offset)
        self._merge_flags(flags, mask, width)

    def _return_in_virtual(self, width: int) -> None:
        """IRET in virtual-8086 mode (APM vol. 3, IRET; vol. 2, 8.10).

        | IOPL | CR4.VME | operand size | result                                                       |
        |------|---------|--------------|--------------------------------------------------------------|
        | a 3  | any     | any          | as in real mode; VM, IOPL, VIF and VIP stay                    |
        | b <3 | 1       | 16           | VIF from the image's IF; #GP(0) if it has TF, or IF with VIP set |
        | c <3 | else    |              | #GP(0)                                                       |
        """
        rflags = self.rflags
        kept = VM | VIF | VIP | IOPL
        if rflags & IOPL == IOPL:
            self._return_real(width, RFLAGS_WRITABLE & ~kept)
            return
        if not self.cr4 & CR4_VME or width != 16:
            raise Fault(vectors.GP, 0)
        flags = self.stack_read(4, 16)
        if flags & TF or (flags & IF and rflags & VIP):
            raise Fault(vectors.GP, 0)
        self._return_real(16, RFLAGS_WRITABLE & ~(kept | IF))
        self.rflags = self.rflags & ~VIF | (VIF if flags & IF else 0)

    def _return_to_virtual(self, offset: int, selector: int, flags: int) -> None:
        """IRETD at CPL 0 to virtual-8086 mode."""
        new_sp, new_ss, es, ds, fs, gs = (self.stack_read(12 + 4 * i, 32) for i in range(6))
        self.rflags = flags
        for number, value in ((CS, selector), (SS, new_ss), (ES, es), (DS, ds), (FS, fs), (GS, gs)):
            value &= 0xFFFF
            self.segments[number].load(value, value << 4, 0xFFFF, V86_ATTRIBUTES)
        self.cpl = 3
        self.set_register(RSP, 32, new_sp)
        self.rip = offset & 0xFFFF
        self.mode_changed()

    # -- without descriptors

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
