"""Errors of saved states and of recordings."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from snapshots.machines import make
from trapgate.cli.errors import CommandLineError
from trapgate.devices.disks.raw_image import RawImage
from trapgate.engine.handlers import HandlerStore
from trapgate.lab.errors import ConflictingOptions, NothingToSave
from trapgate.lab.options import BARE
from trapgate.lab.recordings import (
    NotARecording,
    RecordingDamaged,
    RecordingUnreadable,
    RecordingUnwritable,
    ReplayDiverged,
    ReplayOfAnother,
    UnknownRecordingVersion,
    read_recording,
)
from trapgate.lab.recordings.course import _compare
from trapgate.lab.recordings.source import ReplaySource
from trapgate.lab.recordings.stream import MAGIC, VERSION, Check, Delivery, Writer
from trapgate.lab.snapshots import (
    CannotTake,
    MachineState,
    NotASnapshot,
    SnapshotDamaged,
    SnapshotOfAnother,
    SnapshotUnreadable,
    SnapshotUnwritable,
    UnknownSnapshotVersion,
    container,
    graph,
    take,
    write,
)
from trapgate.lab.snapshots.configuration import check_configuration
from trapgate.lab.snapshots.content import Content
from trapgate.lab.snapshots.file import MAGIC as STATE
from trapgate.lab.snapshots.hypervisor import host_of
from trapgate.lab.snapshots.media import MediumState, check_image, check_medium
from trapgate.machine.clock import Clock
from trapgate.machine.control import RunControl
from trapgate.machine.errors import SnapshotMismatch
from trapgate.machine.outside import Outside

from .cases import World, case

_NOTHING = MachineState({}, {}, b"", Content(()))


def _cli(*arguments: str) -> Callable[[World], object]:
    return lambda world: world.cli("run", *arguments)


# -- saved states


def _state(change: Callable[[bytes], bytes]) -> Callable[[World], object]:
    def action(world: World) -> None:
        path = world.folder / "state"
        write(_NOTHING, path)
        path.write_bytes(change(path.read_bytes()))
        world.cli("run", "--loadvm", "state")

    return action


def _without_sections(world: World) -> None:
    container.write(world.folder / "state", STATE, 1, [])
    world.cli("run", "--loadvm", "state")


case(
    CommandLineError,
    "wanted --savevm with --savevm-at, got no file to save to: add --savevm FILE",
    _cli("real-loop", "--savevm-at", "5"),
)
case(
    CommandLineError,
    "wanted --loadvm without --record, got both: leave one of them out",
    _cli("--loadvm", "x", "--record", "y"),
)


def _other_memory(world: World) -> None:
    world.cli("run", "real-loop", "--savevm", "state", "--savevm-at", "10", "--serial", "none")
    world.cli("run", "--loadvm", "state", "-m", "64M")


case(
    CommandLineError,
    "wanted with --loadvm the options of then, got another memory size: leave it out",
    _other_memory,
)
case(
    NothingToSave,
    "wanted a run that can go on, to save its state, got one that ended (guest-exit): save it earlier with --savevm-at",
    _cli("real-loop", "--savevm", "state", "--serial", "none"),
)
case(
    NothingToSave,
    "wanted a run of 90000000 instructions to save, got one that ended (guest-exit): save it earlier with --savevm-at",
    _cli("real-loop", "--savevm", "state", "--savevm-at", "90_000_000", "--serial", "none"),
)
case(
    NotASnapshot,
    "wanted a snapshot in state, got another kind of file: name one that savevm has written",
    _state(lambda data: b"x" + data),
)
case(
    UnknownSnapshotVersion,
    "wanted a snapshot of format 1 in state, got format 2: load it with the version that wrote it",
    _state(lambda data: data[:16] + b"\2" + data[17:]),
)
case(
    SnapshotDamaged,
    "wanted a whole snapshot in state, got one whose section run was changed: use another copy of the file",
    _state(lambda data: data[:-1] + b"\xff"),
)
case(
    SnapshotDamaged,
    "wanted a whole snapshot in state, got one whose content makes no sense: use another copy of the file",
    _without_sections,
)
case(
    SnapshotUnreadable,
    "wanted a snapshot in none, got no such file or directory: name another file",
    _cli("--loadvm", "none"),
)
case(
    SnapshotUnwritable,
    "wanted to write a snapshot to none/state, got no such file or directory: make room, or name another file",
    lambda world: write(_NOTHING, Path("none/state")),
)
case(
    SnapshotOfAnother,
    "wanted a snapshot of a machine with BIOS yes, got one with no: start the machine as it was then",
    lambda world: check_configuration({"BIOS": True}, {"BIOS": False}),
)


def _other_image(world: World) -> None:
    image = RawImage(world.write("disk.img", bytes(1024)))
    check_image(image, MediumState("disk.img", {"size": 512}, {}))


case(
    SnapshotOfAnother,
    "wanted a snapshot of a machine with the image disk.img of 1024 bytes, got one with 512 bytes: "
    "start the machine as it was then",
    _other_image,
)


def _written_image(world: World) -> None:
    check_medium(RawImage(world.write("disk.img", bytes(1024)), writes=True))


case(
    CannotTake,
    "wanted a machine whose state can be saved, got one that writes into disk.img: run it without --write",
    _written_image,
)


def _inside(world: World) -> None:
    made = make(HandlerStore(), "nested")
    machine = cast(Any, made.machine)
    machine.backend.processor.in_guest = True
    take(machine)


case(
    CannotTake,
    "wanted a machine whose state can be saved, got a virtual machine inside its guest: let it run to its next exit",
    _inside,
)
case(
    CannotTake,
    "wanted a machine whose state can be saved, got a virtual machine on another kind of host: "
    "run it on trapgate's own processor",
    lambda world: host_of(cast(Any, SimpleNamespace(backend=None))),
)
case(
    CannotTake,
    "wanted a machine whose state can be saved, got one with a builtins.complex, of which nobody knows how: "
    "report it as a bug",
    lambda world: graph.take([1j], graph.Kinds((), ())),
)
case(
    CannotTake,
    "wanted a machine whose state can be saved, got one with a part that this machine does not have: "
    "report it as a bug",
    lambda world: graph.put([], [["list", [["keep"]]]], graph.Kinds((), ())),
)


class _Timer:
    name = "timer"

    def ring(self) -> None:
        """Nothing."""


def _missing_event(world: World) -> None:
    clock = Clock(1_000_000)
    clock.restore({"now": 0, "events": [[5, "timer.ring"]]})


def _event_too_many(world: World) -> None:
    clock = Clock(1_000_000)
    clock.schedule(5, _Timer().ring)
    clock.restore({"now": 0, "events": []})


case(
    SnapshotMismatch,
    "clock: wanted a snapshot with timer.ring, got one with nothing: take the snapshot again with this version",
    _missing_event,
)
case(
    SnapshotMismatch,
    "clock: wanted a snapshot with no events, got one with timer.ring: take the snapshot again with this version",
    _event_too_many,
)

# -- recordings


def _record(world: World) -> None:
    world.cli("run", "real-loop", "--record", "input", "--serial", "none")


def _changed(change: Callable[[dict[str, Any], dict[str, Any]], object]) -> Callable[[World], object]:
    """Replay a recording with another start and end."""

    def action(world: World) -> None:
        _record(world)
        recording = read_recording(Path("input"))
        start, end = dict(recording.start), dict(recording.end or {})
        change(start, end)
        writer = Writer(Path("input"), start)
        for entry in recording.entries:
            writer.add(entry)
        writer.finish(end)
        writer.close()
        world.cli("run", "--replay", "input", "--serial", "none")

    return action


def _bytes(change: Callable[[bytes], bytes]) -> Callable[[World], object]:
    def action(world: World) -> None:
        Writer(Path("input"), {}).close()
        path = world.folder / "input"
        path.write_bytes(change(path.read_bytes()))
        world.cli("run", "--replay", "input")

    return action


def _no_room(world: World) -> None:
    writer = Writer(Path("input"), {})
    writer.close()
    writer._file = cast(Any, open("/dev/full", "wb", buffering=0))  # noqa: SIM115
    writer.finish({})


case(
    ConflictingOptions,
    "wanted images that stay as they are for --record, got --write: leave it out",
    _cli("real-loop", "--record", "input", "--write"),
)
case(
    RecordingUnwritable,
    "wanted to record to none/input, got no such file or directory: make room, or name another file",
    lambda world: Writer(Path("none/input"), {}),
)
case(
    RecordingUnwritable,
    "wanted to record to input, got no space left on device: make room, or name another file",
    _no_room,
)
case(
    RecordingUnreadable,
    "wanted a recording in none, got no such file or directory: name another file",
    _cli("--replay", "none"),
)
case(
    NotARecording,
    "wanted a recording in input, got another kind of file: name one that --record has written",
    _bytes(lambda data: b"x" + data),
)
case(
    UnknownRecordingVersion,
    f"wanted a recording of format {VERSION} in input, got format 9: replay it with the version that wrote it",
    _bytes(lambda data: data[:16] + b"\x09" + data[17:]),
)
case(
    RecordingDamaged,
    "wanted a recording in input as it was written, got one that ends in its head: use another copy of the file",
    _bytes(lambda data: data[: len(MAGIC) + 1]),
)
case(
    RecordingDamaged,
    "wanted a recording in input as it was written, got one that was changed at byte 20: use another copy of the file",
    _bytes(lambda data: data[:21] + b"\xff" + data[22:]),
)
case(
    RecordingDamaged,
    "wanted a recording in input as it was written, got one that was changed at byte 32: use another copy of the file",
    _bytes(lambda data: data[:33] + b"\xff" + data[34:]),
)
case(
    RecordingDamaged,
    "wanted a recording in input as it was written, got one whose content makes no sense: use another copy of the file",
    _bytes(lambda data: data[:20]),
)
case(
    ReplayOfAnother,
    "wanted disk.img as it was recorded, got another content: replay it with the files of then",
    _changed(lambda start, end: (Path("disk.img").write_bytes(b"x"), start.update(files=[["disk.img", "0"]]))),
)
case(
    ReplayOfAnother,
    "wanted disk.img as it was recorded, got no such file or directory: replay it with the files of then",
    _changed(lambda start, end: start.update(files=[["disk.img", "0"]])),
)
case(
    ReplayOfAnother,
    "wanted the guest and its machine as it was recorded, got another content: replay it with the files of then",
    _changed(lambda start, end: start.update(machine="0")),
)
case(
    ReplayDiverged,
    "wanted the run that was recorded, with at its end the reason reset, got one with guest-exit: "
    "replay it with the version of trapgate that recorded it",
    _changed(lambda start, end: end.update(reason="reset")),
)


def _other_check(world: World) -> None:
    _compare(make(HandlerStore(), BARE).machine, Check(7, 5, 0, ""))


def _other_look(world: World) -> None:
    clock = Clock(1_000_000)
    outside = Outside(clock, RunControl())
    outside.visits = 2
    ReplaySource(outside, clock, [Delivery(1, 5, "console", b"x")], [], lambda: None).poll()


case(
    ReplayDiverged,
    "wanted the run that was recorded, with at look 7 the instructions 5, got one with 0: "
    "replay it with the version of trapgate that recorded it",
    _other_check,
)
case(
    ReplayDiverged,
    "wanted the run that was recorded, with input for console in look 1, cycle 5, got one with look 2, cycle 0: "
    "replay it with the version of trapgate that recorded it",
    _other_look,
)
