"""Runs that are recorded, and runs that repeat a recorded one."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from trapgate import __version__
from trapgate.lab.courses import Course, Running
from trapgate.lab.ends import End
from trapgate.lab.errors import ConflictingOptions
from trapgate.lab.guest import Guest
from trapgate.lab.options import RunOptions
from trapgate.lab.plain_options import to_plain
from trapgate.lab.processor_state import read_state
from trapgate.lab.recordings.errors import ReplayDiverged, ReplayOfAnother
from trapgate.lab.recordings.source import ReplaySource
from trapgate.lab.recordings.stream import Check, Delivery, Look, Period, Recording, Writer
from trapgate.lab.snapshots import Machine, content, plain
from trapgate.lab.snapshots.machine import describe, processor_of

#: Looks at the sources between two checks of what the run has done: at most 0.3 s of the guest's time.
VISITS_BETWEEN_CHECKS = 32


def digest_of_processor(machine: Machine) -> str:
    """What a processor has come to, wherever native code is left: a hexadecimal number."""
    processor, _ = processor_of(machine)
    digest = hashlib.sha256(plain.encode([processor.instructions, machine.clock.now, processor.idle_cycles]))
    for part in read_state(processor).block:
        digest.update(part)
    return digest.hexdigest()


def digest_of_machine(machine: Machine) -> str:
    """What a machine is made of and what is in its memory: a hexadecimal number."""
    _, ram = processor_of(machine)
    items = sorted(machine.fw_cfg.items.items())
    digest = hashlib.sha256(plain.encode([describe(machine), [list(item) for item in items]]))
    for number, piece in enumerate(content.take(ram).pieces):
        if piece is not None:
            digest.update(number.to_bytes(8, "little") + piece)
    return digest.hexdigest()


def digest_of_file(path: Path) -> str:
    """SHA-256 of a file. Raises ReplayOfAnother."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ReplayOfAnother(str(path), (error.strerror or "an error").lower()) from error


def _end_of(machine: Running, end: End) -> dict[str, Any]:
    processor, _ = processor_of(machine.machine)
    return {
        "reason": end.reason,
        "status": end.guest_status,
        "instructions": processor.instructions,
        "cycle": machine.machine.clock.now,
        "processor": digest_of_processor(machine.machine),
        "memory": digest_of_machine(machine.machine),
    }


class RecordedCourse(Course):
    """A run of which `path` gets all that comes in. Raises RecordingUnwritable as soon as that cannot be written."""

    def __init__(self, path: Path, options: RunOptions) -> None:
        """Raises ConflictingOptions."""
        if options.write:
            raise ConflictingOptions("images that stay as they are for --record", "--write", "leave it out")
        self._path = path
        self._files = [drive.file.absolute() for drive in options.drives]
        self._options = to_plain(options)
        self._writer: Writer | None = None

    def load(self, machine: Running, guest: Guest) -> None:
        """Put the guest into the machine and begin to record."""
        super().load(machine, guest)
        inner, outside = machine.machine, machine.machine.outside
        files = [[str(file), digest_of_file(file)] for file in self._files]
        start = {
            "version": __version__, "options": self._options, "files": files,
            "machine": digest_of_machine(inner), "description": guest.description,
        }  # fmt: skip
        self._writer = writer = Writer(self._path, start)
        writer.add(Period(0, outside.period))

        def delivered(cycle: int, place: str, data: bytes) -> None:
            writer.add(Delivery(outside.visits if outside.visiting else -1, cycle, place, bytes(data)))

        def visited() -> None:
            if outside.visits % VISITS_BETWEEN_CHECKS == 0:
                processor, _ = processor_of(inner)
                check = Check(outside.visits, processor.instructions, inner.clock.now, digest_of_processor(inner))
                writer.add(check)

        outside.on_delivery, outside.on_visit = delivered, visited
        outside.on_look = lambda cycle: writer.add(Look(outside.visits, cycle))
        outside.on_period = lambda cycles: writer.add(Period(outside.visits, cycles))

    def run(self, machine: Running, guest: Guest, options: RunOptions) -> End:
        """Run it to the end, which is recorded too."""
        writer = self._writer
        assert writer is not None
        try:
            end = super().run(machine, guest, options)
            writer.finish(_end_of(machine, end))
        finally:
            writer.close()
        return end


class ReplayedCourse(Course):
    """A run that repeats `recording`. Raises ReplayOfAnother, and ReplayDiverged where it does something else."""

    def __init__(self, recording: Recording) -> None:
        """Raises ReplayOfAnother."""
        self._recording = recording
        for path, digest in recording.start.get("files", ()):
            if digest_of_file(Path(path)) != digest:
                raise ReplayOfAnother(path)

    def load(self, machine: Running, guest: Guest) -> None:
        """Put the guest into the machine, and the recording in place of what its input comes from."""
        super().load(machine, guest)
        inner, recording = machine.machine, self._recording
        if digest_of_machine(inner) != recording.start.get("machine"):
            raise ReplayOfAnother("the guest and its machine")
        outside, clock = inner.outside, inner.clock
        deliveries, checks = [], {}
        for entry in recording.entries:
            match entry:
                case Delivery(visit=-1):
                    clock.schedule(entry.cycle, lambda d=entry: outside.deliver(d.place, d.data))  # type: ignore[misc]
                case Delivery():
                    deliveries.append(entry)
                case Check():
                    checks[entry.visit] = entry
        periods = [entry for entry in recording.entries if isinstance(entry, Period)]

        def visited() -> None:
            check = checks.get(outside.visits)
            if check is not None:
                _compare(inner, check)

        outside.on_visit = visited
        outside.looks = {entry.visit: entry.cycle for entry in recording.entries if isinstance(entry, Look)}
        outside.replace_sources(ReplaySource(outside, clock, deliveries, periods, inner.refresh_screen))
        end = recording.end
        if end is None:
            last = max((entry.cycle for entry in recording.entries if not isinstance(entry, Period | Look)), default=0)
            clock.schedule(last, machine.stop)
            self.message = "trapgate: the recording ends here: the run that it is of was killed"
        elif end.get("reason") == "user-quit":
            clock.schedule(end["cycle"], machine.stop)

    def run(self, machine: Running, guest: Guest, options: RunOptions) -> End:
        """Run it to the recorded end."""
        end = super().run(machine, guest, options)
        recorded = self._recording.end
        if recorded is not None:
            got = _end_of(machine, end)
            # Where a hypervisor was when its user ended the run is not recorded exactly enough for these.
            loose = end.reason == "user-quit" and options.technique != "bare"
            for name in ("reason", "status", "instructions") if loose else recorded:
                if got.get(name) != recorded[name]:
                    raise ReplayDiverged(f"at its end the {name}", recorded[name], got.get(name))
        return end


def _compare(machine: Machine, check: Check) -> None:
    processor, _ = processor_of(machine)
    for name, wanted, got in (
        ("instructions", check.instructions, processor.instructions),
        ("cycles", check.cycle, machine.clock.now),
        ("processor", check.digest[:16], digest_of_processor(machine)[:16]),
    ):
        if wanted != got:
            raise ReplayDiverged(f"at look {check.visit} the {name}", wanted, got)
