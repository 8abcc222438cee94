"""`trapgate run` with --savevm, --loadvm, --record and --replay."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from support import Answer, Command

pytestmark = pytest.mark.engine
GUEST = ("run", "embedded", "--append", "tests", "-m", "32M")


def _report(folder: Path) -> dict[str, Any]:
    report: dict[str, Any] = json.loads((folder / "json").read_text())
    del report["host"]
    return report


def _ok(answer: Answer) -> Answer:
    assert (answer.status, _said(answer)) == (0, [])
    return answer


def _said(answer: Answer) -> list[str]:
    """Lines for the user; a first run says what it builds."""
    return [line for line in answer.errors.splitlines() if not line.startswith("trapgate: building ")]


@pytest.mark.parametrize("technique", ["bare", "nested-tagged"])
def test_a_saved_run_goes_on_in_another(technique: str, command: Command, tmp_path: Path) -> None:
    guest = (*GUEST, "--technique", technique, "--json", f"{tmp_path}/json")
    whole = _ok(command(*guest))
    wanted = _report(tmp_path)
    saving = _ok(command(*guest, "--savevm", f"{tmp_path}/state", "--savevm-at", "150_000"))
    assert saving.output == whole.output
    assert _report(tmp_path) == wanted
    rest = _ok(command("run", "--loadvm", f"{tmp_path}/state", "--json", f"{tmp_path}/json"))
    assert whole.output.endswith(rest.output)
    assert 0 < len(rest.output) < len(whole.output)
    assert _report(tmp_path) == wanted


def test_a_run_that_is_saved_where_it_ends(command: Command, tmp_path: Path) -> None:
    whole = _ok(command(*GUEST))
    state = f"{tmp_path}/state"
    first = command(*GUEST, "--max-instructions", "150_000", "--savevm", state)
    assert first.status == 124
    second = command("run", "--loadvm", state, "--max-instructions", "200_000", "--savevm", state)
    assert second.status == 124
    third = _ok(command("run", "--loadvm", state))
    assert first.output + second.output + third.output == whole.output
    assert first.output
    assert third.output


def test_a_recorded_run_is_repeated(command: Command, tmp_path: Path) -> None:
    recording, report = f"{tmp_path}/input", ("--json", f"{tmp_path}/json")
    recorded = _ok(command(*GUEST, "--record", recording, *report))
    wanted = _report(tmp_path)
    replayed = _ok(command("run", "--replay", recording, *report))
    assert replayed.output == recorded.output
    assert _report(tmp_path) == wanted


def test_a_disk_image_is_booted_on_from_where_it_was(command: Command, tmp_path: Path) -> None:
    """The state brings RAM with it, and not the image: that must be there, and be the same."""
    image = tmp_path / "sector"
    image.write_bytes(
        bytes.fromhex("b9 ff ff e2 fe b8 58 0e cd 10 30 c0 e6 f4".replace(" ", "")).ljust(510, b"\0") + b"\x55\xaa"
    )
    state = f"{tmp_path}/state"
    whole = command("run", str(image), "-m", "1M")
    assert "X" in whole.output
    command("run", str(image), "-m", "1M", "--savevm", state, "--savevm-at", "1000")
    rest = command("run", "--loadvm", state)
    assert (rest.status, _said(rest)) == (whole.status, _said(whole))
    assert "X" in rest.output
    image.write_bytes(bytes(510) + b"\x55\xaa")
    other = command("run", "--loadvm", state)
    assert other.status == 2
    assert other.errors.startswith("trapgate: error: wanted a snapshot of a machine with the image ")
