"""What is known of the checks that do not pass somewhere: emulator, check, why."""

from __future__ import annotations

#: Checks that trapgate is known to fail, and why. A test fails when one of them passes.
KNOWN_GAPS: dict[str, str] = {}

_NO_LIMITS = "TCG checks no segment limits, and of rights only those at the load of a register"
_NO_VME = "TCG has no VME"
_NO_RF = "TCG does not set RF in the frame of a fault"
_NO_AC = "TCG has no alignment checks"
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
    "#AC": _NO_AC,
}


def difference(name: str) -> str:
    """Why QEMU is known to fail a check; "" when it is not."""
    return next((why for start, why in QEMU_DIFFERENCES.items() if name.startswith(start)), "")
