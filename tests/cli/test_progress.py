"""The display of long preparations."""

from __future__ import annotations

import os
import pty
import select
import time

import pytest

from trapgate.cli.progress import ProgressDisplay
from trapgate.cli.terminal import ProcessConsole


def test_elsewhere_than_on_a_terminal_each_stage_has_one_line(capfd: pytest.CaptureFixture[str]) -> None:
    display = ProgressDisplay(ProcessConsole(None, None), is_terminal=False)
    for done in range(3):
        display("downloading a package", done, 3)
    display("native handlers", 0, 0)
    display("native handlers", 96, 0)
    display("already there", 4, 4)
    display.close()
    assert capfd.readouterr().err == "trapgate: downloading a package\ntrapgate: native handlers\n"


def read_until(descriptor: int, wanted: str, seconds: float = 5.0) -> str:
    """What the terminal shows, until `wanted` is in it or the time is up (a bar is drawn again and again)."""
    data = b""
    deadline = time.monotonic() + seconds
    while wanted.encode() not in data and time.monotonic() < deadline:
        if select.select([descriptor], [], [], 0.05)[0]:
            data += os.read(descriptor, 4096)
    return data.decode()


def take_stderr(monkeypatch: pytest.MonkeyPatch) -> int:
    """Make standard error a terminal for the rest of the test; returns the side that sees what is written."""
    user, program = pty.openpty()
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr("sys.stderr", os.fdopen(program, "w"))
    return user


def test_a_terminal_gets_a_bar_that_goes_away(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = take_stderr(monkeypatch)
    display = ProgressDisplay(ProcessConsole(None, None), is_terminal=True)
    display("native handlers", 0, 200)
    assert "trapgate: native handlers" in read_until(screen, "native handlers")
    display("native handlers", 100, 200)
    assert "50%" in read_until(screen, "50%")
    display("native handlers", 200, 200)
    # The cursor is shown again, and nothing is drawn any more.
    assert "\x1b[?25h" in read_until(screen, "\x1b[?25h")
    read_until(screen, "nothing", 0.2)
    assert read_until(screen, "nothing", 0.3) == ""
    display.close()


def test_no_bar_in_the_middle_of_the_guests_line(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = take_stderr(monkeypatch)
    read_end, write_end = os.pipe()
    with open(read_end, "rb"), open(write_end, "wb"), ProcessConsole(None, write_end) as console:
        console.write(b"# ls")
        display = ProgressDisplay(console, is_terminal=True)
        display("native handlers", 0, 200)
        assert read_until(screen, "native handlers", 0.3) == ""
        console.write(b"\n")
        display("native handlers", 96, 200)
        assert "native handlers" in read_until(screen, "native handlers")
        display.close()
