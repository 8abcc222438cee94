"""Tables of decoding: iced-x86's registers, mnemonics and operand kinds in terms of forms (isa/form.py)."""

from __future__ import annotations

from iced_x86 import Code, CpuidFeature, Mnemonic, OpKind, Register

from trapgate.arch import layout
from trapgate.arch.registers import CS, DS, ES, FS, GS, SS

REGISTER_SLOTS: dict[int, tuple[str, int]] = {}  # iced register -> (shape, slot)
_GPR64 = ("RAX", "RCX", "RDX", "RBX", "RSP", "RBP", "RSI", "RDI", "R8", "R9", "R10", "R11", "R12", "R13", "R14", "R15")
_GPR32 = (
    "EAX",
    "ECX",
    "EDX",
    "EBX",
    "ESP",
    "EBP",
    "ESI",
    "EDI",
    "R8D",
    "R9D",
    "R10D",
    "R11D",
    "R12D",
    "R13D",
    "R14D",
    "R15D",
)
_GPR16 = ("AX", "CX", "DX", "BX", "SP", "BP", "SI", "DI", "R8W", "R9W", "R10W", "R11W", "R12W", "R13W", "R14W", "R15W")
_GPR8 = (
    "AL",
    "CL",
    "DL",
    "BL",
    "SPL",
    "BPL",
    "SIL",
    "DIL",
    "R8L",
    "R9L",
    "R10L",
    "R11L",
    "R12L",
    "R13L",
    "R14L",
    "R15L",
)
for _names, _shape in ((_GPR64, "r64"), (_GPR32, "r32"), (_GPR16, "r16"), (_GPR8, "r8")):
    for _i, _name in enumerate(_names):
        REGISTER_SLOTS[getattr(Register, _name)] = (_shape, layout.gpr(_i))
for _i, _name in enumerate(("AH", "CH", "DH", "BH")):
    REGISTER_SLOTS[getattr(Register, _name)] = ("r8", layout.gpr(_i) + 1)
for _i in range(16):
    REGISTER_SLOTS[getattr(Register, f"XMM{_i}")] = ("x", layout.xmm(_i))
for _i in range(8):
    REGISTER_SLOTS[getattr(Register, f"MM{_i}")] = ("q", layout.fpr(_i))
    REGISTER_SLOTS[getattr(Register, f"ST{_i}")] = ("st", _i)
for _i, _name in enumerate(("ES", "CS", "SS", "DS", "FS", "GS")):
    REGISTER_SLOTS[getattr(Register, _name)] = ("r64", layout.selector(_i))

SEGMENT_NUMBERS = {
    Register.ES: ES, Register.CS: CS, Register.SS: SS, Register.DS: DS, Register.FS: FS, Register.GS: GS,
}  # fmt: skip
SYSTEM_REGISTERS = {getattr(Register, f"CR{i}"): "cr" for i in range(16)}
SYSTEM_REGISTERS |= {getattr(Register, f"DR{i}"): "dr" for i in range(16)}
SYSTEM_REGISTERS |= dict.fromkeys(SEGMENT_NUMBERS, "sreg")

#: Moves of control registers that native code carries out: number of the register read, or written -> operation.
CONTROL_READS = {number: f"mov_from_cr{number}" for number in (0, 2, 3, 4)}
CONTROL_WRITES = {3: "mov_to_cr3"}
#: The same of data segments, for selectors that are null: number of the segment register -> operation.
SEGMENT_LOADS = {ES: "mov_to_es", DS: "mov_to_ds", FS: "mov_to_fs", GS: "mov_to_gs"}
#: WRMSR, of the registers that hold the bases of FS and GS.
BASE_WRITE = "wrmsr_base"

MNEMONICS: dict[int, str] = {
    value: name.lower() for name, value in vars(Mnemonic).items() if isinstance(value, int) and not name.startswith("_")
}
CODES: dict[int, str] = {
    value: name for name, value in vars(Code).items() if isinstance(value, int) and not name.startswith("_")
}
FEATURES: dict[int, str] = {
    value: name for name, value in vars(CpuidFeature).items() if isinstance(value, int) and not name.startswith("_")
}
_CONDITIONS = ("o", "no", "b", "ae", "e", "ne", "be", "a", "s", "ns", "p", "np", "l", "ge", "le", "g")
CONDITION_OF = {
    MNEMONICS[getattr(Mnemonic, f"{prefix}{c}".upper())]: (operation, i)
    for prefix, operation in (("j", "jcc"), ("set", "setcc"), ("cmov", "cmovcc"))
    for i, c in enumerate(_CONDITIONS)
}

STRINGS = {
    "movsb": 8, "movsw": 16, "movsd": 32, "movsq": 64, "stosb": 8, "stosw": 16, "stosd": 32, "stosq": 64,
    "lodsb": 8, "lodsw": 16, "lodsd": 32, "lodsq": 64, "cmpsb": 8, "cmpsw": 16, "cmpsd": 32, "cmpsq": 64,
    "scasb": 8, "scasw": 16, "scasd": 32, "scasq": 64,
}  # fmt: skip
SIZED = {
    "cbw": 16, "cwde": 32, "cdqe": 64, "cwd": 16, "cdq": 32, "cqo": 64, "pushf": 16, "pushfd": 32, "pushfq": 64,
    "popf": 16, "popfd": 32, "popfq": 64, "pusha": 16, "pushad": 32, "popa": 16, "popad": 32,
}  # fmt: skip
STACK_OPERATIONS = {
    "push", "pop", "call", "call_indirect", "ret", "leave", "enter0", "pushf", "pushfd", "pushfq",
    "popf", "popfd", "popfq", "pusha", "pushad", "popa", "popad", "iretq_within",
}  # fmt: skip
#: Operations that do something else in 64-bit code than in 16- and 32-bit code.
BITS_MATTER = {"fxsave", "fxsave64", "fxrstor", "fxrstor64", "ret", "jmp_indirect", "call_indirect"}
COUNTED = {"jcxz": 16, "jecxz": 32, "jrcxz": 64}
IMPLICIT_KINDS = {
    OpKind.MEMORY_SEG_SI: 16, OpKind.MEMORY_SEG_ESI: 32, OpKind.MEMORY_SEG_RSI: 64,
    OpKind.MEMORY_SEG_DI: 16, OpKind.MEMORY_SEG_EDI: 32, OpKind.MEMORY_SEG_RDI: 64,
    OpKind.MEMORY_ESDI: 16, OpKind.MEMORY_ESEDI: 32, OpKind.MEMORY_ESRDI: 64,
}  # fmt: skip
IMMEDIATE_BITS = {
    OpKind.IMMEDIATE8: 8, OpKind.IMMEDIATE8_2ND: 8, OpKind.IMMEDIATE16: 16, OpKind.IMMEDIATE32: 32,
    OpKind.IMMEDIATE64: 64, OpKind.IMMEDIATE8TO16: 16, OpKind.IMMEDIATE8TO32: 32, OpKind.IMMEDIATE8TO64: 64,
    OpKind.IMMEDIATE32TO64: 64,
}  # fmt: skip
NEAR = (OpKind.NEAR_BRANCH16, OpKind.NEAR_BRANCH32, OpKind.NEAR_BRANCH64)
FAR = (OpKind.FAR_BRANCH16, OpKind.FAR_BRANCH32)
MAY_FAULT = {"div", "idiv", "aam", "wait"}
SHIFTS = {"shl", "sal", "shr", "sar", "rol", "ror", "rcl", "rcr", "shld", "shrd"}
ADDRESS_LETTER = {64: "", 32: "d", 16: "w"}
NO_ACCESS = {"lea", "nop", "reservednop"}
SSE_FEATURES = {"SSE", "SSE2", "SSE3", "SSE4A"}
SSE_WITHOUT_STATE = {
    "prefetchnta", "prefetcht0", "prefetcht1", "prefetcht2", "prefetchw", "prefetch", "lfence", "mfence", "sfence",
    "movnti", "pause", "clflush", "monitor", "mwait",
}  # fmt: skip
