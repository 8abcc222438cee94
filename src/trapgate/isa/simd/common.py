"""What all SSE and MMX instructions share: how they read sources and write registers.

Whether they may run at all (CR0.EM, CR0.TS, CR4.OSFXSR) is settled when they are decoded.

MMX register i is the low 64 bits of physical x87 register i, so MMX instructions change the x87 state around it
(APM vol. 1, 5.12; APM vol. 2, 11.4.2).
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from trapgate.arch import layout
from trapgate.arch.registers import CR0_NE
from trapgate.isa.context import Context, Operand
from trapgate.isa.ir import Value

# Exception vectors (APM vol. 2, 8.2).
GENERAL_PROTECTION, X87_FLOATING_POINT = 13, 16

# MXCSR (APM vol. 1, 4.2.2): exception flags, of which underflow, and flush-to-zero.
SIMD_FLAGS, UNDERFLOW, FLUSH_TO_ZERO = 0x3F, 1 << 4, 1 << 15

#: Exception-summary bit of the x87 status word (APM vol. 1, 6.2.2).
STATUS_ES = 1 << 7


def begin_mmx(c: Context) -> None:
    """#MF where an x87 exception is pending: MMX instructions report it too (APM vol. 1, 5.14)."""
    pending = (c.field(layout.FPU_STATUS, 16) & STATUS_ES).ne(0)
    with c.emit.when(pending, likely=False):
        # Without CR0.NE the processor signals FERR and waits for an external interrupt.
        c.plain_python_if((c.field(layout.CR0) & CR0_NE).eq(0))
        c.fault_if(c.emit.constant(1, 1), X87_FLOATING_POINT)


def begin_vector(c: Context, register: Operand) -> None:
    """begin_mmx if `register` is an MMX register."""
    if register.width == 64:
        begin_mmx(c)


def require_alignment(c: Context, operand: Operand) -> None:
    """#GP(0) for a memory operand that is not on a 16-byte boundary (APM vol. 1, 4.4.3)."""
    if operand.is_memory:
        c.fault_if((operand.linear() & 15).ne(0), GENERAL_PROTECTION, 0)


def read_source(c: Context, operand: Operand) -> Value:
    """A register or memory operand as it is; 128-bit memory operands must be aligned."""
    if operand.width == 128:
        require_alignment(c, operand)
    return operand.read()


def enter_mmx_state(c: Context) -> None:
    """What every MMX instruction but EMMS does to the x87 unit: all tags valid, TOP 0."""
    c.set_field(layout.FPU_VALID, c.emit.constant(0x0101_0101_0101_0101, 64))
    c.set_field(layout.FPU_TOP, c.emit.constant(0, 32))


def write_mmx(c: Context, destination: Operand, value: Value) -> None:
    """Write 64 bits to an MMX register: sign and exponent of the x87 register behind it become ones."""
    destination.write(value.zext(80) | (0xFFFF << 64))
    enter_mmx_state(c)


def write_vector(c: Context, destination: Operand, value: Value) -> None:
    """Write a whole XMM or MMX register."""
    whole = value.bitcast(f"i{destination.width}")
    if destination.width == 64:
        write_mmx(c, destination, whole)
    else:
        destination.write(whole)


def lanes(value: Value, bits: int) -> Value:
    """The same bits as a vector of integers of `bits` bits."""
    return value.bitcast(f"<{value.width // bits} x i{bits}>")


def write_lane(destination: Operand, value: Value, index: int = 0) -> None:
    """Replace one lane of an XMM register, as wide as `value`.

    The whole register is written, because a partial write followed by a whole read would stall the host.
    """
    old = lanes(destination.read(), value.width)
    destination.write(destination_bits(destination, old, value, index))


def destination_bits(destination: Operand, old: Value, value: Value, index: int) -> Value:
    """`old` with one lane replaced, as an integer of the destination's width."""
    return old.emit.insert(old, value, index).bitcast(f"i{destination.width}")


def host_instruction(c: Context, text: str, constraints: str, type_: str, arguments: Sequence[Value]) -> Value:
    """One host instruction (AT&T syntax) with a result: exactly the hardware's rounding, NaNs and sticky flags."""
    if c.checked:
        return _checked_instruction(c, text, constraints, type_, arguments)
    result = c.emit.assembly(text, constraints, type_, arguments)
    assert result is not None
    return result


#: Operations whose results can be tiny: with UE unmasked, a tiny result raises it even when it is exact
#: (APM vol. 1, 4.10.1 "Underflow Exception").
_MAY_UNDERFLOW = re.compile(r"(add|sub|mul|div|hadd|hsub|addsub)(ss|sd|ps|pd) |(cvtsd2ss|cvtpd2ps) ")


def _checked_instruction(c: Context, text: str, constraints: str, type_: str, arguments: Sequence[Value]) -> Value:
    """The same, left to Python when it raises an exception that the guest's MXCSR does not mask.

    The host's flags are cleared first, so that afterwards they are this instruction's; nothing has been written yet
    when Python takes over. Flush-to-zero works only while underflow is masked (APM vol. 1, 4.2.2).
    """
    e, place = c.emit, c.state_pointer(layout.FPU_SCRATCH)
    e.intrinsic_void("x86.sse.stmxcsr", [place], "")
    old = c.field(layout.FPU_SCRATCH, 32)
    masks = (c.field(layout.MXCSR, 32) >> 7) & SIMD_FLAGS
    underflow = (masks & UNDERFLOW).eq(0)
    cleared = old & ~SIMD_FLAGS
    c.set_field(layout.FPU_SCRATCH, underflow.select(cleared & ~FLUSH_TO_ZERO, cleared))
    e.intrinsic_void("x86.sse.ldmxcsr", [place], "")
    result = e.assembly(text, constraints, type_, arguments)
    assert result is not None
    e.intrinsic_void("x86.sse.stmxcsr", [place], "")
    flags = c.field(layout.FPU_SCRATCH, 32) & SIMD_FLAGS
    if _MAY_UNDERFLOW.match(text):
        tiny = _any_denormal(result, scalar=text.split(" ")[0][-2:] in ("ss", "sd"))
        flags = (underflow & tiny).select(flags | UNDERFLOW, flags)
    raised = (flags & ~masks).ne(0)
    c.set_field(layout.SIMD_FLAGS, flags.zext(64))
    c.set_field(layout.FPU_SCRATCH, raised.select(old, old | flags))
    e.intrinsic_void("x86.sse.ldmxcsr", [place], "")
    c.plain_python_if(raised)
    return result


def _any_denormal(result: Value, scalar: bool) -> Value:
    """Whether a lane (the first one of a scalar operation) is denormal (i1)."""
    width = 64 if "double" in result.type else 32
    significand = 52 if width == 64 else 23
    whole = result.bitcast("i128")
    found: Value | None = None
    for i in range(1 if scalar else 128 // width):
        lane = (whole >> i * width).trunc(width)
        magnitude = lane & ((1 << width - 1) - 1)
        denormal = magnitude.ne(0) & magnitude.ult(1 << significand)
        found = denormal if found is None else found | denormal
    assert found is not None
    return found
