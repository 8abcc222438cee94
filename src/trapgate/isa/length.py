"""The limit of 15 bytes on an instruction (APM vol. 3, 1.1; vol. 2, 8.2.14): a longer one raises #GP(0).

iced-x86 calls such an instruction invalid, like one that is not defined, which raises #UD.
"""

from __future__ import annotations

import iced_x86 as iced

MAX_LENGTH = 15
_SEGMENTS = frozenset((0x26, 0x2E, 0x36, 0x3E, 0x64, 0x65))
_OPERAND_SIZE, _ADDRESS_SIZE, _LOCK, _REPEATS = 0x66, 0x67, 0xF0, frozenset((0xF2, 0xF3))


def is_too_long(code: bytes, bits: int) -> bool:
    """Whether the undecodable instruction in `code`, its first 15 bytes, is one of more than 15 bytes.

    It is decoded again with as few prefixes as have the same effect on its length: of segment overrides and LOCK
    none, of 66h and 67h one, of F2h and F3h the last, and a REX prefix only directly before the opcode. An opcode that
    is not defined has no length: #UD.
    """
    kept: dict[str, int] = {}
    rex = b""
    position = 0
    while position < len(code):
        byte = code[position]
        if byte in (_OPERAND_SIZE, _ADDRESS_SIZE):
            kept[str(byte)] = byte
        elif byte in _REPEATS:
            kept["repeat"] = byte
        elif bits == 64 and byte >> 4 == 4:
            rex = code[position : position + 1]
            position += 1
            continue
        elif byte not in _SEGMENTS and byte != _LOCK:
            break
        rex = b""
        position += 1
    if position >= MAX_LENGTH:
        return True
    prefixes = bytes(kept.values()) + rex
    decoder = iced.Decoder(bits, prefixes + code[position:], iced.DecoderOptions.AMD)
    instruction = decoder.decode()
    if not instruction:
        return bool(decoder.last_error == iced.DecoderError.NO_MORE_BYTES)
    return bool(instruction.len - len(prefixes) + position > MAX_LENGTH)
