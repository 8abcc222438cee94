"""Decoded blocks kept on disk: a second run of a guest lays them out again without decoding.

How a block decodes depends on its bytes and on the decode mode alone. So a block is found again by its bytes: the first
16 at its place, then all of them. What it consists of are numbers of instructions in a pool, one array for each mode;
native code (engine/page_code.py) makes records of them. Which blocks stood on one page is kept too, as a **group**:
when one of them is found, all of them are laid out whose bytes are there.

Kept are blocks of 64-bit code that lie on one page and end in a native instruction, or because they are as long as
blocks may be.
"""

from __future__ import annotations

import ctypes
import json
import struct
from array import array
from typing import NamedTuple

from trapgate.engine import page_code
from trapgate.engine.compile import CodeFolder
from trapgate.engine.handlers import HandlerStore
from trapgate.isa.decoded import Decoded

#: Of the files: part of their names.
FORMAT = 3
#: Bytes by which blocks are looked for.
HEAD = 16
#: Blocks that are kept for a mode; when there are more, all are forgotten.
MOST_BLOCKS = 200_000
#: Blocks of a group at most.
MOST_MEMBERS = 1000
#: So much that is new makes it worth writing the file.
ENOUGH = 500

#: An instruction of the pool: handler (the number of a key in the file, its address in memory), bytes 8 to 31 of the
#: record, what is added to rip, whether it is, cycles, bytes.
_INSTRUCTION = struct.Struct("<Q24sQIII12x")
_ROW = struct.Struct("<IIHHIBxxxQ")
_HEADER = struct.Struct("<8Q")
_PARTS = 8
_M64 = (1 << 64) - 1
assert (_INSTRUCTION.size, _ROW.size) == (page_code.POOL_SIZE, page_code.ROW_SIZE)


class Row(NamedTuple):
    """A block, wherever it stands. `target` is what a direct branch's target has over the block's end, or None."""

    code: bytes
    instructions: int
    cycles: int
    ends: bool
    target: int | None


class _Page:
    """A page of this run with blocks that are not in its group, or that has none: (number of a row << 12) + place.
    Rows of this run have numbers from the number of rows in the file on."""

    __slots__ = ("added", "group")

    def __init__(self) -> None:
        self.group: int | None = None
        self.added: list[int] = []


class Templates:
    """The blocks of one decode mode: those of earlier runs, and those that this run adds."""

    def __init__(self, folder: CodeFolder, handlers: HandlerStore, mode: str) -> None:
        self._folder, self._handlers, self._name = folder, handlers, f"decoded-{FORMAT}-{mode}"
        self._keys: dict[str, int] = {}
        self._pool, self._indices, self._rows, self._code = (bytearray(8) for _ in range(4))
        self._heads = b""
        self._members, self._groups = array("Q", [0]), array("Q")
        self._by_head: dict[bytes, int] = {}
        self._same_head: dict[bytes, list[int]] = {}
        self._group_of: dict[int, int] = {}
        self.row_count = 0
        self._load()
        #: Host addresses of what native code looks at.
        self.pool, self.indices, self.rows, self.code = (
            ctypes.addressof(ctypes.c_char.from_buffer(part))
            for part in (self._pool, self._indices, self._rows, self._code)
        )
        self.members = self._members.buffer_info()[0]
        self._new: list[tuple[bytes, bytes, list[int], int, int, int]] = []
        self._new_pool: dict[tuple[int, bytes, int | None, int, int], int] = {}
        self._pages: dict[tuple[int, int], _Page] = {}
        self._news = 0
        #: Blocks found here in this run.
        self.used = 0

    # -- reading

    def _parts(self) -> list[bytes]:
        """What the file holds; nothing where there is none."""
        data = self._folder.read(self._name)
        if data is None:
            return []
        place, parts = _HEADER.size, []
        for size in _HEADER.unpack_from(data):
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
        self._pool, self._indices, self._rows, self._code = (bytearray(part) for part in (*parts[1:4], parts[5]))
        words = memoryview(self._pool).cast("Q")
        step = _INSTRUCTION.size // 8
        words[::step] = memoryview(array("Q", [addresses[number] for number in words[::step].tolist()]))
        self._heads = heads = parts[4]
        self.row_count = len(heads) // HEAD
        places = range(0, len(heads), HEAD)
        self._by_head = {heads[i : i + HEAD]: i // HEAD for i in places}
        if len(self._by_head) < self.row_count:
            for i in places:
                head = heads[i : i + HEAD]
                if self._by_head[head] != i // HEAD:
                    self._same_head.setdefault(head, []).append(i // HEAD)
        self._members, self._groups = array("Q"), array("Q")
        self._members.frombytes(parts[6])
        self._groups.frombytes(parts[7])
        numbers = [number for number, count in enumerate(self._groups) for _ in range(count & 0xFFFF)]
        self._group_of = dict(zip(self._members, numbers, strict=True))

    def find(self, code: bytes) -> int | None:
        """The number of the row of the block that `code`, up to the end of its page, begins with."""
        head = code[:HEAD]
        row = self._by_head.get(head)
        if row is None:
            return None
        if self._begins(code, row):
            return row
        for other in self._same_head.get(head, ()):
            if self._begins(code, other):
                return other
        return None

    def _begins(self, code: bytes, row: int) -> bool:
        start, _, length, *_ = _ROW.unpack_from(self._rows, row * _ROW.size)
        return code[:length] == self._code[start : start + length]

    def row(self, number: int) -> Row:
        """A row."""
        start, _, length, count, cycles, flags, target = _ROW.unpack_from(self._rows, number * _ROW.size)
        has_target = target if flags & page_code.HAS_TARGET else None
        return Row(bytes(self._code[start : start + length]), count, cycles, bool(flags & page_code.ENDS), has_target)

    def group(self, member: int) -> tuple[int, int, int] | None:
        """The group of (number of a row << 12) + place in the page: its number, the host address of its members, and
        how many there are."""
        number = self._group_of.get(member)
        if number is None:
            return None
        word = self._groups[number]
        return number, self.members + 8 * (word >> 16), word & 0xFFFF

    def member(self, address: int, index: int) -> int:
        """A member of the group whose members are at a host address."""
        return self._members[(address - self.members >> 3) + index]

    # -- learning

    def learn(self, code: bytes, length: int, decoded: list[Decoded], keys: list[str]) -> int | None:
        """Keep a block of `length` bytes at the start of `code` for later runs, if it is one that is kept; the number
        of its row then."""
        last = decoded[-1]
        if last.python or len(code) < max(HEAD, length) or not length:
            return None
        if last.target is not None and last.target_mask != _M64:
            return None
        if not last.ends_block and (len(decoded) < 64 or length == len(code)):
            return None
        numbers = []
        cycles = 0
        for d, key in zip(decoded, keys, strict=True):
            key_number = self._keys.setdefault(key, len(self._keys))
            what = (key_number, d.body, d.relative, d.cycles, d.length)
            numbers.append(self._new_pool.setdefault(what, len(self._new_pool)))
            cycles += d.cycles
        flags, target = page_code.ENDS if last.ends_block else 0, 0
        if last.target is not None:
            flags |= page_code.HAS_TARGET
            target = last.target - last.length & _M64
        self._new.append((code[:HEAD], code[:length], numbers, cycles, flags, target))
        self._news += 1
        return self.row_count + len(self._new) - 1

    def laid_out(self, page: tuple[int, int], group: int) -> None:
        """A group has been laid out on a page (linear and physical address)."""
        self._pages.setdefault(page, _Page()).group = group

    def stands(self, page: tuple[int, int], row: int, place: int) -> None:
        """A block that no group had stands at a place of a page."""
        self._pages.setdefault(page, _Page()).added.append(row << 12 | place)
        self._news += 1

    # -- writing

    def save(self) -> None:
        """Write what is new, with what was there, if it is enough."""
        if self._news < ENOUGH:
            return
        parts = self._parts() or [b""] * _PARTS
        if parts[4] != self._heads:
            return  # another run has written the file meanwhile: its numbers are not ours
        if self.row_count + len(self._new) > MOST_BLOCKS:
            # Too many: only what this run has decoded stays.
            parts = [b""] * _PARTS
        _, pool, indices, rows, heads, code, _, _ = parts
        kept = len(heads) // HEAD
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
        members, groups = self._new_groups(kept)
        names = json.dumps(list(self._keys)).encode()
        parts = [names, pool, indices, bytes(new_rows), heads, bytes(new_code), members, groups]
        self._folder.write(self._name, _HEADER.pack(*map(len, parts)) + b"".join(parts))
        self._news = 0

    def _new_groups(self, kept: int) -> tuple[bytes, bytes]:
        """All groups with what this run has added; `kept` rows of earlier runs stay."""
        lists: list[list[int]] = []
        if kept:
            lists = [self._members[word >> 16 : (word >> 16) + (word & 0xFFFF)].tolist() for word in self._groups]
        dropped = (self.row_count - kept) << 12
        for page in self._pages.values():
            if not page.added:
                continue
            added = [member - dropped for member in page.added if member >= dropped]
            if kept and page.group is not None:
                group = lists[page.group]
                group[:] = dict.fromkeys([*group, *added])
                del group[:-MOST_MEMBERS]
            elif added:
                lists.append(list(dict.fromkeys(added))[-MOST_MEMBERS:])
        members, groups = array("Q"), array("Q")
        for group in lists:
            groups.append(len(members) << 16 | len(group))
            members.extend(group)
        return members.tobytes(), groups.tobytes()
