"""Floating-point arithmetic (APM vol. 4, ADDPS ... XORPS): every operation is the host's own instruction.

So NaNs, rounding, denormals-are-zero, flush-to-zero and the sticky flags of MXCSR are the hardware's: while native code
runs, the host's MXCSR is the guest's with all exceptions masked. RCPPS and RSQRTPS are approximations that differ
between processors; the guest sees those of the host.
"""

from __future__ import annotations

from trapgate.isa.context import Context, Operand, semantics
from trapgate.isa.ir import Value
from trapgate.isa.simd.common import host_instruction, read_source, write_vector

PS, PD = "<4 x float>", "<2 x double>"
_SCALAR_TYPES = {32: "float", 64: "double"}


def vector_or_scalar(value: Value, vector_type: str) -> Value:
    """An XMM register's value as `vector_type`, a scalar read from memory as the float type of its width."""
    return value.bitcast(vector_type if value.width == 128 else _SCALAR_TYPES[value.width])


def _define_binary(name: str, vector_type: str) -> None:
    """destination = destination op source; scalar forms keep the upper lanes of the destination."""

    @semantics(name)
    def run(c: Context, destination: Operand, source: Operand) -> None:
        # A scalar's memory operand is narrower than 128 bits, so it is not checked for alignment.
        b = vector_or_scalar(read_source(c, source), vector_type)
        arguments = [destination.read().bitcast(vector_type), b]
        write_vector(c, destination, host_instruction(c, f"{name} $2, $0", "=x,0,x", vector_type, arguments))


def _define_unary(name: str, vector_type: str) -> None:
    """destination = op source."""

    @semantics(name)
    def run(c: Context, destination: Operand, source: Operand) -> None:
        value = read_source(c, source).bitcast(vector_type)
        write_vector(c, destination, host_instruction(c, f"{name} $1, $0", "=x,x", vector_type, [value]))


for _operation in ("add", "sub", "mul", "div", "min", "max"):
    for _suffix, _type in (("ps", PS), ("pd", PD), ("ss", PS), ("sd", PD)):
        _define_binary(_operation + _suffix, _type)
for _operation in ("hadd", "hsub", "addsub"):
    for _suffix, _type in (("ps", PS), ("pd", PD)):
        _define_binary(_operation + _suffix, _type)
for _name, _type in (("sqrtss", PS), ("sqrtsd", PD), ("rcpss", PS), ("rsqrtss", PS)):
    _define_binary(_name, _type)
for _name, _type in (("sqrtps", PS), ("sqrtpd", PD), ("rcpps", PS), ("rsqrtps", PS)):
    _define_unary(_name, _type)
