"""Unmasked SSE exceptions (APM vol. 1, 4.10; APM vol. 2, 8.2.20)."""

from __future__ import annotations

import struct

import pytest

from trapgate.arch import layout
from trapgate.arch.registers import CR4_OSFXSR, CR4_OSXMMEXCPT
from trapgate.arch.vectors import GP, UD, XF

from .bench import CODE, DATA, Bench

IE, DE, ZE, OE, UE, PE = (1 << i for i in range(6))
MASKED = 0x1F80
LDMXCSR_AT_DATA = "0fae1500800000"
ONE, ZERO, HUGE, TINY, DENORMAL, QNAN, SNAN = (
    0x3F80_0000, 0, 0x7F7F_FFFF, 0x0080_0000, 0x0000_0001, 0x7FC0_0000, 0x7F80_0001,
)  # fmt: skip
HALF, THREE = 0x3F00_0000, 0x4040_0000
ADD, MUL, DIV, SQRT, MIN = "f30f58c1", "f30f59c1", "f30f5ec1", "f30f51c1", "f30f5dc1"
COMISS, UCOMISS, TO_INTEGER = "0f2fc1", "0f2ec1", "f30f2dc1"


def prepare(bench: Bench, mxcsr: int, a: int, b: int, reports: bool = True) -> Bench:
    """`a` and `b` are the first lanes of XMM0 and XMM1; the other lanes hold 1.0."""
    bench.prepare32()
    p = bench.processor
    p.state.set(layout.CR4, CR4_OSFXSR | (CR4_OSXMMEXCPT if reports else 0))
    p.mxcsr = mxcsr
    for i, value in enumerate((a, b)):
        p.set_state_bytes(layout.xmm(i), struct.pack("<4I", value, ONE, ONE, ONE))
    bench.set(rax=0x1234_5678)
    return bench


def xmm0(bench: Bench) -> tuple[int, ...]:
    return struct.unpack("<4I", bytes(bench.processor.state.bytes[layout.xmm(0) : layout.xmm(0) + 16]))


CASES = [
    (DIV, ONE, ZERO, ZE, ZE), (DIV, ZERO, ZERO, IE, IE), (ADD, SNAN, ONE, IE, IE), (ADD, DENORMAL, ONE, DE, DE),
    (MUL, HUGE, HUGE, OE, OE | PE), (MUL, HUGE, HUGE, PE, OE | PE), (DIV, ONE, THREE, PE, PE),
    (MUL, TINY, HALF, UE, UE), (DIV, TINY, THREE, UE, UE | PE), (SQRT, ZERO, 0xBF80_0000, IE, IE),
    (MIN, QNAN, ONE, IE, IE), (COMISS, QNAN, ONE, IE, IE), (UCOMISS, SNAN, ONE, IE, IE),
    (TO_INTEGER, ONE, HUGE, IE, IE), (TO_INTEGER, ONE, HALF, PE, PE),
    # Found before the operation: what comes after it does not happen (APM vol. 1, 4.10.3).
    (ADD, DENORMAL, ONE, DE | PE, DE),
]  # fmt: skip


@pytest.mark.parametrize(("code", "a", "b", "unmasked", "flags"), CASES)
def test_unmasked_exception(bench: Bench, code: str, a: int, b: int, unmasked: int, flags: int) -> None:
    mxcsr = MASKED & ~(unmasked << 7)
    prepare(bench, mxcsr, a, b)
    before = xmm0(bench)
    got = bench.run(code)
    assert got is not None
    assert (got.vector, got.error, got.rip) == (XF, None, CODE)
    assert bench.processor.mxcsr == mxcsr | flags
    assert xmm0(bench) == before
    assert bench.get("rax") == 0x1234_5678
    # Without CR4.OSXMMEXCPT it is #UD.
    got = prepare(bench, mxcsr, a, b, reports=False).run(code)
    assert got is not None
    assert got.vector == UD


@pytest.mark.parametrize(("code", "a", "b", "unmasked", "flags"), CASES)
def test_others_being_unmasked_changes_nothing(
    bench: Bench, code: str, a: int, b: int, unmasked: int, flags: int
) -> None:
    """Results and flags are those of all exceptions masked while those that happen are."""
    prepare(bench, MASKED, a, b)
    assert bench.run(code) is None
    wanted = xmm0(bench), bench.processor.mxcsr & 0x3F, bench.get("rax")
    others = 0x3F & ~(wanted[1] | UE)
    prepare(bench, MASKED & ~(others << 7), a, b)
    assert bench.run(code) is None
    assert (xmm0(bench), bench.processor.mxcsr & 0x3F, bench.get("rax")) == wanted


def test_sticky_flags_of_before_stay_and_raise_nothing(bench: Bench) -> None:
    prepare(bench, MASKED & ~(PE << 7) | PE | ZE, ONE, ONE)
    assert bench.run(ADD) is None
    assert bench.processor.mxcsr & 0x3F == PE | ZE


def test_flush_to_zero_needs_masked_underflow(bench: Bench) -> None:
    """APM vol. 1, 4.2.2: FTZ works only while UM is set."""
    prepare(bench, MASKED | 1 << 15, TINY, HALF)
    assert bench.run(MUL) is None
    assert xmm0(bench)[0] == 0
    assert bench.processor.mxcsr & 0x3F == UE | PE
    got = prepare(bench, MASKED & ~(UE << 7) | 1 << 15, TINY, HALF).run(MUL)
    assert got is not None
    assert bench.processor.mxcsr & 0x3F == UE


@pytest.mark.parametrize(
    ("code", "a", "b", "unmasked", "flags"),
    [
        # The handler gets the result with an unbounded exponent, so PE is about that one (APM vol. 1, 4.10.3).
        (MUL, TINY, 0x3F00_0001, UE, UE),
        (MUL, 0x0080_0001, 0x3F00_0001, UE, UE | PE),
        (MUL, 0x7F00_0000, 0x7F00_0000, OE, OE),
        (MUL, HUGE, HUGE, OE, OE | PE),
        (ADD, 0x7F00_0000, 0x7F00_0000, OE, OE),
        (DIV, 0x7F00_0000, TINY, OE, OE),
    ],
)
def test_precision_of_an_unbounded_result(bench: Bench, code: str, a: int, b: int, unmasked: int, flags: int) -> None:
    got = prepare(bench, MASKED & ~(unmasked << 7), a, b).run(code)
    assert got is not None
    assert got.vector == XF
    assert bench.processor.mxcsr & 0x3F == flags


def test_any_lane_raises(bench: Bench) -> None:
    prepare(bench, MASKED & ~(ZE << 7), ONE, ONE)
    bench.processor.set_state_bytes(layout.xmm(1) + 12, bytes(4))
    before = xmm0(bench)
    got = bench.run("0f5ec1")  # divps
    assert got is not None
    assert got.vector == XF
    assert xmm0(bench) == before


def test_ldmxcsr_unmasks_and_masks(bench: Bench) -> None:
    """The code behind LDMXCSR in the same block follows the new masks."""
    prepare(bench, MASKED, ONE, ZERO)
    bench.memory.write_u32(DATA, MASKED & ~(ZE << 7))
    got = bench.run(LDMXCSR_AT_DATA + DIV)
    assert got is not None
    assert (got.vector, got.rip) == (XF, CODE + 7)
    prepare(bench, MASKED & ~(ZE << 7), ONE, ZERO)
    bench.memory.write_u32(DATA, MASKED)
    assert bench.run(LDMXCSR_AT_DATA + DIV) is None
    assert xmm0(bench)[0] == 0x7F80_0000
    bench.memory.write_u32(DATA, 1 << 16)
    got = prepare(bench, MASKED, ONE, ZERO).run(LDMXCSR_AT_DATA)
    assert got is not None
    assert (got.vector, got.error) == (GP, 0)


@pytest.mark.parametrize("bits", [32, 64])
def test_fxrstor_unmasks(bench: Bench, bits: int) -> None:
    """FXRSTOR of what FXSAVE saved is the same state, unmasked exceptions or not."""
    if bits == 32:
        prepare(bench, MASKED & ~(ZE << 7), THREE, ZERO)
    else:
        bench.prepare64()
        bench.processor.mxcsr = MASKED & ~(ZE << 7)
        bench.processor.set_state_bytes(layout.xmm(15), bytes(range(16)))
    p = bench.processor
    bench.set(rbx=DATA)
    for i in range(8):
        p.set_state_bytes(layout.fpr(i), bytes(range(i, i + 10)))
    p.set_state_field(layout.FPU_VALID, 0x0101_0001_0101_0001)
    p.set_state_bytes(layout.FPU_TOP, (5).to_bytes(4, "little"))
    assert bench.run("0fae03") is None  # fxsave
    first, last = layout.FPR, layout.MXCSR + 4
    saved = bytes(p.state.bytes[first:last])
    image = bench.memory.read(DATA, 512)
    # Another state, everything masked.
    bench.memory.write(DATA + 0x400, image[:24] + MASKED.to_bytes(4, "little") + bytes(484))
    bench.set(rbx=DATA + 0x400, rcx=DATA)
    assert bench.run("0fae0b" + "0fae09") is None  # fxrstor [rbx]; fxrstor [rcx]
    assert bytes(p.state.bytes[first:last]) == saved
    if bits == 32:
        got = bench.run("0fae09" + DIV)
        assert got is not None
        assert got.vector == XF


def test_masked_code_is_the_plain_one(bench: Bench) -> None:
    """No checked handler is used while everything is masked."""
    prepare(bench, MASKED, ONE, ONE)
    assert not bench.processor.mode().decode.simd_checked
    bench.processor.mxcsr = MASKED & ~(PE << 7)
    assert bench.processor.mode().decode.simd_checked
