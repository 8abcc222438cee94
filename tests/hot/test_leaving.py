"""Where regions are left: faults, limits, interrupts, devices, accesses that a fast look-up does not serve."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from engine.assembly import assemble
from engine.harness import CODE, DATA, DEVICE, Guest, P, U

from .pair import Make, Pair

Pairs = Callable[[Make], Pair]

#: A loop with a call, a return, an indirect call and branches inside: 60 turns.
WORK = assemble(
    64,
    """
    b9 3c 00 00 00        mov ecx, 60
    body:
    48 8d 1d 18 00 00 00  lea rbx, [rel first]
    f6 c1 02              test cl, 2
    74 07                 je other
    48 8d 1d 10 00 00 00  lea rbx, [rel second]
    other:
    ff d3                 call rbx
    e8 10 00 00 00        call third
    ff c9                 dec ecx
    75 e2                 jne body
    f4                    hlt
    first:
    48 01 c8              add rax, rcx
    c3                    ret
    second:
    48 6b c0 03           imul rax, rax, 3
    ff c2                 inc edx
    c3                    ret
    third:
    50                    push rax
    e8 ef ff ff ff        call first
    5e                    pop rsi
    48 31 f0              xor rax, rsi
    c3                    ret
    """,
)


def test_calls_returns_and_indirect_branches(pair: Pairs) -> None:
    both = pair(lambda g: g.enter_long().load(WORK).set(rax=1, rdx=0))
    both.run_to_halt()
    assert both.hot["rdx"] == 30
    assert any(len(block.regions) > 0 for block in both.hot.processor.blocks.valid_blocks())


@pytest.mark.parametrize("first", [*range(1, 40), 333])
def test_limits(pair: Pairs, first: int) -> None:
    """A limit of any number ends both runs at the same block, in the middle of a loop as well, again and again."""
    both = pair(lambda g: g.enter_long().load(WORK).set(rax=1, rdx=0))
    both.run(200)
    for i in range(6):
        done = both.hot.processor.instructions
        if both.run(first + i).reason == "halted":
            break
        assert both.hot.processor.instructions >= done + first + i
    both.run()


def test_a_limit_does_not_depend_on_what_is_linked(pair: Pairs) -> None:
    """A run that ends behind a block whose link is new, and the same run when it is old."""
    for limit in (1, 2, 3, 7, 12, 20):
        both = pair(lambda g: g.enter_long().load(WORK).set(rax=1, rdx=0))
        both.run(limit)
        fresh = both.cold.processor.instructions, both.cold["rip"]
        for g in both:
            g.set(rax=1, rdx=0).go(CODE)
        both.run()
        before = both.cold.processor.instructions
        for g in both:
            g.set(rax=1, rdx=0, rsp=0x7000).go(CODE)
        both.run(limit)
        assert (both.cold.processor.instructions - before, both.cold["rip"]) == fresh


@pytest.mark.parametrize("cycle", [*range(300, 324), 401, 555])
def test_interrupts_at_every_cycle(pair: Pairs, cycle: int) -> None:
    """The handler notes where it came from and counts; the loop goes on in its region."""
    handler = assemble(
        64,
        """
    ff 04 25 00 98 00 00     inc dword [0x9800]
    50                       push rax
    48 8b 44 24 08           mov rax, [rsp + 8]
    48 89 04 25 08 98 00 00  mov [0x9808], rax
    58                       pop rax
    48 cf                    iretq
    """,
    )

    def make(g: Guest) -> Guest:
        g.enter_long().load(WORK).set(rax=1, rdx=0, rflags=0x202)
        g.memory.write(0x9400, handler.data)
        g.set_gate64(0x40, 8, 0x9400)
        g.processor.set_intr(False)
        for k in range(3):
            g.clock.schedule(cycle + 250 * k, lambda: g.processor.set_intr(True))
        return g

    both = pair(make)
    both.run_to_halt()
    assert both.hot.processor.interrupt_counts == {0x40: 3}
    assert both.hot.memory.read_u32(0x9800) == 3
    assert both.hot["rdx"] == 30


@pytest.mark.parametrize("turn", [1, 2, 3, 30, 49])
def test_a_page_fault_in_the_middle_of_a_region(pair: Pairs, turn: int) -> None:
    """In one turn the page is missing: registers, flags and counts are those before the access."""
    code = assemble(
        64,
        """
    b9 32 00 00 00  mov ecx, 50
    body:
    48 01 c8        add rax, rcx
    f9              stc
    48 13 16        adc rdx, [rsi]
    48 89 17        mov [rdi], rdx
    ff c3           inc ebx
    48 83 ee 08     sub rsi, 8
    48 83 c7 08     add rdi, 8
    ff c9           dec ecx
    75 e8           jne body
    f4              hlt
    """,
    )

    def make(g: Guest) -> Guest:
        g.enter_long().load(code).set(rax=0, rbx=0, rdx=0, rsi=0x20_1000 + 8 * (turn - 1) - 8, rdi=DATA)
        g.map(0x20_0000, DATA + 0x1000)
        g.map(0x20_1000, DATA + 0x2000)
        g.memory.write(DATA + 0x1000, bytes(range(256)) * 32)
        g.map(0x20_0000, 0, 0)
        return g

    both = pair(make)
    both.run()
    frame = both.hot.frame()
    assert (frame.vector, frame.error) == (14, 0)
    assert frame.rip == code["body"] + 4
    assert frame.rflags & 1
    assert both.hot["rbx"] == turn - 1
    assert both.hot.processor.cr2 == 0x20_0FF8
    assert both.hot["rcx"] == 50 - both.hot["rbx"]


def test_a_division_fault_in_the_middle_of_a_region(pair: Pairs) -> None:
    code = assemble(
        64,
        """
    b9 32 00 00 00  mov ecx, 50
    body:
    b8 e8 03 00 00  mov eax, 1000
    99              cdq
    89 cb           mov ebx, ecx
    83 eb 07        sub ebx, 7
    83 fb 64        cmp ebx, 100
    f7 fb           idiv ebx
    49 01 c0        add r8, rax
    ff c9           dec ecx
    75 e9           jne body
    f4              hlt
    """,
    )
    both = pair(lambda g: g.enter_long().load(code).set(r8=0))
    both.run()
    frame = both.hot.frame()
    assert (frame.vector, frame.rip) == (0, code["body"] + 14)
    assert (both.hot["rcx"], both.hot["rdx"], both.hot["rax"]) == (7, 0, 1000)
    assert both.tier.installed > 0


@pytest.mark.parametrize("size", [2, 4, 8, 16])
def test_accesses_that_straddle_pages(pair: Pairs, size: int) -> None:
    """Groups of accesses whose page ends among them, at every offset; the two pages are not neighbours in RAM."""
    forms = {
        2: assemble(
            64,
            """
        b9 28 00 00 00  mov ecx, 40
        body:
        66 8b 06        mov ax, [rsi]
        66 03 46 02     add ax, [rsi + 2]
        66 89 46 01     mov [rsi + 1], ax
        48 ff c6        inc rsi
        ff c9           dec ecx
        75 ee           jne body
        f4              hlt
        """,
        ),
        4: assemble(
            64,
            """
            b9 28 00 00 00  mov ecx, 40
            body:
            8b 06           mov eax, [rsi]
            03 46 04        add eax, [rsi + 4]
            89 46 02        mov [rsi + 2], eax
            48 ff c6        inc rsi
            ff c9           dec ecx
            75 f1           jne body
            f4              hlt
            """,
        ),
        8: assemble(
            64,
            """
            b9 28 00 00 00  mov ecx, 40
            body:
            48 8b 06        mov rax, [rsi]
            48 03 46 08     add rax, [rsi + 8]
            48 89 46 04     mov [rsi + 4], rax
            48 ff c6        inc rsi
            ff c9           dec ecx
            75 ee           jne body
            f4              hlt
            """,
        ),
        16: assemble(
            64,
            """
            b9 28 00 00 00  mov ecx, 40
            body:
            0f 10 06        movups xmm0, [rsi]
            0f 10 4e 10     movups xmm1, [rsi + 16]
            66 0f fc c1     paddb xmm0, xmm1
            0f 11 46 08     movups [rsi + 8], xmm0
            48 ff c6        inc rsi
            ff c9           dec ecx
            75 ea           jne body
            f4              hlt
            """,
        ),
    }

    def make(g: Guest) -> Guest:
        g.enter_long().load(forms[size]).set(rsi=0x20_0FE0)
        g.map(0x20_0000, DATA + 0x3000)
        g.map(0x20_1000, DATA)
        g.memory.write(DATA, bytes(i * 7 & 0xFF for i in range(0x4000)))
        return g

    both = pair(make)
    both.run_to_halt()
    assert both.hot.counter("page_crossings") > 0


def test_a_page_that_is_read_first_and_becomes_writable(pair: Pairs) -> None:
    """Reads and a later write of one page are looked up at once; the write's fault, when the page is read-only, is
    raised by the write, with what stands before it done. The handler makes the page writable."""
    code = assemble(
        64,
        """
        b9 14 00 00 00  mov ecx, 20
        body:
        8b 06           mov eax, [rsi]
        01 c2           add edx, eax
        83 c0 03        add eax, 3
        89 46 04        mov [rsi + 4], eax
        48 83 c6 10     add rsi, 16
        ff c9           dec ecx
        75 ee           jne body
        f4              hlt
        """,
    )
    handler = assemble(
        64,
        """
        48 83 c4 08  add rsp, 8
        41 ff c2     inc r10d
        41 89 d3     mov r11d, edx
        41 80 08 02  or byte [r8], 2
        0f 01 3e     invlpg [rsi]
        48 cf        iretq
        """,
    )

    def make(g: Guest) -> Guest:
        g.enter_long().load(code)
        g.memory.write(0x9400, handler.data)
        g.set_gate64(14, 8, 0x9400)
        g.map(0x20_0000, DATA, P | U)
        return g.set(rdx=0, r10=0, rsi=0x20_0100, r8=g.entry(0x20_0000))

    both = pair(make)
    both.run_to_halt()
    assert both.hot["r10"] == 1
    # Made read-only again behind the processor's back, and flushed: the region meets the fault in the middle.
    for g in both:
        g.memory.write_u64(g.entry(0x20_0000), DATA | P | U)
        g.flush(0x20_0000)
        g.set(rsi=0x20_0100, r10=0).go(CODE)
    both.run_to_halt()
    assert both.hot["r10"] == 1


def test_a_device_in_memory(pair: Pairs) -> None:
    """Each access leaves the region, and has the cycle that it has without it."""
    code = assemble(
        64,
        """
    b9 1e 00 00 00  mov ecx, 30
    body:
    01 c8           add eax, ecx
    41 89 00        mov [r8], eax
    c1 c0 05        rol eax, 5
    41 8b 50 04     mov edx, [r8 + 4]
    01 d0           add eax, edx
    ff c9           dec ecx
    75 ee           jne body
    f4              hlt
    """,
    )

    def make(g: Guest) -> Guest:
        g.enter_long().load(code).set(rax=0, r8=0xA_0000)
        g.map(0xA_0000, DEVICE)
        g.cycles = []  # type: ignore[attr-defined]
        g.device.on_write = lambda offset, width, value: g.cycles.append(g.clock.now)  # type: ignore[attr-defined]
        return g

    both = pair(make)
    both.run_to_halt()
    assert len(both.hot.device.writes) == 30
    assert both.cold.cycles == both.hot.cycles  # type: ignore[attr-defined]


def test_a_device_that_interrupts_a_region(pair: Pairs) -> None:
    code = assemble(
        64,
        """
    b9 1e 00 00 00  mov ecx, 30
    body:
    01 c8           add eax, ecx
    41 89 00        mov [r8], eax
    c1 c0 05        rol eax, 5
    ff c9           dec ecx
    75 f4           jne body
    f4              hlt
    """,
    )

    def make(g: Guest) -> Guest:
        g.enter_long().load(code).set(rax=0, r8=0xA_0000, rflags=0x202)
        g.map(0xA_0000, DEVICE)
        g.device.on_write = lambda offset, width, value: g.processor.set_intr(len(g.device.writes) == 17)
        return g

    both = pair(make)
    both.run()
    assert both.hot.frame().vector == 0x40
    assert both.hot["rcx"] == 30 - 17


def test_a_data_breakpoint_set_while_a_region_exists(pair: Pairs) -> None:
    """DR7 makes every access take the slow path."""
    code = assemble(
        64,
        """
    b9 1e 00 00 00  mov ecx, 30
    body:
    48 89 0c ce     mov [rsi + rcx * 8], rcx
    48 01 c8        add rax, rcx
    ff c9           dec ecx
    75 f5           jne body
    f4              hlt
    """,
    )
    both = pair(lambda g: g.enter_long().load(code).set(rax=0, rsi=DATA))
    both.run_to_halt()
    enable = assemble(
        64,
        """
        0f 23 c7  mov dr0, rdi
        0f 23 fa  mov dr7, rdx
        ff e3     jmp rbx
        """,
    )
    for g in both:
        g.memory.write(0x9000, enable.data)
        g.set(rax=0, rdi=DATA + 80, rdx=0x9_0402, rbx=CODE).go(0x9000)
    both.run()
    assert both.hot.frame().vector == 1
    assert both.hot["rcx"] == 10


def test_the_trap_flag_set_in_a_loop(pair: Pairs) -> None:
    """POPF sets TF in the middle of a loop with a region: #DB comes behind the next instruction."""
    code = assemble(
        64,
        """
        b9 1e 00 00 00  mov ecx, 30
        body:
        31 d2           xor edx, edx
        83 f9 0b        cmp ecx, 11
        0f 94 c2        sete dl
        c1 e2 08        shl edx, 8
        83 ca 02        or edx, 2
        52              push rdx
        9d              popfq
        ff c0           inc eax
        ff c3           inc ebx
        ff c9           dec ecx
        75 e8           jne body
        f4              hlt
        """,
    )
    both = pair(lambda g: g.enter_long().load(code).set(rax=0, rbx=0))
    both.run()
    assert both.hot.frame().vector == 1
    assert (both.hot["rcx"], both.hot["rax"], both.hot["rbx"]) == (11, 20, 19)


def test_interrupts_are_turned_on_and_off_in_a_loop(pair: Pairs) -> None:
    """One is pending all the time: it comes behind the instruction after STI, and not behind CLI."""
    code = assemble(
        64,
        """
        b9 1e 00 00 00  mov ecx, 30
        body:
        fa              cli
        01 c8           add eax, ecx
        83 f9 0c        cmp ecx, 12
        75 05           jne next
        fb              sti
        ff c2           inc edx
        ff c3           inc ebx
        next:
        ff c9           dec ecx
        75 ef           jne body
        f4              hlt
        """,
    )

    def make(g: Guest) -> Guest:
        g.enter_long().load(code).set(rax=0, rbx=0, rdx=0)
        g.processor.set_intr(True)
        return g

    both = pair(make)
    both.run()
    assert both.hot.frame().vector == 0x40
    assert (both.hot["rdx"], both.hot["rbx"], both.hot["rcx"]) == (1, 0, 12)


def test_the_time_stamp_in_a_region(pair: Pairs) -> None:
    """RDTSC in the middle of a loop gives the cycle that it gives without a region."""
    code = assemble(
        64,
        """
    b9 1e 00 00 00  mov ecx, 30
    body:
    0f af c1        imul eax, ecx
    0f 31           rdtsc
    89 04 ce        mov [rsi + rcx * 8], eax
    f6 c1 01        test cl, 1
    74 03           je next
    0f af d1        imul edx, ecx
    next:
    ff c9           dec ecx
    75 ec           jne body
    f4              hlt
    """,
    )
    both = pair(lambda g: g.enter_long().load(code).set(rsi=DATA))
    both.run_to_halt()
    stamps = [both.hot.memory.read_u32(DATA + 8 * i) for i in range(1, 31)]
    assert sorted(set(stamps), reverse=True) == stamps


def test_accessed_and_dirty_bits(pair: Pairs) -> None:
    """A region that has read a page still looks before it writes there, in another block: the write sets the bit."""
    code = assemble(
        64,
        """
        b9 40 00 00 00        mov ecx, 64
        body:
        8b 06                 mov eax, [rsi]
        39 d9                 cmp ecx, ebx
        77 02                 ja next
        89 06                 mov [rsi], eax
        next:
        48 81 c6 00 10 00 00  add rsi, 0x1000
        81 e6 ff 7f 20 00     and esi, 0x207fff
        ff c9                 dec ecx
        75 e7                 jne body
        f4                    hlt
        """,
    )

    def make(g: Guest) -> Guest:
        g.enter_long().load(code).set(rsi=0x20_0000)
        for i in range(8):
            g.map(0x20_0000 + 0x1000 * i, DATA + 0x1000 * i)
        return g

    # Once with writes in every turn, so that there are regions with both blocks; then only in the last six.
    both = pair(make)
    for g in both:
        g.set(rbx=64)
    both.run_to_halt()
    for g in both:
        for i in range(8):
            g.map(0x20_0000 + 0x1000 * i, DATA + 0x1000 * i)
            g.flush(0x20_0000 + 0x1000 * i)
        g.set(rbx=6, rsi=0x20_0000).go(CODE)
    both.run_to_halt()
    bits = [both.hot.memory.read_u64(both.hot.entry(0x20_0000 + 0x1000 * i)) & 0x60 for i in range(8)]
    assert bits == [0x20, 0x20, *[0x60] * 6]
