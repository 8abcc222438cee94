"""Shadow paging under AMD-V: the processor walks tables that follow the guest's own (vmm/shadow).

The guest's page faults, its accesses to CR3 and CR4, its writes to CR0 and its INVLPGs exit. Without paging of its own,
and in real mode, it runs on tables that map guest-physical memory as it is: paged real mode (APM vol. 2, 15.19).
"""

from __future__ import annotations

from array import array

from trapgate.arch import vectors, vmcb
from trapgate.arch.registers import (
    CR0_CD,
    CR0_NW,
    CR0_PG,
    CR0_WP,
    CR4_PAE,
    CR4_PGE,
    CR4_PSE,
    EFER_LMA,
    EFER_LME,
    EFER_NXE,
    EFER_SVME,
)
from trapgate.arch.vectors import GP, PF
from trapgate.vmm.asids import Loses
from trapgate.vmm.control_block import ControlBlock
from trapgate.vmm.emulate import GuestFault
from trapgate.vmm.shadow.mmu import ShadowMmu
from trapgate.vmm.shadow.outcomes import Guest
from trapgate.vmm.techniques.base import Technique

#: Bits of the guest's registers that the shadow tables decide about.
_CR0, _CR4, _EFER = CR0_PG | CR0_WP, CR4_PAE | CR4_PSE | CR4_PGE, EFER_NXE | EFER_LME | EFER_LMA
_MEGABYTE = 1 << 20


class Shadow(Technique):
    """Shadow page tables, everything flushed at each VMRUN."""

    name = "shadow"
    tagged = False

    def prepare(self, block: ControlBlock) -> None:
        vm = self.vm
        self._cr0 = self._cr3 = self._cr4 = self._efer = 0
        self.mmu = ShadowMmu(vm.memory, vm.profile)
        block.set_word(vmcb.INTERCEPT_EXCEPTIONS, block.word(vmcb.INTERCEPT_EXCEPTIONS) | 1 << vectors.PF)
        reads, writes = 1 << 0 | 1 << 3 | 1 << 4, 1 << 0 | 1 << 3 | 1 << 4
        block.set_word(vmcb.INTERCEPT_CR, block.word(vmcb.INTERCEPT_CR) | reads | writes << 16)
        block.intercept("invlpg")
        block.intercept("task_switch")  # it would load CR3

    @property
    def cr0(self) -> int:
        return self._cr0

    @property
    def cr3(self) -> int:
        return self._cr3

    @property
    def cr4(self) -> int:
        return self._cr4

    @property
    def efer(self) -> int:
        return self._efer

    def set_control_registers(self, cr0: int, cr3: int, cr4: int, efer: int) -> None:
        """Raises GuestFault (#GP) for reserved bits in the page-directory pointers; nothing has changed then."""
        if not self.mmu.set_mode(cr0, cr3, cr4, efer):
            raise GuestFault(GP, 0)
        self._cr0, self._cr3, self._cr4, self._efer = cr0, cr3, cr4, efer
        self._load()

    def _load(self) -> None:
        """Give the processor the guest's registers as the shadow tables want them."""
        block, hardware = self.vcpu.block, self.mmu.hardware
        cr0 = self._cr0 & ~(_CR0 | CR0_CD | CR0_NW) | hardware.cr0
        block[vmcb.CR0] = cr0
        block[vmcb.CR3] = hardware.cr3
        block[vmcb.CR4] = self._cr4 & ~_CR4 | hardware.cr4
        block[vmcb.EFER] = self._efer & ~_EFER | hardware.efer | EFER_SVME
        # Reads of CR0 exit only while the guest must not see what is there.
        word = block.word(vmcb.INTERCEPT_CR)
        block.set_word(vmcb.INTERCEPT_CR, word & ~1 | int(cr0 != self._cr0))

    def write_cr0(self, value: int, efer: int) -> None:
        self.set_control_registers(value, self._cr3, self._cr4, efer)

    def write_cr3(self, value: int) -> None:
        if not self.mmu.set_cr3(value):
            raise GuestFault(GP, 0)
        self._cr3 = value
        self.vcpu.block[vmcb.CR3] = self.mmu.hardware.cr3

    def write_cr4(self, value: int) -> None:
        self.set_control_registers(self._cr0, self._cr3, value, self._efer)

    def set_efer(self, value: int) -> None:
        self.set_control_registers(self._cr0, self._cr3, self._cr4, value)

    def invlpg(self, linear: int) -> None:
        self.mmu.invlpg(linear)

    def before_entry(self) -> None:
        flush = self.mmu.take_flush()
        if flush.everything:
            self.loses = Loses.EVERYTHING
        elif flush.not_global and self.loses is Loses.NOTHING:
            self.loses = Loses.NOT_GLOBAL
        if self.tagged and self.loses is not Loses.EVERYTHING:
            for linear in flush.addresses:
                self.vm.backend.invlpga(linear, self.vm.asid)
        super().before_entry()

    def translate(self, linear: int, access: int) -> int:
        result = self.mmu.translate(linear, access)
        if isinstance(result, Guest):
            raise GuestFault(PF, result.error_code, linear)
        return result

    def page_fault_error(self, error: int) -> int:
        """The processor's error code, as the guest's own level would have it."""
        return error

    def set_a20(self, enabled: bool) -> None:
        """With A20 forced low the second megabyte is the first one again; the ones above are left alone."""
        frames, pages = self.vm.memory.frames, _MEGABYTE >> 12
        if enabled == (self._second_megabyte is None):
            return
        if self._second_megabyte is None:
            self._second_megabyte = frames[pages : 2 * pages]
            frames[pages : 2 * pages] = frames[:pages]
        else:
            frames[pages : 2 * pages] = self._second_megabyte
            self._second_megabyte = None
        self._begin_again()

    def memory_changed(self, address: int, length: int) -> None:
        self._begin_again()

    def _begin_again(self) -> None:
        """Frames have changed: new shadow tables, empty ones."""
        counters = self.mmu.counters
        self.mmu.release()
        self.mmu = ShadowMmu(self.vm.memory, self.vm.profile, counters=counters)
        self.mmu.set_mode(self._cr0, self._cr3, self._cr4, self._efer)
        self._load()
        self.loses = Loses.EVERYTHING

    #: The frames that the second megabyte has while A20 is off.
    _second_megabyte: array[int] | None = None


class ShadowTagged(Shadow):
    """Shadow page tables and the tagged TLB."""

    name = "shadow-tagged"
    tagged = True
