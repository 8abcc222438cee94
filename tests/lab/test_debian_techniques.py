"""Debian under every technique: the same test body on a whole kernel.

One of each kind runs always; the techniques that flush at each entry, and the comparison of all, only with
TRAPGATE_TECHNIQUES=1.
"""

from __future__ import annotations

import hashlib
import os

import pytest

from trapgate.lab.compare import CapturedConsole, compare, possible_techniques
from trapgate.lab.debian import DebianUnavailable, fetch_debian
from trapgate.lab.options import DEBIAN, RunOptions
from trapgate.lab.run import run_guest

from .runs import ALL

pytestmark = [pytest.mark.engine, pytest.mark.debian]
LONG = pytest.mark.skipif(not os.environ.get("TRAPGATE_TECHNIQUES"), reason="long: set TRAPGATE_TECHNIQUES=1 to run it")
#: One of each kind: on the machine itself, deprivileged, on shadow tables, on nested tables.
KINDS = ("bare", "software", "shadow-tagged", "nested-tagged")
SHORT_COMMAND = (
    "sh",
    "-c",
    "uname -s; seq 1 200 | md5sum; i=0; while [ $i -lt 8 ]; do /bin/true || echo failed; i=$((i+1)); done; echo $i",
)
NUMBERS = "".join(f"{i}\n" for i in range(1, 201)).encode()
CONSOLE = f"Linux\n{hashlib.md5(NUMBERS).hexdigest()}  -\n8\n".encode()
COMMAND = (
    "sh",
    "-c",
    "uname -s; seq 1 2000 | sort -rn | md5sum; i=0; while [ $i -lt 30 ]; do /bin/true; i=$((i+1)); done",
)


@pytest.fixture(scope="module", autouse=True)
def packages() -> None:
    """Debian's packages in the cache."""
    try:
        fetch_debian()
    except (DebianUnavailable, OSError) as error:
        pytest.skip(f"Debian's packages cannot be had here: {error}")


@pytest.mark.parametrize("technique", [name if name in KINDS else pytest.param(name, marks=LONG) for name in ALL])
def test_debian_boots_works_and_powers_off(technique: str) -> None:
    """Boot, a pipeline, a loop of fork and exec, power-off; a console of nothing but what the command says."""
    console = CapturedConsole()
    outcome = run_guest(RunOptions(guest=DEBIAN, command=SHORT_COMMAND, technique=technique), console)
    assert bytes(console.data) == CONSOLE
    assert (outcome.reason, outcome.status) == ("power-off", 0)
    statistics = outcome.statistics
    assert sum(statistics.cycles_by_place.values()) == statistics.cycles
    paging = {"exception_14", "invlpg", "cr3_write"}
    if technique.startswith("shadow"):
        assert paging <= set(statistics.exits)
    if technique.startswith("nested"):
        assert not paging & set(statistics.exits)
    assert bool(statistics.exits) == (technique != "bare")


@LONG
def test_a_command_says_the_same_under_every_technique() -> None:
    options = RunOptions(guest=DEBIAN, command=COMMAND)
    comparison = compare(options, possible_techniques(options.processor), 2)
    assert comparison.same, [(run.technique, run.error, run.difference) for run in comparison.runs]
    runs = {run.technique: run for run in comparison.runs}
    assert runs["bare"].console.startswith(b"Linux\n")
    for run in comparison.runs:
        statistics = run.statistics
        assert sum(statistics.cycles_by_place.values()) == statistics.cycles
    for name in ("nested", "nested-tagged"):
        assert not {"exception_14", "invlpg", "cr3_write"} & set(runs[name].statistics.exits)
    for flushing, tagged in (("shadow", "shadow-tagged"), ("nested", "nested-tagged")):
        before, after = runs[flushing].statistics.tlb, runs[tagged].statistics.tlb
        assert after["tlb_flushes"] < before["tlb_flushes"]
        assert after["dtlb_misses"] + after["itlb_misses"] < before["dtlb_misses"] + before["itlb_misses"]
