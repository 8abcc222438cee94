"""The pytest plugin as a user meets it: in a folder of their own, with mistakes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from support import child_environment

from .test_examples import plugin_option

pytestmark = pytest.mark.engine

TESTS = """
import pytest

@pytest.mark.machine(mem="64M")
def test_misspelt_argument(machine):
    pass

@pytest.mark.machine(cpu="z80")
def test_unknown_processor(machine):
    pass

@pytest.fixture
def kernel(machine):
    machine.boot("real-loop")
    machine.expect("login:", seconds=1)

def test_fixture_that_fails(kernel):
    pass

def test_no_guest(machine):
    machine.run()
"""


def test_mistakes(tmp_path: Path) -> None:
    (tmp_path / "test_kernel.py").write_text(TESTS)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *plugin_option(), "test_kernel.py"],
        cwd=tmp_path, env=child_environment(COLUMNS="200"), capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert "1 failed, 3 errors" in done.stdout
    for line in (
        "wanted the marker machine(memory='256M', cpu='opteron-2007', start_time=None, symbols=None), "
        "got an unexpected keyword argument 'mem': correct the marker",
        "the machine marker: wanted a processor that trapgate has (opteron-2007, opteron-2006, pentium3, "
        "pentium, 486), got 'z80': correct cpu=",
        "E       trapgate.api.errors.UnexpectedEnd: wanted 'login:' on the console, got a run that ended otherwise "
        "(guest exit with status 1) after 'sum of 1 to 1000: 500500': look at machine.report()",
        "E           trapgate.api.errors.NotBooted: wanted a machine with a guest, got one without: call boot() first",
        "-- console\nhello from real mode\nsum of 1 to 1000: 500500\n-- backtrace",
    ):
        assert line in done.stdout
    # The test's own line is shown, and none of trapgate's.
    assert ">       machine.expect(" in done.stdout
    assert "def expect(" not in done.stdout
