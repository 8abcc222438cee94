"""Random data with the boundary values at which arithmetic goes wrong."""

from __future__ import annotations

import random
import struct


class Choices:
    """Everything random about a case, from one seed: the same seed gives the same case."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self.pick = self._random.choice
        self.bits = self._random.getrandbits
        self.bytes = self._random.randbytes
        self.between = self._random.randint

    def chance(self, percent: float) -> bool:
        return self._random.random() * 100 < percent


def integer(choices: Choices, width: int) -> int:
    """An unsigned integer of `width` bits: a boundary value, a small one, one bit, or anything."""
    kind = choices.bits(3)
    mask = (1 << width) - 1
    if kind == 0:
        return choices.pick((0, 1, 2, mask, mask - 1, mask >> 1, (mask >> 1) + 1, (mask >> 1) - 1)) & mask
    if kind == 1:
        return choices.bits(6) & mask
    if kind == 2:
        return (1 << choices.between(0, width - 1)) & mask
    if kind == 3:
        return (-1 - choices.bits(6)) & mask
    if kind == 4:
        # A pattern repeated at a narrower width: boundary values of 8-, 16- and 32-bit parts.
        part = choices.pick((8, 16, 32))
        value = choices.pick((0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 0x7F, 0x80, 0x7FFF, 0x8000, 0x99, 0x0A))
        return sum((value & ((1 << part) - 1)) << i for i in range(0, width, part)) & mask
    return choices.bits(width)


#: (exponent bits, fraction bits) of the IEEE formats.
_FORMATS = {32: (8, 23), 64: (11, 52)}


def floating(choices: Choices, width: int) -> int:
    """The bits of a 32- or 64-bit floating-point number: zeros, denormals, infinities, NaNs, limits of integers."""
    exponent_bits, fraction_bits = _FORMATS[width]
    sign = choices.bits(1) << (width - 1)
    top = (1 << exponent_bits) - 1
    quiet = 1 << (fraction_bits - 1)
    kind = choices.between(0, 15)
    if kind == 0:
        return sign
    if kind == 1:
        return sign | top << fraction_bits
    if kind == 2:
        return sign | top << fraction_bits | quiet | choices.bits(fraction_bits - 1)
    if kind == 3:
        return sign | top << fraction_bits | (choices.bits(fraction_bits - 1) or 1)
    if kind == 4:
        return sign | choices.pick((1, (1 << fraction_bits) - 1, quiet, choices.bits(fraction_bits)))
    if kind == 5:
        return sign | choices.pick((1 << fraction_bits, (top << fraction_bits) - 1, 2 << fraction_bits))
    if kind <= 8:
        limit = choices.pick((0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 127.0, 32767.0, 32768.0, 2**31, 2**31 - 1, 2**63, 2**52))
        return sign | _bits(float(limit), width)
    if kind <= 12:
        # Moderate exponents, so that sums and products neither vanish nor overflow.
        exponent = (top >> 1) + choices.between(-30, 30)
        return sign | exponent << fraction_bits | choices.bits(fraction_bits)
    return choices.bits(width)


def _bits(value: float, width: int) -> int:
    return int.from_bytes(struct.pack("<f" if width == 32 else "<d", value), "little")


_EXTENDED_BIAS = 16383


def extended(choices: Choices) -> int:
    """The bits of an 80-bit x87 value, formats that the unit rejects included."""
    sign = choices.bits(1) << 79
    integer_bit, kind = 1 << 63, choices.between(0, 19)
    if kind <= 1:
        return sign
    if kind == 2:
        return sign | 0x7FFF << 64 | integer_bit
    if kind == 3:
        return sign | 0x7FFF << 64 | integer_bit | 1 << 62 | choices.bits(62)
    if kind == 4:
        return sign | 0x7FFF << 64 | integer_bit | (choices.bits(62) or 1)
    if kind == 5:
        return sign | choices.pick((1, (1 << 63) - 1, choices.bits(63)))  # denormal
    if kind == 6:
        return sign | integer_bit | choices.bits(63)  # pseudo-denormal
    if kind == 7:
        return sign | choices.between(1, 0x7FFF) << 64 | choices.bits(63)  # unnormal, pseudo-NaN, pseudo-infinity
    if kind <= 10:
        value = choices.pick((1, 2, 3, 10, 127, 32767, 32768, 2**31 - 1, 2**31, 2**63 - 1, 2**63, 10**18 - 1, 10**18))
        shift = 64 - value.bit_length()
        return sign | (_EXTENDED_BIAS + value.bit_length() - 1) << 64 | value << shift
    if kind == 11:
        return sign | choices.pick((1 << 64, 0x7FFE << 64, 2 << 64)) | integer_bit | choices.bits(63)
    if kind <= 17:
        exponent = _EXTENDED_BIAS + choices.between(-40, 70)
        # Few significant bits in half of the cases: exact results and ties.
        fraction = choices.bits(63) if choices.bits(1) else choices.bits(6) << choices.between(0, 57)
        return sign | exponent << 64 | integer_bit | fraction
    return sign | choices.between(1, 0x7FFE) << 64 | integer_bit | choices.bits(63)


def packed_decimal(choices: Choices) -> int:
    """80 bits of packed BCD: 18 valid digits, a sign bit."""
    digits = 0
    for _ in range(18):
        digits = digits << 4 | choices.between(0, 9)
    return digits | choices.bits(1) << 79


def vector(choices: Choices) -> int:
    """128 bits: integers of one width, or floating-point numbers."""
    width = choices.pick((8, 16, 32, 64, -32, -64))
    if width < 0:
        return sum(floating(choices, -width) << i for i in range(0, 128, -width))
    if width == 8:
        return choices.bits(128)
    return sum(integer(choices, width) << i for i in range(0, 128, width))
