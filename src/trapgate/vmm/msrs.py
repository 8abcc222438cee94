"""The MSRs that a guest reaches through exits: those of the profile, the TSC, the local APIC's base, EFER, PAT."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trapgate.arch import vmcb
from trapgate.arch.registers import EFER_LMA, EFER_LME, EFER_SVME
from trapgate.arch.vectors import GP
from trapgate.vmm.emulate import GuestFault

if TYPE_CHECKING:
    from trapgate.vmm.vm import VirtualMachine

TSC, APIC_BASE, PAT, EFER, TSC_AUX = 0x10, 0x1B, 0x277, 0xC000_0080, 0xC000_0103
_PAT_TYPES = frozenset((0, 1, 4, 5, 6, 7))
_M64 = (1 << 64) - 1


class VirtualMsrs:
    """What they hold. Both methods raise GuestFault (#GP) as RDMSR and WRMSR do."""

    def __init__(self, vm: VirtualMachine) -> None:
        self._vm = vm
        self._values = dict(vm.profile.reset_msrs)

    def read(self, number: int) -> int:
        """RDMSR."""
        vm = self._vm
        profile = vm.profile
        if number == EFER and profile.efer_bits:
            return vm.vcpu.efer | (EFER_SVME if vm.vcpu.nested.svme else 0)
        if number == TSC and "TSC" in profile.flags:
            return vm.backend.clock.now + vm.vcpu.block[vmcb.TSC_OFFSET] & _M64
        if number == APIC_BASE and "APIC" in profile.flags:
            return vm.board.lapic.apic_base
        if number == PAT and "PAT" in profile.flags:
            return vm.vcpu.block[vmcb.G_PAT]
        if number in profile.constant_msrs:
            return profile.constant_msrs[number]
        own = vm.vcpu.nested.read_msr(number)
        if own is not None:
            return own
        if self._is_plain(number):
            return self._values.get(number, 0)
        raise GuestFault(GP, 0)

    def _is_plain(self, number: int) -> bool:
        profile = self._vm.profile
        return number in profile.msrs or (number == TSC_AUX and "RDTSCP" in profile.flags)

    def write(self, number: int, value: int) -> None:
        """WRMSR."""
        vm = self._vm
        profile = vm.profile
        if number == EFER and profile.efer_bits:
            self._write_efer(value)
        elif number == TSC and "TSC" in profile.flags:
            vm.vcpu.block[vmcb.TSC_OFFSET] = value - vm.backend.clock.now + vm.vcpu.nested.tsc_ahead & _M64
        elif number == APIC_BASE and "APIC" in profile.flags:
            if value & ~0x0000_FFFF_FFFF_F900:
                raise GuestFault(GP, 0)
            vm.board.lapic.apic_base = value
        elif number == PAT and "PAT" in profile.flags:
            if any(value >> 8 * i & 0xFF not in _PAT_TYPES for i in range(8)):
                raise GuestFault(GP, 0)
            vm.vcpu.block[vmcb.G_PAT] = value
        elif vm.vcpu.nested.write_msr(number, value):
            pass
        elif self._is_plain(number):
            self._values[number] = value & profile.msrs.get(number, 0xFFFF_FFFF)
        elif number not in profile.constant_msrs or number in profile.read_only_msrs:
            raise GuestFault(GP, 0)

    def _write_efer(self, value: int) -> None:
        vm = self._vm
        technique = vm.technique
        allowed = vm.profile.efer_bits & ~EFER_SVME | vm.vcpu.nested.writable_efer
        old = technique.efer
        if value & ~allowed or ((old ^ value) & EFER_LME and technique.cr0 >> 31 & 1):
            raise GuestFault(GP, 0)
        technique.set_efer(value & ~(EFER_LMA | EFER_SVME) | old & EFER_LMA)
        vm.vcpu.nested.svme = bool(value & EFER_SVME)
