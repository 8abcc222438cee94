"""-s, -S, -gdb, -monitor, and the monitor on the guest's own terminal."""

from __future__ import annotations

import re
import socket
import sys
import time
from pathlib import Path

import pexpect
import pytest

from support import Command, child_environment

pytestmark = pytest.mark.engine
PROMPT = r"\(trapgate\) "
ESCAPE = "\x01"


def spawn(*arguments: str) -> pexpect.spawn[str]:
    return pexpect.spawn(
        sys.executable, ["-m", "trapgate", "run", *arguments], env=child_environment(), encoding="utf-8", timeout=60,
        dimensions=(50, 160),
    )  # fmt: skip


def test_the_monitor_behind_ctrl_a_c() -> None:
    child = spawn("-S", "bench", "--append", "bench=sieve n=1")
    time.sleep(0.5)
    child.send(ESCAPE + "c")
    child.expect(r"trapgate \S+ monitor - type 'help' for more information\r\n" + PROMPT)
    child.send("info stax\x7ftus\r")
    child.expect(r"VM status: paused\r\n" + PROMPT)
    child.send("garbage\x15p 1+1\r")
    child.expect(r"0x2\r\n" + PROMPT)
    child.send("\x1b[A\x1b[A\r")  # the command before
    child.expect(r"VM status: paused\r\n" + PROMPT)
    child.send(ESCAPE + "c" + ESCAPE + "h")
    child.expect("C-a c    the monitor, and back to the guest")
    child.send(ESCAPE + "c")
    child.expect(PROMPT)
    child.send("cont\r")
    child.expect("bench=sieve n=1 checksum=")
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 0


def test_quit_ends_a_run_that_goes_on_for_ever(tmp_path: Path) -> None:
    (tmp_path / "loop.img").write_bytes(b"\xeb\xfe".ljust(510, b"\0") + b"\x55\xaa")
    child = spawn(str(tmp_path / "loop.img"))
    time.sleep(1)
    child.send(ESCAPE + "c")
    child.expect(PROMPT)
    child.send("x/1i $pc\r")
    child.expect(r"0x00007c00:  eb fe +jmp 0x\w*7C00")
    child.expect(PROMPT)
    child.send("stop\rinfo status\r")
    child.expect("VM status: paused")
    child.send("quit\r")
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 0


def test_the_monitor_on_standard_input(process: Command) -> None:
    answer = process(
        "run", "-S", "--serial", "none", "-monitor", "stdio", "bench", "--append", "bench=sieve n=1",
        input=b"info status\nprint $pc\ncont\n",
    )  # fmt: skip
    assert answer.status == 0
    assert "VM status: paused\n(trapgate) 0x10019f\n(trapgate) " in answer.output


@pytest.mark.parametrize("technique", ["nested"])
def test_the_monitor_on_a_socket(technique: str, tmp_path: Path) -> None:
    place = tmp_path / "monitor"
    where = ("-monitor", f"unix:{place},server,nowait", "--serial", "none")
    child = spawn("-S", *where, "--technique", technique, "bench", "--append", "bench=sieve n=1")
    with socket.socket(socket.AF_UNIX) as user:
        for _ in range(600):
            try:
                user.connect(str(place))
                break
            except OSError:  # it is not there yet
                time.sleep(0.05)
        user.settimeout(60)
        user.sendall(b"info counts\r\ncont\n")
        said = b""
        while piece := user.recv(4096):
            said += piece
    assert re.search(rb"technique: %b\ninstructions: 0\ncycles: \d+\n" % technique.encode(), said)
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 0
    assert not place.exists()


def test_options_of_the_debugger_change_no_count(process: Command, tmp_path: Path) -> None:
    arguments = ("run", "bench", "--append", "bench=sieve n=1", "--serial", "none", "--stats")
    plain = process(*arguments)
    debugged = process(*arguments, "-gdb", f"unix:{tmp_path}/gdb", "-monitor", f"unix:{tmp_path}/monitor")
    assert debugged.status == plain.status == 0
    different = [(a, b) for a, b in zip(plain.errors.split("\n"), debugged.errors.split("\n"), strict=True) if a != b]
    assert all("host" in a or "MIPS" in a or "found in them" in a or "regions" in a for a, _ in different)
