"""Data movement: MOV, MOVZX, LEA, XCHG, CMOVcc, CMPXCHG, BSWAP, conversions (APM vol. 3, chapter 3)."""

from __future__ import annotations

from trapgate.arch.registers import RAX, RBX, RCX, RDX
from trapgate.isa.context import Context, Operand, semantics


@semantics("mov")
def mov(c: Context, destination: Operand, source: Operand) -> None:
    destination.write(source.read())


@semantics("movzx")
def movzx(c: Context, destination: Operand, source: Operand) -> None:
    destination.write(source.read().zext(destination.width))


@semantics("movsx")
def movsx(c: Context, destination: Operand, source: Operand) -> None:
    destination.write(source.read().sext(destination.width))


@semantics("movsxd")
def movsxd(c: Context, destination: Operand, source: Operand) -> None:
    """Without REX.W it just moves. A memory source has 32 bits even where the destination has 16 (isa/decode.py)."""
    value = source.read()
    destination.write(value.sext(destination.width) if destination.width >= value.width else value.trunc(16))


@semantics("movnti")
def movnti(c: Context, destination: Operand, source: Operand) -> None:
    destination.write(source.read())


@semantics("lea")
def lea(c: Context, destination: Operand, source: Operand) -> None:
    destination.write(source.address().resize(destination.width))


@semantics("xchg")
def xchg(c: Context, first: Operand, second: Operand) -> None:
    if second.is_memory:
        first, second = second, first
    a, b = first.update(), second.read()
    first.write(b)
    second.write(a)


@semantics("bswap")
def bswap(c: Context, destination: Operand) -> None:
    value = destination.read()
    if destination.width == 16:
        destination.write(c.emit.constant(0, 16))  # undefined in the manual; processors give 0
    else:
        destination.write(c.emit.intrinsic("bswap", value.type, [value]))


@semantics("cmovcc")
def cmovcc(c: Context, destination: Operand, source: Operand) -> None:
    # The source is read, and may fault, whatever the condition; a 32-bit destination is always zero-extended.
    value = source.read()
    destination.write(c.flags.condition(c.condition).select(value, destination.read()))


@semantics("setcc")
def setcc(c: Context, destination: Operand) -> None:
    destination.write(c.flags.condition(c.condition).zext(8))


@semantics("cbw", "cwde", "cdqe")
def cbw(c: Context) -> None:
    width = c.operand_bits
    c.set_register(RAX, c.register(RAX, width // 2).sext(width))


@semantics("cwd", "cdq", "cqo")
def cwd(c: Context) -> None:
    width = c.operand_bits
    c.set_register(RDX, c.register(RAX, width).sar(width - 1))


@semantics("cmpxchg")
def cmpxchg(c: Context, destination: Operand, source: Operand) -> None:
    width = destination.width
    accumulator, old, new = c.register(RAX, width), destination.update(), source.read()
    equal = accumulator.eq(old)
    if destination.is_memory:
        destination.write(equal.select(new, old))  # memory is always written
    else:
        # A register that keeps its value is not written: its upper half stays, too.
        with c.emit.when(equal):
            destination.write(new)
    c.flags.set_sub(accumulator, old, accumulator - old)
    with c.emit.when(equal ^ 1):
        c.set_register(RAX, old)


@semantics("cmpxchg8b", "cmpxchg16b")
def cmpxchg8b(c: Context, destination: Operand) -> None:
    width = destination.width
    half = width // 2
    if width == 128:
        c.fault_if((destination.linear() & 15).ne(0), 13, 0)
    old = destination.update()
    expected = (c.register(RDX, half).zext(width) << half) | c.register(RAX, half).zext(width)
    new = (c.register(RCX, half).zext(width) << half) | c.register(RBX, half).zext(width)
    equal = expected.eq(old)
    destination.write(equal.select(new, old))
    c.flags.set_zero(equal)
    with c.emit.when(equal ^ 1):
        c.set_register(RAX, old.trunc(half))
        c.set_register(RDX, (old >> half).trunc(half))


@semantics("xadd")
def xadd(c: Context, destination: Operand, source: Operand) -> None:
    a, b = destination.update(), source.read()
    result = a + b
    if destination.is_memory:
        destination.write(result)
        source.write(a)
    else:
        source.write(a)
        destination.write(result)
    c.flags.set_add(a, b, result)


@semantics("xlatb")
def xlatb(c: Context) -> None:
    offset = c.register(RBX, c.address_bits) + c.register(RAX, 8).zext(c.address_bits)
    c.set_register(RAX, c.load(c.string_source_segment(), offset, 8))


@semantics(
    "nop", "pause", "endbr64", "endbr32", "lfence", "mfence", "sfence",
    "prefetch", "prefetchw", "prefetchnta", "prefetcht0", "prefetcht1", "prefetcht2",
    "reservednop",
)  # fmt: skip
def nop(c: Context, *operands: Operand) -> None:
    """Nothing: hints and fences, whose memory operand is not accessed."""


@semantics("clflush")
def clflush(c: Context, target: Operand) -> None:
    # It reads nothing but is checked as a byte read (APM vol. 3, CLFLUSH).
    target.read()
