"""The MSRs that a guest reaches through exits: those of the profile, the TSC, the local APIC's base, EFER, PAT.

Which there are, and what they take, is in arch/msrs.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from trapgate.arch import vmcb
from trapgate.arch.control_rules import efer_after
from trapgate.arch.msrs import (
    MSR_APIC_BASE,
    MSR_EFER,
    MSR_HWCR,
    MSR_PAT,
    MSR_TSC,
    MSR_TSC_AUX,
    held,
    is_missing,
    takes,
)
from trapgate.arch.registers import (
    EFER_SVME,
    MSR_DEBUG_CTL,
    MSR_LAST_BRANCH_FROM,
    MSR_LAST_BRANCH_TO,
    MSR_LAST_EXCEPTION_FROM,
    MSR_LAST_EXCEPTION_TO,
)
from trapgate.arch.vectors import GP
from trapgate.vmm.emulate import GuestFault

if TYPE_CHECKING:
    from trapgate.vmm.vm import VirtualMachine

_M64 = (1 << 64) - 1
#: Where the VMCB has the registers of control-transfer recording, on a processor with LBR virtualization.
_RECORDS = {
    MSR_DEBUG_CTL: vmcb.DBGCTL, MSR_LAST_BRANCH_FROM: vmcb.BR_FROM, MSR_LAST_BRANCH_TO: vmcb.BR_TO,
    MSR_LAST_EXCEPTION_FROM: vmcb.LAST_EXCEPTION_FROM, MSR_LAST_EXCEPTION_TO: vmcb.LAST_EXCEPTION_TO,
}  # fmt: skip


class VirtualMsrs:
    """What they hold. Both methods raise GuestFault (#GP) as RDMSR and WRMSR do."""

    def __init__(self, vm: VirtualMachine) -> None:
        self._vm = vm
        self._values = dict(vm.profile.reset_msrs)
        self._records = _RECORDS if "LBR_VIRT" in vm.backend.profile.svm_features else {}

    def read(self, number: int) -> int:
        """RDMSR."""
        vm = self._vm
        profile = vm.profile
        if is_missing(profile, number):
            raise GuestFault(GP, 0)
        if number == MSR_EFER:
            return vm.vcpu.efer | (EFER_SVME if vm.vcpu.nested.svme else 0)
        if number == MSR_TSC:
            return vm.backend.clock.now + vm.vcpu.block[vmcb.TSC_OFFSET] & _M64
        if number == MSR_APIC_BASE:
            return vm.board.lapic.apic_base
        if number == MSR_PAT:
            return vm.vcpu.block[vmcb.G_PAT]
        if number in self._records and (number in profile.msrs or number in profile.constant_msrs):
            return vm.vcpu.block[self._records[number]]
        if number in profile.constant_msrs:
            return profile.constant_msrs[number]
        if number in vmcb.SVM_MSRS:
            return vm.vcpu.nested.read_msr(number)
        if self._is_plain(number):
            return self._values.get(number, 0)
        raise GuestFault(GP, 0)

    def _is_plain(self, number: int) -> bool:
        return number in self._vm.profile.msrs or number == MSR_TSC_AUX

    def write(self, number: int, value: int) -> None:
        """WRMSR."""
        vm = self._vm
        profile = vm.profile
        if is_missing(profile, number) or not takes(profile, number, value, self._values.get(MSR_HWCR, 0)):
            raise GuestFault(GP, 0)
        if number == MSR_EFER:
            self._write_efer(value)
        elif number == MSR_TSC:
            vm.vcpu.block[vmcb.TSC_OFFSET] = value - vm.backend.clock.now + vm.vcpu.nested.tsc_ahead & _M64
        elif number == MSR_APIC_BASE:
            vm.board.lapic.apic_base = value
        elif number == MSR_PAT:
            vm.vcpu.block[vmcb.G_PAT] = value
        elif number in vmcb.SVM_MSRS:
            vm.vcpu.nested.write_msr(number, value)
        elif number == MSR_DEBUG_CTL and number in self._records and number in profile.msrs:
            self._write_debug_control(held(profile, number, value, 0))
        elif number in profile.msrs:
            self._values[number] = held(profile, number, value, self._values.get(number, 0))
        elif number == MSR_TSC_AUX:
            self._values[number] = value & 0xFFFF_FFFF
            self.use_tsc_aux()
        elif number not in profile.constant_msrs or number in profile.read_only_msrs:
            raise GuestFault(GP, 0)

    def use_tsc_aux(self) -> None:
        """Give the processor the guest's TSC_AUX: RDTSCP does not exit."""
        self._vm.backend.set_tsc_aux(self._values.get(MSR_TSC_AUX, 0))

    def _write_debug_control(self, value: int) -> None:
        """The guest records its branches in registers of its own, from the first time on that it wants to (15.23)."""
        block = self._vm.vcpu.block
        if value:
            block[vmcb.LBR_CONTROL] = 1
        block[vmcb.DBGCTL] = value

    def _write_efer(self, value: int) -> None:
        vm = self._vm
        technique = vm.technique
        allowed = vm.profile.efer_bits & ~EFER_SVME | vm.vcpu.nested.writable_efer
        new = efer_after(allowed, value, technique.efer, technique.cr0)
        if new is None:
            raise GuestFault(GP, 0)
        technique.set_efer(new & ~EFER_SVME)
        vm.vcpu.nested.set_svme(bool(value & EFER_SVME))
