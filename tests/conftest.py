"""What all tests share: the `trapgate` command as a call in this process, and as a process of its own."""

from __future__ import annotations

import subprocess
import sys

import pytest

from support import Answer, Command, child_environment


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--oracle-cases", type=int, default=0, help="random cases per family of instructions, for long runs by hand"
    )
    parser.addoption("--oracle-seed", type=int, default=1000, help="first seed of --oracle-cases")


@pytest.fixture
def command(capfd: pytest.CaptureFixture[str]) -> Command:
    """`trapgate ARGUMENTS` in this process."""
    from trapgate.cli.main import run_command

    def run(*arguments: str) -> Answer:
        capfd.readouterr()
        status = run_command(list(arguments))
        output, errors = capfd.readouterr()
        return Answer(status, output, errors)

    return run


@pytest.fixture
def process() -> Command:
    """`trapgate ARGUMENTS` in a process of its own; `input` goes to its standard input."""

    def run(*arguments: str, input: bytes = b"", timeout: float = 120, **environment: str) -> Answer:
        done = subprocess.run(
            [sys.executable, "-m", "trapgate", *arguments],
            input=input,
            capture_output=True,
            timeout=timeout,
            env=child_environment(**environment),
            check=False,
        )
        return Answer(done.returncode, done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace"))

    return run
