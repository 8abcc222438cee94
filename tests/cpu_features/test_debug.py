"""Debug registers, single steps and their exact timing (APM vol. 2, 13.1)."""

from __future__ import annotations

import pytest

from trapgate.arch.registers import CR4_DE, RF, TF
from trapgate.arch.vectors import DB, GP, PF, UD
from trapgate.engine.handlers import HandlerStore
from trapgate.machine.bus import Bus

from .bench import CODE, DATA, STACK, Bench, Caught

NOP = "90"
B0, B1, BD, BS = 1, 2, 1 << 13, 1 << 14
EXECUTE, WRITE, PORT, READ_WRITE = range(4)
LENGTH = {1: 0, 2: 1, 8: 2, 4: 3}


def watch(bench: Bench, address: int, kind: int, length: int = 1, number: int = 0) -> None:
    """Set breakpoint `number`, locally."""
    p = bench.processor
    p.write_dr(number, address)
    control = 1 << 2 * number | (kind | LENGTH[length] << 2) << 16 + 4 * number
    p.write_dr(7, p.dr[7] | control)


@pytest.fixture(params=[32, 64])
def ready(request: pytest.FixtureRequest, bench: Bench) -> Bench:
    return bench.prepare32() if request.param == 32 else bench.prepare64()


def test_instruction_breakpoint_is_a_fault(ready: Bench) -> None:
    watch(ready, CODE + 4, EXECUTE)
    got = ready.run("ffc0 ffc0 ffc0 ffc0".replace(" ", ""))  # inc eax, four times
    assert got is not None
    assert (got.vector, got.rip, got.dr6 & 0xF00F) == (DB, CODE + 4, B0)
    assert ready.get("rax") == 2


def test_resume_flag_lets_one_instruction_pass(ready: Bench) -> None:
    watch(ready, CODE, EXECUTE)
    watch(ready, CODE + 2, EXECUTE, number=1)
    ready.set(rflags=RF | 2)
    got = ready.run("ffc0ffc0")
    assert got is not None
    # RF is gone after the first instruction.
    assert (got.rip, got.dr6 & 0xF) == (CODE + 2, B1)
    assert not ready.processor.rflags & RF


def test_breakpoint_in_a_loop_stops_each_turn(ready: Bench) -> None:
    """Code that ran before without breakpoints, and links between blocks, do not get around one."""
    ready.set(rcx=3)
    loop = "ffc0 e2fc".replace(" ", "")
    assert ready.run(loop) is None
    assert ready.get("rax") == 3
    ready.set(rcx=3)
    watch(ready, CODE + 2, EXECUTE)
    for turn in range(1, 4):
        got = ready.run(loop) if turn == 1 else ready.go(CODE + 2, CODE + 4)
        assert got is not None
        assert (got.rip, ready.get("rax")) == (CODE + 2, 3 + turn)
        ready.set(rflags=RF | 2)
    assert ready.go(CODE + 2, CODE + 4) is None


def test_disabled_and_data_breakpoints_do_not_stop_instructions(ready: Bench) -> None:
    ready.processor.write_dr(0, CODE)
    assert ready.run(NOP) is None
    watch(ready, CODE, READ_WRITE)
    assert ready.run(NOP) is None


@pytest.mark.parametrize("length", [1, 2, 4, 8])
@pytest.mark.parametrize("kind", [WRITE, READ_WRITE])
def test_data_breakpoints(bench: Bench, length: int, kind: int) -> None:
    """Every access that overlaps the aligned range traps after the instruction; reads only with R/W = 11."""
    for offset in range(-4, length + 1):
        for code, size, writes in (("8a03", 1, False), ("8803", 1, True), ("8b03", 4, False), ("8903", 4, True),
                                   ("0103", 4, True)):  # fmt: skip
            bench.prepare64()
            watch(bench, DATA, kind, length)
            bench.set(rbx=DATA + offset)
            got = bench.run(code + NOP)
            overlaps = offset < length and offset + size > 0
            if overlaps and (writes or kind == READ_WRITE):
                assert got is not None, (offset, code)
                assert (got.vector, got.rip, got.dr6 & 0xF00F) == (DB, CODE + 2, B0)
            else:
                assert got is None, (offset, code)


def test_low_address_bits_do_not_count(bench: Bench) -> None:
    bench.prepare32().set(rbx=DATA)
    watch(bench, DATA + 3, WRITE, 4)
    got = bench.run("8803")
    assert got is not None
    assert got.rip == CODE + 2


def test_stack_and_string_accesses(ready: Bench) -> None:
    size = 8 if ready.processor.bits == 64 else 4
    watch(ready, STACK - size, WRITE, 4)
    got = ready.run("50" + NOP)  # push
    assert got is not None
    assert (got.rip, got.dr6 & 0xF) == (CODE + 1, B0)
    assert ready.get("rsp") == STACK - size
    ready.processor.write_dr(7, 0)
    watch(ready, DATA + 5, WRITE)
    ready.set(rdi=DATA, rcx=10, rax=0x55)
    got = ready.run("f3aa" + NOP)  # rep stosb traps between two turns
    assert got is not None
    assert (got.rip, ready.get("rcx"), ready.get("rdi")) == (CODE, 4, DATA + 6)
    assert ready.memory.read(DATA, 8) == b"\x55" * 6 + b"\0\0"


def test_a_faulting_access_does_not_hit(bench: Bench) -> None:
    """The page fault of the second half goes before the breakpoint in the first."""
    bench.prepare64().set(rbx=0x3F_FFFE)
    watch(bench, 0x3F_FFFE, READ_WRITE)
    got = bench.run("8b03")
    assert got is not None
    assert got.vector == PF
    assert not got.dr6 & 0xF
    assert bench.processor.take_hits() == 0


class _Port:
    name, port_width = "port", 4

    def read_port(self, offset: int, width: int) -> int:
        return 0x12

    def write_port(self, offset: int, width: int, value: int) -> None:
        pass

    def reset(self) -> None:
        pass


def test_port_breakpoints_need_cr4_de(bench: Bench) -> None:
    assert isinstance(bench.bus, Bus)
    bench.bus.map_ports(0x500, 4, _Port())
    for enabled in (False, True):
        bench.prepare32()
        bench.processor.set_cr4(CR4_DE if enabled else 0)
        watch(bench, 0x502, PORT, 2)
        bench.set(rdx=0x500)
        got = bench.run("ec" + NOP)  # in al, dx
        assert got is None
        got = bench.run("ed" + NOP)  # in eax, dx
        assert (got is not None) == enabled
        if got is not None:
            assert (got.vector, got.rip, got.dr6 & 0xF) == (DB, CODE + 1, B0)
            assert bench.get("rax") == 0x12


def test_general_detect(ready: Bench) -> None:
    """GD: any access to a debug register is #DB, a fault; the handler finds GD clear (13.1.1.4)."""
    ready.processor.write_dr(7, 1 << 13)
    got = ready.run("0f21c0")  # mov eax, dr0
    assert got is not None
    assert (got.vector, got.rip, got.dr6 & 0xF00F) == (DB, CODE, BD)
    assert not ready.processor.dr[7] & 1 << 13


def test_debug_register_access(bench: Bench) -> None:
    bench.prepare32()
    assert bench.run("0f21e0") is None  # DR4 is DR6 without CR4.DE
    assert bench.get("rax") == 0xFFFF_0FF0
    bench.processor.set_cr4(CR4_DE)
    got = bench.run("0f21e0")
    assert got is not None
    assert got.vector == UD
    got = bench.prepare32(3).run("0f21c0")
    assert got is not None
    assert (got.vector, got.error) == (GP, 0)
    bench.prepare64().set(rax=1 << 32)
    got = bench.run("0f23f8")  # mov dr7, rax
    assert got is not None
    assert got.vector == GP


def test_single_step(ready: Bench) -> None:
    ready.set(rflags=TF | 2)
    got = ready.run("ffc0ffc0")
    assert got is not None
    assert (got.vector, got.rip, got.dr6 & 0xF00F) == (DB, CODE + 2, BS)
    assert ready.get("rax") == 1


def test_popf_that_sets_and_clears_tf(ready: Bench) -> None:
    """The trap comes after the first instruction that began with TF set (13.1.4)."""
    ready.memory.write_u64(STACK, 2 | TF)
    got = ready.run("9d" + NOP + NOP)
    assert got is not None
    assert got.rip == CODE + 2
    ready.set(rsp=STACK, rflags=2 | TF)
    ready.memory.write_u64(STACK, 2)
    got = ready.run("9d" + NOP + NOP)
    assert got is not None
    assert got.rip == CODE + 1


def test_mov_ss_holds_the_trap_back(bench: Bench) -> None:
    """APM vol. 2, 8.5: after MOV SS and POP SS debug traps wait for the next instruction, data breakpoints too."""
    bench.prepare32()
    bench.memory.write_u64(0x9000 + 0x10, 0x00CF_9300_0000_FFFF)
    bench.processor.gdtr_base, bench.processor.gdtr_limit = 0x9000, 0x1F
    for code, after in (("8ed0", 2), ("17", 1)):
        bench.memory.write_u32(STACK, 0x10)
        bench.set(rax=0x10, rsp=STACK, rflags=2 | TF)
        got = bench.run(code + NOP + NOP)
        assert got is not None
        assert (got.rip, got.dr6 & BS) == (CODE + after + 1, BS)
    bench.set(rsp=STACK, rflags=2)
    watch(bench, STACK, READ_WRITE, 4)
    got = bench.run("17" + NOP + NOP)
    assert got is not None
    assert (got.rip, got.dr6 & 0xF) == (CODE + 2, B0)


def test_software_interrupts_do_not_trap(bench: Bench) -> None:
    """The handler of INT n begins with TF clear, and no trap comes before it (13.1.4)."""
    bench.prepare32().set(rflags=2 | TF)
    p = bench.processor
    bench.memory.write_u64(0x9000 + 8, 0x00CF_9B00_0000_FFFF)
    p.gdtr_base, p.gdtr_limit = 0x9000, 0x1F
    p.idtr_base, p.idtr_limit = 0xA000, 0x7FF
    bench.memory.write_u64(0xA000 + 8 * 0x30, 0x0000_8E00_0008_2000)
    bench.memory.write(0x2000, bytes.fromhex("ffc0cf"))  # inc eax; iret
    got = bench.run("cd30ffc3" + NOP)
    assert got is not None
    # IRET brings TF back; the trap comes after the instruction behind INT n.
    assert (got.rip, bench.get("rax"), bench.get("rbx")) == (CODE + 4, 1, 1)


def test_icebp(ready: Bench) -> None:
    """INT1 is #DB after the instruction, DR6 as it was."""
    before = ready.processor.dr[6]
    got = ready.run("f1" + NOP)
    assert got is not None
    assert (got.vector, got.rip, got.dr6) == (DB, CODE + 1, before)


def test_step_over_rep_traps_each_turn(ready: Bench) -> None:
    ready.set(rflags=2 | TF, rdi=DATA, rcx=3)
    turns = []
    got = ready.run("f3aa" + NOP)
    while got is not None and len(turns) < 5:
        turns.append((got.rip - CODE, ready.get("rcx")))
        got = ready.go(got.rip, CODE + 3) if turns[-1][0] == 0 else None
    assert turns == [(0, 2), (0, 1), (2, 0)]


def test_hlt_traps(ready: Bench) -> None:
    ready.set(rflags=2 | TF)
    got = ready.run("")
    assert got is not None
    assert got.rip == CODE + 1
    assert not ready.processor.halted


def test_stepped_runs_stop_at_the_guests_breakpoints(ready: Bench) -> None:
    """Processor.step, as tracing uses it, finds instruction and data breakpoints like a plain run."""
    ready.set(rbx=DATA)
    watch(ready, CODE + 2, EXECUTE)
    watch(ready, DATA, WRITE, 4, number=1)
    ready.memory.write(CODE, bytes.fromhex("ffc090890390"))
    p = ready.processor
    p.rip = CODE
    p.mode_changed()
    p.step()
    assert p.rip == CODE + 2
    with pytest.raises(Caught) as caught:
        p.step()
    assert (caught.value.what.rip, caught.value.what.dr6 & 0xF) == (CODE + 2, B0)
    ready.set(rflags=2 | RF)
    p.step()
    assert p.rip == CODE + 3
    with pytest.raises(Caught) as caught:
        p.step(2)
    assert (caught.value.what.rip, caught.value.what.dr6 & 0xF) == (CODE + 5, B1)


def test_watching_changes_no_counts(handlers: HandlerStore) -> None:
    """A breakpoint that nothing hits costs no modelled cycle and no TLB miss."""
    counts = []
    for watched in (False, True):
        bench = Bench(handlers=handlers).prepare64()
        if watched:
            watch(bench, 0x20_0000, READ_WRITE, 8)
        bench.set(rbx=DATA, rcx=1000)
        assert bench.run("890383c304e2f9", limit=10_000) is None
        p = bench.processor
        counts.append((p.instructions, bench.clock.now, p.state.counter("dtlb_misses")))
    assert counts[0] == counts[1]
