"""What a virtual processor's control registers accept (APM vol. 2, 3.1); all raise GuestFault (#GP)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trapgate.arch.registers import (
    CR0_CD,
    CR0_ET,
    CR0_NW,
    CR0_PE,
    CR0_PG,
    CR0_WRITABLE,
    CR4_PAE,
    CS,
    EFER_LMA,
    EFER_LME,
)
from trapgate.arch.segments import ATTRIBUTE_L
from trapgate.arch.vectors import GP
from trapgate.vmm.emulate import GuestFault

if TYPE_CHECKING:
    from trapgate.vmm.vcpu import VirtualCpu


def check_cr0(vcpu: VirtualCpu, value: int) -> tuple[int, int]:
    """CR0 and EFER after CR0 is written: PG switches long mode on and off (APM vol. 2, 14.6)."""
    if value >> 32:
        raise GuestFault(GP, 0)
    value = value & CR0_WRITABLE | CR0_ET
    if (value & CR0_PG and not value & CR0_PE) or (value & CR0_NW and not value & CR0_CD):
        raise GuestFault(GP, 0)
    efer = vcpu.efer
    if (vcpu.cr0 ^ value) & CR0_PG:
        if value & CR0_PG and efer & EFER_LME:
            if not vcpu.cr4 & CR4_PAE or vcpu.segment(CS)[3] & ATTRIBUTE_L:
                raise GuestFault(GP, 0)
            efer |= EFER_LMA
        elif not value & CR0_PG:
            if efer & EFER_LMA and vcpu.bits == 64:
                raise GuestFault(GP, 0)
            efer &= ~EFER_LMA
    return value, efer


def check_cr3(vcpu: VirtualCpu, value: int) -> int:
    """CR3: in long mode 52 bits, else 32."""
    if vcpu.efer & EFER_LMA:
        if value >> 52:
            raise GuestFault(GP, 0)
        return value
    return value & 0xFFFF_FFFF


def check_cr4(vcpu: VirtualCpu, value: int) -> int:
    """CR4: the profile's bits; PAE stays in long mode."""
    if value & ~vcpu.vm.profile.cr4_bits or (vcpu.efer & EFER_LMA and not value & CR4_PAE):
        raise GuestFault(GP, 0)
    return value
