"""Instructions that are copied from others of their pattern are what decoding each by itself gives."""

from __future__ import annotations

import random

import iced_x86 as iced
import pytest

import trapgate.isa.general_purpose
import trapgate.isa.simd
import trapgate.isa.x87  # noqa: F401  (each registers its semantics)
from trapgate.arch.cpuid import OPTERON_2007
from trapgate.cpu.mode import DecodeMode
from trapgate.isa.decode import OPTIONS, Decoder
from trapgate.isa.decoded import Decoded
from trapgate.isa.pattern import pattern_key

MODES = {
    bits: DecodeMode(bits, stack, 0b1111 if bits != 16 else 0, 0, False, False, True, True, "", "", "", False)
    for bits, stack in ((16, "16s"), (32, "32f"), (64, "64"))
}
#: All that decoding says, but for the instruction itself and what the engine notes.
SLOTS = [name for name in Decoded.__slots__ if name not in ("instruction", "records", "numbers")]
CASES = 4000


def described(decoded: Decoded) -> dict[str, object]:
    return {name: getattr(decoded, name) for name in SLOTS}


def variants(code: bytes, bits: int, source: random.Random) -> list[bytes]:
    """The instruction, if it has constants, with several values of these."""
    decoder = iced.Decoder(bits, code, OPTIONS, 0)
    instruction = decoder.decode()
    code = code[: decoder.position]
    key = pattern_key(decoder, instruction, code) if instruction else None
    if key is None:
        return []
    _, displaced, displacement, placed, immediate = key
    found = [code]
    for _ in range(3):
        other = bytearray(code)
        for start, length in ((displaced, displacement), (placed, immediate)):
            fill = source.choice((source.randbytes(length), bytes(length), b"\xff" * length, b"\x80" * length))
            other[start : start + length] = fill
        found.append(bytes(other))
    return found


@pytest.mark.parametrize("bits", MODES)
def test_copies_are_what_decoding_gives(bits: int) -> None:
    source = random.Random(bits)
    python = frozenset(("in", "out", "int", "int3", "hlt", "cpuid", "mov_cr", "lgdt"))
    together = Decoder(MODES[bits], OPTERON_2007.features, python)
    copied = 0
    for _ in range(CASES):
        for code in variants(source.randbytes(15), bits, source):
            copied += together._patterns.get(_key(code, bits)) is not None
            one = Decoder(MODES[bits], OPTERON_2007.features, python)
            (mine,), (its_own,) = together.block(code, 1, True)[0], one.block(code, 1, True)[0]
            assert described(mine) == described(its_own), (code.hex(), mine.instruction)
            assert mine.instruction == its_own.instruction
    assert copied > CASES


def _key(code: bytes, bits: int) -> object:
    decoder = iced.Decoder(bits, code, OPTIONS, 0)
    instruction = decoder.decode()
    return pattern_key(decoder, instruction, code)
