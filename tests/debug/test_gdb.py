"""gdb itself: symbols, breakpoints, watchpoints, steps back and forth, the monitor. `TRAPGATE_GDB_DEBIAN=1` also with
Debian's kernel (some minutes)."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from support import child_environment
from trapgate.debug.symbols import NoSymbols, symbol_file

pytestmark = [
    pytest.mark.engine,
    pytest.mark.skipif(shutil.which("gdb") is None, reason="gdb is not installed"),
]


def listens(place: Path) -> bool:
    """Whether the stub answers. A client that goes without a word leaves the guest stopped."""
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(place))
        except OSError:
            return False
        return True


def debug(folder: Path, script: str, *arguments: str, timeout: float = 120) -> tuple[str, str]:
    """What gdb has printed, and the guest's console."""
    place = folder / "gdb"
    command = [sys.executable, "-m", "trapgate", "run", "-S", "--gdb", f"unix:{place}", *arguments]
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=child_environment()
    ) as guest:
        end = time.monotonic() + timeout
        while not listens(place) and guest.poll() is None and time.monotonic() < end:
            time.sleep(0.1)
        (folder / "script").write_text(
            f"set pagination off\nset confirm off\nset width 0\nset remotetimeout 60\ntarget remote {place}\n{script}\n"
        )
        found = subprocess.run(
            ["gdb", "-nx", "-batch", "-x", str(folder / "script")],
            capture_output=True, text=True, timeout=timeout, check=False, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            output, _ = guest.communicate(timeout=timeout)
        finally:
            guest.kill()
    return found.stdout + found.stderr, output.decode(errors="replace")


def symbols(folder: Path, *lines: str) -> Path:
    """A file with symbols."""
    path = folder / "symbols.elf"
    path.write_bytes(symbol_file(lines))
    return path


def test_the_tour_of_the_embedded_guest(tmp_path: Path) -> None:
    file = symbols(tmp_path, "00100329 T entry", "00100400 T other")
    script = f"""
file {file}
printf "begin %d\\n", $pc == (long)&entry
stepi 20
set $there = $pc
set $stack = $sp
set $count = $ecx
reverse-stepi 7
printf "back %d\\n", $pc != $there
stepi 7
printf "forth %d\\n", $pc == $there && $sp == $stack && $ecx == $count
monitor info status
monitor info registers
monitor frobnicate
info registers cr0 efer fs_base k_gs_base
maintenance packet Qqemu.PhyMemMode:1
x/1xw 0xf0000
maintenance packet Qqemu.PhyMemMode:0
reverse-continue
printf "first %d\\n", $pc == (long)&entry
detach
"""
    said, console = debug(tmp_path, script, "trapgate-guest", "--append", "tests", "-m", "16M")
    for line in (
        "begin 1", "back 1", "forth 1", "first 1", "VM status: paused", "EAX=", "unknown command: 'frobnicate'",
        "k_gs_base", "5f504d5f", "No more reverse-execution history.", "detached",
    ):  # fmt: skip
        assert line in said, (line, said)
    assert "long mode" in console
    assert "FAILED" not in console


@pytest.mark.parametrize("technique", ["software"])
def test_watchpoints_and_breakpoints_under_a_technique(technique: str, tmp_path: Path) -> None:
    # mov cx, 5; again: inc ax; mov [500h], ax; dec cx; jnz again; mov al, 0; out F4h, al
    code = bytes.fromhex("b9 05 00 40 a3 00 05 49 75 f9 b0 00 e6 f4")
    (tmp_path / "sector").write_bytes(code.ljust(510, b"\0") + b"\x55\xaa")
    file = symbols(tmp_path, "00007c04 T store", "00007c0a T end")
    script = f"""
file {file}
hbreak *0x7c00
continue
watch *(short *)0x500
continue
continue
delete
break end
continue
printf "ax %d\\n", $rax
kill
"""
    said, _ = debug(tmp_path, script, str(tmp_path / "sector"), "--technique", technique, "-m", "16M")
    assert "Old value = 0\nNew value = 1" in said, said
    assert "Old value = 1\nNew value = 2" in said
    assert "ax 5" in said


def test_symbols_of_nothing() -> None:
    with pytest.raises(NoSymbols):
        symbol_file(["0000000000000000 T start_kernel", "no line at all", "zz T x"])


@pytest.mark.debian
@pytest.mark.skipif(not os.environ.get("TRAPGATE_GDB_DEBIAN"), reason="TRAPGATE_GDB_DEBIAN=1 asks for it")
@pytest.mark.parametrize("technique", ["bare", "nested-tagged"])
def test_debian(technique: str, tmp_path: Path) -> None:
    listed = subprocess.run(
        [sys.executable, "-m", "trapgate", "run", "debian", "--append", "nokaslr", "--", "cat", "/proc/kallsyms"],
        capture_output=True, text=True, timeout=900, env=child_environment(), check=True,
    )  # fmt: skip
    file = symbols(tmp_path, *listed.stdout.splitlines())
    script = f"""
file {file}
break do_sys_openat2
continue
x/s $rsi
stepi 3
set $there = $pc
set $stack = $sp
reverse-stepi 2
stepi 2
printf "forth %d\\n", $pc == $there && $sp == $stack
continue
x/s $rsi
reverse-continue
x/s $rsi
info symbol $pc
delete
continue
"""
    arguments = ("debian", "--append", "nokaslr", "--technique", technique, "--", "echo", "well")
    said, console = debug(tmp_path, script, *arguments, timeout=1800)
    assert said.count("/init") == 2, said
    assert "forth 1" in said
    assert "do_sys_openat2 in section .text" in said
    assert console == "well\n"
