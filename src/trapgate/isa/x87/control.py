"""Control: FNINIT, FNCLEX, FLDCW, FNSTCW, FNSTSW, FWAIT, FNOP (APM vol. 5, 26569, chapter 2).

The forms without N (FINIT, FSTCW ...) are FWAIT followed by these.
"""

from __future__ import annotations

from trapgate.arch import layout
from trapgate.isa.context import Context, Operand, semantics
from trapgate.isa.x87.unit import BUSY, CONTROL_INITIAL, ES, EXCEPTIONS, SF, Unit, set_control, status_word


def initialize(c: Context) -> None:
    """What FNINIT does: everything empty, exceptions masked, round to nearest, 64-bit precision. Registers stay."""
    for offset in (
        layout.FPU_VALID,
        layout.FPU_OPCODE,
        layout.FPU_IP,
        layout.FPU_DP,
        layout.FPU_CS,
        layout.FPU_DS,
    ):
        c.set_field(offset, c.emit.constant(0, 64))
    c.set_field(layout.FPU_TOP, c.emit.constant(0, 32))
    c.set_field(layout.FPU_STATUS, c.emit.constant(0, 16))
    set_control(c, c.emit.constant(CONTROL_INITIAL, 16))


@semantics("fninit")
def fninit(c: Context) -> None:
    initialize(c)


@semantics("fnclex")
def fnclex(c: Context) -> None:
    status = c.field(layout.FPU_STATUS, 16)
    c.set_field(layout.FPU_STATUS, status & ~(EXCEPTIONS | SF | ES | BUSY))


@semantics("fldcw")
def fldcw(c: Context, source: Operand) -> None:
    Unit(c)
    set_control(c, source.read())


@semantics("fnstcw")
def fnstcw(c: Context, target: Operand) -> None:
    target.write(c.field(layout.FPU_CONTROL, 16))


@semantics("fnstsw")
def fnstsw(c: Context, target: Operand) -> None:
    target.write(status_word(c))


@semantics("wait", "fnop")
def wait(c: Context) -> None:
    Unit(c)


@semantics("fneni", "fndisi", "fnsetpm")
def of_older_units(c: Context) -> None:
    """Orders to the 8087 and the 80287, which later units ignore."""
