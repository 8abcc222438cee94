"""Where Intel's and AMD's processors differ, or the manuals leave room, and what the tests do about it.

SDM: Intel 64 and IA-32 Architectures Software Developer's Manual. APM: AMD64 Architecture Programmer's Manual. Rules
that depend on a case are the functions below; `undefined.py` has what both manuals leave undefined.
"""

from __future__ import annotations

import dataclasses

from . import areas
from .areas import Case, Outcome, State
from .undefined import ARITHMETIC

_LOW_HALF = 0xFFFF_FFFF
_RCX, _RSI, _RDI = 1, 6, 7
_ADDRESS_SIZE_PREFIX = b"\x67"
_GENERAL_PROTECTION, _PAGE_FAULT = 13, 14

#: (what, what the manuals say, what the generator does)
AVOIDED = (
    (
        "near branches with a 16-bit operand size in 64-bit code",
        "SDM vol. 2, Jcc: 'In 64-bit mode, operand size is fixed at 64 bits'. APM vol. 3, Jcc: 16-bit displacements, "
        "rip cut to 16 bits.",
        "such forms are left out (forms.py)",
    ),
    (
        "near RET to a non-canonical address",
        "SDM vol. 2, RET: #GP(0) of the RET itself, with rip and rsp unchanged. AMD's processors may report it where "
        "the target is fetched.",
        "return addresses are in the slot (implicit.py)",
    ),
    (
        "80-bit operands across a page that is missing",
        "The manuals let a fault change nothing. Intel's processors have stored the first 8 bytes.",
        "80-bit operands lie in the window (generate.py)",
    ),
    (
        "saved x87 instruction and data pointers",
        "SDM vol. 1, 8.1.8: with CPUID.7.EBX bit 6 the data pointer is kept for x87 exceptions only. APM vol. 2, "
        "11.4.4: FXSAVE saves pointers only if an exception is pending.",
        "their bytes are not compared (undefined.py, ignored_memory)",
    ),
    (
        "which operand of CMPS faults first",
        "Neither manual orders the two reads.",
        "at most one of them faults (implicit.py)",
    ),
)


def accepted(case: Case, expected: Outcome, got: Outcome) -> bool:
    """Whether trapgate's page fault is AMD's answer where the host, an Intel processor, raises none.

    MOVSXD with a 16-bit destination: SDM vol. 2, MOVSXD, 'MOVSXD r16, r/m16'; AMD's processors read 32 bits.

    Stores of the x87 unit that an unmasked exception keeps from being stored: the manuals give no order between this
    exception and a page fault; Intel's processors do not look at the page, AMD's do.

    Nor need the host lack what no profile has: bit 17 of MXCSR (APM vol. 1, 4.2.2, misaligned exception mask) comes
    with CPUID's MisAlignSse; without it LDMXCSR raises #GP.
    """
    if expected.vector == -1 and got.vector == _GENERAL_PROTECTION and case.form == "LDMXCSR_M32":
        value = int.from_bytes(case.state.window[case.operand_offset :][:4], "little")
        return 0 <= case.operand_offset <= areas.WINDOW_SIZE - 4 and value >> 16 == 2
    if expected.vector != -1 or got.vector != _PAGE_FAULT:
        return False
    places = areas.PLACES[case.mode]
    if case.form == "MOVSXD_R16_RM16":
        left = areas.WINDOW_SIZE - case.operand_offset
        return left in (2, 3) and got.address == places.unmapped
    unmasked = _word(expected.state, areas.FX_STATUS) & ~_word(expected.state, areas.FX_CONTROL) & 0x3F
    return (
        case.text.startswith(("fst", "fist", "fbst"))
        and bool(unmasked)
        and expected.state.window == case.state.window
        and got.state == case.state
    )


def _word(state: State, offset: int) -> int:
    return int.from_bytes(state.fx[offset : offset + 2], "little")


def compared_register_bits(case: Case, expected: Outcome) -> dict[int, int]:
    """Registers of which only some bits are compared: number to mask.

    REP with an address size of 32 bits in 64-bit code: Intel's processors clear the upper halves of rCX, rSI and rDI
    even when no turn was completed; the manuals say only that nothing is done when the count is 0.
    """
    interrupted = expected.vector >= 0 and case.repeats
    if (interrupted or case.no_turns) and _ADDRESS_SIZE_PREFIX in case.code[:4]:
        return dict.fromkeys((_RCX, _RSI, _RDI), _LOW_HALF)
    return {}


def uncompared_flags(case: Case, expected: Outcome) -> int:
    """RFLAGS bits that are not compared after an exception.

    SDM vol. 2, REP: 'When a page fault occurs during CMPS or SCAS instructions that are prefixed with REPNE, the EFLAGS
    value is restored to the state prior to the execution of the instruction.' APM vol. 3 does not say so; the
    instruction goes on without looking at them.
    """
    return ARITHMETIC if expected.vector >= 0 and case.repeats else 0


def floating_reference(case: Case, expected: Outcome) -> State | None:
    """Another floating-point state that is as good as the host's, or None.

    An MMX instruction that faults changes nothing (page faults let the instruction be restarted); Intel's
    processors have already set TOP to 0. MXCSR is what the fault makes it: #XF sets its flags.
    """
    if expected.vector >= 0 and "_MM" in case.form:
        fx = bytearray(case.state.fx)
        mxcsr = slice(areas.FX_MXCSR, areas.FX_MXCSR + 4)
        fx[mxcsr] = expected.state.fx[mxcsr]
        return dataclasses.replace(expected.state, fx=bytes(fx))
    return None
