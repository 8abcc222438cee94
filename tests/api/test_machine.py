"""Making, running and looking into a machine."""

from __future__ import annotations

import re

import pytest

from trapgate import Machine
from trapgate.api import (
    AddressReached,
    BreakpointHit,
    ConsoleMatch,
    DeadlineReached,
    ExceptionTaken,
    GuestExited,
    Halted,
    StepsDone,
    StopRequested,
    TripleFault,
    WatchpointHit,
)
from trapgate.api.registers import TableRegister

from .code import COUNTER, ECHO, HOOKED, LOOP, STORE
from .conftest import Maker

pytestmark = pytest.mark.engine


def counts(machine: Machine) -> object:
    return machine.statistics().guest_counts(), machine.console.text


def embedded(append: str = "tests") -> Machine:
    machine = Machine(memory="64M")
    machine.boot("trapgate-guest", append=append)
    return machine


def test_a_guest_runs_to_its_end() -> None:
    machine = Machine(memory="16M")
    machine.boot("real-loop")
    assert machine.run() == GuestExited(1)
    assert machine.console.text == "hello from real mode\r\nsum of 1 to 1000: 500500\r\n"
    assert machine.console.tail(1) == "sum of 1 to 1000: 500500"
    assert machine.run() == GuestExited(1)
    assert machine.statistics().port_accesses["isa-debug-exit"] == 1


def test_a_pattern_on_the_console_stops_the_run() -> None:
    machine = Machine(memory="16M")
    machine.boot("real-loop")
    assert machine.run(until="mode\r\n") == ConsoleMatch("hello from real ", "mode\r\n")
    result = machine.run(until=re.compile(r"(\d+):"))
    assert isinstance(result, ConsoleMatch)
    assert result.match is not None
    assert (result.text, result.matched, result.match[1]) == ("sum of 1 to ", "1000:", "1000")
    assert machine.run(until="hello") == GuestExited(1)


def test_what_is_sent_arrives(booted: Maker) -> None:
    machine = booted(ECHO)
    machine.console.send("abc")
    assert machine.run(until="abc", seconds=1) == ConsoleMatch("", "abc")
    machine.console.send(b"def")
    assert machine.expect("f", seconds=1) == "de"


def test_deadlines(booted: Maker) -> None:
    machine = booted(ECHO)
    assert machine.run(seconds=0.001) == DeadlineReached("seconds")
    assert 0.001 <= machine.seconds < 0.00101
    before = machine.cycles
    assert machine.run(cycles=5000) == DeadlineReached("cycles")
    assert 5000 <= machine.cycles - before < 8000
    before = machine.instructions
    assert machine.run(instructions=500) == DeadlineReached("instructions")
    assert 500 <= machine.instructions - before < 564


def test_steps_are_exact(booted: Maker) -> None:
    machine = booted(COUNTER)
    assert machine.step() == StepsDone()
    assert (machine.registers.rip, machine.instructions) == (0x7C02, 1)
    assert machine.step(3) == StepsDone()
    assert (machine.registers.rip, machine.instructions, machine.registers.rbx) == (0x7C0A, 4, 1)


def test_stopping_changes_no_count() -> None:
    whole = embedded()
    whole.run()
    pieces = embedded()
    for limit in (1000, 77_777, 1):
        pieces.run(instructions=limit)
        pieces.step(3)
        pieces.run(cycles=limit)
    pieces.run()
    assert counts(pieces) == counts(whole)


def test_breakpoints_are_exact_and_change_no_count(booted: Maker) -> None:
    free = booted(COUNTER)
    assert free.run() == GuestExited(1)
    machine = booted(COUNTER)
    machine.add_breakpoint(STORE)
    for turn in range(1, 6):
        assert machine.run() == BreakpointHit(STORE)
        assert machine.registers.rbx == turn
        assert machine.memory.read_u16(0x500) == turn - 1
        # 1 for XOR, 4 for each turn of the loop, 1 for INC.
        assert machine.instructions == 1 + 4 * (turn - 1) + 1
    assert machine.run() == GuestExited(1)
    assert counts(machine) == counts(free)


def test_a_breakpoint_in_code_that_is_linked_already(booted: Maker) -> None:
    machine = booted(ECHO)
    machine.run(cycles=100_000)
    machine.add_breakpoint(0x7C04)
    assert machine.run(cycles=100_000) == BreakpointHit(0x7C04)
    assert machine.run(cycles=100_000) == BreakpointHit(0x7C04)
    machine.remove_breakpoint(0x7C04)
    assert machine.breakpoints == frozenset()
    assert machine.run(cycles=100_000) == DeadlineReached("cycles")


def test_until_an_address(booted: Maker) -> None:
    machine = booted(COUNTER)
    assert machine.run(until_address=LOOP) == AddressReached(LOOP)
    assert machine.run(until_address=LOOP) == AddressReached(LOOP)
    assert machine.registers.rbx == 1
    assert machine.run() == GuestExited(1)


def test_watchpoints(booted: Maker) -> None:
    machine = booted(COUNTER)
    watchpoint = machine.add_watchpoint(0x501)
    for turn in (1, 2):
        result = machine.run()
        assert isinstance(result, WatchpointHit)
        assert (result.rip, result.access.kind, result.access.address, result.access.size) == (STORE, "write", 0x500, 2)
        assert str(result) == "write of 2 bytes at 0x500 by the instruction at 0x7c03"
        assert machine.memory.read_u16(0x500) == turn
    machine.remove_watchpoint(watchpoint)
    assert machine.run() == GuestExited(1)
    free = booted(COUNTER)
    free.run()
    assert counts(machine) == counts(free)


def test_an_exception_stops_the_run(booted: Maker) -> None:
    machine = booted(HOOKED)
    assert machine.run(until_exception=6) == ExceptionTaken(6, None, 0x7C15, None)
    assert machine.registers.rip == 0x7C1B


def test_a_halted_machine_and_a_triple_fault(booted: Maker) -> None:
    assert booted(bytes.fromhex("fa f4")).run() == Halted()
    # lidt [7c08h] with limit 0, then ud2
    machine = booted(bytes.fromhex("0f 01 1e 07 7c 0f 0b 00 00 00 00 00 00"))
    assert machine.run() == TripleFault()


def test_registers_can_be_changed(booted: Maker) -> None:
    machine = booted(COUNTER)
    machine.step(4)
    machine.registers.rbx = 4
    machine.registers.rip = LOOP
    assert machine.run() == GuestExited(1)
    assert machine.registers.rbx == 5
    machine.registers.set_xmm(3, 1 << 127)
    assert machine.registers.xmm(3) == 1 << 127
    machine.registers.cs.load(0x10, 0x100, 0xFFFF, 0x9B)
    assert (machine.registers.cs.base, machine.registers.linear_rip) == (0x100, 0x100 + machine.registers.rip)


def test_system_registers(booted: Maker) -> None:
    # lidt [7c10h], of length 3FFh at 0; hlt
    machine = booted(bytes.fromhex("0f 01 1e 10 7c fa f4").ljust(16, b"\0") + bytes.fromhex("ff 03 00 10 00 00"))
    assert machine.run() == Halted()
    assert machine.registers.idtr == TableRegister(0x1000, 0x3FF)
    assert machine.registers.gdtr == TableRegister(0, 0)
    assert (machine.registers.tr.attributes, machine.registers.ldtr.selector) == (0x8B, 0)
    assert machine.registers.dr(6) == 0xFFFF_0FF0
    machine.registers.set_dr(0, 0x1234)
    assert machine.registers.dr(0) == 0x1234
    machine.registers.set_msr(0xC000_0082, 0x5678)  # LSTAR
    assert machine.registers.msr(0xC000_0082) == 0x5678
    assert machine.registers.msr(0x10) == machine.cycles


def test_memory_can_be_changed(booted: Maker) -> None:
    machine = booted(COUNTER)
    machine.step(5)
    machine.memory[0x7C09] = 2  # cmp bx, 2
    assert machine.run() == GuestExited(1)
    assert machine.memory[0x500:0x502] == b"\x02\0"
    machine.memory[0x500:0x504] = b"abcd"
    assert machine.memory.read_u32(0x500) == 0x64636261
    assert machine.memory.read_text(0x500, 3) == "abc"


def test_virtual_memory_leaves_no_trace() -> None:
    machine = embedded()
    machine.run(instructions=3_000_000)
    before = counts(machine)
    rsp = machine.registers.rsp
    assert machine.virtual.is_mapped(rsp - 8)
    physical = machine.virtual.translate(rsp - 8)
    machine.virtual.write_u64(rsp - 8, 0x1122334455667788)
    assert machine.memory.read_u64(physical) == machine.virtual.read_u64(rsp - 8) == 0x1122334455667788
    assert counts(machine) == before


def test_stop_from_a_callback(booted: Maker) -> None:
    machine = booted(ECHO)
    machine.after(10_000, machine.stop)
    assert machine.run() == StopRequested()
    assert 10_000 <= machine.cycles < 13_000


def test_importing_the_package_imports_no_engine() -> None:
    import subprocess
    import sys

    code = "import sys, trapgate, trapgate.pytest_plugin; sys.exit('llvmlite' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
