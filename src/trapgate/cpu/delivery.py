"""Delivery of exceptions and interrupts through the IVT or the IDT (APM vol. 2, 8.6 to 8.9).

Nothing of the guest's state changes before the whole frame has been written, so a fault during delivery finds the
state as it was.
"""

from __future__ import annotations

from collections import deque
from typing import NoReturn

from trapgate.arch import layout, vectors, vmcb
from trapgate.arch.registers import AC, CR4_VME, CS, DS, ES, FS, GS, IF, IOPL, NT, RF, RSP, SS, TF, VIF, VM
from trapgate.arch.segments import (
    ATTRIBUTE_DB,
    ATTRIBUTE_DC,
    ATTRIBUTE_L,
    ATTRIBUTE_P,
    INTERRUPT_GATE16,
    INTERRUPT_GATE32,
    REAL_CODE,
    TASK_GATE,
    TRAP_GATE16,
    TRAP_GATE32,
    TSS32_AVAILABLE,
    TSS32_BUSY,
    attributes_of,
    limit_of,
)
from trapgate.arch.vectors import CONTRIBUTORY, WITH_ERROR_CODE
from trapgate.cpu.core import is_canonical
from trapgate.cpu.faults import Fault, TripleFault
from trapgate.cpu.segmentation import CODE_MASK, V86_ATTRIBUTES, StackSegment, dpl_of
from trapgate.cpu.tasks import SwitchKind
from trapgate.cpu.transfer import Transfers

#: Offset in a 32-bit TSS of the I/O permission bitmap's offset (APM vol. 2, 12.2.4).
_IO_BITMAP = 0x66


class Delivery(Transfers):
    """Exceptions and interrupts."""

    #: Interrupts taken, by vector, software interrupts among them.
    interrupt_counts: dict[int, int]
    _exception_counts: dict[int, int]
    _recent_exceptions: deque[tuple[int, int | None, int, int | None]]
    #: How many of the page faults that native code has delivered are in these two.
    _faults_taken = 0

    # What guest mode adds (cpu/svm/guest_mode.py).

    in_guest = False

    def intercept_exception(self, fault: Fault) -> None:
        """Leave the guest where its hypervisor takes this exception."""

    def note_event(self, kind: int, vector: int, error: int | None = None) -> None:
        """An event is about to be delivered."""

    delivering = 0

    def deliver_exception(self, fault: Fault) -> None:
        """Deliver an exception; a second one while doing so may become a double fault (APM vol. 2, table 8-3).

        Raises TripleFault when a double fault cannot be delivered, VmExit where a guest's hypervisor takes it.
        """
        while True:
            vector = fault.vector
            if self.in_guest:
                self.intercept_exception(fault)
            self.note_exception(fault)
            if vector == vectors.PF and fault.address is not None:
                self.cr2 = fault.address
            error = fault.error if vector in WITH_ERROR_CODE and not self.real_mode else None
            if self.in_guest:
                self.note_event(vmcb.EVENT_EXCEPTION, vector, error)
            try:
                self._enter_handler(
                    vector, error, software=False, resume=vector not in (vectors.DB, vectors.BP, vectors.OF)
                )
            except Fault as second:
                fault = self._after(fault, second)
                continue
            self.delivering = 0
            if not self.task_trap:
                return
            fault = self.take_task_trap()

    @property
    def exception_counts(self) -> dict[int, int]:
        """Exceptions taken, by vector."""
        self._take_native_faults()
        return self._exception_counts

    @property
    def recent_exceptions(self) -> deque[tuple[int, int | None, int, int | None]]:
        """The last exceptions: (vector, error code, rip, linear address of a page fault).

        Those that made a double fault of another, or a shutdown of that, are here, too, though never delivered.
        """
        self._take_native_faults()
        return self._recent_exceptions

    def _take_native_faults(self) -> None:
        """Note the page faults that native code has delivered (cpu/native_delivery.py)."""
        q = self.q
        delivered = q[layout.FAULTS_DELIVERED >> 3]
        new = delivered - self._faults_taken
        if not new:
            return
        self._faults_taken = delivered
        if new < 0:
            return  # somebody has put an older state block back
        counts = self._exception_counts
        counts[vectors.PF] = counts.get(vectors.PF, 0) + new
        for number in range(max(delivered - layout.LOGGED_FAULTS, delivered - new), delivered):
            place = layout.FAULT_LOG + number % layout.LOGGED_FAULTS * layout.LOGGED_FAULT_SIZE >> 3
            self._recent_exceptions.append((vectors.PF, q[place], q[place + 1], q[place + 2]))

    def note_exception(self, fault: Fault) -> None:
        """An exception is about to be delivered, whatever raised it: `rip` is the one that its frame will have."""
        counts = self.exception_counts
        counts[fault.vector] = counts.get(fault.vector, 0) + 1
        self._remember_exception(fault)

    def _remember_exception(self, fault: Fault) -> None:
        self.recent_exceptions.append((fault.vector, fault.error, self.rip, fault.address))

    def _after(self, first: Fault | None, second: Fault) -> Fault:
        """What is delivered when the delivery of `first` (None: an interrupt) has raised `second`.

        A guest's hypervisor sees the second one before it is combined with the first (15.12).
        """
        if self.in_guest:
            self.intercept_exception(second)
        if second.address is not None:
            self.cr2 = second.address  # even when a double fault comes of it
        if first is None or self._replaces(first, second):
            return second
        self._remember_exception(second)
        if first.vector == vectors.DF:
            raise TripleFault from None
        return Fault(vectors.DF, 0)

    def deliver_event(
        self,
        vector: int,
        error: int | None,
        software: bool,
        resume: bool,
        exception: Fault | None,
        rip_of_instruction: int | None = None,
    ) -> None:
        """Deliver an interrupt, or what a hypervisor injects (`exception`, if it is one).

        `rip_of_instruction`: where an injected software interrupt's instruction is, for a fault on the way.
        """
        try:
            self._enter_handler(vector, error, software, resume)
        except Fault as second:
            if rip_of_instruction is not None:
                self.rip = rip_of_instruction
            self.deliver_exception(self._after(exception, second))
        else:
            self.delivering = 0
            self.deliver_task_trap()

    @staticmethod
    def _replaces(first: Fault, second: Fault) -> bool:
        """Whether an exception while delivering another is delivered in its place; else they are a double fault."""
        if first.vector == vectors.DF:
            return False
        contributory = second.vector in CONTRIBUTORY
        if first.vector in CONTRIBUTORY:
            return not contributory
        return first.vector != vectors.PF or not (contributory or second.vector == vectors.PF)

    def deliver_interrupt(self, vector: int, kind: int = vmcb.EVENT_INTR) -> None:
        """Deliver an external interrupt or an NMI; a fault while doing so is delivered in its place."""
        self.interrupt_counts[vector] = self.interrupt_counts.get(vector, 0) + 1
        if self.in_guest:
            self.note_event(kind, vector)
        self.deliver_event(vector, None, software=False, resume=False, exception=None)

    def range_exceeded(self) -> NoReturn:
        """#BR of BOUND, while `rip` is that of the next instruction."""
        fault = Fault(vectors.BR)
        fault.next_rip = self.rip
        raise fault

    def trap(self, vector: int) -> None:
        """INT1: an exception after the instruction, `rip` is already that of the next one.

        No exception intercept looks at it (15.12.2).
        """
        fault = Fault(vector)
        fault.interceptable = False
        self.deliver_exception(fault)

    def software_interrupt(self, vector: int, sensitive: bool = True) -> None:
        """INT n (`sensitive`), INT3 and INTO (not): `rip` is already that of the next instruction.

        In virtual-8086 mode INT n depends on IOPL and the redirection bitmap (APM vol. 2, 8.10.2; vol. 3, INT):

        | CR4.VME | bit of the bitmap | IOPL | INT n                                                             |
        |---------|-------------------|------|-------------------------------------------------------------------|
        | a 1     | 0                 | 3    | real-mode handler; IF cleared                                     |
        | b 1     | 0                 | <3   | real-mode handler; image with IF = VIF and IOPL = 3; VIF cleared |
        | c else  |                   | 3    | through the IDT                                                   |
        | d else  |                   | <3   | #GP(0)                                                            |
        """
        if self.virtual8086 and sensitive:
            if self.cr4 & CR4_VME and not self._goes_to_monitor(vector):
                self._deliver_virtual(vector)
                self.interrupt_counts[vector] = self.interrupt_counts.get(vector, 0) + 1
                return
            if self.rflags & IOPL != IOPL:
                raise Fault(vectors.GP, 0)
        if self.in_guest:
            # INT3 and INTO count as exceptions (15.7.2).
            self.note_event(vmcb.EVENT_SOFTWARE if sensitive else vmcb.EVENT_EXCEPTION, vector)
        self._enter_handler(vector, None, software=True, resume=False)
        self.delivering = 0
        self.interrupt_counts[vector] = self.interrupt_counts.get(vector, 0) + 1
        self.deliver_task_trap()

    def _goes_to_monitor(self, vector: int) -> bool:
        """The vector's bit in the 32 bytes below the I/O permission bitmap; #GP(0) beyond the TSS's limit."""
        tr = self.tr
        if tr.attributes & 0xF not in (TSS32_AVAILABLE, TSS32_BUSY) or tr.limit < _IO_BITMAP + 1:
            raise Fault(vectors.GP, 0)
        place = self.read_system(tr.base + _IO_BITMAP, 2) - 32 + vector // 8
        if not 0 <= place <= tr.limit:
            raise Fault(vectors.GP, 0)
        return bool(self.read_system(tr.base + place, 1) >> (vector & 7) & 1)

    def _deliver_virtual(self, vector: int) -> None:
        """Through the interrupt table at linear address 0, staying in virtual-8086 mode."""
        entry = self.read_system(4 * vector, 4)
        flags = image = self.rflags
        cleared = IF
        if flags & IOPL != IOPL:
            image = flags & ~IF | IOPL | (IF if flags & VIF else 0)
            cleared = VIF
        sp = self.write_frame([image, self.segments[CS].selector, self.rip], 2, self.register(RSP, 16), 16, None, 3)
        self.set_register(RSP, 16, sp)
        self.rflags = flags & ~(cleared | TF | RF)
        self.segments[CS].load(entry >> 16, entry >> 16 << 4, 0xFFFF, V86_ATTRIBUTES)
        self.rip = entry & 0xFFFF
        self.mode_changed()

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
        if entry & 0xFFFF > self.segments[CS].limit:
            raise Fault(vectors.GP, 0)
        bits = self.stack_bits
        words = [self.rflags, self.segments[CS].selector, self.rip]
        sp = self.write_frame(words, 2, self.register(RSP, bits), bits, None, 0)
        self.set_register(RSP, bits, sp)
        self.rflags = self.rflags & ~(IF | TF | AC | RF)
        cs = self.segments[CS]
        cs.load(entry >> 16, entry >> 16 << 4, cs.limit, REAL_CODE)
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
        if attributes & CODE_MASK != CODE_MASK or dpl_of(attributes) > self.cpl:
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
            rsp = self.from_tss(36 + 8 * (ist - 1), 8, external)
        elif new_cpl < self.cpl:
            rsp = self.from_tss(4 + 8 * new_cpl, 8, external)
        else:
            rsp = self.register(RSP, 64)
        rsp &= ~15
        flags = self.rflags
        words = [self.segments[SS].selector, self.register(RSP, 64), flags | RF if resume else flags]
        words += [self.segments[CS].selector, self.rip]
        if error is not None:
            words.append(error)
        if not is_canonical(offset):
            raise Fault(vectors.GP, external)
        rsp = self.write_long_frame(words, rsp, new_cpl, external)
        inward = new_cpl != self.cpl
        self.enter_code(selector, descriptor, place, new_cpl)
        if inward:
            self.segments[SS].load(new_cpl, 0, 0, 0)
        self.set_register(RSP, 64, rsp)
        cleared = TF | NT | RF | VM | (IF if attributes & 0x1F == INTERRUPT_GATE32 else 0)
        self.rflags = flags & ~cleared
        self.rip = offset

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
            fault = self.switch_task(self.task_of_gate(gate, external), SwitchKind.EVENT, external, error, resume)
            if fault is None:
                return
            if software:
                self.deliver_exception(fault)  # the instruction itself is done
                return
            raise fault
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
        stack: StackSegment | None = None
        if inward:
            stack, sp = self.inner_stack(new_cpl, external)
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
        sp = self.write_frame(words, 4 if wide else 2, sp, stack_bits, stack, new_cpl, external)
        self.enter_code(selector, descriptor, place, new_cpl)
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
