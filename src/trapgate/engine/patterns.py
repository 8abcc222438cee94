"""Instructions by their bytes around displacement and immediate, for native code that decodes.

The bytes in front of an instruction's constants (prefixes, opcode, ModRM and SIB: its **core**) say what it does and
how long the constants are. Python decodes the first instruction with a core; what it has found is put into a table, and
from then on native code decodes all that have the same core. No core begins another one.
"""

from __future__ import annotations

import ctypes
import json
import mmap
import struct
from array import array
from collections.abc import Callable
from typing import NamedTuple

import iced_x86 as iced
from iced_x86 import OpKind, Register

from trapgate.engine.block_table import FACTOR
from trapgate.engine.handler_keys import FUSIBLE
from trapgate.isa.decode import OPTIONS
from trapgate.isa.decoded import Decoded
from trapgate.isa.operand_tables import IMMEDIATE_BITS, SHIFTS

#: Entries of the table of patterns, of the table of fused pairs, and how many places are looked at for one.
PATTERNS, PAIRS = 1 << 15, 1 << 12
PROBES = 8
#: Bytes of a core at most.
MOST_CORE = 8

#: An entry, in bytes: core, filled up with zeros; its length, and the fixed immediate where that is part of the
#: pattern; handlers for flags that somebody looks at and for flags that nobody does (0: not yet there), operand slots;
#: the numbers of those handlers' keys, and of their texts; cycles, bytes of displacement and immediate, flags.
_ENTRY = struct.Struct("<QQQQ8sIIIIHBBI")
ENTRY_SIZE = _ENTRY.size
(
    CORE, FIXED, LIVE_HANDLER, DEAD_HANDLER, SLOTS, LIVE_KEY, DEAD_KEY, LIVE_TEXT, DEAD_TEXT, CYCLES, DISPLACEMENT_SIZE,
    IMMEDIATE_SIZE, FLAGS,
) = 0, 8, 16, 24, 32, 40, 44, 48, 52, 56, 58, 59, 60  # fmt: skip
assert ENTRY_SIZE == 64
#: A fixed immediate is this much more than itself.
IS_FIXED = 1 << 8
#: The bit of the same field where the core's length begins.
LENGTH = 16
#: The bit of the flags where an immediate begins that is none of the instruction's bytes.
IMPLIED = 24

#: Flags of entries.
(
    USED, FIXES_IMMEDIATE, DISPLACED, RELATIVE, IMMEDIATE, SIGNED, WIDE, ENDS_BLOCK, HAS_TARGET, KEEPS_FLAGS,
    KILLS_FLAGS, WRITES, CAN_FUSE, IS_JCC, ABSOLUTE,
) = (1 << i for i in range(15))  # fmt: skip

#: A fused pair, in bytes: text of the first << 32 | text of the jump; handler; number of its key.
PAIR_SIZE = 24
PAIR, PAIR_HANDLER, PAIR_KEY = 0, 8, 16

_SIGN_EXTENDED = frozenset(
    (OpKind.IMMEDIATE8TO16, OpKind.IMMEDIATE8TO32, OpKind.IMMEDIATE8TO64, OpKind.IMMEDIATE32TO64)
)
SHIFT, PAIR_SHIFT = 49, 52
FIXED_FACTOR = 0xC2B2_AE3D_27D4_EB4F
_M64 = (1 << 64) - 1
_PREFIXES = frozenset((0x26, 0x2E, 0x36, 0x3E, 0x64, 0x65, 0x66, 0x67, 0xF0, 0xF2, 0xF3))
#: Kinds of opcode bytes, and whether ModRM follows.
PREFIX, MODRM, UNKNOWN = 1, 2, 4
#: One-byte opcodes without ModRM; those that are not looked at: a second REX, VEX, EVEX and XOP, absolute addresses.
_WITHOUT_MODRM = frozenset((
    *(base + i for base in range(0, 0x40, 8) for i in (4, 5)), *range(0x50, 0x60), 0x68, 0x6A, *range(0x6C, 0x80),
    *range(0x90, 0xC0), 0xC2, 0xC3, *range(0xC8, 0xD0), *range(0xD4, 0xD8), *range(0xE0, 0xF0), 0xF1, 0xF4, 0xF5,
    *range(0xF8, 0xFE),
))  # fmt: skip
_UNKNOWN = frozenset((*range(0x40, 0x50), 0x62, 0x8F, *range(0xA0, 0xA4), 0xC4, 0xC5))
#: The second map: opcodes without ModRM; 3DNow!, whose opcode comes last.
_SECOND_WITHOUT_MODRM = frozenset((
    *range(0x05, 0x0D), 0x0E, *range(0x30, 0x38), 0x77, *range(0x80, 0x90), 0xA0, 0xA1, 0xA2, 0xA8, 0xA9, 0xAA,
    *range(0xC8, 0xD0),
))  # fmt: skip
_SECOND_UNKNOWN = frozenset(
    (0x04, 0x0F, 0x24, 0x25, 0x26, 0x27, 0x36, 0x39, *range(0x3B, 0x40), 0x7A, 0x7B, 0xA6, 0xA7)
)


def _opcode_kinds() -> bytes:
    """256 bytes for the first map, 256 for the second."""
    kinds = bytearray(512)
    for opcode in range(256):
        kinds[opcode] = UNKNOWN if opcode in _UNKNOWN else 0 if opcode in _WITHOUT_MODRM else MODRM
        if opcode in _PREFIXES:
            kinds[opcode] = PREFIX
        second = UNKNOWN if opcode in _SECOND_UNKNOWN else 0 if opcode in _SECOND_WITHOUT_MODRM else MODRM
        kinds[256 + opcode] = second
    return bytes(kinds)


OPCODE_KINDS = _opcode_kinds()


def place_of(core: int, fixed: int) -> int:
    """Number of the first place of the table that may hold a pattern."""
    return ((core * FACTOR ^ fixed * FIXED_FACTOR) & _M64) >> SHIFT


def place_of_pair(pair: int) -> int:
    """The same of the table of pairs."""
    return (pair * FACTOR & _M64) >> PAIR_SHIFT


class _Shape(NamedTuple):
    """What native code has to know of an instruction to find its constants: bytes of the core, of the displacement and
    of the immediate, flags, and the fixed immediate (IS_FIXED more than itself) or 0."""

    core: int
    displacement: int
    immediate: int
    flags: int
    fixed: int


def shape_of(d: Decoded, code: bytes) -> _Shape | None:
    """The shape of an instruction with these bytes; None where native code must not decode its like."""
    if d.python or d.form is None or d.name.startswith("enter") or d.cycles >= 1 << 16:
        return None
    decoder = iced.Decoder(64, code, OPTIONS, 0)
    instruction = decoder.decode()
    constants = decoder.get_constant_offsets(instruction)
    displacement, immediate = constants.displacement_size, constants.immediate_size
    core = len(code) - displacement - immediate
    if instruction.len != len(code) or core > MOST_CORE or constants.has_immediate2:
        return None
    if displacement and constants.displacement_offset != core:
        return None
    if immediate and constants.immediate_offset != core + displacement:
        return None
    flags, fixed = _flags(d, instruction), 0
    if d.name in SHIFTS and immediate:
        flags, fixed = flags | FIXES_IMMEDIATE, code[-1] | IS_FIXED
    if not immediate:
        flags |= struct.unpack_from("<I", d.body, 12)[0] << IMPLIED  # a shift by 1
    shape = _Shape(core, displacement, immediate, flags, fixed)
    # What native code would make of it is what it is.
    return shape if flags <= 0xFFFF_FFFF and values(shape, d.body[:8], code) == (d.body, d.relative, d.target) else None


def _flags(d: Decoded, instruction: iced.Instruction) -> int:
    flags = USED
    for i in range(instruction.op_count):
        kind = instruction.op_kind(i)
        if kind == OpKind.MEMORY:
            is_absolute = instruction.memory_base == instruction.memory_index == Register.NONE
            flags |= ABSOLUTE if is_absolute else DISPLACED if d.relative is None else RELATIVE
        elif kind in IMMEDIATE_BITS:
            flags |= WIDE if kind == OpKind.IMMEDIATE64 else IMMEDIATE
            flags |= SIGNED if kind in _SIGN_EXTENDED else 0
    if d.target is not None and d.target_mask == _M64:
        flags |= HAS_TARGET
    for holds, flag in (
        (d.ends_block, ENDS_BLOCK), (d.may_fault or d.flags_read, KEEPS_FLAGS), (d.flags_killed, KILLS_FLAGS),
        (d.writes_memory, WRITES), (d.name in FUSIBLE and not d.writes_memory, CAN_FUSE), (d.name == "jcc", IS_JCC),
    ):  # fmt: skip
        flags |= flag if holds else 0
    return flags


def values(shape: _Shape, slots: bytes, code: bytes) -> tuple[bytes, int | None, int | None]:
    """Bytes 8 to 31 of an instruction's record, what is relative to rip, and the target, as native code makes them."""
    flags, end = shape.flags, shape.core + shape.displacement
    displacement = int.from_bytes(code[shape.core : end], "little", signed=True)
    immediate = int.from_bytes(code[end:], "little", signed=bool(flags & (SIGNED | HAS_TARGET)))
    if not shape.immediate:
        immediate = flags >> IMPLIED
    body = slots + struct.pack(
        "<IIQ",
        displacement & 0xFFFF_FFFF if flags & DISPLACED else 0,
        immediate & 0xFFFF_FFFF if flags & IMMEDIATE else 0,
        (immediate if flags & WIDE else displacement if flags & ABSOLUTE else 0) & _M64,
    )
    relative = displacement + len(code) & _M64 if flags & RELATIVE else None
    return body, relative, immediate + len(code) & _M64 if flags & HAS_TARGET else None


class Patterns:
    """The tables of one decode mode."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, PATTERNS * ENTRY_SIZE + PAIRS * PAIR_SIZE + len(OPCODE_KINDS))
        #: Host addresses of the table, of the table of pairs, and of the kinds of opcodes.
        self.table = ctypes.addressof(ctypes.c_char.from_buffer(self._memory))
        self.pairs = self.table + PATTERNS * ENTRY_SIZE
        self.kinds = self.pairs + PAIRS * PAIR_SIZE
        self._memory[self.kinds - self.table :] = OPCODE_KINDS
        self._texts: dict[str, int] = {}
        #: Where entries are, in bytes.
        self._places: list[int] = []
        self._pair_places: list[int] = []
        #: Handlers that were learned and not kept.
        self.news = 0

    def learn(self, d: Decoded, code: bytes, key: str, number: int, handler: int) -> None:
        """Put an instruction with these bytes into the table, with the handler whose key has that number."""
        if key in d.patterned:
            return
        d.patterned.add(key)
        shape = shape_of(d, code)
        place = None if shape is None else self._enter(d, code, shape)
        if place is None:
            return
        self.news += 1
        first, fused, jump = key.rpartition("|")
        if fused:
            self._enter_pair(self._text(first) << 32 | self._text(jump), handler, number)
            return
        for text, handlers, keys in ((d.text, LIVE_HANDLER, LIVE_KEY), (d.dead_text, DEAD_HANDLER, DEAD_KEY)):
            if key == text:
                struct.pack_into("<Q", self._memory, place + handlers, handler)
                struct.pack_into("<I", self._memory, place + keys, number)

    def _enter(self, d: Decoded, code: bytes, shape: _Shape) -> int | None:
        """Where the entry of a pattern is, in bytes; it is made where there is none. None: there is no room."""
        core, fixed = int.from_bytes(code[: shape.core], "little"), shape.fixed | shape.core << LENGTH
        first = place_of(core, fixed)
        for number in range(first, first + PROBES):
            place = number % PATTERNS * ENTRY_SIZE
            entry = _ENTRY.unpack_from(self._memory, place)
            if not entry[-1]:
                break
            if entry[:2] == (core, fixed):
                return place
        else:
            return None
        self._places.append(place)
        texts = self._text(d.text), self._text(d.dead_text)
        sizes = shape.displacement, shape.immediate
        _ENTRY.pack_into(
            self._memory, place, core, fixed, 0, 0, d.body[:8], 0, 0, *texts, d.cycles, *sizes, shape.flags
        )
        if shape.fixed:
            # What leads to it: an entry for the core alone that says to look again.
            self._enter(d, code, shape._replace(fixed=0))
        return place

    def _enter_pair(self, pair: int, handler: int, key: int) -> None:
        first = place_of_pair(pair)
        for number in range(first, first + PROBES):
            place = PATTERNS * ENTRY_SIZE + number % PAIRS * PAIR_SIZE
            known = struct.unpack_from("<Q", self._memory, place)[0]
            if known in (0, pair):
                struct.pack_into("<QQQ", self._memory, place, pair, handler, key)
                if not known:
                    self._pair_places.append(place)
                return

    def _text(self, text: str) -> int:
        """The number of a handler's text, from 1 on."""
        return self._texts.setdefault(text, len(self._texts) + 1)

    # -- for later runs

    def content(self, names: list[str]) -> bytes:
        """All of it; `names` are the keys of handlers, by their numbers.

        Where there is a handler, its key's number and one more stand in the handler's place.
        """
        entries = bytearray(b"".join([self._memory[place : place + ENTRY_SIZE] for place in self._places]))
        keys = _column(entries, ENTRY_SIZE, LIVE_KEY)
        for handlers, shift in ((LIVE_HANDLER, 0), (DEAD_HANDLER, 32)):
            there = zip(_column(entries, ENTRY_SIZE, handlers), keys, strict=True)
            numbers = [(key >> shift & 0xFFFF_FFFF) + 1 if handler else 0 for handler, key in there]
            _set_column(entries, ENTRY_SIZE, handlers, numbers)
        pairs = bytearray(b"".join([self._memory[place : place + PAIR_SIZE] for place in self._pair_places]))
        _set_column(pairs, PAIR_SIZE, PAIR_HANDLER, [key + 1 for key in _column(pairs, PAIR_SIZE, PAIR_KEY)])
        head = json.dumps([names, list(self._texts)]).encode()
        places = array("I", [*self._places, *self._pair_places]).tobytes()
        sizes = struct.pack("<4I", len(head), len(places), len(entries), len(pairs))
        return b"".join((sizes, head, places, entries, pairs))

    def load(self, data: bytes, number_of: Callable[[str], int], address_of: Callable[[str], int]) -> None:
        """Take what `content` has given, in a run in which keys have other numbers and handlers other addresses."""
        parts, start = [], 16
        for size in struct.unpack_from("<4I", data):
            parts.append(bytearray(data[start : start + size]))
            start += size
        head, where, entries, pairs = parts
        names, texts = json.loads(head)
        numbers, addresses = [0, *map(number_of, names)], [0, *map(address_of, names)]
        live, dead = (_column(entries, ENTRY_SIZE, handlers) for handlers in (LIVE_HANDLER, DEAD_HANDLER))
        _set_column(entries, ENTRY_SIZE, LIVE_HANDLER, [addresses[n] for n in live])
        _set_column(entries, ENTRY_SIZE, DEAD_HANDLER, [addresses[n] for n in dead])
        keys = [numbers[a] | numbers[b] << 32 for a, b in zip(live, dead, strict=True)]
        _set_column(entries, ENTRY_SIZE, LIVE_KEY, keys)
        fused = _column(pairs, PAIR_SIZE, PAIR_HANDLER)
        _set_column(pairs, PAIR_SIZE, PAIR_HANDLER, [addresses[n] for n in fused])
        _set_column(pairs, PAIR_SIZE, PAIR_KEY, [numbers[n] for n in fused])
        self._texts = {text: number for number, text in enumerate(texts, 1)}
        places = array("I", bytes(where)).tolist()
        count = len(entries) // ENTRY_SIZE
        self._places, self._pair_places = places[:count], places[count:]
        for part, size, at in ((entries, ENTRY_SIZE, self._places), (pairs, PAIR_SIZE, self._pair_places)):
            for i, place in zip(range(0, len(part), size), at, strict=True):
                self._memory[place : place + size] = part[i : i + size]


def _column(data: bytearray, size: int, offset: int) -> list[int]:
    """A word (u64) of each of many records of `size` bytes."""
    return memoryview(data).cast("Q")[offset // 8 :: size // 8].tolist()


def _set_column(data: bytearray, size: int, offset: int, values: list[int]) -> None:
    if values:
        memoryview(data).cast("Q")[offset // 8 :: size // 8] = memoryview(array("Q", values))
