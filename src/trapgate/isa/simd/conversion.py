"""Conversions between integers and floating point, and between precisions (APM vol. 4 and 5, CVT...).

Each is the host's own instruction, for MXCSR's rounding and sticky flags. The MMX forms use the host's XMM form of the
same conversion: zeros in the lanes that it has more convert exactly.
"""

from __future__ import annotations

from trapgate.isa.context import Context, Operand, semantics
from trapgate.isa.simd.common import (
    begin_mmx,
    enter_mmx_state,
    host_instruction,
    read_source,
    write_lane,
    write_mmx,
    write_vector,
)
from trapgate.isa.simd.floating import PD, PS, vector_or_scalar

DQ = "<4 x i32>"

#: Whole-register conversions: (type of the source, type of the result). CVTDQ2PD and CVTPS2PD read only 64 bits.
PACKED: dict[str, tuple[str, str]] = {
    "cvtdq2ps": (DQ, PS),
    "cvtdq2pd": (DQ, PD),
    "cvtps2dq": (PS, DQ),
    "cvttps2dq": (PS, DQ),
    "cvtpd2dq": (PD, DQ),
    "cvttpd2dq": (PD, DQ),
    "cvtpd2ps": (PD, PS),
    "cvtps2pd": (PS, PD),
}

#: MMX register or memory to two floats: (the XMM form, type of the result).
FROM_MMX: dict[str, tuple[str, str]] = {"cvtpi2ps": ("cvtdq2ps", PS), "cvtpi2pd": ("cvtdq2pd", PD)}

#: Two floats to an MMX register: (the XMM form, type of the source).
TO_MMX: dict[str, tuple[str, str]] = {
    "cvtps2pi": ("cvtps2dq", PS),
    "cvttps2pi": ("cvttps2dq", PS),
    "cvtpd2pi": ("cvtpd2dq", PD),
    "cvttpd2pi": ("cvttpd2dq", PD),
}


def _define_packed(name: str, source_type: str, result_type: str) -> None:
    @semantics(name)
    def run(c: Context, destination: Operand, source: Operand) -> None:
        value = read_source(c, source).zext(128).bitcast(source_type)
        write_vector(c, destination, host_instruction(c, f"{name} $1, $0", "=x,x", result_type, [value]))


def _define_from_mmx(name: str, host_name: str, result_type: str) -> None:
    @semantics(name)
    def run(c: Context, destination: Operand, source: Operand) -> None:
        # From memory these touch no MMX state. The Intel SDM (vol. 2, CVTPI2PS) says otherwise of one of them, but the
        # processors do not do it.
        is_mmx = not source.is_memory
        if is_mmx:
            begin_mmx(c)
        value = source.read().zext(128).bitcast(DQ)
        result = host_instruction(c, f"{host_name} $1, $0", "=x,x", result_type, [value])
        if result_type == PS:
            write_lane(destination, result.bitcast("i128").trunc(64))
        else:
            write_vector(c, destination, result)
        if is_mmx:
            enter_mmx_state(c)


def _define_to_mmx(name: str, host_name: str, source_type: str) -> None:
    @semantics(name)
    def run(c: Context, destination: Operand, source: Operand) -> None:
        begin_mmx(c)
        value = read_source(c, source)
        if source_type == PS:
            # The upper two lanes of a register take no part, so they must not set sticky flags either.
            value = value.trunc(64).zext(128)
        result = host_instruction(c, f"{host_name} $1, $0", "=x,x", DQ, [value.bitcast(source_type)])
        write_mmx(c, destination, result.bitcast("i128").trunc(64))


for _name, (_source_type, _result_type) in PACKED.items():
    _define_packed(_name, _source_type, _result_type)
for _name, (_host_name, _result_type) in FROM_MMX.items():
    _define_from_mmx(_name, _host_name, _result_type)
for _name, (_host_name, _source_type) in TO_MMX.items():
    _define_to_mmx(_name, _host_name, _source_type)


def _define_precision(name: str, source_type: str, result_type: str) -> None:
    """CVTSS2SD, CVTSD2SS: the upper lanes of the destination stay."""

    @semantics(name)
    def run(c: Context, destination: Operand, source: Operand) -> None:
        arguments = [destination.read().bitcast(result_type), vector_or_scalar(source.read(), source_type)]
        write_vector(c, destination, host_instruction(c, f"{name} $2, $0", "=x,0,x", result_type, arguments))


def _define_from_integer(name: str, result_type: str) -> None:
    @semantics(name)
    def run(c: Context, destination: Operand, source: Operand) -> None:
        arguments = [destination.read().bitcast(result_type), source.read()]
        text = f"{name}{'q' if source.width == 64 else 'l'} $2, $0"
        write_vector(c, destination, host_instruction(c, text, "=x,0,r", result_type, arguments))


def _define_to_integer(name: str, source_type: str) -> None:
    @semantics(name)
    def run(c: Context, destination: Operand, source: Operand) -> None:
        value = vector_or_scalar(source.read(), source_type)
        destination.write(host_instruction(c, f"{name} $1, $0", "=r,x", f"i{destination.width}", [value]))


_define_precision("cvtss2sd", PS, PD)
_define_precision("cvtsd2ss", PD, PS)
_define_from_integer("cvtsi2ss", PS)
_define_from_integer("cvtsi2sd", PD)
for _name, _source_type in (("cvtss2si", PS), ("cvttss2si", PS), ("cvtsd2si", PD), ("cvttsd2si", PD)):
    _define_to_integer(_name, _source_type)
