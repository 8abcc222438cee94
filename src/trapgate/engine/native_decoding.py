"""What native code needs to decode blocks (engine/native_decode.py) and to put them among those that are kept."""

from __future__ import annotations

import ctypes
import mmap
from array import array
from collections.abc import Sequence

from trapgate.engine import native_decode, page_code
from trapgate.engine.growing import Growing
from trapgate.engine.handlers import HandlerStore
from trapgate.engine.patterns import Patterns

#: Bytes of what the templates hold one of: an instruction of the pool, an index, a row, a byte of code.
_UNITS = (page_code.POOL_SIZE, 4, page_code.ROW_SIZE, 1)
#: Arguments that say how many of each there are.
_COUNTS = (native_decode.POOL_COUNT, native_decode.INDEX_COUNT, native_decode.ROW_COUNT, native_decode.CODE_SIZE)
_HEAD = 16


class NativeDecoding:
    """The patterns of one decode mode, and calls of `@decode`."""

    def __init__(self, handlers: HandlerStore) -> None:
        self.patterns = Patterns()
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | getattr(mmap, "MAP_NORESERVE", 0)
        scratch = native_decode.MOST * native_decode.SCRATCH_SIZE
        self._memory = mmap.mmap(-1, native_decode.POOL_INDEX_SIZE * 4 + scratch, flags=flags)
        base = ctypes.addressof(ctypes.c_char.from_buffer(self._memory))
        self._arguments = a = array("Q", bytes(8 * native_decode.ARGUMENTS))
        self._address = a.buffer_info()[0]
        a[native_decode.POOL_INDEX], a[native_decode.SCRATCH] = base, base + native_decode.POOL_INDEX_SIZE * 4
        a[native_decode.TABLE], a[native_decode.PAIRS] = self.patterns.table, self.patterns.pairs
        a[native_decode.KINDS] = self.patterns.kinds
        self._call = ctypes.CFUNCTYPE(*[ctypes.c_uint64] * 3)(handlers.runtime["decode"])

    def decode(self, page: int, place: int, parts: Sequence[Growing]) -> bool:
        """Decode the block at a place of the page with the host address `page`; whether it has been. `parts` are the
        templates' pool, indices, rows, code and heads, which have room for it."""
        a = self._arguments
        pool, indices, rows, code, heads = parts
        if not a[native_decode.POOL]:
            a[native_decode.POOL], a[native_decode.INDICES] = pool.address, indices.address
            a[native_decode.ROWS], a[native_decode.CODE], a[native_decode.HEADS] = (
                rows.address, code.address, heads.address
            )  # fmt: skip
        a[native_decode.BYTES], a[native_decode.PLACE] = page, place
        for part, number, unit in zip(parts, _COUNTS, _UNITS, strict=False):
            a[number] = part.size // unit
        if not self._call(0, self._address):
            pool.size = a[native_decode.POOL_COUNT] * page_code.POOL_SIZE
            return False
        for part, number, unit in zip(parts, _COUNTS, _UNITS, strict=False):
            part.size = a[number] * unit
        heads.size += _HEAD
        return True
