"""Instructions and data across two pages: absent second pages, devices, wrap-around, pages that are mapped anew."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from engine.assembly import assemble
from engine.harness import CODE, CODE32, DATA, DEVICE, Guest, P, U, W

Make = Callable[[], Guest]

FIRST, SECOND = 0x20_0000, 0x20_1000
#: mov rax, imm64: 10 bytes.
LONG = assemble(
    64,
    """
        48 b8 88 77 66 55 44 33 22 11  mov rax, 0x1122334455667788
        f4                             hlt
        """,
)


def _place(g: Guest, before: int, first: int = 0x10_0000, second: int = 0x10_2000) -> None:
    """LONG with `before` of its bytes on the first page."""
    g.memory.write(first + 0x1000 - before, LONG.data[:before])
    g.memory.write(second, LONG.data[before:])


@pytest.mark.parametrize("before", range(1, 10))
def test_an_instruction_across_two_pages(guest: Make, before: int) -> None:
    g = guest().enter_long()
    g.map(FIRST, 0x10_0000)
    g.map(SECOND, 0x10_2000)
    _place(g, before)
    g.go(SECOND - before)
    g.run_to_halt()
    assert g["rax"] == 0x1122334455667788
    assert g["rip"] == SECOND + 11 - before
    assert g.counter("itlb_misses") == 2


@pytest.mark.parametrize("before", [1, 5, 9])
def test_an_absent_second_page_of_code(guest: Make, before: int) -> None:
    """The fault is the instruction's, its address the second page's; once mapped, the instruction runs."""
    g = guest().enter_long()
    g.map(FIRST, 0x10_0000)
    g.map(SECOND, 0, 0)
    _place(g, before)
    g.set(rax=7)
    g.go(SECOND - before)
    frame = g.run_to_exception()
    assert (frame.vector, frame.error, frame.rip) == (14, 0x10, SECOND - before)
    assert (g.processor.cr2, g["rax"]) == (SECOND, 7)
    g.map(SECOND, 0x10_2000)
    g.go(SECOND - before)
    g.run_to_halt()
    assert g["rax"] == 0x1122334455667788


def test_a_block_in_front_of_an_absent_page_runs_up_to_it(guest: Make) -> None:
    code = assemble(
        64,
        """
        ff c1  inc ecx
        ff c1  inc ecx
        ff c1  inc ecx
        """,
    )
    g = guest().enter_long().set(rcx=0)
    g.map(FIRST, 0x10_0000)
    g.memory.write(0x10_0FFA, code.data)
    g.go(FIRST + 0xFFA)
    frame = g.run_to_exception()
    assert (frame.vector, frame.error, frame.rip, g.processor.cr2) == (14, 0x10, SECOND, SECOND)
    assert g["rcx"] == 3
    assert g.processor.instructions == 3 + 1


@pytest.mark.parametrize("before", [0, 1, 5])
def test_a_second_page_of_code_that_is_a_device(guest: Make, before: int) -> None:
    """Code outside RAM is not implemented: said loudly, never a hang."""
    g = guest().enter_long()
    g.map(FIRST, 0x10_0000)
    g.map(SECOND, DEVICE)
    g.memory.write(0x10_1000 - 16, b"\x90" * (16 - before) + LONG.data[:before])
    g.go(SECOND - 8)
    stopped = g.run(1000)
    assert stopped.reason == "unimplemented"
    assert "outside RAM" in stopped.report


def test_code_at_the_end_of_ram(guest: Make) -> None:
    """Without paging, behind the last page there is nothing."""
    g = guest().enter_protected()
    end = g.memory.size
    g.memory.write(end - 3, b"\x90\x90\xb8")
    g.go(end - 3)
    assert g.run(1000).reason == "unimplemented"


@pytest.mark.parametrize("how", ["invlpg", "cr3"])
@pytest.mark.parametrize("which", ["first", "second"])
def test_a_crossing_instruction_whose_page_is_mapped_anew(guest: Make, how: str, which: str) -> None:
    """The immediate's parts come from the pages that are mapped when the instruction runs."""
    code = assemble(
        64,
        """
        41 ff d7     call r15
        49 89 c2     mov r10, rax
        4d 89 08     mov [r8], r9
        4d 85 f6     test r14, r14
        74 06        je switch
        41 0f 01 3e  invlpg [r14]
        eb 06        jmp again
        switch:
        0f 20 d9     mov rcx, cr3
        0f 22 d9     mov cr3, rcx
        again:
        41 ff d7     call r15
        f4           hlt
        """,
    )
    g = guest().enter_long().load(code)
    g.map(FIRST, 0x10_0000)
    g.map(SECOND, 0x10_2000)
    tail = assemble(
        64,
        """
        48 b8 88 77 66 55 44 33 22 11  mov rax, 0x1122334455667788
        c3                             ret
        """,
    )
    for first, second, xor in ((0x10_0000, 0x10_2000, 0), (0x10_4000, 0x10_6000, 0x10)):
        body = bytes(b ^ xor if 2 <= i < 10 else b for i, b in enumerate(tail.data))
        g.memory.write(first + 0x1000 - 6, body[:6])
        g.memory.write(second, body[6:])
    linear, physical = (FIRST, 0x10_4000) if which == "first" else (SECOND, 0x10_6000)
    g.map(0x6000_0000, g.entry(linear) & ~0xFFF)
    g.set(
        r15=SECOND - 6, r8=0x6000_0000 + (g.entry(linear) & 0xFFF), r9=physical | P | W | U,
        r14=linear if how == "invlpg" else 0,
    )  # fmt: skip
    g.run_to_halt()
    assert g["r10"] == 0x1122334455667788
    # The low four bytes of the immediate are on the first page.
    assert g["rax"] == (0x1122334445766798 if which == "first" else 0x0132235455667788)


# -- data


@pytest.mark.parametrize("size", [2, 4, 8])
def test_data_across_two_pages(guest: Make, size: int) -> None:
    """Every split; the two pages are not neighbours in memory."""
    code = assemble(
        64,
        """
        two:
        66 41 8b 00  mov ax, [r8]
        66 41 01 08  add [r8], cx
        f4           hlt
        four:
        41 8b 00     mov eax, [r8]
        41 01 08     add [r8], ecx
        f4           hlt
        eight:
        49 8b 00     mov rax, [r8]
        49 01 08     add [r8], rcx
        f4           hlt
        """,
    )
    for before in range(1, size):
        g = guest().enter_long().load(code)
        g.go(code[{2: "two", 4: "four", 8: "eight"}[size]])
        g.map(FIRST, 0x10_0000)
        g.map(SECOND, 0x10_2000)
        value = int.from_bytes(bytes(range(0x81, 0x81 + size)), "little")
        data = value.to_bytes(size, "little")
        g.memory.write(0x10_1000 - before, data[:before])
        g.memory.write(0x10_2000, data[before:])
        g.set(rax=0, r8=SECOND - before, rcx=0x0101_0101_0101_01FF)
        g.run_to_halt()
        assert g["rax"] == value
        result = g.memory.read(0x10_1000 - before, before) + g.memory.read(0x10_2000, size - before)
        assert int.from_bytes(result, "little") == value + 0x0101_0101_0101_01FF & (1 << 8 * size) - 1
        assert g.memory.read(0x10_1000, 1) == b"\0"


def test_data_with_its_second_part_on_a_device(guest: Make) -> None:
    """RAM gets its bytes, the device the rest, in pieces of sizes that it has."""
    code = assemble(
        64,
        """
        49 8b 00  mov rax, [r8]
        49 89 08  mov [r8], rcx
        f4        hlt
        """,
    )
    g = guest().enter_long().load(code)
    g.map(FIRST, 0x10_0000)
    g.map(SECOND, DEVICE)
    g.memory.write(0x10_0FFA, bytes.fromhex("a1a2a3a4a5a6"))
    g.set(r8=FIRST + 0xFFA, rcx=0x8877665544332211)
    g.run_to_halt()
    assert g["rax"] == 0x0100A6A5A4A3A2A1
    assert g.memory.read(0x10_0FFA, 6) == bytes.fromhex("112233445566")
    assert sum(width for _, width, _ in g.device.writes) == 2
    assert g.device.writes == [(0, 2, 0x8877)]


def test_data_with_its_first_part_on_a_device_and_an_absent_second_page(guest: Make) -> None:
    """The fault comes before the device sees anything."""
    code = assemble(
        64,
        """
        49 89 08  mov [r8], rcx
        f4        hlt
        """,
    )
    g = guest().enter_long().load(code)
    g.map(FIRST, DEVICE)
    g.map(SECOND, 0, 0)
    g.set(r8=FIRST + 0xFFC)
    frame = g.run_to_exception()
    assert (frame.vector, frame.error, g.processor.cr2) == (14, 2, SECOND)
    assert g.device.writes == []
    assert g.device.reads == []


def test_data_wraps_around_at_4_gb(guest: Make) -> None:
    code = assemble(
        32,
        """
        8b 03     mov eax, [ebx]
        89 4b 01  mov [ebx + 1], ecx
        f4        hlt
        """,
    )
    g = guest().enter_protected("two-level").load(code)
    g.map(0xFFFF_F000, 0x10_0000)
    g.map(0, 0x10_2000)
    g.memory.write(0x10_0FFE, b"\x01\x02")
    g.memory.write(0x10_2000, b"\x03\x04\x05")
    g.set(rbx=0xFFFF_FFFE, rcx=0xA4A3A2A1)
    g.run_to_halt()
    assert g["rax"] == 0x04030201
    assert g.memory.read(0x10_0FFE, 2) == b"\x01\xa1"
    assert g.memory.read(0x10_2000, 4) == b"\xa2\xa3\xa4\x00"


def test_code_wraps_around_at_4_gb(guest: Make) -> None:
    """EIP FFFFFFFFh is followed by 0.

    (What an instruction does that lies across is the processor's choice: Intel SDM vol. 3, 5.3.)
    """
    g = guest().enter_protected("two-level")
    g.map(0xFFFF_F000, 0x10_0000)
    g.map(0, 0x10_2000)
    code = assemble(
        32,
        """
        90              nop
        b8 78 56 34 12  mov eax, 0x12345678
        f4              hlt
        """,
    )
    g.memory.write(0x10_0FFF, code.data[:1])
    g.memory.write(0x10_2000, code.data[1:])
    g.go(0xFFFF_FFFF)
    g.run_to_halt()
    assert (g["rax"], g["rip"]) == (0x12345678, 6)


def test_a_jump_across_4_gb(guest: Make) -> None:
    """Relative branches count modulo 2 ** 32 in 32-bit code."""
    g = guest().enter_protected("two-level")
    g.map(0xFFFF_F000, 0x10_0000)
    g.map(0, 0x10_2000)
    back = assemble(32, "\n        eb ee  jmp short $ - 16\n        ")
    g.memory.write(0x10_2002, back.data)
    g.memory.write(0x10_0FF2, b"\xf4")
    g.go(2)
    g.run_to_halt()
    assert g["rip"] == 0xFFFF_FFF3


def test_real_mode_stops_at_the_segments_end(guest: Make) -> None:
    """IP does not wrap: falling off FFFFh is #GP."""
    g = guest().enter_real(0x1000)
    g.memory.write(0x1_FFFE, b"\x90\x90")
    g.processor.segments[2].load(0, 0, 0xFFFF, 0x93)
    g.set(rsp=0x7000)
    g.processor.segments[1].load(0x1000, 0x1_0000, 0xFFFF, 0x9B)
    g.go(0xFFFE)
    g.run_to_halt()
    assert g["rip"] == 0x4000 + 16 * 13 + 1
    assert g.processor.instructions == 2 + 1


def test_compatibility_mode_wraps_at_4_gb(guest: Make) -> None:
    """32-bit code in long mode: linear addresses are 32 bits."""
    code = assemble(
        32,
        """
        8b 03     mov eax, [ebx]
        8b 53 10  mov edx, [ebx + 0x10]
        f4        hlt
        """,
    )
    g = guest().enter_long(compatibility=True).load(code)
    g.map(0xFFFF_F000, 0x10_0000)
    g.map(0, 0x10_2000)
    g.memory.write(0x10_0FFE, b"\x01\x02")
    g.memory.write(0x10_2000, b"\x03\x04\x10\x00")
    g.memory.write(0x10_200E, b"\x05\x06\x07\x08")
    g.set(rbx=0xFFFF_FFFE)
    g.run_to_halt()
    assert (g["rax"], g["rdx"]) == (0x04030201, 0x08070605)


def test_a_segment_limit_in_the_middle_of_an_instruction(guest: Make) -> None:
    """#GP(0), with the instruction's address, though its bytes are there."""
    g = guest().enter_protected()
    code = assemble(
        32,
        """
        90              nop
        b8 01 00 00 00  mov eax, 1
        f4              hlt
        """,
    )
    g.load(code).set(rax=0)
    g.processor.segments[1].load(CODE32, 0, CODE + 3, 0x49B)
    g.go(CODE)
    frame = g.run_to_exception()
    assert (frame.vector, frame.error, frame.rip, g["rax"]) == (13, 0, CODE + 1, 0)


def test_a_page_crossing_access_is_counted(guest: Make) -> None:
    code = assemble(
        64,
        """
        49 8b 00  mov rax, [r8]
        f4        hlt
        """,
    )
    g = guest().enter_long().load(code).set(r8=DATA + 0xFFC)
    g.run_to_halt()
    assert g.counter("page_crossings") == 1
    assert g.counter("dtlb_misses") == 2


def test_movsxd_to_16_bits_reads_32(guest: Make) -> None:
    """APM vol. 3, MOVSXD: the source is reg/mem32 whatever the destination's size."""
    g = guest().enter_long()
    g.map(FIRST, 0x10_0000)
    g.map(SECOND, 0, 0)
    g.memory.write(0x10_0FFC, bytes.fromhex("11223344"))
    code = assemble(64, "66 63 03  movsxd ax, [rbx]\n f4  hlt")
    g.memory.write(CODE, code.data)
    g.set(rax=0x5555_5555_5555_5555, rbx=FIRST + 0xFFC)
    g.go(CODE)
    g.run_to_halt()
    assert g["rax"] == 0x5555_5555_5555_2211
    g.set(rbx=FIRST + 0xFFE)
    g.go(CODE)
    frame = g.run_to_exception()
    assert (frame.vector, frame.error, frame.rip, g.processor.cr2) == (14, 0, CODE, SECOND)
