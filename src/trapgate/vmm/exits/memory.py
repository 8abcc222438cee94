"""Exits for memory: nested page faults (APM vol. 2, 15.25.6), page faults on shadow tables."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trapgate.arch import vmcb
from trapgate.arch.paging import PF_I
from trapgate.arch.vectors import PF, UD
from trapgate.vmm.emulate import GuestFault
from trapgate.vmm.errors import DeviceInstruction
from trapgate.vmm.exits.operands import decode
from trapgate.vmm.shadow.outcomes import Device, Guest, TableWrite
from trapgate.vmm.techniques.shadow import Shadow

if TYPE_CHECKING:
    from trapgate.vmm.vcpu import VirtualCpu


def npf(vcpu: VirtualCpu) -> None:
    """The guest has touched a guest-physical address without memory: a device's registers, or nothing at all."""
    info = vcpu.block[vmcb.EXITINFO1]
    if vcpu.event & vmcb.EVENT_VALID and info & vmcb.NPF_FINAL:
        # Its IDT, its GDT or its stack is not in memory: an event that cannot be delivered ends in shutdown.
        vcpu.event = 0
        vcpu.triple_fault()
    elif info & PF_I:
        # Nothing answers there: FFh FFh, which is no instruction.
        vcpu.inject(GuestFault(UD))
    else:
        emulate_device(vcpu, vcpu.block[vmcb.EXITINFO2])


def page_fault(vcpu: VirtualCpu) -> None:
    """A page fault under shadow paging: the shadow tables' business, or the guest's, or a device's (15.12.15)."""
    technique, block = vcpu.technique, vcpu.block
    assert isinstance(technique, Shadow)
    linear = block[vmcb.EXITINFO2]
    outcome = technique.mmu.fault(linear, technique.page_fault_error(block[vmcb.EXITINFO1]))
    if isinstance(outcome, Guest):
        vcpu.inject(GuestFault(PF, outcome.error_code, linear))
    elif isinstance(outcome, TableWrite):
        # What the processor writes while it delivers an event is no instruction.
        if vcpu.event or not vcpu.emulate():
            technique.mmu.unprotect(outcome.address >> 12)
    elif isinstance(outcome, Device):
        emulate_device(vcpu, outcome.address)


def emulate_device(vcpu: VirtualCpu, address: int) -> None:
    """Carry out the instruction that accesses guest-physical `address`."""
    if not vcpu.emulate():
        raise DeviceInstruction(str(decode(vcpu)), vcpu.rip, address)


EXITS = {vmcb.EXIT_NPF: npf, vmcb.EXIT_EXCEPTION + PF: page_fault}
