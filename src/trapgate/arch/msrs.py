"""Model-specific registers: numbers, which of them a profile has, and which values they take (APM vol. 2, appendix A).

One statement for the processor and for the hypervisor, whose guests' MSRs exit. What is refused raises #GP(0).
"""

from __future__ import annotations

from trapgate.arch import vmcb
from trapgate.arch.profiles.profile import CpuProfile

MSR_TSC = 0x10
MSR_APIC_BASE = 0x1B
MSR_EFER = 0xC000_0080
MSR_STAR, MSR_LSTAR, MSR_CSTAR, MSR_SFMASK = 0xC000_0081, 0xC000_0082, 0xC000_0083, 0xC000_0084
MSR_FS_BASE, MSR_GS_BASE, MSR_KERNEL_GS_BASE, MSR_TSC_AUX = 0xC000_0100, 0xC000_0101, 0xC000_0102, 0xC000_0103
MSR_SYSENTER_CS, MSR_SYSENTER_ESP, MSR_SYSENTER_EIP = 0x174, 0x175, 0x176
MSR_PAT = 0x277
#: The hardware configuration register (family 10h BKDG, C001_0015h).
MSR_HWCR = 0xC001_0015
HWCR_SMMLOCK, HWCR_IGNNE_EM, HWCR_MC_STATUS_WRITE = 1 << 0, 1 << 8, 1 << 18

#: Registers of the processor's own, and the feature or flag without which they are not there.
_OWN = {
    MSR_FS_BASE: "LM", MSR_GS_BASE: "LM", MSR_KERNEL_GS_BASE: "LM", MSR_TSC_AUX: "RDTSCP", MSR_TSC: "TSC",
    MSR_APIC_BASE: "APIC", MSR_PAT: "PAT", vmcb.MSR_VM_CR: "SVM", vmcb.MSR_IGNNE: "SVM", vmcb.MSR_SMM_CTL: "SVM",
    vmcb.MSR_VM_HSAVE_PA: "SVM", vmcb.MSR_SVM_KEY: "SVM",
}  # fmt: skip
_APIC_BASE_BITS = 0x0000_FFFF_FFFF_F900
_PAT_TYPES, _MTRR_TYPES = frozenset((0, 1, 4, 5, 6, 7)), frozenset((0, 1, 4, 5, 6))
_MTRR_DEFAULT, _MTRR_BASES = 0x2FF, frozenset(range(0x200, 0x210, 2))
_MTRR_FIXED = frozenset((0x250, 0x258, 0x259, *range(0x268, 0x270)))
_MC_STATUS = frozenset(range(0x401, 0x418, 4))
_VM_CR = vmcb.VM_CR_DPD | vmcb.VM_CR_R_INIT | vmcb.VM_CR_DIS_A20M | vmcb.VM_CR_LOCK | vmcb.VM_CR_SVMDIS
_VM_CR_LOCKED = vmcb.VM_CR_LOCK | vmcb.VM_CR_SVMDIS


def is_missing(profile: CpuProfile, number: int) -> bool:
    """Whether a register comes with a feature that the profile lacks."""
    if number == MSR_EFER:
        return not profile.efer_bits
    if number == vmcb.MSR_SVM_KEY and "SVM_LOCK" not in profile.svm_features:
        return True
    flag = _OWN.get(number)
    return flag is not None and flag not in profile.flags


def takes(profile: CpuProfile, number: int, value: int, hwcr: int) -> bool:
    """Whether a register that holds what is written takes a value; `hwcr` is the present HWCR.

    PAT's memory types (7.8.2), the MTRRs' (7.7.1), MCi_STATUS (9.3.2.1), APIC_BASE (16.3.1), and those of 15.30.
    """
    if number == MSR_PAT:
        return pat_is_valid(value)
    if number == MSR_APIC_BASE:
        return not value & ~_APIC_BASE_BITS
    if number == vmcb.MSR_VM_HSAVE_PA:
        return not (value & 0xFFF or value >> profile.physical_bits)
    if number == vmcb.MSR_IGNNE:
        return value >> 1 == 0
    if number == vmcb.MSR_SMM_CTL:
        return not (value & ~vmcb.SMM_CTL_BITS or hwcr & HWCR_SMMLOCK)
    if number == _MTRR_DEFAULT or number in _MTRR_BASES:
        return value & 0xFF in _MTRR_TYPES
    if number in _MTRR_FIXED:
        return all(value >> 8 * i & 7 in _MTRR_TYPES for i in range(8))
    if number in _MC_STATUS:
        return value == 0 or bool(hwcr & HWCR_MC_STATUS_WRITE)
    return True


def pat_is_valid(value: int) -> bool:
    """Whether all eight entries are memory types (7.8.2)."""
    return all(value >> 8 * i & 0xFF in _PAT_TYPES for i in range(8))


def held(profile: CpuProfile, number: int, value: int, old: int) -> int:
    """What a plain register holds after a write: the profile's bits. HWCR.SMMLOCK stays set until RESET#."""
    value &= profile.msrs[number]
    return value | old & HWCR_SMMLOCK if number == MSR_HWCR else value


def vm_cr_after(old: int, value: int, svme: bool) -> int | None:
    """VM_CR after `value` is written, None: it does not take it (15.30.1).

    With LOCK set, LOCK and SVMDIS stay; SVMDIS cannot be set while EFER.SVME is.
    """
    if value & ~_VM_CR or (value & vmcb.VM_CR_SVMDIS and svme):
        return None
    fixed = _VM_CR_LOCKED if old & vmcb.VM_CR_LOCK else 0
    return value & ~fixed | old & fixed


def after_svm_key(vm_cr: int, key: int, value: int) -> tuple[int, int]:
    """VM_CR and the key after `value` is written to SVM_KEY (15.30.5).

    While LOCK is clear the write sets the key; while it is set, the key that is not 0 opens it.
    """
    if not vm_cr & vmcb.VM_CR_LOCK:
        return vm_cr, value
    return (vm_cr & ~vmcb.VM_CR_LOCK if key and value == key else vm_cr), key
