"""Random programs: blocks of random instructions, joined by branches, calls and returns that go anywhere."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from .random_instructions import Instructions


@dataclass
class Program:
    """Code, and the addresses where its parts begin."""

    origin: int
    data: bytearray = field(default_factory=bytearray)
    labels: list[int] = field(default_factory=list)
    #: (place in the data, bytes, label, whether it is relative to the place behind it)
    _fixes: list[tuple[int, int, int, bool]] = field(default_factory=list)

    def add(self, data: bytes) -> None:
        """Bytes without a label in them."""
        self.data += data

    def refer(self, opcode: bytes, size: int, label: int, relative: bool = True) -> None:
        """An instruction that ends with a label's address or distance."""
        self.data += opcode
        self._fixes.append((len(self.data), size, label, relative))
        self.data += bytes(size)

    def here(self) -> None:
        """The next label."""
        self.labels.append(self.origin + len(self.data))

    def finish(self) -> None:
        """Put distances where they belong."""
        for place, size, label, relative in self._fixes:
            value = self.labels[label] - (self.origin + place + size if relative else 0)
            self.data[place : place + size] = (value & (1 << 8 * size) - 1).to_bytes(size, "little")


#: Where pointers start, seen from the data: mostly near the ends of pages.
_STARTS = (0x10, 0x100, 0xFC0, 0xFF8, 0xFFD, 0x1FF0, 0x1FF9, 0x2010, 0x2FF4, 0x3020, 0x3FE0)


def pointers(choose: random.Random, data: int) -> tuple[int, int, int]:
    """Values of rBX, rSI and rDI."""
    first, second, third = (data + choose.choice(_STARTS) for _ in range(3))
    return first, second, third


def program(choose: random.Random, bits: int, origin: int, data: int, stack: int) -> Program:
    """A program without an end: its first part sets the pointers up, and its last one goes to the first."""
    made = Program(origin)
    instructions = Instructions(choose, bits)
    word = 2 if bits == 16 else 4
    parts = choose.randrange(3, 8)
    for part in range(parts):
        made.here()
        if part == 0:
            made.add(b"\xbc" + stack.to_bytes(word, "little"))
            for register, value in zip((3, 6, 7), pointers(choose, data), strict=True):
                made.add(bytes((0xB8 | register,)) + value.to_bytes(word, "little"))
            if choose.random() < 0.5:
                made.add(b"\x0f\xb6\xc9")  # movzx ecx, cl
        for _ in range(choose.randrange(1, 7)):
            made.add(instructions.one())
        if part == parts - 1:
            break
        _end(choose, made, bits, parts)
    made.refer(b"\xe9", word, 0)
    made.finish()
    return made


def _end(choose: random.Random, made: Program, bits: int, parts: int) -> None:
    """The end of a part: it may go on to the next one."""
    word = 2 if bits == 16 else 4
    kind = choose.random()
    label = choose.randrange(parts)
    rex = b"\x48" if bits == 64 else b""
    if kind < 0.5:
        if choose.random() < 0.4:
            made.add(choose.choice((b"\x39\xc8", b"\x85\xd2", b"\xff\xc9", b"\xa8\x10", b"\x38\xe0", b"\x83\xe9\x01")))
        made.refer(bytes((0x0F, 0x80 + choose.randrange(16))), word, label)
    elif kind < 0.6:
        # LOOP and its kin have short displacements: over a jump.
        made.add(bytes((choose.choice((0xE0, 0xE1, 0xE2, 0xE3)), 2)) + bytes((0xEB, 1 + word)))
        made.refer(b"\xe9", word, label)
    elif kind < 0.68:
        made.refer(b"\xe9", word, label)
    elif kind < 0.78:
        made.refer(b"\xe8", word, label)
    elif kind < 0.86:
        # A return to where it may have been called from, or somewhere else.
        if choose.random() < 0.5:
            made.refer(b"\x68", word, label, relative=False)
        made.add(choose.choice((b"\xc3", b"\xc3", b"\xc2\x08\x00")))
    elif kind < 0.93:
        made.refer(b"\xb8", word, label, relative=False)
        made.add(choose.choice((b"\xff\xe0", b"\xff\xd0")))
    elif kind < 0.97:
        # It writes into its own code: a byte of the immediate of the instruction behind it.
        target = made.origin + len(made.data) + (7 + 2 if bits != 16 else 5 + 2) + (1 if bits == 64 else 0)
        address = target.to_bytes(word, "little")
        made.add((b"\x80\x04\x25" if bits == 64 else b"\x80\x05" if bits == 32 else b"\x80\x06") + address + b"\x01")
        made.add(rex + b"\x05" + bytes(word))
