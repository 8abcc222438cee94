"""Packed integer arithmetic, logic, comparison and shifts: one line an instruction (APM vol. 4 and 5, P...).

The same semantics serve MMX registers (64 bits) and XMM registers (128 bits). Wherever LLVM's own operators say what
the instruction does they are used; the x86 intrinsics, which are defined for every input, do the rest in 128 bits.
"""

from __future__ import annotations

from collections.abc import Callable

from trapgate.isa.context import Context, Operand, semantics
from trapgate.isa.ir import Value
from trapgate.isa.simd.common import begin_vector, lanes, read_source, write_vector

LaneOperation = Callable[[Value, Value], Value]


def _generic(name: str) -> LaneOperation:
    """An LLVM intrinsic that exists for every vector type."""

    def operation(a: Value, b: Value) -> Value:
        return a.emit.intrinsic(name, a.type, [a, b])

    return operation


def _all_ones_where(compare: LaneOperation, bits: int) -> LaneOperation:
    def operation(a: Value, b: Value) -> Value:
        return a.emit.cast("sext", compare(a, b), bits)

    return operation


def _low_product(a: Value, b: Value) -> Value:
    return (a & 0xFFFF_FFFF) * (b & 0xFFFF_FFFF)


#: Instructions that work lane by lane: (bits of a lane, operation on destination and source).
LANE_OPERATIONS: dict[str, tuple[int, LaneOperation]] = {
    "paddb": (8, Value.__add__),
    "paddw": (16, Value.__add__),
    "paddd": (32, Value.__add__),
    "paddq": (64, Value.__add__),
    "psubb": (8, Value.__sub__),
    "psubw": (16, Value.__sub__),
    "psubd": (32, Value.__sub__),
    "psubq": (64, Value.__sub__),
    "paddsb": (8, _generic("sadd.sat")),
    "paddsw": (16, _generic("sadd.sat")),
    "paddusb": (8, _generic("uadd.sat")),
    "paddusw": (16, _generic("uadd.sat")),
    "psubsb": (8, _generic("ssub.sat")),
    "psubsw": (16, _generic("ssub.sat")),
    "psubusb": (8, _generic("usub.sat")),
    "psubusw": (16, _generic("usub.sat")),
    "pminsw": (16, _generic("smin")),
    "pmaxsw": (16, _generic("smax")),
    "pminub": (8, _generic("umin")),
    "pmaxub": (8, _generic("umax")),
    "pmullw": (16, Value.__mul__),
    "pmuludq": (64, _low_product),
    "pcmpeqb": (8, _all_ones_where(Value.eq, 8)),
    "pcmpeqw": (16, _all_ones_where(Value.eq, 16)),
    "pcmpeqd": (32, _all_ones_where(Value.eq, 32)),
    "pcmpgtb": (8, _all_ones_where(Value.sgt, 8)),
    "pcmpgtw": (16, _all_ones_where(Value.sgt, 16)),
    "pcmpgtd": (32, _all_ones_where(Value.sgt, 32)),
    **dict.fromkeys(("pand", "andps", "andpd"), (64, Value.__and__)),
    **{name: (64, lambda a, b: ~a & b) for name in ("pandn", "andnps", "andnpd")},
    **dict.fromkeys(("por", "orps", "orpd"), (64, Value.__or__)),
    **dict.fromkeys(("pxor", "xorps", "xorpd"), (64, Value.__xor__)),
}

#: Instructions that are an x86 intrinsic: (name, bits of a source lane, bits of a result lane).
INTRINSICS: dict[str, tuple[str, int, int]] = {
    "pmulhw": ("pmulh.w", 16, 16),
    "pmulhuw": ("pmulhu.w", 16, 16),
    "pmaddwd": ("pmadd.wd", 16, 32),
    "psadbw": ("psad.bw", 8, 64),
    "pavgb": ("pavg.b", 8, 8),
    "pavgw": ("pavg.w", 16, 16),
}

#: Shifts of every lane by one count: (x86 intrinsic without and with "i" for a plain number, bits of a lane).
SHIFTS: dict[str, tuple[str, str, int]] = {
    "psllw": ("psll.w", "pslli.w", 16),
    "pslld": ("psll.d", "pslli.d", 32),
    "psllq": ("psll.q", "pslli.q", 64),
    "psrlw": ("psrl.w", "psrli.w", 16),
    "psrld": ("psrl.d", "psrli.d", 32),
    "psrlq": ("psrl.q", "psrli.q", 64),
    "psraw": ("psra.w", "psrai.w", 16),
    "psrad": ("psra.d", "psrai.d", 32),
}


def _define_lane_operation(name: str, bits: int, operation: LaneOperation) -> None:
    @semantics(name)
    def run(c: Context, destination: Operand, source: Operand) -> None:
        begin_vector(c, destination)
        b = read_source(c, source)
        write_vector(c, destination, operation(lanes(destination.read(), bits), lanes(b, bits)))


def x86(name: str, type_: str, arguments: list[Value]) -> Value:
    """An SSE2 intrinsic of LLVM's."""
    return arguments[0].emit.intrinsic(f"x86.sse2.{name}", type_, arguments, suffix="")


def _define_intrinsic(name: str, intrinsic: str, bits: int, result_bits: int) -> None:
    @semantics(name)
    def run(c: Context, destination: Operand, source: Operand) -> None:
        begin_vector(c, destination)
        b = lanes(read_source(c, source).zext(128), bits)
        a = lanes(destination.read().zext(128), bits)
        result = x86(intrinsic, f"<{128 // result_bits} x i{result_bits}>", [a, b])
        write_vector(c, destination, result.bitcast("i128").trunc(destination.width))


def _define_shift(name: str, by_register: str, by_number: str, bits: int) -> None:
    @semantics(name)
    def run(c: Context, destination: Operand, count: Operand) -> None:
        begin_vector(c, destination)
        # Counts of the lane's width and above give 0, or the sign, in the intrinsics too; only the low 64 bits count.
        if count.width == 8:
            intrinsic, amount = by_number, count.read().zext(32)
        else:
            intrinsic, amount = by_register, lanes(read_source(c, count).zext(128), bits)
        a = lanes(destination.read().zext(128), bits)
        result = x86(intrinsic, a.type, [a, amount])
        write_vector(c, destination, result.bitcast("i128").trunc(destination.width))


for _name, (_bits, _operation) in LANE_OPERATIONS.items():
    _define_lane_operation(_name, _bits, _operation)
for _name, (_intrinsic, _bits, _result_bits) in INTRINSICS.items():
    _define_intrinsic(_name, _intrinsic, _bits, _result_bits)
for _name, (_by_register, _by_number, _bits) in SHIFTS.items():
    _define_shift(_name, _by_register, _by_number, _bits)


def _shift_bytes(c: Context, destination: Operand, count: Operand, left: bool) -> None:
    begin_vector(c, destination)
    number = count.read()
    bits = (number & 15).zext(128) << 3
    value = destination.read()
    shifted = value << bits if left else value >> bits
    destination.write(number.ult(16).select(shifted, c.emit.constant(0, 128)))


@semantics("pslldq")
def pslldq(c: Context, destination: Operand, count: Operand) -> None:
    _shift_bytes(c, destination, count, left=True)


@semantics("psrldq")
def psrldq(c: Context, destination: Operand, count: Operand) -> None:
    _shift_bytes(c, destination, count, left=False)
