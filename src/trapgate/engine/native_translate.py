"""Native code that decodes and lays out a block when it is first wanted, where Python is not needed for it.

A link that is used for the first time, or an indirect branch, leads to code that has not been decoded. Where that is on
a page that the instruction TLB knows and that has decoded code already, and all of its instructions are known
(engine/native_decode.py), native code goes on in it at once. Python is told by a log: it takes in what is there before
it looks at blocks. Everything else is Python's from the start.
"""

from __future__ import annotations

from trapgate.arch import layout
from trapgate.cpu.tlb import FAST_ENTRIES
from trapgate.cpu.walk import NativeFunction
from trapgate.engine import block_table, native_decode, page_code
from trapgate.isa.ir import Value

#: What `@translate` needs besides the mode's own: behind the log of links, words (u64) and then the log. ENABLED: 0
#: where Python must see all new blocks. USED: bytes of the log. LAYING: host address of the arguments of `@lay_out`, of
#: which OUT and LIMIT are always right. CHANGING: host address of a byte for each page of RAM, not 0 for one whose code
#: is written to again and again. MEMBER: for the one member of the group that is laid out.
ENABLED, USED, LAYING, CHANGING, MEMBER = range(0, 40, 8)
LOG = 64
#: An entry of the log, words: the block's header, (number of its row << 12) + place in its page, linear and
#: guest-physical address of the page, the granules that it covers, number of its translation.
ENTRY_WORDS = 6
_ENTRY = 8 * ENTRY_WORDS
LOG_SIZE = 5000 * _ENTRY
#: Bytes of all of it.
AREA_SIZE = LOG + LOG_SIZE


def generate_translate(declarations: set[str]) -> str:
    """`i64 @translate(state, rip)`: the header of the block at `rip`, which was not there before, or 0."""
    f = NativeFunction("translate", "i64", (("i64", "rip"),), declarations)
    e = f.emit
    rip = f.argument("rip")

    def refuse_if(condition: Value) -> None:
        with e.when(condition):
            e.ret(0)

    def word(pointer: Value, offset: int) -> Value:
        return e.load(64, e.offset(pointer, offset))

    area = e.offset(e.pointer(f.field(layout.LINK_LOG)), block_table.LOG_START + block_table.LOG_SIZE)
    used = word(area, USED)
    refuse_if(word(area, ENABLED).eq(0) | used.uge(LOG_SIZE))
    cache = e.pointer(f.field(layout.JUMP_CACHE))
    decoding = word(cache, block_table.DECODING)
    refuse_if(decoding.eq(0))
    linear = rip & ~0xFFF
    table = e.load_type("ptr", e.offset(f.state, layout.ITLB))
    fetched = e.offset(table, (linear >> 7) & ((FAST_ENTRIES - 1) << 5))
    physical = word(fetched, 16)
    page = physical >> 12
    refuse_if(e.load(64, fetched).ne(linear) | page.uge(f.field(layout.PAGE_COUNT)))
    covered = e.offset(e.pointer(f.field(layout.CODE_MAP)), page << 3)
    changing = e.load(8, e.offset(e.pointer(word(area, CHANGING)), page))
    refuse_if(e.load(64, covered).eq(0) | changing.ne(0))
    laying, arguments = e.pointer(word(area, LAYING)), e.pointer(decoding)
    header = word(laying, 8 * page_code.OUT)
    refuse_if(header.uge(word(laying, 8 * page_code.LIMIT)))

    def lay(number: int, value: Value) -> None:
        e.store(value, e.offset(laying, 8 * number))

    content = f.field(layout.RAM_BASE) + physical
    place = rip & 0xFFF
    e.store(content, e.offset(arguments, 8 * native_decode.BYTES))
    e.store(place, e.offset(arguments, 8 * native_decode.PLACE))
    refuse_if(e.call("@decode", "i64", [f.state, arguments]).eq(0))
    row = word(arguments, 8 * native_decode.ROW_COUNT) - 1
    member = (row << 12) | place
    e.store(member, e.offset(area, MEMBER))
    for number, value in (
        (page_code.BYTES, content), (page_code.LINEAR, linear), (page_code.PHYSICAL, physical),
        (page_code.MEMBERS, e.address(e.offset(area, MEMBER))), (page_code.COUNT, e.constant(1, 64)),
        (page_code.TABLE, e.address(cache)),
    ):  # fmt: skip
        lay(number, value)
    for number, source in (
        (page_code.POOL, native_decode.POOL), (page_code.INDICES, native_decode.INDICES),
        (page_code.ROWS, native_decode.ROWS), (page_code.CODE, native_decode.CODE),
    ):  # fmt: skip
        lay(number, word(arguments, 8 * source))
    e.call("@lay_out", "i64", [f.state, laying])
    granules = word(e.pointer(word(laying, 8 * page_code.RESULTS)), 16)
    e.store(e.load(64, covered) | granules, covered)
    entry = e.offset(area, used + LOG)
    number_of = word(cache, block_table.NUMBER)
    for i, value in enumerate((header, member, linear, physical, granules, number_of)):
        e.store(value, e.offset(entry, 8 * i))
    e.store(used + _ENTRY, e.offset(area, USED))
    e.ret(header)
    return f.text()
