"""Native code that lays out blocks which are known already: those of one page of guest code in one call.

What a block consists of are rows and numbers of instructions in a pool (engine/templates.py). A row is laid out if the
page has its bytes at the row's place; others are passed over.
"""

from __future__ import annotations

from collections.abc import Callable

from trapgate.cpu.native_delivery import (
    SIDE_CYCLES,
    SIDE_ENTRY,
    SIDE_INDEX,
    SIDE_INSTRUCTION,
    SIDE_KIND,
    SIDE_PAGE_CHECK,
)
from trapgate.cpu.walk import NativeFunction
from trapgate.engine import block_table, record
from trapgate.isa.ir import Emitter, Value

_Word = Callable[[int], Value]

#: Words (u64) of the arguments of `@lay_out`, host addresses but where something else is said. OUT: where the first
#: block goes, and behind the last one afterwards. LIMIT: no block begins at or behind it. BYTES: the page's content.
#: LINEAR, PHYSICAL: where the page is. MEMBERS: COUNT words, (number of a row << 12) + place in the page. RESULTS: gets
#: three words for each block that is laid out: its address, its member's number, and the mask of 64-byte granules that
#: it covers. TABLE: the jump cache in front of the table that gets the blocks, or 0. LAID: gets how many blocks.
(
    OUT, LIMIT, ARENA, SIDE, BYTES, LINEAR, PHYSICAL, POOL, INDICES, ROWS, CODE, MEMBERS, COUNT, RESULTS, TABLE,
    PAGE_CHECK, UNLINKED_TARGET, UNLINKED_NEXT, END_OF_BLOCK, LAID,
) = range(20)  # fmt: skip
ARGUMENTS = 20
#: Words of a result.
RESULT = 3

#: An instruction of the pool, in bytes: handler, bytes 8 to 31 of its record, and these. KEY: number of the handler's
#: key (engine/templates.py).
POOL_SIZE = 64
RELATIVE, IS_RELATIVE, CYCLES, LENGTH, KEY = 32, 40, 44, 48, 52
#: A row, in bytes: where its code and its indices begin (u32 each), bytes and instructions (u16 each), cycles (u32),
#: flags (u8), three bytes of nothing, and what a direct branch's target has over the block's end (u64).
ROW_SIZE = 28
ROW_CODE, ROW_INDICES, ROW_BYTES, ROW_INSTRUCTIONS, ROW_CYCLES, ROW_FLAGS, ROW_TARGET = 0, 4, 8, 10, 12, 16, 20
#: Flags of rows: its last instruction ends a block by itself; it is a direct branch.
ENDS, HAS_TARGET = 1, 2


def generate_lay_out(declarations: set[str]) -> str:
    """`i64 @lay_out(state, arguments)`: lay out the blocks of a page."""
    f = NativeFunction("lay_out", "i64", (("ptr", "arguments"),), declarations)
    e = f.emit
    arguments = f.argument("arguments", "ptr")

    def word(number: int) -> Value:
        return e.load(64, e.offset(arguments, 8 * number))

    def pointer(number: int) -> Value:
        return e.load_type("ptr", e.offset(arguments, 8 * number))

    out, number, laid = e.variable(word(OUT)), e.variable(0), e.variable(0)
    count, limit, linear = word(COUNT), word(LIMIT), word(LINEAR)
    with e.loop() as loop:
        i = number.get()
        loop.break_if(i.eq(count))
        loop.break_if(out.get().ult(limit) ^ 1)
        number.set(i + 1)
        member = e.load(64, e.offset(pointer(MEMBERS), i << 3))
        place = member & 0xFFF
        row = e.offset(pointer(ROWS), (member >> 12) * ROW_SIZE)
        length = e.load(16, e.offset(row, ROW_BYTES), 1).zext(64)
        loop.continue_if((place + length).ugt(4096))
        code = e.offset(pointer(CODE), e.load(32, e.offset(row, ROW_CODE), 1).zext(64))
        loop.continue_if(_differ(e, e.offset(pointer(BYTES), place), code, length))
        header = out.get()
        rip = linear + place
        out.set(_lay_out_block(f, word, pointer, row, header, rip))
        result = e.offset(pointer(RESULTS), laid.get() * (8 * RESULT))
        e.store(header, result)
        e.store(i, e.offset(result, 8))
        laid.set(laid.get() + 1)
        first, last = place >> 6, (place + length - 1) >> 6
        e.store((e.constant(2, 64) << last) - (e.constant(1, 64) << first), e.offset(result, 16))
        with e.when(word(TABLE).ne(0)):
            block_table.emit_enter(e, pointer(TABLE), rip, header)
    e.store(out.get(), e.offset(arguments, 8 * OUT))
    e.store(laid.get(), e.offset(arguments, 8 * LAID))
    e.ret(0)
    return f.text()


def _differ(e: Emitter, a: Value, b: Value, length: Value) -> Value:
    """Whether two stretches of memory differ (i1)."""
    i, same = e.variable(0), e.variable(1)
    with e.loop() as loop:
        loop.break_if(i.get().eq(length))
        same.set(e.load(8, e.offset(a, i.get())).eq(e.load(8, e.offset(b, i.get()))).zext(64))
        loop.break_if(same.get().eq(0))
        i.set(i.get() + 1)
    return same.get().eq(0)


def _lay_out_block(f: NativeFunction, word: _Word, pointer: _Word, row: Value, header: Value, start: Value) -> Value:
    """Lay out one block at `header` (i64) whose code is at the rip `start`; the address behind it."""
    e = f.emit
    here = e.pointer(header)
    side = e.offset(pointer(SIDE), (header - word(ARENA)) >> 1)
    rip, cycles, i = e.variable(start), e.variable(0), e.variable(0)

    def note(entry: Value, index: Value | int, kind: int) -> None:
        e.store(rip.get(), entry)
        e.store(cycles.get().trunc(32), e.offset(entry, SIDE_CYCLES))
        value = index.trunc(16) if isinstance(index, Value) else e.constant(index, 16)
        e.store(value, e.offset(entry, SIDE_INDEX))
        e.store(e.constant(kind, 16), e.offset(entry, SIDE_KIND))

    def write(place: Value, offset: int, *values: Value) -> None:
        for value in values:
            e.store(value, e.offset(place, offset))
            offset += 8

    nothing = e.constant(0, 64)
    write(here, 0, word(PAGE_CHECK), word(LINEAR), word(PHYSICAL), nothing)
    note(side, 0, SIDE_PAGE_CHECK)
    instructions = e.load(16, e.offset(row, ROW_INSTRUCTIONS), 1).zext(64)
    indices = e.offset(pointer(INDICES), e.load(32, e.offset(row, ROW_INDICES), 1).zext(64) << 2)
    with e.loop() as loop:
        index = i.get()
        loop.break_if(index.eq(instructions))
        known = e.offset(pointer(POOL), e.load(32, e.offset(indices, index << 2)).zext(64) * POOL_SIZE)
        place = e.offset(here, (index + 1) * record.RECORD_SIZE)
        for offset in range(0, record.LINK, 8):
            e.store(e.load(64, e.offset(known, offset)), e.offset(place, offset))
        plain = e.load(64, e.offset(known, record.LINK))
        relative = rip.get() + e.load(64, e.offset(known, RELATIVE))
        is_relative = e.load(32, e.offset(known, IS_RELATIVE)).ne(0)
        e.store(is_relative.select(relative, plain), e.offset(place, record.LINK))
        note(e.offset(side, (index << 4) + SIDE_ENTRY), index, SIDE_INSTRUCTION)
        rip.set(rip.get() + e.load(32, e.offset(known, LENGTH)).zext(64))
        cycles.set(cycles.get() + e.load(32, e.offset(known, CYCLES)).zext(64))
        i.set(index + 1)
    flags = e.load(8, e.offset(row, ROW_FLAGS), 1)
    end = e.variable(header + (instructions << 5))
    with e.when((flags & ENDS).eq(0)):
        end.set(end.get() + record.RECORD_SIZE)
        write(e.pointer(end.get()), 0, word(END_OF_BLOCK), nothing, nothing, nothing)
    last = e.pointer(end.get())
    cost = (e.load(32, e.offset(row, ROW_CYCLES), 1).zext(64) << 32) + instructions
    target = rip.get() + e.load(64, e.offset(row, ROW_TARGET), 1)
    write(
        last, record.UNLINKED_TARGET, word(UNLINKED_TARGET), word(UNLINKED_NEXT), end.get() + record.UNLINKED_NEXT,
        rip.get(), cost, nothing, target, header,
    )  # fmt: skip
    with e.when((flags & HAS_TARGET).ne(0)):
        e.store(end.get() + record.UNLINKED_TARGET, e.offset(last, record.LINK))
    return (end.get() + (record.END_SIZE + 15)) & ~15
