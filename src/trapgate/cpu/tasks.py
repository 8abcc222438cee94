"""Hardware task switches (APM vol. 2, 12.3 to 12.4).

A switch has a commit point. Before it everything that can fault is tried: the fault belongs to the old task, and
nothing has changed. Behind it the new task is the current one: a fault belongs to its first instruction.

| how         | TSS must be      | old busy bit | new busy bit | back link | NT             |
|-------------|------------------|--------------|--------------|-----------|----------------|
| a JUMP      | available, #GP   | cleared      | set          | -         | as in new TSS  |
| b CALL      | available, #GP   | stays        | set          | written   | set in new     |
| c EVENT     | available, #GP   | stays        | set          | written   | set in new     |
| d RETURN    | busy, #TS        | cleared      | stays        | -         | cleared in old |
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from enum import Enum

from trapgate.arch import layout, vectors
from trapgate.arch.breakpoints import DR6_BT, DR7_LOCAL
from trapgate.arch.registers import CR0_PG, CR0_TS, CS, DS, ES, FS, GS, NT, RF, SS
from trapgate.arch.segment_rules import task_code_fault, task_ldt_fault
from trapgate.arch.segments import (
    ATTRIBUTE_P,
    TSS16_AVAILABLE,
    TSS16_BUSY,
    TSS32_AVAILABLE,
    TSS32_BUSY,
    attributes_of,
    base_of,
    limit_of,
)
from trapgate.arch.tss import BUSY, LINK, WIDE, Image, layout_of, saved
from trapgate.cpu.faults import Fault
from trapgate.cpu.segmentation import Segmentation

_SELECTOR_FAULTS = frozenset((vectors.TS, vectors.NP, vectors.SS, vectors.GP))


class SwitchKind(Enum):
    """What switches: the letters of the table above."""

    JUMP = "a"
    CALL = "b"
    EVENT = "c"
    RETURN = "d"


class Tasks(Segmentation, ABC):
    """Task switches. What they need of the classes above is abstract here."""

    #: The task just entered wants #DB before its first instruction (T bit of its TSS, APM vol. 2, 13.1.4.6).
    task_trap = False

    @abstractmethod
    def deliver_exception(self, fault: Fault) -> None:
        """Delivery (delivery.py) has it."""

    @abstractmethod
    def set_cr3(self, value: int) -> None:
        """Control (control.py) has it."""

    @abstractmethod
    def write_dr(self, number: int, value: int) -> None:
        """Debugging (debug.py) has it."""

    in_guest = False

    def intercept_task_switch(self, selector: int, kind: SwitchKind, error: int | None, flags: int) -> None:
        """Leave the guest where its hypervisor takes task switches (cpu/svm/guest_mode.py)."""

    def switch_by_instruction(self, selector: int, kind: SwitchKind) -> None:
        """JMP, CALL, IRET: a fault behind the commit point is delivered here, in the new task."""
        fault = self.switch_task(selector, kind)
        if fault is not None:
            self.deliver_exception(fault)
        else:
            self.deliver_task_trap()

    def deliver_task_trap(self) -> None:
        """The #DB that the T bit of the new task's TSS asks for."""
        if self.task_trap:
            self.deliver_exception(self.take_task_trap())

    def take_task_trap(self) -> Fault:
        """The T bit's exception, recorded in DR6.BT."""
        self.task_trap = False
        self.dr[6] |= DR6_BT
        return Fault(vectors.DB)

    def return_from_task(self) -> None:
        """IRET with NT set: to the task that the back link names; #TS unless that is a busy TSS (APM vol. 3, IRET)."""
        self.switch_by_instruction(self.from_tss(LINK, 2), SwitchKind.RETURN)

    def task_of_gate(self, gate: int, external: int = 0) -> int:
        """TSS selector of a task gate; it must be a global one."""
        selector = gate >> 16 & 0xFFFF
        if selector & 4:
            raise Fault(vectors.GP, selector & ~3 | external)
        return selector

    def switch_task(
        self, selector: int, kind: SwitchKind, external: int = 0, error: int | None = None, resume: bool = False
    ) -> Fault | None:
        """Switch to a task; the saved rip is `rip`.

        `error` is pushed on the new task's stack; `resume` saves RF set. Raises the faults before the commit point and
        returns the one behind it. Error codes have `external` as their EXT bit.
        """
        returning = kind is SwitchKind.RETURN
        try:
            descriptor, place = self._check_tss(selector, returning)
        except Fault as fault:
            raise _with_external(fault, external) from None
        attributes, base = attributes_of(descriptor), base_of(descriptor)
        lowest = layout_of(attributes).limit
        if limit_of(descriptor) < lowest:
            raise Fault(vectors.TS, selector & ~3 | external)
        flags = self.rflags & ~NT if returning else self.rflags
        flags |= RF if resume else 0
        if self.in_guest:
            self.intercept_task_switch(selector, kind, error, flags)
        image = Image(self.read_system(base, lowest + 1).to_bytes(lowest + 1, "little"), layout_of(attributes))
        linked = kind in (SwitchKind.CALL, SwitchKind.EVENT)
        old_selector, old_place = self.tr.selector, self.gdtr_base + (self.tr.selector & ~7)
        if linked:
            self.probe_write(base + LINK, 2, 0)
        if not returning:
            self.probe_write(place + 5, 1, 0)
        if not linked:
            self.probe_write(old_place + 5, 1, 0)
        # Saving is the last thing that can fault; here is the commit point.
        self._save_task(flags)
        if not linked:
            self.write_system(old_place + 5, 1, self.read_system(old_place + 5, 1) & ~BUSY)
        if not returning:
            self.write_system(place + 5, 1, attributes & 0xFF | BUSY)
        if linked:
            self.write_system(base + LINK, 2, old_selector)
        self.tr.load(selector, base, limit_of(descriptor), attributes | BUSY)
        self.state.set(layout.CR0, self.cr0 | CR0_TS)
        if self.dr[7] & DR7_LOCAL:
            self.write_dr(7, self.dr[7] & ~DR7_LOCAL)
        try:
            self._load_task(image, linked)
            if error is not None:
                self.push(32 if attributes & WIDE else 16, error)
        except Fault as fault:
            return _with_external(fault, external)
        self.task_trap = image.trap
        return None

    def _check_tss(self, selector: int, returning: bool) -> tuple[int, int]:
        """(descriptor, its address) of the TSS to switch to."""
        vector = vectors.TS if returning else vectors.GP
        if selector & 4:
            raise Fault(vector, selector & ~3)
        descriptor, place = self.read_descriptor(selector, vector)
        attributes = attributes_of(descriptor)
        wanted = (TSS16_BUSY, TSS32_BUSY) if returning else (TSS16_AVAILABLE, TSS32_AVAILABLE)
        if attributes & 0x1F not in wanted:
            raise Fault(vector, selector & ~3)
        if not attributes & ATTRIBUTE_P:
            raise Fault(vectors.NP, selector & ~3)
        return descriptor, place

    def _save_task(self, flags: int) -> None:
        """The old task's registers into its TSS."""
        fields = layout_of(self.tr.attributes)
        at, size = self.tr.base + fields.registers, fields.size * (10 + fields.segments)
        data = saved(
            fields, self.rip, flags, [self.register(n, 32) for n in range(8)], [s.selector for s in self.segments],
            self.read_system(at, size).to_bytes(size, "little"),
        )  # fmt: skip
        self.write_system(at, size, int.from_bytes(data, "little"))

    def _load_task(self, image: Image, linked: bool) -> None:
        """The new task's state from the image of its TSS."""
        self.rip = image.rip
        self.rflags = image.rflags | (NT if linked else 0)
        for number, value in enumerate(image.registers):
            self.set_register(number, 32, value)
        selectors, ldt = image.selectors, image.ldt
        virtual = self.virtual8086
        for segment, selector in zip(self.segments, selectors, strict=True):
            segment.load(selector, 0, 0, 0)
        self.ldtr.load(ldt, 0, 0, 0)
        self.cpl = 3 if virtual else selectors[CS] & 3
        self.mode_changed()
        if image.cr3 is not None and self.cr0 & CR0_PG:
            try:
                self.set_cr3(image.cr3)
            except Fault as fault:
                # Reserved bits in the new task's page-directory pointers.
                raise Fault(vectors.TS, self.tr.selector & ~3) if fault.vector == vectors.GP else fault from None
        self._load_task_ldt(ldt)
        if virtual:
            for number, selector in enumerate(selectors):
                self.load_real(number, selector)
            return
        self._load_task_code(selectors[CS])
        self.segments[SS].load(*self.check_stack_segment(selectors[SS], self.cpl, vectors.TS))
        for number in (DS, ES, FS, GS):
            if selectors[number] & ~3:
                self.load_data(number, selectors[number], vectors.TS)
        self.mode_changed()

    def _load_task_ldt(self, selector: int) -> None:
        if selector & ~3 == 0:
            return
        if selector & 4:
            raise Fault(vectors.TS, selector & ~3)
        descriptor, _ = self.read_descriptor(selector, vectors.TS)
        attributes = attributes_of(descriptor)
        if task_ldt_fault(attributes):
            raise Fault(vectors.TS, selector & ~3)
        self.ldtr.load(selector, base_of(descriptor), limit_of(descriptor), attributes & 0xFF)

    def _load_task_code(self, selector: int) -> None:
        if selector & ~3 == 0:
            raise Fault(vectors.TS, 0)
        descriptor, place = self.read_descriptor(selector, vectors.TS)
        refused = task_code_fault(selector, attributes_of(descriptor))
        if refused:
            raise Fault(refused, selector & ~3)
        self.enter_code(selector, descriptor, place, selector & 3)


def _with_external(fault: Fault, external: int) -> Fault:
    if fault.vector in _SELECTOR_FAULTS and fault.error is not None:
        fault.error |= external
    return fault
