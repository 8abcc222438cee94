"""Native code that decodes a block of instructions whose patterns are known (engine/patterns.py).

It makes a row of it (engine/templates.py), as Python does of what it decodes: the numbers of its instructions in the
pool, where those that are new are put. Where anything is not known, or the block comes near the end of its page, it
makes nothing, and Python decodes the block.
"""

from __future__ import annotations

from trapgate.cpu.walk import NativeFunction
from trapgate.engine import page_code, patterns, record
from trapgate.engine.block_table import FACTOR
from trapgate.isa.ir import Value, Variable

#: Words (u64) of the arguments of `@decode`, host addresses but where something else is said. BYTES: the page's
#: content. PLACE: where on it the block begins. TABLE, PAIRS, KINDS: engine/patterns.py. POOL, INDICES, ROWS, CODE,
#: HEADS: of the templates; the _COUNT and _SIZE behind them (instructions, indices, rows, bytes) grow. POOL_INDEX: the
#: pool's hash table, of POOL_INDEX_SIZE numbers (u32, from 1 on); INDEXED: how many instructions of the pool it has.
#: SCRATCH: SCRATCH_SIZE bytes for each instruction of a block. HEAD_INDEX, HEADS_INDEXED: as those of the pool, for the
#: heads of rows. ROW_LIMIT: rows for which there is room. NEW_HEAD: not 0 where a block is to be decoded only if no row
#: has its head.
(
    BYTES, PLACE, TABLE, PAIRS, KINDS, POOL, POOL_COUNT, INDICES, INDEX_COUNT, ROWS, ROW_COUNT, CODE, CODE_SIZE, HEADS,
    POOL_INDEX, INDEXED, SCRATCH, HEAD_INDEX, HEADS_INDEXED, ROW_LIMIT, NEW_HEAD,
) = range(21)  # fmt: skip
ARGUMENTS = 21
#: Bytes of a row's head: what blocks are looked for by.
HEAD = 16
#: An instruction, in bytes: its pattern, displacement and immediate, 64-bit immediate, what is relative to rip, the
#: branch's target, length; handler, numbers of its key and of its text.
SCRATCH_SIZE = 72
_PATTERN, _CONSTANTS, _WIDE, _RELATIVE, _TARGET, _LENGTH, _HANDLER, _KEY, _TEXT = range(0, 72, 8)
#: Places of the hash tables of the pool and of heads.
POOL_INDEX_SIZE = HEAD_INDEX_SIZE = 1 << 20
#: Instructions of the pool with which nothing more is decoded here.
MOST_POOL = POOL_INDEX_SIZE // 2
#: No instruction that begins in the last bytes of a page is decoded here.
_MARGIN = 32
_PREFIXES = 5


def generate_decode(declarations: set[str]) -> str:
    """`i64 @decode(state, arguments)`: 1 when a row was made, else 0."""
    f = NativeFunction("decode", "i64", (("ptr", "arguments"),), declarations)
    _Decode(f).block()
    return f.text()


class _Decode:
    """The function that is written."""

    def __init__(self, f: NativeFunction) -> None:
        self._f = f
        self._e = f.emit
        self._arguments = f.argument("arguments", "ptr")

    def _word(self, number: int) -> Value:
        return self._e.load(64, self._e.offset(self._arguments, 8 * number))

    def _pointer(self, number: int) -> Value:
        return self._e.load_type("ptr", self._e.offset(self._arguments, 8 * number))

    def _set(self, number: int, value: Value) -> None:
        self._e.store(value, self._e.offset(self._arguments, 8 * number))

    def _scratch(self, index: Value) -> Value:
        return self._e.offset(self._pointer(SCRATCH), index * SCRATCH_SIZE)

    def block(self) -> None:
        """Everything."""
        e = self._e
        self._index_heads()
        self._index_pool()
        count, end, ended = self._instructions()
        with e.when(ended.get().eq(0)):
            e.ret(0)
        self._choose(count.get())
        self._fuse(count.get())
        self._make_row(count.get(), end.get())
        e.ret(1)

    # -- forwards: patterns and constants

    def _instructions(self) -> tuple[Variable, Variable, Variable]:
        """(how many, where the block ends, whether it was decoded)."""
        e = self._e
        place, count, ended = e.variable(self._word(PLACE)), e.variable(0), e.variable(0)
        with e.loop() as loop:
            here = place.get()
            loop.break_if(here.ugt(4096 - _MARGIN))
            code = e.offset(self._pointer(BYTES), here)
            word = e.load(64, code, 1)
            core = self._core(word)
            loop.break_if(core.ugt(patterns.MOST_CORE))
            key = word & (e.constant(-1, 64) >> ((patterns.MOST_CORE - core) << 3))
            found = self._look_up(key, core << patterns.LENGTH)
            loop.break_if(found.get().eq(0))
            with e.when(self._flags(found.get(), patterns.FIXES_IMMEDIATE)):
                fixed = e.load(8, e.offset(code, core + self._size(found.get(), patterns.DISPLACEMENT_SIZE)))
                fixed = fixed.zext(64) | patterns.IS_FIXED
                found.set(self._look_up(key, fixed | (core << patterns.LENGTH)).get())
            loop.break_if(found.get().eq(0))
            length = self._constants(self._scratch(count.get()), found.get(), code, core)
            place.set(here + length)
            count.set(count.get() + 1)
            ended.set(
                (self._flags(found.get(), patterns.ENDS_BLOCK) | count.get().eq(record.MAX_INSTRUCTIONS)).zext(64)
            )
            loop.break_if(ended.get().ne(0))
        return count, place, ended

    def _core(self, word: Value) -> Value:
        """Bytes of the core of the instruction with these first eight; more than MOST_CORE for what is not known."""
        e = self._e
        kinds = self._pointer(KINDS)
        i, kind = e.variable(0), e.variable(0)

        def byte() -> Value:
            return (word >> ((i.get() << 3) & 63)) & 0xFF

        with e.loop() as loop:
            kind.set(e.load(8, e.offset(kinds, byte())).zext(64))
            loop.break_if((kind.get() & patterns.PREFIX).eq(0) | i.get().eq(_PREFIXES))
            i.set(i.get() + 1)
        with e.when((byte() & 0xF0).eq(0x40)):
            i.set(i.get() + 1)  # REX
            kind.set(e.load(8, e.offset(kinds, byte())).zext(64))
        with e.when(byte().eq(0x0F)):
            i.set(i.get() + 1)
            kind.set(e.load(8, e.offset(kinds, byte() + 256)).zext(64))
            with e.when(byte().eq(0x38) | byte().eq(0x3A)):
                i.set(i.get() + 1)
        i.set(i.get() + 1)
        with e.when((kind.get() & patterns.MODRM).ne(0)):
            modrm = byte()
            has_sib = modrm.ult(0xC0) & (modrm & 7).eq(4)
            i.set(i.get() + 1 + has_sib.zext(64))
        known = (kind.get() & (patterns.PREFIX | patterns.UNKNOWN)).eq(0)
        return known.select(i.get(), e.constant(patterns.MOST_CORE + 1, 64))

    def _look_up(self, key: Value, fixed: Value) -> Variable:
        """The address of the entry of a pattern, or 0."""
        e = self._e
        table = self._pointer(TABLE)
        hashed = (key * e.constant(FACTOR, 64)) ^ (fixed * e.constant(patterns.FIXED_FACTOR, 64))
        number, left, found = e.variable(hashed >> patterns.SHIFT), e.variable(patterns.PROBES), e.variable(0)
        with e.loop() as loop:
            loop.break_if(left.get().eq(0))
            left.set(left.get() - 1)
            entry = e.offset(table, (number.get() & (patterns.PATTERNS - 1)) * patterns.ENTRY_SIZE)
            number.set(number.get() + 1)
            loop.break_if(self._flags(entry, patterns.USED) ^ 1)
            same = e.load(64, entry).eq(key) & e.load(64, e.offset(entry, patterns.FIXED)).eq(fixed)
            found.set(same.select(e.address(entry), e.constant(0, 64)))
            loop.break_if(same)
        return found

    def _flags(self, entry: Value, flags: int) -> Value:
        """Whether an entry (ptr or its address) has any of some flags (i1)."""
        return (self._field(entry, patterns.FLAGS, 32) & flags).ne(0)

    def _field(self, entry: Value, offset: int, width: int) -> Value:
        e = self._e
        pointer = entry if entry.type == "ptr" else e.pointer(entry)
        return (
            e.load(width, e.offset(pointer, offset)).zext(64) if width < 64 else e.load(64, e.offset(pointer, offset))
        )

    def _size(self, entry: Value, offset: int) -> Value:
        return self._field(entry, offset, 8)

    def _constants(self, scratch: Value, entry: Value, code: Value, core: Value) -> Value:
        """Note an instruction and its constants; its length."""
        e = self._e
        flags = self._field(entry, patterns.FLAGS, 32)
        zero = e.constant(0, 64)

        def has(flag: int) -> Value:
            return (flags & flag).ne(0)

        displaced, placed = self._size(entry, patterns.DISPLACEMENT_SIZE), self._size(entry, patterns.IMMEDIATE_SIZE)
        unused = (64 - (displaced << 3)) & 63
        shifted = e.load(64, e.offset(code, core), 1) << unused
        displacement = displaced.eq(0).select(zero, shifted.sar(unused))
        unused = (64 - (placed << 3)) & 63
        shifted = e.load(64, e.offset(code, core + displaced), 1) << unused
        value = has(patterns.SIGNED | patterns.HAS_TARGET).select(shifted.sar(unused), shifted >> unused)
        immediate = placed.eq(0).select(flags >> patterns.IMPLIED, value)
        length = core + displaced + placed
        low = e.constant(0xFFFF_FFFF, 64)
        constants = has(patterns.DISPLACED).select(displacement & low, zero)
        constants = constants | (has(patterns.IMMEDIATE).select(immediate & low, zero) << 32)
        wide = has(patterns.WIDE).select(immediate, has(patterns.ABSOLUTE).select(displacement, zero))
        for offset, what in (
            (_PATTERN, entry), (_CONSTANTS, constants), (_WIDE, wide),
            (_RELATIVE, has(patterns.RELATIVE).select(displacement + length, zero)),
            (_TARGET, immediate + length), (_LENGTH, length),
        ):  # fmt: skip
            e.store(what, e.offset(scratch, offset))
        return length

    # -- backwards: handlers

    def _choose(self, count: Value) -> None:
        """Choose the handlers: that depends on whether somebody may look at the flags (engine/handler_keys.py)."""
        e = self._e
        live, i = e.variable(1), e.variable(count)
        with e.loop() as loop:
            loop.break_if(i.get().eq(0))
            i.set(i.get() - 1)
            scratch = self._scratch(i.get())
            entry = e.load(64, e.offset(scratch, _PATTERN))
            flags = self._field(entry, patterns.FLAGS, 32)
            wanted = live.get().ne(0) | (flags & patterns.WRITES).ne(0)
            for to, if_live, if_dead, width in (
                (_HANDLER, patterns.LIVE_HANDLER, patterns.DEAD_HANDLER, 64),
                (_KEY, patterns.LIVE_KEY, patterns.DEAD_KEY, 32), (_TEXT, patterns.LIVE_TEXT, patterns.DEAD_TEXT, 32),
            ):  # fmt: skip
                chosen = wanted.select(self._field(entry, if_live, width), self._field(entry, if_dead, width))
                e.store(chosen, e.offset(scratch, to))
            killed = (flags & patterns.KILLS_FLAGS).ne(0).select(e.constant(0, 64), live.get())
            live.set((flags & patterns.KEEPS_FLAGS).ne(0).select(e.constant(1, 64), killed))

    def _fuse(self, count: Value) -> None:
        """Where the last instruction is a conditional jump and the one before it is fused with that: their handler."""
        e = self._e
        with e.when(count.ugt(1)):
            jump, before = self._scratch(count - 1), self._scratch(count - 2)
            entries = (e.load(64, e.offset(place, _PATTERN)) for place in (jump, before))
            is_jump, can = (
                self._flags(x, flag) for x, flag in zip(entries, (patterns.IS_JCC, patterns.CAN_FUSE), strict=True)
            )
            with e.when(is_jump & can):
                texts = [e.load(64, e.offset(place, _TEXT)) for place in (before, jump)]
                pair = (texts[0] << 32) | texts[1]
                first = (pair * e.constant(FACTOR, 64)) >> patterns.PAIR_SHIFT
                handler, key = e.variable(0), e.variable(0)
                for probe in range(patterns.PROBES):
                    number = (first + probe) & (patterns.PAIRS - 1)
                    entry = e.offset(self._pointer(PAIRS), number * patterns.PAIR_SIZE)
                    with e.when(e.load(64, entry).eq(pair)):
                        handler.set(e.load(64, e.offset(entry, patterns.PAIR_HANDLER)))
                        key.set(e.load(64, e.offset(entry, patterns.PAIR_KEY)))
                e.store(handler.get(), e.offset(before, _HANDLER))
                e.store(key.get(), e.offset(before, _KEY))

    # -- the row

    def _make_row(self, count: Value, end: Value) -> None:
        e = self._e
        indices = self._word(INDEX_COUNT)
        cycles, i = e.variable(0), e.variable(0)
        with e.loop() as loop:
            loop.break_if(i.get().eq(count))
            scratch = self._scratch(i.get())
            with e.when(e.load(64, e.offset(scratch, _HANDLER)).eq(0) | self._word(POOL_COUNT).eq(MOST_POOL)):
                e.ret(0)
            number = self._pool_number(scratch)
            e.store(number.trunc(32), e.offset(self._pointer(INDICES), (indices + i.get()) << 2))
            entry = e.load(64, e.offset(scratch, _PATTERN))
            cycles.set(cycles.get() + self._field(entry, patterns.CYCLES, 16))
            i.set(i.get() + 1)
        last = self._scratch(count - 1)
        entry = e.load(64, e.offset(last, _PATTERN))
        length = end - self._word(PLACE)
        flags = self._flags(entry, patterns.ENDS_BLOCK).select(e.constant(page_code.ENDS, 64), e.constant(0, 64))
        has_target = self._flags(entry, patterns.HAS_TARGET)
        flags = flags | has_target.select(e.constant(page_code.HAS_TARGET, 64), e.constant(0, 64))
        over = e.load(64, e.offset(last, _TARGET)) - e.load(64, e.offset(last, _LENGTH))
        size, rows = self._word(CODE_SIZE), self._word(ROW_COUNT)
        row = e.offset(self._pointer(ROWS), rows * page_code.ROW_SIZE)
        for offset, what, width in (
            (page_code.ROW_CODE, size, 32), (page_code.ROW_INDICES, indices, 32), (page_code.ROW_BYTES, length, 16),
            (page_code.ROW_INSTRUCTIONS, count, 16), (page_code.ROW_CYCLES, cycles.get(), 32),
            (page_code.ROW_FLAGS, flags, 32), (page_code.ROW_TARGET, has_target.select(over, e.constant(0, 64)), 64),
        ):  # fmt: skip
            e.store(what.trunc(width) if width < 64 else what, e.offset(row, offset), 1)
        code = e.offset(self._pointer(BYTES), self._word(PLACE))
        self._copy(code, e.offset(self._pointer(CODE), size), length)
        head = self._head(rows)
        for offset in (0, 8):
            e.store(e.load(64, e.offset(code, offset), 1), e.offset(head, offset), 1)
        self._enter_head(head, rows)
        self._set(HEADS_INDEXED, rows + 1)
        for argument, value in (
            (INDEX_COUNT, indices + count), (ROW_COUNT, rows + 1), (CODE_SIZE, size + length),
        ):  # fmt: skip
            self._set(argument, value)

    def _copy(self, source: Value, destination: Value, length: Value) -> None:
        e = self._e
        i = e.variable(0)
        with e.loop() as loop:
            loop.break_if(i.get().eq(length))
            e.store(e.load(8, e.offset(source, i.get())), e.offset(destination, i.get()))
            i.set(i.get() + 1)

    # -- the pool

    def _pool_number(self, scratch: Value) -> Value:
        """The number of an instruction in the pool, where it is put if it is not there."""
        e = self._e
        entry = e.load(64, e.offset(scratch, _PATTERN))
        count = self._word(POOL_COUNT)
        new = e.offset(self._pointer(POOL), count * page_code.POOL_SIZE)
        is_relative = self._flags(entry, patterns.RELATIVE)
        for offset, what in (
            (0, e.load(64, e.offset(scratch, _HANDLER))), (8, self._field(entry, patterns.SLOTS, 64)),
            (16, e.load(64, e.offset(scratch, _CONSTANTS))), (24, e.load(64, e.offset(scratch, _WIDE))),
            (page_code.RELATIVE, e.load(64, e.offset(scratch, _RELATIVE))),
            (page_code.IS_RELATIVE, is_relative.zext(64) | self._field(entry, patterns.CYCLES, 16) << 32),
            (page_code.LENGTH, e.load(64, e.offset(scratch, _LENGTH)) | e.load(64, e.offset(scratch, _KEY)) << 32),
            (56, e.constant(0, 64)),
        ):  # fmt: skip
            e.store(what, e.offset(new, offset))
        found = self._enter(new, count)
        is_new = found.eq(count)
        self._set(POOL_COUNT, count + is_new.zext(64))
        self._set(INDEXED, count + is_new.zext(64))
        return found

    def _enter(self, new: Value, number: Value) -> Value:
        """Put the instruction `number` of the pool into the hash table, if its like is not there; that one's number, or
        its own."""
        e = self._e
        words = [e.load(64, e.offset(new, offset)) for offset in range(0, 48, 8)]
        hashed = words[0]
        for word in words[1:]:
            hashed = (hashed ^ word) * e.constant(FACTOR, 64)
            hashed = hashed ^ (hashed >> 29)
        place, found = e.variable(hashed), e.variable(number)
        with e.loop() as loop:
            slot = e.offset(self._pointer(POOL_INDEX), (place.get() & (POOL_INDEX_SIZE - 1)) << 2)
            known = e.load(32, slot).zext(64)
            with e.when(known.eq(0)):
                e.store((number + 1).trunc(32), slot)
            loop.break_if(known.eq(0))
            other = e.offset(self._pointer(POOL), (known - 1) * page_code.POOL_SIZE)
            same = e.load(32, e.offset(other, 48)).eq(e.load(32, e.offset(new, 48)))
            for offset, word in zip(range(0, 48, 8), words, strict=True):
                same = same & e.load(64, e.offset(other, offset)).eq(word)
            found.set(same.select(known - 1, found.get()))
            loop.break_if(same)
            place.set(place.get() + 1)
        return found.get()

    def _index_pool(self) -> None:
        """Take what Python has put into the pool into the hash table."""
        e = self._e
        with e.loop() as loop:
            number = self._word(INDEXED)
            loop.break_if((number.ult(self._word(POOL_COUNT)) & number.ult(MOST_POOL)) ^ 1)
            self._enter(e.offset(self._pointer(POOL), number * page_code.POOL_SIZE), number)
            self._set(INDEXED, number + 1)

    # -- heads

    def _head(self, row: Value) -> Value:
        return self._e.offset(self._pointer(HEADS), row * HEAD)

    def _head_place(self, head: Value) -> Variable:
        e = self._e
        words = [e.load(64, e.offset(head, offset), 1) for offset in (0, 8)]
        mixed = (words[0] * e.constant(FACTOR, 64)) ^ (words[1] * e.constant(patterns.FIXED_FACTOR, 64))
        return e.variable(mixed ^ (mixed >> 31))

    def _slot(self, place: Variable) -> Value:
        e = self._e
        return e.offset(self._pointer(HEAD_INDEX), (place.get() & (HEAD_INDEX_SIZE - 1)) << 2)

    def _enter_head(self, head: Value, row: Value) -> None:
        """Put a row's head into the hash table, if it is not there for another row."""
        e = self._e
        place = self._head_place(head)
        with e.loop() as loop:
            slot = self._slot(place)
            known = e.load(32, slot).zext(64)
            with e.when(known.eq(0)):
                e.store((row + 1).trunc(32), slot)
            loop.break_if(known.eq(0))
            loop.break_if(self._same_head(known - 1, head))
            place.set(place.get() + 1)

    def _same_head(self, row: Value, head: Value) -> Value:
        e = self._e
        other = self._head(row)
        pairs = [[e.load(64, e.offset(which, offset), 1) for which in (other, head)] for offset in (0, 8)]
        return pairs[0][0].eq(pairs[0][1]) & pairs[1][0].eq(pairs[1][1])

    def _index_heads(self) -> None:
        """Take what Python has added into the hash table; leave if there is no room for a row, or the block's head is
        wanted new and is not."""
        e = self._e
        with e.when(self._word(ROW_COUNT).uge(self._word(ROW_LIMIT))):
            e.ret(0)
        with e.loop() as loop:
            row = self._word(HEADS_INDEXED)
            loop.break_if(row.uge(self._word(ROW_COUNT)))
            self._enter_head(self._head(row), row)
            self._set(HEADS_INDEXED, row + 1)
        with e.when(self._word(NEW_HEAD).ne(0) & self._word(PLACE).ule(4096 - _MARGIN)):
            head = e.offset(self._pointer(BYTES), self._word(PLACE))
            place = self._head_place(head)
            with e.loop() as loop:
                known = e.load(32, self._slot(place)).zext(64)
                loop.break_if(known.eq(0))
                with e.when(self._same_head(known - 1, head)):
                    e.ret(0)
                place.set(place.get() + 1)
