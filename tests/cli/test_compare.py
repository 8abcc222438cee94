"""`trapgate compare` and `trapgate run --technique` as a user meets them."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from support import Command, child_environment

pytestmark = pytest.mark.engine

SMALL = ("bench", "--append", "bench=pagefault n=50", "--memory", "32M")
#: Enables the receive interrupt, sends "? " and then echoes what is received, by polling; ESC ends with value 20.
ECHO = (
    "ba f9 03 b0 01 ee ba f8 03 b0 3f ee b0 20 ee ba fd 03 ec a8 01 74 f8 ba f8 03 ec 3c 1b 74 03 ee eb ed b0 14 e6 f4"
)
TRIPLE_FAULT = "0f 01 1e 10 7c cc"  # lidt [7C10h] with limit 0; int3
#: CPUID leaf 1: writes ECX's bit 31, a hypervisor, to COM1 as 0 or 1; then exits with value 0.
IS_THERE_A_HYPERVISOR = "66 b8 01 00 00 00 0f a2 66 c1 e9 1f 88 c8 04 30 ba f8 03 ee b0 00 e6 f4"


@pytest.fixture
def sector(tmp_path: Path) -> Path:
    return tmp_path / "sector"


def write(sector: Path, code: str) -> str:
    sector.write_bytes(bytes.fromhex(code).ljust(510, b"\0") + b"\x55\xaa")
    return str(sector)


def without_host(report: dict[str, object]) -> dict[str, object]:
    runs = report["runs"]
    assert isinstance(runs, dict)
    for run in runs.values():
        host = {"seconds", "guest_mips", "translated_blocks", "handlers_built", "regions", "hot_share", "hottest"}
        assert set(run.pop("host")) == host
    return report


def test_compare_tables_every_technique_and_is_the_same_every_time(process: Command, tmp_path: Path) -> None:
    reports = []
    for jobs in ("1", "3"):
        path, table = tmp_path / f"{jobs}.json", tmp_path / f"{jobs}.csv"
        wanted = "bare,shadow,nested-tagged"
        answer = process(
            "compare", *SMALL, "--techniques", wanted, "--jobs", jobs, "--json", str(path), "--csv", str(table)
        )
        assert answer.status == 0, answer.errors
        reports.append((without_host(json.loads(path.read_text())), table.read_text(), answer.output))
    assert reports[0] == reports[1]
    report, table_text, output = reports[0]
    runs = report["runs"]
    assert isinstance(runs, dict)
    assert list(runs) == ["bare", "shadow", "nested-tagged"]
    assert report["same_console"] is True
    assert runs["bare"]["slowdown"] == 1.0 < runs["nested-tagged"]["slowdown"] < runs["shadow"]["slowdown"]
    assert runs["shadow"]["exits"]["exception_14"]["samples"] > 50
    lines = output.splitlines()
    assert lines[0] == "bench, processor opteron-2007, costs opteron-2007"
    assert lines[1].split() == list(runs)
    rows = {line[:28].strip(): line.split() for line in lines}
    assert rows["slowdown"][1:] == [f"{run['slowdown']:.3f}" for run in runs.values()]
    assert rows["exception_14"][1:] == [
        f"{run['exits'].get('exception_14', {'samples': 0})['samples']:,}" for run in runs.values()
    ]
    values = {
        (row["technique"], row["group"], row["name"]): row["value"] for row in csv.DictReader(table_text.split("\n"))
    }
    for name, run in runs.items():
        assert int(values[name, "run", "cycles"]) == run["cycles"]
        assert int(values[name, "tlb", "dtlb_misses"]) == run["tlb"]["dtlb_misses"]


def test_compare_says_that_a_guest_sees_a_difference(process: Command, sector: Path, tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    arguments = ("compare", write(sector, IS_THERE_A_HYPERVISOR), "--techniques", "bare,nested", "--json", str(path))
    answer = process(*arguments)
    assert answer.status == 1
    assert "trapgate: the guest's console differs under bare and nested:\n@@ -1 +1 @@\n-0\n+1\n" in answer.errors
    report = json.loads(path.read_text())
    assert report["same_console"] is False
    assert report["runs"]["nested"]["console_difference"] == ["@@ -1 +1 @@", "-0", "+1"]


def test_compare_leaves_out_what_a_processor_cannot_do(process: Command, sector: Path) -> None:
    answer = process("compare", write(sector, "b0 00 e6 f4"), "--cpu", "opteron-2006")
    assert answer.status == 0, answer.errors
    assert [word for word in answer.output.splitlines()[1].split() if word != "software"] == [
        "bare", "shadow", "shadow-tagged",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (("compare", "--jobs", "0"), "wanted a whole number of runs at a time, from 1 to 64, got '0': correct --jobs"),
        (("compare", "--jobs", "x"), "wanted a whole number of runs at a time, from 1 to 64, got 'x': correct --jobs"),
        (("compare", "--techniques", "bare,bare"),
         "wanted each technique once, got bare twice: leave one out of --techniques"),
        (("compare", "--csv", "/nowhere/x"),
         "wanted a file that can be written at /nowhere/x, got no directory /nowhere: name another file with --csv"),
        (("run", "--costs", "z80"),
         "wanted a cost profile that trapgate has (core2-2006, opteron-2006, opteron-2007, "
         "opteron-2007-plain, pentium4-2005), got 'z80': "
         "choose one with --costs"),
        (("run", "--technique", "nested", "--cpu", "486"),
         "technique nested: wanted a processor with AMD-V, got 486: choose another with --cpu"),
        (("run", "--technique", "shadow", "--cpu", "pentium3"),
         "technique shadow: wanted a processor with AMD-V, got pentium3: choose another with --cpu"),
        (("run", "--technique", "nested", "--cpu", "opteron-2006"),
         "technique nested: wanted a processor with nested paging, got opteron-2006: choose another with --cpu"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_in_one_line(command: Command, arguments: tuple[str, ...], error: str) -> None:
    answer = command(*arguments)
    assert (answer.status, answer.output) == (2, "")
    assert answer.errors.splitlines()[-1] == f"trapgate: error: {error}"


@pytest.mark.parametrize("arguments", [("run", "--technique", "magic"), ("compare", "--techniques", "bare,magic")])
def test_unknown_techniques(command: Command, arguments: tuple[str, ...]) -> None:
    from trapgate.vmm.techniques import TECHNIQUES

    answer = command(*arguments)
    known = ", ".join(("bare", *TECHNIQUES))
    assert (answer.status, answer.output, answer.errors) == (
        2, "", f"trapgate: error: wanted a technique that trapgate has ({known}), got 'magic': choose one of these\n",
    )  # fmt: skip


@pytest.mark.parametrize("technique", ["shadow", "nested-tagged"])
def test_input_reaches_a_virtual_machine(process: Command, sector: Path, technique: str) -> None:
    answer = process("run", write(sector, ECHO), "--technique", technique, input=b"ab\x1b")
    assert (answer.status, answer.output) == (41, "? ab")


@pytest.mark.parametrize("technique", ["bare", "shadow", "nested"])
def test_a_triple_fault_shows_the_guests_registers(process: Command, sector: Path, technique: str) -> None:
    answer = process("run", write(sector, TRIPLE_FAULT), "--technique", technique)
    assert answer.status == 3
    lines = answer.errors.splitlines()
    assert lines[0] == "trapgate: triple fault: the guest's processor has shut down"
    assert lines[1].startswith("rax=")
    assert any(line.startswith("rip=0000000000007c05  rflags=") for line in lines)
    assert any("int3" in line for line in lines)
    # The hypervisor sees the #GP of the last delivery: it intercepts them while EFER.SVME is clear.
    assert ("last exit: exception_13" in lines) == (technique != "bare")


def test_stats_have_a_table_of_exits(process: Command, sector: Path) -> None:
    answer = process("run", write(sector, "b0 00 e6 f4"), "--technique", "nested", "--stats")
    exits = [line for line in answer.errors.splitlines() if "ioio" in line]
    assert len(exits) == 1
    assert exits[0].replace("│", " ").split()[1:4] == ["3", "100.00%", "100.00%"]  # two of them the BIOS's


def test_mistakes_of_the_hypervisor_are_said_in_one_line(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    from trapgate.vmm.errors import EntryRefused, UnexpectedExit
    from trapgate.vmm.vm import VirtualMachine

    for error in (EntryRefused("ASID is 0"), UnexpectedExit("task_switch", 0x7C00)):

        def run(vm: VirtualMachine, pause_at: int | None, error: Exception = error) -> str:
            raise error

        monkeypatch.setattr(VirtualMachine, "run", run)
        answer = command("run", *SMALL, "--technique", "nested", "--serial", "none")
        assert (answer.status, answer.output) == (70, "")
        assert answer.errors.splitlines()[-1] == f"trapgate: error: {error}"


def test_an_instruction_that_the_hypervisor_cannot_carry_out_ends_the_run(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    from trapgate.vmm.errors import DeviceInstruction
    from trapgate.vmm.vm import VirtualMachine

    def run(vm: VirtualMachine, pause_at: int | None) -> str:
        raise DeviceInstruction("fld dword ptr [eax]", 0x1000, 0xFEE0_0000)

    monkeypatch.setattr(VirtualMachine, "run", run)
    answer = command("run", *SMALL, "--technique", "nested", "--serial", "none")
    lines = [line for line in answer.errors.splitlines() if not line.startswith("trapgate: building")]
    assert (answer.status, answer.output) == (4, "")
    assert lines[0] == (
        "trapgate: memory-mapped device: wanted an access by an instruction that the emulator knows, got `fld dword "
        "ptr [eax]` at rip 0x1000, guest-physical 0xfee00000: run the guest on the bare machine"
    )
    assert lines[1].startswith("rax=")


def test_ctrl_c_ends_all_runs(sector: Path) -> None:
    arguments = [sys.executable, "-m", "trapgate", "compare", write(sector, "eb fe"), "--jobs", "6"]
    process = subprocess.Popen(
        arguments, env=child_environment(), start_new_session=True, stderr=subprocess.PIPE, stdout=subprocess.PIPE,
        # The tests may run where SIGINT is ignored: in a shell's background.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    assert process.stderr is not None
    line = b""
    while line != b"trapgate: running nested-tagged\n":
        line = process.stderr.readline()
        assert line
    os.killpg(process.pid, signal.SIGINT)
    # Ends when the last process that holds standard error has gone.
    output, errors = process.communicate(timeout=60)
    assert (process.returncode, output, errors) == (130, b"", b"")
