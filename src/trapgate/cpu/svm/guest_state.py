"""The state that VMRUN loads and #VMEXIT saves, and what VMLOAD and VMSAVE move besides (APM vol. 2, 15.5 and 15.6)."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from trapgate.arch import layout, vmcb
from trapgate.arch.registers import (
    AC,
    CR0_ET,
    CR0_PE,
    CR0_PG,
    CR0_WRITABLE,
    CR4_PAE,
    CS,
    DS,
    EFER_LMA,
    EFER_LME,
    ES,
    FS,
    GS,
    IOPL,
    MSR_DEBUG_CTL,
    MSR_LAST_BRANCH_FROM,
    MSR_LAST_BRANCH_TO,
    MSR_LAST_EXCEPTION_FROM,
    MSR_LAST_EXCEPTION_TO,
    SS,
    VM,
)
from trapgate.arch.segments import ATTRIBUTE_L
from trapgate.arch.vmrun_checks import impossible_event, pat_fault, state_fault
from trapgate.cpu.faults import Fault, TripleFault
from trapgate.cpu.svm.world_switch import SAME_STATE

if TYPE_CHECKING:
    from trapgate.cpu.svm.guest_mode import GuestMode

_SEGMENTS = struct.Struct("<8Q")
_CONTROL = struct.Struct("<7Q")
_QWORD = struct.Struct("<Q")
# Words of the state block.
_WORLD_VMCB, _RIP = layout.WORLD_VMCB >> 3, layout.RIP >> 3
_WORLD_DR6, _WORLD_DR7, _WORLD_PAT = layout.WORLD_DR6 >> 3, layout.WORLD_DR7 >> 3, layout.WORLD_PAT >> 3
_CR0, _CR4, _EFER = layout.CR0 >> 3, layout.CR4 >> 3, layout.EFER >> 3
_MSR_PAT = 0x277
#: As they lie in the VMCB.
_LBR_MSRS = (
    MSR_DEBUG_CTL, MSR_LAST_BRANCH_FROM, MSR_LAST_BRANCH_TO, MSR_LAST_EXCEPTION_FROM, MSR_LAST_EXCEPTION_TO,
)  # fmt: skip
_LBR = struct.Struct("<5Q")
#: MSRs that VMLOAD and VMSAVE move, in the VMCB's order from STAR and from SYSENTER_CS on.
_STAR_TO_SFMASK = (0xC000_0081, 0xC000_0082, 0xC000_0083, 0xC000_0084)
_SYSENTER = (0x174, 0x175, 0x176)


class Host:
    """What plain Python keeps of the host while its guest runs; the rest is in the state block (world_switch.py).

    The processor keeps all of it on chip rather than at VM_HSAVE_PA, as the manual allows (15.30.4).
    """

    __slots__ = ("mode", "pat", "rip", "segments")

    def __init__(self, p: GuestMode) -> None:
        """`rip` is already that of the instruction after VMRUN."""
        self.segments, self.rip = p.segments, p.rip
        self.pat = p.msrs.get(_MSR_PAT, 0)
        # Breakpoints are part of a mode, and off after #VMEXIT.
        self.mode = None if p.dr[7] & 0xFF else p.keep_mode()


def _segment_words(p: GuestMode) -> list[int]:
    """ES, CS, SS and DS as eight words of the VMCB."""
    words: list[int] = []
    for segment in p.segments[:4]:
        words.append(segment.selector | segment.attributes << 16 | segment.limit << 32)
        words.append(segment.base)
    return words


def load_guest(p: GuestMode, place: int, same: int) -> str:
    """Load the guest's state from the VMCB at host-physical `place`; why it is refused, or ''.

    `same` is what `world_enter` has said. When the state is refused nothing has changed.
    """
    ram, q, controls = p.ram, p.q, p.controls
    words = p.ram_words
    at = place >> 3
    if same & SAME_STATE and p.stored_segments == p.state.segment_writes:
        refused = impossible_event(controls.eventinj, p.bits == 64) or _pdptes_refused(
            p, q[layout.CR0 >> 3], q[layout.CR3 >> 3], q[layout.CR4 >> 3], q[layout.EFER >> 3]
        )
        if not refused and controls.nested:
            pat = words[at + (vmcb.G_PAT >> 3)]
            if pat != p.msrs.get(_MSR_PAT):
                refused = pat_fault(pat)
        moved = 0
    else:
        moved = not p.python_host or (words[at + (vmcb.RFLAGS >> 3)] ^ q[layout.SYSTEM_FLAGS >> 3]) & (VM | IOPL | AC)
        refused = _load_all(p, place)
    if refused:
        return refused
    if controls.nested:
        p.msrs[_MSR_PAT] = words[at + (vmcb.G_PAT >> 3)]
    p.native_world_load(p.state.address)
    q[layout.WORLD_STATE_OF >> 3] = 0
    if not q[layout.CR0 >> 3] & CR0_PE or q[layout.EFER >> 3] & EFER_LMA:
        # Virtual-8086 mode is legacy protected mode's; elsewhere the bit means nothing (assumed).
        q[layout.SYSTEM_FLAGS >> 3] &= ~VM
    if moved:
        p.mode_changed()
    if controls.lbr_virtualization:
        p.host_lbr = tuple(p.read_msr(number) for number in _LBR_MSRS)
        _set_lbr(p, _LBR.unpack_from(ram, place + vmcb.DBGCTL))
    p.rip = q[layout.RIP >> 3]
    p.redirected = True
    return ""


def _pdptes_refused(p: GuestMode, cr0: int, cr3: int, cr4: int, efer: int) -> str:
    """VMRUN loads the page-directory pointers of PAE paging, changed or not. Why they are refused, or ''."""
    if cr0 & CR0_PG and cr4 & CR4_PAE and not efer & EFER_LMA and not p.controls.nested:
        try:
            p.load_pdptes(cr3)
        except Fault:
            return "the page-directory pointers have reserved bits set"
    return ""


def _load_all(p: GuestMode, place: int) -> str:
    """Segments, control and debug registers, after the checks; why they are refused, or ''."""
    ram, q = p.ram, p.q
    words = _SEGMENTS.unpack_from(ram, place + vmcb.ES)
    cr4, cr3, cr0, dr7, dr6, rflags, _ = _CONTROL.unpack_from(ram, place + vmcb.CR4)
    efer = _QWORD.unpack_from(ram, place + vmcb.EFER)[0]
    refused = state_fault(p.profile, cr0, cr3, cr4, efer, dr6, dr7, words[2] >> 16 & 0xFFFF)
    controls = p.controls
    if controls.nested:
        refused = refused or pat_fault(_QWORD.unpack_from(ram, place + vmcb.G_PAT)[0])
    if refused:
        return refused
    cr0 = cr0 & CR0_WRITABLE | CR0_ET
    efer = efer & ~EFER_LMA | (EFER_LMA if efer & EFER_LME and cr0 & CR0_PG else 0)
    refused = impossible_event(controls.eventinj, bool(efer & EFER_LMA and words[2] >> 16 & ATTRIBUTE_L))
    if refused:
        return refused
    refused = _pdptes_refused(p, cr0, cr3, cr4, efer)
    if refused:
        return refused
    if not p.python_host:
        p.segments = p.guest_segments
    changed = not p.python_host or list(words) != _segment_words(p)
    if changed:
        for number in (ES, CS, SS, DS):
            word = words[2 * number]
            p.segments[number].load(word & 0xFFFF, canonical(words[2 * number + 1]), word >> 32, word >> 16 & 0xFFF)
        q[layout.CODE_DESCRIPTOR >> 3] = q[layout.STACK_DESCRIPTOR >> 3] = (1 << 64) - 1
    old = q[layout.CR0 >> 3], q[layout.CR4 >> 3], q[layout.EFER >> 3], p.cpl, q[layout.SYSTEM_FLAGS >> 3] & VM
    q[layout.CR0 >> 3], q[layout.CR3 >> 3], q[layout.CR4 >> 3], q[layout.EFER >> 3] = cr0, cr3, cr4, efer
    # Virtual-8086 mode is legacy protected mode's; elsewhere the bit means nothing (assumed).
    p.rflags = rflags if cr0 & CR0_PE and not efer & EFER_LMA else rflags & ~VM
    cpl = ram[place + vmcb.CPL] & 3
    p.cpl = 0 if not cr0 & CR0_PE else 3 if p.virtual8086 else cpl
    if dr6 != p.dr[6] or dr7 != p.dr[7]:
        p.write_dr(6, dr6)
        p.write_dr(7, dr7)
    if changed or old != (cr0, cr4, efer, p.cpl, q[layout.SYSTEM_FLAGS >> 3] & VM):
        p.mode_changed()
    return ""


def save_guest(p: GuestMode, place: int) -> None:
    """Save the guest's state into the VMCB at host-physical `place`."""
    q, controls, dr = p.q, p.controls, p.dr
    p.stored_segments = p.state.segment_writes
    if controls.nested:
        q[_WORLD_PAT] = p.msrs.get(_MSR_PAT, 0)
    if controls.lbr_virtualization:
        _LBR.pack_into(p.ram, place + vmcb.DBGCTL, *(p.read_msr(number) for number in _LBR_MSRS))
        _set_lbr(p, p.host_lbr)
    q[_WORLD_VMCB], q[_RIP] = place, p.rip
    q[_WORLD_DR6], q[_WORLD_DR7] = dr[6], dr[7]
    p.native_world_save(p.state.address)


def _set_lbr(p: GuestMode, values: tuple[int, ...]) -> None:
    """The registers of last-branch recording change hands (15.23.1)."""
    for number, value in zip(_LBR_MSRS, values, strict=True):
        p.msrs[number] = value & p.profile.msrs.get(number, (1 << 64) - 1)
    p.debug_control_changed()


def take_guest(p: GuestMode) -> None:
    """Go back into the last guest, whose fields of the state block are in place already."""
    q, dr = p.q, p.dr
    p.segments = p.guest_segments
    p.stored_segments = p.state.segment_writes  # nobody can have written to those
    dr[6], dr[7] = q[_WORLD_DR6], q[_WORLD_DR7]
    controls = p.controls
    if controls.nested:
        p.msrs[_MSR_PAT] = p.ram_words[p.vmcb + vmcb.G_PAT >> 3]
    p.gif = True
    p.take_mode(p.kept_guest)


def restore_host(p: GuestMode, host: Host) -> None:
    """Give the host back its state: CPL 0, RFLAGS.VM clear, no breakpoint enabled (15.6)."""
    q, dr = p.q, p.dr
    p.native_world_restore(p.state.address)
    p.segments, p.rip = host.segments, host.rip  # CPL was 0 at VMRUN
    if p.controls.nested:
        p.msrs[_MSR_PAT] = host.pat  # else there is one PAT, the host's, which the guest may have written (15.25.8)
    if not q[_EFER] & EFER_LMA and q[_CR4] & CR4_PAE and q[_CR0] & CR0_PG:
        try:
            p.load_pdptes(q[layout.CR3 >> 3])
        except Fault:
            raise TripleFault from None  # shutdown (15.6)
    p.take_mode(host.mode)
    if dr[7] & 0xFF:
        q[layout.WORLD_STATE_OF >> 3] = 0  # the next VMRUN works them out anew
        p.write_dr(7, 0x400)
    dr[7] = 0x400


def vmload(p: GuestMode, place: int) -> None:
    """VMLOAD: FS, GS, TR, LDTR with their hidden parts, KernelGSBase, STAR to SFMASK, SYSENTER (APM vol. 3, VMLOAD)."""
    ram = p.ram
    for number, at in ((FS, vmcb.FS), (GS, vmcb.GS)):
        word, base = struct.unpack_from("<2Q", ram, place + at)
        p.segments[number].load(word & 0xFFFF, canonical(base), word >> 32, word >> 16 & 0xFFF)
    for table, at in ((p.ldtr, vmcb.LDTR), (p.tr, vmcb.TR)):
        word, base = struct.unpack_from("<2Q", ram, place + at)
        table.load(word & 0xFFFF, canonical(base), word >> 32, word >> 16 & 0xFFF)
    values = struct.unpack_from("<8Q", ram, place + vmcb.STAR)
    for number, value in zip(_STAR_TO_SFMASK, values, strict=False):
        p.msrs[number] = value & p.profile.msrs[number]
    p.state.set(layout.KERNEL_GS_BASE, canonical(values[4]))
    for number, value in zip(_SYSENTER, values[5:], strict=True):
        p.msrs[number] = value & p.profile.msrs[number]
    p.mode_changed()


def vmsave(p: GuestMode, place: int) -> None:
    """VMSAVE: what VMLOAD loads (APM vol. 3, VMSAVE)."""
    ram = p.ram
    for segment, at in ((p.segments[FS], vmcb.FS), (p.segments[GS], vmcb.GS), (p.ldtr, vmcb.LDTR), (p.tr, vmcb.TR)):
        word = segment.selector | segment.attributes << 16 | segment.limit << 32
        struct.pack_into("<2Q", ram, place + at, word, segment.base)
    values = [p.msrs.get(number, 0) for number in _STAR_TO_SFMASK]
    values.append(p.state.get(layout.KERNEL_GS_BASE))
    values += [p.msrs.get(number, 0) for number in _SYSENTER]
    struct.pack_into("<8Q", ram, place + vmcb.STAR, *values)


def canonical(address: int) -> int:
    """A base as the processor takes it: bits 63:48 are copies of bit 47 (15.5.1, canonicalization)."""
    low = address & 0xFFFF_FFFF_FFFF
    return low | 0xFFFF_0000_0000_0000 if low >> 47 else low
