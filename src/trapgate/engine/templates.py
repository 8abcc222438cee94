"""Decoded blocks kept on disk: a second run of a guest lays them out again without decoding.

How a block decodes depends on its bytes and on the decode mode alone. So a block is found again by its bytes: the first
16 at its place, then all of them. What it consists of are numbers of instructions in a pool, one array for each mode;
native code (engine/page_code.py) makes records of them. Which blocks stood on one page is kept too, as a **group**:
when one of them is found, all of them are laid out whose bytes are there.

Kept are blocks of 64-bit code that lie on one page and end in a native instruction, or because they are as long as
blocks may be.
"""

from __future__ import annotations

import json
import struct
from array import array
from typing import NamedTuple

from trapgate.engine import page_code, record
from trapgate.engine.compile import CodeFolder
from trapgate.engine.growing import Growing
from trapgate.engine.handlers import HandlerStore
from trapgate.engine.native_decode import HEAD
from trapgate.engine.native_decoding import NativeDecoding
from trapgate.isa.decoded import Decoded
from trapgate.isa.length import MAX_LENGTH

#: Of the files: part of their names.
FORMAT = 4
#: Blocks that are kept for a mode; when there are more, the next run starts over.
MOST_BLOCKS = 200_000
#: Blocks at most that a run adds.
MOST_NEW = 200_000
#: Blocks of a group at most.
MOST_MEMBERS = 1000
#: So much that is new makes it worth writing the file.
ENOUGH = 500
#: The same of instructions that native code can decode.
ENOUGH_PATTERNS = 50

#: An instruction of the pool: handler's address (in the file the number of its key), bytes 8 to 31 of the record, what
#: is added to rip, whether it is, cycles, bytes, number of the key.
_INSTRUCTION = struct.Struct("<Q24sQIIII8x")
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
    """A page of this run with blocks that are not in its group, or that has none: (number of a row << 12) + place."""

    __slots__ = ("added", "group")

    def __init__(self) -> None:
        self.group: int | None = None
        self.added: list[int] = []


class Templates:
    """The blocks of one decode mode: those of earlier runs, and those that this run adds."""

    def __init__(self, folder: CodeFolder, handlers: HandlerStore, mode: str) -> None:
        self._folder, self._handlers, self._name = folder, handlers, f"decoded-{FORMAT}-{mode}"
        self._keys: dict[str, int] = {}
        self._addresses: list[int] = []
        # Room that hardly any guest fills (there are five instructions to a block); what is not used takes no memory.
        rows = MOST_BLOCKS + MOST_NEW
        most = record.MAX_INSTRUCTIONS
        self._pool = Growing(rows * 5 * _INSTRUCTION.size, most * _INSTRUCTION.size)
        self._indices, self._code = Growing(rows * 16 * 4, most * 4), Growing(rows * 64, most * MAX_LENGTH)
        self._rows, self._heads = Growing(rows * _ROW.size, _ROW.size), Growing(rows * HEAD, HEAD)
        #: Host addresses of what native code looks at.
        self.pool, self.indices, self.rows, self.code = (
            part.address for part in (self._pool, self._indices, self._rows, self._code)
        )
        self._members, self._groups = array("Q", [0]), array("Q")
        self._by_head: dict[bytes, int] = {}
        self._same_head: dict[bytes, list[int]] = {}
        self._group_of: dict[int, int] = {}
        self.row_count = 0
        self._load()
        #: Rows and heads that the file had.
        self._kept, self._kept_heads = self.row_count, self._heads.content()
        self.members = self._members.buffer_info()[0]
        self._pages: dict[tuple[int, int], _Page] = {}
        self._news = 0
        #: Blocks found here in this run.
        self.used = 0
        self._decoding = NativeDecoding(handlers)
        self._decoding.connect((self._pool, self._indices, self._rows, self._code, self._heads))
        self._patterns_name = f"patterns-{FORMAT}-{mode}"
        self._has_patterns = False

    # -- reading

    def _parts(self) -> list[bytes]:
        """What the file holds; nothing where there is none."""
        data = self._folder.read(self._name)
        if not data:
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
        self._addresses = [self._handlers.address(name) for name in names]
        for part, data in zip(
            (self._pool, self._indices, self._rows, self._heads, self._code), parts[1:6], strict=True
        ):
            part.append(data)
        words = memoryview(parts[1]).cast("Q")[:: _INSTRUCTION.size // 8].tolist()
        addresses = array("Q", [self._addresses[number] for number in words])
        self._pool.view.cast("Q")[: self._pool.size // 8 : _INSTRUCTION.size // 8] = memoryview(addresses)
        heads = parts[4]
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
        start, _, length, *_ = _ROW.unpack_from(self._rows.view, row * _ROW.size)
        return code[:length] == self._code.view[start : start + length]

    def row(self, number: int) -> Row:
        """A row."""
        start, _, length, count, cycles, flags, target = _ROW.unpack_from(self._rows.view, number * _ROW.size)
        has_target = target if flags & page_code.HAS_TARGET else None
        return Row(
            bytes(self._code.view[start : start + length]), count, cycles, bool(flags & page_code.ENDS), has_target
        )

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

    def learn(self, code: bytes, length: int, decoded: list[Decoded], keys: list[str]) -> tuple[int, Row] | None:
        """Keep a block of `length` bytes at the start of `code` for later runs, if it is one that is kept; its row and
        its number then."""
        last = decoded[-1]
        if last.python or len(code) < max(HEAD, length) or not length:
            return None
        if last.target is not None and last.target_mask != _M64:
            return None
        if not last.ends_block and (len(decoded) < record.MAX_INSTRUCTIONS or length == len(code)):
            return None
        if not self._decoding.room():
            return None
        numbers = [d.numbers.get(key, -1) for d, key in zip(decoded, keys, strict=True)]
        if -1 in numbers:
            end = 0
            for i, (d, key) in enumerate(zip(decoded, keys, strict=True)):
                end += d.length
                if numbers[i] < 0:
                    numbers[i] = d.numbers[key] = self._add(d, code[end - d.length : end], key)
        flags, target = page_code.ENDS if last.ends_block else 0, 0
        if last.target is not None:
            flags |= page_code.HAS_TARGET
            target = last.target - last.length & _M64
        place = self._indices.size >> 2
        own, cycles = code[:length], sum([d.cycles for d in decoded])
        self._rows.append(_ROW.pack(self._code.size, place, length, len(numbers), cycles, flags, target))
        self._indices.append(array("I", numbers).tobytes())
        self._code.append(own)
        row, head = self.row_count, code[:HEAD]
        self._heads.append(head)
        self._note_head(head)
        self._decoding.push()
        return row, Row(own, len(numbers), cycles, last.ends_block, None if last.target is None else target)

    def _add(self, d: Decoded, code: bytes, key: str) -> int:
        """Put an instruction with these bytes and the handler of a key into the pool; its number."""
        number, relative = self._number(key), d.relative
        address = self._addresses[number]
        self._pool.append(
            _INSTRUCTION.pack(address, d.body, relative or 0, relative is not None, d.cycles, d.length, number)
        )
        self._decoding.patterns.learn(d, code, key, number, address)
        return self._pool.size // _INSTRUCTION.size - 1

    def _number(self, key: str) -> int:
        """The number of a handler's key."""
        number = self._keys.get(key)
        if number is None:
            number = self._keys[key] = len(self._keys)
            self._addresses.append(self._handlers.address(key))
        return number

    def decode(self, page: int, place: int) -> tuple[int, Row] | None:
        """As `learn`, of the block at a place of the page with the host address `page`, which native code decodes if it
        knows all of its instructions."""
        if not self._has_patterns:
            self._has_patterns = True
            self._load_patterns()
        done = self._decoding.decode(page, place)
        self.take_in()
        return (self.row_count - 1, self.row(self.row_count - 1)) if done else None

    def take_in(self) -> None:
        """Native code may have decoded blocks."""
        rows = self._decoding.pull()
        for place in range(self.row_count * HEAD, rows * HEAD, HEAD):
            self._note_head(bytes(self._heads.view[place : place + HEAD]))

    @property
    def decoding(self) -> int:
        """Host address of the arguments with which native code decodes."""
        return self._decoding.address

    def _load_patterns(self) -> None:
        """Take what earlier runs have learned of instructions."""
        data = self._folder.read(self._patterns_name)
        if data:
            size = struct.unpack_from("<I", data)[0]
            names, _ = json.loads(data[16 : 16 + size])
            self._handlers.build(name for name in names if not self._handlers.has(name))
            self._decoding.patterns.load(data, self._number, lambda key: self._addresses[self._number(key)])

    def _note_head(self, head: bytes) -> None:
        """There is one row more, whose block begins so."""
        row = self.row_count
        self.row_count += 1
        known = self._by_head.setdefault(head, row)
        if known != row:
            self._same_head.setdefault(head, []).append(row)
        self._news += 1

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
        if self._decoding.patterns.news >= ENOUGH_PATTERNS:
            self._folder.write(self._patterns_name, self._decoding.patterns.content(list(self._keys)))
            self._decoding.patterns.news = 0
        if self._news < ENOUGH:
            return
        parts = self._parts() or [b""] * _PARTS
        if parts[4] != self._kept_heads:
            return  # another run has written the file meanwhile: its numbers are not ours
        if self.row_count > MOST_BLOCKS:
            self._folder.write(self._name, b"")  # too many: the next run starts over
            return
        pool = bytearray(self._pool.content())
        keys = memoryview(pool).cast("I")[page_code.KEY // 4 :: _INSTRUCTION.size // 4].tolist()
        memoryview(pool).cast("Q")[:: _INSTRUCTION.size // 8] = memoryview(array("Q", keys))
        members, groups = self._new_groups()
        names = json.dumps(list(self._keys)).encode()
        middle = (part.content() for part in (self._indices, self._rows, self._heads, self._code))
        parts = [names, bytes(pool), *middle, members, groups]
        self._folder.write(self._name, _HEADER.pack(*map(len, parts)) + b"".join(parts))
        self._news = 0

    def _new_groups(self) -> tuple[bytes, bytes]:
        """All groups with what this run has added."""
        lists = [self._members[word >> 16 : (word >> 16) + (word & 0xFFFF)].tolist() for word in self._groups]
        for page in self._pages.values():
            if not page.added:
                continue
            if page.group is not None:
                group = lists[page.group]
                group[:] = dict.fromkeys([*group, *page.added])
                del group[:-MOST_MEMBERS]
            else:
                lists.append(list(dict.fromkeys(page.added))[-MOST_MEMBERS:])
        members, groups = array("Q"), array("Q")
        for group in lists:
            groups.append(len(members) << 16 | len(group))
            members.extend(group)
        return members.tobytes(), groups.tobytes()
