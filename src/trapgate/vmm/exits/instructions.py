"""Exits for single instructions: CPUID, HLT, VMMCALL, RDPMC, INVD, and what the guest does not have."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trapgate.arch import vmcb
from trapgate.arch.registers import RAX, RBX, RCX, RDX
from trapgate.arch.vectors import GP, UD
from trapgate.vmm.emulate import GuestFault
from trapgate.vmm.hypercalls import hypercall, hypervisor_leaf

if TYPE_CHECKING:
    from trapgate.vmm.vcpu import VirtualCpu

_SVM_FLAG = 1 << 2
_HYPERVISOR = 1 << 31
_APIC = 1 << 9


def cpuid(vcpu: VirtualCpu) -> None:
    """The profile's leaves, with what the guest has of AMD-V, and the hypervisor's own (25481, 2.2)."""
    block, gpr = vcpu.block, vcpu.gpr
    leaf = block[vmcb.RAX] & 0xFFFF_FFFF
    found = hypervisor_leaf(vcpu, leaf)
    if found is None:
        eax, ebx, ecx, edx = vcpu.vm.profile.cpuid(leaf)
        if leaf in (1, 0x8000_0001) and not vcpu.vm.board.lapic.apic_base >> 11 & 1:
            edx &= ~_APIC
        if leaf == 1:
            ecx |= _HYPERVISOR
        elif leaf == 0x8000_0001 and not vcpu.nested.offered:
            ecx &= ~_SVM_FLAG
        elif leaf == 0x8000_000A:
            if vcpu.nested.offered:
                edx = sum(1 << vmcb.FEATURES[name] for name in vcpu.nested.features)
            else:
                eax = ebx = ecx = edx = 0
    else:
        eax, ebx, ecx, edx = found
    block[vmcb.RAX] = gpr[RAX] = eax
    gpr[RBX], gpr[RCX], gpr[RDX] = ebx, ecx, edx
    vcpu.skip()


def hlt(vcpu: VirtualCpu) -> None:
    """Let time pass until the board wants something of the guest."""
    if vcpu.skip():
        return  # a single step's #DB wakes it
    if not (vcpu.nested.in_l2 and vcpu.nested.has_virtual_interrupt):
        vcpu.vm.idle(vcpu)


def vmmcall(vcpu: VirtualCpu) -> None:
    """A hypercall."""
    vcpu.skip()
    hypercall(vcpu)


def undefined(vcpu: VirtualCpu) -> None:
    """There is no secure loader."""
    vcpu.inject(GuestFault(UD))


def rdpmc(vcpu: VirtualCpu) -> None:
    """The counters do not count: no event is modelled."""
    number = vcpu.gpr[RCX] & 0xFFFF_FFFF
    counters = vcpu.vm.profile.counters
    if number >= len(counters):
        vcpu.inject(GuestFault(GP, 0))
        return
    value = vcpu.vm.msrs.read(counters[number])
    vcpu.block[vmcb.RAX] = vcpu.gpr[RAX] = value & 0xFFFF_FFFF
    vcpu.gpr[RDX] = value >> 32
    vcpu.skip()


def monitor(vcpu: VirtualCpu) -> None:
    """Nothing but the guest writes to its memory."""
    if vcpu.gpr[RCX] & 0xFFFF_FFFF:
        vcpu.inject(GuestFault(GP, 0))
    else:
        vcpu.skip()


def mwait(vcpu: VirtualCpu) -> None:
    """As HLT, but for what ECX may hold."""
    if vcpu.gpr[RCX] & 0xFFFF_FFFE:
        vcpu.inject(GuestFault(GP, 0))
    else:
        hlt(vcpu)


def nothing(vcpu: VirtualCpu) -> None:
    """INVD, WBINVD: caches hold nothing that memory does not."""
    vcpu.skip()


EXITS = {
    vmcb.EXIT["cpuid"]: cpuid,
    vmcb.EXIT["hlt"]: hlt,
    vmcb.EXIT["vmmcall"]: vmmcall,
    vmcb.EXIT["rdpmc"]: rdpmc,
    vmcb.EXIT["monitor"]: monitor,
    vmcb.EXIT["mwait"]: mwait,
    vmcb.EXIT["invd"]: nothing,
    vmcb.EXIT["wbinvd"]: nothing,
    vmcb.EXIT["skinit"]: undefined,
}
