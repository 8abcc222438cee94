"""Hardware task switches of a guest on shadow page tables (APM vol. 2, 12.3, 12.4 and 15.14.1).

The processor would load CR3 from the guest's TSS, and could not take up again a switch that a page fault of the shadow
tables has cut in two. So they exit, and are carried out here. As in the processor there is a commit point: a fault
before it belongs to the old task, one behind it to the new task's first instruction.

| how         | EXITINFO2 says | TSS must be    | old busy bit | new busy bit | back link | NT             |
|-------------|----------------|----------------|--------------|--------------|-----------|----------------|
| a JUMP      | bit 38         | available, #GP | cleared      | set          | -         | as in new TSS  |
| b CALL      | -              | available, #GP | stays        | set          | written   | set in new     |
| c event     | - (EXITINTINFO)| available, #GP | stays        | set          | written   | set in new     |
| d IRET      | bit 36         | busy, #TS      | cleared      | stays        | -         | cleared in old |

The processor has checked the TSS's descriptor before the exit.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from trapgate.arch import vectors, vmcb
from trapgate.arch.breakpoints import DR6_BT, DR7_LOCAL
from trapgate.arch.paging import PF_U, PF_W
from trapgate.arch.registers import CR0_PG, CR0_TS, CS, DS, ES, FS, GS, NT, RF, SS, VM
from trapgate.arch.segment_rules import data_fault, stack_fault, task_code_fault, task_ldt_fault
from trapgate.arch.segments import (
    ATTRIBUTE_DB,
    ATTRIBUTE_DC,
    ATTRIBUTE_P,
    attributes_of,
    base_of,
    limit_of,
)
from trapgate.arch.tss import BUSY, LINK, WIDE, Image, layout_of, saved
from trapgate.firmware.image import SegmentValue
from trapgate.vmm.control_block import SEGMENTS
from trapgate.vmm.emulate import GuestFault
from trapgate.vmm.emulate.machine import CHECK

if TYPE_CHECKING:
    from trapgate.vmm.vcpu import VirtualCpu

_V86_ATTRIBUTES = 0xF3
_SELECTOR_FAULTS = frozenset((vectors.TS, vectors.NP, vectors.SS, vectors.GP))
_M32 = 0xFFFF_FFFF


def task_switch(vcpu: VirtualCpu) -> None:
    """The exit: switch, and give the guest what faults."""
    block = vcpu.block
    event, vcpu.event = vcpu.event, 0
    kind = event >> vmcb.EVENT_TYPE_SHIFT & 7
    by_event = bool(event & vmcb.EVENT_VALID)
    trap = kind == vmcb.EVENT_EXCEPTION and event & 0xFF in (vectors.BP, vectors.OF)
    external = int(by_event and kind != vmcb.EVENT_SOFTWARE and not trap)
    info = block[vmcb.EXITINFO2]
    vcpu.begin_registers()
    switch = _Switch(vcpu, block[vmcb.EXITINFO1] & 0xFFFF, info)
    # Behind the instruction (nRIP is not saved here); an exception or interrupt goes back to where it came.
    rip = vcpu.rip if external else vcpu.vm.next_rip(vcpu)
    try:
        switch.save(rip)
    except GuestFault as fault:
        vcpu.event = event if external else 0
        vcpu.inject(_with_external(fault, external))
        return
    if not external:
        vcpu.backend.retire(1)
    block.set_byte(vmcb.INTERRUPT_SHADOW, 0)
    try:
        switch.load()
        if info & vmcb.TASK_SWITCH_ERROR:
            switch.push(info & _M32)
    except GuestFault as fault:
        vcpu.event = event if external else 0
        switch.finish()
        vcpu.inject(_with_external(fault, external))
        return
    switch.finish()
    if switch.image.trap:
        block[vmcb.DR6] |= DR6_BT
        vcpu.inject(GuestFault(vectors.DB))


def _with_external(fault: GuestFault, external: int) -> GuestFault:
    if fault.vector in _SELECTOR_FAULTS and fault.error is not None:
        fault.error |= external
    return fault


class _Switch:
    """One switch to the task of a TSS selector. All methods raise GuestFault."""

    def __init__(self, vcpu: VirtualCpu, selector: int, info: int) -> None:
        self.vcpu, self.block, self.selector = vcpu, vcpu.block, selector
        vcpu.segment(GS)  # brings FS, GS, LDTR and TR into the VMCB
        self.returning = bool(info & vmcb.TASK_SWITCH_IRET)
        self.linked = not info & (vmcb.TASK_SWITCH_IRET | vmcb.TASK_SWITCH_JUMP)
        self.resume = bool(info & vmcb.TASK_SWITCH_RF)
        self.gdt = self.block[vmcb.GDTR + 8], self.block[vmcb.GDTR] >> 32
        self.image: Image

    # -- the guest's memory, at CPL 0

    def _read(self, linear: int, size: int) -> bytes:
        return self.vcpu.memory.read(linear & _M32, size, 0)

    def _write(self, linear: int, data: bytes, access: int = PF_W) -> None:
        self.vcpu.memory.write(linear & _M32, data, access)

    def _descriptor(self, selector: int, vector: int) -> tuple[int, int]:
        """(descriptor, its linear address)."""
        base, limit = self.gdt
        if selector & 4:
            _, base, limit, attributes = self.block.segment(vmcb.LDTR)
            limit = limit if attributes & ATTRIBUTE_P else -1
        if (selector & ~7) + 7 > limit:
            raise GuestFault(vector, selector & ~3)
        place = base + (selector & ~7)
        return int.from_bytes(self._read(place, 8), "little"), place

    # -- out of the old task

    def save(self, rip: int) -> None:
        """Everything up to the commit point, which is its last line."""
        block, selector = self.block, self.selector
        descriptor, self.place = self._descriptor(selector, vectors.TS if self.returning else vectors.GP)
        self.attributes, self.base, self.limit = attributes_of(descriptor), base_of(descriptor), limit_of(descriptor)
        layout = layout_of(self.attributes)
        self.image = Image(self._read(self.base, layout.limit + 1), layout)
        old_selector, old_base, _, old_attributes = block.segment(vmcb.TR)
        old_place = self.gdt[0] + (old_selector & ~7) + 5
        check = PF_W | CHECK
        if self.linked:
            self._write(self.base + LINK, bytes(2), check)
        if not self.returning:
            self._write(self.place + 5, bytes(1), check)
        if not self.linked:
            self._write(old_place, bytes(1), check)
        flags = block[vmcb.RFLAGS] & ~(NT if self.returning else 0) | (RF if self.resume else 0)
        layout = layout_of(old_attributes)
        at, size = old_base + layout.registers, layout.size * (10 + layout.segments)
        selectors = [block.segment(place)[0] for place in SEGMENTS]
        self._write(at, saved(layout, rip, flags, list(self.vcpu.gpr[:8]), selectors, self._read(at, size)))
        if not self.linked:
            self._write(old_place, bytes([self._read(old_place, 1)[0] & ~BUSY]))
        if not self.returning:
            self._write(self.place + 5, bytes([self.attributes & 0xFF | BUSY]))
        if self.linked:
            self._write(self.base + LINK, old_selector.to_bytes(2, "little"))

    # -- into the new task

    def load(self) -> None:
        """The new task's state; what was loaded before a fault stays loaded."""
        vcpu, block, image = self.vcpu, self.block, self.image
        technique = vcpu.technique
        self._set(vmcb.TR, self.selector, self.base, self.limit, self.attributes | BUSY)
        block[vmcb.DR7] &= ~DR7_LOCAL
        block[vmcb.RIP], block[vmcb.RFLAGS] = image.rip, image.rflags & ~0x28 | 2 | (NT if self.linked else 0)
        for number, value in enumerate(image.registers):
            vcpu.gpr[number] = value
        virtual = bool(image.rflags & VM)
        for place, selector in zip(SEGMENTS, image.selectors, strict=True):
            self._set(place, selector, 0, 0, 0)
        self._set(vmcb.LDTR, image.ldt, 0, 0, 0)
        self.cpl = 3 if virtual else image.selectors[CS] & 3
        technique.write_cr0(technique.cr0 | CR0_TS, technique.efer)
        if image.cr3 is not None and technique.cr0 & CR0_PG:
            try:
                technique.write_cr3(image.cr3)
            except GuestFault:
                # Reserved bits in the new task's page-directory pointers.
                raise GuestFault(vectors.TS, self.selector & ~3) from None
        self._load_ldt(image.ldt)
        if virtual:
            for place, selector in zip(SEGMENTS, image.selectors, strict=True):
                self._set(place, selector, selector << 4, 0xFFFF, _V86_ATTRIBUTES)
            return
        for number in (CS, SS, DS, ES, FS, GS):
            self._load_segment(number, image.selectors[number])

    def _set(self, place: int, selector: int, base: int, limit: int, attributes: int) -> None:
        self.block.set_segment(place, SegmentValue(selector, base, limit, attributes))

    def _load(self, number: int, selector: int, descriptor: int, place: int) -> None:
        if not descriptor >> 40 & 1:
            self._write(place + 5, bytes([descriptor >> 40 & 0xFF | 1]))
        attributes = attributes_of(descriptor) | 1
        self._set(SEGMENTS[number], selector, base_of(descriptor), limit_of(descriptor), attributes)

    def _load_ldt(self, selector: int) -> None:
        if selector & ~3 == 0:
            return
        if selector & 4:
            raise GuestFault(vectors.TS, selector & ~3)
        descriptor, _ = self._descriptor(selector, vectors.TS)
        attributes = attributes_of(descriptor)
        self._refuse(selector, task_ldt_fault(attributes))
        self._set(vmcb.LDTR, selector, base_of(descriptor), limit_of(descriptor), attributes & 0xFF)

    def _refuse(self, selector: int, vector: int) -> None:
        if vector:
            raise GuestFault(vector, selector & ~3)

    def _load_segment(self, number: int, selector: int) -> None:
        """CS, SS, or a data segment."""
        if selector & ~3 == 0:
            if number in (CS, SS):
                raise GuestFault(vectors.TS, 0)
            return
        descriptor, place = self._descriptor(selector, vectors.TS)
        attributes = attributes_of(descriptor)
        if number == CS:
            vector = task_code_fault(selector, attributes)
        elif number == SS:
            vector = stack_fault(selector, attributes, self.cpl, vectors.TS)
        else:
            vector = data_fault(selector, attributes, self.cpl, vectors.TS)
        self._refuse(selector, vector)
        self._load(number, selector, descriptor, place)

    def push(self, error: int) -> None:
        """An exception's error code, on the new task's stack."""
        size = 4 if self.attributes & WIDE else 2
        _, base, limit, attributes = self.block.segment(vmcb.SS)
        mask = _M32 if attributes & ATTRIBUTE_DB else 0xFFFF
        rsp = self.vcpu.gpr[4]
        at = rsp - size & mask
        low, high = 0, limit
        if attributes & ATTRIBUTE_DC:
            low, high = limit + 1, mask
        if at < low or at + size - 1 > high:
            raise GuestFault(vectors.SS, 0)
        access = PF_W | (PF_U if self.cpl == 3 else 0)
        self._write(base + at, (error & (1 << 8 * size) - 1).to_bytes(size, "little"), access)
        self.vcpu.gpr[4] = rsp & ~mask | at

    def finish(self) -> None:
        """The state goes to the processor."""
        self.block.set_byte(vmcb.CPL, self.cpl)
        self.vcpu.end_registers()
        self.vcpu.backend.vmload(self.block.address)
        self.vcpu.extra_state_changed()


EXITS = {vmcb.EXIT["task_switch"]: task_switch}
