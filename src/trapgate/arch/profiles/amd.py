"""AMD's profiles.

Sources: BIOS and Kernel Developer's Guide for family 10h (31116), for family 0Fh rev F and G (32559); AMD CPUID
Specification (25481); APM vol. 2, appendix A.
"""

from __future__ import annotations

from trapgate.arch.profiles.profile import AMD, CpuProfile, brand

_ALL = (1 << 64) - 1

_FEATURES_0F = frozenset((
    "INTEL8086", "INTEL8086_ONLY", "INTEL186", "INTEL286", "INTEL386", "INTEL486", "X64", "FPU", "FPU287", "FPU387",
    "CPUID", "TSC", "MSR", "CX8", "CMOV", "MMX", "SYSCALL", "SMM", "RDPMC", "INTEL_FPU_COMPAT", "MULTIBYTENOP",
    "PAUSE", "FXSR", "SEP", "CLFSH", "SSE", "SSE2", "SSE3", "CMPXCHG16B", "RDTSCP", "PREFETCHW",
    "SVM", "SKINIT_OR_SVM",
))  # fmt: skip
#: No 3DNow!: CPUID does not report it.
_FEATURES_10 = _FEATURES_0F | {"SSE4A", "POPCNT", "LZCNT", "MONITOR"}

_FLAGS_0F = frozenset((
    "FPU", "VME", "DE", "PSE", "TSC", "MSR", "PAE", "MCE", "CX8", "APIC", "SEP", "MTRR", "PGE", "MCA", "CMOV", "PAT",
    "PSE36", "CLFSH", "MMX", "FXSR", "SSE", "SSE2", "SSE3", "CMPXCHG16B", "SYSCALL", "NX", "MMXEXT", "FFXSR", "RDTSCP",
    "LM", "LAHF64", "CR8", "PREFETCHW", "SVM",
))  # fmt: skip
_FLAGS_10 = _FLAGS_0F | {"MONITOR", "POPCNT", "PAGE1GB", "LZCNT", "SSE4A"}

#: MSRs of both families that hold what is written (31116, 2.4 "MSRs"; 32559, chapter 14): system call registers, MTRRs,
#: machine check, performance counters (which do not count), and the configuration registers that kernels look at.
_MSRS = {
    0xC000_0081: _ALL, 0xC000_0082: _ALL, 0xC000_0083: _ALL, 0xC000_0084: 0xFFFF_FFFF,
    0x174: 0xFFFF, 0x175: _ALL, 0x176: _ALL,
    0x2FF: 0xCFF, 0x250: _ALL, 0x258: _ALL, 0x259: _ALL, **dict.fromkeys(range(0x268, 0x270), _ALL),
    **dict.fromkeys(range(0x200, 0x210), _ALL),
    0x17A: 7, 0x17B: _ALL, 0x1D9: 0x7F, **dict.fromkeys(range(0x400, 0x418), _ALL),
    **dict.fromkeys(range(0xC001_0000, 0xC001_0008), _ALL), **dict.fromkeys(range(0xC001_0016, 0xC001_001A), _ALL),
    0xC001_0010: _ALL, 0xC001_0015: _ALL, 0xC001_001F: _ALL, 0xC001_001A: _ALL, 0xC001_001D: _ALL,
    0xC001_0055: _ALL, 0xC001_1020: _ALL, 0xC001_1021: _ALL, 0xC001_1022: _ALL, 0xC001_1023: _ALL,
    0xC001_102A: _ALL, 0xC001_1029: _ALL,
}  # fmt: skip
_CONSTANT = {
    0xFE: 0x508,  # MTRRcap: 8 variable, fixed, write-combining
    0x179: 0x106,  # MCG_CAP: six banks, MCG_CTL
    0x8B: 0x0100_0083,  # microcode patch level
    0xC001_0061: 0, 0xC001_0062: 0, 0xC001_0063: 0, 0xC001_0071: 0,
    **{0xC001_0064 + i: 0 for i in range(5)},
    0xC001_0140: 0, 0xC001_0141: 0,
    0x1DB: 0, 0x1DC: 0, 0x1DD: 0, 0x1DE: 0,
}  # fmt: skip
_READ_ONLY = frozenset((0xFE, 0x179))
_COUNTERS = tuple(range(0xC001_0004, 0xC001_0008))

OPTERON_2007 = CpuProfile(
    name="opteron-2007",
    description="Quad-Core AMD Opteron (family 10h, 2007): long mode, SSE4a, 1 GB pages, AMD-V with nested paging",
    vendor=AMD,
    signature=0x0010_0F23,  # family 10h model 2 stepping 3
    features=_FEATURES_10,
    flags=_FLAGS_10,
    physical_bits=48,
    linear_bits=48,
    frequency=2_000_000_000,
    other_leaves={
        0x0000_0005: (64, 64, 3, 0),  # MONITOR line size
        **brand("Quad-Core AMD Opteron(tm) Processor 2350"),
        # L1 TLBs and caches: 64 KB 2-way data and instruction caches, lines of 64 bytes.
        0x8000_0005: (0xFF10_FF10, 0xFF40_FF20, 0x4002_0140, 0x4002_0140),
        # L2 TLBs; L2 cache 512 KB 16-way; L3 cache 2 MB 32-way.
        0x8000_0006: (0x1080_0000, 0x4200_4200, 0x0200_8140, 0x0010_A140),
        0x8000_0007: (0, 0, 0, 0),
        0x8000_0008: (0x0000_3030, 0, 0, 0),  # 48 physical, 48 linear address bits
    },
    ebx_1=0x0001_0800,  # CLFLUSH size 8 quadwords, one logical processor
    ebx_8=0x1000_0000,
    msrs=_MSRS,
    constant_msrs=_CONSTANT,
    read_only_msrs=_READ_ONLY,
    counters=_COUNTERS,
    svm_asids=64,
    svm_features=frozenset(("NP", "LBR_VIRT", "SVM_LOCK", "NRIP_SAVE")),
    reset_msrs={0x277: 0x0007_0406_0007_0406},
)

OPTERON_2006 = CpuProfile(
    name="opteron-2006",
    description="Dual-Core AMD Opteron (family 0Fh rev F, 2006): long mode, SSE3, AMD-V",
    vendor=AMD,
    signature=0x0004_0F13,  # JH-F3: family 0Fh model 41h stepping 3
    features=_FEATURES_0F,
    flags=_FLAGS_0F,
    physical_bits=40,
    linear_bits=48,
    frequency=2_600_000_000,
    other_leaves={
        **brand("Dual-Core AMD Opteron(tm) Processor 2218"),
        # L1 TLBs: 8 large and 32 small entries; 64 KB 2-way caches, lines of 64 bytes.
        0x8000_0005: (0xFF08_FF08, 0xFF20_FF20, 0x4002_0140, 0x4002_0140),
        # L2 TLBs of 512 4-way entries for small pages; L2 cache 1 MB 16-way.
        0x8000_0006: (0, 0x4200_4200, 0x0400_8140, 0),
        0x8000_0007: (0, 0, 0, 0),
        0x8000_0008: (0x0000_3028, 0, 0, 0),  # 40 physical, 48 linear address bits
    },
    ebx_1=0x0001_0800,
    msrs={number: bits for number, bits in _MSRS.items() if number not in (0xC001_102A,)},
    constant_msrs={
        0xFE: 0x508,
        0x179: 0x105,  # five banks
        0x8B: 0,
        0xC001_0041: 0,
        0xC001_0042: 0,  # FIDVID_CTL, FIDVID_STATUS
        0x1DB: 0,
        0x1DC: 0,
        0x1DD: 0,
        0x1DE: 0,
    },
    read_only_msrs=_READ_ONLY,
    counters=_COUNTERS,
    svm_asids=64,
    reset_msrs={0x277: 0x0007_0406_0007_0406},
)
