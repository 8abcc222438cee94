"""What a virtual processor's control registers accept (arch/control_rules.py); all raise GuestFault (#GP)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trapgate.arch.control_rules import cr0_after, cr3_after, efer_with_lma, takes_cr4
from trapgate.arch.registers import CS
from trapgate.arch.vectors import GP
from trapgate.vmm.emulate import GuestFault

if TYPE_CHECKING:
    from trapgate.vmm.vcpu import VirtualCpu


def check_cr0(vcpu: VirtualCpu, value: int) -> tuple[int, int]:
    """CR0 and EFER after CR0 is written: PG switches long mode on and off (APM vol. 2, 14.6)."""
    result = cr0_after(value, vcpu.cr0, vcpu.cr4, vcpu.efer, vcpu.segment(CS)[3])
    if result is None:
        raise GuestFault(GP, 0)
    return result, efer_with_lma(vcpu.efer, result)


def check_cr3(vcpu: VirtualCpu, value: int) -> int:
    """CR3: in long mode 52 bits, else 32."""
    result = cr3_after(value, vcpu.efer)
    if result is None:
        raise GuestFault(GP, 0)
    return result


def check_cr4(vcpu: VirtualCpu, value: int) -> int:
    """CR4: the profile's bits; PAE stays in long mode."""
    if not takes_cr4(vcpu.vm.profile, value, vcpu.efer):
        raise GuestFault(GP, 0)
    return value
