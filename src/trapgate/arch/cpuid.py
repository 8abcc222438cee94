"""CPU profiles: which instructions exist, and what CPUID and the MSRs report.

Sources: AMD CPUID Specification (25481), BIOS and Kernel Developer's Guide for family 10h (31116), APM vol. 2.
"""

from __future__ import annotations

from dataclasses import dataclass

# Feature names are those of iced-x86's CpuidFeature.
_BASE = (
    "INTEL8086", "INTEL8086_ONLY", "INTEL186", "INTEL286", "INTEL386", "INTEL486", "X64", "FPU", "FPU287",
    "FPU387", "CPUID", "TSC", "MSR", "CX8", "CMOV", "MMX", "SYSCALL", "SMM", "RDPMC", "INTEL_FPU_COMPAT",
    "MULTIBYTENOP", "PAUSE", "FXSR", "SEP", "CLFSH",
)  # fmt: skip
_FAMILY_10H = (
    *_BASE, "SSE", "SSE2", "SSE3", "SSE4A", "CMPXCHG16B", "POPCNT", "LZCNT", "RDTSCP", "MONITOR", "PREFETCHW",
    "D3NOW", "D3NOWEXT", "SVM",
)  # fmt: skip


@dataclass(frozen=True)
class CpuProfile:
    """A processor model as data."""

    name: str
    description: str
    features: frozenset[str]
    #: CPUID leaf -> (eax, ebx, ecx, edx). Leaf 1's initial APIC ID and leaf 0xD-like state are filled in at run time.
    leaves: dict[int, tuple[int, int, int, int]]
    physical_bits: int
    linear_bits: int
    #: Frequency of the modelled clock and of the TSC, in Hz.
    frequency: int

    def has(self, feature: str) -> bool:
        """Whether the profile has a feature (iced-x86's names)."""
        return feature in self.features


def _text(text: str, length: int) -> list[int]:
    raw = text.encode().ljust(length, b"\0")
    return [int.from_bytes(raw[i : i + 4], "little") for i in range(0, length, 4)]


def _brand(text: str) -> dict[int, tuple[int, int, int, int]]:
    words = _text(text, 48)
    return {0x8000_0002 + i: (words[4 * i], words[4 * i + 1], words[4 * i + 2], words[4 * i + 3]) for i in range(3)}


def _bits(*numbers: int) -> int:
    return sum(1 << n for n in numbers)


# "AuthenticAMD" in ebx, edx, ecx
_EBX, _EDX, _ECX = _text("AuthenticAMD", 12)

# Fn0000_0001 EDX (25481, 2.2): FPU VME DE PSE TSC MSR PAE MCE CX8 APIC SEP MTRR PGE MCA CMOV PAT PSE36 CLFSH MMX FXSR
# SSE SSE2.
_EDX_1 = _bits(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 12, 13, 14, 15, 16, 17, 19, 23, 24, 25, 26)
# ECX: SSE3, MONITOR, CMPXCHG16B, POPCNT.
_ECX_1 = _bits(0, 3, 13, 23)
# Fn8000_0001 EDX: the common ones, SYSCALL, NX, MMXEXT, FFXSR, 1 GB pages, RDTSCP, LM.
_EDX_8 = _bits(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 12, 13, 14, 15, 16, 17, 20, 22, 23, 24, 25, 26, 27, 29)
# ECX: LAHF in 64-bit mode, AltMovCr8, ABM (LZCNT), SSE4A, misaligned SSE is not offered, 3DNow! prefetch.
_ECX_8 = _bits(0, 4, 5, 6, 8)

OPTERON_2007 = CpuProfile(
    name="opteron-2007",
    description="Quad-Core AMD Opteron (family 10h, 2007): long mode, SSE4a, 1 GB pages, AMD-V",
    features=frozenset(_FAMILY_10H) - {"D3NOW", "D3NOWEXT", "SVM"},
    leaves={
        0x0000_0000: (5, _EBX, _ECX, _EDX),
        # Family 10h model 2 stepping 3; CLFLUSH size 8 quadwords, one logical processor.
        0x0000_0001: (0x0010_0F23, 0x0001_0800, _ECX_1, _EDX_1),
        0x0000_0005: (64, 64, _bits(0, 1), 0),  # MONITOR line size
        0x8000_0000: (0x8000_0008, _EBX, _ECX, _EDX),
        0x8000_0001: (0x0010_0F23, 0x1000_0000, _ECX_8, _EDX_8),
        **_brand("Quad-Core AMD Opteron(tm) Processor 2350"),
        # L1 TLBs and caches: 64 KB 2-way data and instruction caches, lines of 64 bytes.
        0x8000_0005: (0xFF10_FF10, 0xFF40_FF20, 0x4002_0140, 0x4002_0140),
        # L2 TLBs; L2 cache 512 KB 16-way; L3 cache 2 MB 32-way.
        0x8000_0006: (0x1080_0000, 0x4200_4200, 0x0200_8140, 0x0010_A140),
        0x8000_0007: (0, 0, 0, 0),
        0x8000_0008: (0x0000_3030, 0, 0x0000_0000, 0),  # 48 physical, 48 linear address bits
    },
    physical_bits=48,
    linear_bits=48,
    frequency=2_000_000_000,
)

PROFILES = {profile.name: profile for profile in (OPTERON_2007,)}
