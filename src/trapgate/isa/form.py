"""The form of an instruction: all that its native handler depends on, so that one handler serves every instruction of
it.

Operand shapes are short texts:

    r8 r16 r32 r64   general-purpose register (a slot of the micro-op names its place in the state block; AH is RAX + 1)
    x q st           XMM register, MMX register, x87 stack position (its slot holds the number i of ST(i))
    cl               the count of a shift, in CL
    i8 .. i64        immediate in the micro-op's 32-bit field, sign-extended; I64: in its 64-bit field
    j8 j16           second immediate, in the displacement field
    m<bits><address><size><segment>   memory operand of that many bits, where
        <address>  b base + displacement; x1 x2 x4 x8 base + index * scale + displacement; a absolute, in the 64-bit
        field <size>     address size: '' 64, d 32, w 16 bits <segment>  '' base 0 and no limit; g base added (FS, GS
        in 64-bit mode); s base, limit and rights checked
"""

from __future__ import annotations

import re
from typing import NamedTuple


class MemoryShape(NamedTuple):
    """A memory operand's shape, taken apart."""

    width: int
    address: str  # b, x1, x2, x4, x8, a
    address_bits: int
    segment: str  # "", g, s


_MEMORY = re.compile(r"m(\d+)(b|x[1248]|a)([dw]?)([gs]?)$")
_ADDRESS_BITS = {"": 64, "d": 32, "w": 16}


def parse_memory(shape: str) -> MemoryShape:
    """Take a memory shape apart."""
    match = _MEMORY.match(shape)
    if not match:
        raise ValueError(f"{shape!r} is not a memory operand's shape")
    return MemoryShape(int(match[1]), match[2], _ADDRESS_BITS[match[3]], match[4])


class Form(NamedTuple):
    """What a handler is generated from. Fields that an operation does not depend on keep their defaults."""

    name: str
    operands: tuple[str, ...] = ()
    condition: int = -1
    operand_bits: int = 0
    address_bits: int = 0
    #: How the stack segment is used: "64", "32f" and "16f" (base 0, no limit to check), "32s" and "16s" (checked).
    stack: str = ""
    repeat: str = ""
    #: Segment of a string source, and how implicit operands are checked: "" none, g base added, s checked.
    segment: int = -1
    implicit: str = ""
    #: False when nobody looks at the flags that it sets.
    live: bool = True
    #: 16, 32 or 64: the code's size, for the few operations that differ by it.
    bits: int = 0

    def text(self) -> str:
        """A name for it, unique and stable: the key of the handler cache."""
        c = "" if self.condition < 0 else str(self.condition)
        s = "" if self.segment < 0 else str(self.segment)
        fields = (self.name, ",".join(self.operands), c, str(self.operand_bits or ""), str(self.address_bits or ""))
        return "/".join(
            (*fields, self.stack, self.repeat, s, self.implicit, "" if self.live else "n", str(self.bits or ""))
        )

    @classmethod
    def parse(cls, text: str) -> Form:
        """The form that `text()` named."""
        name, operands, c, o, a, stack, repeat, s, implicit, live, bits = text.split("/")
        shapes = tuple(operands.split(",")) if operands else ()
        condition, segment = int(c) if c else -1, int(s) if s else -1
        return cls(
            name,
            shapes,
            condition,
            int(o or 0),
            int(a or 0),
            stack,
            repeat,
            segment,
            implicit,
            live != "n",
            int(bits or 0),
        )
