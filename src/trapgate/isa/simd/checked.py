"""SSE operations while MXCSR unmasks exceptions: #XF, or #UD without CR4.OSXMMEXCPT (APM vol. 2, 8.2.20).

The decoder chooses the `_checked` operations in that mode alone (cpu/mode.py, `simd_checked`). Their native code leaves
to the Python form before anything is written when the host's instruction has raised an unmasked exception.
"""

from __future__ import annotations

import iced_x86 as iced

import trapgate.isa.simd.compare
import trapgate.isa.simd.conversion
import trapgate.isa.simd.floating  # noqa: F401  (each registers its semantics)
from trapgate.arch import layout
from trapgate.arch.registers import CR4_OSXMMEXCPT
from trapgate.arch.vectors import UD, XF
from trapgate.isa.context import DEFINITIONS, Context, Definition, Operand, Semantics
from trapgate.isa.processor import Processor, python_form

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
    flags = p.state_field(layout.SIMD_FLAGS)
    masks = p.mxcsr >> 7
    if flags & ~masks & PRECOMPUTATION:
        flags &= PRECOMPUTATION
    p.mxcsr |= flags
    p.fault(XF if p.cr4 & CR4_OSXMMEXCPT else UD)
