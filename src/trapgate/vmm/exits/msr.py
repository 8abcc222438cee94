"""Exits for RDMSR and WRMSR (APM vol. 2, 15.11)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trapgate.arch import vmcb
from trapgate.arch.registers import RAX, RCX, RDX
from trapgate.vmm.emulate import GuestFault

if TYPE_CHECKING:
    from trapgate.vmm.vcpu import VirtualCpu


def msr(vcpu: VirtualCpu) -> None:
    """Read or write what the virtual processor has."""
    block, gpr = vcpu.block, vcpu.gpr
    number = gpr[RCX] & 0xFFFF_FFFF
    try:
        if block[vmcb.EXITINFO1] & 1:
            vcpu.vm.msrs.write(number, (gpr[RDX] & 0xFFFF_FFFF) << 32 | block[vmcb.RAX] & 0xFFFF_FFFF)
        else:
            value = vcpu.vm.msrs.read(number)
            block[vmcb.RAX] = gpr[RAX] = value & 0xFFFF_FFFF
            gpr[RDX] = value >> 32
    except GuestFault as fault:
        vcpu.inject(fault)
        return
    vcpu.skip()


EXITS = {vmcb.EXIT["msr"]: msr}
