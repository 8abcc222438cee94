"""Bits of page-table entries and page-fault error codes (APM vol. 2, 5.4 and 8.4.2)."""

from __future__ import annotations

PTE_P = 1 << 0
PTE_RW = 1 << 1
PTE_US = 1 << 2
PTE_PWT = 1 << 3
PTE_PCD = 1 << 4
PTE_A = 1 << 5
PTE_D = 1 << 6
PTE_PS = 1 << 7
PTE_G = 1 << 8
PTE_NX = 1 << 63
ADDRESS_MASK = 0x000F_FFFF_FFFF_F000
#: What must be 0 in a page-directory-pointer entry of legacy PAE besides address bits (APM vol. 2, 5.2.3).
PDPTE_RESERVED = 0xFFF0_0000_0000_01E6

# Page-fault error code; the same bits describe an access.
PF_P = 1 << 0
PF_W = 1 << 1
PF_U = 1 << 2
PF_RSV = 1 << 3
PF_I = 1 << 4
