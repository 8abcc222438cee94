"""What RAM contains, in pieces of 64 KB of which states that follow one another share those that did not change."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass, field

from trapgate.machine.memory import PAGE, PhysicalMemory

PIECE = 65536
_ZEROS = bytes(PIECE)


def _compare() -> Callable[[int, bytes, int], int]:
    function = ctypes.CDLL(None).memcmp
    function.argtypes = (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_size_t)
    return function


@dataclass(frozen=True, slots=True)
class Content:
    """The pieces of RAM in the order of their addresses; None stands for one that is all zeros."""

    pieces: tuple[bytes | None, ...] = field(repr=False)

    @property
    def used(self) -> int:
        """Bytes of pieces that are not all zeros."""
        return sum(len(piece) for piece in self.pieces if piece is not None)


def places(memory: PhysicalMemory) -> list[tuple[int, int]]:
    """Host-physical address and length of each piece."""
    return [
        (start, min(PIECE, ram.stop - start)) for ram in memory.ranges() for start in range(ram.start, ram.stop, PIECE)
    ]


def take(memory: PhysicalMemory, like: Content | None = None) -> Content:
    """The content now; what is as in `like` is shared with it."""
    compare, base = _compare(), memory.base
    known = like.pieces if like is not None else (None,) * len(places(memory))
    pieces: list[bytes | None] = []
    for (start, length), piece in zip(places(memory), known, strict=True):
        if not compare(base + start, _ZEROS if piece is None else piece, length):
            pieces.append(piece)
        elif piece is not None and not compare(base + start, _ZEROS, length):
            pieces.append(None)
        else:
            pieces.append(bytes(memory.view[start : start + length]))
    return Content(tuple(pieces))


def put(memory: PhysicalMemory, content: Content) -> None:
    """Make it the content of RAM; decoded code under what changes is dropped."""
    compare, base, view, code = _compare(), memory.base, memory.view, memory.code_map
    for (start, length), piece in zip(places(memory), content.pieces, strict=True):
        data = _ZEROS[:length] if piece is None else piece
        if not compare(base + start, data, length):
            continue
        first = start // PAGE
        if any(code[first : first + length // PAGE]):
            for at in range(0, length, PAGE):
                page = data[at : at + PAGE]
                if compare(base + start + at, page, PAGE):
                    memory.write(start + at, page)
        else:
            view[start : start + length] = data
