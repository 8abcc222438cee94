"""VNC's password: the viewer encrypts a challenge by DES, with the password as key.

It keeps honest people out, and no others: what follows is not encrypted.

Sources: RFC 6143, 7.2.2; FIPS 46-3, Data Encryption Standard.
"""

from __future__ import annotations

from collections.abc import Sequence

CHALLENGE_SIZE = 16
#: Bytes of a password that count.
KEY_SIZE = 8

_INITIAL = [row - 8 * column for row in (58, 60, 62, 64, 57, 59, 61, 63) for column in range(8)]
_FINAL = [_INITIAL.index(place) + 1 for place in range(1, 65)]
_EXPANSION = [(4 * block + n - 1) % 32 + 1 for block in range(8) for n in range(6)]
_PERMUTATION = (
    16, 7, 20, 21, 29, 12, 28, 17, 1, 15, 23, 26, 5, 18, 31, 10,
    2, 8, 24, 14, 32, 27, 3, 9, 19, 13, 30, 6, 22, 11, 4, 25,
)  # fmt: skip
_KEY_CHOICE_1 = (
    57, 49, 41, 33, 25, 17, 9, 1, 58, 50, 42, 34, 26, 18, 10, 2, 59, 51, 43, 35, 27, 19, 11, 3, 60, 52, 44, 36,
    63, 55, 47, 39, 31, 23, 15, 7, 62, 54, 46, 38, 30, 22, 14, 6, 61, 53, 45, 37, 29, 21, 13, 5, 28, 20, 12, 4,
)  # fmt: skip
_KEY_CHOICE_2 = (
    14, 17, 11, 24, 1, 5, 3, 28, 15, 6, 21, 10, 23, 19, 12, 4, 26, 8, 16, 7, 27, 20, 13, 2,
    41, 52, 31, 37, 47, 55, 30, 40, 51, 45, 33, 48, 44, 49, 39, 56, 34, 53, 46, 42, 50, 36, 29, 32,
)  # fmt: skip
_SHIFTS = (1, 1, 2, 2, 2, 2, 2, 2, 1, 2, 2, 2, 2, 2, 2, 1)
_BOXES = tuple(
    bytes(int(digit, 16) for digit in box)
    for box in (
        "e4d12fb83a6c59070f74e2d1a6cbb53841e8d62bfc973a50fc8249175b3ea06d",
        "f18e6b34972dc05a3d47f28ec01a69b50e7ba4d158c6932fd8a13f42b67c05e9",
        "a09e63f51dc7b428d709346a285ecbf1d6498f30b12c5ae71ad069874fe3b52c",
        "7de3069a1285bc4fd8b56f03472c1ae9a690cb7df13e52843f06a1d8945bc72e",
        "2c417ab6853fd0e9eb2c47d150fa3986421bad78f9c5630eb8c71e2d6f09a453",
        "c1af92680d34e75baf427c9561de0b389ef528c3704a1db6432c95fabe17608d",
        "4b2ef08d3c975a61d0b7491ae35c2f8614bdc37eaf6805926bd814a7950fe23c",
        "d2846fb1a93e50c71fd8a374c56b0e927b419ce206adf35821e74a8dfc90356b",
    )
)


def _permuted(bits: int, width: int, places: Sequence[int]) -> int:
    """Bits of a `width`-bit number, chosen by place; place 1 is the highest."""
    result = 0
    for place in places:
        result = result << 1 | bits >> width - place & 1
    return result


def encrypt_block(key: bytes, block: bytes) -> bytes:
    """DES of one block of eight bytes."""
    chosen = _permuted(int.from_bytes(key, "big"), 64, _KEY_CHOICE_1)
    c, d = chosen >> 28, chosen & 0xFFF_FFFF
    whole = _permuted(int.from_bytes(block, "big"), 64, _INITIAL)
    left, right = whole >> 32, whole & 0xFFFF_FFFF
    for shift in _SHIFTS:
        c, d = ((half << shift | half >> 28 - shift) & 0xFFF_FFFF for half in (c, d))
        mixed = _permuted(right, 32, [place or 32 for place in _EXPANSION]) ^ _permuted(c << 28 | d, 56, _KEY_CHOICE_2)
        out = 0
        for n, box in enumerate(_BOXES):
            six = mixed >> 42 - 6 * n & 0x3F
            out = out << 4 | box[(six >> 4 & 2 | six & 1) * 16 + (six >> 1 & 0xF)]
        left, right = right, left ^ _permuted(out, 32, _PERMUTATION)
    return _permuted(right << 32 | left, 64, _FINAL).to_bytes(8, "big")


def response(password: str, challenge: bytes) -> bytes:
    """What a viewer that knows `password` answers to 16 bytes of challenge."""
    text = password.encode("utf-8", "surrogateescape")[:KEY_SIZE].ljust(KEY_SIZE, b"\0")
    # VNC takes the bits of each byte in the other order than DES.
    key = bytes(int(f"{byte:08b}"[::-1], 2) for byte in text)
    return encrypt_block(key, challenge[:8]) + encrypt_block(key, challenge[8:16])
