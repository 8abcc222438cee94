"""Exits for memory: nested page faults (APM vol. 2, 15.25.6)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trapgate.arch import vmcb
from trapgate.vmm.emulate.machine import NotEmulated
from trapgate.vmm.errors import DeviceInstruction
from trapgate.vmm.exits.operands import decode

if TYPE_CHECKING:
    from trapgate.vmm.vcpu import VirtualCpu

#: Modelled cycles of an access to a memory-mapped device: nothing, as on the bare machine.
DEVICE_CYCLES = 0


def npf(vcpu: VirtualCpu) -> None:
    """The guest has touched a guest-physical address without memory: a device's registers, or nothing at all."""
    emulate_device(vcpu, vcpu.block[vmcb.EXITINFO2])


def emulate_device(vcpu: VirtualCpu, address: int) -> None:
    """Carry out the instruction that accesses guest-physical `address`."""
    # The event whose delivery was interrupted stays for the next entry only if it was one: see VirtualCpu.run.
    if not vcpu.emulate():
        raise DeviceInstruction(str(decode(vcpu)), vcpu.rip, address)


__all__ = ["EXITS", "NotEmulated", "emulate_device", "npf"]
EXITS = {vmcb.EXIT_NPF: npf}
