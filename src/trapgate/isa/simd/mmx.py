"""EMMS, and the byte-masked stores MASKMOVQ and MASKMOVDQU (APM vol. 4 and 5)."""

from __future__ import annotations

from trapgate.arch import layout
from trapgate.arch.registers import RDI
from trapgate.isa.context import Context, Operand, semantics
from trapgate.isa.simd.common import begin_mmx, begin_vector, enter_mmx_state, lanes


@semantics("emms")
def emms(c: Context) -> None:
    begin_mmx(c)
    c.set_field(layout.FPU_VALID, c.emit.constant(0, 64))
    c.set_field(layout.FPU_TOP, c.emit.constant(0, 32))


@semantics("maskmovq", "maskmovdqu")
def maskmov(c: Context, *operands: Operand) -> None:
    """Store the bytes of one register whose byte of the mask is negative, at DS:rDI (or another segment's).

    The last two operands are source and mask; where the decoder also lists the memory operand, it is not used. Bytes
    are written from the last to the first, so that a fault in the second page comes before any byte of the first.
    """
    source, mask = operands[-2:]
    begin_vector(c, source)
    data, selected = lanes(source.read(), 8), lanes(mask.read(), 8).slt(0)
    segment, start = c.string_source_segment(), c.register(RDI, c.address_bits)
    left = c.emit.variable(source.width // 8, 32)
    with c.emit.loop() as loop:
        count = left.get()
        loop.break_if(count.eq(0))
        place = count - 1
        left.set(place)
        loop.continue_if(c.emit.extract(selected, place) ^ 1)
        c.store(segment, start + place.resize(start.width), c.emit.extract(data, place))
    if source.width == 64:
        enter_mmx_state(c)
