"""Decoded blocks kept on disk: a second run of a guest lays them out again without decoding.

How a block decodes depends on its bytes and on the decode mode alone. So a block is found again by its bytes: the first
16 at its place, then all of them. What it consists of are numbers of instructions in a pool, one array for each mode;
native code (engine/fixed.py: emit_block) makes records of them.

Kept are blocks of 64-bit code that lie on one page and end in a native instruction, or because they are as long as
blocks may be.
"""

from __future__ import annotations

import ctypes
import json
import struct
from array import array
from typing import NamedTuple

from trapgate.engine.compile import CodeFolder
from trapgate.engine.handlers import HandlerStore
from trapgate.isa.decoded import Decoded

#: Of the files: part of their names.
FORMAT = 2
#: Bytes by which blocks are looked for.
HEAD = 16
#: Blocks that are kept for a mode; when there are more, all are forgotten.
MOST_BLOCKS = 200_000
#: So many new ones make it worth writing the file.
ENOUGH = 1000

#: An instruction of the pool: handler (the number of a key in the file, its address in memory), bytes 8 to 31 of the
#: record, what is added to rip, whether it is, cycles, bytes (engine/fixed.py: emit_block).
_INSTRUCTION = struct.Struct("<Q24sQIII12x")
_ROW = struct.Struct("<IIHHIBxxxQ")  # where code and indices begin, bytes, instructions, cycles, flags, target
_HEADER = struct.Struct("<6IQ")  # lengths of: keys, pool, indices, rows, heads, code
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
        self._folder, self._handlers, self._name = folder, handlers, f"decoded-{FORMAT}-{mode}"
        self._keys: dict[str, int] = {}
        self._rows = self._heads = self._code = b""
        self._pool, self._indices = bytearray(8), bytearray(8)
        self._by_head: dict[bytes, int] = {}
        self._load()
        #: Host address of the pool.
        self.pool = ctypes.addressof(ctypes.c_char.from_buffer(self._pool))
        self._indices_at = ctypes.addressof(ctypes.c_char.from_buffer(self._indices))
        self._new: list[tuple[bytes, bytes, list[int], int, int, int]] = []
        self._new_pool: dict[tuple[int, bytes, int | None, int, int], int] = {}
        #: Blocks found here in this run.
        self.used = 0

    # -- reading

    def _parts(self) -> list[bytes]:
        """What the file holds; nothing where there is none."""
        data = self._folder.read(self._name)
        if data is None:
            return []
        place, parts = _HEADER.size, []
        for size in _HEADER.unpack_from(data)[:6]:
            parts.append(data[place : place + size])
            place += size
        return parts

    def _load(self) -> None:
        parts = self._parts()
        if not parts:
            return
        names: list[str] = json.loads(parts[0])
        self._handlers.build(name for name in names if not self._handlers.has(name))
        self._keys = {name: i for i, name in enumerate(names)}
        addresses = [self._handlers.address(name) for name in names]
        self._pool, self._indices = bytearray(parts[1]), bytearray(parts[2])
        words = memoryview(self._pool).cast("Q")
        step = _INSTRUCTION.size // 8
        words[::step] = memoryview(array("Q", [addresses[number] for number in words[::step].tolist()]))
        self._rows, self._heads, self._code = parts[3:]
        heads = self._heads
        self._by_head = {heads[i : i + HEAD]: i // HEAD for i in range(0, len(heads), HEAD)}

    def find(self, code: bytes) -> Template | None:
        """The block that `code`, up to the end of its page, begins with."""
        row = self._by_head.get(code[:HEAD])
        if row is None:
            return None
        start, indices, length, count, cycles, flags, target = _ROW.unpack_from(self._rows, row * _ROW.size)
        known = self._code[start : start + length]
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
        parts = self._parts() or [b""] * 6
        if (parts[3], parts[4]) != (self._rows, self._heads):
            return  # another run has written the file meanwhile: its numbers are not ours
        if len(self._heads) // HEAD + len(self._new) > MOST_BLOCKS:
            parts = [b""] * 6
        _, pool, indices, rows, heads, code = parts
        base = len(pool) // _INSTRUCTION.size
        pool += b"".join(
            _INSTRUCTION.pack(key, body, relative or 0, relative is not None, cycles, length)
            for key, body, relative, cycles, length in self._new_pool
        )
        new_rows, new_code, numbers = bytearray(rows), bytearray(code), array("I")
        place = len(indices) // 4
        for _, block, mine, cycles, flags, target in self._new:
            new_rows += _ROW.pack(len(new_code), place + len(numbers), len(block), len(mine), cycles, flags, target)
            new_code += block
            numbers.extend(number + base for number in mine)
        indices += numbers.tobytes()
        heads += b"".join(head for head, *_ in self._new)
        names = json.dumps(list(self._keys)).encode()
        parts = [names, pool, indices, bytes(new_rows), heads, bytes(new_code)]
        self._folder.write(self._name, _HEADER.pack(*map(len, parts), 0) + b"".join(parts))
        self._new.clear()
        self._new_pool.clear()
