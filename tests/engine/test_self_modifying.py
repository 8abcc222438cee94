"""Code that is written to while it runs: the next fetch sees the new bytes, wherever the write came from."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from engine.assembly import assemble
from engine.harness import CODE, DATA, DEVICE, Guest, P, U, W
from trapgate.engine.handlers import HandlerStore

Make = Callable[[], Guest]


def test_next_instruction_of_the_same_block(guest: Make) -> None:
    code = assemble(
        64,
        """
        c6 05 01 00 00 00 07  mov byte [rel patched + 1], 7
        patched:
        b0 01                 mov al, 1
        88 c4                 mov ah, al
        f4                    hlt
        """,
    )
    g = guest().enter_long().load(code)
    g.run_to_halt()
    assert g["rax"] & 0xFFFF == 0x0707
    assert g.processor.instructions == 4


def test_an_instruction_that_writes_its_own_bytes(guest: Make) -> None:
    """The write takes effect at the next execution, and nothing is counted twice."""
    code = assemble(
        64,
        """
        again:
        c6 05 ff ff ff ff 09  mov byte [rel again + 6], 9
        ff c1                 inc ecx
        83 f9 03              cmp ecx, 3
        75 f2                 jne again
        f4                    hlt
        """,
    )
    g = guest().enter_long().load(code)
    g.run_to_halt()
    assert g["rcx"] == 3
    assert g.processor.instructions == 4 * 3 + 1
    assert g.memory.read_u8(CODE + 6) == 9


def test_another_block_that_ran_before(guest: Make) -> None:
    code = assemble(
        64,
        """
        e8 4d 00 00 00        call sub
        c6 05 47 00 00 00 05  mov byte [rel sub + 1], 5
        e8 41 00 00 00        call sub
        f4                    hlt
        90*64                 times 64 nop
        sub:
        b3 01                 mov bl, 1
        00 d8                 add al, bl
        c3                    ret
        """,
    )
    g = guest().enter_long().load(code).set(rax=0)
    g.run_to_halt()
    assert g["rax"] & 0xFF == 6


def test_a_linked_loop_body(guest: Make) -> None:
    """The loop's block is linked to itself; the write comes from a block of the loop."""
    code = assemble(
        64,
        """
        b9 e8 03 00 00        mov ecx, 1000
        body:
        83 c0 01              add eax, 1
        81 f9 f4 01 00 00     cmp ecx, 500
        75 07                 jne next
        c6 05 f0 ff ff ff 03  mov byte [rel body + 2], 3
        next:
        ff c9                 dec ecx
        75 ea                 jne body
        f4                    hlt
        """,
    )
    g = guest().enter_long().load(code).set(rax=0)
    g.run_to_halt()
    assert g["rax"] == 501 + 499 * 3


def test_from_another_alias_of_the_page(guest: Make) -> None:
    code = assemble(
        64,
        """
        body:
        b8 01 00 00 00  mov eax, 1
        39 c3           cmp ebx, eax
        74 09           je done
        89 c3           mov ebx, eax
        41 c6 40 01 02  mov byte [r8 + 1], 2
        eb ee           jmp body
        done:
        f4              hlt
        """,
    )
    g = guest().enter_long().load(code).set(rbx=0, r8=0x7000_0000, rcx=0)
    g.map(0x7000_0000, CODE)
    g.run(20)
    assert (g["rax"], g["rbx"]) == (2, 2)


def test_an_alias_that_was_writable_before_the_code_was_decoded(guest: Make) -> None:
    """The fast table's entry lets writes through until code is decoded from the page."""
    code = assemble(
        64,
        """
        41 c6 80 00 08 00 00 00  mov byte [r8 + 0x800], 0
        eb 78                    jmp far_away
        90*120                   times 120 nop
        far_away:
        bf 01 81 00 00           mov edi, far_away_2
        ff e7                    jmp rdi
        90*120                   times 120 nop
        far_away_2:
        b8 01 00 00 00           mov eax, 1
        43 c6 44 08 01 02        mov byte [r8 + r9 + 1], 2
        ff cb                    dec ebx
        75 f1                    jne far_away_2
        f4                       hlt
        """,
    )
    g = guest().enter_long().load(code)
    g.map(0x7000_0000, CODE)
    g.set(rbx=2, r8=0x7000_0000, r9=code["far_away_2"] - CODE)
    g.run_to_halt()
    assert g["rax"] == 2


@pytest.mark.parametrize("before", range(1, 7))
def test_a_store_across_two_pages_into_code(guest: Make, before: int) -> None:
    """A misaligned store of 8 bytes whose second part reaches the first bytes of a page of code."""
    code = assemble(
        64,
        """
        sub:
        b0 01           mov al, 1
        c3              ret
        main:
        e8 f8 ff ff ff  call sub
        88 c3           mov bl, al
        49 89 10        mov [r8], rdx
        e8 ee ff ff ff  call sub
        f4              hlt
        """,
        org=0x9000,
    )
    g = guest().enter_long().load(code)
    g.go(code["main"])
    g.memory.write(0x8FF0, bytes(16))
    image = (bytes(before) + b"\xb0\x06\xc3" + code.data[3:])[:8]
    g.set(r8=0x9000 - before, rdx=int.from_bytes(image, "little"))
    g.run_to_halt()
    assert (g["rbx"] & 0xFF, g["rax"] & 0xFF) == (1, 6)
    assert g.memory.read(0x9000 - before, 8) == image


def test_host_side_writes(guest: Make) -> None:
    """PhysicalMemory.write, as loaders and DMA use it, between two runs and from a device's register."""
    code = assemble(
        64,
        """
        again:
        b8 01 00 00 00  mov eax, 1
        f4              hlt
        """,
    )
    g = guest().enter_long().load(code)
    g.run_to_halt()
    assert g["rax"] == 1
    g.memory.write(CODE + 1, b"\x2a")
    g.go(CODE)
    g.run_to_halt()
    assert g["rax"] == 0x2A


@pytest.mark.parametrize("by_port", [False, True])
def test_a_device_that_writes_into_the_running_block(guest: Make, by_port: bool) -> None:
    """The instruction behind the access is the new one."""
    if by_port:
        code = assemble(
            64,
            """
        ba 00 05 00 00  mov edx, 0x500
        ee              out dx, al
        patched:
        bb 01 00 00 00  mov ebx, 1
        f4              hlt
        """,
        )
    else:
        code = assemble(
            64,
            """
        41 88 00        mov [r8], al
        patched:
        bb 01 00 00 00  mov ebx, 1
        f4              hlt
        """,
        )
    g = guest().enter_long().load(code)
    g.map(0xA_0000, DEVICE)
    g.set(r8=0xA_0000)
    g.device.on_write = lambda offset, width, value: g.memory.write(code["patched"] + 1, b"\x09")
    g.run_to_halt()
    assert g["rbx"] == 9


def test_code_and_data_on_one_page(guest: Make) -> None:
    """Stores to the page's other bytes leave the code decoded."""
    code = assemble(
        64,
        """
        b9 d0 07 00 00           mov ecx, 2000
        body:
        48 ff 05 85 00 00 00     inc qword [rel data]
        ff c9                    dec ecx
        75 f5                    jne body
        f4                       hlt
        90*128                   times 128 nop
        data:
        00 00 00 00 00 00 00 00  dq 0
        """,
    )
    g = guest().enter_long().load(code)
    g.run_to_halt()
    assert g.memory.read_u64(code["data"]) == 2000
    assert g.processor.blocks.dropped == 0
    assert g.processor.blocks.translated <= 4


def test_data_in_the_granule_of_code(guest: Make) -> None:
    """Stores near the code drop it each time, and the count is right all the same."""
    code = assemble(
        64,
        """
        b9 32 00 00 00           mov ecx, 50
        body:
        48 ff 05 05 00 00 00     inc qword [rel data]
        ff c9                    dec ecx
        75 f5                    jne body
        f4                       hlt
        data:
        00 00 00 00 00 00 00 00  dq 0
        """,
    )
    g = guest().enter_long().load(code)
    g.run_to_halt()
    assert g.memory.read_u64(code["data"]) == 50
    assert g.processor.instructions == 2 + 3 * 50


@pytest.mark.parametrize("size", ["movsb", "movsq"])
def test_rep_movs_over_code(guest: Make, size: str) -> None:
    """A copy overwrites a routine that has run, in the middle of a run of elements."""
    copy = {
        "movsb": assemble(
            64,
            """
        ff d3     call rbx
        41 89 c2  mov r10d, eax
        f3 a4     rep movsb
        ff d3     call rbx
        f4        hlt
        """,
        ),
        "movsq": assemble(
            64,
            """
        ff d3     call rbx
        41 89 c2  mov r10d, eax
        f3 48 a5  rep movsq
        ff d3     call rbx
        f4        hlt
        """,
        ),
    }[size]
    old = assemble(
        64,
        """
        b8 01 00 00 00  mov eax, 1
        c3              ret
        """,
    )
    new = assemble(
        64,
        """
        b8 02 00 00 00  mov eax, 2
        c3              ret
        """,
    )
    g = guest().enter_long().load(copy)
    image = bytes(0x200) + new.data.ljust(0x200, b"\x90")
    g.memory.write(DATA, image)
    g.memory.write(0x1_2200, old.data)
    g.set(rsi=DATA, rdi=0x1_2000, rcx=0x400 if size == "movsb" else 0x80, rbx=0x1_2200)
    g.run_to_halt()
    assert (g["r10"], g["rax"]) == (1, 2)
    assert g.memory.read(0x1_2000, 0x400) == image


@pytest.mark.parametrize("instruction", ["fxsave", "fnsave", "movups", "push"])
def test_wide_stores_over_code(guest: Make, instruction: str) -> None:
    """Every granule under a wide store counts, not only the first and last."""
    store = {
        "fxsave": assemble(
            64,
            """
        ff d3        call rbx
        41 0f ae 00  fxsave [r8]
        ff d3        call rbx
        f4           hlt
        """,
        ),
        "fnsave": assemble(
            64,
            """
        ff d3     call rbx
        41 dd 30  fnsave [r8]
        ff d3     call rbx
        f4        hlt
        """,
        ),
        "movups": assemble(
            64,
            """
        ff d3     call rbx
        0f 11 03  movups [rbx], xmm0
        ff d3     call rbx
        f4        hlt
        """,
        ),
        "push": assemble(
            64,
            """
        ff d3        call rbx
        48 89 e5     mov rbp, rsp
        48 8d 63 08  lea rsp, [rbx + 8]
        6a 00        push 0
        48 89 ec     mov rsp, rbp
        ff d3        call rbx
        f4           hlt
        """,
        ),
    }[instruction]
    routine = assemble(
        64,
        """
        ff c0  inc eax
        c3     ret
        """,
    )
    g = guest().enter_long().load(store)
    at = 0x1_2000 + {"fxsave": 0x80, "fnsave": 0x44}.get(instruction, 0x80)
    g.memory.write(at, routine.data)
    g.set(rax=0, rbx=at, r8=0x1_2000 if instruction == "fxsave" else 0x1_203E)
    g.memory.write(STOP := 0x1_3000, b"\xf4")
    # What the store leaves at the routine: mostly zeros, `add [rax], al`, until something halts.
    g.set(rdi=STOP)
    g.run(200)
    assert g["rax"] & 0xFFFF_FFFF == 1, "the old routine ran again"


def test_both_halves_of_a_crossing_instruction_on_one_page(guest: Make) -> None:
    """Two linear pages, one physical page: the instruction's tail is at the beginning of the page of its head."""
    g = guest().enter_long()
    g.map(0x20_0000, 0x1_3000)
    g.map(0x20_1000, 0x1_3000)
    # mov eax, imm32 with its immediate's last two bytes at the page's beginning
    tail = assemble(
        64,
        """
        00 00  dw 0
        c3     ret
        """,
    )
    g.memory.write(0x1_3000, tail.data)
    g.memory.write(0x1_3FFD, b"\xb8\x05\x00")
    main = assemble(
        64,
        """
        ff d3        call rbx
        41 89 c2     mov r10d, eax
        41 c6 00 01  mov byte [r8], 1
        ff d3        call rbx
        f4           hlt
        """,
    )
    g.load(main).set(rbx=0x20_0FFD, r8=0x1_3000)
    g.run_to_halt()
    assert (g["r10"], g["rax"]) == (5, 0x1_0005)


def test_page_tables_that_are_code(guest: Make) -> None:
    """The walker's write of an accessed bit is a write too: it turns ADC into XOR."""
    g = guest().enter_long()
    entry = assemble(
        64,
        """
        15 60 01 00 00  adc eax, 0x160
        c3              ret
        """,
        org=0x1_5038,
    )
    assert entry.data[0] & P
    g.memory.write_u64(g._place(0x4000_0000, g.root, (39, 30)), 0x1_5000 | P | W | U)
    main = assemble(
        64,
        """
        f8        clc
        ff d3     call rbx
        41 89 c2  mov r10d, eax
        41 8a 08  mov cl, [r8]
        ff d3     call rbx
        f4        hlt
        """,
    )
    g.load(entry)
    g.load(main).set(rax=0, rbx=entry.origin, r8=0x4000_7000)
    g.run_to_halt()
    assert (g["r10"], g["rax"]) == (0x160, 0)


def test_the_arena_is_started_over_when_it_is_full(handlers: HandlerStore) -> None:
    """More code than the arena holds: everything goes, and the guest notices nothing."""
    g = Guest(handlers, code_size=1 << 16).enter_long()
    # 2000 blocks of `add eax, 1; jmp next`, run twice.
    count = 2000
    body = b"\x83\xc0\x01\xeb\x00" * count
    g.memory.write(0x20_0000, body + assemble(64, "c3  ret").data)
    g.map_large(0x20_0000, 0x20_0000, 21)
    main = assemble(
        64,
        """
        ff d3  call rbx
        ff d3  call rbx
        f4     hlt
        """,
    )
    g.load(main).set(rax=0, rbx=0x20_0000)
    g.run_to_halt()
    assert g["rax"] == 2 * count
    assert g.processor.blocks.generation > 1
    assert g.processor.instructions == 3 + 2 * (2 * count + 1)
