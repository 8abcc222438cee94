"""Control registers and model-specific registers (APM vol. 2, 3.1, 3.2 and appendix A)."""

from __future__ import annotations

from abc import abstractmethod

from trapgate.arch import layout, vectors, vmcb
from trapgate.arch.paging import PDPTE_RESERVED
from trapgate.arch.registers import (
    CR0_CD,
    CR0_ET,
    CR0_NW,
    CR0_PE,
    CR0_PG,
    CR0_WP,
    CR0_WRITABLE,
    CR4_PAE,
    CR4_PGE,
    CR4_PSE,
    CS,
    EFER_LMA,
    EFER_LME,
    EFER_NXE,
    EFER_SVME,
    FS,
    GS,
)
from trapgate.arch.segments import ATTRIBUTE_L
from trapgate.cpu.core import is_canonical
from trapgate.cpu.delivery import Delivery
from trapgate.cpu.faults import Fault

# MSR numbers (APM vol. 2, appendix A)
MSR_TSC = 0x10
MSR_APIC_BASE = 0x1B
MSR_EFER = 0xC000_0080
MSR_STAR, MSR_LSTAR, MSR_CSTAR, MSR_SFMASK = 0xC000_0081, 0xC000_0082, 0xC000_0083, 0xC000_0084
MSR_FS_BASE, MSR_GS_BASE, MSR_KERNEL_GS_BASE, MSR_TSC_AUX = 0xC000_0100, 0xC000_0101, 0xC000_0102, 0xC000_0103
MSR_SYSENTER_CS, MSR_SYSENTER_ESP, MSR_SYSENTER_EIP = 0x174, 0x175, 0x176
MSR_PAT = 0x277

_CANONICAL = frozenset((MSR_LSTAR, MSR_CSTAR, MSR_FS_BASE, MSR_GS_BASE, MSR_KERNEL_GS_BASE))
_M64 = (1 << 64) - 1
# MTRRs (7.7), machine check banks (9.3), the hardware configuration register (family 10h BKDG, C001_0015h)
_MTRR_TYPES = frozenset((0, 1, 4, 5, 6))
_MTRR_DEFAULT, _MTRR_BASES = 0x2FF, frozenset(range(0x200, 0x210, 2))
_MTRR_FIXED = frozenset((0x250, 0x258, 0x259, *range(0x268, 0x270)))
_MC_STATUS = frozenset(range(0x401, 0x418, 4))
_MSR_HWCR, _HWCR_MC_STATUS_WRITE = 0xC001_0015, 1 << 18
#: Registers of the processor's own, and the feature or flag without which they are not there.
_OWN = {
    MSR_FS_BASE: "LM", MSR_GS_BASE: "LM", MSR_KERNEL_GS_BASE: "LM", MSR_TSC_AUX: "RDTSCP", MSR_TSC: "TSC",
    MSR_APIC_BASE: "APIC", MSR_PAT: "PAT", vmcb.MSR_VM_CR: "SVM", vmcb.MSR_VM_HSAVE_PA: "SVM",
}  # fmt: skip


class Control(Delivery):
    """CR0, CR3, CR4, EFER and the MSRs."""

    def check_cr0(self, value: int) -> int:
        """A value for CR0 with its fixed bits; #GP(0) where it may not be written (APM vol. 2, 3.1.1).

        A guest of AMD-V in paged real mode may stay there (15.19); nobody else gets PG without PE.
        """
        if value >> 32:
            raise Fault(vectors.GP, 0)
        value = value & CR0_WRITABLE | CR0_ET
        old, efer = self.cr0, self.efer
        unprotected = value & (CR0_PG | CR0_PE) == CR0_PG and old & (CR0_PG | CR0_PE) != CR0_PG
        if unprotected or (value & CR0_NW and not value & CR0_CD):
            raise Fault(vectors.GP, 0)
        if (old ^ value) & CR0_PG:
            if not value & CR0_PG:
                illegal = bool(efer & EFER_LMA) and self.bits == 64
            else:
                pae, code64 = self.cr4 & CR4_PAE, self.segments[CS].attributes & ATTRIBUTE_L
                illegal = bool(efer & EFER_LME) and (not pae or bool(code64))
            if illegal:
                raise Fault(vectors.GP, 0)
        return value

    def set_cr0(self, value: int) -> None:
        """MOV CR0 and LMSW (APM vol. 2, 3.1.1)."""
        value = self.check_cr0(value)
        old, efer, cr4 = self.cr0, self.efer, self.cr4
        if (old ^ value) & CR0_PG:
            if value & CR0_PG and efer & EFER_LME:
                efer |= EFER_LMA
            elif not value & CR0_PG:
                efer &= ~EFER_LMA
            elif cr4 & CR4_PAE:
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

    def check_cr3(self, value: int) -> None:
        """#GP(0) where CR3 may not have this value; the page-directory pointers are not looked at."""
        if self.long_mode and value >> 52:
            raise Fault(vectors.GP, 0)

    def set_cr3(self, value: int) -> None:
        """MOV CR3: global translations stay when CR4.PGE allows them (APM vol. 2, 5.5.1)."""
        self.check_cr3(value)
        if not self.long_mode:
            value &= 0xFFFF_FFFF
            if self.cr4 & CR4_PAE and self.cr0 & CR0_PG:
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
        if value & ~self.profile.cr4_bits or (self.long_mode and not value & CR4_PAE):
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
        if value & ~self.profile.efer_bits or (value & EFER_SVME and self.vm_cr & vmcb.VM_CR_SVMDIS):
            raise Fault(vectors.GP, 0)
        old = self.efer
        if (old ^ value) & EFER_LME and self.cr0 & CR0_PG:
            raise Fault(vectors.GP, 0)
        self.state.set(layout.EFER, value & ~EFER_LMA | old & EFER_LMA)
        if (old ^ value) & EFER_NXE:
            self.native_flush(self.state.address, 0)
        self.mode_changed()

    def flush_page(self, linear: int) -> None:
        """INVLPG."""
        self.native_flush_page(self.state.address, linear)
        self.refetch()

    # -- MSRs

    def _require_msr(self, number: int) -> None:
        """#GP(0) for a register that comes with a feature, where the profile lacks it."""
        flag = _OWN.get(number)
        if (flag is not None and flag not in self.profile.flags) or (number == MSR_EFER and not self.profile.efer_bits):
            raise Fault(vectors.GP, 0)

    def read_msr(self, number: int) -> int:
        """RDMSR; #GP(0) for a register that the processor does not have."""
        self._require_msr(number)
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
        if number == MSR_PAT or number in self.profile.msrs:
            return self.msrs.get(number, 0)
        if number in self.profile.constant_msrs:
            return self.msrs.get(number, self.profile.constant_msrs[number])
        raise Fault(vectors.GP, 0)

    def write_msr(self, number: int, value: int) -> None:
        """WRMSR; #GP(0) for a register that the processor does not have or a value that it does not take."""
        self._require_msr(number)
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
            if value & ~0x0000_FFFF_FFFF_F900:
                raise Fault(vectors.GP, 0)
            self.apic.apic_base = value
        elif number == vmcb.MSR_VM_CR:
            self._write_vm_cr(value)
        elif number == vmcb.MSR_VM_HSAVE_PA:
            if value & 0xFFF or value >> self.profile.physical_bits:
                raise Fault(vectors.GP, 0)
            self.hsave_pa = value
        elif number == MSR_PAT:
            if any(value >> 8 * i & 0xFF not in (0, 1, 4, 5, 6, 7) for i in range(8)):
                raise Fault(vectors.GP, 0)
            self.msrs[number] = value
        elif number in self.profile.msrs:
            if not self._msr_takes(number, value):
                raise Fault(vectors.GP, 0)
            self.msrs[number] = value & self.profile.msrs[number]
        elif number not in self.profile.constant_msrs or number in self.profile.read_only_msrs:
            raise Fault(vectors.GP, 0)

    def _write_vm_cr(self, value: int) -> None:
        """VM_CR (15.30.1): with LOCK set, LOCK and SVMDIS stay; SVMDIS cannot be set while EFER.SVME is."""
        known = vmcb.VM_CR_DPD | vmcb.VM_CR_R_INIT | vmcb.VM_CR_DIS_A20M | vmcb.VM_CR_LOCK | vmcb.VM_CR_SVMDIS
        if value & ~known or (value & vmcb.VM_CR_SVMDIS and self.efer & EFER_SVME):
            raise Fault(vectors.GP, 0)
        fixed = vmcb.VM_CR_LOCK | vmcb.VM_CR_SVMDIS if self.vm_cr & vmcb.VM_CR_LOCK else 0
        self.vm_cr = value & ~fixed | self.vm_cr & fixed

    def _msr_takes(self, number: int, value: int) -> bool:
        """Whether a value may be written: memory types of MTRRs (APM vol. 2, 7.7.1), MCi_STATUS (9.3.2.1)."""
        if number == _MTRR_DEFAULT or number in _MTRR_BASES:
            return value & 0xFF in _MTRR_TYPES
        if number in _MTRR_FIXED:
            return all(value >> 8 * i & 7 in _MTRR_TYPES for i in range(8))
        if number in _MC_STATUS:
            return value == 0 or bool(self.msrs.get(_MSR_HWCR, 0) & _HWCR_MC_STATUS_WRITE)
        return True

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
