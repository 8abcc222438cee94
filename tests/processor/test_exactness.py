"""Faults, interrupts and counts are exact, wherever in a block they happen."""

from __future__ import annotations

import pytest

from trapgate.arch import layout
from trapgate.arch.registers import IF

from .harness import CODE, DATA, HLT, STACK, TABLES, Bench

HANDLER = 0x30000
ABSENT = 0x40_0000


def _with_absent_page(fault_code: str = "f4") -> Bench:
    """The page at ABSENT + 1000h is not present; vector 14 goes to `fault_code` at HANDLER."""
    bench = Bench.long64()
    bench.map_small(ABSENT, 0x4000, {1: 0})
    bench.gate(14, HANDLER)
    bench.memory.write(HANDLER, bytes.fromhex(fault_code))
    return bench


def _frame(bench: Bench) -> tuple[int, ...]:
    """(error code, rip, cs, rflags, rsp, ss) that a fault pushed."""
    sp = bench.registers()["rsp"]
    return tuple(bench.memory.read_u64(sp + 8 * i) for i in range(6))


@pytest.mark.parametrize(
    ("code", "registers", "error", "address"),
    [
        ("488707", {"rdi": ABSENT + 0x1000, "rax": 5}, 2, ABSENT + 0x1000),  # xchg [rdi], rax
        ("480fb11f", {"rdi": ABSENT + 0x1000, "rax": 5, "rbx": 6}, 2, ABSENT + 0x1000),  # cmpxchg [rdi], rbx
        ("ff17", {"rdi": ABSENT + 0x1000}, 0, ABSENT + 0x1000),  # call [rdi]
        ("8f07", {"rdi": ABSENT + 0x1000}, 2, ABSENT + 0x1000),  # pop qword [rdi]
        ("488b07", {"rdi": ABSENT + 0xFFC, "rax": 5}, 0, ABSENT + 0x1000),  # mov rax, [rdi], into the second page
        ("488907", {"rdi": ABSENT + 0xFFC, "rax": 5}, 2, ABSENT + 0x1000),  # mov [rdi], rax
        ("480107", {"rdi": ABSENT + 0xFFC, "rax": 5}, 2, ABSENT + 0x1000),  # add [rdi], rax
    ],
)
def test_a_page_fault_leaves_everything_as_it_was(
    code: str, registers: dict[str, int], error: int, address: int
) -> None:
    bench = _with_absent_page()
    bench.memory.write_u64(ABSENT + 0xFF8, 0x1111_2222_3333_4444)
    bench.set(**registers)
    before = bench.registers()
    bench.run("90" + code + "f4")
    got = _frame(bench)
    assert got[:2] == (error, CODE + 1)
    assert bench.processor.cr2 == address
    after = bench.registers()
    assert got[4] == before["rsp"]
    assert {k: v for k, v in after.items() if k != "rsp"} == {k: v for k, v in before.items() if k != "rsp"}
    assert bench.memory.read_u64(ABSENT + 0xFF8) == 0x1111_2222_3333_4444


def test_flags_at_a_fault_are_those_of_the_instruction_before() -> None:
    # add eax, ebx (sets CF and ZF) / mov rcx, [rdi] (faults) / add eax, ebx
    bench = _with_absent_page()
    bench.set(rdi=ABSENT + 0x1000, rax=0xFFFF_FFFF, rbx=1)
    bench.run("01d8 488b0f 01d8 f4")
    assert _frame(bench)[3] & 0x8D5 == 0x55  # CF, PF, AF, ZF


def test_a_fault_counts_the_instructions_before_it() -> None:
    bench = _with_absent_page()
    bench.set(rdi=ABSENT + 0x1000)
    bench.run("90 90 90 488b0f f4")
    assert bench.processor.instructions == 3 + 1  # three NOPs, and HLT in the handler


def test_rep_movs_faults_in_the_middle_and_goes_on() -> None:
    # The handler maps the page (entry at 4008h) and returns: mov qword [4008h], 401003h / add rsp, 8 / iretq
    bench = _with_absent_page("48c70425084000000310400048 83c408 48cf")
    source = bytes(range(1, 101))
    bench.memory.write(DATA, source)
    bench.set(rsi=DATA, rdi=ABSENT + 0x1000 - 40, rcx=100)
    assert bench.run("fc f3a4 f4").reason == "halted"
    assert bench.memory.read(ABSENT + 0x1000 - 40, 100) == source
    registers = bench.registers()
    assert (registers["rcx"], registers["rsi"], registers["rdi"]) == (0, DATA + 100, ABSENT + 0x1000 + 60)
    assert bench.processor.exception_counts == {14: 1}


def test_rep_movs_shows_exact_registers_at_the_fault() -> None:
    bench = _with_absent_page()
    bench.set(rsi=DATA, rdi=ABSENT + 0x1000 - 40, rcx=100)
    bench.run("fc f3a4 f4")
    registers = bench.registers()
    assert (registers["rcx"], registers["rsi"], registers["rdi"]) == (60, DATA + 40, ABSENT + 0x1000)


def test_overlapping_rep_movs_repeats_a_pattern() -> None:
    bench = Bench.long64()
    bench.memory.write(DATA, b"ab" + bytes(18))
    bench.set(rsi=DATA, rdi=DATA + 2, rcx=18)
    bench.run("fc f3a4 f4")
    assert bench.memory.read(DATA, 20) == b"ab" * 10


def test_rep_stos_downwards() -> None:
    bench = Bench.long64()
    bench.set(rdi=DATA + 24, rcx=4, rax=0x77)
    bench.run("fd f348ab f4")
    assert [bench.memory.read_u64(DATA + 8 * i) for i in range(4)] == [0x77] * 4
    assert bench.registers()["rdi"] == DATA - 8


@pytest.mark.parametrize("at", [100, 1000, 2999])
def test_an_interrupt_comes_at_its_cycle(at: int) -> None:
    # mov ecx, 100000 / dec ecx / jnz: 2 instructions and cycles a turn; the block is left at most one turn late.
    bench = Bench.long64()
    bench.gate(0x20, HANDLER)
    bench.memory.write(HANDLER, HLT)
    bench.processor.rflags |= IF
    bench.processor.native_flush(bench.processor.state.address, 0)
    bench.clock.schedule(at, lambda: bench.processor.set_intr(True))
    bench.run("b9a0860100 ffc9 75fc f4")
    # The walk of the code page comes on top, and what the delivery takes.
    assert at <= bench.clock.now <= at + 4 * bench.processor.costs.memory + 200
    assert bench.processor.interrupt_counts == {0x20: 1}


def test_the_shadow_of_sti_lasts_one_instruction() -> None:
    # sti / inc eax / inc ebx / cli / hlt with INTR high: the handler sees eax incremented and ebx not.
    bench = Bench.long64()
    bench.gate(0x20, HANDLER)
    bench.memory.write(HANDLER, bytes.fromhex("89d9 89c2 48cf"))  # mov ecx, ebx / mov edx, eax / iretq
    bench.set(rax=0, rbx=0)
    bench.processor.set_intr(True)
    bench.run("fb ffc0 ffc3 fa f4")
    registers = bench.registers()
    assert (registers["rdx"], registers["rcx"]) == (1, 0)


def test_single_step() -> None:
    # TF set by POPF; the #DB handler counts in r15: inc r15 / iretq.
    bench = Bench.long64()
    bench.gate(1, HANDLER)
    bench.memory.write(HANDLER, bytes.fromhex("49ffc7 48cf"))
    bench.set(r15=0, rax=0)
    bench.run("9c 48810c2400010000 9d ffc0 ffc0 ffc0 9c 48812424fffeffff 9d f4")
    registers = bench.registers()
    # After each inc, PUSHF, AND and the POPF that clears TF (APM vol. 2, 13.1.4: TF before the instruction counts).
    assert (registers["rax"] & 0xFFFF_FFFF, registers["r15"]) == (3, 6)
    assert registers["rsp"] == STACK


def test_a_limit_stops_at_a_block_boundary() -> None:
    bench = Bench.long64()
    stopped = bench.run("b9e8030000 ffc9 75fc f4", limit=500)
    assert stopped.reason == "limit"
    assert 500 <= bench.processor.instructions <= 502


def test_remapped_code_is_fetched_again_after_invlpg() -> None:
    # call rsi / mov ebx, eax / mov [rdi], r8 / invlpg [rsi] / call rsi / hlt
    bench = Bench.long64()
    bench.map_small(ABSENT, 0x4000, {5: DATA | 3})
    bench.memory.write(DATA, bytes.fromhex("b801000000c3"))
    bench.memory.write(DATA + 0x1000, bytes.fromhex("b802000000c3"))
    bench.set(rsi=ABSENT + 0x5000, rdi=0x4000 + 8 * 5, r8=DATA + 0x1000 | 3)
    bench.run("ffd6 89c3 4c8907 0f013e ffd6 f4")
    registers = bench.registers()
    assert (registers["rbx"], registers["rax"]) == (1, 2)


def test_other_code_at_the_same_address_after_a_cr3_write() -> None:
    # call rsi / mov ebx, eax / mov cr3, r8 / call rsi / hlt: two address spaces share all but one page.
    bench = Bench.long64()
    bench.map_small(ABSENT, 0x4000, {5: DATA | 3})
    bench.memory.write(DATA, bytes.fromhex("b801000000c3"))
    bench.memory.write(DATA + 0x1000, bytes.fromhex("b802000000c3"))
    memory = bench.memory
    for page in range(4):
        memory.write(0x50000 + page * 0x1000, memory.read(TABLES + page * 0x1000, 0x1000))
    memory.write_u64(0x50000, 0x51000 | 7)
    memory.write_u64(0x51000, 0x52000 | 7)
    memory.write_u64(0x52000 + 8 * (ABSENT >> 21), 0x53000 | 7)
    memory.write_u64(0x53000 + 8 * 5, DATA + 0x1000 | 3)
    bench.set(rsi=ABSENT + 0x5000, r8=0x50000)
    bench.run("ffd6 89c3 410f22d8 ffd6 f4")
    registers = bench.registers()
    assert (registers["rbx"], registers["rax"]) == (1, 2)


def test_an_instruction_across_two_pages_follows_the_second_page() -> None:
    # mov eax, imm32 begins 2 bytes before the end of a page; its second page is remapped between two runs.
    bench = Bench.long64()
    entries = {5: DATA | 3, 6: DATA + 0x1000 | 3}
    bench.map_small(ABSENT, 0x4000, entries)
    first = bytes.fromhex("b811111111c3")
    bench.memory.write(DATA + 0xFFE, first[:2])
    bench.memory.write(DATA + 0x1000, first[2:])
    bench.memory.write(DATA + 0x2000, bytes.fromhex("222222c3"))
    bench.set(rsi=ABSENT + 0x5FFE, rdi=0x4000 + 8 * 6, r8=DATA + 0x2000 | 3, r9=ABSENT + 0x6000)
    # call rsi / mov ebx, eax / mov [rdi], r8 / invlpg [r9] / call rsi / hlt
    bench.run("ffd6 89c3 4c8907 410f0139 ffd6 f4")
    registers = bench.registers()
    assert (registers["rbx"], registers["rax"]) == (0x1111_1111, 0x2222_2211)


def test_a_double_fault_and_a_triple_fault() -> None:
    bench = Bench.long64()  # every gate is empty: #UD -> #NP, #NP -> ... -> shutdown
    assert bench.run("0f0b").reason == "triple-fault"
    bench = Bench.long64()
    bench.gate(8, HANDLER)
    bench.memory.write(HANDLER, HLT)
    bench.set(rsp=STACK)
    bench.processor.cr2 = 0
    assert bench.run("0f0b").reason == "halted"  # #UD's gate is not present: #NP, whose gate is not present: #DF
    assert bench.memory.read_u64(bench.registers()["rsp"]) == 0  # its error code


def test_the_counter_of_page_crossings() -> None:
    bench = Bench.long64()
    bench.set(rdi=DATA + 0xFFC)
    bench.run("48b88877665544332211 488907 488b1f 48011f 488b0f f4")
    assert bench.registers()["rcx"] == 2 * 0x1122_3344_5566_7788 % (1 << 64)
    assert bench.processor.state.q[layout.counter("page_crossings") >> 3] == 4
