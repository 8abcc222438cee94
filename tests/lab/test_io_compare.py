"""I/O as a second axis: the embedded guest's drivers, their checks, and the shapes of what each kind costs."""

from __future__ import annotations

import functools
import json
import os
from pathlib import Path

import pytest

from support import Command
from trapgate.lab.compare import CapturedConsole
from trapgate.lab.debian import DebianUnavailable, fetch_debian
from trapgate.lab.debian_modules import fetch_generic
from trapgate.lab.io_compare import WORKS, IoJob, IoRun, WorkCost, measure
from trapgate.lab.options import DEBIAN, DriveOptions, NicOptions, RunOptions
from trapgate.lab.run import RunOutcome, run_guest

pytestmark = pytest.mark.engine
LONG = bool(os.environ.get("TRAPGATE_IO"))
TECHNIQUES = ["bare", "nested-tagged", "shadow-tagged", "software"]
CHECKS = {
    "disk": [
        "blocks are written and read back",
        "a block behind the last one is an error",
        "and the next request goes on",
    ],
    "network": ["frames come back from the peer", "300 frames in a burst"],
}
MEMORY = 32 << 20


def run_checks(folder: Path, technique: str, drives: str = "", model: str = "") -> tuple[list[str], RunOutcome]:
    """The lines of the embedded guest's checks, with a disk and a card of a kind."""
    image = folder / "disk.img"
    image.write_bytes(bytes(1 << 20))
    options = RunOptions(
        guest="io", technique=technique, memory_size=MEMORY, max_instructions=100_000_000,
        drives=(DriveOptions(file=image, interface=drives, format="raw"),) if drives else (),  # type: ignore[arg-type]
        nics=(NicOptions(network="peer", model=model),) if model else (),  # type: ignore[arg-type]
    )  # fmt: skip
    console = CapturedConsole()
    outcome = run_guest(options, console)
    return bytes(console.data).decode().splitlines(), outcome


def expected(kind: str) -> list[str]:
    """What the guest says when devices of one kind are there."""
    lines = []
    for driver in ("emulated", "virtio", "hypercall"):
        for part, names in CHECKS.items():
            lines += (
                [f"{driver} {part}: {name} ... ok" for name in names]
                if driver == kind
                else [f"{driver} {part} ... not there"]
            )
    return [*lines, "io: 0 failed"]


DEVICES = {"emulated": ("ide", "e1000"), "virtio": ("virtio", "virtio"), "hypercall": ("hypercall", "hypercall")}
#: Enough of each technique and each kind; all of them with TRAPGATE_IO.
PAIRS = [
    ("emulated", "bare"), ("emulated", "software"), ("virtio", "nested-tagged"), ("virtio", "shadow-tagged"),
    ("hypercall", "bare"), ("hypercall", "nested-tagged"), ("hypercall", "software"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "technique"), [(kind, name) for kind in DEVICES for name in TECHNIQUES] if LONG else PAIRS
)
def test_the_embedded_drivers_pass_their_checks(tmp_path: Path, kind: str, technique: str) -> None:
    """On the bare machine there is no hypervisor, and so nobody finds what is behind hypercalls."""
    lines, outcome = run_checks(tmp_path, technique, *DEVICES[kind])
    assert lines == expected("" if (kind, technique) == ("hypercall", "bare") else kind)
    assert outcome.status == 0
    wrong = {name: faults for name, faults in outcome.statistics.device_faults.items() if "net" in name}
    assert not wrong


@functools.cache
def costs(technique: str, io: str) -> dict[str, WorkCost]:
    found = measure(IoJob(RunOptions(guest="io", technique=technique, memory_size=MEMORY), io, 64))
    return {work.work: work for work in found.works}


def test_a_hypercall_is_one_exit_for_a_frame_and_for_a_line() -> None:
    found = costs("nested-tagged", "hypercall")
    assert set(found) == set(WORKS)
    assert found["send"].exits == found["console"].exits == 1
    assert all(work.accesses == 0 for work in found.values())
    # A block: the call, HLT, the call that takes the event, the end of the interrupt.
    assert found["read"].exits == found["write"].exits == 4


def test_emulated_devices_take_an_exit_for_every_access() -> None:
    """IDE's DMA: 14 accesses for a command; the serial port: two for a byte; a ring: one for a frame."""
    bare, here = costs("bare", "emulated"), costs("nested-tagged", "emulated")
    assert {name: work.accesses for name, work in here.items()} == {
        "send": 1, "receive": 2, "read": 14, "write": 14, "console": 128,
    }  # fmt: skip
    assert here["read"].exits == 14 + 3
    assert here["send"].exits == 1
    assert here["console"].exits == 128
    assert all(work.exits == 0 for work in bare.values())
    # The disk and the wire take the same time; the processor does not.
    assert here["read"].cycles > 1.5 * bare["read"].cycles
    assert here["send"].modelled_rate == pytest.approx(bare["send"].modelled_rate, rel=0.01)
    # A gigabit wire carries 1514 bytes of 1538.
    assert bare["receive"].modelled_rate == pytest.approx(1e9 / 8 * 1514 / 1538, rel=0.01)


def test_paravirtual_devices_take_fewer_exits_and_cycles() -> None:
    emulated, virtio, hypercall = (costs("nested-tagged", io) for io in ("emulated", "virtio", "hypercall"))
    for work in ("read", "write"):
        assert emulated[work].exits > 3 * virtio[work].exits > 3 * hypercall[work].exits
        assert emulated[work].cycles > 4 * virtio[work].cycles > 4 * hypercall[work].cycles
    assert virtio["send"].exits < 0.1  # a burst takes one notification
    assert emulated["console"].cycles > 200 * hypercall["console"].cycles


def test_the_figures_are_the_same_every_time() -> None:
    again = measure(IoJob(RunOptions(guest="io", technique="nested-tagged", memory_size=MEMORY), "emulated", 64))
    first = costs("nested-tagged", "emulated")
    for work in again.works:
        one, two = work.report(), first[work.work].report()
        assert {**one, "host": 0} == {**two, "host": 0}


def test_the_command_prints_a_line_for_each(tmp_path: Path, command: Command) -> None:
    json_file, csv_file = tmp_path / "io.json", tmp_path / "io.csv"
    answer = command(
        "compare", "io", "--io", "paravirtual", "--techniques", "nested-tagged", "--units", "20", "--memory", "32M",
        "--json", str(json_file), "--csv", str(csv_file),
    )  # fmt: skip
    assert answer.status == 0
    lines = answer.output.splitlines()
    assert lines[2].split()[:6] == ["work", "per", "technique", "devices", "accesses", "exits"]
    rows = [line.split()[:6] for line in lines[3:] if line]
    assert [row[:4] for row in rows[:2]] == [["send", "frame", "nested-tagged", io] for io in ("virtio", "hypercall")]
    assert rows[-1] == ["console", "line", "nested-tagged", "hypercall", "0.0", "1.0"]
    runs = json.loads(json_file.read_text())["runs"]
    assert runs["nested-tagged"]["hypercall"]["send"]["exits_per_unit"] == 1
    assert "nested-tagged,hypercall,send,exits_per_unit,1.0" in csv_file.read_text().split("\n")


@pytest.mark.debian
@pytest.mark.skipif(not LONG, reason="long: set TRAPGATE_IO=1 to run it")
@pytest.mark.parametrize("technique", TECHNIQUES)
def test_debian_with_both_kinds(technique: str) -> None:
    try:
        fetch_generic(fetch_debian(), ("e1000",))
    except (DebianUnavailable, OSError) as error:
        pytest.skip(f"Debian's packages cannot be had here: {error}")

    def one(io: str) -> IoRun:
        return measure(IoJob(RunOptions(guest=DEBIAN, technique=technique), io, 300))

    emulated, virtio = ({work.work: work for work in one(io).works} for io in ("emulated", "virtio"))
    for work in ("receive", "read", "write", "console"):
        assert emulated[work].accesses > virtio[work].accesses
        if technique != "bare":
            assert emulated[work].exits > virtio[work].exits
