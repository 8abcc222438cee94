"""What `trapgate bench` makes of the times that it measures. Times themselves are nobody's test."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from support import Command
from trapgate import guests
from trapgate.cli.bench import print_bench
from trapgate.lab.bench import Bench, measure
from trapgate.lab.bench_peers import COUNTS, Peer, Timed, find_peers, run_timed
from trapgate.lab.bench_works import GROUPS, START, WORKS, Work, choose

WORK = Work("cr3", "system", 1000, "an operation")


class Played:
    """Emulators that take a given time for start-up and each turn, more with every run."""

    def __init__(self) -> None:
        self.commands: list[tuple[str, str]] = []
        self.other = Peer("other", self._other, 1)

    @staticmethod
    def _other(image: Path, line: str) -> Sequence[str]:
        assert image.read_bytes() == guests.image("bench")
        return ["other", line]

    def run(self, command: Sequence[str]) -> Timed:
        is_other = command[0] == "other"
        line = command[1] if is_other else command[command.index("--append") + 1]
        name, turns = line.removeprefix("bench=").split(" n=")
        self.commands.append(("other" if is_other else "trapgate", name))
        drift = len(self.commands) // 4 * 0.001
        start, each = (0.1, 0.0005) if is_other else (0.5, 0.0001)
        if not is_other:
            counts = Path(command[command.index("--json") + 1])
            assert counts.name == COUNTS
            counts.write_text(json.dumps({"instructions": 1000 + 4 * int(turns)}))
        seconds = start + each * (int(turns) - 1) + drift
        return Timed(seconds, int(is_other), f"loader\nbench={name} n={turns} checksum=00ff\n".encode())


def measured(runs: int = 3, percent: int = 100) -> tuple[Played, Bench, list[tuple[str, int, int]]]:
    played, shown = Played(), []
    result = measure([WORK], [played.other], runs, percent, lambda *stage: shown.append(stage), played.run)
    return played, result, shown


def test_runs_are_interleaved_and_the_first_turn_is_not_counted() -> None:
    played, result, shown = measured()
    one_turn = [("trapgate", "count"), ("other", "count"), ("trapgate", "cr3"), ("other", "cr3")]
    assert played.commands == one_turn * 4
    (row,) = result.rows
    assert {peer: len(seconds) for peer, seconds in row.seconds.items()} == {"trapgate": 3, "other": 3}
    assert row.seconds["other"] == pytest.approx([0.5995 + 0.002, 0.5995 + 0.003, 0.5995 + 0.004])
    assert shown[0] == ("count on trapgate", 0, 16)
    assert shown[-1] == ("", 16, 16)


def test_start_up_is_taken_off_each_operation_and_left_in_the_ratio() -> None:
    _, result, _ = measured()
    (row,) = result.rows
    assert result.each(row, "trapgate") == pytest.approx(0.0999e9 / 1000, rel=0.02)
    assert result.each(row, "other") == pytest.approx(0.4995e9 / 1000, rel=0.02)
    assert result.mips(row, "trapgate") == pytest.approx(4 * 999 / 0.0999 / 1e6, rel=0.02)
    assert row.ratio("other") == pytest.approx(0.5999 / 0.5995, rel=0.02)
    assert result.net_ratio(row, "other") == pytest.approx(0.2, rel=0.02)
    report = result.report()
    assert report["start"]["instructions"] == 1004
    (figures,) = report["works"]
    assert (figures["name"], figures["turns"], figures["instructions"]) == ("cr3", 1000, 5000)
    assert figures["instructions_each"] == pytest.approx(3.996)
    assert json.loads(json.dumps(report)) == report


def test_percent_changes_the_turns_and_at_least_one_is_left() -> None:
    assert measured(1, 10)[1].rows[0].turns == 100
    small = measure([WORK], [], 1, percent=0, run=Played().run)
    assert (small.rows[0].turns, small.start.turns) == (1, 1)
    assert small.each(small.rows[0], "trapgate") is None or small.rows[0].turns == 1


def test_the_table_has_a_line_for_each_work(capsys: pytest.CaptureFixture[str]) -> None:
    _, result, _ = measured()
    print_bench(result, ["other"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["MIPS", "ns", "each", "other", "ns", "each", "ratio", "whole"]
    assert lines[1].split()[0] == "cr3"
    assert lines[1].split()[-2:] == ["0.2", "1.00"]
    assert lines[2] == "start-up: trapgate 0.50 s, other 0.10 s"


def test_every_work_is_in_the_image_and_every_group_has_some() -> None:
    image = guests.image("bench")
    for work in (START, *WORKS):
        assert b"\0" + work.name.encode() + b"\0" in image or work.name.encode() + b"\0" in image
    assert {work.group for work in WORKS} == set(GROUPS)
    assert choose(()) == WORKS
    assert [work.name for work in choose(["cr3", "floating"])] == ["sse", "x87", "cr3"]


def test_a_process_is_timed_with_its_children() -> None:
    child = "import time; end = time.process_time() + 0.2\nwhile time.process_time() < end: pass\nprint('out')"
    parent = f"import subprocess, sys; print('err', file=sys.stderr); subprocess.run([sys.executable, '-c', {child!r}])"
    done = run_timed([sys.executable, "-c", parent])
    assert (done.status, done.output) == (0, b"out\nerr\n")
    assert done.seconds >= 0.2


def test_no_other_emulator_is_needed() -> None:
    assert find_peers(()) == ()


@pytest.mark.engine
def test_the_command_measures(process: Command, tmp_path: Path) -> None:
    path = tmp_path / "figures.json"
    answer = process("bench", "out", "--runs", "1", "--percent", "1", "--json", str(path))
    assert answer.status == 0, answer.errors
    assert [line.split()[0] for line in answer.output.splitlines()] == ["MIPS", "out", "start-up:"]
    report = json.loads(path.read_text())
    assert (report["runs"], report["percent"]) == (1, 1)
    (work,) = report["works"]
    assert (work["name"], work["turns"]) == ("out", 10000)
    assert work["instructions_each"] == pytest.approx(5, abs=0.1)  # a little more than the loop: its digits
