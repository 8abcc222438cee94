"""The exact text of every error of the API."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from trapgate import Machine
from trapgate.api import errors
from trapgate.api.backtrace import NotAnElfFile, Symbols
from trapgate.cli.trace import InvalidTraceOption

from .code import COUNTER, HOOKED
from .conftest import Maker

pytestmark = pytest.mark.engine


def message(kind: type[Exception], action: Callable[[], object]) -> str:
    with pytest.raises(kind) as caught:
        action()
    return str(caught.value)


def test_making_and_booting(booted: Maker) -> None:
    assert message(errors.InvalidSize, lambda: Machine("lots")) == (
        "wanted a memory size in bytes or a text such as '128M' or '1G', got 'lots': correct memory="
    )
    assert message(errors.UnknownCpu, lambda: Machine(cpu="z80")).startswith("wanted a processor that trapgate has (")
    assert message(errors.UnknownCpu, lambda: Machine(cpu="z80")).endswith("), got 'z80': correct cpu=")
    machine = Machine("1M")
    assert message(errors.NotBooted, machine.run) == "wanted a machine with a guest, got one without: call boot() first"
    assert message(errors.NoGuest, machine.boot) == (
        "wanted exactly one of guest, kernel= and image= to boot, got nothing: name one guest"
    )
    assert message(errors.NoGuest, lambda: machine.boot("debian", image=b"")) == (
        "wanted exactly one of guest, kernel= and image= to boot, got guest and image=: name one guest"
    )
    assert message(errors.AlreadyBooted, lambda: booted(COUNTER).boot("debian")) == (
        "wanted a machine that has no guest yet, got one that has: make another Machine"
    )


def test_running(booted: Maker) -> None:
    machine = booted(COUNTER)
    assert message(errors.InvalidDeadline, lambda: machine.run(cycles=0)) == (
        "wanted a whole number above 0 for cycles=, got 0: give the run some time"
    )
    assert message(errors.UnexpectedEnd, lambda: machine.expect("login:")) == (
        "wanted 'login:' on the console, got a run that ended otherwise (guest exit with status 1) after '': "
        "look at machine.report()"
    )
    assert message(errors.UnknownInstruction, lambda: machine.on_instruction("add", print)).endswith(
        "wbinvd, wrmsr), got 'add': choose one of them, or set a breakpoint"
    )


def test_state(booted: Maker) -> None:
    machine = booted(HOOKED)

    def set_rax(value: int) -> None:
        machine.registers.rax = value

    def set_cr0() -> None:
        machine.registers.cr0 = 1 << 31

    assert message(errors.InvalidRegister, lambda: set_rax(-1)) == (
        "wanted an unsigned number of at most 64 bits for rax, got -0x1: mask it to the register's size"
    )
    assert message(errors.ForbiddenValue, set_cr0) == (
        "wanted a value that the processor takes for cr0, got 0x80000000, for which it raises #GP: "
        "see the manual for what the register may hold"
    )
    assert message(errors.NotMapped, lambda: machine.virtual.read(0x4000_0000, 1)) == (
        "wanted virtual address 0x40000000 to lead to RAM, got one that the guest's page tables do not map there: "
        "look at machine.virtual.is_mapped(address) first"
    )
    assert message(errors.InvalidRange, lambda: machine.memory[0:]) == (
        "wanted memory[address] or memory[start:stop], got slice(0, None, None): name both ends, without a step"
    )
    assert message(errors.InvalidBytes, lambda: machine.memory.__setitem__(slice(0, 4), b"abc")) == (
        "wanted 4 bytes from 0x0 on, got 3 bytes: assign exactly as much as the range holds"
    )
    assert message(errors.InvalidBytes, lambda: machine.memory.__setitem__(16, b"a")) == (
        "wanted a number from 0 to 255 for the byte at 0x10, got 1 bytes: assign exactly as much as the range holds"
    )
    assert message(errors.UnknownSymbol, lambda: machine.add_breakpoint("main")) == (
        "wanted a symbol called 'main', got no symbols: see load_symbols()"
    )
    machine.load_symbols({"start": 0x7C00, "end": 0x7C10})
    assert message(errors.UnknownSymbol, lambda: machine.add_breakpoint("main")) == (
        "wanted a symbol called 'main', got 2 others: see load_symbols()"
    )


def test_answers_and_symbols(tmp_path: Path) -> None:
    assert str(errors.InvalidAnswer("room.read_port", None)) == (
        "wanted an int from room.read_port, got None: return the value that the guest is to read"
    )
    path = tmp_path / "kernel"
    assert message(NotAnElfFile, lambda: Symbols(path)) == (
        f"wanted an ELF file with symbols at {path}, got no such file or directory: "
        "name the kernel before it was stripped"
    )
    path.write_bytes(b"no elf")
    assert message(NotAnElfFile, lambda: Symbols(path)) == (
        f"wanted an ELF file with symbols at {path}, got a file that is none (Magic number does not match): "
        "name the kernel before it was stripped"
    )
    assert str(InvalidTraceOption("--cpl", "a privilege level from 0 to 3", "4")) == (
        "wanted a privilege level from 0 to 3 after --cpl, got '4': correct --cpl"
    )
