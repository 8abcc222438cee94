"""SSE operations while MXCSR unmasks exceptions: #XF, or #UD without CR4.OSXMMEXCPT (APM vol. 2, 8.2.20).

The decoder chooses the `_checked` operations in that mode alone (cpu/mode.py, `simd_checked`). Their native code leaves
to the Python form before anything is written when the host's instruction has raised an unmasked exception.
"""

from __future__ import annotations

import re

import iced_x86 as iced
from iced_x86 import Register

import trapgate.isa.simd.compare
import trapgate.isa.simd.conversion
import trapgate.isa.simd.floating  # noqa: F401  (each registers its semantics)
from trapgate.arch import layout
from trapgate.arch.registers import CR4_OSXMMEXCPT
from trapgate.arch.vectors import UD, XF
from trapgate.isa.context import DEFINITIONS, Context, Definition, Operand, Semantics
from trapgate.isa.operand_tables import MNEMONICS
from trapgate.isa.processor import Processor, python_form
from trapgate.isa.simd.inexact import any_inexact

#: Every operation that can raise a SIMD floating-point exception (APM vol. 1, 4.10.2, table 4-9).
OPERATIONS = tuple(
    name
    for name in DEFINITIONS
    if name in ("cvtpi2ps", "comiss", "comisd", "ucomiss", "ucomisd", "cmpps", "cmppd", "cmpss", "cmpsd")
    or (name.startswith("cvt") and name not in ("cvtdq2pd", "cvtpi2pd"))
    or (name[-2:] in ("ps", "pd", "ss", "sd") and name[:-2] in (
        "add", "sub", "mul", "div", "min", "max", "sqrt", "hadd", "hsub", "addsub",
    ))
)  # fmt: skip
#: Exceptions that are found before the operation is done: invalid, denormal, divide by zero (APM vol. 1, 4.10.3).
PRECOMPUTATION = 0x07


OVERFLOW, UNDERFLOW, PRECISION = 1 << 3, 1 << 4, 1 << 5
_ARITHMETIC = re.compile(r"(addsub|hadd|hsub|add|sub|mul|div)([sp])([sd])$|cvt([sp])d2\4s$")


def _operands(p: Processor, instruction: iced.Instruction) -> tuple[str, list[tuple[int, int]]] | None:
    """(operation, pairs of operands) of the lanes; None for operations that neither overflow nor underflow."""
    name = MNEMONICS[instruction.mnemonic]
    match = _ARITHMETIC.match(name)
    if match is None:
        return None
    converts = match[1] is None
    width = 64 if converts or match[3] == "d" else 32
    lanes = 1 if "s" in (match[2], match[4]) else 128 // width
    mask = (1 << width) - 1
    a, b = ([p.operand(instruction, i) >> width * n & mask for n in range(lanes)] for i in (0, 1))
    if converts:
        return "cvt", [(value, 0) for value in b]
    operation = match[1]
    if operation in ("hadd", "hsub"):
        both = a + b
        return operation[1:], [(both[n], both[n + 1]) for n in range(0, len(both), 2)]
    if operation == "addsub":
        # Even lanes subtract.
        sign = 1 << width - 1
        return "add", [(x, y ^ sign if n % 2 == 0 else y) for n, (x, y) in enumerate(zip(a, b, strict=True))]
    return operation, list(zip(a, b, strict=True))


def _checked(function: Semantics) -> Semantics:
    def run(c: Context, *operands: Operand) -> None:
        c.checked = True
        try:
            function(c, *operands)
        finally:
            c.checked = False

    return run


for _name in OPERATIONS:
    DEFINITIONS[f"{_name}_checked"] = Definition(f"{_name}_checked", _checked(DEFINITIONS[_name].function), False)


@python_form(*(f"{name}_checked_python" for name in OPERATIONS))
def raise_simd_exception(p: Processor, instruction: iced.Instruction) -> None:
    """The flags of an unmasked exception go to MXCSR; the destination stays.

    An unmasked exception that is found before the operation keeps those from happening that come after it.
    An MMX operand makes no difference: the x87 state stays too.
    """
    if p.x87_error_waits and any(Register.MM0 <= instruction.op_register(i) <= Register.MM7 for i in range(2)):
        p.report_x87_error()
        return
    flags = p.state_field(layout.SIMD_FLAGS)
    masks = p.mxcsr >> 7
    if flags & ~masks & PRECOMPUTATION:
        flags &= PRECOMPUTATION
    elif flags & ~masks & (OVERFLOW | UNDERFLOW):
        width = 64 if MNEMONICS[instruction.mnemonic].endswith("d") else 32
        pairs = _operands(p, instruction)
        if pairs is not None and not any_inexact(*pairs, width, ~masks & (OVERFLOW | UNDERFLOW), p.mxcsr):
            flags &= ~PRECISION
    p.mxcsr |= flags
    p.fault(XF if p.cr4 & CR4_OSXMMEXCPT else UD)
