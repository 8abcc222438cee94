"""Lookup in the modelled TLB, as native code: what happens when a fast table misses.

`translate` of a side, given a linear address and an access (bits of a page-fault error code):

    (a) paging is off, and nested paging   -> physical = linear; a fast entry without an owner, nothing is counted
    (b) level 1 has it and allows it       -> a fast entry is made again
    (c) level 2 has it and allows it       -> counted as a level 2 hit; level 1 takes it in
    (d) neither                            -> counted as a miss; the page walk; both levels take it in
    (f) without a model (layout.UNMODELLED): level 2 as in (c), else (d), and a fast entry without an owner; level 1 is
        not used, and nothing costs anything
    (e) an entry that forbids the access, or is not dirty at a write, is dropped: then (d), as processors walk again

Entries are those of the current ASID. With nested paging (layout.NESTED) they hold host-physical pages, and (b) to (e)
serve a guest without paging too. A20 masks no address of such a guest (it is the host's board that masks, not the
guest's; APM vol. 2, 15.25 does not say).

Returns the host address of the byte, 0 after a fault (fault fields set), or 1 when the page is not RAM.
"""

from __future__ import annotations

from trapgate.arch import layout
from trapgate.arch.paging import PF_U, PF_W
from trapgate.arch.registers import CR0_PG, CR0_WP, EFER_LMA
from trapgate.cpu import tlb
from trapgate.cpu.tlb import FAST_ENTRIES, FAST_SIZE, L1_ENTRIES, OPTERON_2007, Side
from trapgate.cpu.walk import NativeFunction, is_ram
from trapgate.isa.ir import Value

#: What the fault vector field holds for a non-canonical address: #SS for stack references, else #GP.
NON_CANONICAL = 0x100 | 13
_VECTOR = f"<{L1_ENTRIES} x i64>"
DEVICE = 1  # what translate returns for a page that is not RAM


def emit_side(side: Side, declarations: set[str]) -> list[str]:
    """The native functions of one side."""
    return [
        _emit_empty_list(side, declarations),
        _emit_evict(side, declarations),
        _emit_install(side, declarations),
        _emit_fill(side, declarations),
        _emit_find_l2(side, declarations),
        _emit_insert_l2(side, declarations),
        _emit_drop(side, declarations),
        _emit_translate(side, declarations),
    ]


def slot_pointer(f: NativeFunction, side: Side, slot: Value) -> Value:
    """A fast entry's place."""
    return f.emit.offset(f.state, slot * FAST_SIZE + side.fast)


def _emit_unlink_body(f: NativeFunction, side: Side, entry: Value) -> None:
    """Take a fast entry out of its owner's list and empty it."""
    e = f.emit
    owner = e.load(16, e.offset(entry, 24)).zext(64)
    following = e.load(16, e.offset(entry, 26)).zext(64)
    previous = e.load(16, e.offset(entry, 28)).zext(64)
    with e.when(following.ne(tlb.NO_SLOT)):
        e.store(previous.trunc(16), e.offset(slot_pointer(f, side, following), 28))
    at_head = e.new_label("head")
    inside, done = e.new_label("inside"), e.new_label("unlinked")
    e.branch(previous.eq(tlb.NO_SLOT), at_head, inside)
    e.label(at_head)
    f.set_field(owner * 8 + side.heads, following)
    e.jump(done)
    e.label(inside)
    e.store(following.trunc(16), e.offset(slot_pointer(f, side, previous), 26))
    e.jump(done)
    e.label(done)
    _clear(f, entry)


def _clear(f: NativeFunction, entry: Value) -> None:
    e = f.emit
    e.store(e.constant(tlb.EMPTY, 64), entry)
    e.store(e.constant(tlb.EMPTY, 64), e.offset(entry, 8))
    e.store(e.constant(tlb.NO_OWNER, 16), e.offset(entry, 24))


def _emit_empty_list(side: Side, declarations: set[str]) -> str:
    """`void @empty_list_<side>(state, i)`: every fast entry made from level 1 entry i goes."""
    f = NativeFunction(f"empty_list_{side.name}", "void", (("i64", "i"),), declarations)
    e, i = f.emit, f.argument("i")
    slot = e.variable(f.field(i * 8 + side.heads))
    with e.loop() as loop:
        loop.break_if(slot.get().eq(tlb.NO_SLOT))
        entry = slot_pointer(f, side, slot.get())
        slot.set(e.load(16, e.offset(entry, 26)).zext(64))
        _clear(f, entry)
    f.set_field(i * 8 + side.heads, tlb.NO_SLOT)
    e.ret_void()
    return f.text()


def _emit_evict(side: Side, declarations: set[str]) -> str:
    """`void @evict_<side>(state, i)`: level 1 entry i and every fast entry made from it go."""
    f = NativeFunction(f"evict_{side.name}", "void", (("i64", "i"),), declarations)
    f.emit.call_void(f"@empty_list_{side.name}", [f.state, f.argument("i")])
    f.set_field(f.argument("i") * 8 + side.tags, tlb.NO_PAGE)
    f.emit.ret_void()
    return f.text()


def _emit_install(side: Side, declarations: set[str]) -> str:
    """`void @install_<side>(state, owner, linear, physical, access, writable)`: make a fast entry.

    For data the page is RAM and the entry holds host minus linear address; for instructions the guest-physical page.
    """
    arguments = tuple(("i64", n) for n in ("owner", "linear", "physical", "access", "writable"))
    f = NativeFunction(f"install_{side.name}", "void", arguments, declarations)
    e, linear, owner = f.emit, f.argument("linear"), f.argument("owner")
    user = (f.argument("access") & PF_U).ne(0)
    slot = (linear >> 12) & (FAST_ENTRIES - 1)
    slot = slot + user.select(e.constant(FAST_ENTRIES, 64), e.constant(0, 64))
    entry = slot_pointer(f, side, slot)
    with e.when(e.load(64, entry).ne(tlb.EMPTY)):
        _emit_unlink_body(f, side, entry)
    page = linear & ~0xFFF
    e.store(page, entry)
    writable = f.argument("writable").ne(0)
    e.store(writable.select(page, e.constant(tlb.EMPTY, 64)), e.offset(entry, 8))
    physical = f.argument("physical") & ~0xFFF
    e.store(f.field(layout.RAM_BASE) + physical - page if side.is_data else physical, e.offset(entry, 16))
    e.store(owner.trunc(16), e.offset(entry, 24))
    head = f.field(owner * 8 + side.heads)
    e.store(head.trunc(16), e.offset(entry, 26))
    e.store(e.constant(tlb.NO_SLOT, 16), e.offset(entry, 28))
    with e.when(head.ne(tlb.NO_SLOT)):
        e.store(slot.trunc(16), e.offset(slot_pointer(f, side, head), 28))
    f.set_field(owner * 8 + side.heads, slot)
    e.ret_void()
    return f.text()


def _emit_fill(side: Side, declarations: set[str]) -> str:
    """`i64 @fill_<side>(state, tag, mask, page, rights)`: take an entry into level 1, first-in first-out; its
    number."""
    arguments = tuple(("i64", n) for n in ("tag", "mask", "page", "rights"))
    f = NativeFunction(f"fill_{side.name}", "i64", arguments, declarations)
    e = f.emit
    if side.is_data:
        i = f.field(side.next_small)
        f.set_field(side.next_small, (i + 1).urem(OPTERON_2007.l1_data))
    else:
        small, large = OPTERON_2007.l1_instruction_small, OPTERON_2007.l1_instruction_large
        is_small = f.argument("mask").eq(-4096)
        place = is_small.select(e.constant(side.next_small, 64), e.constant(side.next_large, 64))
        turn = f.field(place)
        count = is_small.select(e.constant(small, 64), e.constant(large, 64))
        following = turn + 1
        f.set_field(place, following.eq(count).select(e.constant(0, 64), following))
        i = turn + is_small.select(e.constant(0, 64), e.constant(small, 64))
    e.call_void(f"@evict_{side.name}", [f.state, i])
    f.set_field(i * 8 + side.tags, f.argument("tag"))
    f.set_field(i * 8 + side.masks, f.argument("mask"))
    f.set_field(i * 8 + side.pages, f.argument("page"))
    f.set_field(i * 8 + side.rights, f.argument("rights"))
    e.ret(i)
    return f.text()


def _l2_set(f: NativeFunction, side: Side, linear: Value) -> Value:
    index = (linear >> 12) & (OPTERON_2007.l2_sets - 1)
    return f.emit.offset(f.state, index * (tlb.WAYS * tlb.L2_ENTRY) + side.l2)


def _l2_large(f: NativeFunction, side: Side, linear: Value) -> Value:
    index = (linear >> 21) & (OPTERON_2007.l2_large - 1)
    return f.emit.offset(f.state, index * tlb.L2_ENTRY + side.l2_large)


def _small_tag(linear: Value, asid: Value) -> Value:
    return (linear & ~0xFFF) | asid


def _large_tag(linear: Value, asid: Value) -> Value:
    return (linear & ~0x1FFFFF) | asid


def _emit_find_l2(side: Side, declarations: set[str]) -> str:
    """`i64 @find_l2_<side>(state, linear)`: 1 and the WALK_ fields set when level 2 has the page, else 0."""
    f = NativeFunction(f"find_l2_{side.name}", "i64", (("i64", "linear"),), declarations)
    e, linear = f.emit, f.argument("linear")
    entries = _l2_set(f, side, linear)
    tag = _small_tag(linear, f.field(layout.ASID))

    def found(entry: Value, mask: int) -> None:
        f.set_field(layout.WALK_PAGE, e.load(64, e.offset(entry, 8)))
        f.set_field(layout.WALK_RIGHTS, e.load(64, e.offset(entry, 16)))
        f.set_field(layout.WALK_MASK, mask)
        e.ret(1)

    for way in range(tlb.WAYS):
        entry = e.offset(entries, way * tlb.L2_ENTRY)
        with e.when(e.load(64, entry).eq(tag)):
            f.add_to_field(tlb.STAMP, 1)
            e.store(f.field(tlb.STAMP), e.offset(entry, 24))
            found(entry, -4096)
    if side.is_data:
        entry = _l2_large(f, side, linear)
        with e.when(e.load(64, entry).eq(_large_tag(linear, f.field(layout.ASID)))):
            found(entry, -(2 << 20))
    e.ret(0)
    return f.text()


def _emit_insert_l2(side: Side, declarations: set[str]) -> str:
    """`void @insert_l2_<side>(state, linear)`: take the walk's result into level 2."""
    f = NativeFunction(f"insert_l2_{side.name}", "void", (("i64", "linear"),), declarations)
    e, linear = f.emit, f.argument("linear")
    page, rights = f.field(layout.WALK_PAGE), f.field(layout.WALK_RIGHTS)
    with e.when(f.field(layout.WALK_MASK).ne(-4096)):
        if side.is_data:
            entry = _l2_large(f, side, linear)
            e.store(_large_tag(linear, f.field(layout.ASID)), entry)
            e.store(page, e.offset(entry, 8))
            e.store(rights, e.offset(entry, 16))
        e.ret_void()
    # The way that holds an empty entry has stamp 0, so the smallest stamp finds it first.
    entries = _l2_set(f, side, linear)
    best, best_stamp = entries, e.load(64, e.offset(entries, 24))
    for way in range(1, tlb.WAYS):
        entry = e.offset(entries, way * tlb.L2_ENTRY)
        stamp = e.load(64, e.offset(entry, 24))
        older = stamp.ult(best_stamp)
        best, best_stamp = older.select(entry, best), older.select(stamp, best_stamp)
    f.add_to_field(tlb.STAMP, 1)
    e.store(_small_tag(linear, f.field(layout.ASID)), best)
    e.store(page, e.offset(best, 8))
    e.store(rights, e.offset(best, 16))
    e.store(f.field(tlb.STAMP), e.offset(best, 24))
    e.ret_void()
    return f.text()


def _match_l1(f: NativeFunction, side: Side, linear: Value, asid: Value) -> Value:
    """Bit i is set where level 1 entry i holds the page of `linear` in that ASID (i64)."""
    e = f.emit
    masks = e.load_type(_VECTOR, e.offset(f.state, side.masks), 64)
    tags = e.load_type(_VECTOR, e.offset(f.state, side.tags), 64)

    def splat(value: Value) -> Value:
        first = e.define(f"insertelement {_VECTOR} poison, i64 {value.name}, i32 0", _VECTOR)
        return e.define(
            f"shufflevector {_VECTOR} {first.name}, {_VECTOR} poison, <{L1_ENTRIES} x i32> zeroinitializer", _VECTOR
        )

    wanted = (splat(linear) & masks) | splat(asid)
    return wanted.eq(tags).bitcast(f"i{L1_ENTRIES}")


def _emit_drop(side: Side, declarations: set[str]) -> str:
    """`void @drop_<side>(state, linear, asid)`: the page of `linear` leaves both levels (INVLPG, and case (e))."""
    f = NativeFunction(f"drop_{side.name}", "void", (("i64", "linear"), ("i64", "asid")), declarations)
    e, linear, asid = f.emit, f.argument("linear"), f.argument("asid")
    matches = e.variable(_match_l1(f, side, linear, asid))
    with e.loop() as loop:
        loop.break_if(matches.get().eq(0))
        i = e.intrinsic("cttz", "i64", [matches.get(), e.constant(1, 1)], "i64")
        e.call_void(f"@evict_{side.name}", [f.state, i])
        matches.set(matches.get() & (matches.get() - 1))
    tag = _small_tag(linear, asid)
    entries = _l2_set(f, side, linear)
    for way in range(tlb.WAYS):
        entry = e.offset(entries, way * tlb.L2_ENTRY)
        with e.when(e.load(64, entry).eq(tag)):
            e.store(e.constant(tlb.NO_PAGE, 64), entry)
            e.store(e.constant(0, 64), e.offset(entry, 24))
    if side.is_data:
        entry = _l2_large(f, side, linear)
        with e.when(e.load(64, entry).eq(_large_tag(linear, asid))):
            e.store(e.constant(tlb.NO_PAGE, 64), entry)
    e.ret_void()
    return f.text()


def _allowed(f: NativeFunction, rights: Value, access: Value, side: Side) -> Value:
    """Whether an entry serves an access without a walk (i1)."""
    user = (access & PF_U).ne(0)
    denied = user & (rights & tlb.RIGHT_U).eq(0)
    if side.is_data:
        write = (access & PF_W).ne(0)
        read_only = (rights & tlb.RIGHT_W).eq(0) & (user | f.flag(layout.CR0, CR0_WP))
        denied = denied | (write & (read_only | (rights & tlb.RIGHT_D).eq(0)))
    else:
        denied = denied | (rights & tlb.RIGHT_NX).ne(0)
    return denied ^ 1


def _emit_translate(side: Side, declarations: set[str]) -> str:
    f = NativeFunction(f"translate_{side.name}", "i64", (("i64", "linear"), ("i64", "access")), declarations)
    e, linear, access = f.emit, f.argument("linear"), f.argument("access")
    physical, rights, owner = e.variable(0), e.variable(0), e.variable(tlb.UNOWNED)
    lookup, second, walk, level_one, have = (e.new_label(n) for n in ("lookup", "second", "walk", "take", "have"))

    # Long mode: addresses must be canonical (APM vol. 2, 5.3.1). Python makes a #SS of it for stack references.
    wide = linear.trunc(48).sext(64)
    with e.when(f.flag(layout.EFER, EFER_LMA) & wide.ne(linear), likely=False):
        f.set_field(layout.FAULT_VECTOR, NON_CANONICAL)
        f.set_field(layout.FAULT_ADDRESS, linear)
        f.set_field(layout.FAULT_ERROR, 0)
        e.ret(0)
    with e.when(f.flag(layout.CR0, CR0_PG) ^ 1), e.when(f.field(layout.NESTED).eq(0)):  # (a)
        physical.set(linear)
        rights.set(tlb.RIGHT_W | tlb.RIGHT_U | tlb.RIGHT_D)
        e.jump(have)
    e.jump(lookup)

    e.label(lookup)
    unmodelled = f.field(layout.UNMODELLED).ne(0)
    first = e.new_label("modelled")
    e.branch(unmodelled, second, first, likely=False)
    e.label(first)
    matches = _match_l1(f, side, linear, f.field(layout.ASID))
    hit = e.new_label("first")
    e.branch(matches.ne(0), hit, second)
    e.label(hit)
    i = e.intrinsic("cttz", "i64", [matches, e.constant(1, 1)], "i64")
    entry_rights = f.field(i * 8 + side.rights)
    ok, forbidden = e.new_label("allowed"), e.new_label("forbidden")
    e.branch(_allowed(f, entry_rights, access, side), ok, forbidden)
    e.label(ok)  # (b)
    rights.set(entry_rights)
    owner.set(i)
    mask = f.field(i * 8 + side.masks)
    physical.set(f.field(i * 8 + side.pages) | (linear & ~mask))
    e.jump(have)

    e.label(second)
    found = e.call(f"@find_l2_{side.name}", "i64", [f.state, linear]).ne(0)
    check = e.new_label("check")
    e.branch(found, check, walk)
    e.label(check)
    in_l2 = e.new_label("hit")
    e.branch(_allowed(f, f.field(layout.WALK_RIGHTS), access, side), in_l2, forbidden)
    e.label(in_l2)  # (c)
    f.add_to_field(side.hits, 1)
    f.add_to_field(layout.STALL, f.field(layout.COST_L2_HIT))
    e.jump(level_one)

    e.label(forbidden)  # (e)
    e.call_void(f"@drop_{side.name}", [f.state, linear, f.field(layout.ASID)])
    e.jump(walk)

    e.label(walk)  # (d)
    f.add_to_field(side.misses, 1)
    plain, in_guest, filled = (e.new_label(n) for n in ("plain", "guest", "filled"))
    e.branch(f.field(layout.NESTED).ne(0), in_guest, plain)
    for label, function in ((in_guest, "@guest_walk"), (plain, "@walk")):
        e.label(label)
        with e.when(e.call(function, "i64", [f.state, linear, access]).eq(0)):
            e.ret(0)
        e.jump(filled)
    e.label(filled)
    e.call_void(f"@insert_l2_{side.name}", [f.state, linear])
    e.jump(level_one)

    e.label(level_one)
    with e.when(unmodelled, likely=False):
        rights.set(f.field(layout.WALK_RIGHTS))
        physical.set(f.field(layout.WALK_PAGE) | (linear & ~f.field(layout.WALK_MASK)))
        e.jump(have)
    f.add_to_field(tlb.DATA_LINES, f.field(tlb.LINES_PER_MISS))
    mask = f.field(layout.WALK_MASK)
    tag = (linear & mask) | f.field(layout.ASID)
    page = f.field(layout.WALK_PAGE)
    rights.set(f.field(layout.WALK_RIGHTS))
    owner.set(e.call(f"@fill_{side.name}", "i64", [f.state, tag, mask, page, rights.get()]))
    physical.set(page | (linear & ~mask))
    e.jump(have)

    e.label(have)
    nested = f.field(layout.NESTED).ne(0)
    address = physical.get() & nested.select(e.constant(-1, 64), f.field(layout.A20_MASK))
    f.set_field(layout.TRANSLATED, address)
    ram = is_ram(f, address)
    if not side.is_data:
        _install(f, side, owner.get(), linear, address, access, e.constant(0, 64))
        with e.when(ram ^ 1):
            e.ret(DEVICE)
        e.ret(f.field(layout.RAM_BASE) + address)
        return f.text()
    with e.when(ram ^ 1):
        e.ret(DEVICE)
    _install_data(f, side, owner.get(), linear, address, access, rights.get())
    e.ret(f.field(layout.RAM_BASE) + address)
    return f.text()


def _install(f: NativeFunction, side: Side, *arguments: Value) -> None:
    f.emit.call_void(f"@install_{side.name}", [f.state, *arguments])


def _install_data(
    f: NativeFunction, side: Side, owner: Value, linear: Value, address: Value, access: Value, rights: Value
) -> None:
    """A fast entry lets writes through only if the page is dirty, writable at this privilege and holds no code."""
    e = f.emit
    user = (access & PF_U).ne(0)
    writable = (rights & tlb.RIGHT_W).ne(0) | ((user | f.flag(layout.CR0, CR0_WP)) ^ 1)
    code = e.load(64, e.pointer(f.field(layout.CODE_MAP) + (address >> 12) * 8))
    writable = writable & (rights & tlb.RIGHT_D).ne(0) & code.eq(0)
    _install(f, side, owner, linear, address, access, writable.zext(64))
