"""Code that changes code: what runs next is what memory holds then (APM vol. 2, 7.6.1)."""

from __future__ import annotations

from .harness import CODE, DATA, Bench


def test_a_store_into_the_next_instruction() -> None:
    # mov byte [rip+0+1], 2ah / mov al, 1 / hlt
    bench = Bench.long64()
    bench.set(rax=0)
    assert bench.run("c605010000002a b001 f4").reason == "halted"
    assert bench.registers()["rax"] == 0x2A


def test_a_store_into_a_running_loop() -> None:
    # ecx = 0; do { add eax, 1; if (++ecx == 5) patch the 1 to 16 } while (ecx < 10): 5 * 1 + 5 * 16
    bench = Bench.long64()
    bench.set(rax=0)
    bench.run("31c9 83c001 ffc1 83f905 7507 c605f1ffffff10 83f90a 72ea f4")
    assert bench.registers()["rax"] == 5 + 5 * 16


def test_a_store_through_another_linear_address() -> None:
    # mov byte [rdi], 2ah / mov al, 1 / hlt, with rdi the same page 2 MB higher
    bench = Bench.long64()
    bench.map_small(0x20_0000, 0x4000, {CODE >> 12: CODE | 3})
    bench.set(rdi=0x20_0000 + CODE + 4, rax=0)
    bench.run("c6072a b001 f4")
    assert bench.registers()["rax"] == 0x2A


def test_a_write_from_the_host_side() -> None:
    bench = Bench.long64()
    bench.run("b001 f4")
    bench.memory.write(CODE, bytes.fromhex("b002"))
    bench.processor.rip = CODE
    bench.processor.halted = False
    bench.processor.mode_changed()
    bench.run()
    assert bench.registers()["rax"] & 0xFF == 2


def test_data_beside_code_on_one_page() -> None:
    # mov ecx, 1000 / inc dword [rdi] / dec ecx / jnz / hlt: the counter lies on the page of the code
    bench = Bench.long64()
    bench.set(rdi=CODE + 0x800)
    bench.run("b9e8030000 ff07 ffc9 75fa f4")
    assert bench.memory.read_u32(CODE + 0x800) == 1000
    assert bench.processor.blocks.dropped == 0


def test_a_write_that_removes_the_code_of_a_linked_block() -> None:
    # call rsi / mov ebx, eax / mov [rdi], r8 / call rsi / hlt; the function at DATA is mov eax, imm32 / ret
    bench = Bench.long64()
    bench.memory.write(DATA, bytes.fromhex("b801000000c3"))
    bench.set(rsi=DATA, rdi=DATA, r8=int.from_bytes(bytes.fromhex("b802000000c3"), "little"))
    bench.run("ffd6 89c3 4c8907 ffd6 f4")
    registers = bench.registers()
    assert (registers["rbx"], registers["rax"]) == (1, 2)
