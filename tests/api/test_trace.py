"""`trapgate trace`: its text, its JSON, its filters, and that tracing changes no count."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from support import Command
from trapgate import Machine
from trapgate.api import GuestExited, StepsDone, TraceOptions

from .code import COUNTER, HOOKED
from .conftest import Maker

pytestmark = pytest.mark.engine


def test_text(booted: Maker) -> None:
    lines: list[str] = []
    assert booted(COUNTER).trace(TraceOptions(skip=2, count=2), lines.append) == StepsDone()
    assert lines == [
        "----------------\nIN: \n0x00007c03:  89 1e 00 05              mov     %bx,0x500\n",
        "MEM write 0x0000000000000500 size=2 = 0x0001",
        "----------------\nIN: \n0x00007c07:  83 fb 05                 cmp     $0x5,%bx\n",
    ]


def test_json_with_an_exception(booted: Maker) -> None:
    lines: list[str] = []
    options = TraceOptions(start=0x7C15, end=0x7C17, parts=frozenset(("in_asm", "int", "cpu", "mem")), as_json=True)
    machine = booted(HOOKED)
    machine.add_breakpoint(0x7C1B)
    machine.trace(options, lines.append)
    exception, instruction = map(json.loads, lines)
    assert instruction["registers"].pop("rax") == "0x41"
    assert instruction.pop("registers")["rflags"] == "0x46"
    assert instruction.pop("cycle") == exception.pop("cycle")
    assert instruction == {
        "kind": "instruction", "instruction": 6, "cpl": 0, "bits": 16, "rip": "0x7c15", "linear": "0x7c15",
        "bytes": "0f0b", "text": "ud2", "accesses": [],
    }  # fmt: skip
    assert exception == {
        "kind": "exception", "instruction": 6, "vector": 6, "error": None, "address": None, "software": False,
        "cpl": 0, "rip": "0x7c15", "linear": "0x7c15",
    }  # fmt: skip


def test_a_traced_run_has_the_same_counts() -> None:
    def run(traced: bool) -> object:
        machine = Machine(memory="64M")
        machine.boot("bench", append="bench=cpuid n=300")
        if traced:
            lines: list[str] = []
            machine.run(instructions=1000)
            result = machine.trace(TraceOptions(count=2000), lines.append)
            assert result == StepsDone()
            assert sum("IN:" in line for line in lines) == 2000
        result = machine.run(seconds=10)
        assert isinstance(result, GuestExited)
        return machine.statistics().guest_counts(), machine.console.text

    assert run(traced=True) == run(traced=False)


def test_the_command(command: Command, tmp_path: Path) -> None:
    answer = command("trace", "real-loop", "--skip", "90", "--count", "2", "--json", "-d", "in_asm")
    assert (answer.status, answer.errors) == (0, "")
    records = [json.loads(line) for line in answer.output.splitlines()]
    assert [record["instruction"] for record in records] == [90, 91]
    output = tmp_path / "trace"
    answer = command("trace", "real-loop", "-o", str(output), "--serial", "stdio", "--start", "7c46", "--end", "0x7c47")
    assert (answer.status, answer.output) == (0, "hello from real mode\r\nsum of 1 to 1000: 500500\r\n")
    text = output.read_text()
    assert text.count("IN: \n0x00007c46:  ac ") == text.count("IN: ") > 20


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--cpl", "4"), "wanted a privilege level from 0 to 3 after --cpl, got '4': correct --cpl"),
        (("--start", "main"), "wanted a hexadecimal address of at most 64 bits after --start, got 'main'"),
        (("--count", "0"), "wanted a whole number of instructions above 0 after --count, got '0': correct --count"),
        (("-d", "exec"), "wanted some of in_asm,int,cpu,mem after --show, got 'exec': correct --show"),
    ],
)
def test_bad_options(command: Command, arguments: tuple[str, ...], message: str) -> None:
    answer = command("trace", "real-loop", *arguments)
    assert answer.status == 2
    assert message in answer.errors


@pytest.mark.skipif(shutil.which("qemu-system-x86_64") is None, reason="QEMU is not installed")
def test_registers_look_as_in_qemu(booted: Maker, tmp_path: Path) -> None:
    """The same boot sector: the dump before its first instruction has QEMU's lines, but for the BIOS's values."""
    sector = tmp_path / "sector"
    sector.write_bytes(COUNTER.ljust(510, b"\0") + b"\x55\xaa")
    log = tmp_path / "log"
    subprocess.run(
        ["qemu-system-x86_64", "-display", "none", "-fda", str(sector), "-singlestep", "-d", "in_asm,cpu,nochain",
         "-D", str(log), "-dfilter", "0x7c00..0x7c20", "-no-reboot", "-device",
         "isa-debug-exit,iobase=0xf4,iosize=4"],
        timeout=60, check=False, capture_output=True,
    )  # fmt: skip
    lines: list[str] = []
    booted(COUNTER).trace(TraceOptions(count=1, parts=frozenset(("in_asm", "cpu"))), lines.append)
    ours = "\n".join(lines).splitlines()
    theirs = log.read_text().splitlines()
    theirs = theirs[theirs.index("IN: ") - 1 :]
    assert shape(ours[2]) == shape(theirs[2])
    start = next(i for i, line in enumerate(theirs) if line.startswith("EAX="))
    state = [line for line in theirs[start : start + 21] if not line.startswith("CC")]
    assert [shape(line) for line in ours[4:]] == [shape(line) for line in state[: len(ours) - 4]]


def shape(line: str) -> str:
    """A line without its values."""
    import re

    line = re.sub(r"\[[-DOSZAPC]{7}\]", "[flags]", line)
    return (
        re.sub(r"(?<![a-z])[0-9a-f]{2,16}\b", lambda match: "0" * len(match[0]), line).split("mov")[0].split("xor")[0]
    )
