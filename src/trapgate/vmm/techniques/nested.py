"""Nested paging (APM vol. 2, 15.25): the guest's page tables are its own, the processor walks both.

Nothing of the guest's paging exits. An access to a guest-physical address without memory raises a nested page fault.
"""

from __future__ import annotations

from trapgate.arch import vmcb
from trapgate.arch.cpuid import CpuProfile
from trapgate.arch.registers import CR0_PG, EFER_LMA, EFER_LME, EFER_SVME
from trapgate.arch.vectors import PF
from trapgate.vmm.asids import Loses
from trapgate.vmm.control_block import ControlBlock
from trapgate.vmm.emulate import GuestFault
from trapgate.vmm.memory.nested import NestedTables
from trapgate.vmm.shadow.walk import FOUND, PAE, GuestMode, GuestWalker
from trapgate.vmm.techniques.base import Technique

_MEGABYTE = 1 << 20


class Nested(Technique):
    """Nested page tables, everything flushed at each VMRUN."""

    name = "nested"
    tagged = False
    offers_svm = True

    @classmethod
    def missing(cls, profile: CpuProfile) -> str:
        return super().missing(profile) or ("" if "NP" in profile.svm_features else "nested paging")

    def prepare(self, block: ControlBlock) -> None:
        vm = self.vm
        self.tables = NestedTables(vm.memory)
        self._walker = GuestWalker(vm.memory, vm.profile)
        block[vmcb.NESTED_CONTROL] = 1
        block[vmcb.N_CR3] = self.tables.root

    @property
    def cr0(self) -> int:
        return self.vcpu.block[vmcb.CR0]

    @property
    def cr3(self) -> int:
        return self.vcpu.block[vmcb.CR3]

    @property
    def cr4(self) -> int:
        return self.vcpu.block[vmcb.CR4]

    @property
    def efer(self) -> int:
        return self.vcpu.block[vmcb.EFER] & ~EFER_SVME

    def set_control_registers(self, cr0: int, cr3: int, cr4: int, efer: int) -> None:
        block = self.vcpu.block
        block[vmcb.CR0], block[vmcb.CR3], block[vmcb.CR4], block[vmcb.EFER] = cr0, cr3, cr4, efer | EFER_SVME

    def set_efer(self, value: int) -> None:
        lma = EFER_LMA if value & EFER_LME and self.cr0 & CR0_PG else 0
        self.vcpu.block[vmcb.EFER] = value & ~EFER_LMA | lma | EFER_SVME
        self.loses = Loses.EVERYTHING

    def host_page(self, address: int) -> int | None:
        found = self.tables.translate(address)
        return None if found is None else found[0]

    def translate(self, linear: int, access: int) -> int:
        nested = self.vcpu.nested
        if nested.two_stages:
            return nested.translate(linear, access)
        walker = self._walker
        walker.mode = GuestMode(self.vm.profile, self.cr0, self.cr4, self.efer)
        walker.cr3 = self.cr3
        if walker.mode.format == PAE:
            # Read on each walk under nested paging (15.25.10).
            walker.pdptes = walker.read_pdptes(walker.cr3) or (0, 0, 0, 0)
        error = walker.walk(linear, access)
        if error != FOUND:
            raise GuestFault(PF, error, linear)
        return walker.physical

    def memory_changed(self, address: int, length: int) -> None:
        self.tables.follow(address, length)
        self.loses = Loses.EVERYTHING

    def set_a20(self, enabled: bool) -> None:
        """With A20 forced low the second megabyte is the first one again; the ones above are left alone."""
        for address in range(_MEGABYTE, 2 * _MEGABYTE, 4096):
            self.tables.map(address, target=address if enabled else address - _MEGABYTE)
        self.loses = Loses.EVERYTHING


class NestedTagged(Nested):
    """Nested page tables and the tagged TLB."""

    name = "nested-tagged"
    tagged = True
