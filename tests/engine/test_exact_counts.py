"""Counts: where --max-instructions stops, and where events and interrupts come.

Native code looks at its budget at the end of a block and between two turns of a string instruction. So a limit or an
event takes effect there: never early, and at most one block late. In blocks of one instruction it is exact.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from engine.assembly import Code, assemble
from engine.harness import CODE, DEVICE, Guest, P, U, W

Make = Callable[[], Guest]

#: 3 instructions, then 100 turns of a block of 4, then 2.
LOOP = assemble(
    32,
    """
        b9 64 00 00 00  mov ecx, 100
        31 c0           xor eax, eax
        f9              stc
        body:
        83 d0 03        adc eax, 3
        d1 c0           rol eax, 1
        49              dec ecx
        75 f8           jne body
        40              inc eax
        f4              hlt
        """,
)
LOOP_LENGTH = 3 + 4 * 100 + 2
#: A ring of jumps: every block is one instruction of 2 bytes.
RING = Code(b"\xeb\x00" * 62 + b"\xeb\x82", CODE)


def _loop(guest: Make) -> Guest:
    return guest().enter_protected().load(LOOP)


@pytest.mark.parametrize("limit", [*range(1, 24), 100, 399, 402, 403, 404, 405])
def test_a_limit_stops_at_most_a_block_late(guest: Make, limit: int) -> None:
    g = _loop(guest)
    stopped = g.run(limit)
    done = g.processor.instructions
    if stopped.reason == "halted":
        assert done == LOOP_LENGTH
    else:
        assert stopped.reason == "limit"
        assert limit <= done <= limit + 7  # the first turn is in one block with the 3 instructions before it


def test_a_limit_stops_exactly_where_blocks_are_one_instruction(guest: Make) -> None:
    for limit in (1, 2, 5, 62, 63, 64, 1000):
        g = guest().enter_protected().load(RING)
        g.run(limit)
        assert limit <= g.processor.instructions <= limit + 1
        assert g["rip"] == CODE + 2 * (g.processor.instructions % 63)


@pytest.mark.parametrize("piece", [1, 2, 3, 7, 50])
def test_a_run_in_pieces_is_the_same_run(guest: Make, piece: int) -> None:
    whole = _loop(guest)
    whole.run_to_halt()
    pieces = _loop(guest)
    for _ in range(LOOP_LENGTH):
        if pieces.run(piece).reason == "halted":
            break
    assert pieces.registers() == whole.registers()
    assert pieces.processor.instructions == whole.processor.instructions == LOOP_LENGTH
    assert pieces.clock.now == whole.clock.now == LOOP_LENGTH


@pytest.mark.parametrize("cycle", [*range(1, 30), 100, 250])
def test_an_event_interrupts_at_the_end_of_its_block(guest: Make, cycle: int) -> None:
    g = _loop(guest).set(rflags=0x202)
    g.clock.schedule(cycle, lambda: g.processor.set_intr(True))
    g.run_to_halt()
    frame = g.frame()
    assert frame.vector == 0x40
    done = g.processor.instructions - 1  # less the stub's HLT
    assert cycle <= done <= cycle + 7
    # Block ends: after 7, 11, 15 ... instructions, when `body` is next.
    assert done % 4 == 3
    assert frame.rip == LOOP["body"]
    assert g["rcx"] == 100 - (done - 3) // 4
    assert g.processor.interrupt_counts == {0x40: 1}


def test_an_interrupt_waits_for_if(guest: Make) -> None:
    code = assemble(
        32,
        """
        b9 32 00 00 00  mov ecx, 50
        busy:
        49              dec ecx
        75 fd           jne busy
        fb              sti
        b8 01 00 00 00  mov eax, 1
        b8 02 00 00 00  mov eax, 2
        b8 03 00 00 00  mov eax, 3
        f4              hlt
        """,
    )
    g = guest().enter_protected().load(code).set(rax=0)
    g.clock.schedule(10, lambda: g.processor.set_intr(True))
    g.run_to_halt()
    assert g.frame().vector == 0x40
    # One instruction after STI comes first.
    assert g["rax"] == 1


@pytest.mark.parametrize("late", [False, True])
def test_an_interrupt_that_a_device_raises_in_the_middle_of_a_block(guest: Make, late: bool) -> None:
    """A register's write that raises INTR: taken at the block's end, with the time of the write known to the device."""
    code = assemble(
        32,
        """
        90     nop
        90     nop
        89 03  mov [ebx], eax
        41     inc ecx
        41     inc ecx
        eb 00  jmp next
        next:
        42     inc edx
        f4     hlt
        """,
    )
    g = guest().enter_protected().load(code).set(rbx=DEVICE, rcx=0, rdx=0, rflags=0x202)
    seen = []

    def on_write(offset: int, width: int, value: int) -> None:
        seen.append(g.clock.now)
        if late:
            g.clock.schedule(g.clock.now + 1, lambda: g.processor.set_intr(True))
        else:
            g.processor.set_intr(True)

    g.device.on_write = on_write
    g.run_to_halt()
    frame = g.frame()
    assert (frame.vector, frame.rip) == (0x40, code["next"])
    assert (g["rcx"], g["rdx"]) == (2, 0)
    assert seen == [2]
    assert g.processor.instructions == 6 + 1
    assert g.clock.now == 6 + 1


def test_the_time_stamp_after_a_device_asked_for_a_stop(guest: Make) -> None:
    """RDTSC in the block of the access counts on as if nothing had happened."""
    code = assemble(
        32,
        """
        90     nop
        89 03  mov [ebx], eax
        0f 31  rdtsc
        89 c1  mov ecx, eax
        0f 31  rdtsc
        f4     hlt
        """,
    )
    quiet = guest().enter_protected().load(code).set(rbx=DEVICE)
    quiet.run_to_halt()
    g = guest().enter_protected().load(code).set(rbx=DEVICE)
    g.device.on_write = lambda offset, width, value: g.processor.set_intr(True)
    g.run_to_halt()
    assert (g["rcx"], g["rax"]) == (quiet["rcx"], quiet["rax"])
    assert g["rcx"] < 1000
    assert g.clock.now == quiet.clock.now


def test_the_time_stamp_counts_every_cycle(guest: Make) -> None:
    code = assemble(
        32,
        """
        0f 31           rdtsc
        89 c3           mov ebx, eax
        b9 e8 03 00 00  mov ecx, 1000
        again:
        49              dec ecx
        75 fd           jne again
        0f 31           rdtsc
        29 d8           sub eax, ebx
        f4              hlt
        """,
    )
    g = guest().enter_protected().load(code)
    g.run_to_halt()
    # mov, mov, 1000 turns of two instructions, and the second RDTSC itself (40 cycles).
    assert g["rax"] == 2 + 2000 + 40


def test_counts_of_a_loop_with_a_page_fault_in_each_turn(guest: Make) -> None:
    """Instructions before a fault in a block are counted once."""
    code = assemble(
        64,
        """
        b9 64 00 00 00  mov ecx, 100
        again:
        ff c0           inc eax
        49 8b 10        mov rdx, [r8]
        ff c3           inc ebx
        ff c9           dec ecx
        75 f5           jne again
        f4              hlt
        handler:
        48 83 c4 08     add rsp, 8
        48 83 04 24 03  add qword [rsp], 3
        48 cf           iretq
        """,
    )
    g = guest().enter_long().load(code).set(rax=0, rbx=0, r8=0x30_0000)
    g.map(0x30_0000, 0, P & 0 | W | U)
    g.set_gate64(14, 8, code["handler"], ist=1)
    g.run_to_halt()
    assert (g["rax"], g["rbx"]) == (100, 100)
    # MOV itself never completes.
    assert g.processor.instructions == 1 + 100 * (4 + 3) + 1
    assert g.processor.exception_counts == {14: 100}
