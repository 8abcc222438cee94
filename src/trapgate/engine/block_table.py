"""The table of a mode's blocks by rip, and the log of what native code has found there.

The jump cache (arch/layout.py) knows where few indirect branches went last. Behind it, in the same memory, stands this
table with all blocks of the mode: native code finds there what the jump cache has lost, and where a link that is used
for the first time leads. Only what is not in it is left to Python.

A block at the rip may have been decoded from another page than the one that is there now: the page check at its head
finds out, as for links and the jump cache.

| offset | behind the jump cache |
|---|---|
| 0 | number of buckets less one; 0: there is no table, Python finds everything |
| 8 | host address of the arguments with which native code decodes (engine/native_translate.py); 0: Python decodes |
| 16 | number of the mode's translation |
| 64 | buckets of four entries of 16 bytes: rip, address of the header (0: free) |

The log tells Python which links were made and where indirect branches went, as pairs of words: the address of a link's
field, or of the record of a branch, with the kind in its lowest bits; and the record that it leads to. Its first word
is how many bytes of it are used. When it is full Python is asked.
"""

from __future__ import annotations

import itertools

from trapgate.arch import layout
from trapgate.engine import record
from trapgate.isa.ir import CONVENTION, Emitter, Value

WAYS = 4
ENTRY = 16
BUCKET = WAYS * ENTRY
#: Buckets of a mode's table: two for each block of a Debian boot.
BUCKETS = 1 << 16
FIRST_BUCKET = layout.JUMP_CACHE_SIZE + 64
#: What stands between them.
DECODING, NUMBER = layout.JUMP_CACHE_SIZE + 8, layout.JUMP_CACHE_SIZE + 16
#: Bytes of jump cache and table together.
SIZE = FIRST_BUCKET + BUCKETS * BUCKET

LOG_SIZE = 1 << 20
LOG_START = 16
#: Kinds of entries of the log.
TARGET, NEXT, INDIRECT = 0, 1, 2
KIND_MASK = 7

FACTOR = 0x9E37_79B9_7F4A_7C15  # 2^64 over the golden ratio: Fibonacci hashing
_SHIFT = 40


def bucket_of(rip: int) -> int:
    """Number of the bucket that may hold a rip."""
    return (rip * FACTOR & (1 << 64) - 1) >> _SHIFT & BUCKETS - 1


def enter(words: memoryview, rip: int, address: int) -> None:
    """Put a block's header into the table in `words` (u64; jump cache and table), in place of one at the same rip."""
    first = (FIRST_BUCKET + bucket_of(rip) * BUCKET) >> 3
    for place in range(first, first + WAYS * 2, 2):
        if words[place] == rip or not words[place + 1]:
            break
    else:
        # The bucket is full: the oldest goes.
        words[first : first + 2 * WAYS - 2] = words[first + 2 : first + 2 * WAYS]
    words[place], words[place + 1] = rip, address


def remove(words: memoryview, rip: int, address: int) -> None:
    """Take a block out, if it is there."""
    first = (FIRST_BUCKET + bucket_of(rip) * BUCKET) >> 3
    for place in range(first, first + WAYS * 2, 2):
        if words[place] == rip and words[place + 1] == address:
            words[place] = words[place + 1] = 0


def emit_enter(e: Emitter, cache: Value, rip: Value, address: Value) -> None:
    """As `enter`, in native code; `cache` points to jump cache and table, `address` is an i64."""
    first = e.offset(cache, _bucket(rip, e.constant(BUCKETS - 1, 64)))
    entries = [e.offset(first, way * ENTRY) for way in range(WAYS)]
    free = [e.load(64, entry).eq(rip) | e.load(64, e.offset(entry, 8)).eq(0) for entry in entries]
    anywhere = free[0]
    for one in free[1:]:
        anywhere = anywhere | one
    with e.when(anywhere ^ 1):
        # The bucket is full: the oldest goes.
        for to, from_ in itertools.pairwise(entries):
            for offset in (0, 8):
                e.store(e.load(64, e.offset(from_, offset)), e.offset(to, offset))
    place = e.address(entries[-1])
    for one, entry in zip(free[-2::-1], entries[-2::-1], strict=True):
        place = one.select(e.address(entry), place)
    e.store(rip, e.pointer(place))
    e.store(address, e.offset(e.pointer(place), 8))


def _bucket(rip: Value, mask: Value) -> Value:
    """Bytes from the start of the jump cache to the bucket that may hold a rip."""
    number = (rip * rip.emit.constant(FACTOR - (1 << 64), 64)) >> _SHIFT
    return (number & mask) * BUCKET + FIRST_BUCKET


class _Handler:
    """A handler that leads on or leaves."""

    def __init__(self) -> None:
        e = self.emit = Emitter()
        self.state, self.uop = Value(e, "%state", "ptr", 0), Value(e, "%uop", "ptr", 0)
        self.budget = Value(e, "%budget", "i64", 64)
        self.python = e.new_label("python")

    def unless(self, condition: Value) -> None:
        """Leave to Python unless `condition`."""
        go_on = self.emit.new_label("on")
        self.emit.branch(condition, go_on, self.python)
        self.emit.label(go_on)

    def field(self, offset: int) -> Value:
        return self.emit.load(64, self.emit.offset(self.state, offset))

    def find(self, rip: Value) -> Value:
        """The header (i64) of the block at `rip`, which is decoded if need be; leaves to Python where there is none."""
        e = self.emit
        cache = e.pointer(self.field(layout.JUMP_CACHE))
        mask = e.load(64, e.offset(cache, layout.JUMP_CACHE_SIZE))
        self.unless(mask.ne(0))
        first = e.offset(cache, _bucket(rip, mask))
        found = e.constant(0, 64)
        for way in range(WAYS):
            entry = e.offset(first, way * ENTRY)
            found = e.load(64, entry).eq(rip).select(e.load(64, e.offset(entry, 8)), found)
        header = e.variable(found)
        with e.when(found.eq(0)):
            header.set(e.call("@translate", "i64", [self.state, rip]))
        self.unless(header.get().ne(0))
        return header.get()

    def log(self, what: Value, where: Value) -> None:
        """Note an entry; leaves to Python where the log is full."""
        e = self.emit
        log = e.pointer(self.field(layout.LINK_LOG))
        used = e.load(64, log)
        self.unless(used.ult(LOG_SIZE))
        place = e.offset(log, used)
        e.store(what, place)
        e.store(where, e.offset(place, 8))
        e.store(used + 16, log)

    def text(self, name: str, code: int, uop_offset: int = 0) -> str:
        """Its text; Python is asked with an exit code."""
        e = self.emit
        e.label(self.python)
        e.store(e.address(e.offset(self.uop, -uop_offset)), e.offset(self.state, layout.EXIT_UOP))
        e.store(self.budget, e.offset(self.state, layout.EXIT_BUDGET))
        e.ret(code)
        return e.text(f"define {CONVENTION} i64 @{name}(ptr noalias %state, ptr noalias %uop, i64 %budget) #0")


def generate_link(name: str, is_target: bool) -> str:
    """What the link at the end of a block leads to until it is made: makes it, if the block is there.

    | | the block that is found | the link |
    |---|---|---|
    | a | on another linear page | goes to its page check |
    | b | on the same linear page, decoded from the same physical page | goes past that |
    | c | on the same linear page, from another physical page | is Python's |
    """
    h = _Handler()
    e = h.emit
    pseudo, field = (record.UNLINKED_TARGET, record.LINK) if is_target else (record.UNLINKED_NEXT, record.NEXT_LINK)
    end = e.offset(h.uop, -pseudo)
    header = e.load(64, e.offset(end, record.HEADER))
    h.unless(header.ne(0))
    rip = e.load(64, e.offset(end, record.TARGET_IP if is_target else record.NEXT_IP))
    found = h.find(rip)
    here = e.pointer(header)
    same = (rip & ~0xFFF).eq(e.load(64, e.offset(here, record.PAGE_LINEAR)))
    physical = e.load(64, e.offset(e.pointer(found), record.PAGE_PHYSICAL))
    h.unless((same ^ 1) | physical.eq(e.load(64, e.offset(here, record.PAGE_PHYSICAL))))  # c
    to = same.select(found + record.RECORD_SIZE, found)  # b, a
    place = e.offset(end, field)
    h.log(e.address(place) + (TARGET if is_target else NEXT), to)
    e.store(to, place)
    going = e.pointer(to)
    e.tail(e.load_type("ptr", going), [h.state, going, h.budget])
    return h.text(name, record.EXIT_UNLINKED_TARGET if is_target else record.EXIT_UNLINKED_NEXT, pseudo)


def generate_lookup(name: str) -> str:
    """Where an indirect branch from the record `uop` goes on that the jump cache does not know; the state has rip."""
    h = _Handler()
    e = h.emit
    rip = h.field(layout.RIP)
    found = h.find(rip)
    # The same target as the last time is not logged again.
    last = e.offset(h.uop, record.TARGET_IP)
    with e.when(e.load(64, last).ne(rip)):
        h.log(e.address(h.uop) + INDIRECT, found)
        e.store(rip, last)
    entry = e.offset(e.pointer(h.field(layout.JUMP_CACHE)), layout.jump_cache_offset(rip))
    e.store(rip, entry)
    e.store(found, e.offset(entry, 8))
    with e.when(h.budget.slt(0), likely=False):
        e.store(found, e.offset(h.state, layout.EXIT_UOP))
        e.store(h.budget, e.offset(h.state, layout.EXIT_BUDGET))
        e.ret(record.EXIT_BUDGET)
    going = e.pointer(found)
    e.tail(e.load_type("ptr", going), [h.state, going, h.budget])
    return h.text(name, record.EXIT_LOOKUP)
