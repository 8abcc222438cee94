"""Code that changes under a region: writes, mappings, address spaces, modes, breakpoints, the arena, the disk."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from engine.assembly import assemble
from engine.harness import CODE, CODE32, CODE64, DATA, DEVICE, Guest, P, U, W
from trapgate.engine.compile import CodeFolder
from trapgate.engine.handlers import HandlerStore
from trapgate.engine.hot import tier as tier_module
from trapgate.engine.hot.compile import workshop
from trapgate.engine.hot.tier import HotTier

from .pair import Make, Pair
from .waiting import wait_for

Pairs = Callable[[Make], Pair]

#: 50 turns of two blocks.
LOOP = assemble(
    64,
    """
    b9 32 00 00 00  mov ecx, 50
    body:
    01 c8           add eax, ecx
    48 c1 c0 03     rol rax, 3
    f6 c1 01        test cl, 1
    74 03           je even
    48 31 c8        xor rax, rcx
    even:
    ff c9           dec ecx
    75 ee           jne body
    f4              hlt
    """,
)


def test_a_loop_that_writes_into_its_own_region(pair: Pairs) -> None:
    """The increment of the loop's own ADD changes while its region runs, once in the middle of the loop."""
    code = assemble(
        64,
        """
    b9 3c 00 00 00        mov ecx, 60
    body:
    83 c0 01              add eax, 1
    83 f9 14              cmp ecx, 20
    75 07                 jne next
    c6 05 f3 ff ff ff 03  mov byte [rel body + 2], 3
    next:
    ff c9                 dec ecx
    75 ed                 jne body
    f4                    hlt
    """,
    )
    both = pair(lambda g: g.enter_long().load(code).set(rax=0))
    both.run_to_halt()
    assert both.hot["rax"] == 41 + 19 * 3
    assert both.tier.dropped > 0


def test_a_write_through_another_address_of_the_page(pair: Pairs) -> None:
    code = assemble(
        64,
        """
        b9 28 00 00 00  mov ecx, 40
        body:
        b8 01 00 00 00  mov eax, 1
        01 c3           add ebx, eax
        83 f9 0a        cmp ecx, 10
        75 05           jne next
        41 c6 40 06 02  mov byte [r8 + 6], 2
        next:
        ff c9           dec ecx
        75 eb           jne body
        f4              hlt
        """,
    )

    def make(g: Guest) -> Guest:
        g.enter_long().load(code).set(rbx=0, r8=0x7000_0000)
        g.map(0x7000_0000, CODE)
        return g

    both = pair(make)
    both.run_to_halt()
    assert both.hot["rbx"] == 31 + 9 * 2


def test_writes_of_the_host_and_of_a_device(pair: Pairs) -> None:
    """A loader or DMA writes over a region between two runs, and a device's register does while it runs."""
    code = assemble(
        64,
        """
    b9 28 00 00 00  mov ecx, 40
    body:
    b8 01 00 00 00  mov eax, 1
    01 c3           add ebx, eax
    83 f9 0a        cmp ecx, 10
    75 03           jne next
    41 88 00        mov [r8], al
    next:
    ff c9           dec ecx
    75 ed           jne body
    f4              hlt
    """,
    )

    def make(g: Guest) -> Guest:
        g.enter_long().load(code).set(rbx=0, r8=0xA_0000)
        g.map(0xA_0000, DEVICE)
        g.device.on_write = lambda offset, width, value: g.memory.write(code["body"] + 1, b"\x05")
        return g

    both = pair(make)
    both.run_to_halt()
    assert both.hot["rbx"] == 31 + 9 * 5
    for g in both:
        g.memory.write(code["body"] + 1, b"\x07")
        g.set(rbx=0).go(CODE)
    both.run_to_halt()
    assert both.hot["rbx"] == 31 * 7 + 9 * 5


def test_code_that_two_address_spaces_share(pair: Pairs) -> None:
    """One physical page of code, run in turn with two CR3s, at the same address and at another; data differ."""
    code = assemble(
        64,
        """
    0f 22 df        mov cr3, rdi
    b9 14 00 00 00  mov ecx, 20
    body:
    49 03 00        add rax, [r8]
    41 ff 00        inc dword [r8]
    ff c9           dec ecx
    75 f6           jne body
    f4              hlt
    """,
    )

    def make(g: Guest) -> Guest:
        g.enter_long().load(code).set(rax=0, r8=0x20_0000)
        other = g.new_root()
        for root, page in ((g.root, DATA), (other, DATA + 0x1000)):
            g.map(0x20_0000, page, root=root)
            g.map(0x30_0000, CODE, root=root)
        g.roots = (g.root, other)  # type: ignore[attr-defined]
        return g

    both = pair(make)
    for turn, rip in enumerate((CODE, CODE, 0x30_0000, CODE, 0x30_0000)):
        for g in both:
            g.set(rdi=g.roots[turn % 2])  # type: ignore[attr-defined]
            g.go(rip)
        both.run_to_halt()
    assert both.hot.memory.read_u32(DATA) == 60
    assert both.hot.memory.read_u32(DATA + 0x1000) == 40


@pytest.mark.parametrize("flush", [True, False])
def test_a_page_of_code_is_mapped_anew_under_a_region(pair: Pairs, flush: bool) -> None:
    """The loop calls into another page, whose entry changes in the middle; the TLB decides when that is seen."""
    code = assemble(
        64,
        """
    b9 28 00 00 00  mov ecx, 40
    body:
    ff d3           call rbx
    01 c2           add edx, eax
    83 f9 14        cmp ecx, 20
    75 06           jne next
    4d 89 08        mov [r8], r9
    90              nop
    90              nop
    90              nop
    next:
    ff c9           dec ecx
    75 ed           jne body
    f4              hlt
    """,
    )
    if flush:
        invlpg = assemble(64, "0f 01 3b  invlpg [rbx]")
        code.data = code.data.replace(b"\x90\x90\x90", invlpg.data)
    one, two = b"\xb8\x01\x00\x00\x00\xc3", b"\xb8\x02\x00\x00\x00\xc3"

    def make(g: Guest) -> Guest:
        g.enter_long().load(code)
        g.memory.write(0x1_2100, one)
        g.memory.write(0x1_3100, two)
        g.map(0x20_0000, 0x1_2000)
        return g.set(rdx=0, rbx=0x20_0100, r8=g.entry(0x20_0000), r9=0x1_3000 | P | W | U)

    both = pair(make)
    both.run_to_halt()
    assert both.hot["rdx"] == (21 + 19 * 2 if flush else 40)


def test_a_region_over_two_pages_misses_the_instruction_tlb_where_the_cold_tier_does(pair: Pairs) -> None:
    """A ring of 40 pages of code is more than the first level holds, so every branch between them is a miss of it."""

    def make(g: Guest) -> Guest:
        g.enter_long()
        for i in range(40):
            target = 0x20_0000 + 0x1000 * ((i + 1) % 40)
            # add eax, edx; dec ecx; jz +5; jmp next page
            code = b"\x01\xd0\xff\xc9\x74\x05\xe9"
            distance = target - (0x20_0000 + 0x1000 * i + 11)
            g.memory.write(0x20_0000 + 0x1000 * i, code + (distance & 0xFFFF_FFFF).to_bytes(4, "little") + b"\xf4")
            g.map(0x20_0000 + 0x1000 * i, 0x20_0000 + 0x1000 * i)
        g.go(0x20_0000)
        return g.set(rcx=300, rax=0, rdx=1)

    both = pair(make)
    for limit in (1, 7, 50, 51, 52, 300, None):
        both.run(limit)
    assert both.hot["rax"] == 300
    assert both.hot.counter("itlb_l2_hits") > 200
    assert both.tier.installed > 0


def test_a_loop_that_changes_its_mode(pair: Pairs) -> None:
    """64-bit code calls 32-bit code by a far call in each turn: regions of two modes, left and entered in turn."""
    code = assemble(
        64,
        """
        b9 14 00 00 00  mov ecx, 20
        body:
        48 01 c8        add rax, rcx
        49 ff 18        call far [r8]
        ff c9           dec ecx
        75 f6           jne body
        f4              hlt
        """,
    )
    narrow = assemble(
        32,
        """
        ba 05 00 00 00  mov edx, 5
        inner:
        01 d3           add ebx, edx
        40              inc eax
        4a              dec edx
        75 fa           jne inner
        cb              retf
        """,
    )

    def make(g: Guest) -> Guest:
        g.enter_long().load(narrow, 0x9000).load(code).set(rax=0, rbx=0, r8=DATA)
        g.memory.write(DATA, (0x9000).to_bytes(4, "little") + CODE32.to_bytes(2, "little"))
        g.go(CODE)
        return g

    both = pair(make)
    both.run_to_halt()
    assert both.hot["rax"] == 210 + 100
    assert both.hot["rbx"] == 300


def test_one_page_run_as_64_and_as_32_bit_code(pair: Pairs) -> None:
    """INC is REX in the other mode: the region of one mode is never entered in the other."""
    code = assemble(
        32,
        """
    b9 1e 00 00 00  mov ecx, 30
    body:
    40              inc eax
    01 c0           add eax, eax
    49              dec ecx
    75 fa           jne body
    f4              hlt
    """,
    )
    code.data = code.data.replace(b"\x49", b"\xff\xc9").replace(b"\x75\xfa", b"\x75\xf9")

    for first, second in ((False, True), (True, False)):
        results = []
        both = pair(lambda g, first=first: g.enter_long(compatibility=first).load(code).set(rax=1))  # type: ignore[misc]
        both.run_to_halt()
        results.append(both.hot["rax"])
        for g in both:
            selector = CODE32 if second else CODE64
            register = g.processor.segments[1]
            attributes = 0xC9B if second else 0xA9B
            register.load(selector, 0, 0xFFFF_FFFF, attributes)
            g.set(rax=1).go(CODE)
        both.run_to_halt()
        results.append(both.hot["rax"])
        assert results[0] != results[1]


def test_breakpoints_in_regions(pair: Pairs) -> None:
    """Set while a region with the place is in use, met in every turn, and taken away again."""
    both = pair(lambda g: g.enter_long().load(LOOP).set(rax=0))
    both.run(60)
    assert both.tier.installed > 0
    for g in both:
        g.processor.set_breakpoints(frozenset({LOOP["even"]}))
    left = both.hot["rcx"]
    for turn in range(5):
        assert both.run().reason == "breakpoint"
        assert both.hot["rip"] == LOOP["even"]
        assert both.hot["rcx"] == left - turn
    for g in both:
        g.processor.set_breakpoints(frozenset())
    both.run_to_halt()


def test_steps_through_a_region(pair: Pairs) -> None:
    """One instruction at a time where a region is, then on in the region, with the counts of a run without stops."""
    whole = pair(lambda g: g.enter_long().load(LOOP).set(rax=0))
    whole.run_to_halt()
    both = pair(lambda g: g.enter_long().load(LOOP).set(rax=0))
    both.run(100)
    for _ in range(15):
        done = both.hot.processor.instructions
        assert both.step().reason == "steps"
        assert both.hot.processor.instructions == done + 1
    both.run_to_halt()
    assert both.hot.registers() == whole.hot.registers()
    assert both.hot.processor.instructions == whole.hot.processor.instructions
    assert both.hot.clock.now == whole.hot.clock.now


def test_the_arena_starts_over(handlers: HandlerStore) -> None:
    """More blocks than the arena holds: all regions go with it, and new ones are made."""

    def make(g: Guest) -> Guest:
        g.enter_long()
        # Straight blocks with a small loop in every eighth.
        body = b""
        for i in range(160):
            body += b"\x83\xc0\x01" + (b"\xb9\x03\x00\x00\x00\x01\xca\xff\xc9\x75\xfa" if i % 8 == 0 else b"")
            body += b"\xeb\x00"
        g.memory.write(0x20_0000, body + b"\xc3")
        g.map_large(0x20_0000, 0x20_0000, 21)
        main = assemble(64, "ff d3  call rbx\nff d3  call rbx\nf4     hlt")
        return g.load(main).set(rax=0, rbx=0x20_0000)

    both = Pair(handlers, make, code_size=1 << 15)
    both.run_to_halt()
    assert both.hot["rax"] == 320
    assert both.hot.processor.blocks.generation > 1


def test_code_that_changes_while_its_region_is_compiled(
    handlers: HandlerStore, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The region is finished when its block is gone: it is not installed. An earlier run has kept none."""
    monkeypatch.setattr(tier_module, "SAMPLES_PER_INSTRUCTION", 0)
    both = Pair(handlers, lambda g: g.enter_long().load(LOOP).set(rax=0), "auto")
    both.run(60)
    tier = both.tier
    tier._folder = CodeFolder(tmp_path)
    block = next(b for b in both.hot.processor.blocks.valid_blocks() if b.rip == LOOP["body"])
    tier.sample(block)
    tier.sample(block)
    monkeypatch.setattr(tier_module, "SAMPLES_PER_INSTRUCTION", 1 << 30)
    wait_for(lambda: bool(tier._ready))
    for g in both:
        g.memory.write(LOOP["body"], g.memory.read(LOOP["body"], 1))
    both.run(30)
    tier.sample(both.hot.processor.blocks.valid_blocks()[-1])
    assert not tier._ready
    assert tier.installed == 0
    both.run()
    assert both.hot.processor.halted


def test_a_damaged_region_on_disk(handlers: HandlerStore, tmp_path: Path) -> None:
    """It is compiled again, and the file is whole again."""

    def run() -> HotTier:
        both = Pair(handlers, lambda g: g.enter_long().load(LOOP).set(rax=0))
        both.tier._folder = CodeFolder(tmp_path)
        both.run_to_halt()
        return both.tier

    run()
    files = sorted(path for path in tmp_path.rglob("*") if path.is_file())
    assert files
    whole = [path.read_bytes() for path in files]
    for path in files:
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 0x40
        path.write_bytes(data)
    workshop()._addresses.clear()
    workshop.cache_clear()
    run()
    assert [path.read_bytes() for path in files] == whole
