"""`trapgate run` with the whole machine: small guests made here, each a boot sector."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import termios
from pathlib import Path

import pexpect
import pytest

from support import Command, child_environment

pytestmark = pytest.mark.engine

# Real-mode code for 0000:7C00.
EXIT_16 = "b0 10 e6 f4"  # mov al, 16; out F4h, al
LOOP = "eb fe"  # jmp $
SLEEP = "fb f4 eb fd"  # sti, hlt, jmp back: every interrupt is masked at the 8259s
TRIPLE_FAULT = "0f 01 1e 10 7c cc"  # lidt [7C10h] with limit 0; int3
HELLO = "ba f8 03 b0 68 ee b0 69 ee b0 0d ee b0 0a ee b0 00 e6 f4"  # "hi", then exit with value 0
#: Sends "? " and then echoes what is received, by polling; ESC ends with value 20.
ECHO = "ba f8 03 b0 3f ee b0 20 ee ba fd 03 ec a8 01 74 f8 ba f8 03 ec 3c 1b 74 03 ee eb ed b0 14 e6 f4"

TIMEOUT = 60


@pytest.fixture
def sector(tmp_path: Path) -> Path:
    """Where the guest's boot sector goes."""
    return tmp_path / "sector"


def write(sector: Path, code: str) -> str:
    sector.write_bytes(bytes.fromhex(code).ljust(510, b"\0") + b"\x55\xaa")
    return str(sector)


@pytest.mark.parametrize(("value", "status"), [(0, 1), (1, 3), (16, 33), (0x7F, 0xFF)])
def test_the_guests_own_exit_status(process: Command, sector: Path, value: int, status: int) -> None:
    answer = process("run", write(sector, f"b0 {value:02x} e6 f4"))
    assert (answer.status, answer.output) == (status, "")


def test_serial_output_goes_where_it_is_told(process: Command, sector: Path, tmp_path: Path) -> None:
    path = tmp_path / "log"
    assert process("run", write(sector, HELLO)).output == "hi\r\n"
    assert process("run", str(sector), "--serial", str(path)).output == ""
    assert path.read_bytes() == b"hi\r\n"
    answer = process("run", str(sector), "--serial", "none")
    assert (answer.status, answer.output) == (1, "")


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_standard_streams(sector: Path, closed: str) -> None:
    command = f'"$@" {closed}'
    arguments = ["sh", "-c", command, "sh", sys.executable, "-m", "trapgate", "run", write(sector, HELLO)]
    done = subprocess.run(arguments, capture_output=True, env=child_environment(), timeout=TIMEOUT, check=False)
    assert done.returncode == 1
    assert b"Traceback" not in done.stderr


def test_a_triple_fault_is_reported(process: Command, sector: Path) -> None:
    answer = process("run", write(sector, TRIPLE_FAULT))
    assert answer.status == 3
    assert "trapgate: triple fault: the guest's processor has shut down\n" in answer.errors
    assert "exceptions so far: #DF 1, #GP 1\n" in answer.errors
    assert "rip=0000000000007c05" in answer.errors
    assert "rsp=0000000000007c00" in answer.errors
    assert "0000000000007c05  cc                                int3" in answer.errors
    assert "Traceback" not in answer.errors


def test_the_instruction_limit(process: Command, sector: Path, tmp_path: Path) -> None:
    path = tmp_path / "counts"
    answer = process("run", write(sector, LOOP), "--max-instructions", "100_000", "--json", str(path))
    assert answer.status == 124
    assert "trapgate: ended after 100000 instructions, as --max-instructions asks\n" in answer.errors
    assert json.loads(path.read_text())["end"] == {"reason": "limit", "status": 124}


@pytest.mark.parametrize("code", [LOOP, SLEEP])
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals_end_any_guest(sector: Path, code: str, number: int, status: int) -> None:
    greeting = "ba f8 03 b0 0a ee"
    arguments = [sys.executable, "-m", "trapgate", "run", write(sector, greeting + code)]
    with subprocess.Popen(
        arguments, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=child_environment()
    ) as child:
        assert child.stdout is not None
        assert child.stderr is not None
        assert child.stdout.readline() == b"\n"
        child.send_signal(number)
        assert child.wait(TIMEOUT) == status
        assert b"Traceback" not in child.stderr.read()


def test_a_reader_that_goes_away_ends_the_run(sector: Path) -> None:
    forever = "ba f8 03 b0 0a ee eb fb"
    arguments = [sys.executable, "-m", "trapgate", "run", write(sector, forever)]
    with subprocess.Popen(
        arguments, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, env=child_environment()
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"\n"
        child.stdout.close()
        assert child.wait(TIMEOUT) == 141


def start(sector: Path, code: str) -> pexpect.spawn[bytes]:
    """The guest on a terminal, as a person would have it."""
    arguments = ["-m", "trapgate", "run", write(sector, code)]
    return pexpect.spawn(sys.executable, arguments, env=child_environment(), timeout=TIMEOUT)


def finish(child: pexpect.spawn[bytes]) -> int | None:
    child.expect(pexpect.EOF)
    child.close()
    return child.exitstatus


def test_keys_go_to_the_guest(sector: Path) -> None:
    child = start(sector, ECHO)
    child.expect_exact("? ")
    child.send("abc")
    child.expect_exact("abc")
    # Ctrl-C is a key like others, and Ctrl-A is sent by typing it twice.
    child.send("\x03\x01\x01z")
    child.expect_exact("\x03\x01z")
    child.send("\x01h")
    child.expect_exact("C-a x    end the run\r\n")
    child.send("\x1b")
    assert finish(child) == 41


def test_ctrl_a_x_ends_the_run(sector: Path) -> None:
    child = start(sector, ECHO)
    before = termios.tcgetattr(child.child_fd)[3]
    child.expect_exact("? ")
    assert termios.tcgetattr(child.child_fd)[3] != before
    child.send("\x01x")
    child.expect(pexpect.EOF)
    child.wait()
    assert child.exitstatus == 0


def test_a_pipe_waits_until_the_guest_listens(process: Command, sector: Path) -> None:
    """Ten thousand reads of the empty port, then IER = 1, then ECHO."""
    wait = "b9 10 27 ba fd 03 ec e2 fd"
    listen = "ba f9 03 b0 01 ee"
    answer = process("run", write(sector, wait + listen + ECHO), input=b"piped\x1b")
    assert (answer.status, answer.output) == (41, "? piped")


def test_a_guest_that_nothing_can_wake_ends(process: Command, sector: Path) -> None:
    """cli; the 8254's counter 0 in mode 0 without a count; hlt."""
    answer = process("run", write(sector, "fa b0 30 e6 43 f4"))
    assert answer.status == 0
    assert "trapgate: the guest's processor has halted, and nothing is left to wake it\n" in answer.errors


def test_two_runs_are_the_same(process: Command, tmp_path: Path) -> None:
    reports = []
    outputs = []
    for name in ("first", "second"):
        path = tmp_path / name
        outputs.append(process("run", "--append", "tests", "--json", str(path)))
        reports.append(json.loads(path.read_text()))
    assert outputs[0].status == outputs[1].status == 0
    assert outputs[0].output == outputs[1].output
    assert " 0 failed" in outputs[0].output
    for report in reports:
        assert report.pop("host")["seconds"] > 0
        assert report["instructions"] > 10_000
        assert report["tlb"]["dtlb_misses"] > 0
    assert reports[0] == reports[1]


def test_too_little_memory(process: Command) -> None:
    answer = process("run", "--memory", "1M")
    assert answer.status == 2
    assert answer.errors.splitlines()[-1].startswith("trapgate: error: wanted ")


@pytest.mark.parametrize(
    ("memory", "text"),
    [
        ("65G", "wanted a memory size that is a multiple of 4096 bytes, from 1 MB to 64 GB, got 69793218560 bytes"),
        ("4095k", "wanted a memory size that is a multiple of 4096 bytes, from 1 MB to 64 GB, got 4193280 bytes"),
    ],
)
def test_sizes_that_no_machine_has(process: Command, memory: str, text: str) -> None:
    answer = process("run", "--memory", memory)
    assert answer.status == 2
    assert answer.errors.splitlines()[-1] == f"trapgate: error: {text}: choose another memory size"
