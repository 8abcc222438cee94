"""Blocks, links and the jump cache when address spaces and modes change."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from engine.assembly import assemble
from engine.harness import CODE, CODE16, CODE32, CODE64, USER64, USER_DATA, Guest, P, U, W

Make = Callable[[], Guest]
ROUTINE = 0x20_0000


@pytest.mark.parametrize("call", ["direct", "register", "memory"])
def test_the_same_rip_in_two_address_spaces(guest: Make, call: str) -> None:
    """Links and jump cache entries made in one address space are not followed in the other."""
    loops = {
        "direct": assemble(
            64,
            """
            b9 28 00 00 00  mov ecx, 40
            again:
            e8 f6 7f 1f 00  call near 0x200000
            4d 87 c1        xchg r8, r9
            41 0f 22 d8     mov cr3, r8
            ff c9           dec ecx
            75 f0           jne again
            f4              hlt
            """,
        ),
        "register": assemble(
            64,
            """
            b9 28 00 00 00  mov ecx, 40
            again:
            41 ff d7        call r15
            4d 87 c1        xchg r8, r9
            41 0f 22 d8     mov cr3, r8
            ff c9           dec ecx
            75 f2           jne again
            f4              hlt
            """,
        ),
        "memory": assemble(
            64,
            """
            b9 28 00 00 00        mov ecx, 40
            again:
            41 57                 push r15
            4d 87 c1              xchg r8, r9
            41 0f 22 d8           mov cr3, r8
            48 8d 15 10 00 00 00  lea rdx, [rel back]
            48 89 54 24 f8        mov [rsp - 8], rdx
            48 8b 14 24           mov rdx, [rsp]
            48 89 14 24           mov [rsp], rdx
            ff 14 24              call [rsp]
            back:
            48 83 c4 08           add rsp, 8
            ff c9                 dec ecx
            75 d8                 jne again
            f4                    hlt
            """,
        ),
    }
    routines = [
        assemble(
            64,
            """
            48 83 c3 01  add rbx, 1
            c3           ret
            """,
        ),
        assemble(
            64,
            """
            48 83 c5 01  add rbp, 1
            c3           ret
            """,
        ),
    ]
    g = guest().enter_long().load(loops[call])
    other = g.new_root()
    for root, physical, routine in ((g.root, 0x10_0000, routines[0]), (other, 0x10_1000, routines[1])):
        g.map(ROUTINE, physical, root=root)
        g.memory.write(physical, routine.data)
    g.set(rbx=0, rbp=0, r8=g.root, r9=other, r15=ROUTINE)
    g.run_to_halt()
    assert (g["rbx"], g["rbp"]) == (20, 20)


def test_code_that_switches_under_its_own_feet(guest: Make) -> None:
    """The instruction behind MOV CR3 is the new address space's."""
    code = assemble(
        64,
        """
        41 0f 22 d9     mov cr3, r9
        b8 01 00 00 00  mov eax, 1
        f4              hlt
        """,
        org=0x200000,
    )
    other_code = assemble(
        64,
        """
        41 0f 22 d9     mov cr3, r9
        b8 02 00 00 00  mov eax, 2
        f4              hlt
        """,
        org=0x200000,
    )
    g = guest().enter_long()
    other = g.new_root()
    g.map(ROUTINE, 0x10_0000)
    g.map(ROUTINE, 0x10_1000, root=other)
    g.memory.write(0x10_0000, code.data)
    g.memory.write(0x10_1000, other_code.data)
    g.set(r9=other)
    g.go(ROUTINE)
    g.run_to_halt()
    assert g["rax"] == 2


@pytest.mark.parametrize("flush", ["invlpg", "cr3", "nothing"])
def test_a_loop_whose_page_is_mapped_anew(guest: Make, flush: str) -> None:
    """With INVLPG or a CR3 write the new page runs; without, the TLB's old one does, as on hardware."""
    loops = {
        "invlpg": assemble(
            64,
            """
            b9 0a 00 00 00  mov ecx, 10
            again:
            41 ff d7        call r15
            83 f9 06        cmp ecx, 6
            75 07           jne next
            4d 89 08        mov [r8], r9
            41 0f 01 3f     invlpg [r15]
            next:
            ff c9           dec ecx
            75 ed           jne again
            f4              hlt
            """,
        ),
        "cr3": assemble(
            64,
            """
            b9 0a 00 00 00  mov ecx, 10
            again:
            41 ff d7        call r15
            83 f9 06        cmp ecx, 6
            75 09           jne next
            4d 89 08        mov [r8], r9
            0f 20 d8        mov rax, cr3
            0f 22 d8        mov cr3, rax
            next:
            ff c9           dec ecx
            75 eb           jne again
            f4              hlt
            """,
        ),
        "nothing": assemble(
            64,
            """
            b9 0a 00 00 00  mov ecx, 10
            again:
            41 ff d7        call r15
            83 f9 06        cmp ecx, 6
            75 03           jne next
            4d 89 08        mov [r8], r9
            next:
            ff c9           dec ecx
            75 f1           jne again
            f4              hlt
            """,
        ),
    }
    old = assemble(
        64,
        """
        48 83 c3 01  add rbx, 1
        c3           ret
        """,
    )
    new = assemble(
        64,
        """
        48 83 c5 01  add rbp, 1
        c3           ret
        """,
    )
    g = guest().enter_long().load(loops[flush])
    g.map(ROUTINE, 0x10_0000)
    g.memory.write(0x10_0000, old.data)
    g.memory.write(0x10_1000, new.data)
    g.map(0x6000_0000, g.entry(ROUTINE) & ~0xFFF)
    g.set(rbx=0, rbp=0, r15=ROUTINE, r8=0x6000_0000 + (g.entry(ROUTINE) & 0xFFF), r9=0x10_1000 | P | W | U)
    g.run_to_halt()
    assert (g["rbx"], g["rbp"]) == ((10, 0) if flush == "nothing" else (5, 5))


def test_a_block_that_falls_into_a_page_that_is_mapped_anew(guest: Make) -> None:
    """A straight run from one page to the next, linked; then the next page changes."""
    g = guest().enter_long()
    g.map(0x20_0000, 0x10_0000)
    g.map(0x20_1000, 0x10_2000)
    head = assemble(
        64,
        """
        48 83 c0 01  add rax, 1
        """,
    )
    tails = [
        assemble(
            64,
            """
            48 83 c0 10  add rax, 0x10
            c3           ret
            """,
        ),
        assemble(
            64,
            """
            48 83 c0 20  add rax, 0x20
            c3           ret
            """,
        ),
    ]
    g.memory.write(0x10_1000 - 4, head.data)
    g.memory.write(0x10_2000, tails[0].data)
    g.memory.write(0x10_4000, tails[1].data)
    main = assemble(
        64,
        """
        41 ff d7     call r15
        41 ff d7     call r15
        41 ff d7     call r15
        4d 89 08     mov [r8], r9
        41 0f 01 3e  invlpg [r14]
        41 ff d7     call r15
        f4           hlt
        """,
    )
    g.load(main)
    g.map(0x6000_0000, g.entry(0x20_1000) & ~0xFFF)
    g.set(
        rax=0, r15=0x20_0FFC, r14=0x20_1000, r8=0x6000_0000 + (g.entry(0x20_1000) & 0xFFF), r9=0x10_4000 | P | W | U
    )  # fmt: skip
    g.run_to_halt()
    assert g["rax"] == 3 * 0x11 + 0x21


def test_the_same_bytes_in_three_code_sizes(guest: Make) -> None:
    """40h is INC EAX in 32-bit code, INC AX in 16-bit code, and a REX prefix in 64-bit code."""
    g = guest().enter_long()
    g.memory.write(CODE, bytes.fromhex("40 40 40 90 f4"))
    seen = []
    for selector, attributes in ((CODE64, 0xA9B), (CODE32, 0xC9B), (CODE16, 0x09B), (CODE64, 0xA9B), (CODE32, 0xC9B)):
        g.processor.segments[1].load(selector, 0, 0xFFFF_FFFF, attributes)
        g.set(rax=0xFFFF)
        g.go(CODE)
        g.run_to_halt()
        seen.append(g["rax"])
    assert seen == [0xFFFF, 0x1_0002, 2, 0xFFFF, 0x1_0002]


def test_user_and_supervisor_run_the_same_page(guest: Make) -> None:
    """Blocks of CPL 0 are not used at CPL 3: CLI is allowed in one and not in the other."""
    code = assemble(
        64,
        """
        fa     cli
        ff c0  inc eax
        f4     hlt
        """,
    )
    g = guest().enter_long().load(code).set(rax=0)
    g.run_to_halt()
    assert g["rax"] == 1
    p = g.processor
    p.segments[1].load(USER64, 0, 0xFFFF_FFFF, 0xAFB)
    p.segments[2].load(USER_DATA, 0, 0xFFFF_FFFF, 0xCF3)
    p.cpl = 3
    g.go(CODE)
    frame = g.run_to_exception()
    assert (frame.vector, frame.error, frame.rip, g["rax"]) == (13, 0, CODE, 1)


def test_a_supervisor_page_that_user_code_jumps_to(guest: Make) -> None:
    """The jump cache and links of CPL 0 lead nowhere at CPL 3."""
    code = assemble(
        64,
        """
        41 ff e7  jmp r15
        """,
    )
    g = guest().enter_long().load(code)
    g.map(ROUTINE, 0x10_0000, P | W)
    g.memory.write(0x10_0000, b"\xf4")
    g.set(r15=ROUTINE)
    g.run_to_halt()
    p = g.processor
    p.segments[1].load(USER64, 0, 0xFFFF_FFFF, 0xAFB)
    p.segments[2].load(USER_DATA, 0, 0xFFFF_FFFF, 0xCF3)
    p.cpl = 3
    g.go(CODE)
    frame = g.run_to_exception()
    assert (frame.vector, frame.error, frame.rip, g.processor.cr2) == (14, 0x15, ROUTINE, ROUTINE)


def test_a_page_that_becomes_no_execute(guest: Make) -> None:
    code = assemble(
        64,
        """
        41 ff d7        call r15
        49 0f ba 28 3f  bts qword [r8], 63
        41 0f 01 3f     invlpg [r15]
        41 ff d7        call r15
        f4              hlt
        """,
    )
    g = guest().enter_long().load(code)
    g.map(ROUTINE, 0x10_0000)
    g.memory.write(0x10_0000, b"\xc3")
    g.map(0x6000_0000, g.entry(ROUTINE) & ~0xFFF)
    g.set(r15=ROUTINE, r8=0x6000_0000 + (g.entry(ROUTINE) & 0xFFF))
    frame = g.run_to_exception()
    assert (frame.vector, frame.error, frame.rip) == (14, 0x11, ROUTINE)


def test_real_mode_aliases_of_one_address(guest: Make) -> None:
    """0800:0000 and 0000:8000 are one place; relative branches and IP differ."""
    code = assemble(
        16,
        """
        e8 00 00  call near next
        next:
        58        pop ax
        ff e3     jmp bx
        """,
        org=0x8000,
    )
    g = guest().enter_real().load(code)
    g.memory.write(0x8010, b"\xf4")
    g.set(rbx=0x8010)
    g.run_to_halt()
    assert g["rax"] & 0xFFFF == 0x8003
    g.processor.segments[1].load(0x800, 0x8000, 0xFFFF, 0x9B)
    g.set(rbx=0x10)
    g.go(0)
    g.run_to_halt()
    assert (g["rax"] & 0xFFFF, g["rip"]) == (3, 0x11)


def test_paging_switched_on_and_off_in_a_loop(guest: Make) -> None:
    """With paging on, the routine's page is another one."""
    code = assemble(
        32,
        """
        b9 14 00 00 00  mov ecx, 20
        again:
        ff d3           call ebx
        0f 20 c0        mov eax, cr0
        35 00 00 00 80  xor eax, 0x80000000
        0f 22 c0        mov cr0, eax
        eb 00           jmp next
        next:
        49              dec ecx
        75 ee           jne again
        f4              hlt
        """,
    )
    g = guest().enter_protected("two-level").load(code)
    g.map(ROUTINE, 0x10_0000)
    routines = [
        assemble(
            32,
            """
            46  inc esi
            c3  ret
            """,
        ),
        assemble(
            32,
            """
            47  inc edi
            c3  ret
            """,
        ),
    ]
    g.memory.write(0x10_0000, routines[0].data)
    g.memory.write(ROUTINE, routines[1].data)
    g.set(rbx=ROUTINE, rsi=0, rdi=0)
    g.run_to_halt()
    assert (g["rsi"], g["rdi"]) == (10, 10)
