"""What VMRUN refuses in L1's VMCB (APM vol. 2, 15.5.1 "Canonicalization and Consistency Checks")."""

from __future__ import annotations

from trapgate.arch import vmcb
from trapgate.arch.cpuid import CpuProfile
from trapgate.arch.registers import CR0_CD, CR0_NW, CR0_PE, CR0_PG, CR4_PAE, EFER_LME, EFER_SVME
from trapgate.arch.segments import ATTRIBUTE_DB, ATTRIBUTE_L
from trapgate.vmm.nested_svm.block import Vmcb12

_NMI = 2
#: Memory types that a PAT entry may have (7.8.2).
_PAT_TYPES = frozenset((0, 1, 4, 5, 6, 7))


def is_refused(block: Vmcb12, profile: CpuProfile, l1_pages: bool) -> bool:
    """Whether VMRUN ends with VMEXIT_INVALID. `l1_pages`: L1 has paging on."""
    return (
        _controls_refused(block, profile, l1_pages)
        or _event_refused(block.eventinj)
        or _state_refused(block, profile)
        or (block.paging and any(block.word64(vmcb.G_PAT) >> 8 * i & 0xFF not in _PAT_TYPES for i in range(8)))
    )


def _controls_refused(block: Vmcb12, profile: CpuProfile, l1_pages: bool) -> bool:
    limit = 1 << profile.physical_bits
    beyond = profile.reserved_address_bits
    return (
        not block.misc2 & vmcb.misc2("vmrun")
        or not 0 < block.asid < profile.svm_asids
        or block.iopm + vmcb.IOPM_SIZE > limit
        or block.msrpm + vmcb.MSRPM_SIZE > limit
        or (block.paging and (not l1_pages or bool(block.n_cr3 & ~0xFFF & beyond) or block.n_cr3 >> 52 != 0))
    )


def _event_refused(event: int) -> bool:
    """15.20: a reserved type, or an exception whose vector is none."""
    if not event & vmcb.EVENT_VALID:
        return False
    kind, vector = event >> vmcb.EVENT_TYPE_SHIFT & 7, event & 0xFF
    if kind == vmcb.EVENT_EXCEPTION:
        return vector == _NMI or vector > 31
    return kind not in (vmcb.EVENT_INTR, vmcb.EVENT_NMI, vmcb.EVENT_SOFTWARE)


def _state_refused(block: Vmcb12, profile: CpuProfile) -> bool:
    efer, cr0, cr4 = block.word64(vmcb.EFER), block.word64(vmcb.CR0), block.word64(vmcb.CR4)
    if (
        not efer & EFER_SVME
        or efer & ~profile.efer_bits
        or (cr0 & CR0_NW and not cr0 & CR0_CD)
        or cr0 >> 32
        or cr4 & ~profile.cr4_bits
        or block.word64(vmcb.DR6) >> 32
        or block.word64(vmcb.DR7) >> 32
    ):
        return True
    if not (efer & EFER_LME and cr0 & CR0_PG):
        return False
    attributes, cr3 = block.word64(vmcb.CS) >> 16 & 0xFFFF, block.word64(vmcb.CR3)
    return (
        not cr4 & CR4_PAE
        or not cr0 & CR0_PE
        or bool(attributes & ATTRIBUTE_L and attributes & ATTRIBUTE_DB)
        or cr3 >> 52 != 0
        or bool(cr3 & ~0xFFF & profile.reserved_address_bits)
    )
