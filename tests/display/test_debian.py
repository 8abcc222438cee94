"""Debian's console on the VGA that its kernel finds: vgacon, and keys to the kernel's own keyboard driver."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pexpect
import pytest

from support import Command, child_environment
from trapgate.lab.debian import DebianUnavailable, fetch_debian
from trapgate.lab.debian_package import CorruptPackage

from .world import read_png, text_of

pytestmark = [pytest.mark.engine, pytest.mark.debian]
#: Under other techniques than none: a minute or more.
TECHNIQUES = ("nested-tagged", "shadow-tagged", "software") if os.environ.get("TRAPGATE_TECHNIQUES") else ()
SCRIPT = "dmesg | grep -o 'Console: colour.*'; printf 'Hello from %s\\n' busybox > /dev/tty1"


@pytest.fixture(autouse=True)
def _debian() -> None:
    try:
        fetch_debian(lambda what, share: None)
    except (DebianUnavailable, CorruptPackage, OSError) as error:
        pytest.skip(f"Debian's packages cannot be had here: {error}")


@pytest.mark.parametrize("technique", ["bare", *TECHNIQUES])
def test_debians_console_is_on_the_screen(process: Command, tmp_path: Path, technique: str) -> None:
    screen = tmp_path / "screen.png"
    answer = process(
        "run", "debian", "--technique", technique, "--display", f"png={screen}", "--", "sh", "-c", SCRIPT, timeout=600
    )
    assert answer.status == 0, answer.errors
    assert answer.output == "Console: colour VGA+ 80x25\n"
    shown = text_of(read_png(screen))
    assert "Run /init as init process" in shown
    assert "\nHello from busybox\n" in shown


@pytest.mark.skipif(not os.environ.get("TRAPGATE_TECHNIQUES"), reason="takes half a minute: set TRAPGATE_TECHNIQUES=1")
def test_a_shell_on_the_terminals_screen() -> None:
    child = pexpect.spawn(
        sys.executable, ["-m", "trapgate", "run", "debian", "--display", "terminal", "--append", "console=tty0"],
        env=child_environment(TERM="xterm"), encoding="utf-8", timeout=240, dimensions=(30, 100),
    )  # fmt: skip
    child.expect_exact("~ #")
    child.send("echo $((6*7)) hi\r")
    child.expect_exact("42 hi")
    child.send("exit\r")
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 0
