"""The page walk cache and the nested TLB, as native code.

After Bhargava et al. (ASPLOS 2008), whose processor has 24 and 16 entries, fully associative. Both are off while their
sizes in the state block are 0.

- The page walk cache holds table entries by their host-physical address: those of nested tables (with PWC_NESTED), and
  of the other tables all but the last level's (which the TLB holds). A hit costs COST_PWC_HIT, and the reference does
  not go to the caches behind (cpu/walk_memory.py). Nothing else changes: the entry counts as a reference, and its
  value is memory's.
- The nested TLB holds translations of guest-physical pages of 4 KB in which guest page tables lie. A hit costs
  COST_NESTED_TLB_HIT, and there is no nested walk. (Assumed: the final address does not go through it, the TLB
  holds that one's translation.)

Both replace the least recently used entry. Entries carry the ASID in which they were made, so that they go together
with what they came from: those of plain and guest tables with every flush of that ASID (INVLPG too); those of
nested tables when the host flushes that ASID (TLB_CONTROL, INVLPGA) or all. The paper's rules are not known in such
detail; these are assumed.
"""

from __future__ import annotations

from trapgate.arch import layout
from trapgate.cpu import tlb
from trapgate.cpu.tlb import NESTED_TLB, PAGE_WALK_CACHE, Cache
from trapgate.cpu.walk import FROM_NESTED, NativeFunction
from trapgate.isa.ir import Value

# A tag is the address without its low bits, the ASID below it, and FROM_NESTED above.
_ASID_BITS = 12


def emit_walk_caches(declarations: set[str]) -> list[str]:
    """`@walk_cache`, `@nested_tlb_find`, `@nested_tlb_fill`, `@flush_walk_caches`."""
    return [
        _emit_find(PAGE_WALK_CACHE, declarations),
        _emit_find(NESTED_TLB, declarations),
        _emit_walk_cache(declarations),
        _emit_nested_tlb_find(declarations),
        _emit_nested_tlb_fill(declarations),
        _emit_flush(declarations),
    ]


def _emit_find(cache: Cache, declarations: set[str]) -> str:
    """`i64 @find_<cache>(state, tag)`: twice the place, used now; +1 for a hit. Else it is the oldest, tagged anew."""
    f = NativeFunction(f"find_{cache.name}", "i64", (("i64", "tag"),), declarations)
    e, tag = f.emit, f.argument("tag")
    f.add_to_field(tlb.STAMP, 1)
    now = f.field(tlb.STAMP)
    i, oldest, oldest_stamp = e.variable(0), e.variable(0), e.variable(-1)
    with e.loop() as loop:
        loop.break_if(i.get().eq(f.field(cache.size)))
        with e.when(f.field(i.get() * 8 + cache.tags).eq(tag)):
            f.set_field(i.get() * 8 + cache.stamps, now)
            e.ret((i.get() << 1) | 1)
        stamp = f.field(i.get() * 8 + cache.stamps)
        with e.when(stamp.ult(oldest_stamp.get())):
            oldest.set(i.get())
            oldest_stamp.set(stamp)
        i.set(i.get() + 1)
    f.set_field(oldest.get() * 8 + cache.tags, tag)
    f.set_field(oldest.get() * 8 + cache.stamps, now)
    e.ret(oldest.get() << 1)
    return f.text()


def _emit_walk_cache(declarations: set[str]) -> str:
    """`i64 @walk_cache(state, place, kind)`: whether the entry at a host-physical address is held (1); it is from now
    on. `kind` is 0 or FROM_NESTED."""
    f = NativeFunction("walk_cache", "i64", (("i64", "place"), ("i64", "kind")), declarations)
    tag = ((f.argument("place") >> 3) << _ASID_BITS) | f.field(layout.ASID) | f.argument("kind")
    hit = f.emit.call(f"@find_{PAGE_WALK_CACHE.name}", "i64", [f.state, tag]) & 1
    f.add_to_field(layout.counter("pwc_hits"), hit)
    f.emit.ret(hit)
    return f.text()


def _nested_tag(f: NativeFunction) -> Value:
    return (f.argument("address") & ~0xFFF) | f.field(layout.ASID) | FROM_NESTED


def _emit_nested_tlb_find(declarations: set[str]) -> str:
    """`i64 @nested_tlb_find(state, address)`: 1, counted and charged, and WALK_PAGE and WALK_MASK set; or 0."""
    f = NativeFunction("nested_tlb_find", "i64", (("i64", "address"),), declarations)
    e, tag = f.emit, _nested_tag(f)
    i = e.variable(0)
    with e.loop() as loop:
        loop.break_if(i.get().eq(f.field(NESTED_TLB.size)))
        with e.when(f.field(i.get() * 8 + NESTED_TLB.tags).eq(tag)):
            f.add_to_field(tlb.STAMP, 1)
            f.set_field(i.get() * 8 + NESTED_TLB.stamps, f.field(tlb.STAMP))
            f.set_field(layout.WALK_PAGE, f.field(i.get() * 8 + NESTED_TLB.pages))
            f.set_field(layout.WALK_MASK, -4096)
            f.add_to_field(layout.counter("nested_tlb_hits"), 1)
            f.add_to_field(layout.STALL, f.field(layout.COST_NESTED_TLB_HIT))
            e.ret(1)
        i.set(i.get() + 1)
    e.ret(0)
    return f.text()


def _emit_nested_tlb_fill(declarations: set[str]) -> str:
    """`void @nested_tlb_fill(state, address)`: take in the nested walk's result for a guest-physical address."""
    f = NativeFunction("nested_tlb_fill", "void", (("i64", "address"),), declarations)
    e = f.emit
    i = e.call(f"@find_{NESTED_TLB.name}", "i64", [f.state, _nested_tag(f)]) >> 1
    host_physical = f.field(layout.WALK_PAGE) | (f.argument("address") & ~f.field(layout.WALK_MASK))
    f.set_field(i * 8 + NESTED_TLB.pages, host_physical & ~0xFFF)
    e.ret_void()
    return f.text()


def _emit_flush(declarations: set[str]) -> str:
    """`void @flush_walk_caches(state, mask, value)`: the entries whose tag has `value` in the bits of `mask`."""
    f = NativeFunction("flush_walk_caches", "void", (("i64", "mask"), ("i64", "value")), declarations)
    e = f.emit
    for cache in (PAGE_WALK_CACHE, NESTED_TLB):
        i = e.variable(0)
        with e.loop() as loop:
            loop.break_if(i.get().eq(f.field(cache.size)))
            tag = f.field(i.get() * 8 + cache.tags)
            with e.when((tag & f.argument("mask")).eq(f.argument("value"))):
                f.set_field(i.get() * 8 + cache.tags, tlb.NO_PAGE)
                f.set_field(i.get() * 8 + cache.stamps, 0)
            i.set(i.get() + 1)
    e.ret_void()
    return f.text()
