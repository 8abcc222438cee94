"""Intel's profiles.

Sources: Intel Application Note 485 (241618), chapters 3 and 7; Intel Software Developer's Manual (SDM) vol. 3B,
appendix B.5 "MSRs in the P6 family" and B.6 "MSRs in Pentium processors".
"""

from __future__ import annotations

from trapgate.arch.profiles.profile import INTEL, CpuProfile

_ALL = (1 << 64) - 1

#: F3 90 is a NOP on all of them: PAUSE never raises #UD.
_FEATURES_486 = frozenset((
    "INTEL8086", "INTEL8086_ONLY", "INTEL186", "INTEL286", "INTEL386", "INTEL486", "FPU", "FPU287", "FPU387", "CPUID",
    "SMM", "INTEL_FPU_COMPAT", "PAUSE",
))  # fmt: skip
_FEATURES_P5 = _FEATURES_486 | {"TSC", "MSR", "CX8"}
_FEATURES_P6 = _FEATURES_P5 | {"CMOV", "RDPMC", "MULTIBYTENOP", "SEP", "MMX", "FXSR", "SSE"}

_FLAGS_P5 = frozenset(("FPU", "VME", "DE", "PSE", "TSC", "MSR", "MCE", "CX8"))
_FLAGS_P6 = _FLAGS_P5 | {
    "PAE", "APIC", "SEP", "MTRR", "PGE", "MCA", "CMOV", "PAT", "PSE36", "MMX", "FXSR", "SSE",
}  # fmt: skip

I486 = CpuProfile(
    name="486",
    description="IntelDX4 (family 4, 1994): x87 unit, virtual-8086 extensions, CPUID; no TSC, no MSRs",
    vendor=INTEL,
    signature=0x480,
    features=_FEATURES_486,
    flags=frozenset(("FPU", "VME")),
    physical_bits=32,
    linear_bits=32,
    frequency=100_000_000,
)

PENTIUM = CpuProfile(
    name="pentium",
    description="Intel Pentium (family 5, P54C, 1994): TSC, 4 MB pages, CMPXCHG8B; no CMOV, no MMX",
    vendor=INTEL,
    signature=0x52C,
    features=_FEATURES_P5,
    flags=_FLAGS_P5,
    physical_bits=32,
    linear_bits=32,
    frequency=133_000_000,
    # Machine check address and type, test register 12, counter selection and the two counters (which do not count).
    msrs={0x0E: 0x3FF, 0x11: 0x03FF_03FF, 0x12: (1 << 40) - 1, 0x13: (1 << 40) - 1},
    constant_msrs={0x00: 0, 0x01: 0},
)

PENTIUM3 = CpuProfile(
    name="pentium3",
    description="Intel Pentium III (family 6, Coppermine, 2000): PAE, CMOV, SSE",
    vendor=INTEL,
    signature=0x68A,
    features=_FEATURES_P6,
    flags=_FLAGS_P6,
    physical_bits=36,
    linear_bits=32,
    frequency=866_000_000,
    # Cache and TLB descriptors (AP-485, table 3-10): small-page instruction and data TLBs, large-page ones, 16 KB L1
    # caches, 256 KB 8-way L2 cache.
    other_leaves={2: (0x0302_0101, 0, 0, 0x0C04_0882)},
    ebx_1=0x0000_0002,  # brand index: Pentium III
    msrs={
        0x174: 0xFFFF, 0x175: 0xFFFF_FFFF, 0x176: 0xFFFF_FFFF,
        0x2A: 0x0660_0000, 0xC1: (1 << 40) - 1, 0xC2: (1 << 40) - 1, 0x186: 0xFFFF_FFFF, 0x187: 0xFFFF_FFFF,
        0x119: _ALL, 0x11E: _ALL, 0x17A: 7, 0x17B: _ALL, 0x1D9: 0x7F, 0x1E0: _ALL,
        **dict.fromkeys(range(0x200, 0x210), (1 << 36) - 1),
        0x250: _ALL, 0x258: _ALL, 0x259: _ALL, **dict.fromkeys(range(0x268, 0x270), _ALL), 0x2FF: 0xCFF,
        **dict.fromkeys(range(0x400, 0x414), _ALL),
    },
    constant_msrs={
        0x00: 0, 0x01: 0,
        0x17: 0,  # platform identification
        0x8B: 0,  # no microcode update is loaded
        0x79: 0,  # a microcode update to here is ignored
        0xFE: 0x508,
        0x179: 0x105,  # five banks, MCG_CTL
        0x1DB: 0, 0x1DC: 0, 0x1DD: 0, 0x1DE: 0,
    },
    read_only_msrs=frozenset((0x17, 0xFE, 0x179)),
    counters=(0xC1, 0xC2),
    reset_msrs={0x277: 0x0007_0406_0007_0406},
)  # fmt: skip
