"""What VMRUN checks before it enters a guest (APM vol. 2, 15.5.1 "Basic Operation", canonicalization and consistency).

Each check is named by what the manual lists; the first that fails is the reason that reports show. One statement for
the processor's VMRUN and for the one that the hypervisor carries out for a guest.
"""

from __future__ import annotations

from typing import Protocol

from trapgate.arch import vectors, vmcb
from trapgate.arch.msrs import pat_is_valid
from trapgate.arch.profiles.profile import CpuProfile
from trapgate.arch.registers import CR0_CD, CR0_NW, CR0_PE, CR0_PG, CR4_PAE, EFER_LME, EFER_SVME
from trapgate.arch.segments import ATTRIBUTE_DB, ATTRIBUTE_L


class ControlArea(Protocol):
    """What the checks look at in a control area."""

    @property
    def misc2(self) -> int:
        """The second instruction intercept word."""

    @property
    def asid(self) -> int: ...
    @property
    def iopm(self) -> int:
        """Physical address of the I/O permission map, as it stands in the VMCB."""

    @property
    def msrpm(self) -> int:
        """Of the MSR permission map."""

    @property
    def nested(self) -> bool:
        """Nested paging is asked for."""

    @property
    def n_cr3(self) -> int: ...
    @property
    def eventinj(self) -> int: ...


def control_fault(controls: ControlArea, profile: CpuProfile, host_pages: bool) -> str:
    """Why the control area is refused, or ''. `host_pages`: the host has paging on."""
    limit = 1 << profile.physical_bits
    if not controls.misc2 & vmcb.misc2("vmrun"):
        return "the VMRUN intercept bit is clear"
    if controls.asid == 0:
        return "ASID is 0"
    if controls.asid >= profile.svm_asids:
        return "ASID beyond what the processor has"
    if (controls.iopm & ~0xFFF) + vmcb.IOPM_SIZE > limit:
        return "the I/O permission map lies beyond the physical address space"
    if (controls.msrpm & ~0xFFF) + vmcb.MSRPM_SIZE > limit:
        return "the MSR permission map lies beyond the physical address space"
    if controls.nested:
        if not host_pages:
            return "nested paging while the host has paging off"
        if controls.n_cr3 & ~0xFFF & profile.reserved_address_bits or controls.n_cr3 >> 52:
            return "nCR3 has reserved bits set"
    return event_fault(controls.eventinj)


def event_fault(event: int) -> str:
    """Why EVENTINJ is refused, or '' (15.20)."""
    if not event & vmcb.EVENT_VALID:
        return ""
    kind, vector = event >> vmcb.EVENT_TYPE_SHIFT & 7, event & 0xFF
    if kind not in (vmcb.EVENT_INTR, vmcb.EVENT_NMI, vmcb.EVENT_EXCEPTION, vmcb.EVENT_SOFTWARE):
        return "an injected event of a reserved type"
    if kind == vmcb.EVENT_EXCEPTION and (vector == vectors.NMI or vector > 31):
        return "an injected exception whose vector is none"
    return ""


def impossible_event(event: int, code64: bool) -> str:
    """Why EVENTINJ is refused in the guest's mode, or '' (15.20): BOUND and INTO are not there in 64-bit code."""
    kind, vector = event >> vmcb.EVENT_TYPE_SHIFT & 7, event & 0xFF
    if event & vmcb.EVENT_VALID and kind == vmcb.EVENT_EXCEPTION and code64 and vector in (vectors.BR, vectors.OF):
        return "an injected exception that 64-bit code cannot raise"
    return ""


def state_fault(
    profile: CpuProfile, cr0: int, cr3: int, cr4: int, efer: int, dr6: int, dr7: int, code_attributes: int
) -> str:
    """Why the guest's state is refused, or ''."""
    if not efer & EFER_SVME:
        return "EFER.SVME is clear"
    if efer & ~profile.efer_bits:
        return "EFER has reserved bits set"
    if cr0 & CR0_NW and not cr0 & CR0_CD:
        return "CR0.NW is set and CR0.CD clear"
    if cr0 >> 32:
        return "CR0[63:32] are not zero"
    if cr4 & ~profile.cr4_bits:
        return "CR4 has reserved bits set"
    if dr6 >> 32 or dr7 >> 32:
        return "DR6[63:32] or DR7[63:32] are not zero"
    if efer & EFER_LME and cr0 & CR0_PG:
        if not cr4 & CR4_PAE:
            return "long mode without CR4.PAE"
        if not cr0 & CR0_PE:
            return "long mode without CR0.PE"
        if code_attributes & ATTRIBUTE_L and code_attributes & ATTRIBUTE_DB:
            return "long mode with CS.L and CS.D both set"
        if cr3 >> 52 or cr3 & ~0xFFF & profile.reserved_address_bits:
            return "CR3 has reserved bits set"
    return ""


def pat_fault(pat: int) -> str:
    """Why G_PAT is refused under nested paging, or '' (15.25.4)."""
    return "" if pat_is_valid(pat) else "G_PAT has a reserved memory type"
