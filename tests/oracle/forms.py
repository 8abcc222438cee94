"""Which instruction forms are tested, and which are not and why.

A form is an iced-x86 `Code`: one line of the opcode tables (mnemonic, operand kinds and sizes).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from iced_x86 import Code, CpuidFeature, EncodingKind, Instruction, Mnemonic, OpCodeInfo, OpCodeOperandKind

from .areas import BITS

#: What the profile `opteron-2007` offers, as iced-x86 names it.
FEATURES = frozenset(
    getattr(CpuidFeature, name)
    for name in (
        "INTEL8086", "INTEL8086_ONLY", "INTEL186", "INTEL286", "INTEL386", "INTEL486", "X64", "CMOV", "SSE", "SSE2",
        "SSE3", "SSE4A", "POPCNT", "LZCNT", "CX8", "CMPXCHG16B", "MMX", "FPU", "FPU287", "FPU387", "FXSR", "CLFSH",
        "MULTIBYTENOP", "PAUSE", "MSR", "TSC", "SMM", "PREFETCHW",
    )
)  # fmt: skip

#: Always #GP at CPL 3, whatever their operands (APM vol. 3, chapter 4; IN, OUT: no I/O permission bitmap; CLI, STI:
#: IOPL 0).
PRIVILEGED = frozenset(
    [
        "CLI",
        "STI",
        "HLT",
        "CLTS",
        "INVD",
        "WBINVD",
        "IN",
        "OUT",
        "INSB",
        "INSW",
        "INSD",
        "OUTSB",
        "OUTSW",
        "OUTSD",
        "RDMSR",
        "WRMSR",
        "SWAPGS",
        "LGDT",
        "LIDT",
        "LLDT",
        "LTR",
        "LMSW",
        "INVLPG",
    ]
)
ALWAYS_UNDEFINED = frozenset(["RSM", "UD0", "UD1", "UD2"])

_EXCLUDED = {
    "leaves the page or the privilege level": (
        "SYSCALL SYSENTER SYSEXIT SYSRET IRET IRETD IRETQ RETF INT INT1 INT3 INTO"
    ),
    "loads a segment register: the host's table differs": "LDS LES LFS LGS LSS",
    "asks for the system's tables": "LAR LSL VERR VERW SGDT SIDT SLDT STR SMSW",
    "asks for the processor's identity or time": "CPUID RDTSC RDTSCP",
    "control and debug registers have a model of their own": "MONITOR MWAIT",
}
EXCLUDED_MNEMONICS = frozenset(name for names in _EXCLUDED.values() for name in names.split())

#: Second encodings that processors leave undocumented, or that mean something else on one vendor's processors.
_EXCLUDED_CODE_PREFIXES = ("RESERVEDNOP_", "LFENCE_E", "MFENCE_F", "SFENCE_F", "PREFETCHRESERVED", "FSTPNCE", "UD0")
_EXCLUDED_CODES = frozenset(
    [
        "CALL_M1616",
        "CALL_M1632",
        "CALL_M1664",
        "JMP_M1616",
        "JMP_M1632",
        "JMP_M1664",
        "CALL_PTR1616",
        "CALL_PTR1632",
        "JMP_PTR1616",
        "JMP_PTR1632",
        "FDISI",
        "FENI",
        "FSETPM",
        "FNDISI",
        "FNENI",
        "FNSETPM",
        "FSTP_STI_DFD0",
        "FSTP_STI_DFD8",
        "FXCH_ST0_STI_DDC8",
        "FXCH_ST0_STI_DFC8",
        "FCOM_ST0_STI_DCD0",
        "FCOMP_ST0_STI_DCD8",
        "FCOMP_ST0_STI_DED0",
    ]
)

_CODE_NAMES = {getattr(Code, name): name for name in dir(Code) if name.isupper()}
_MNEMONIC_NAMES = {getattr(Mnemonic, name): name for name in dir(Mnemonic) if name.isupper()}
_SEGMENT_KINDS = {
    OpCodeOperandKind.SEG_REG,
    *(getattr(OpCodeOperandKind, s) for s in ("ES", "CS", "SS", "DS", "FS", "GS")),
}

BRANCHES = frozenset(
    [
        "JA",
        "JAE",
        "JB",
        "JBE",
        "JCXZ",
        "JE",
        "JECXZ",
        "JG",
        "JGE",
        "JL",
        "JLE",
        "JMP",
        "JNE",
        "JNO",
        "JNP",
        "JNS",
        "JO",
        "JP",
        "JRCXZ",
        "JS",
        "LOOP",
        "LOOPE",
        "LOOPNE",
        "CALL",
        "RET",
    ]
)
STRINGS = frozenset(f"{name}{size}" for name in ("MOVS", "STOS", "LODS", "CMPS", "SCAS") for size in "BWDQ") - {
    "MOVSD",
    "CMPSD",
}


@dataclass(frozen=True)
class Form:
    """One form in one mode (see areas.BITS)."""

    code: int
    mode: str
    bits: int
    name: str
    mnemonic: str
    #: "integer", "branch", "string", "stack", "privileged", "simd", "x87"
    family: str

    def __repr__(self) -> str:
        return f"{self.name}/{self.mode}"


def code_name(code: int) -> str:
    return _CODE_NAMES[code]


def _family(info: OpCodeInfo, mnemonic: str, features: set[int]) -> str:
    x87 = {CpuidFeature.FPU, CpuidFeature.FPU287, CpuidFeature.FPU387}
    simd = {getattr(CpuidFeature, name) for name in ("MMX", "SSE", "SSE2", "SSE3", "SSE4A", "FXSR")}
    if mnemonic in PRIVILEGED or mnemonic in ALWAYS_UNDEFINED:
        return "privileged"
    if mnemonic == "PAUSE" or mnemonic.startswith("PREFETCH") or mnemonic in ("LFENCE", "MFENCE", "SFENCE", "MOVNTI"):
        return "integer"
    if features & x87 or mnemonic in ("FXSAVE", "FXRSTOR", "FXSAVE64", "FXRSTOR64", "WAIT"):
        return "x87"
    if features & simd:
        return "simd"
    if mnemonic in BRANCHES:
        return "branch"
    if info.is_stack_instruction or mnemonic in ("ENTER", "LEAVE"):
        return "stack"
    # MOVSD and CMPSD name a string and an SSE2 instruction both.
    if mnemonic in STRINGS or mnemonic in ("MOVSD", "CMPSD"):
        return "string"
    return "integer"


def _unsupported(info: OpCodeInfo, name: str, mnemonic: str, bits: int) -> bool:
    if info.encoding != EncodingKind.LEGACY or not info.is_instruction:
        return True
    if not {16: info.mode16, 32: info.mode32, 64: info.mode64}[bits]:
        return True
    if mnemonic in EXCLUDED_MNEMONICS or name in _EXCLUDED_CODES or name.startswith(_EXCLUDED_CODE_PREFIXES):
        return True
    if info.fwait:
        return True  # two instructions: WAIT, and one that is tested alone
    if bits == 64 and mnemonic in BRANCHES and info.operand_size == 16:
        return True  # Intel's processors ignore the prefix, AMD's truncate rip (SDM vol. 2, Jcc; APM vol. 3, Jcc)
    kinds = info.op_kinds()
    if OpCodeOperandKind.TR_REG in kinds or OpCodeOperandKind.CR_REG in kinds or OpCodeOperandKind.DR_REG in kinds:
        return True
    # Reading a segment register is tested, loading it is not.
    return bool(kinds) and kinds[0] in _SEGMENT_KINDS and mnemonic in ("MOV", "POP")


@cache
def all_forms(mode: str) -> tuple[Form, ...]:
    """Every tested form of a mode, in iced-x86's order."""
    bits = BITS[mode]
    forms = []
    for code, name in sorted(_CODE_NAMES.items()):
        info = OpCodeInfo(code)
        instruction = Instruction()
        instruction.code = code
        features = set(instruction.cpuid_features())
        mnemonic = _MNEMONIC_NAMES[instruction.mnemonic]
        if not features <= FEATURES or _unsupported(info, name, mnemonic, bits):
            continue
        forms.append(Form(code, mode, bits, name, mnemonic, _family(info, mnemonic, features)))
    return tuple(forms)


@cache
def family(name: str, mode: str = "long64") -> tuple[Form, ...]:
    """The tested forms of one family."""
    return tuple(form for form in all_forms(mode) if form.family == name)
