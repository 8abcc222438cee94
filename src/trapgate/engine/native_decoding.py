"""What native code needs to decode blocks (engine/native_decode.py) and to put them among those that are kept."""

from __future__ import annotations

import ctypes
import mmap
from array import array
from collections.abc import Sequence

from trapgate.engine import native_decode, page_code, record
from trapgate.engine.growing import Growing
from trapgate.engine.handlers import HandlerStore
from trapgate.engine.patterns import Patterns

#: Bytes of what the templates hold one of: an instruction of the pool, an index, a row, a byte of code.
_UNITS = (page_code.POOL_SIZE, 4, page_code.ROW_SIZE, 1)
#: Arguments that say how many of each there are.
_COUNTS = (native_decode.POOL_COUNT, native_decode.INDEX_COUNT, native_decode.ROW_COUNT, native_decode.CODE_SIZE)
#: Arguments that say where they are.
_ADDRESSES = (
    native_decode.POOL, native_decode.INDICES, native_decode.ROWS, native_decode.CODE, native_decode.HEADS
)  # fmt: skip


class NativeDecoding:
    """The patterns of one decode mode, and calls of `@decode`."""

    def __init__(self, handlers: HandlerStore) -> None:
        self.patterns = Patterns()
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | getattr(mmap, "MAP_NORESERVE", 0)
        scratch = record.MAX_INSTRUCTIONS * native_decode.SCRATCH_SIZE
        indices = 4 * (native_decode.POOL_INDEX_SIZE + native_decode.HEAD_INDEX_SIZE)
        self._memory = mmap.mmap(-1, indices + scratch, flags=flags)
        base = ctypes.addressof(ctypes.c_char.from_buffer(self._memory))
        self._arguments = a = array("Q", bytes(8 * native_decode.ARGUMENTS))
        #: Host address of the arguments.
        self.address = a.buffer_info()[0]
        a[native_decode.POOL_INDEX], a[native_decode.SCRATCH] = base, base + indices
        a[native_decode.HEAD_INDEX] = base + 4 * native_decode.POOL_INDEX_SIZE
        a[native_decode.TABLE], a[native_decode.PAIRS] = self.patterns.table, self.patterns.pairs
        a[native_decode.KINDS] = self.patterns.kinds
        a[native_decode.NEW_HEAD] = 1
        self._parts: Sequence[Growing] = ()
        self._call = ctypes.CFUNCTYPE(*[ctypes.c_uint64] * 3)(handlers.runtime["decode"])

    def connect(self, parts: Sequence[Growing]) -> None:
        """Have native code add to the templates' pool, indices, rows, code and heads."""
        self._parts = parts
        for number, part in zip(_ADDRESSES, parts, strict=True):
            self._arguments[number] = part.address
        self.push()

    def push(self) -> None:
        """Python has added to them."""
        for number, part, unit in zip(_COUNTS, self._parts, _UNITS, strict=False):
            self._arguments[number] = part.size // unit
        self._arguments[native_decode.ROW_LIMIT] = self._arguments[native_decode.ROW_COUNT] + self.room()

    def pull(self) -> int:
        """Native code has added to them: how many rows there are now."""
        for number, part, unit in zip(_COUNTS, self._parts, _UNITS, strict=False):
            part.size = self._arguments[number] * unit
        rows: int = self._arguments[native_decode.ROW_COUNT]
        self._parts[-1].size = rows * native_decode.HEAD
        return rows

    def room(self) -> int:
        """For how many more blocks there is room for certain."""
        return min([part.room for part in self._parts])

    def decode(self, page: int, place: int) -> bool:
        """Decode the block at a place of the page with the host address `page`; whether it has been."""
        a = self._arguments
        a[native_decode.BYTES], a[native_decode.PLACE], a[native_decode.NEW_HEAD] = page, place, 0
        done = self._call(0, self.address)
        a[native_decode.NEW_HEAD] = 1
        return bool(done)
