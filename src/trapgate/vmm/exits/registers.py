"""Exits for moves to and from control registers (APM vol. 2, 15.8)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trapgate.arch import vmcb
from trapgate.arch.vectors import GP
from trapgate.vmm.emulate import GuestFault
from trapgate.vmm.exits.operands import general_register

if TYPE_CHECKING:
    from trapgate.vmm.vcpu import VirtualCpu


def read_cr8(vcpu: VirtualCpu) -> None:
    """The task priority of the board's local APIC."""
    vcpu.begin_registers()
    vcpu.gpr[general_register(vcpu, 0)] = vcpu.vm.board.lapic.read_cr8()
    vcpu.end_registers()
    vcpu.skip()


def write_cr8(vcpu: VirtualCpu) -> None:
    """The task priority of the board's local APIC."""
    vcpu.begin_registers()
    value = vcpu.gpr[general_register(vcpu, 1)]
    if value >> 4:
        vcpu.inject(GuestFault(GP, 0))
        return
    vcpu.vm.board.lapic.write_cr8(value)
    vcpu.skip()


EXITS = {vmcb.EXIT_CR_READ + 8: read_cr8, vmcb.EXIT_CR_WRITE + 8: write_cr8}
