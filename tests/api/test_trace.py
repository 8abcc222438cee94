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
        "----------------\nIN: \n0x00007c03:  89 1e 00 05              movw     %bx, 0x500\n",
        "MEM write 0x0000000000000500 size=2 = 0x0001",
        "----------------\nIN: \n0x00007c07:  83 fb 05                 cmpw     $5, %bx\n",
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


#: A boot sector that enters protected mode, then meets INT3, #UD and #GP(20h), whose handlers go on behind them.
PROTECTED = bytes.fromhex(
    "fa 31c0 8ed8"  #                7c00 cli; xor ax, ax; mov ds, ax
    "0f0116987c"  #                  7c05 lgdt [7c98h]
    "66b801000000 0f22c0"  #         7c0a mov eax, 1; mov cr0, eax
    "ea187c0800"  #                  7c13 jmp 8:7c18h
    "66b81000 8ed8 8ec0 8ee0"  #     7c18 mov ax, 10h; mov ds, ax; mov es, ax; mov fs, ax
    "8ee8 8ed0 bc007c0000"  #        7c22 mov gs, ax; mov ss, ax; mov esp, 7c00h
    "bb34120000 31c9 ba05000000"  #  7c2b mov ebx, 1234h; xor ecx, ecx; mov edx, 5
    "be09000000 8d7c96fd 31ed"  #    7c37 mov esi, 9; lea edi, [esi+edx*4-3]; xor ebp, ebp
    "0f011d9e7c0000"  #              7c42 lidt [7c9eh]
    "f0ff0500060000"  #              7c49 lock inc dword [600h]
    "57 0fb6048d00060000"  #         7c50 push edi; movzx eax, byte [600h+ecx*4]
    "cc 0f0b 83fb05"  #              7c59 int3; ud2; cmp ebx, 5
    "d9e8 dd1d20060000"  #           7c5f fld1; fstp qword [620h]
    "b920000000 8ed9"  #             7c67 mov ecx, 20h; mov ds, cx
    "b000 e6f4"  #                   7c6e mov al, 0; out 0f4h, al
    "cf"  #                          7c72 iretd
    "83042402 cf"  #                 7c73 add dword [esp], 2; iretd
    "83c404 83042402 cf"  #          7c78 add esp, 4; add dword [esp], 2; iretd
    "0000000000000000 ffff0000009bcf00 ffff00000093cf00"  #  7c80 the GDT
    "1700807c0000 6f00007d0000"  #   7c98 what LGDT and LIDT load
).ljust(0x100, b"\0") + b"".join(
    bytes.fromhex({3: "727c0800008e0000", 6: "737c0800008e0000", 13: "787c0800008e0000"}.get(vector, "00" * 8))
    for vector in range(14)
)
#: Every register has been loaded here: before, those that a BIOS leaves are others than ours.
LOADED = "0x00007c49:"


def _log_of_qemu(sector: Path, log: Path) -> str:
    subprocess.run(
        ["qemu-system-x86_64", "-accel", "tcg", "-cpu", "phenom", "-display", "none",
         "-drive", f"file={sector},format=raw,if=floppy", "-singlestep", "-d", "in_asm,int,cpu,nochain", "-D", str(log),
         "-dfilter", "0x7c00..0x7e00", "-no-reboot", "-device", "isa-debug-exit,iobase=0xf4,iosize=4"],
        timeout=60, check=False, capture_output=True,
    )  # fmt: skip
    return log.read_text()


def _lines(text: str) -> list[str]:
    lines = text[text.index(LOADED) :].splitlines()
    # The numbers count the BIOSes' interrupts too.
    lines = [line[6:] if " v=" in line else line for line in lines]
    # QEMU's lines about its own state: how it keeps flags, and whether an exception makes a double fault.
    return [line for line in lines if not line.startswith(("CCS=", "check_exception "))]


@pytest.mark.skipif(shutil.which("qemu-system-x86_64") is None, reason="QEMU is not installed")
def test_the_text_is_qemus(tmp_path: Path, command: Command) -> None:
    """The same boot sector on QEMU's processor: every line of `-d in_asm,int,cpu` is the same."""
    sector = tmp_path / "sector"
    sector.write_bytes(PROTECTED.ljust(510, b"\0") + b"\x55\xaa")
    answer = command("trace", str(sector), "-d", "in_asm,int,cpu")
    # isa-debug-exit's status for value 0.
    assert answer.status == 1
    ours = _lines(answer.output)
    # A block that QEMU leaves before it has begun, for its other threads, is in its log twice: a busy host.
    for _ in range(5):
        theirs = _lines(_log_of_qemu(sector, tmp_path / "log"))
        if ours == theirs:
            break
    assert ours == theirs
    assert [line[2:6] for line in ours if " v=" in line] == ["v=03", "v=06", "v=0d"]


def test_smm_is_in_a_trace(booted: Maker) -> None:
    machine = booted(COUNTER)
    machine.memory[0x3_8000:0x3_8002] = bytes.fromhex("0f aa")  # rsm
    machine._processor.pulse_smi()
    lines: list[str] = []
    machine.trace(TraceOptions(count=2, parts=("in_asm", "int")), lines.append)
    marks = [line.splitlines()[2] if line.startswith("---") else line for line in lines if not line.startswith("EAX")]
    assert [mark.rstrip() for mark in marks] == [
        "SMM: enter",
        "0x00038000:  0f aa                    rsm",
        "SMM: after RSM",
        "0x00007c00:  31 db                    xorw     %bx, %bx",
    ]
    assert sum(line.startswith("EAX") for line in lines) == 2
    machine._processor.pulse_smi()
    lines.clear()
    # The rest of the block comes first, as in a run that was not stopped in it.
    machine.trace(TraceOptions(count=6, parts=("int",), as_json=True), lines.append)
    assert [(json.loads(line)["kind"], json.loads(line)["enter"]) for line in lines] == [("smm", True), ("smm", False)]


def test_a_trace_that_ends_in_a_shutdown_shows_the_processor(command: Command, tmp_path: Path) -> None:
    sector = tmp_path / "sector"
    # lidt [7c07h], of length 0; ud2
    sector.write_bytes(bytes.fromhex("0f 01 1e 07 7c 0f 0b").ljust(510, b"\0") + b"\x55\xaa")
    answer = command("trace", str(sector), "-d", "int")
    assert answer.status == 3
    assert answer.errors.startswith("trapgate: the run ended: triple fault\n-- console\n(nothing)\n-- backtrace\n")
    assert "rip=0000000000007c05" in answer.errors
