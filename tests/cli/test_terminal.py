"""The console on a terminal: the escape key, raw mode and its end in every case; on pipes and files."""

from __future__ import annotations

import os
import pty
import select
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support import child_environment
from trapgate.cli import status
from trapgate.cli.errors import ConsoleUnwritable
from trapgate.cli.terminal import HELP, EscapeFilter, ProcessConsole, descriptor

CTRL_A = b"\x01"


class Keys:
    """An EscapeFilter with what it called."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.filter = EscapeFilter(lambda: self.events.append("quit"), lambda: self.events.append("help"))


@pytest.mark.parametrize(
    ("pieces", "sent", "events"),
    [
        ([b"ls\r"], b"ls\r", []),
        ([b"a\x01\x01b"], b"a\x01b", []),
        ([b"a\x01", b"\x01b"], b"a\x01b", []),
        ([b"\x01h", b"x"], b"x", ["help"]),
        ([b"\x01", b"?"], b"", ["help"]),
        ([b"ab\x01xcd"], b"ab", ["quit"]),
        ([b"\x01", b"X"], b"", ["quit"]),
        ([b"\x01qz"], b"z", []),
        ([b"\x03\x1a\x04"], b"\x03\x1a\x04", []),
    ],
)
def test_escape_key(pieces: list[bytes], sent: bytes, events: list[str]) -> None:
    keys = Keys()
    assert b"".join(keys.filter.feed(piece) for piece in pieces) == sent
    assert keys.events == events


class Monitor:
    """Who takes the keys behind Ctrl-A C."""

    def __init__(self) -> None:
        self.events: list[object] = []

    def enter(self) -> None:
        self.events.append("enter")

    def leave(self) -> None:
        self.events.append("leave")

    def feed(self, data: bytes) -> None:
        self.events.append(data)


def test_ctrl_a_c_switches_between_guest_and_monitor() -> None:
    keys, monitor = Keys(), Monitor()
    keys.filter.monitor = monitor
    sent = [keys.filter.feed(piece) for piece in (b"ls\x01", b"cinfo\r", b"x\x01", b"Cdate", b"\r", b"a\x01cb\x01cc")]
    assert sent == [b"ls", b"", b"", b"date", b"\r", b"ac"]
    assert monitor.events == ["enter", b"info\r", b"x", "leave", "enter", b"b", "leave"]


def test_without_a_monitor_ctrl_a_c_does_nothing() -> None:
    assert Keys().filter.feed(b"a\x01cb") == b"ab"


@given(st.lists(st.binary(max_size=20), max_size=8))
def test_doubled_escapes_send_everything(pieces: list[bytes]) -> None:
    keys = Keys()
    sent = b"".join(keys.filter.feed(piece.replace(CTRL_A, CTRL_A * 2)) for piece in pieces)
    assert sent == b"".join(pieces)
    assert keys.events == []


@pytest.fixture
def terminal() -> Iterator[tuple[int, int]]:
    """A pseudo-terminal: (the user's side, the program's side)."""
    user, program = pty.openpty()
    yield user, program
    os.close(user)
    os.close(program)


def is_raw(descriptor: int) -> bool:
    return not termios.tcgetattr(descriptor)[3] & (termios.ICANON | termios.ECHO | termios.ISIG)


def drain(descriptor: int) -> bytes:
    data = b""
    while select.select([descriptor], [], [], 0.2)[0]:
        data += os.read(descriptor, 4096)
    return data


def test_raw_mode_lasts_as_long_as_the_console(terminal: tuple[int, int]) -> None:
    _, program = terminal
    before = termios.tcgetattr(program)
    with ProcessConsole(program, program):
        assert is_raw(program)
    assert termios.tcgetattr(program) == before


def test_the_mode_is_put_back_after_an_exception(terminal: tuple[int, int]) -> None:
    _, program = terminal
    before = termios.tcgetattr(program)
    with pytest.raises(ZeroDivisionError), ProcessConsole(program, program):
        raise ZeroDivisionError
    assert termios.tcgetattr(program) == before


def test_keys_arrive_and_ctrl_c_is_one_of_them(terminal: tuple[int, int]) -> None:
    user, program = terminal
    with ProcessConsole(program, program) as console:
        assert console.poll() == b""
        os.write(user, b"ls\r\x03")
        assert console.wait(5) == b"ls\r\x03"
        assert console.quit_status is None


def test_ctrl_a_x_asks_for_the_end(terminal: tuple[int, int]) -> None:
    user, program = terminal
    asked = []
    with ProcessConsole(program, program) as console:
        console.on_quit = lambda: asked.append(True)
        os.write(user, b"\x01x")
        assert console.wait(5) == b""
        assert asked == [True]
        assert console.quit_status == status.SUCCESS


def test_ctrl_a_h_shows_the_keys(terminal: tuple[int, int]) -> None:
    user, program = terminal
    with ProcessConsole(program, program) as console:
        os.write(user, b"\x01h")
        assert console.wait(5) == b""
        assert drain(user) == HELP


def test_a_closed_terminal_ends_the_input_only() -> None:
    user, program = pty.openpty()
    with ProcessConsole(program, None) as console:
        os.close(user)
        assert console.wait(5) == b""
        assert console.poll() == b""
    os.close(program)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_the_mode_is_put_back_after_a_signal(terminal: tuple[int, int], number: signal.Signals) -> None:
    _, program = terminal
    before = termios.tcgetattr(program)
    code = (
        "from trapgate.cli.terminal import ProcessConsole\n"
        "with ProcessConsole(0, 1) as console:\n"
        "    console.write(b'ready\\n')\n"
        "    console.wait(60)\n"
        "    console.wait(60)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=program, stdout=subprocess.PIPE, env=child_environment()
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"ready\n"
        assert is_raw(program)
        child.send_signal(number)
        assert child.wait(20) == 128 + number
    assert termios.tcgetattr(program) == before


def test_ctrl_c_without_raw_mode_ends_the_run() -> None:
    read_end, write_end = os.pipe()
    with open(read_end, "rb"), open(write_end, "wb"), ProcessConsole(read_end, None) as console:
        asked = []
        console.on_quit = lambda: asked.append(True)
        signal.raise_signal(signal.SIGINT)
        assert asked == [True]
        assert console.quit_status == status.INTERRUPTED
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_signal_handlers_are_put_back() -> None:
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGCONT)
    before = [signal.getsignal(number) for number in numbers]
    with ProcessConsole(None, None):
        assert [signal.getsignal(number) for number in numbers] != before
    assert [signal.getsignal(number) for number in numbers] == before


def test_a_pipe_is_input_until_its_end() -> None:
    read_end, write_end = os.pipe()
    os.write(write_end, b"echo \x01x\n")
    os.close(write_end)
    with open(read_end, "rb"), ProcessConsole(read_end, None) as console:
        # Ctrl-A means nothing where nobody types.
        assert console.wait(5) == b"echo \x01x\n"
        assert console.wait(5) == b""
        started = time.monotonic()
        assert console.wait(0.05) == b""
        assert time.monotonic() - started >= 0.04
        assert console.quit_status is None


def test_lines_go_out_at_once_and_the_rest_with_the_next_poll() -> None:
    read_end, write_end = os.pipe()
    with open(read_end, "rb"), open(write_end, "wb"), ProcessConsole(None, write_end) as console:
        console.write(b"one\n")
        assert os.read(read_end, 100) == b"one\n"
        assert console.at_line_start
        console.write(b"# ")
        assert not select.select([read_end], [], [], 0)[0]
        console.poll()
        assert os.read(read_end, 100) == b"# "
        assert not console.at_line_start
        console.write(b"rest")


def test_what_was_held_back_goes_out_at_the_end() -> None:
    read_end, write_end = os.pipe()
    with open(read_end, "rb"), open(write_end, "wb"):
        with ProcessConsole(None, write_end) as console:
            console.write(b"login: ")
        assert os.read(read_end, 100) == b"login: "


def test_a_reader_that_goes_away_ends_the_run() -> None:
    read_end, write_end = os.pipe()
    os.close(read_end)
    with open(write_end, "wb", buffering=0), ProcessConsole(None, write_end) as console:
        asked = []
        console.on_quit = lambda: asked.append(True)
        console.write(b"hello\n")
        console.write(b"hello\n")
        assert asked == [True]
        assert console.quit_status == status.BROKEN_PIPE


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this host has no /dev/full")
def test_a_full_disk_is_reported() -> None:
    with open("/dev/full", "wb", buffering=0) as full:
        with pytest.raises(
            ConsoleUnwritable, match="wanted to write what the guest sends, got No space left on device"
        ):
            with ProcessConsole(None, full.fileno()) as console:
                console.write(b"hello\n")


def test_a_closed_stream_has_no_descriptor() -> None:
    stream = open(os.devnull)  # noqa: SIM115
    number = stream.fileno()
    assert descriptor(stream) == number
    stream.close()
    assert descriptor(stream) is None
    assert descriptor(None) is None
