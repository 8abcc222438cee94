"""Debian under every technique: the same test body on a whole kernel. Long, so only with TRAPGATE_TECHNIQUES=1."""

from __future__ import annotations

import os

import pytest

from trapgate.lab.compare import compare, possible_techniques
from trapgate.lab.debian import DebianUnavailable, fetch_debian
from trapgate.lab.options import DEBIAN, RunOptions

pytestmark = [
    pytest.mark.engine,
    pytest.mark.debian,
    pytest.mark.skipif(not os.environ.get("TRAPGATE_TECHNIQUES"), reason="long: set TRAPGATE_TECHNIQUES=1 to run it"),
]
COMMAND = (
    "sh",
    "-c",
    "uname -s; seq 1 2000 | sort -rn | md5sum; i=0; while [ $i -lt 30 ]; do /bin/true; i=$((i+1)); done",
)


def test_a_command_says_the_same_under_every_technique() -> None:
    try:
        fetch_debian()
    except (DebianUnavailable, OSError) as error:
        pytest.skip(f"Debian's packages cannot be had here: {error}")
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
