"""Every example runs, and prints what it promises."""

from __future__ import annotations

import importlib.metadata
import re
import subprocess
import sys

import pytest

from support import ROOT, child_environment

pytestmark = pytest.mark.engine
EXAMPLES = ROOT / "examples"


def run(*arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env=child_environment(),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.stderr == ""
    return done.stdout


def test_every_example_is_tested() -> None:
    here = (ROOT / "tests/api/test_examples.py").read_text()
    assert [path.name for path in EXAMPLES.glob("*.py") if f'"{path.name}"' not in here] == []


def test_hello() -> None:
    assert run(str(EXAMPLES / "hello.py")).replace("\r", "") == (
        "hello from real mode\nsum of 1 to 1000: 500500\nguest exit with status 1\n"
    )
    statements = [line for line in (EXAMPLES / "hello.py").read_text().splitlines() if line.startswith(("mach", "res"))]
    assert len(statements) == 3


def code_lines(text: str) -> list[str]:
    """Lines that are neither blank, comments nor docstrings of one line."""
    lines = (line.strip() for line in text.splitlines())
    return [line for line in lines if line and not line.startswith(("#", '"""'))]


def test_the_examples_are_as_short_as_they_say() -> None:
    assert len(code_lines((EXAMPLES / "hello.py").read_text())) == 5  # the import and four lines
    assert len(code_lines((EXAMPLES / "page_faults.py").read_text())) <= 10
    sensor = (EXAMPLES / "temperature_sensor.py").read_text()
    device = sensor[sensor.index("class ") : sensor.index("# 16-bit")]
    assert len(code_lines(device)) <= 10


def test_temperature_sensor() -> None:
    assert run(str(EXAMPLES / "temperature_sensor.py")) == (
        "halted for ever\nfirst 21 degrees, then 25\nport accesses: 3\n"
    )


def test_single_step() -> None:
    lines = run(str(EXAMPLES / "single_step.py")).splitlines()
    assert len(lines) == 12
    assert lines[0] == "0x0000000000007c00  ea b8 7c 00 00                  jmp far 7CB8h,0"
    assert re.fullmatch(r"0x0000000000007cc3  e8 3f ff +call 7C05h +rsp=0x7bfe", lines[7])


@pytest.mark.debian
def test_page_faults() -> None:
    from trapgate.lab.debian import DebianUnavailable, fetch_debian

    try:
        fetch_debian()
    except DebianUnavailable as error:
        pytest.skip(str(error))
    output = run(str(EXAMPLES / "page_faults.py"))
    match = re.fullmatch(r"(\d+) page faults in (\d\.\d{3}) s, (\d+) of them in user mode\n", output)
    assert match is not None
    assert 100 < int(match[3]) < int(match[1]) < 100_000


def plugin_option() -> list[str]:
    """Where trapgate is installed pytest finds the plugin by itself."""
    installed = importlib.metadata.entry_points(group="pytest11", name="trapgate")
    return [] if installed else ["-p", "trapgate.pytest_plugin"]


def test_a_kernel_test_fails_with_the_guests_backtrace() -> None:
    output = run("-m", "pytest", "-q", "-c", "/dev/null", *plugin_option(), str(EXAMPLES / "test_kernel.py"))
    assert "1 failed, 1 passed" in output
    assert "assert TripleFault() == GuestExited(status=1)" in output
    report = output[output.index("trapgate machine") :]
    assert (
        "-- console\nkernel: dividing\n-- backtrace\n"
        "0x0000000000100060  divide+0xc\n0x0000000000100041  main+0x14\n0x000000000010002c  start+0xc\n"
    ) in report
    assert "rip=0000000000100060" in report
    assert re.search(r"0000000000100060  f7 f1 +div ecx\n", report)
