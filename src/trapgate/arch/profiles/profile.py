"""What a CPU profile is: a processor model as data, and what follows from its CPUID flags.

Sources: AMD CPUID Specification (25481), chapter 2; Intel Application Note 485, chapter 3; APM vol. 2, chapter 3.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

from trapgate.arch.registers import (
    CR4_DE,
    CR4_MCE,
    CR4_OSFXSR,
    CR4_OSXMMEXCPT,
    CR4_PAE,
    CR4_PCE,
    CR4_PGE,
    CR4_PSE,
    CR4_PVI,
    CR4_TSD,
    CR4_VME,
    EFER_FFXSR,
    EFER_LMA,
    EFER_LME,
    EFER_NXE,
    EFER_SCE,
    EFER_SVME,
)
from trapgate.arch.vmcb import FEATURES as SVM_FEATURES

Leaf = tuple[int, int, int, int]
AMD, INTEL = "AuthenticAMD", "GenuineIntel"

#: CPUID flags by register and bit (25481, 2.2, Fn0000_0001 and Fn8000_0001; AP-485, table 3-4).
EDX_1 = {
    "FPU": 0, "VME": 1, "DE": 2, "PSE": 3, "TSC": 4, "MSR": 5, "PAE": 6, "MCE": 7, "CX8": 8, "APIC": 9, "SEP": 11,
    "MTRR": 12, "PGE": 13, "MCA": 14, "CMOV": 15, "PAT": 16, "PSE36": 17, "CLFSH": 19, "MMX": 23, "FXSR": 24,
    "SSE": 25, "SSE2": 26,
}  # fmt: skip
ECX_1 = {"SSE3": 0, "MONITOR": 3, "CMPXCHG16B": 13, "POPCNT": 23}
#: Flags that AMD repeats in Fn8000_0001 EDX, at the same bits.
_REPEATED = (
    "FPU", "VME", "DE", "PSE", "TSC", "MSR", "PAE", "MCE", "CX8", "APIC", "MTRR", "PGE", "MCA", "CMOV", "PAT", "PSE36",
    "MMX", "FXSR",
)  # fmt: skip
EDX_8 = {"SYSCALL": 11, "NX": 20, "MMXEXT": 22, "FFXSR": 25, "PAGE1GB": 26, "RDTSCP": 27, "LM": 29}
ECX_8 = {"LAHF64": 0, "SVM": 2, "CR8": 4, "LZCNT": 5, "SSE4A": 6, "PREFETCHW": 8}

#: CR4 bits that exist where a flag does (APM vol. 2, 3.1.3). RDPMC is not a CPUID flag but comes as a feature.
_CR4_BITS = {
    "VME": CR4_VME | CR4_PVI, "TSC": CR4_TSD, "DE": CR4_DE, "PSE": CR4_PSE, "PAE": CR4_PAE, "MCE": CR4_MCE,
    "PGE": CR4_PGE, "FXSR": CR4_OSFXSR, "SSE": CR4_OSXMMEXCPT,
}  # fmt: skip
#: EFER bits that exist where a flag does (APM vol. 2, 3.1.7).
_EFER_BITS = {
    "SYSCALL": EFER_SCE, "LM": EFER_LME | EFER_LMA, "NX": EFER_NXE, "FFXSR": EFER_FFXSR,
    "SVM": EFER_SVME,
}  # fmt: skip

_ALL_OF_ADDRESS = (1 << 52) - 1


@dataclass(frozen=True)
class CpuProfile:
    """A processor model as data."""

    name: str
    description: str
    vendor: str
    #: Family, model and stepping as CPUID gives them in EAX, and DX after RESET#.
    signature: int
    #: What instructions need: names of iced-x86's CpuidFeature. All others raise #UD.
    features: frozenset[str]
    #: What CPUID reports: names in EDX_1, ECX_1, EDX_8, ECX_8.
    flags: frozenset[str]
    physical_bits: int
    linear_bits: int
    #: Frequency of the modelled clock and of the TSC, in Hz.
    frequency: int
    #: CPUID leaves besides 0, 1, 8000_0000h and 8000_0001h: leaf -> (eax, ebx, ecx, edx).
    other_leaves: Mapping[int, Leaf] = field(default_factory=dict)
    #: EBX of leaf 1 and of leaf 8000_0001h.
    ebx_1: int = 0
    ebx_8: int = 0
    #: MSRs that hold what is written to them: number -> bits that can be written.
    msrs: Mapping[int, int] = field(default_factory=dict)
    #: MSRs that always read the same.
    constant_msrs: Mapping[int, int] = field(default_factory=dict)
    #: Constant MSRs to which a write raises #GP; writes to the others change nothing.
    read_only_msrs: frozenset[int] = frozenset()
    #: MSRs of the performance counters that RDPMC reads.
    counters: tuple[int, ...] = ()
    #: AMD-V: how many ASIDs there are, and names of what else there is (arch/vmcb.py: FEATURES).
    svm_asids: int = 0
    svm_features: frozenset[str] = frozenset()
    #: MSRs that are not 0 after RESET#.
    reset_msrs: Mapping[int, int] = field(default_factory=dict)

    def has(self, feature: str) -> bool:
        """Whether the profile has a feature (iced-x86's names)."""
        return feature in self.features

    @cached_property
    def leaves(self) -> dict[int, Leaf]:
        """CPUID leaf -> (eax, ebx, ecx, edx). What depends on the current state is filled in at run time."""
        others = self.other_leaves
        ebx, edx, ecx = text_words(self.vendor, 12)
        leaves = {
            0: (max([1, *(leaf for leaf in others if not leaf >> 31)]), ebx, ecx, edx),
            1: (self.signature, self.ebx_1, self._bits(ECX_1), self._bits(EDX_1)),
            **others,
        }
        if "SVM" in self.flags:
            # Revision 1, the number of ASIDs, features (25481, Fn8000_000A).
            features = sum(1 << SVM_FEATURES[name] for name in self.svm_features)
            leaves[0x8000_000A] = (1, self.svm_asids, 0, features)
        extended = [leaf for leaf in leaves if leaf >> 31]
        if extended:
            repeated = sum(1 << EDX_1[flag] for flag in _REPEATED if flag in self.flags)
            leaves[0x8000_0000] = (max(extended), ebx, ecx, edx)
            leaves[0x8000_0001] = (self.signature, self.ebx_8, self._bits(ECX_8), self._bits(EDX_8) | repeated)
        return leaves

    def _bits(self, places: dict[str, int]) -> int:
        return sum(1 << bit for flag, bit in places.items() if flag in self.flags)

    @property
    def cr4_bits(self) -> int:
        """Bits of CR4 that can be set; others raise #GP(0)."""
        bits = sum(value for flag, value in _CR4_BITS.items() if flag in self.flags)
        return bits | (CR4_PCE if self.has("RDPMC") else 0)

    @property
    def efer_bits(self) -> int:
        """Bits of EFER that can be set; 0 where there is no EFER."""
        return sum(value for flag, value in _EFER_BITS.items() if flag in self.flags)

    @property
    def reserved_address_bits(self) -> int:
        """Bits 51:0 of a 64-bit page-table entry that are beyond the physical address."""
        return _ALL_OF_ADDRESS & ~((1 << self.physical_bits) - 1)

    @property
    def reserved_in_4mb_entry(self) -> int:
        """Reserved bits of a 4 MB page's entry: bits 20:13 are physical bits 39:32 with PSE-36, bit 12 is PAT."""
        wide = min(self.physical_bits, 40) - 32 if "PSE36" in self.flags else 0
        reserved = 0x3F_E000 & ~(((1 << wide) - 1) << 13)
        return reserved if "PAT" in self.flags else reserved | 1 << 12

    def cpuid(self, leaf: int) -> Leaf:
        """A leaf's registers. Beyond the last leaf AMD returns zeros, Intel the last standard leaf (AP-485, 3.1.1)."""
        leaves = self.leaves
        known = leaves.get(leaf)
        if known is not None:
            return known
        if self.vendor == INTEL and not (leaf <= leaves[0][0] or (leaf >> 31 and 0x8000_0000 in leaves)):
            return leaves[leaves[0][0]]
        return 0, 0, 0, 0


def text_words(text: str, length: int) -> list[int]:
    """A text as little-endian 32-bit words, as CPUID returns it."""
    raw = text.encode().ljust(length, b"\0")
    return [int.from_bytes(raw[i : i + 4], "little") for i in range(0, length, 4)]


def brand(text: str) -> dict[int, Leaf]:
    """Leaves 8000_0002h to 8000_0004h: the processor's name (25481, 2.2)."""
    words = text_words(text, 48)
    return {0x8000_0002 + i: (words[4 * i], words[4 * i + 1], words[4 * i + 2], words[4 * i + 3]) for i in range(3)}
