"""I/O as a second axis: what frames, blocks and lines cost through emulated and through paravirtual devices.

One boot does every kind of work, with a mark behind each. Each is done for a few units and then for those and N more,
so that the difference is N units and nothing else. The network's other end is the scripted peer; every figure but the
host's seconds is the same in every run.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from trapgate import __version__
from trapgate.arch.cpuid import PROFILES
from trapgate.lab.console import ProgressCallback
from trapgate.lab.courses import Course, Running
from trapgate.lab.errors import ConflictingOptions, IoNotDone, UnknownIo, UnknownTechnique
from trapgate.lab.guest import Guest, find_guest
from trapgate.lab.io_marks import Mark, MarkedConsole, Spent, spent
from trapgate.lab.options import BARE, DEBIAN, DriveOptions, NicOptions, RunOptions
from trapgate.lab.parallel import Failure, run_parallel
from trapgate.lab.run import run_guest
from trapgate.lab.statistics import SCHEMA_VERSION
from trapgate.vmm.techniques import TECHNIQUES

#: The embedded guest with drivers.
IO_GUEST = "io"
EMULATED, PIO, PARAVIRTUAL, VIRTIO, HYPERCALL = "emulated", "pio", "paravirtual", "virtio", "hypercall"
#: For each guest, what it has drivers for. `pio` is `emulated` with the disk by programmed I/O.
NAMES = {
    DEBIAN: (EMULATED, PIO, PARAVIRTUAL, VIRTIO), IO_GUEST: (EMULATED, PARAVIRTUAL, VIRTIO, HYPERCALL),
}  # fmt: skip
WORKS = ("send", "receive", "read", "write", "console")
#: Units that are done before, and taken off.
FEW = 16
DEFAULT_UNITS = 1000
BLOCK, LINE = 4096, 64
#: Payload of a TCP segment in a frame of 1514 bytes, with time stamps.
SEGMENT = 1448
#: Devices whose accesses are those of a kind of work, by the beginnings of their names.
DEVICES = {
    "send": ("net0",), "receive": ("net0",), "read": ("ide", "virtio-blk0"), "write": ("ide", "virtio-blk0"),
    "console": ("com1", "virtio-console"),
}  # fmt: skip
UNITS = {"send": "frame", "receive": "frame", "read": "block", "write": "block", "console": "line"}

#: What Debian's shell runs: each work for so many units, and marks.
SCRIPT = f"""mark() {{ printf '\\036io:%s\\n' $1; }}
do_send() {{ nc 10.0.2.2 9 < /tmp/$1; }}
do_receive() {{ echo $(($1 * {SEGMENT})) | nc 10.0.2.2 19 > /dev/null; }}
do_read() {{ dd if=DISK of=/dev/null bs={BLOCK} count=$1 iflag=direct 2> /dev/null; }}
do_write() {{ dd if=/dev/zero of=DISK bs={BLOCK} count=$1 oflag=direct 2> /dev/null; }}
do_console() {{ dd if=/dev/zero of=TERMINAL bs={LINE} count=$1 2> /dev/null; }}
ifconfig eth0 10.0.2.15 up
until [ "$(cat /sys/class/net/eth0/carrier)" = 1 ]; do sleep 0.1; done
until [ -b DISK ] && [ -c TERMINAL ]; do sleep 0.1; done
ping -c 1 10.0.2.2 > /dev/null || exit 1
for count in {FEW} $(({FEW} + COUNT)); do head -c $((count * {SEGMENT})) /dev/zero > /tmp/$count; done
mark start
for work in {" ".join(WORKS)}; do
    do_$work {FEW} || exit 1; mark $work-warm
    do_$work {FEW} || exit 1; mark $work-few
    do_$work $(({FEW} + COUNT)) || exit 1; mark $work-all
done
"""


@dataclass(frozen=True, slots=True)
class WorkCost:
    """What one kind of work cost for each of its `count` units (frames, blocks or lines)."""

    work: str
    count: int
    #: Bytes of all units.
    length: int
    spent: Spent
    hz: int

    @property
    def accesses(self) -> float:
        """Accesses to the device's registers for a unit."""
        names = DEVICES[self.work]
        return sum(count for name, count in self.spent.accesses.items() if name.startswith(names)) / self.count

    @property
    def exits(self) -> float:
        """#VMEXITs for a unit."""
        return self.spent.exits / self.count

    @property
    def cycles(self) -> float:
        """Modelled cycles for a unit, without time asleep."""
        return self.spent.busy / self.count

    @property
    def cycles_per_byte(self) -> float:
        """The same for a byte."""
        return self.spent.busy / self.length

    @property
    def switch_share(self) -> float:
        """The share of world switches in the cycles, 0 to 1."""
        return self.spent.switches / self.spent.busy if self.spent.busy else 0.0

    @property
    def modelled_rate(self) -> float:
        """Bytes in a modelled second."""
        return self.length * self.hz / self.spent.cycles

    @property
    def host_rate(self) -> float:
        """Bytes in a second of the host's CPU time."""
        return self.length / self.spent.host_seconds if self.spent.host_seconds > 0 else 0.0

    def report(self) -> dict[str, object]:
        """As JSON has it."""
        return {
            "unit": UNITS[self.work], "count": self.count, "bytes": self.length,
            "accesses_per_unit": round(self.accesses, 3), "exits_per_unit": round(self.exits, 3),
            "cycles_per_unit": round(self.cycles, 1), "cycles_per_byte": round(self.cycles_per_byte, 3),
            "world_switch_share": round(self.switch_share, 4), "bytes_per_modelled_second": round(self.modelled_rate),
            "host": {"bytes_per_second": round(self.host_rate)},
        }  # fmt: skip


@dataclass(frozen=True, slots=True)
class IoRun:
    """One boot: its technique and kind of devices, and what each work cost, or the error that it ended with."""

    technique: str
    io: str
    works: Sequence[WorkCost] = ()
    error: str = ""
    traceback: str = ""


@dataclass(frozen=True, slots=True)
class IoComparison:
    """All of them, in the order asked for."""

    options: RunOptions
    description: str
    runs: Sequence[IoRun]

    @property
    def complete(self) -> bool:
        """Whether every run came to its end."""
        return not any(run.error for run in self.runs)

    def report(self) -> dict[str, object]:
        """As JSON has it. All but what is below `host` is the same every time."""
        runs: dict[str, dict[str, object]] = {}
        for run in self.runs:
            works = {work.work: work.report() for work in run.works}
            runs.setdefault(run.technique, {})[run.io] = {"error": run.error} if run.error else works
        return {
            "schema_version": SCHEMA_VERSION,
            "trapgate_version": __version__,
            "guest": self.description,
            "runs": runs,
        }


@dataclass(frozen=True, slots=True)
class IoJob:
    """One boot: `options` with their technique, the kind of devices, how many units of each work."""

    options: RunOptions
    io: str
    units: int


def compare_io(
    options: RunOptions, techniques: Sequence[str], kinds: Sequence[str], units: int, jobs: int,
    progress: ProgressCallback = lambda *stage: None,
) -> IoComparison:  # fmt: skip
    """Run the guest under each technique with each kind of devices, `jobs` at a time.

    Raises RunError, FirmwareError.
    """
    check_io(options, techniques, kinds)
    # What has to be fetched or built is, once.
    guest = find_guest(_with_devices(options, kinds[0], Path("disk"), BARE), progress)
    from trapgate.lab.bare import usual_handlers

    usual_handlers(progress)
    # On the bare machine nobody answers hypercalls.
    pairs = [(name, io) for name in techniques for io in _kinds(options, kinds) if name != BARE or io != HYPERCALL]
    results = run_parallel(
        measure,
        [IoJob(replace(options, technique=name), io, units) for name, io in pairs],
        jobs,
        lambda number, done: progress(f"running {' '.join(pairs[number])}", int(done), int(done)),
    )
    runs = []
    for (name, io), result in zip(pairs, results, strict=True):
        if isinstance(result, Failure):
            result = IoRun(name, io, error=result.message, traceback=result.traceback)
        runs.append(result)
    return IoComparison(options, guest.description, runs)


def check_io(options: RunOptions, techniques: Sequence[str], kinds: Sequence[str]) -> None:
    """Raises ConflictingOptions, UnknownTechnique, UnknownIo."""
    for name in techniques:
        if name != BARE and name not in TECHNIQUES:
            raise UnknownTechnique(name, (BARE, *TECHNIQUES))
    if options.guest not in NAMES:
        wanted = f"the guest {DEBIAN} or {IO_GUEST} with --io"
        raise ConflictingOptions(wanted, repr(options.guest), f"use trapgate compare {DEBIAN} --io ...")
    for kind in kinds:
        if kind not in NAMES[options.guest]:
            raise UnknownIo(kind, NAMES[options.guest])
    if options.command is not None or options.drives or options.nics or options.append is not None:
        wanted = "--io without a command, --append, drives or network cards"
        raise ConflictingOptions(wanted, "one of them", "leave it out: the comparison brings its own")


def _kinds(options: RunOptions, kinds: Sequence[str]) -> list[str]:
    """The devices that `paravirtual` stands for: virtio, and on the embedded guest hypercalls too."""
    found: list[str] = []
    for kind in kinds:
        both = (VIRTIO,) if options.guest == DEBIAN else (VIRTIO, HYPERCALL)
        found += both if kind == PARAVIRTUAL else (kind,)
    return list(dict.fromkeys(found))


def _with_devices(options: RunOptions, io: str, disk: Path, technique: str, units: int = 0) -> RunOptions:
    """The options of one run."""
    interface: Literal["ide", "virtio", "hypercall"] = "ide"
    model: Literal["e1000", "virtio", "hypercall"] = "e1000"
    if io in (VIRTIO, PARAVIRTUAL):
        interface = model = "virtio"
    elif io == HYPERCALL:
        interface = model = "hypercall"
    found = replace(
        options, technique=technique, drives=(DriveOptions(file=disk, interface=interface, format="raw"),),
        nics=(NicOptions(network="peer", model=model),),
    )  # fmt: skip
    if options.guest == IO_GUEST:
        return replace(found, append=f"io={io} n={units}")
    is_virtio = interface == "virtio"
    words = {"DISK": "/dev/vda" if is_virtio else "/dev/sda", "TERMINAL": "/dev/hvc0" if is_virtio else "/dev/ttyS0"}
    script = SCRIPT.replace("COUNT", str(units))
    for word, value in words.items():
        script = script.replace(word, value)
    # The generic kernel has the drivers of both kinds, so that the kernel is the same.
    devices = ("virtio-serial-pci",) if is_virtio else ()
    append = "libata.dma=0" if io == PIO else None
    return replace(found, generic_kernel=True, devices=devices, command=("sh", "-c", script), append=append)


class _Watched(Course):
    """A run whose console reads the machine's counters."""

    def __init__(self, console: MarkedConsole) -> None:
        self._console = console

    def load(self, machine: Running, guest: Guest) -> None:
        """Put the guest into the machine. Raises FirmwareError."""
        super().load(machine, guest)
        self._console.read = machine.statistics


def measure(job: IoJob) -> IoRun:
    """One boot, in a process of its own. Raises IoNotDone for a guest that failed, RunError and the like."""
    console = MarkedConsole()
    with tempfile.TemporaryDirectory() as folder:
        image = Path(folder) / "disk.img"
        with image.open("wb") as file:
            file.truncate(max((job.units + FEW) * BLOCK, 1 << 20))
        options = _with_devices(job.options, job.io, image, job.options.technique, job.units)

        outcome = run_guest(options, console, course=_Watched(console))
    names = [mark.name for mark in console.marks]
    done = [work for work in WORKS if f"{work}-all" in names]
    if outcome.status or not done:
        said = bytes(console.data[-200:]).decode("ascii", "replace").strip().split("\n")[-1]
        raise IoNotDone(job.io, f"status {outcome.status} and {said!r}")
    hz = PROFILES[options.processor].frequency
    return IoRun(options.technique, job.io, [_cost(work, console.marks, job.units, hz) for work in done])


def _cost(work: str, marks: list[Mark], units: int, hz: int) -> WorkCost:
    """The difference of a work's two turns."""
    names = [mark.name for mark in marks]
    place = names.index(f"{work}-all")
    before, few, full = (spent(mark) for mark in marks[place - 2 : place + 1])
    found = (full - few) - (few - before)
    if work == "send":
        return WorkCost(work, found.sent, found.sent_bytes, found, hz)
    if work == "receive":
        return WorkCost(work, found.received, found.received_bytes, found, hz)
    return WorkCost(work, units, units * (LINE if work == "console" else BLOCK), found, hz)
