"""Control registers and model-specific registers (APM vol. 2, 3.1, 3.2 and appendix A)."""

from __future__ import annotations

from abc import abstractmethod

from trapgate.arch import layout, vectors, vmcb
from trapgate.arch.control_rules import cr0_after, cr3_after, efer_after, efer_with_lma, takes_cr4
from trapgate.arch.msrs import (
    MSR_APIC_BASE,
    MSR_CSTAR,
    MSR_EFER,
    MSR_FS_BASE,
    MSR_GS_BASE,
    MSR_HWCR,
    MSR_KERNEL_GS_BASE,
    MSR_LSTAR,
    MSR_PAT,
    MSR_TSC,
    MSR_TSC_AUX,
    after_svm_key,
    held,
    is_missing,
    takes,
    vm_cr_after,
)
from trapgate.arch.paging import PDPTE_RESERVED
from trapgate.arch.registers import (
    CR0_PE,
    CR0_PG,
    CR0_WP,
    CR4_PAE,
    CR4_PGE,
    CR4_PSE,
    CS,
    EFER_LMA,
    EFER_NXE,
    EFER_SVME,
    FS,
    GS,
)
from trapgate.cpu.core import is_canonical
from trapgate.cpu.delivery import Delivery
from trapgate.cpu.faults import Fault

_CANONICAL = frozenset((MSR_LSTAR, MSR_CSTAR, MSR_FS_BASE, MSR_GS_BASE, MSR_KERNEL_GS_BASE))


class Control(Delivery):
    """CR0, CR3, CR4, EFER and the MSRs."""

    def check_cr0(self, value: int) -> int:
        """A value for CR0 with its fixed bits; #GP(0) where it may not be written (APM vol. 2, 3.1.1)."""
        result = cr0_after(value, self.cr0, self.cr4, self.efer, self.segments[CS].attributes)
        if result is None:
            raise Fault(vectors.GP, 0)
        return result

    def set_cr0(self, value: int) -> None:
        """MOV CR0 and LMSW (APM vol. 2, 3.1.1)."""
        value = self.check_cr0(value)
        old, efer = self.cr0, efer_with_lma(self.efer, value)
        if value & ~old & CR0_PG and self.cr4 & CR4_PAE and not efer & EFER_LMA:
            self.load_pdptes(self.cr3)
        if (old ^ value) & CR0_PE:
            self.cpl = 0
        self.state.set(layout.CR0, value)
        self.state.set(layout.EFER, efer)
        if (old ^ value) & (CR0_PG | CR0_WP | CR0_PE):
            # APM vol. 2, 5.5.2: changing PG flushes. The fast tables also depend on WP.
            if (old ^ value) & CR0_PG:
                self.native_flush(self.state.address, 0)
            self.native_reset_fast(self.state.address)
        self.mode_changed()

    def check_cr3(self, value: int) -> int:
        """A value for CR3; #GP(0) where it may not be written. The page-directory pointers are not looked at."""
        result = cr3_after(value, self.efer)
        if result is None:
            raise Fault(vectors.GP, 0)
        return result

    def set_cr3(self, value: int) -> None:
        """MOV CR3: global translations stay when CR4.PGE allows them (APM vol. 2, 5.5.1)."""
        value = self.check_cr3(value)
        if self.cr4 & CR4_PAE and self.cr0 & CR0_PG and not self.long_mode:
            self.load_pdptes(value)
        self.state.set(layout.CR3, value)
        self.native_flush(self.state.address, 1)
        self.refetch()

    def load_pdptes(self, cr3: int) -> None:
        """The four page-directory pointers of PAE paging (APM vol. 2, 5.2.3); #GP(0) for reserved bits.

        Under nested paging each walk reads them instead (15.25.10).
        """
        if self.state.get(layout.NESTED):
            return
        entries = []
        for i in range(4):
            entry = self.read_physical((cr3 & 0xFFFF_FFE0) + 8 * i, 8)
            reserved = self.state.get(layout.RESERVED_BITS) | PDPTE_RESERVED
            if entry & 1 and entry & reserved:
                raise Fault(vectors.GP, 0)
            entries.append(entry)
        for i, entry in enumerate(entries):
            self.state.set(layout.PDPTE + 8 * i, entry)

    def check_cr4(self, value: int) -> None:
        """#GP(0) where CR4 may not have this value (APM vol. 2, 3.1.3); PAE's pointers are not looked at."""
        if not takes_cr4(self.profile, value, self.efer):
            raise Fault(vectors.GP, 0)

    def set_cr4(self, value: int) -> None:
        """MOV CR4 (APM vol. 2, 3.1.3)."""
        self.check_cr4(value)
        old = self.cr4
        if value & CR4_PAE and not old & CR4_PAE and self.cr0 & CR0_PG and not self.long_mode:
            self.load_pdptes(self.cr3)
        self.state.set(layout.CR4, value)
        if (old ^ value) & (CR4_PAE | CR4_PSE | CR4_PGE):
            self.native_flush(self.state.address, 0)
        self.mode_changed()

    def set_efer(self, value: int) -> None:
        """WRMSR to EFER (APM vol. 2, 3.1.7)."""
        old = self.efer
        disabled = EFER_SVME if self.vm_cr & vmcb.VM_CR_SVMDIS else 0
        new = efer_after(self.profile.efer_bits & ~disabled, value, old, self.cr0)
        if new is None:
            raise Fault(vectors.GP, 0)
        self.state.set(layout.EFER, new)
        if (old ^ value) & EFER_NXE:
            self.native_flush(self.state.address, 0)
        self.mode_changed()

    def flush_page(self, linear: int) -> None:
        """INVLPG."""
        self.native_flush_page(self.state.address, linear)
        self.refetch()

    # -- MSRs

    def read_msr(self, number: int) -> int:
        """RDMSR; #GP(0) for a register that the processor does not have."""
        if is_missing(self.profile, number):
            raise Fault(vectors.GP, 0)
        if number == MSR_FS_BASE:
            return self.segments[FS].base
        if number == MSR_GS_BASE:
            return self.segments[GS].base
        if number == MSR_KERNEL_GS_BASE:
            return self.state.get(layout.KERNEL_GS_BASE)
        if number == MSR_TSC_AUX:
            return self.state.get(layout.TSC_AUX)
        if number == MSR_EFER:
            return self.efer
        if number == MSR_TSC:
            return self.time_stamp()
        if number == MSR_APIC_BASE and self.apic is not None:
            return self.apic.apic_base
        if number == vmcb.MSR_VM_CR:
            return self.vm_cr
        if number == vmcb.MSR_VM_HSAVE_PA:
            return self.hsave_pa
        if number == vmcb.MSR_IGNNE:
            return int(self.ignne)
        if number == vmcb.MSR_SVM_KEY:
            return 0  # it can be written only (assumed: RDMSR gives 0; SMM_CTL raises #GP)
        if number == MSR_PAT or number in self.profile.msrs:
            return self.msrs.get(number, 0)
        if number in self.profile.constant_msrs:
            return self.msrs.get(number, self.profile.constant_msrs[number])
        raise Fault(vectors.GP, 0)

    def write_msr(self, number: int, value: int) -> None:
        """WRMSR; #GP(0) for a register that the processor does not have or a value that it does not take."""
        hwcr = self.msrs.get(MSR_HWCR, 0)
        if is_missing(self.profile, number) or not takes(self.profile, number, value, hwcr):
            raise Fault(vectors.GP, 0)
        if number in _CANONICAL and not is_canonical(value):
            raise Fault(vectors.GP, 0)
        if number == MSR_FS_BASE:
            self.segments[FS].base = value
        elif number == MSR_GS_BASE:
            self.segments[GS].base = value
        elif number == MSR_KERNEL_GS_BASE:
            self.state.set(layout.KERNEL_GS_BASE, value)
        elif number == MSR_TSC_AUX:
            self.state.set(layout.TSC_AUX, value & 0xFFFF_FFFF)
        elif number == MSR_EFER:
            self.set_efer(value)
        elif number == MSR_TSC:
            self.set_time_stamp(value)
        elif number == MSR_APIC_BASE and self.apic is not None:
            self.apic.apic_base = value
        elif number in vmcb.SVM_MSRS:
            self._write_svm_msr(number, value)
        elif number == MSR_PAT:
            self.msrs[number] = value
        elif number in self.profile.msrs:
            self.msrs[number] = held(self.profile, number, value, self.msrs.get(number, 0))
        elif number not in self.profile.constant_msrs or number in self.profile.read_only_msrs:
            raise Fault(vectors.GP, 0)

    def _write_svm_msr(self, number: int, value: int) -> None:
        """VM_CR, IGNNE, SMM_CTL, VM_HSAVE_PA and SVM_KEY (15.30)."""
        if number == vmcb.MSR_VM_HSAVE_PA:
            self.hsave_pa = value
        elif number == vmcb.MSR_SVM_KEY:
            self.vm_cr, self.svm_key = after_svm_key(self.vm_cr, self.svm_key, value)
        elif number == vmcb.MSR_VM_CR:
            vm_cr = vm_cr_after(self.vm_cr, value, bool(self.efer & EFER_SVME))
            if vm_cr is None:
                raise Fault(vectors.GP, 0)
            self.vm_cr = vm_cr
        elif number == vmcb.MSR_IGNNE:
            self.drive_ignne(bool(value))
        else:
            self.control_smm(value)

    #: The processor's internal IGNNE#.
    ignne = False

    @abstractmethod
    def drive_ignne(self, level: bool) -> None:
        """Set the internal IGNNE#."""

    @abstractmethod
    def control_smm(self, value: int) -> None:
        """Do what a write of SMM_CTL asks for."""

    @abstractmethod
    def time_stamp(self) -> int:
        """The TSC now; the engine knows."""

    @abstractmethod
    def set_time_stamp(self, value: int) -> None:
        """Write the TSC."""

    # -- ports and the local APIC

    def check_io(self, port: int, size: int) -> None:
        """#GP(0) unless CPL <= IOPL or the TSS's I/O bitmap allows the ports (APM vol. 2, 12.2.4)."""
        if self.mode().decode.io_allowed:
            return
        tr = self.tr
        if tr.attributes & 0xF not in (9, 11) or tr.limit < 103:
            raise Fault(vectors.GP, 0)
        bitmap = self.read_system(tr.base + 102, 2)
        place = bitmap + port // 8
        if place + 1 > tr.limit:
            raise Fault(vectors.GP, 0)
        bits = self.read_system(tr.base + place, 2) >> (port & 7)
        if bits & ((1 << size) - 1):
            raise Fault(vectors.GP, 0)

    def read_port(self, port: int, size: int) -> int:
        """IN."""
        return self.bus.read_port(port, size)

    def write_port(self, port: int, size: int, value: int) -> None:
        """OUT."""
        self.bus.write_port(port, size, value)

    def read_tpr(self) -> int:
        """CR8."""
        return self.apic.read_cr8() if self.apic is not None else 0

    def write_tpr(self, value: int) -> None:
        """CR8."""
        if value >> 4:
            raise Fault(vectors.GP, 0)
        if self.apic is not None:
            self.apic.write_cr8(value)
