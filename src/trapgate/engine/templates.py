"""Decoded blocks kept on disk: a second run of a guest lays them out again without decoding.

How a block decodes depends on its bytes and on the decode mode alone. So a block is found again by its bytes: the first
16 at its place, then all of them. What it consists of are numbers of instructions in a pool, one array for each mode;
native code (engine/fixed.py: emit_block) makes records of them.

Kept are blocks of 64-bit code that lie on one page and end in a native instruction, or because they are as long as
blocks may be.
"""

from __future__ import annotations

import json
import struct
from typing import NamedTuple

import numpy as np

from trapgate.engine.compile import CodeFolder
from trapgate.engine.handlers import HandlerStore
from trapgate.isa.decoded import Decoded

#: Bytes by which blocks are looked for.
HEAD = 16
#: Blocks that are kept for a mode; when there are more, all are forgotten.
MOST_BLOCKS = 200_000
#: So many new ones make it worth writing the file.
ENOUGH = 1000

#: An instruction of the pool. `handler` is the number of a key in the file, and an address in memory.
POOL = np.dtype([
    ("handler", "<u8"), ("body", "V24"), ("relative", "<u8"), ("is_relative", "<u4"), ("cycles", "<u4"),
    ("length", "<u4"), ("unused", "<u4", 3),
])  # fmt: skip
_ROW = struct.Struct("<IIHHIBxxxQ")  # where code and indices begin, bytes, instructions, cycles, flags, target
_HEADER = struct.Struct("<6I")  # lengths of: keys, pool, indices, rows, code, blocks
_ENDS, _HAS_TARGET = 1, 2
_M64 = (1 << 64) - 1


class Template(NamedTuple):
    """A block, wherever it stands. `indices` is the host address of its instructions' numbers (u32 each); `target` is
    what a direct branch's target has over the block's end, or None."""

    code: bytes
    indices: int
    instructions: int
    cycles: int
    ends: bool
    target: int | None


class Templates:
    """The blocks of one decode mode: those of earlier runs, and those that this run adds."""

    def __init__(self, folder: CodeFolder, handlers: HandlerStore, mode: str) -> None:
        self._folder, self._handlers, self._name = folder, handlers, f"decoded-{mode}"
        self._keys: dict[str, int] = {}
        self._pool = np.zeros(0, POOL)
        self._indices = np.zeros(0, "<u4")
        self._rows = self._code = b""
        self._by_head: dict[bytes, int] = {}
        self._load()
        #: Host address of the pool.
        self.pool = self._pool.ctypes.data
        self._indices_at = self._indices.ctypes.data
        self._new: list[tuple[bytes, bytes, list[int], int, int, int]] = []
        self._new_pool: dict[tuple[int, bytes, int | None, int, int], int] = {}
        #: Blocks found here in this run.
        self.used = 0

    # -- reading

    def _load(self) -> None:
        data = self._folder.read(self._name)
        if data is None:
            return
        sizes = _HEADER.unpack_from(data)
        parts, place = [], _HEADER.size
        for size in sizes[:5]:
            parts.append(data[place : place + size])
            place += size
        names: list[str] = json.loads(parts[0])
        self._handlers.build(name for name in names if not self._handlers.has(name))
        self._keys = {name: i for i, name in enumerate(names)}
        addresses = np.array([self._handlers.address(name) for name in names], "<u8")
        self._pool = np.frombuffer(parts[1], POOL).copy()
        self._pool["handler"] = addresses[self._pool["handler"]]
        self._indices = np.frombuffer(parts[2], "<u4").copy()
        self._rows, self._code = parts[3], parts[4]
        code, size = self._code, _ROW.size
        for row in range(sizes[5]):
            (start,) = struct.unpack_from("<I", self._rows, row * size)
            self._by_head[code[start : start + HEAD]] = row

    def find(self, code: bytes) -> Template | None:
        """The block that `code`, up to the end of its page, begins with."""
        row = self._by_head.get(code[:HEAD])
        if row is None:
            return None
        start, indices, length, count, cycles, flags, target = _ROW.unpack_from(self._rows, row * _ROW.size)
        known = self._code[start + HEAD : start + HEAD + length]
        if code[:length] != known:
            return None
        self.used += 1
        has_target = target if flags & _HAS_TARGET else None
        return Template(known, self._indices_at + 4 * indices, count, cycles, bool(flags & _ENDS), has_target)

    # -- learning

    def learn(self, code: bytes, length: int, decoded: list[Decoded], keys: list[str]) -> None:
        """Keep a block of `length` bytes at the start of `code` for later runs, if it is one that is kept."""
        last = decoded[-1]
        if last.python or len(code) < max(HEAD, length) or not length:
            return
        if last.target is not None and last.target_mask != _M64:
            return
        if not last.ends_block and (len(decoded) < 64 or length == len(code)):
            return
        numbers = []
        cycles = 0
        for d, key in zip(decoded, keys, strict=True):
            key_number = self._keys.setdefault(key, len(self._keys))
            what = (key_number, d.body, d.relative, d.cycles, d.length)
            numbers.append(self._new_pool.setdefault(what, len(self._new_pool)))
            cycles += d.cycles
        flags, target = _ENDS if last.ends_block else 0, 0
        if last.target is not None:
            flags |= _HAS_TARGET
            target = last.target - last.length & _M64
        self._new.append((code[:HEAD], code[:length], numbers, cycles, flags, target))

    def save(self) -> None:
        """Write what is new, with what was there, if it is enough."""
        if len(self._new) < ENOUGH:
            return
        old = len(self._rows) // _ROW.size
        fresh = old + len(self._new) > MOST_BLOCKS
        pool, indices, rows, code = self._pool, self._indices, self._rows, self._code
        if fresh:
            pool, indices, rows, code = pool[:0], indices[:0], b"", b""
        else:
            # Addresses are this process's: back to numbers.
            number_of = {self._handlers.address(name): number for name, number in self._keys.items()}
            pool = pool.copy()
            pool["handler"] = [number_of[int(address)] for address in pool["handler"]]
        added = np.zeros(len(self._new_pool), POOL)
        for i, (key, body, relative, cycles, length) in enumerate(self._new_pool):
            added[i] = (key, body, relative or 0, relative is not None, cycles, length, 0)
        new_rows, new_code, new_indices = bytearray(rows), bytearray(code), []
        place = len(indices)
        for head, block, numbers, cycles, flags, target in self._new:
            new_rows += _ROW.pack(len(new_code), place, len(block), len(numbers), cycles, flags, target)
            new_code += head + block
            new_indices += numbers
            place += len(numbers)
        merged = np.concatenate([indices, np.array(new_indices, "<u4") + np.uint32(len(pool))])
        names = json.dumps(list(self._keys)).encode()
        parts = [
            names,
            pool.tobytes() + added.tobytes(),
            merged.astype("<u4").tobytes(),
            bytes(new_rows),
            bytes(new_code),
        ]
        header = _HEADER.pack(*(len(part) for part in parts), len(new_rows) // _ROW.size)
        self._folder.write(self._name, header + b"".join(parts))
        self._new.clear()
        self._new_pool.clear()
