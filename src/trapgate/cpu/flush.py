"""What empties the modelled TLB or a part of it, as native code (APM vol. 2, 5.5.2 and 15.16)."""

from __future__ import annotations

from trapgate.arch import layout
from trapgate.cpu import tlb
from trapgate.cpu.lookup import slot_pointer
from trapgate.cpu.tlb import DATA, FAST_ENTRIES, INSTRUCTION, L1_ENTRIES, OPTERON_2007
from trapgate.cpu.walk import FROM_NESTED, NativeFunction


def emit_flushes(declarations: set[str]) -> list[str]:
    """What empties the TLB or a part of it; the functions of (state, ...):

    - `@flush(keep_global)`, `@flush_asid(asid, keep_global)`: the entries of the current ASID, or of another; all but
      its global ones when `keep_global` is not 0. `@flush_all()`: every ASID's, global or not.
    - `@flush_page(linear)`, `@flush_page_asid(linear, asid)`: INVLPG and INVLPGA.
    - `@reset_fast()`: the fast tables alone; `@protect(physical)`: fast entries let no more writes to a page through.
    """
    return [
        _emit_flush_where(declarations),
        *_emit_named_flushes(declarations),
        *_emit_page_flushes(declarations),
        _emit_reset_fast(declarations),
        _emit_protect(declarations),
    ]


def _emit_flush_where(declarations: set[str]) -> str:
    """`void @flush_where(state, mask, asid, keep_global)`: the entries whose tag has `asid` in the bits of `mask`."""
    arguments = (("i64", "mask"), ("i64", "asid"), ("i64", "keep_global"))
    f = NativeFunction("flush_where", "void", arguments, declarations)
    e, mask, asid = f.emit, f.argument("mask"), f.argument("asid")
    keep = f.argument("keep_global").ne(0).select(e.constant(tlb.RIGHT_G, 64), e.constant(0, 64))
    for side in (DATA, INSTRUCTION):
        i = e.variable(0)
        with e.loop() as loop:
            loop.break_if(i.get().eq(L1_ENTRIES))
            tag = f.field(i.get() * 8 + side.tags)
            goes = tag.ne(tlb.NO_PAGE) & (tag & mask).eq(asid)
            with e.when(goes & (f.field(i.get() * 8 + side.rights) & keep).eq(0)):
                e.call_void(f"@evict_{side.name}", [f.state, i.get()])
            i.set(i.get() + 1)
        for start, count in ((side.l2, OPTERON_2007.l2_sets * tlb.WAYS), (side.l2_large, OPTERON_2007.l2_large)):
            j = e.variable(0)
            with e.loop() as loop:
                loop.break_if(j.get().eq(count))
                entry = e.offset(f.state, j.get() * tlb.L2_ENTRY + start)
                tag = e.load(64, entry)
                with e.when(tag.ne(tlb.NO_PAGE), likely=False):
                    goes = (tag & mask).eq(asid)
                    with e.when(goes & (e.load(64, e.offset(entry, 16)) & keep).eq(0)):
                        e.store(e.constant(tlb.NO_PAGE, 64), entry)
                        e.store(e.constant(0, 64), e.offset(entry, 24))
                j.set(j.get() + 1)
        with e.when(f.field(layout.UNMODELLED).ne(0), likely=False):
            e.call_void(f"@empty_list_{side.name}", [f.state, e.constant(tlb.UNOWNED, 64)])
    f.add_to_field(layout.counter("tlb_flushes"), 1)
    e.ret_void()
    return f.text()


def _emit_named_flushes(declarations: set[str]) -> list[str]:
    texts = []
    for name, arguments in (
        ("flush", ("keep_global",)), ("flush_asid", ("asid", "keep_global")), ("flush_all", ()),
    ):  # fmt: skip
        f = NativeFunction(name, "void", tuple(("i64", a) for a in arguments), declarations)
        e = f.emit
        zero = e.constant(0, 64)
        mask = e.constant(tlb.ASID_MASK, 64) if arguments else zero
        asid = f.argument("asid") if "asid" in arguments else f.field(layout.ASID) if arguments else zero
        keep = f.argument("keep_global") if arguments else zero
        e.call_void("@flush_where", [f.state, mask, asid, keep])
        # The current ASID's own flush says nothing about nested tables.
        own = e.constant(FROM_NESTED if name == "flush" else 0, 64)
        e.call_void("@flush_walk_caches", [f.state, mask | own, asid])
        e.ret_void()
        texts.append(f.text())
    return texts


def _emit_page_flushes(declarations: set[str]) -> list[str]:
    texts = []
    for name, arguments in (("flush_page", ("linear",)), ("flush_page_asid", ("linear", "asid"))):
        f = NativeFunction(name, "void", tuple(("i64", a) for a in arguments), declarations)
        asid = f.argument("asid") if "asid" in arguments else f.field(layout.ASID)
        for side in (DATA, INSTRUCTION):
            f.emit.call_void(f"@drop_{side.name}", [f.state, f.argument("linear"), asid])
            with f.emit.when(f.field(layout.UNMODELLED).ne(0), likely=False):
                # A large page may be behind many of them.
                f.emit.call_void(f"@empty_list_{side.name}", [f.state, f.emit.constant(tlb.UNOWNED, 64)])
        mask = f.emit.constant(tlb.ASID_MASK | (FROM_NESTED if name == "flush_page" else 0), 64)
        f.emit.call_void("@flush_walk_caches", [f.state, mask, asid])
        f.add_to_field(layout.counter("tlb_page_flushes"), 1)
        f.emit.ret_void()
        texts.append(f.text())
    return texts


def _emit_reset_fast(declarations: set[str]) -> str:
    """Every fast entry is on one of the lists, so this costs by how many there are."""
    f = NativeFunction("reset_fast", "void", (), declarations)
    e = f.emit
    for side in (DATA, INSTRUCTION):
        i = e.variable(0)
        with e.loop() as loop:
            loop.break_if(i.get().eq(L1_ENTRIES + 1))
            with e.when(f.field(i.get() * 8 + side.heads).ne(tlb.NO_SLOT)):
                e.call_void(f"@empty_list_{side.name}", [f.state, i.get()])
            i.set(i.get() + 1)
    e.ret_void()
    return f.text()


def _emit_protect(declarations: set[str]) -> str:
    f = NativeFunction("protect", "void", (("i64", "physical"),), declarations)
    e = f.emit
    host = f.field(layout.RAM_BASE) + f.argument("physical")
    i = e.variable(0)
    with e.loop() as loop:
        loop.break_if(i.get().eq(2 * FAST_ENTRIES))
        entry = slot_pointer(f, DATA, i.get())
        tag = e.load(64, e.offset(entry, 8))
        with e.when((tag + e.load(64, e.offset(entry, 16))).eq(host) & tag.ne(tlb.EMPTY)):
            e.store(e.constant(tlb.EMPTY, 64), e.offset(entry, 8))
        i.set(i.get() + 1)
    e.ret_void()
    return f.text()
