"""The counts of a run as JSON and as tables, and that docs/statistics.md describes every field."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from support import ROOT
from trapgate.lab.options import RunOptions
from trapgate.lab.report import json_report
from trapgate.lab.run import RunOutcome
from trapgate.lab.statistics import SCHEMA_VERSION, ExitStatistics, HotPlace, Statistics

STATISTICS = Statistics(
    instructions=3_000_000,
    cycles=4_500_000,
    host_seconds=1.5,
    interrupts={48: 7, 32: 0, 128: 3},
    exceptions={14: 12},
    tlb={"dtlb_l2_hits": 5, "dtlb_misses": 6, "dtlb_walk_references": 24},
    port_accesses={"com1": 10, "pit": 0, "unmapped": 2},
    memory_accesses={"lapic": 9},
    device_counts={"ide0.0": {"reads": 3, "flushes": 0}},
    device_faults={"ide0.0": {"host disk full": 2}},
    emulated_instructions=17,
    world_switches=41,
    exits={"ioio": ExitStatistics(30, 60_000, 1_500, 2_500), "hlt": ExitStatistics(10, 20_000, 2_000, 2_000)},
    cycles_by_place={"guest": 3_000_000, "idle": 1_500_000},
    translated_blocks=100,
    handlers_built=4,
    regions=2,
    hot_share=0.5,
    hottest=(HotPlace(4096, 3, 64, 0.25, 1.0),),
)
OUTCOME = RunOutcome(
    options=RunOptions(), description="trapgate-guest", reason="guest-exit", status=0, message="", statistics=STATISTICS
)


def test_json_report() -> None:
    report = json.loads(json.dumps(json_report(OUTCOME)))
    assert report.pop("trapgate_version")
    assert report == {
        "schema_version": SCHEMA_VERSION,
        "technique": "bare",
        "costs": "opteron-2007",
        "model": "full",
        "guest": "trapgate-guest",
        "processor": "opteron-2007",
        "memory_bytes": 256 << 20,
        "max_instructions": None,
        "command": None,
        "end": {"reason": "guest-exit", "status": 0},
        "instructions": 3_000_000,
        "cycles": 4_500_000,
        "interrupts": {"48": 7, "128": 3},
        "exceptions": {"14": 12},
        "tlb": {"dtlb_l2_hits": 5, "dtlb_misses": 6, "dtlb_walk_references": 24},
        "port_accesses": {"com1": 10, "unmapped": 2},
        "memory_accesses": {"lapic": 9},
        "device_counts": {"ide0.0": {"reads": 3}},
        "device_faults": {"ide0.0": {"host disk full": 2}},
        "emulated_instructions": 17,
        "world_switches": 41,
        "exits": {
            "ioio": {"samples": 30, "cycles": 60_000, "min": 1_500, "max": 2_500, "mean": 2_000.0},
            "hlt": {"samples": 10, "cycles": 20_000, "min": 2_000, "max": 2_000, "mean": 2_000.0},
        },
        "cycles_by_place": {"guest": 3_000_000, "idle": 1_500_000},
        "host": {
            "seconds": 1.5,
            "guest_mips": 2.0,
            "translated_blocks": 100,
            "handlers_built": 4,
            "regions": 2,
            "hot_share": 0.5,
            "hottest": [{"rip": 4096, "cpl": 3, "bits": 64, "share": 0.25, "hot": 1.0}],
        },
    }


def test_documentation_has_every_field() -> None:
    text = (ROOT / "docs" / "statistics.md").read_text()
    documented = set(re.findall(r"^\| `([a-z_0-9.]+)`", text, re.MULTILINE))
    report = json_report(OUTCOME)
    names = {name for name in report if name not in ("host", "end")}
    for group in ("host", "end"):
        members = report[group]
        assert isinstance(members, dict)
        names |= {f"{group}.{member}" for member in members}
    assert names <= documented


def test_a_run_without_time_has_no_mips() -> None:
    assert Statistics(instructions=5, cycles=5, host_seconds=0.0).guest_mips == 0.0


def test_tables(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    from trapgate.cli.tables import print_statistics

    print_statistics(OUTCOME)
    output, errors = capfd.readouterr()
    assert output == ""
    exits = [line.split() for line in errors.splitlines() if "ioio" in line or "hlt" in line]
    assert [[cell for cell in row if cell != "│"] for row in exits] == [
        ["ioio", "30", "75.00%", "75.00%", "1,500", "2,500", "2,000.0"],
        ["hlt", "10", "25.00%", "25.00%", "2,000", "2,000", "2,000.0"],
    ]
    for text in (
        "hypervisor's instructions",
        "guest's instructions",
        "66.7%",
        "asleep",
        "3,000,000",
        "4,500,000",
        "2.0",
        "48 (0x30)",
        "14 #PF",
        "com1",
        "lapic",
        "24",
    ):
        assert text in errors
    assert "pit" not in errors
