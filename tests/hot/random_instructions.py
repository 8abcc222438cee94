"""Random instructions that leave the run where it is: their bytes, for 64-, 32- and 16-bit code.

rBX, rSI and rDI point at data, rSP at the stack and rBP is left to memory operands of 16-bit code; other registers hold
anything.
"""

from __future__ import annotations

import random
from collections.abc import Callable

#: Registers that instructions may write: not rBX, rSP, rBP, rSI and rDI.
_FREE = (0, 1, 2)
_NEW = (8, 9, 10, 13, 15)
_POINTERS = (3, 6, 7)
_SEGMENTS = (b"\x64", b"\x65", b"\x26", b"\x3e", b"\x36")


class Instructions:
    """Random instructions of code of `bits` bits."""

    def __init__(self, choose: random.Random, bits: int) -> None:
        self._choose = choose
        self.bits = bits
        #: Labels' places in an instruction's bytes are not known here: only what needs none.
        self._kinds: list[tuple[int, Callable[[], bytes]]] = [
            (14, self._arithmetic), (8, self._arithmetic_immediate), (6, self._one_operand), (6, self._increment),
            (8, self._shift), (2, self._double_shift), (8, self._move), (3, self._extend), (3, self._lea),
            (4, self._condition), (3, self._bit), (3, self._exchange), (6, self._flags), (6, self._stack),
            (2, self._string), (2, self._move_pointer), (8, self._sse), (3, self._mmx), (1, self._rare),
        ]  # fmt: skip
        self._weights = [weight for weight, _ in self._kinds]

    def one(self) -> bytes:
        """The bytes of one instruction."""
        return self._choose.choices(self._kinds, self._weights)[0][1]()

    # -- encoding

    def _register(self, width: int) -> int:
        choices = (*_FREE, *_NEW) if self.bits == 64 else _FREE
        if width == 8 and self.bits != 64:
            return self._choose.choice((0, 1, 2, 4, 5, 6))  # AL, CL, DL, AH, CH, DH
        if width == 8 and self._choose.random() < 0.3:
            return self._choose.choice((4, 5, 6))
        return self._choose.choice(choices)

    def _width(self) -> int:
        return self._choose.choice((8, 16, 32, 64, 64, 32) if self.bits == 64 else (8, 16, 32, 32, self.bits))

    def _immediate(self, size: int) -> bytes:
        values = (0, 1, -1, 2, 0x7F, -0x80, 0x7FFF_FFFF, -0x8000_0000, self._choose.getrandbits(32))
        return (self._choose.choice(values) & (1 << 8 * size) - 1).to_bytes(size, "little")

    def _memory(self, field: int, wide: bool = True) -> tuple[int, int, int, bytes]:
        """(REX bits, ModRM, is_memory, what follows) of a memory operand."""
        choose = self._choose
        displacement = choose.choice((0, 4, 8, 16, 24, -8, -16, choose.randrange(-128, 128)))
        if self.bits == 16:
            form = choose.choice((4, 5, 7, 4, 5, 7, 0, 1, 6))
            if form in (0, 1):
                return 0, field << 3 | form, 1, b""
            return 0, 0x40 | field << 3 | form, 1, (displacement & 0xFF).to_bytes(1, "little")
        base = choose.choice(_POINTERS)
        if choose.random() < 0.15:
            # A scaled index that is small as a rule: rCX.
            sib = choose.choice((0, 0x40, 0x80, 0xC0)) | 1 << 3 | base
            return 0, 0x44 | field << 3, 1, bytes((sib, displacement & 0xFF))
        if choose.random() < 0.1:
            wide_displacement = choose.choice((0x1000, -0x1000, 0x200, 0xFF0)) + displacement
            return 0, 0x80 | field << 3 | base, 1, (wide_displacement & 0xFFFF_FFFF).to_bytes(4, "little")
        return 0, 0x40 | field << 3 | base, 1, (displacement & 0xFF).to_bytes(1, "little")

    def encode(
        self, opcode: bytes, register: int, width: int, rm: int | None, immediate: bytes = b"", prefix: bytes = b""
    ) -> bytes:
        """An instruction with ModRM; `rm` None: a memory operand. `width` 0: neither a prefix nor REX.W."""
        choose = self._choose
        data = prefix
        if (width == 16 and self.bits != 16) or (width == 32 and self.bits == 16):
            data = b"\x66" + data
        rex = 0x48 if width == 64 else 0
        rex |= 0x44 if register > 7 else 0
        if rm is None:
            if choose.random() < 0.08:
                data = choose.choice(_SEGMENTS) + data
            _, modrm, _, rest = self._memory(register & 7)
        else:
            rex |= 0x41 if rm > 7 else 0
            modrm, rest = 0xC0 | (register & 7) << 3 | rm & 7, b""
        return data + (bytes((rex,)) if rex else b"") + opcode + bytes((modrm,)) + rest + immediate

    def _rm(self, width: int) -> int | None:
        return None if self._choose.random() < 0.4 else self._register(width)

    # -- kinds

    def _arithmetic(self) -> bytes:
        width, operation = self._width(), self._choose.randrange(8)
        opcode = operation * 8 + self._choose.choice((0, 2)) + (width > 8)
        return self.encode(bytes((opcode,)), self._register(width), width, self._rm(width))

    def _arithmetic_immediate(self) -> bytes:
        width, operation = self._width(), self._choose.randrange(8)
        if width == 8:
            return self.encode(b"\x80", operation, 8, self._rm(8), self._immediate(1))
        if self._choose.random() < 0.6:
            return self.encode(b"\x83", operation, width, self._rm(width), self._immediate(1))
        return self.encode(b"\x81", operation, width, self._rm(width), self._immediate(min(width, 32) // 8))

    def _one_operand(self) -> bytes:
        width = self._width()
        operation = self._choose.choice((0, 2, 3, 3, 4, 5, 6) if self._choose.random() < 0.3 else (2, 3))
        immediate = self._immediate(min(width, 32) // 8) if operation == 0 else b""
        return self.encode(b"\xf6" if width == 8 else b"\xf7", operation, width, self._rm(width), immediate)

    def _increment(self) -> bytes:
        width = self._width()
        return self.encode(
            b"\xfe" if width == 8 else b"\xff", self._choose.randrange(2), width, self._rm(width)
        )  # fmt: skip

    def _shift(self) -> bytes:
        width, operation, byte = self._width(), self._choose.randrange(8), self._choose.random()
        rm = self._rm(width)
        wide = width > 8
        if byte < 0.3:
            return self.encode(bytes((0xD0 | wide,)), operation, width, rm)
        if byte < 0.5:
            return self.encode(bytes((0xD2 | wide,)), operation, width, rm)
        count = self._choose.choice((0, 1, 2, 7, 8, 15, 16, 17, 31, 32, 33, 63)).to_bytes(1, "little")
        return self.encode(bytes((0xC0 | wide,)), operation, width, rm, count)

    def _double_shift(self) -> bytes:
        width = self._choose.choice((32, 64) if self.bits == 64 else (16, 32))
        opcode, by_cl = self._choose.choice((0xA4, 0xAC)), self._choose.random() < 0.3
        count = b"" if by_cl else self._choose.choice((0, 1, 5, 15)).to_bytes(1, "little")
        return self.encode(bytes((0x0F, opcode + by_cl)), self._register(width), width, self._rm(width), count)

    def _move(self) -> bytes:
        width = self._width()
        if self._choose.random() < 0.25:
            return self.encode(
                b"\xc6" if width == 8 else b"\xc7", 0, width, self._rm(width), self._immediate(min(width, 32) // 8)
            )
        opcode = 0x88 + self._choose.choice((0, 2)) + (width > 8)
        return self.encode(bytes((opcode,)), self._register(width), width, self._rm(width))

    def _extend(self) -> bytes:
        width = self._choose.choice((32, 64, 16) if self.bits == 64 else (16, 32))
        opcode = self._choose.choice((0xB6, 0xB7, 0xBE, 0xBF))
        return self.encode(bytes((0x0F, opcode)), self._register(width), width, self._rm(8 if opcode & 1 == 0 else 16))

    def _lea(self) -> bytes:
        width = self._choose.choice((32, 64) if self.bits == 64 else (16, 32))
        return self.encode(b"\x8d", self._register(width), width, None)

    def _condition(self) -> bytes:
        condition = self._choose.randrange(16)
        if self._choose.random() < 0.5:
            return self.encode(bytes((0x0F, 0x90 + condition)), 0, 8, self._rm(8))
        width = self._choose.choice((32, 64) if self.bits == 64 else (16, 32))
        return self.encode(bytes((0x0F, 0x40 + condition)), self._register(width), width, self._rm(width))

    def _bit(self) -> bytes:
        width = self._choose.choice((32, 64) if self.bits == 64 else (16, 32))
        kind = self._choose.random()
        if kind < 0.4:
            count = self._choose.randrange(64).to_bytes(1, "little")
            return self.encode(b"\x0f\xba", self._choose.randrange(4, 8), width, self._rm(width), count)
        if kind < 0.7:
            opcode = self._choose.choice((0xA3, 0xAB, 0xB3, 0xBB))
            return self.encode(bytes((0x0F, opcode)), self._register(width), width, self._register(width))
        return self.encode(
            bytes((0x0F, self._choose.choice((0xBC, 0xBD)))), self._register(width), width, self._rm(width)
        )

    def _exchange(self) -> bytes:
        width, wide = self._width(), 0
        wide = int(width > 8)
        opcode = self._choose.choice((b"\x86", b"\x0f\xc0", b"\x0f\xb0"))
        return self.encode(opcode[:-1] + bytes((opcode[-1] | wide,)), self._register(width), width, self._rm(width))

    def _flags(self) -> bytes:
        if self._choose.random() < 0.1:
            return self._choose.choice((b"\xfa", b"\xfb", b"\x0f\x31", b"\xfc\xfc", b"\x9d"))
        return self._choose.choice(
            (b"\x9f", b"\x9e", b"\x9c\x58", b"\xf8", b"\xf9", b"\xf5", b"\x98", b"\x99", b"\x9c")
        )

    def _stack(self) -> bytes:
        kind = self._choose.randrange(5)
        if kind == 0:
            return bytes((0x50 + self._choose.choice(_FREE),))
        if kind == 1:
            return bytes((0x50 + self._choose.choice((0, 1, 2, 3, 6, 7)), 0x58 + self._choose.choice(_FREE)))
        if kind == 2:
            return b"\x6a" + self._immediate(1)
        if kind == 3:
            return bytes((0x58 + self._choose.choice(_FREE),))
        return self.encode(b"\xff", 6, 0, None) + bytes((0x58 + self._choose.choice(_FREE),))

    def _string(self) -> bytes:
        operation = bytes((self._choose.choice((0xA4, 0xA5, 0xAA, 0xAB, 0xAC, 0xA6, 0xAE)),))
        if self._choose.random() < 0.3:
            return (
                b"\xb1" + self._choose.randrange(1, 9).to_bytes(1, "little") + self.clear_count() + b"\xf3" + operation
            )
        return operation

    def clear_count(self) -> bytes:
        """MOVZX eCX, CL (CX in 16-bit code)."""
        return b"\x0f\xb6\xc9"

    def _move_pointer(self) -> bytes:
        register = self._choose.choice(_POINTERS)
        amount = self._choose.choice((1, 2, 4, 8, 16, -1, -4, -8)) & 0xFF
        rex = b"\x48" if self.bits == 64 else b""
        return rex + bytes((0x83, 0xC0 | register, amount))

    def _sse(self) -> bytes:
        choose = self._choose
        prefix, opcode, immediate = choose.choice(
            (
                (b"", 0x10, 0), (b"", 0x11, 0), (b"", 0x28, 0), (b"\xf3", 0x10, 0), (b"\xf3", 0x11, 0),
                (b"\xf2", 0x10, 0),
                (b"\xf2", 0x11, 0), (b"\xf3", 0x7E, 0), (b"\x66", 0xD6, 0), (b"\x66", 0x6F, 0), (b"\xf3", 0x6F, 0),
                (b"\xf3", 0x7F, 0), (b"", 0x58, 0), (b"\xf3", 0x58, 0), (b"\xf2", 0x58, 0), (b"\x66", 0x59, 0),
                (b"\xf2", 0x59, 0), (b"\xf2", 0x5C, 0), (b"\x66", 0xEF, 0), (b"\x66", 0xFE, 0), (b"\x66", 0xD4, 0),
                (b"\x66", 0x70, 1), (b"\x66", 0x2E, 0), (b"", 0x2F, 0), (b"", 0x14, 0), (b"", 0x57, 0),
                (b"\xf2", 0x5A, 0),
                (b"\xf3", 0x5A, 0), (b"\x66", 0xC6, 1), (b"", 0x16, 2), (b"", 0x13, 2), (b"\x66", 0x12, 2),
                (b"\xf2", 0x51, 0), (b"\x66", 0x73, 3), (b"\x66", 0xD7, 4), (b"\xf2", 0x2A, 5), (b"\xf2", 0x2C, 4),
                (b"\x66", 0x6E, 5), (b"\x66", 0x7E, 6), (b"\xf3", 0xE6, 0), (b"\x66", 0xC4, 7), (b"\x66", 0x60, 0),
            )
        )  # fmt: skip
        register, other = choose.randrange(8), choose.randrange(8)
        rm: int | None = None if choose.random() < 0.4 else other
        data = b""
        if immediate in (1, 7):
            data = choose.randbytes(1)
        if immediate == 2:
            rm = None
        elif immediate == 3:
            register, rm, data = choose.choice((2, 3, 6, 7)), other, choose.choice((1, 8, 17)).to_bytes(1, "little")
        elif immediate == 4:
            register, rm = choose.choice(_FREE), other
        elif immediate in (5, 6, 7):
            rm = choose.choice((*_FREE, None))
        return self.encode(bytes((0x0F, opcode)), register, 0, rm, data, prefix)

    def _mmx(self) -> bytes:
        choose = self._choose
        opcode = choose.choice((0x6F, 0x7F, 0xEF, 0xFC, 0xFE, 0x6E, 0xD5, 0x60))
        rm = choose.choice((None, 0)) if opcode == 0x6E else choose.choice((None, choose.randrange(8)))
        return self.encode(bytes((0x0F, opcode)), choose.randrange(8), 0, rm)

    def _rare(self) -> bytes:
        return self._choose.choice(
            (b"\x0f\x0b", b"\xcc", b"\xd9\xe8\xdd\xd8", b"\x0f\xa2", b"\x0f\x77", b"\x90", b"\xf4\x90")
        )
