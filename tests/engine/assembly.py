"""Machine code written out by hand, with what it means beside it.

Each line holds the bytes in hexadecimal, two spaces or more, and the instruction in NASM's syntax; or a label and a
colon; or nothing. "90*64" is 64 bytes 90h. Every line is decoded again: its length and mnemonic must be what the line
says.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

import iced_x86 as iced

from trapgate.isa.operand_tables import MNEMONICS

_LINE = re.compile(r"^((?:[0-9a-f]{2} )*[0-9a-f]{2}|[0-9a-f]{2}\*\d+)(?:  +(.*))?$")
_LABEL = re.compile(r"^(\w+):$")
_DATA = ("db", "dw", "dd", "dq", "times")
_PREFIXES = frozenset(("rep", "repe", "repne", "lock", "o16", "o32", "a16", "a32", "short", "near", "strict"))


@dataclass
class Code:
    """Bytes, and the addresses of labels."""

    data: bytes
    origin: int = 0
    labels: dict[str, int] = field(default_factory=dict)

    def __getitem__(self, label: str) -> int:
        return self.labels[label]


def assemble(bits: int, text: str, org: int = 0x8000) -> Code:
    """The bytes of a listing for 16-, 32- or 64-bit code that starts at address `org`."""
    code = Code(b"", org)
    for line in text.split("\n"):
        line = line.strip()
        if not line:
            continue
        label = _LABEL.match(line)
        if label:
            code.labels[label[1]] = org + len(code.data)
            continue
        match = _LINE.match(line)
        if match is None:
            raise ValueError(f"wanted a label, or bytes and an instruction two spaces apart, got {line!r}")
        byte, _, count = match[1].partition("*")
        data = bytes.fromhex(byte) * int(count or 1)
        if match[2] and not match[2].startswith(_DATA):
            _check(bits, data, match[2])
        code.data += data
    return code


def _check(bits: int, data: bytes, text: str) -> None:
    decoder = iced.Decoder(bits, data, iced.DecoderOptions.AMD)
    instruction = decoder.decode()
    formatted = iced.Formatter(iced.FormatterSyntax.NASM).format(instruction)
    wanted = next(word for word in text.split() if word not in _PREFIXES)
    names = {*formatted.split(), MNEMONICS[instruction.mnemonic]}
    if instruction.len != len(data) or wanted not in names:
        raise ValueError(f"wanted the bytes of {text!r}, got those of {formatted!r} ({data.hex(' ')})")
