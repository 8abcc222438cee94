"""Flags, floating-point state and memory contents in which a case starts."""

from __future__ import annotations

import struct

from . import areas, values
from .forms import Form
from .implicit import branch_target
from .operands import Draft
from .undefined import ARITHMETIC, DF
from .values import Choices

_MXCSR_MASKS, _DAZ, _FTZ = 0x1F80, 0x40, 0x8000
#: Unmasked SIMD floating-point exceptions.
UNMASKED_SSE = True


def rflags(choices: Choices, form: Form) -> int:
    """IF and bit 1 set as user programs have them, the arithmetic flags at random."""
    flags = 0x202 | (choices.bits(12) & ARITHMETIC)
    if choices.chance(50 if form.family == "string" else 5):
        flags |= DF
    return flags


def mxcsr(choices: Choices) -> int:
    """Mostly all exceptions masked; roundings, DAZ and FTZ at random."""
    value = _MXCSR_MASKS
    if choices.chance(60):
        value |= choices.bits(2) << 13 | (choices.bits(6) if choices.bits(1) else 0)
        value |= choices.pick((0, 0, _DAZ, _FTZ, _DAZ | _FTZ))
    if UNMASKED_SSE and choices.chance(8):
        value &= ~(choices.bits(6) << 7)
    return value


def x87_environment(choices: Choices) -> tuple[int, int, int]:
    """(control, status, abridged tag) words that agree with each other."""
    control = 0x37F
    if choices.chance(40):
        control = 0x7F | choices.bits(2) << 10 | choices.pick((0, 2, 3, 3)) << 8
    if choices.chance(6):
        control &= ~choices.bits(6)
    status = choices.bits(3) << 11 | choices.bits(3) << 8 | choices.bits(1) << 14
    if choices.chance(40):
        # Flags of masked exceptions only, except now and then: then an exception is pending.
        status |= choices.bits(6) & (0x3F if choices.chance(10) else control & 0x3F)
        if status & 1:
            status |= choices.bits(1) << 6
    if status & ~control & 0x3F:
        status |= 0x8080
    tag = 0xFF if choices.chance(60) else choices.bits(8)
    return control, status, tag


def fx_image(choices: Choices, form: Form) -> bytes:
    """A 512-byte FXSAVE64 image."""
    image = bytearray(areas.FX_SIZE)
    if form.family not in ("simd", "x87"):
        struct.pack_into("<HHB", image, areas.FX_CONTROL, 0x37F, 0, 0)
        struct.pack_into("<I", image, areas.FX_MXCSR, areas.MXCSR_RESET)
        image[areas.FX_XMM : areas.FX_XMM + 256] = choices.bytes(256)
        return bytes(image)
    control, status, tag = x87_environment(choices)
    struct.pack_into("<HHB", image, areas.FX_CONTROL, control, status, tag)
    struct.pack_into("<I", image, areas.FX_MXCSR, mxcsr(choices))
    for i in range(8):
        value = (
            values.extended(choices)
            if form.family == "x87"
            else values.vector(choices) & ((1 << 64) - 1) | 0xFFFF << 64
        )
        at = areas.FX_ST + 16 * i
        image[at : at + 10] = value.to_bytes(10, "little")
    for i in range(16):
        at = areas.FX_XMM + 16 * i
        image[at : at + 16] = values.vector(choices).to_bytes(16, "little")
    return bytes(image)


def memory_operand(made: Draft, choices: Choices, gpr: list[int], rip: int) -> bytes:
    """What the memory operand holds, `made.size` bytes."""
    form, size = made.form, made.size
    name = form.mnemonic
    if made.is_branch:
        return branch_target(choices, rip).to_bytes(8, "little")[:size]
    if name == "LDMXCSR":
        value = mxcsr(choices) if choices.chance(85) else values.integer(choices, 32)
        if not UNMASKED_SSE:
            value |= _MXCSR_MASKS
        return value.to_bytes(4, "little")
    if name in ("FXRSTOR", "FXRSTOR64"):
        image = bytearray(fx_image(choices, form))
        image[416:] = choices.bytes(96)
        return bytes(image)
    if name in ("FLDENV", "FRSTOR"):
        return _saved_environment(choices, size)
    if name == "CMPXCHG" and choices.bits(1):
        return gpr[0].to_bytes(8, "little")[:size]
    if name in ("CMPXCHG8B", "CMPXCHG16B") and choices.bits(1):
        half = size // 2
        return b"".join(gpr[i].to_bytes(8, "little")[:half] for i in (0, 2))
    if form.family == "x87":
        return _x87_operand(form.name, size, choices)
    if form.family == "simd" or size > 8:
        data = values.vector(choices).to_bytes(16, "little")
        return (data * (size // 16 + 1))[:size]
    return values.integer(choices, 8 * size).to_bytes(size, "little") if size else b""


def _x87_operand(name: str, size: int, choices: Choices) -> bytes:
    if name.endswith("FP"):
        if size == 10:
            return values.extended(choices).to_bytes(10, "little")
        return values.floating(choices, 8 * size).to_bytes(size, "little")
    if name.endswith("BCD"):
        return values.packed_decimal(choices).to_bytes(10, "little")
    if size <= 8:
        return values.integer(choices, 8 * size).to_bytes(size, "little")
    return choices.bytes(size)


def _saved_environment(choices: Choices, size: int) -> bytes:
    """FLDENV and FRSTOR: 14 or 28 bytes of environment (16- or 32-bit fields), registers behind them."""
    control, status, _ = x87_environment(choices)
    tag = choices.pick((0, 0xFFFF, choices.bits(16)))
    head = 14 if size in (14, 94) else 28
    fields = [control, status, tag, 0, 0, 0, 0]
    environment = struct.pack("<7H" if head == 14 else "<7I", *fields)
    if size == head:
        return environment
    return environment + b"".join(values.extended(choices).to_bytes(10, "little") for _ in range(8))
