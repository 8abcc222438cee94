"""`trapgate run debian`: Debian's own kernel and busybox, as a user runs them.

The packages come through apt; where that does not work these tests are skipped and say why.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pexpect
import pytest

from support import Command, child_environment
from trapgate.lab.debian import DebianUnavailable, fetch_debian

pytestmark = [pytest.mark.engine, pytest.mark.debian]

TIMEOUT = 240
PROMPT = "# "
#: md5sum of 16 MB of zeros.
ZEROS_MD5 = "2c7ab85a893283e98c931e9511add182"
USERLAND = r"""
uname -s
dd if=/dev/zero bs=1M count=16 2>/dev/null | md5sum
awk 'BEGIN { x = 1; for (i = 1; i <= 20; i++) x = x * 1.5 / 1.25; printf "%.12f %.0f\n", x, 1048576 * 1048576 }'
seq 1 100000 | sort -rn | sort -n | md5sum
seq 1 20000 | gzip -c | gunzip -c | sha256sum
i=0; while [ $i -lt 200 ]; do /bin/true || echo failed; i=$((i+1)); done; echo $i
free -m | awk '/Mem/ { print ($2 > MEGABYTES) }'
"""


@pytest.fixture(scope="module", autouse=True)
def packages() -> None:
    """Debian's packages in the cache."""
    try:
        fetch_debian()
    except (DebianUnavailable, OSError) as error:
        pytest.skip(f"Debian's packages cannot be had here: {error}")


def expected_userland() -> list[str]:
    import gzip
    import hashlib

    numbers = "".join(f"{n}\n" for n in range(1, 100001)).encode()
    zipped = gzip.decompress(gzip.compress("".join(f"{n}\n" for n in range(1, 20001)).encode()))
    return [
        "Linux",
        f"{ZEROS_MD5}  -",
        f"{(1.5 / 1.25) ** 20:.12f} {2**40}",
        f"{hashlib.md5(numbers).hexdigest()}  -",
        f"{hashlib.sha256(zipped).hexdigest()}  -",
        "200",
        "1",
    ]


@pytest.mark.parametrize(("memory", "megabytes"), [("128M", 80), ("1G", 900)])
def test_userland(process: Command, memory: str, megabytes: int) -> None:
    script = USERLAND.replace("MEGABYTES", str(megabytes))
    answer = process("run", "debian", "--memory", memory, "--", "sh", "-c", script, timeout=TIMEOUT)
    assert answer.output.splitlines() == expected_userland()
    assert answer.status == 0


def test_a_commands_status_and_bytes_twice(process: Command, tmp_path: Path) -> None:
    path = tmp_path / "counts"
    script = r"printf 'no newline\001\r\n\033[0m end'; exit 41"
    reports = []
    for _ in range(2):
        answer = process("run", "debian", "--json", str(path), "--", "sh", "-c", script, timeout=TIMEOUT)
        assert (answer.status, answer.output) == (41, "no newline\x01\r\n\x1b[0m end")
        report = json.loads(path.read_text())
        assert report["end"] == {"reason": "power-off", "status": 41}
        assert report["command"] == ["sh", "-c", script]
        assert report["port_accesses"]["com1"] > 10_000
        assert report["exceptions"]["14"] > 500
        del report["host"]
        reports.append(report)
    assert reports[0] == reports[1], "two runs of the same inputs count the same"


def test_the_shell_on_a_terminal() -> None:
    arguments = ["-m", "trapgate", "run", "debian"]
    child = pexpect.spawn(sys.executable, arguments, env=child_environment(), timeout=TIMEOUT)
    child.expect_exact(PROMPT)
    child.sendline("echo $((6 * 7))")
    child.expect_exact("\r\n42\r\n")
    child.expect_exact(PROMPT)
    child.sendline("sleep 1000")
    child.expect_exact("sleep 1000")
    # Ctrl-C ends the guest's command, not the run.
    child.send("\x03")
    child.expect_exact(PROMPT)
    child.sendline("poweroff -f")
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 0


def test_input_from_a_pipe(process: Command) -> None:
    answer = process("run", "debian", input=b"echo $((1 + 1)) piped\npoweroff -f\n", timeout=TIMEOUT)
    assert answer.status == 0
    assert "2 piped\r\n" in answer.output
