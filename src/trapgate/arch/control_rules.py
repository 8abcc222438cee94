"""Which values the control registers and EFER take; all others raise #GP(0) (APM vol. 2, 3.1).

One statement for the processor and for the hypervisor, whose guests' control registers exit.
"""

from __future__ import annotations

from trapgate.arch.profiles.profile import CpuProfile
from trapgate.arch.registers import (
    CR0_CD,
    CR0_ET,
    CR0_NW,
    CR0_PE,
    CR0_PG,
    CR0_WRITABLE,
    CR4_PAE,
    EFER_LMA,
    EFER_LME,
)
from trapgate.arch.segments import ATTRIBUTE_L


def cr0_after(value: int, old: int, cr4: int, efer: int, code_attributes: int) -> int | None:
    """CR0 after `value` is written, with its fixed bits; None: it does not take it (3.1.1).

    A guest of AMD-V in paged real mode may stay there (15.19); nobody else gets PG without PE. `code_attributes` are
    those of CS: long mode is not entered from, and paging not switched off in, a 64-bit segment (14.6.1, 14.7).
    """
    if value >> 32:
        return None
    value = value & CR0_WRITABLE | CR0_ET
    unprotected = value & (CR0_PG | CR0_PE) == CR0_PG and old & (CR0_PG | CR0_PE) != CR0_PG
    if unprotected or (value & CR0_NW and not value & CR0_CD):
        return None
    if (old ^ value) & CR0_PG:
        code64 = bool(code_attributes & ATTRIBUTE_L)
        if value & CR0_PG:
            if efer & EFER_LME and (not cr4 & CR4_PAE or code64):
                return None
        elif efer & EFER_LMA and code64:
            return None
    return value


def efer_with_lma(efer: int, cr0: int) -> int:
    """EFER with LMA as LME and CR0.PG make it (14.6)."""
    return efer & ~EFER_LMA | (EFER_LMA if efer & EFER_LME and cr0 & CR0_PG else 0)


def cr3_after(value: int, efer: int) -> int | None:
    """CR3 after `value` is written: 52 bits in long mode, else 32 (3.1.2). PAE's pointers are not looked at."""
    if not efer & EFER_LMA:
        return value & 0xFFFF_FFFF
    return None if value >> 52 else value


def takes_cr4(profile: CpuProfile, value: int, efer: int) -> bool:
    """Whether CR4 takes a value: the profile's bits, and PAE stays in long mode (3.1.3)."""
    return not (value & ~profile.cr4_bits or (efer & EFER_LMA and not value & CR4_PAE))


def efer_after(bits: int, value: int, old: int, cr0: int) -> int | None:
    """EFER after WRMSR of `value`; None: it does not take it (3.1.7). `bits` can be set now; LMA is the processor's."""
    if value & ~bits or ((old ^ value) & EFER_LME and cr0 & CR0_PG):
        return None
    return value & ~EFER_LMA | old & EFER_LMA
