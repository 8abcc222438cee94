"""Every error that the package can show to its user, by its whole text; none is left out."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path

import pytest

from trapgate.cli import status
from trapgate.cli.main import one_line, report_error
from trapgate.machine.errors import UnimplementedDevice
from trapgate.vmm.errors import EntryRefused, UnexpectedExit

from . import (
    api_cases,
    bench_cases,
    cli_cases,
    debug_cases,
    disk_cases,
    display_cases,
    drive_cases,
    firmware_cases,
    io_cases,
    lab_cases,
    machine_cases,
    network_cases,
    port_cases,
    snapshot_cases,
    technique_cases,
    vmm_cases,
)
from .cases import CASES, Case, Made, World, recorder
from .sites import error_classes, sites

pytestmark = pytest.mark.engine
#: Each file of cases has added its own to CASES.
FILES = (
    api_cases,
    bench_cases,
    cli_cases,
    debug_cases,
    disk_cases,
    display_cases,
    drive_cases,
    firmware_cases,
    io_cases,
    lab_cases,
    machine_cases,
    snapshot_cases,
    network_cases,
    port_cases,
    technique_cases,
    vmm_cases,
)
#: What was wanted, what was got, what to do; perhaps with a device's name or a mark before it.
SHAPE = re.compile(r"([\w -]+: )?wanted .+, got .+: .+")


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    return Results(tmp_path_factory.mktemp("errors"))


class Results:
    """What the cases have made; each is carried out once in a process."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._found: dict[Case, list[Made]] = {}

    def __getitem__(self, case: Case) -> list[Made]:
        """The errors of the case's class and text that its action makes."""
        if case not in self._found:
            folder = Path(tempfile.mkdtemp(dir=self._folder))
            with pytest.MonkeyPatch.context() as monkeypatch:
                monkeypatch.chdir(folder)
                self._found[case] = make(case, World(folder, monkeypatch))
        return self._found[case]


def make(case: Case, world: World) -> list[Made]:
    with recorder() as made:
        try:
            case.action(world)
        except (Exception, SystemExit) as error:
            if not any(error is one.error for one in made) and not isinstance(error, SystemExit):
                raise
    found = [one for one in made if type(one.error).__name__ == case.kind and one.text == case.text]
    assert found, f"wanted {case.kind}: {case.text}\ngot {[(type(one.error).__name__, one.text) for one in made]}"
    return found


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.kind}-{case.text[:60]}")
def test_the_whole_text(case: Case, results: Results, capsys: pytest.CaptureFixture[str]) -> None:
    error = results[case][0].error
    assert SHAPE.fullmatch(case.text)
    capsys.readouterr()
    expected = status.UNIMPLEMENTED if isinstance(error, UnimplementedDevice) else status.BAD_INPUT
    if isinstance(error, EntryRefused | UnexpectedExit):
        expected = status.INTERNAL_ERROR  # mistakes of the hypervisor's
    assert report_error(error) == expected
    assert capsys.readouterr().err == f"trapgate: error: {one_line(case.text)}\n"


def test_no_error_is_without_a_case(results: Results) -> None:
    places = sites()
    made = [one for case in CASES for one in results[case]]
    reached = {s for one in made for s in places if s.file == one.file and s.first <= one.line <= s.last}
    assert sorted(map(str, places - reached)) == []


def test_the_sources_are_searched_for_what_they_have() -> None:
    """The search finds classes through several bases and files, raised with and without a call, and returned ones."""
    names = {name for _, name in error_classes()}
    assert {"MachineError", "UnknownGuest", "UnknownRegister", "AptMissing", "InvalidTraceOption"} <= names
    assert ("api/results.py", "Unimplemented") not in error_classes()
    kinds = {(site.file, site.kind) for site in sites()}
    assert {("api/machine.py", "NotBooted"), ("cli/main.py", "UnknownOption")} <= kinds
    assert {name for name in names if name not in {kind for _, kind in kinds}} == {
        "ApiError", "BlockError", "DebianUnavailable", "FirmwareError", "ImageError", "MachineError", "RecordingError",
        "RunError", "SnapshotError", "VmmError", "VmmMemoryError", "NetworkError",
    }  # fmt: skip
