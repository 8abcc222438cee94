"""The modelled TLB against a naive one: the same accesses give the same counts, whoever makes them."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine.assembly import assemble
from engine.harness import DATA, Guest, P, U, W
from trapgate.arch import layout
from trapgate.arch.registers import CR0_WP
from trapgate.arch.vmcb import EXIT_NPF
from trapgate.cpu.faults import Fault, VmExit
from trapgate.engine.handlers import HandlerStore

from .naive_tlb import NaiveTlb
from .tlb_world import HUGE_AT, LARGE_AT, NESTED_LEAVES, SMALL_AT, World, check_fast_tables, nest, set_asid

Make = Callable[[], Guest]
SETTINGS = settings(
    max_examples=40, derandomize=True, database=None, deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)  # fmt: skip
seeds = st.integers(0, 1 << 32)
#: Few pages (all in level 1), as many as level 2 holds, and more.
small_counts = st.sampled_from([3, 30, 70, 200, 400])
large_counts = st.sampled_from([0, 2, 20, 90])

WRITE, USER, FETCH = 2, 4, 16


def _translate(g: Guest, linear: int, access: int) -> int | None:
    """Through the processor's lookup; None for a page fault."""
    p = g.processor
    if not access & FETCH:
        try:
            return p.translate(linear, access)
        except Fault:
            return None
    if p._translate_code(p.state.address, linear, access):
        return p.state.get(layout.TRANSLATED)
    return None


@SETTINGS
@given(seed=seeds, small=small_counts, large=large_counts, write=st.sampled_from([0.0, 0.3]))
def test_lookups(handlers: HandlerStore, seed: int, small: int, large: int, write: float) -> None:
    """Reads, writes and fetches by user and supervisor; flushes, switches and changed entries in between."""
    choose = random.Random(seed)
    g = Guest(handlers).enter_long()
    world = World(g, choose, small, large)
    model = world.model
    for number in range(1200):
        page = choose.choice(world.pages)
        what = choose.random()
        if what < 0.96:
            linear = page + choose.randrange(0x1000)
            if page >= LARGE_AT and page < HUGE_AT:
                linear = page + choose.randrange(0x20_0000)
            access = (choose.random() < write) * WRITE | (choose.random() < 0.4) * USER
            if not access & WRITE and choose.random() < 0.3:
                access |= FETCH
            expected = model.access(linear, bool(access & WRITE), bool(access & USER), bool(access & FETCH))
            got = _translate(g, linear, access)
            assert got == expected, f"access {number}: {linear:#x}, kind {access}"
        elif what < 0.975:
            model.invalidate(page)
            g.processor.flush_page(page)
        elif what < 0.985:
            world.remap(choose.choice(world.roots), page)
        elif what < 0.995:
            root = choose.choice(world.roots)
            model.switch(root)
            g.processor.set_cr3(root)
        else:
            model.write_protect = not model.write_protect
            g.processor.set_cr0(g.processor.cr0 ^ CR0_WP)
        assert world.counters() == model.counters(), f"after step {number}"
    check_fast_tables(g)


ASIDS = (0, 1, 2, 4095)


@SETTINGS
@given(seed=seeds, small=small_counts, large=large_counts, nested=st.sampled_from([None, 0, 4]))
def test_address_spaces(handlers: HandlerStore, seed: int, small: int, large: int, nested: int | None) -> None:
    """Four ASIDs in turn, with what flushes one of them or all; with nested pages of 2 MB or 4 KB, or none."""
    choose = random.Random(seed)
    g = Guest(handlers).enter_long()
    p = g.processor
    world = World(g, choose, small, large)
    model = world.model
    if nested is not None:
        world.nest(nested)
    flushes = page_flushes = 0
    for number in range(1200):
        page, asid, keep_global = choose.choice(world.pages), choose.choice(ASIDS), choose.random() < 0.5
        what = choose.random()
        if what < 0.88:
            linear = page + choose.randrange(0x20_0000 if LARGE_AT <= page < HUGE_AT else 0x1000)
            access = choose.choice((0, USER, WRITE, FETCH))
            expected = model.access(linear, access == WRITE, access == USER, access == FETCH)
            assert _translate(g, linear, access) == expected, f"access {number}: {linear:#x}, kind {access}"
        elif what < 0.96:
            world.set_asid(asid)
            if what < 0.881:
                assert check_fast_tables(g) == 0
        elif what < 0.97:
            model.invalidate(page, asid)
            p.native_flush_page_asid(p.state.address, page, asid)
            page_flushes += 1
        elif what < 0.98:
            model.switch(world.roots[number % 2])
            p.set_cr3(world.roots[number % 2])
            flushes += 1
        elif what < 0.995:
            model.flush(asid, keep_global)
            p.native_flush_asid(p.state.address, asid, keep_global)
            flushes += 1
        else:
            model.flush(None)
            p.native_flush_all(p.state.address)
            flushes += 1
        assert world.counters() == model.counters(), f"after step {number}"
    check_fast_tables(g)
    assert (g.counter("tlb_flushes"), g.counter("tlb_page_flushes")) == (flushes, page_flushes)


def test_the_last_page_of_the_last_asid_is_no_empty_entry(guest: Make) -> None:
    """Page FFFF_FFFF_FFFF_F000h with ASID FFFh below is all ones."""
    g = guest().enter_long()
    last = 0xFFFF_FFFF_FFFF_F000
    g.map(last, 0x10_0000)
    g.processor.state.set(layout.ASID, 0xFFF)
    for _ in range(2):
        assert g.processor.translate(last, 0) == 0x10_0000
    assert g.counter("dtlb_misses") == 1


def test_a_guest_without_paging_has_entries_of_its_own(guest: Make) -> None:
    """Nested paging: the linear address is the guest-physical one, and its translation is in the TLB under the ASID."""
    g = guest().enter_protected()
    nest(g, 4)
    for asid in (1, 2):
        set_asid(g, asid)
        for _ in range(2):
            assert g.processor.translate(0x1_0123, 0) == 0x1_0123
    assert (g.counter("dtlb_misses"), g.counter("dtlb_walk_references")) == (2, 8)
    g.memory.write_u64(NESTED_LEAVES + 8 * 0x10, 0x2_0000 | 0x67)
    assert g.processor.translate(0x1_0123, 0) == 0x1_0123
    g.processor.native_flush_page_asid(g.processor.state.address, 0x1_0000, 2)
    assert g.processor.translate(0x1_0123, 0) == 0x2_0123
    set_asid(g, 1)
    assert g.processor.translate(0x1_0123, 0) == 0x1_0123


def test_code_under_nested_paging(guest: Make) -> None:
    """A guest's loop whose code and data the host has moved; counts of its cold start."""
    code = assemble(
        64,
        """
        b9 05 00 00 00     mov ecx, 5
        again:
        41 ff 00           inc dword [r8]
        ff c9              dec ecx
        75 f9              jne again
        f4                 hlt
        """,
    )
    g = guest().enter_long().load(code).set(r8=SMALL_AT)
    g.map(SMALL_AT, 0x10_0000)
    nest(g, 4)
    g.memory.write_u64(NESTED_LEAVES + 8 * 0x100, 0x11_0000 | 0x67)
    g.memory.write_u64(NESTED_LEAVES + 8 * (code.origin >> 12), 0x12_0000 | 0x67)
    g.memory.write(0x12_0000 + (code.origin & 0xFFF), code.data)
    g.memory.write(code.origin, b"\xf4")
    g.run_to_halt()
    assert g.memory.read_u64(0x11_0000) & 0xFFFF_FFFF == 5
    assert g.memory.read_u64(0x10_0000) == 0
    counts = {name: g.counter(name) for name in NaiveTlb().counters()}
    assert counts == {
        "itlb_l2_hits": 0, "itlb_misses": 1, "itlb_walk_references": 24, "itlb_nested_references": 20,
        "dtlb_l2_hits": 0, "dtlb_misses": 1, "dtlb_walk_references": 24, "dtlb_nested_references": 20,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("moved", "error", "address"),
    [(0x10, 0x1_0000_0006, 0x1_0008), (8, 0x1_0000_0014, 0x8003), (5, 0x1_0000_0006, 0x5FF8)],
    ids=["data", "fetch", "stack"],
)
def test_nested_page_faults_reach_the_processor(guest: Make, moved: int, error: int, address: int) -> None:
    """From native code, from a fetch, and from what plain Python does: EXITINFO1 and EXITINFO2."""
    code = assemble(
        64,
        """
        41 ff 40 08        inc dword [r8 + 8]
        0f 0b              ud2
        """,
        org=0x8003,
    )
    g = guest().enter_long().load(code).set(r8=DATA)
    nest(g, 4)
    g.memory.write_u64(NESTED_LEAVES + 8 * moved, 0)
    if moved == 5:
        with pytest.raises(VmExit) as raised:
            g.processor.write_system(0x5FF8, 8, 1)
    else:
        # No guest was entered, so #VMEXIT itself is not for here.
        g.processor.leave_guest = _raise  # type: ignore[method-assign]
        with pytest.raises(VmExit) as raised:
            g.run(1000)
        assert g.processor.rip == 0x8003
    left = raised.value
    assert (left.code, left.info1, left.info2) == (EXIT_NPF, error, address)


def _raise(left: VmExit) -> None:
    raise left


#: Carries out a list of operations at [rsi]: address | kind, and two more words for kind 5.
INTERPRETER = assemble(
    64,
    """
        again:
        48 8b 06     mov rax, [rsi]
        48 83 c6 08  add rsi, 8
        89 c1        mov ecx, eax
        83 e1 07     and ecx, 7
        48 29 c8     sub rax, rcx
        ff c9        dec ecx
        78 0f        js read
        74 12        je write
        ff c9        dec ecx
        74 13        je invalidate
        ff c9        dec ecx
        74 14        je switch
        ff c9        dec ecx
        74 15        je change
        f4           hlt
        read:
        48 8b 18     mov rbx, [rax]
        eb d9        jmp again
        write:
        48 89 10     mov [rax], rdx
        eb d4        jmp again
        invalidate:
        0f 01 38     invlpg [rax]
        eb cf        jmp again
        switch:
        0f 22 d8     mov cr3, rax
        eb ca        jmp again
        change:
        48 8b 1e     mov rbx, [rsi]
        48 83 c6 08  add rsi, 8
        48 89 18     mov [rax], rbx
        eb be        jmp again
        handler:
        48 83 c4 08  add rsp, 8
        4c 89 0c 24  mov [rsp], r9
        48 cf        iretq
        """,
)
LIST = DATA


@SETTINGS
@given(seed=seeds, small=small_counts, large=large_counts, write=st.sampled_from([0.0, 0.3, 0.7]))
def test_a_guests_accesses(handlers: HandlerStore, seed: int, small: int, large: int, write: float) -> None:
    """The same by a guest, most of whose accesses the fast tables serve: none that counts is missed."""
    choose = random.Random(seed)
    g = Guest(handlers).enter_long()
    world = World(g, choose, small, large)
    model = world.model
    g.set_gate64(14, 8, INTERPRETER["handler"], ist=1)
    code = INTERPRETER.origin
    words: list[int] = []

    def data(linear: int, write: bool = False) -> None:
        """An access of the interpreter's, and what the delivery of its page fault touches."""
        if model.access(linear, write) is None:
            model.access(0x2000 + 14 * 16)  # the gate
            model.access(0x1008)  # the code segment's descriptor
            model.access(0x3000 + 36)  # the TSS: IST 1
            model.access(0x5FD0, write=True)  # the frame
            model.access(code, fetch=True)
            # ADD to RSP's top and IRETQ
            model.access(0x5FD8, write=True)

    def next_word(word: int) -> None:
        model.access(code, fetch=True)
        data(LIST + 8 * len(words))
        words.append(word)

    for _ in range(700):
        page = choose.choice(world.pages)
        what = choose.random()
        if what < 0.95:
            linear = page + 8 * choose.randrange(512)
            writes = choose.random() < write
            next_word(linear | writes)
            data(linear, writes)
        elif what < 0.97:
            next_word(page | 2)
            model.invalidate(page)
        elif what < 0.985:
            root = choose.choice(world.roots)
            place, value, mapping = world.new_entry(root, page)
            next_word(place | 4)
            next_word(value)
            data(place, write=True)
            model.spaces[root][mapping.page] = mapping
        else:
            root = choose.choice(world.roots)
            next_word(root | 3)
            model.switch(root)
    next_word(5)
    assert len(words) < 0x2000
    g.memory.write(LIST, b"".join(word.to_bytes(8, "little") for word in words))
    g.load(INTERPRETER).set(rsi=LIST, r9=INTERPRETER["again"], rdx=0)
    g.run_to_halt(100_000)
    assert g["rsi"] == LIST + 8 * len(words)
    assert world.counters() == model.counters()
    assert check_fast_tables(g) > 0


def test_a_stride_over_more_pages_than_level_2_holds_misses_always(guest: Make) -> None:
    """600 pages in turn: FIFO and LRU both throw out what comes next."""
    g = guest().enter_long()
    for i in range(600):
        g.map(SMALL_AT + 0x1000 * i, 0x10_0000)
    for turn in range(3):
        for i in range(600):
            g.processor.translate(SMALL_AT + 0x1000 * i, 0)
        # 600 pages in 128 sets: 88 sets get 5 of them and keep none, 40 sets get 4 and keep them.
        hits = turn * 40 * 4
        assert g.counter("dtlb_l2_hits") == hits
        assert g.counter("dtlb_misses") == 600 * (turn + 1) - hits
        assert g.counter("dtlb_walk_references") == 4 * g.counter("dtlb_misses")


@pytest.mark.parametrize(("count", "hits"), [(64, 0), (65, 65)])
def test_level_1_is_first_in_first_out(guest: Make, count: int, hits: int) -> None:
    g = guest().enter_long()
    for i in range(count):
        g.map(SMALL_AT + 0x1000 * i, 0x10_0000)
    for _ in range(2):
        for i in range(count):
            g.processor.translate(SMALL_AT + 0x1000 * i, 0)
    assert g.counter("dtlb_l2_hits") == hits
    assert g.counter("dtlb_misses") == count


def test_level_1_does_not_depend_on_hits(guest: Make) -> None:
    """The first page stays in use all the time, and goes all the same when 64 others have come."""
    g = guest().enter_long()
    for i in range(65):
        g.map(SMALL_AT + 0x1000 * i, 0x10_0000)
    for i in range(65):
        g.processor.translate(SMALL_AT + 0x1000 * i, 0)
        g.processor.translate(SMALL_AT, 0)
    # The last access to page 0 found it in level 2 alone.
    assert g.counter("dtlb_l2_hits") == 1


@pytest.mark.parametrize(("linear", "shift", "references"), [(LARGE_AT, 21, 3), (HUGE_AT, 30, 2)])
def test_large_pages_cover_2_mb(guest: Make, linear: int, shift: int, references: int) -> None:
    g = guest().enter_long()
    g.map_large(linear, 0, shift)
    for offset in range(0, 0x20_0000, 0x1000):
        assert g.processor.translate(linear + offset, 0) == offset
    assert (g.counter("dtlb_misses"), g.counter("dtlb_walk_references")) == (1, references)
    if shift == 30:
        g.processor.translate(linear + 0x20_0000, 0)
        assert g.counter("dtlb_misses") == 2


def test_the_first_write_to_a_clean_page_walks_again(guest: Make) -> None:
    """The dirty bit is set by a walk; the second write hits."""
    code = assemble(
        64,
        """
        41 8b 00     mov eax, [r8]
        41 89 00     mov [r8], eax
        41 89 40 04  mov [r8 + 4], eax
        41 8b 48 08  mov ecx, [r8 + 8]
        f4           hlt
        """,
    )
    g = guest().enter_long().load(code).set(r8=SMALL_AT)
    g.map(SMALL_AT, 0x10_0000)
    g.run_to_halt()
    assert g.counter("dtlb_misses") == 2
    assert g.memory.read_u64(g.entry(SMALL_AT)) & 0x60 == 0x60


def test_turning_paging_on_and_off_leaves_no_fast_entries(guest: Make) -> None:
    """With paging off fast entries have no owner; none of them is there once paging is on."""
    code = assemble(
        32,
        """
        b9 0a 00 00 00     mov ecx, 10
        again:
        8b 03              mov eax, [ebx]
        89 83 00 10 00 00  mov [ebx + 0x1000], eax
        0f 20 c0           mov eax, cr0
        35 00 00 00 80     xor eax, 0x80000000
        0f 22 c0           mov cr0, eax
        eb 00              jmp next
        next:
        49                 dec ecx
        75 e8              jne again
        f4                 hlt
        """,
    )
    g = guest().enter_protected("two-level").load(code).set(rbx=0x1_0000)
    g.run_to_halt()
    check_fast_tables(g)
    # Five times on, each after a flush: DATA and the page behind it, first read and then written.
    assert g.counter("dtlb_misses") == 5 * 2
    assert g.counter("tlb_flushes") >= 10


def test_stalls_are_charged_to_the_access(guest: Make) -> None:
    """A hit of level 2 and each reference of a walk cost their cycles, and nothing else does."""
    code = assemble(
        64,
        """
        41 8b 00  mov eax, [r8]
        41 8b 00  mov eax, [r8]
        f4        hlt
        """,
    )
    g = guest().enter_long().load(code).set(r8=SMALL_AT)
    g.map(SMALL_AT, 0x10_0000, P | W | U)
    g.run_to_halt()
    references = g.counter("itlb_walk_references") + g.counter("dtlb_walk_references")
    assert references == 8
    # All tables are within six pages, so each line of them came from memory once.
    hits = [g.counter(name) for name in ("pwc_hits", "walk_l1_hits", "walk_l2_hits", "walk_l3_hits")]
    missed, l2_hits, costs = g.counter("walk_memory_references"), g.counter("dtlb_l2_hits"), g.processor.costs
    assert sum(hits) + missed == references
    assert missed > 0
    each = (costs.walk_cache_hit, costs.l1_hit, costs.l2_hit, costs.l3_hit)
    walks = sum(count * cycles for count, cycles in zip(hits, each, strict=True)) + missed * costs.memory
    assert g.clock.now == 3 + walks + l2_hits * costs.l2_tlb_hit
