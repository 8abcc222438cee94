"""What is known of the checks that do not pass somewhere: emulator, check, why."""

from __future__ import annotations

#: Checks that trapgate is known to fail, and why. A test fails when one of them passes.
KNOWN_GAPS: dict[str, str] = {}

_NO_LIMITS = "TCG checks no segment limits, and of rights only those at the load of a register"
_NO_VME = "TCG has no VME"
_NO_RF = "TCG does not set RF in the frame of a fault"
_NO_AC = "TCG has no alignment checks"
_NO_X87_FAULTS = "TCG's x87 has no stack faults, no denormal-operand exception and only masked responses"
_LAX_MSRS = "unknown MSRs and reserved values raise nothing"
#: QEMU's differences, by the beginning of the check's name; found with QEMU 7.2.
QEMU_DIFFERENCES: dict[str, str] = {
    "expand-down": _NO_LIMITS,
    "limit:": _NO_LIMITS,
    "a write to read-only data": _NO_LIMITS,
    "a write through CS": _NO_LIMITS,
    "a null selector loads": _NO_LIMITS,
    "a word at": _NO_LIMITS,
    "an offset of 32 bits above": _NO_LIMITS,
    "code that runs past FFFFh": _NO_LIMITS,
    "no error code is pushed": _NO_LIMITS,
    "the limit is FFFFh": _NO_LIMITS,
    "PUSH with SP = 1": _NO_LIMITS,
    "a bad stack for a handler": _NO_LIMITS,
    "LAR: rights of a data segment": "the limit's bits 19:16 are missing from LAR's result",
    "LAR: not present": "the limit's bits 19:16 are missing from LAR's result",
    "16-bit call gate: the high half": "takes the high half of the gate into the offset",
    "call gate to a target behind": "raises #GP with the selector instead of 0",
    "a fault while an exception is delivered": "EXT is missing from the error code",
    "the saved RF": _NO_RF,
    "task gate for a fault": _NO_RF,
    "the T bit": "TCG ignores the T bit",
    "LTR of a null selector": "LTR takes a null selector",
    "LOCK where it is not allowed": "LOCK is ignored before a register form",
    "VME:": _NO_VME,
    "PVI:": "TCG has no PVI",
    "INT1": "F1h is #UD",
    "a data breakpoint behind MOV SS": "the trap comes right behind MOV SS",
    "DR7.GD": "TCG ignores GD",
    "single step over HLT": "sleeps until an interrupt",
    "an I/O breakpoint on REP": "the trap comes behind the last turn",
    "LODS with a segment override": _NO_LIMITS,
    "ENTER checks the whole frame": "the new top of the stack is not tried",
    "a vector below 16": "the illegal vector is accepted",
    "a disabled APIC": "the mask bits of the local vectors stay clear",
    "CR0.NE clear": "QEMU aborts",
    "through RSP or RBP": "raises #GP instead of #SS",
    "an access that ends in the non-canonical range": "raises #PF instead of #GP",
    "a jump to a non-canonical": "faults behind the jump",
    "RET to a non-canonical": "faults behind RET",
    "a non-canonical base": "takes the base",
    "16-bit gates and task gates": "a wrong error code",
    "NX bit with EFER.NXE clear": "the reserved bit is missing from the error code",
    "CR0.PG cannot be cleared": "clears it",
    "EFER.LME cannot change": "changes it",
    "reserved bits of CR": "takes reserved bits",
    "4 MB pages: D": "the present bit is missing from the error code",
    "PAE: the directory pointers": "reads the pointers at every walk",
    "PAE: reserved bits": "takes reserved bits of the pointers",
    "PG with PE clear": "takes PG without PE",
    "stack overflow: IE": _NO_X87_FAULTS,
    "stack underflow: IE": _NO_X87_FAULTS,
    "a load of a denormal of 32 bits": _NO_X87_FAULTS,
    "an unmasked divide by zero": _NO_X87_FAULTS,
    "FNSTENV stores": "FNSTENV leaves the masks",
    "CR0.EM:": "MMX and SSE look at TS and EM in part only",
    "an MMX instruction makes": "the exponents of the registers are not set",
    "FXRSTOR of reserved": "takes reserved bits of MXCSR",
    "LDMXCSR of reserved": "takes reserved bits of MXCSR",
    "an unmasked exception": "TCG raises no #XF",
    "an MSR that is not there": _LAX_MSRS,
    "MTRRcap": _LAX_MSRS,
    "MTRRdefType": _LAX_MSRS,
    "PAT: a reserved type": _LAX_MSRS,
    "machine check: banks": _LAX_MSRS,
    "TSC counts": "a write of the TSC has no effect",
    "CR0: NW without CD": "takes NW without CD",
    "#AC": _NO_AC,
}


def difference(name: str) -> str:
    """Why QEMU is known to fail a check; "" when it is not."""
    return next((why for start, why in QEMU_DIFFERENCES.items() if name.startswith(start)), "")


_NO_POINTERS = (
    "APM vol. 2, 15.25.10: under nested paging the processor reads PAE's first level at each walk, and MOV CR3 checks "
    "nothing"
)
#: Where a guest of a technique differs from the bare machine, as the manual says or as docs/hypervisor.md does.
TECHNIQUE_DIFFERENCES: dict[str, dict[str, str]] = {
    "software": {},
    "shadow": {},
    "nested-tagged": {
        "PAE: the directory pointers are read when CR3 is written": _NO_POINTERS,
        "PAE: reserved bits in a directory pointer make MOV CR3 #GP": _NO_POINTERS,
    },
}
