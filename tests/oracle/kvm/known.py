"""Where KVM departs from the manuals, and what the manuals say. What is here is the oracle's fault, not trapgate's.

Of KVM's three ways to carry out an instruction (on the processor by AMD-V or VT-x, on the processor deprivileged, by
its instruction emulator) the second and third are approximations. Which way it takes depends on the host, so a probe of
each kind of behaviour says first what this KVM can judge at all; the table below holds for its emulator.

APM: AMD64 Architecture Programmer's Manual; SDM: Intel 64 and IA-32 Architectures Software Developer's Manual. Their
words are given from memory of the manuals, the section is named.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import iced_x86 as iced

from .cases import SHUTDOWN, SystemCase, SystemOutcome
from .world import GDT, IDT, SFMASK, SYSENTER_CS, SYSENTER_EIP, SYSENTER_ESP


@dataclass(frozen=True)
class Difference:
    """A case whose outcomes differ: the instruction, and the fields that do."""

    case: SystemCase
    instruction: iced.Instruction
    mnemonic: str
    fields: frozenset[str]
    #: Where memory differs, the first byte of each page's difference.
    places: frozenset[int]
    expected: SystemOutcome
    got: SystemOutcome
    #: Vector of the stub that each side halted in, or -1.
    theirs: int
    ours: int

    @property
    def wide(self) -> bool:
        """Whether a REX.W prefix precedes the opcode."""
        return self.case.mode.bits == 64 and self.case.code[0] == 0x48

    def only(self, *fields: str) -> bool:
        """Whether nothing but these fields differs."""
        return self.fields <= frozenset(fields)


@dataclass(frozen=True)
class KnownFault:
    """One thing that KVM does not do as the manuals say."""

    name: str
    says: str
    holds: Callable[[Difference], bool]


AC = 1 << 18
_MEMORY = ("memory", "page")
_FRAME = (*_MEMORY, "rflags")
#: What an exception changes on one side alone.
_DELIVERY = frozenset(("rip", "rsp", "rflags", "cs", "ss", "cr2", *_MEMORY))
_SYSTEM_CALLS = frozenset(("syscall", "sysret", "sysretq", "sysenter", "sysexit", "sysexitq"))
_FAR_LOADS = frozenset(("lds", "les", "lss", "lfs", "lgs"))


def _emulation_failed(d: Difference) -> bool:
    return d.case.mode.cpl == 3 and d.theirs == 6 and d.ours != 6


def _partial_store(d: Difference) -> bool:
    return d.theirs == d.ours == 14 and d.only(*_MEMORY)


def _not_there(d: Difference) -> bool:
    mode = d.case.mode
    return mode.kind == "real" or (not d.case.state.efer & 1 and d.mnemonic in ("syscall", "sysret", "sysretq"))


def _fault_order(d: Difference) -> bool:
    undefined = d.instruction.code == iced.Code.INVALID or d.mnemonic in ("mov", "ud2")
    return d.ours == 6 and d.theirs in (12, 13, 14) and undefined and d.fields <= _DELIVERY


FAULTS = (
    KnownFault(
        "what the emulator lacks is #UD at CPL 3",
        "(Linux, Documentation/virt/kvm/api.rst, KVM_CAP_EXIT_ON_EMULATION_FAILURE: at CPL 3 a failed emulation is an "
        "invalid opcode for the guest)",
        _emulation_failed,
    ),
    KnownFault(
        "selectors pushed as 32 bits",
        "SDM vol. 2, PUSH: with an operand size of 32 bits either a zero-extended value or 16 bits are written; AMD's "
        "processors write 32",
        lambda d: d.mnemonic in ("push", "pushd") and d.case.family == "segments" and d.only(*_MEMORY),
    ),
    KnownFault(
        "stores of selectors wider than 16 bits",
        "APM vol. 3, MOV (from segment register), SLDT, STR, SMSW: to memory 16 bits are stored whatever the operand "
        "size",
        lambda d: (
            d.mnemonic in ("sldt", "str", "smsw") or (d.mnemonic == "mov" and d.wide and d.case.family == "segments")
        ),
    ),
    KnownFault(
        "REX.W far pointers",
        "APM vol. 3, LFS and JMP (far): m16:16 and m16:32 only; GNU as, 'AMD64 ISA vs. Intel64 ISA': 64-bit operand "
        "size of lfs, lgs, lss, ljmp and lcall is Intel's",
        lambda d: d.wide and (d.mnemonic in _FAR_LOADS or (d.mnemonic in ("jmp", "call") and d.case.family == "far")),
    ),
    KnownFault(
        "SWAPGS outside 64-bit mode",
        "APM vol. 3, SWAPGS: 'This is a 64-bit mode instruction'; #UD in every other",
        lambda d: d.case.code == b"\x0f\x01\xf8" and d.case.mode.bits != 64 and d.ours == 6,
    ),
    KnownFault(
        "upper halves of system-call registers",
        "APM vol. 2, 6.1.1 and 6.1.2: SFMASK has 32 bits, SYSENTER_CS 16; SYSENTER_ESP and SYSENTER_EIP hold what is "
        "written (KVM sign-extends from bit 47, for VT-x's sake)",
        lambda d: (
            d.mnemonic == "wrmsr" and d.only(*(f"msr {n:x}" for n in (SFMASK, SYSENTER_CS, SYSENTER_ESP, SYSENTER_EIP)))
        ),
    ),
    KnownFault(
        "WRMSR of reserved PAT types",
        "APM vol. 2, 7.8.1: #GP(0) for a reserved memory type",
        lambda d: d.mnemonic == "wrmsr" and d.case.state.gpr[1] == 0x277 and d.ours == 13,
    ),
    KnownFault(
        "CR4 bits of features that CPUID does not report",
        "APM vol. 2, 3.1.3: reserved bits; #GP(0) when set",
        lambda d: d.mnemonic == "mov" and d.case.family == "control" and "cr4" in d.fields and d.ours == 13,
    ),
    KnownFault(
        "upper halves of DR6 and DR7",
        "APM vol. 3, MOV DRn: #GP(0) when one of bits 63:32 of DR6 or DR7 is set in 64-bit mode",
        lambda d: d.mnemonic == "mov" and d.case.family == "debug" and d.ours == 13 and d.case.mode.bits == 64,
    ),
    KnownFault(
        "flags of AAM and AAD",
        "APM vol. 3, AAM, AAD: SF, ZF and PF by the result in AL",
        lambda d: d.mnemonic in ("aam", "aad") and d.only("rflags", "memory"),
    ),
    KnownFault(
        "ENTER with another operand size than the stack's",
        "APM vol. 3, ENTER: pushes rBP in the operand size",
        lambda d: d.mnemonic in ("enter", "enterd", "enterw") and d.case.code[0] == 0x66,
    ),
    KnownFault(
        "flags after a fault in REP CMPS or SCAS",
        "SDM vol. 2, REP: EFLAGS is restored to the state prior to the instruction; APM does not say so",
        lambda d: d.case.family == "strings" and d.theirs == d.ours and d.theirs > 0 and d.only(*_FRAME),
    ),
    KnownFault(
        "#UD comes before faults of the operand",
        "APM vol. 2, 8.5: an invalid opcode has priority over #SS, #GP and #PF of a memory operand",
        _fault_order,
    ),
    KnownFault(
        "stores are not undone by a page fault",
        "APM vol. 2, 8.1.1: a fault leaves the state as before the instruction; the emulator writes one page, then "
        "faults at the next",
        _partial_store,
    ),
    KnownFault(
        "LTR and LLDT with a selector of the LDT, and LTR of a 16-bit TSS in long mode",
        "APM vol. 3, LTR, LLDT: #GP(selector) when it is not in the GDT; long mode has no 16-bit TSS: #GP(selector)",
        lambda d: d.mnemonic in ("ltr", "lldt") and d.ours == 13,
    ),
    KnownFault(
        "system-call instructions that are not there",
        "APM vol. 3, SYSCALL, SYSRET: #UD when EFER.SCE is 0; SYSRET, SYSENTER, SYSEXIT: not in real mode",
        lambda d: d.mnemonic in _SYSTEM_CALLS and d.ours in (6, 13) and _not_there(d),
    ),
    KnownFault(
        "SYSRET to 32-bit code, and the flags that SYSRET loads",
        "APM vol. 3, SYSRET: CS is STAR's SYSRET selector without 16 more, in legacy mode RFLAGS.IF is set and nothing "
        "else changes; SYSRETQ loads AC and IOPL too",
        lambda d: d.mnemonic in ("sysret", "sysretq"),
    ),
    KnownFault(
        "how far REP INS comes before it faults",
        "APM vol. 3, INS, REP: every repetition is an instruction of its own; KVM takes up to 1024 bytes at once",
        lambda d: d.mnemonic.startswith("ins") and d.theirs == d.ours > 0,
    ),
    KnownFault(
        "LGDT and LIDT with 16 bits",
        "APM vol. 3, LGDT, LIDT: the operand is mem16:32, 6 bytes, of whose base the upper one is ignored; KVM reads 5",
        lambda d: d.mnemonic.rstrip("w") in ("lgdt", "lidt") and d.ours > 0 > d.theirs and d.case.mode.bits < 64,
    ),
    KnownFault(
        "WRMSR of machine-check controls",
        "APM vol. 2, 9.3.2.1: each bit of MCi_CTL can be set; KVM takes 0 and all ones alone",
        lambda d: d.mnemonic == "wrmsr" and d.theirs == 13 and 0x400 <= d.case.state.gpr[1] & 0xFFFF_FFFF < 0x480,
    ),
    KnownFault(
        "RDMSR of a Pentium's machine-check registers",
        "APM vol. 3, RDMSR: #GP(0) for an MSR that the processor does not have; KVM gives 0 for numbers 0 and 1, "
        "whatever CPUID says",
        lambda d: d.mnemonic == "rdmsr" and d.ours == 13 and d.case.state.gpr[1] & 0xFFFF_FFFF < 2,
    ),
    KnownFault(
        "LZCNT is not in the emulator",
        "APM vol. 3, LZCNT: F3 0F BD counts leading zeros where CPUID reports it; KVM's emulator carries out BSR",
        lambda d: d.mnemonic == "lzcnt",
    ),
    KnownFault(
        "AC is not cleared by an exception",
        "APM vol. 2, 8.7.1: delivery clears TF, NT, VM, RF and, for interrupt gates, IF",
        lambda d: d.theirs == d.ours > 0 and d.only("rflags") and (d.expected.state.rflags ^ d.got.state.rflags) == AC,
    ),
    KnownFault(
        "IRET with 16 or 32 bits in long mode",
        "APM vol. 3, IRET: IRET and IRETD are valid there too; this KVM has IRETQ alone and raises #GP(0)",
        lambda d: d.mnemonic in ("iret", "iretd") and d.case.mode.kind == "long" and d.theirs == 13,
    ),
    KnownFault(
        "what IRETQ checks and loads",
        "APM vol. 2, 4.8.1: L = 1 with D = 1 is reserved: #GP(selector), and so is a selector that names no code "
        "segment, or for SS no writable data segment; vol. 3, IRET: #GP(0) for an offset beyond the limit, "
        "#NP(selector) for a segment that is not present; IOPL is loaded at CPL 0, reserved flags stay 0; a descriptor "
        "that is loaded becomes accessed; data segments of an inner level become null; index 0 of the LDT is not null",
        lambda d: d.mnemonic == "iretq",
    ),
    KnownFault(
        "the upper half of ESP after an exception in real mode",
        "APM vol. 2, 2.4.3: with a 16-bit stack only SP is written",
        lambda d: (
            d.case.mode.bits == 16 and d.only("rsp") and not (d.expected.state.gpr[4] ^ d.got.state.gpr[4]) & 0xFFFF
        ),
    ),
    KnownFault(
        "paging without long mode",
        "APM vol. 2, 5.1: legacy paging with CR0.PG; a KVM that has none refuses the bit",
        lambda d: (
            d.mnemonic == "mov" and d.case.family == "control" and "cr0" in d.fields and d.got.state.cr0 >> 31 == 1
        ),
    ),
    KnownFault(
        "the accessed bit of a descriptor that is then refused",
        "APM vol. 2, 4.7.1: set when the descriptor is loaded; whether a load that faults has set it is not said",
        lambda d: d.theirs == d.ours > 0 and d.only("memory") and all(GDT <= at < IDT for at in d.places),
    ),
    KnownFault(
        "an exception's frame that reaches around the end of a 16-bit stack",
        "APM vol. 2, 4.12.2: limits are checked word by word, and SP wraps; KVM shuts down, or writes beyond 64 KB",
        lambda d: (
            d.case.family in ("stack", "plain")
            and d.case.mode.bits == 16
            and SHUTDOWN in (d.expected.ended, d.got.ended)
        ),
    ),
    KnownFault(
        "SYSENTER and SYSEXIT in long mode",
        "APM vol. 3, SYSENTER, SYSEXIT: 'in long mode' #UD",
        lambda d: d.mnemonic in ("sysenter", "sysexit", "sysexitq") and d.case.mode.kind == "long" and d.ours == 6,
    ),
)


def explained(difference: Difference) -> str:
    """The name of the fault that explains a difference, or ''."""
    for fault in FAULTS:
        if fault.holds(difference):
            return fault.name
    return ""


__all__ = ["FAULTS", "SHUTDOWN", "Difference", "KnownFault", "explained"]
