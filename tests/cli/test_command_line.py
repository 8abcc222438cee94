"""Every bad command line gets one line that says what was wanted, what was got and what to do, and status 2."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from support import Command, child_environment
from trapgate import __version__
from trapgate.cli import main, status
from trapgate.cli.main import one_line, split_command
from trapgate.machine.errors import UnimplementedDevice

UNIMPLEMENTED = (
    "unimplemented: wanted a feature of the pit that trapgate has, got mode 7: "
    "docs/processor.md lists what is not there yet"
)


def error_line(text: str) -> str:
    return f"trapgate: error: {text}\n"


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["frob"], "wanted a command (run, compare, trace, lockstep, bench, doctor), got frob: see trapgate --help"),
        (["--quux"], "wanted an option that trapgate has, got --quux: see trapgate --help"),
        (["run", "--quux"], "wanted an option that trapgate run has, got --quux: see trapgate run --help"),
        (
            ["run", "--mem", "1G"],
            "wanted an option that trapgate run has, got --mem: did you mean --memory or --model or --savevm?",
        ),
        (["run", "--memory"], "wanted a value after --memory, got none: see trapgate run --help"),
        (["run", "--stats=1"], "wanted --stats without a value, got one: see trapgate run --help"),
        (["run", "a", "b"], "wanted at most one guest, got also b: put a command for the guest after --"),
        (["doctor", "x", "y"], "wanted no argument, got also x y: see trapgate doctor --help"),
        (
            ["doctor", "--", "ls"],
            "wanted -- only after trapgate run or trapgate trace, got it after trapgate doctor: "
            "see trapgate doctor --help",
        ),
        (
            ["run", "--memory", "lots"],
            "wanted a memory size such as 256M, 1G or 512 (megabytes), got 'lots': correct --memory",
        ),
        (
            ["run", "--max-instructions", "0"],
            "wanted a whole number of instructions above 0, got '0': correct --max-instructions",
        ),
        (
            ["run", "--json", "/proc/no/x"],
            "wanted a file that can be written at /proc/no/x, got no directory /proc/no: name another file with --json",
        ),
        (
            ["run", "--json", "/"],
            "wanted a file that can be written at /, got a directory: name another file with --json",
        ),
        (
            ["run", "--serial", ""],
            "wanted a file that can be written at '', got no name: name another file with --serial",
        ),
        (
            ["run", "--serial", "file:/proc"],
            "wanted a file that can be written at /proc, got a directory: name another file with --serial",
        ),
    ],
)
def test_bad_command_lines(command: Command, arguments: list[str], text: str) -> None:
    answer = command(*arguments)
    assert (answer.status, answer.output, answer.errors) == (2, "", error_line(text))


def test_version(command: Command) -> None:
    answer = command("--version")
    assert (answer.status, answer.output, answer.errors) == (0, f"trapgate {__version__}\n", "")


def test_no_arguments_show_the_commands(command: Command) -> None:
    answer = command()
    assert answer.status == 0
    assert "run" in answer.output
    assert "doctor" in answer.output


@pytest.mark.parametrize("name", main.COMMANDS)
def test_help_of_each_command(command: Command, name: str) -> None:
    answer = command(name, "--help")
    assert answer.status == 0
    assert f"trapgate {name}" in answer.output


def test_every_registered_command_is_known() -> None:
    assert [registered.name for registered in main.app.registered_commands] == list(main.COMMANDS)


@pytest.mark.parametrize(
    ("arguments", "own", "guest"),
    [
        (["run"], ["run"], None),
        (["run", "debian", "--"], ["run", "debian"], ()),
        (["run", "debian", "--", "sh", "-c", "ls -- x"], ["run", "debian"], ("sh", "-c", "ls -- x")),
        (["run", "debian", "--", "grep", "--", "-x"], ["run", "debian"], ("grep", "--", "-x")),
    ],
)
def test_the_guests_command_starts_after_the_first_dashes(
    arguments: list[str], own: list[str], guest: tuple[str, ...] | None
) -> None:
    assert split_command(arguments) == (own, guest)


def test_a_message_stays_on_one_line() -> None:
    assert one_line("a\nb\x1b[2Jc é") == "a\\nb\\x1b[2Jc é"


def fail(error: BaseException) -> Callable[..., int]:
    def command(*arguments: object) -> int:
        raise error

    return command


def test_an_unexpected_exception_is_called_a_bug(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(main, "_dispatch", fail(KeyError("wrong\nkey")))
    answer = command("run")
    first, second = answer.errors.splitlines()
    assert answer.status == status.INTERNAL_ERROR
    assert first == "trapgate: this is a bug in trapgate: KeyError: 'wrong\\nkey'"
    assert second.startswith("trapgate: please report it with the traceback in ")
    trace = Path(second.rsplit(" ", 1)[1])
    assert "raise error" in trace.read_text()
    trace.unlink()


def test_debug_shows_the_traceback(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(main, "_dispatch", fail(KeyError("key")))
    answer = command("run", "--debug")
    assert answer.status == status.INTERNAL_ERROR
    assert "Traceback" in answer.errors
    assert "raise error" in answer.errors


def test_what_is_not_implemented_has_its_own_status(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(main, "_dispatch", fail(UnimplementedDevice("pit", "mode 7")))
    answer = command("run")
    assert (answer.status, answer.errors) == (4, error_line(UNIMPLEMENTED))


def test_ctrl_c_while_preparing(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(main, "_dispatch", fail(KeyboardInterrupt()))
    answer = command("run")
    assert (answer.status, answer.errors) == (130, "")


def test_neither_rich_nor_the_engine_is_imported_for_an_error() -> None:
    """Start-up time: what a run does not need must not be imported by the command line."""
    code = (
        "import sys; from trapgate.cli.main import run_command; run_command(['run', '--memory', 'x']);"
        "print([m for m in ('rich', 'llvmlite', 'numpy', 'iced_x86', 'trapgate.engine') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, env=child_environment(), check=True)
    assert done.stdout.decode().strip() == "[]"


@pytest.mark.parametrize("arguments", [("doctor",), ("--version",), ("trace", "real-loop", "--count", "2000")])
def test_a_reader_that_has_gone_away(arguments: tuple[str, ...]) -> None:
    read_end, write_end = os.pipe()
    os.close(read_end)
    with open(write_end, "wb") as nobody:
        done = subprocess.run(
            [sys.executable, "-m", "trapgate", *arguments],
            stdout=nobody, stderr=subprocess.PIPE, env=child_environment(), timeout=300, check=False,
        )  # fmt: skip
    # With an empty cache native code is built first, and that is said.
    said = [line for line in done.stderr.splitlines() if not line.startswith(b"trapgate: building ")]
    assert (done.returncode, said) == (status.BROKEN_PIPE, [])


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this host has no /dev/full")
@pytest.mark.parametrize("arguments", [("doctor",), ("--version",), ("trace", "real-loop", "--count", "2000")])
def test_no_room_for_the_output(arguments: tuple[str, ...]) -> None:
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [sys.executable, "-m", "trapgate", *arguments],
            stdout=full, stderr=subprocess.PIPE, env=child_environment(), timeout=300, check=False,
        )  # fmt: skip
    text = "wanted room for what trapgate writes, got No space left on device: make room, or send it elsewhere"
    assert (done.returncode, done.stderr.decode()) == (status.BAD_INPUT, error_line(text))
