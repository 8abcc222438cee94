"""Shuffles, unpacking, packing, single words and masks (APM vol. 4 and 5, PSHUF..., PUNPCK..., PACK..., PMOVMSKB)."""

from __future__ import annotations

from collections.abc import Sequence

from trapgate.isa.context import Context, Operand, semantics
from trapgate.isa.ir import Value
from trapgate.isa.simd.common import (
    begin_vector,
    enter_mmx_state,
    lanes,
    read_source,
    write_vector,
)
from trapgate.isa.simd.integer import x86


def _arrange(order: Value, into: Value, places: Sequence[tuple[int, Value]], bits: int, base: int = 0) -> Value:
    """`into` with lanes replaced: for each (place, source), `bits` further bits of the order byte number the lane.

    `base` is added to that number. With a constant order LLVM makes one shuffle of it.
    """
    emit = into.emit
    result = into
    for i, (place, source) in enumerate(places):
        number = ((order >> (i * bits)) & ((1 << bits) - 1)).zext(32) + base
        result = emit.insert(result, emit.extract(source, number), place)
    return result


@semantics("pshufd")
def pshufd(c: Context, destination: Operand, source: Operand, order: Operand) -> None:
    value = lanes(read_source(c, source), 32)
    write_vector(c, destination, _arrange(order.read(), value, [(i, value) for i in range(4)], 2))


@semantics("pshufw", "pshuflw")
def pshuflw(c: Context, destination: Operand, source: Operand, order: Operand) -> None:
    """The low four words; PSHUFLW copies the high ones."""
    begin_vector(c, destination)
    value = lanes(read_source(c, source), 16)
    write_vector(c, destination, _arrange(order.read(), value, [(i, value) for i in range(4)], 2))


@semantics("pshufhw")
def pshufhw(c: Context, destination: Operand, source: Operand, order: Operand) -> None:
    value = lanes(read_source(c, source), 16)
    write_vector(c, destination, _arrange(order.read(), value, [(i, value) for i in range(4, 8)], 2, base=4))


@semantics("shufps")
def shufps(c: Context, destination: Operand, source: Operand, order: Operand) -> None:
    b = lanes(read_source(c, source), 32)
    a = lanes(destination.read(), 32)
    write_vector(c, destination, _arrange(order.read(), a, [(0, a), (1, a), (2, b), (3, b)], 2))


@semantics("shufpd")
def shufpd(c: Context, destination: Operand, source: Operand, order: Operand) -> None:
    b = lanes(read_source(c, source), 64)
    a = lanes(destination.read(), 64)
    write_vector(c, destination, _arrange(order.read(), a, [(0, a), (1, b)], 1))


def _define_duplicate(name: str, bits: int, order: Sequence[int]) -> None:
    @semantics(name)
    def run(c: Context, destination: Operand, source: Operand) -> None:
        # MOVDDUP's memory operand has 64 bits and needs no alignment.
        value = lanes(read_source(c, source).zext(128), bits)
        write_vector(c, destination, c.emit.shuffle(value, value, order))


_define_duplicate("movddup", 64, (0, 0))
_define_duplicate("movsldup", 32, (0, 0, 2, 2))
_define_duplicate("movshdup", 32, (1, 1, 3, 3))

#: Interleaving of the low or high halves of destination and source: (bits of a lane, is it the high halves?).
UNPACK: dict[str, tuple[int, bool]] = {
    "punpcklbw": (8, False),
    "punpcklwd": (16, False),
    "punpckldq": (32, False),
    "punpcklqdq": (64, False),
    "punpckhbw": (8, True),
    "punpckhwd": (16, True),
    "punpckhdq": (32, True),
    "punpckhqdq": (64, True),
    "unpcklps": (32, False),
    "unpcklpd": (64, False),
    "unpckhps": (32, True),
    "unpckhpd": (64, True),
}

#: Narrowing with saturation: (x86 intrinsic, bits of a source lane).
PACK: dict[str, tuple[str, int]] = {
    "packsswb": ("packsswb.128", 16),
    "packssdw": ("packssdw.128", 32),
    "packuswb": ("packuswb.128", 16),
}


def _define_unpack(name: str, bits: int, high: bool) -> None:
    @semantics(name)
    def run(c: Context, destination: Operand, source: Operand) -> None:
        begin_vector(c, destination)
        # The MMX forms of the low halves read 32 bits of memory.
        b = lanes(read_source(c, source).zext(destination.width), bits)
        a = lanes(destination.read(), bits)
        count = destination.width // bits
        first = count // 2 if high else 0
        order = [lane for i in range(first, first + count // 2) for lane in (i, count + i)]
        write_vector(c, destination, c.emit.shuffle(a, b, order))


def _define_pack(name: str, intrinsic: str, bits: int) -> None:
    result_type = f"<{256 // bits} x i{bits // 2}>"

    @semantics(name)
    def run(c: Context, destination: Operand, source: Operand) -> None:
        begin_vector(c, destination)
        b, a = read_source(c, source), destination.read()
        if destination.width == 64:
            # Both halves of the result come from one 128-bit value.
            a = b = a.zext(128) | (b.zext(128) << 64)
        packed = x86(intrinsic, result_type, [lanes(a, bits), lanes(b, bits)])
        write_vector(c, destination, packed.bitcast("i128").trunc(destination.width))


for _name, (_bits, _high) in UNPACK.items():
    _define_unpack(_name, _bits, _high)
for _name, (_intrinsic, _bits) in PACK.items():
    _define_pack(_name, _intrinsic, _bits)


@semantics("pinsrw")
def pinsrw(c: Context, destination: Operand, source: Operand, index: Operand) -> None:
    """The source is a 16-bit memory operand or the low word of a general-purpose register."""
    begin_vector(c, destination)
    word = source.read().trunc(16)
    value = lanes(destination.read(), 16)
    number = (index.read() & (destination.width // 16 - 1)).zext(32)
    write_vector(c, destination, c.emit.insert(value, word, number))


@semantics("pextrw")
def pextrw(c: Context, destination: Operand, source: Operand, index: Operand) -> None:
    begin_vector(c, source)
    number = (index.read() & (source.width // 16 - 1)).zext(32)
    destination.write(c.emit.extract(lanes(source.read(), 16), number).zext(destination.width))
    if source.width == 64:
        enter_mmx_state(c)


def _sign_mask(c: Context, destination: Operand, source: Operand, bits: int) -> None:
    negative = lanes(source.read(), bits).slt(0)
    destination.write(negative.bitcast(f"i{source.width // bits}").zext(destination.width))


@semantics("pmovmskb")
def pmovmskb(c: Context, destination: Operand, source: Operand) -> None:
    begin_vector(c, source)
    _sign_mask(c, destination, source, 8)
    if source.width == 64:
        enter_mmx_state(c)


@semantics("movmskps")
def movmskps(c: Context, destination: Operand, source: Operand) -> None:
    _sign_mask(c, destination, source, 32)


@semantics("movmskpd")
def movmskpd(c: Context, destination: Operand, source: Operand) -> None:
    _sign_mask(c, destination, source, 64)
