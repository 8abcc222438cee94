"""Delivery of exceptions and interrupts through the IVT or the IDT (APM vol. 2, 8.6 to 8.9).

Nothing of the guest's state changes before the whole frame has been written, so a fault during delivery finds the
state as it was.
"""

from __future__ import annotations

from trapgate.arch import vectors
from trapgate.arch.paging import PF_U
from trapgate.arch.registers import AC, CS, DS, ES, FS, GS, IF, NT, RF, RSP, SS, TF, VM
from trapgate.arch.segments import (
    ATTRIBUTE_CODE,
    ATTRIBUTE_DB,
    ATTRIBUTE_DC,
    ATTRIBUTE_L,
    ATTRIBUTE_P,
    ATTRIBUTE_S,
    CODE_ACCESSED,
    INTERRUPT_GATE16,
    INTERRUPT_GATE32,
    TASK_GATE,
    TRAP_GATE16,
    TRAP_GATE32,
    TSS16_AVAILABLE,
    TSS16_BUSY,
    attributes_of,
    limit_of,
)
from trapgate.cpu.core import is_canonical
from trapgate.cpu.faults import CONTRIBUTORY, WITH_ERROR_CODE, Fault, TripleFault
from trapgate.cpu.transfer import Transfers, dpl_of

_M64 = (1 << 64) - 1


class Delivery(Transfers):
    """Exceptions and interrupts."""

    #: Exceptions and interrupts taken, by vector (software interrupts count as interrupts).
    exception_counts: dict[int, int]
    interrupt_counts: dict[int, int]

    def deliver_exception(self, fault: Fault) -> None:
        """Deliver an exception; a second one while doing so may become a double fault (APM vol. 2, table 8-3).

        Raises TripleFault when a double fault cannot be delivered.
        """
        while True:
            vector = fault.vector
            self.exception_counts[vector] = self.exception_counts.get(vector, 0) + 1
            if vector == vectors.PF and fault.address is not None:
                self.cr2 = fault.address
            error = fault.error if vector in WITH_ERROR_CODE and not self.real_mode else None
            try:
                self._enter_handler(
                    vector, error, software=False, resume=vector not in (vectors.DB, vectors.BP, vectors.OF)
                )
                return
            except Fault as second:
                fault = self._combine(fault, second)

    @staticmethod
    def _combine(first: Fault, second: Fault) -> Fault:
        if first.vector == vectors.DF:
            raise TripleFault from None
        contributory = second.vector in CONTRIBUTORY
        if first.vector in CONTRIBUTORY and contributory:
            return Fault(vectors.DF, 0)
        if first.vector == vectors.PF and (contributory or second.vector == vectors.PF):
            return Fault(vectors.DF, 0)
        return second

    def deliver_interrupt(self, vector: int) -> None:
        """Deliver an external interrupt; a fault while doing so is delivered in its place."""
        self.interrupt_counts[vector] = self.interrupt_counts.get(vector, 0) + 1
        try:
            self._enter_handler(vector, None, software=False, resume=False)
        except Fault as fault:
            self.deliver_exception(fault)

    def software_interrupt(self, vector: int) -> None:
        """INT n, INT3, INTO: `rip` is already that of the next instruction."""
        if self.virtual8086 and self.rflags >> 12 & 3 != 3 and vector != 3:
            raise Fault(vectors.GP, 0)
        self._enter_handler(vector, None, software=True, resume=False)
        self.interrupt_counts[vector] = self.interrupt_counts.get(vector, 0) + 1

    def _enter_handler(self, vector: int, error: int | None, software: bool, resume: bool) -> None:
        if self.real_mode:
            self._deliver_real(vector)
        elif self.long_mode:
            self._deliver_long(vector, error, software, resume)
        else:
            self._deliver_protected(vector, error, software, resume)

    def _deliver_real(self, vector: int) -> None:
        if vector * 4 + 3 > self.idtr_limit:
            raise Fault(vectors.GP, 0)
        entry = self.read_system(self.idtr_base + 4 * vector, 4)
        frame = self.rip & 0xFFFF | self.segments[CS].selector << 16 | (self.rflags & 0xFFFF) << 32
        bits = self.stack_bits
        sp = self.register(RSP, bits) - 6 & ((1 << bits) - 1)
        self.write_segment(SS, sp, 6, frame)
        self.set_register(RSP, bits, sp)
        self.rflags = self.rflags & ~(IF | TF | AC | RF)
        cs = self.segments[CS]
        cs.load(entry >> 16, entry >> 16 << 4, cs.limit, CODE_ACCESSED)
        self.rip = entry & 0xFFFF
        self.mode_changed()

    def _gate_code(self, selector: int, external: int) -> tuple[int, int, int]:
        """(descriptor, address, attributes) of the code segment that a gate names."""
        if selector & ~3 == 0:
            raise Fault(vectors.GP, external)
        try:
            descriptor, place = self.read_descriptor(selector)
        except Fault as fault:
            if fault.vector == vectors.GP and fault.error:
                fault.error |= external
            raise
        attributes = attributes_of(descriptor)
        is_code = attributes & (ATTRIBUTE_S | ATTRIBUTE_CODE) == ATTRIBUTE_S | ATTRIBUTE_CODE
        if not is_code or dpl_of(attributes) > self.cpl:
            raise Fault(vectors.GP, selector & ~3 | external)
        if not attributes & ATTRIBUTE_P:
            raise Fault(vectors.NP, selector & ~3 | external)
        return descriptor, place, attributes

    def _check_gate(self, attributes: int, vector: int, software: bool, external: int) -> None:
        if software and dpl_of(attributes) < self.cpl:
            raise Fault(vectors.GP, vector * 8 + 2)
        if not attributes & ATTRIBUTE_P:
            raise Fault(vectors.NP, vector * 8 + 2 + external)

    # -- long mode (APM vol. 2, 8.9)

    def _deliver_long(self, vector: int, error: int | None, software: bool, resume: bool) -> None:
        external = 0 if software else 1
        if vector * 16 + 15 > self.idtr_limit:
            raise Fault(vectors.GP, vector * 8 + 2 + external)
        gate = self.read_system(self.idtr_base + 16 * vector, 16)
        attributes = gate >> 40 & 0xFF
        if attributes & 0x1F not in (INTERRUPT_GATE32, TRAP_GATE32):
            raise Fault(vectors.GP, vector * 8 + 2 + external)
        self._check_gate(attributes, vector, software, external)
        offset = gate & 0xFFFF | gate >> 32 & 0xFFFF_0000 | gate >> 64 << 32 & 0xFFFF_FFFF_0000_0000
        selector = gate >> 16 & 0xFFFF
        descriptor, place, code = self._gate_code(selector, external)
        if not code & ATTRIBUTE_L or code & ATTRIBUTE_DB:
            raise Fault(vectors.GP, selector & ~3 | external)
        new_cpl = self.cpl if code & ATTRIBUTE_DC else dpl_of(code)
        ist = gate >> 32 & 7
        if ist:
            rsp = self._from_tss(36 + 8 * (ist - 1), 8, external)
        elif new_cpl < self.cpl:
            rsp = self._from_tss(4 + 8 * new_cpl, 8, external)
        else:
            rsp = self.register(RSP, 64)
        rsp &= ~15
        flags = self.rflags
        words = [self.segments[SS].selector, self.register(RSP, 64), flags | RF if resume else flags]
        words += [self.segments[CS].selector, self.rip]
        if error is not None:
            words.append(error)
        frame = 0
        for word in words:
            frame = frame << 64 | word & _M64
        size = 8 * len(words)
        rsp = rsp - size & _M64
        if not (is_canonical(rsp) and is_canonical(rsp + size - 1)):
            raise Fault(vectors.SS, external)
        if not is_canonical(offset):
            raise Fault(vectors.GP, external)
        self.write_linear(rsp, size, frame, PF_U if new_cpl == 3 else 0)
        inward = new_cpl != self.cpl
        self._enter_code(selector, descriptor, place, code, new_cpl)
        if inward:
            self.segments[SS].load(new_cpl, 0, 0, 0)
        self.set_register(RSP, 64, rsp)
        cleared = TF | NT | RF | VM | (IF if attributes & 0x1F == INTERRUPT_GATE32 else 0)
        self.rflags = flags & ~cleared
        self.rip = offset

    def _from_tss(self, offset: int, size: int, external: int) -> int:
        if offset + size - 1 > self.tr.limit:
            raise Fault(vectors.TS, self.tr.selector & ~3 | external)
        return self.read_system(self.tr.base + offset, size)

    # -- legacy protected mode (APM vol. 2, 8.7 and 8.8)

    def _deliver_protected(self, vector: int, error: int | None, software: bool, resume: bool) -> None:
        external = 0 if software else 1
        if vector * 8 + 7 > self.idtr_limit:
            raise Fault(vectors.GP, vector * 8 + 2 + external)
        gate = self.read_system(self.idtr_base + 8 * vector, 8)
        attributes = gate >> 40 & 0xFF
        kind = attributes & 0x1F
        if kind not in (TASK_GATE, INTERRUPT_GATE16, TRAP_GATE16, INTERRUPT_GATE32, TRAP_GATE32):
            raise Fault(vectors.GP, vector * 8 + 2 + external)
        self._check_gate(attributes, vector, software, external)
        if kind == TASK_GATE:
            self.unimplemented(f"the task gate of vector {vector}")
        wide = kind in (INTERRUPT_GATE32, TRAP_GATE32)
        offset = gate & 0xFFFF | (gate >> 32 & 0xFFFF_0000 if wide else 0)
        selector = gate >> 16 & 0xFFFF
        descriptor, place, code = self._gate_code(selector, external)
        v86 = self.virtual8086
        conforming = bool(code & ATTRIBUTE_DC)
        inward = not conforming and dpl_of(code) < self.cpl
        if v86 and (conforming or dpl_of(code) != 0):
            raise Fault(vectors.GP, selector & ~3 | external)
        new_cpl = dpl_of(code) if inward else self.cpl
        flags = self.rflags
        words = [flags | RF if resume else flags, self.segments[CS].selector, self.rip]
        if error is not None:
            words.append(error)
        stack = None
        if inward:
            stack, sp = self._inner_stack(new_cpl, external)
            outer = [self.segments[SS].selector, self.register(RSP, 32)]
            if v86:
                outer = [self.segments[n].selector for n in (GS, FS, DS, ES)] + outer
            words = outer + words
            stack_bits = 32 if stack[3] & ATTRIBUTE_DB else 16
        else:
            stack_bits = self.stack_bits
            sp = self.register(RSP, stack_bits)
        if offset > limit_of(descriptor):
            raise Fault(vectors.GP, external)
        sp = self._write_frame(words, 4 if wide else 2, sp, stack_bits, stack, new_cpl, external)
        self._enter_code(selector, descriptor, place, code, new_cpl)
        if stack is not None:
            self.segments[SS].load(*stack)
        if v86:
            for number in (GS, FS, DS, ES):
                self.segments[number].load(0, 0, 0, 0)
        self.set_register(RSP, stack_bits, sp)
        cleared = TF | NT | RF | VM | (IF if kind in (INTERRUPT_GATE16, INTERRUPT_GATE32) else 0)
        self.rflags = flags & ~cleared
        self.rip = offset
        self.mode_changed()

    def _inner_stack(self, cpl: int, external: int) -> tuple[tuple[int, int, int, int], int]:
        """(SS as loaded, stack pointer) of an inner level, from the TSS."""
        if self.tr.attributes & 0xF in (TSS16_AVAILABLE, TSS16_BUSY):
            sp, ss = self._from_tss(2 + 4 * cpl, 2, external), self._from_tss(4 + 4 * cpl, 2, external)
        else:
            sp, ss = self._from_tss(4 + 8 * cpl, 4, external), self._from_tss(8 + 8 * cpl, 2, external)
        try:
            return self.check_stack_segment(ss, cpl, vectors.TS), sp
        except Fault as fault:
            if fault.vector in (vectors.TS, vectors.SS) and fault.error is not None:
                fault.error |= external
            raise

    def _write_frame(
        self,
        words: list[int],
        size: int,
        sp: int,
        stack_bits: int,
        stack: tuple[int, int, int, int] | None,
        cpl: int,
        external: int,
    ) -> int:
        """Push the words; returns the new stack pointer."""
        total = size * len(words)
        mask = (1 << stack_bits) - 1
        sp = sp - total & mask
        frame = 0
        for word in words:
            frame = frame << 8 * size | word & ((1 << 8 * size) - 1)
        if stack is None:
            linear = self.segment_linear(SS, sp, total, write=True)
        else:
            _, base, limit, attributes = stack
            low, high = (limit + 1, mask) if attributes & ATTRIBUTE_DC else (0, limit)
            if sp < low or sp + total - 1 > high:
                raise Fault(vectors.SS, stack[0] & ~3 | external)
            linear = base + sp & 0xFFFF_FFFF
        self.write_linear(linear, total, frame, PF_U if cpl == 3 else 0)
        return sp
