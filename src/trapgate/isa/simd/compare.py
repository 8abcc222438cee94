"""Floating-point comparisons: CMPPS and its kind, COMISS, UCOMISS (APM vol. 4)."""

from __future__ import annotations

from trapgate.isa.context import Context, Operand, semantics
from trapgate.isa.simd.common import host_instruction, read_source, write_vector
from trapgate.isa.simd.floating import PD, PS, vector_or_scalar

#: ZF, PF and CF, which the comparisons that set flags can set; they clear OF, SF and AF.
_COMPARED = 0x45


def _define_compare(name: str, vector_type: str) -> None:
    @semantics(name)
    def run(c: Context, destination: Operand, source: Operand, predicate: Operand) -> None:
        """Predicates 0 to 3 are EQ, LT, LE, UNORD; 4 more is the complement, with the same exceptions."""
        b = vector_or_scalar(read_source(c, source), vector_type)
        a = destination.read().bitcast(vector_type)
        number = predicate.read()
        base = number & 3
        result = c.emit.variable(a)
        for i in range(4):
            with c.emit.when(base.eq(i)):
                result.set(host_instruction(c, f"{name} $${i}, $2, $0", "=x,0,x", vector_type, [a, b]))
        lane = 64 if name[-2] == "p" or name[-1] == "d" else 32
        mask = c.emit.vector_constant([(1 << lane) - 1, -1 if name[-2] == "p" else 0], "i64")
        complement = (number & 4).ne(0).select(mask, mask ^ mask)
        write_vector(c, destination, result.get().bitcast(mask.type) ^ complement)


for _name, _type in (("cmpps", PS), ("cmppd", PD), ("cmpss", PS), ("cmpsd", PD)):
    _define_compare(_name, _type)


def _define_flag_compare(name: str, vector_type: str) -> None:
    @semantics(name)
    def run(c: Context, destination: Operand, source: Operand) -> None:
        b = vector_or_scalar(read_source(c, source), vector_type)
        a = destination.read().bitcast(vector_type)
        # LAHF puts the low byte of the flags into bits 15:8 of EAX.
        text = f"{name} $2, $1\\0A\\09lahf"
        eax = host_instruction(c, text, "={eax},x,x,~{flags}", "i32", [a, b])
        c.flags.set_bits((eax >> 8) & _COMPARED)


for _name, _type in (("comiss", PS), ("comisd", PD), ("ucomiss", PS), ("ucomisd", PD)):
    _define_flag_compare(_name, _type)
