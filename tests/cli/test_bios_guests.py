"""GRUB's rescue images and memtest86+, as Debian ships them.

The packages come through apt; where that does not work these tests are skipped and say why.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pexpect
import pytest

from display.world import read_png, text_of
from support import Command, child_environment
from trapgate.lab.debian import DebianUnavailable
from trapgate.lab.debian_files import PackageFiles, fetch_files
from trapgate.lab.debian_package import CorruptPackage

pytestmark = [pytest.mark.engine, pytest.mark.debian]

TIMEOUT = 240
DISKETTE, CD = "floppy.img", "cdrom.iso"
GRUB = {DISKETTE: r"usr/lib/grub-rescue/grub-rescue-floppy\.img", CD: r"usr/lib/grub-rescue/grub-rescue-cdrom\.iso"}
#: GRUB at a terminal takes a minute, a whole pass of memtest86+ several: this runs them.
LONG = bool(os.environ.get("TRAPGATE_BIOS_GUESTS"))


def fetched(package: str, wanted: dict[str, str]) -> PackageFiles:
    try:
        return fetch_files(package, wanted)
    except (DebianUnavailable, CorruptPackage, OSError) as error:
        pytest.skip(f"Debian's package {package} cannot be had here: {error}")


def test_grub_starts(process: Command, tmp_path: Path) -> None:
    """From the boot sector through CHS reads, E820h and real mode calls of protected mode code to its first words."""
    path = fetched("grub-rescue-pc", GRUB).paths[DISKETTE]
    screen = tmp_path / "screen.png"
    answer = process("run", str(path), "-m", "32M", "--max-instructions", "60_000_000", "--display", f"png={screen}")
    assert answer.status == 124, answer.errors
    assert "GRUB loading......" in answer.output
    assert "Welcome to GRUB!" in answer.output
    assert "BIOS:" not in answer.errors
    shown = text_of(read_png(screen))
    assert "GRUB loading......" in shown
    assert "Welcome to GRUB!" in shown


@pytest.mark.skipif(not LONG, reason="takes a minute: set TRAPGATE_BIOS_GUESTS=1")
@pytest.mark.parametrize(("name", "drive", "last"), [(DISKETTE, "(fd0)", "halt"), (CD, "(cd", "reboot")])
def test_grub(name: str, drive: str, last: str) -> None:
    """The menu, the command line, commands as a person types them, and the end that each asks for."""
    path = fetched("grub-rescue-pc", GRUB).paths[name]
    child = pexpect.spawn(
        sys.executable, ["-m", "trapgate", "run", str(path), "-m", "32M"],
        env=child_environment(TERM="xterm"), encoding="utf-8", timeout=TIMEOUT, dimensions=(30, 100),
    )  # fmt: skip
    child.expect_exact("GNU GRUB")
    child.expect_exact("highlighted entry")
    child.send("c")
    child.expect_exact("grub> ")
    child.send("echo hello there\r")
    child.expect_exact("\rhello there")
    child.expect_exact("grub> ")
    child.send("ls\r")
    child.expect_exact("\n")
    child.expect_exact(drive)
    child.expect_exact("grub> ")
    child.send("lsmmap\r")
    child.expect(r"base_addr = 0x0, length = 0x9fc00, available")
    child.expect(r"base_addr = 0x100000, length = 0x1f00000, available")
    child.expect_exact("grub> ")
    child.send(f"{last}\r")
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 0
    said = "the guest asked for a reset" in child.before
    assert said == (last == "reboot")


def test_memtest_runs_its_tests(process: Command, tmp_path: Path) -> None:
    """It finds the memory, begins with its tests, and reports no error; a whole pass where that is asked for."""
    fetched("memtest86+", {"memtest86+ia32.bin": r"boot/memtest86\+ia32\.bin"})
    output, screen = tmp_path / "console", tmp_path / "screen.png"
    answer = process(
        "run", "memtest86+", "--append", "nopause nobench", "-m", "16M", "--serial", str(output),
        "--display", f"png={screen}",
        "--max-instructions", "400_000_000_000" if LONG else "500_000_000", timeout=1800,
    )  # fmt: skip
    assert answer.status == 124, answer.errors
    text = output.read_text(errors="replace")
    assert "Memtest86+ v" in text
    assert "[Address test, walking ones" in text
    assert "Errors: 0" in text
    assert "Status: Failed" not in text
    # It writes the screen itself: text memory, the cursor, no BIOS.
    shown = text_of(read_png(screen))
    assert "Memtest86+ v" in shown
    assert "Errors: 0" in shown
    assert "<ESC> Exit  <F1> Configuration" in shown
    if LONG:
        assert "Pass:  1" in text
