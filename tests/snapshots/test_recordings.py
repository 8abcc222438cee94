"""A recorded run, and its repetition: the same input at the same cycles, the same counts in the end."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

import pytest

from engine.assembly import assemble
from trapgate.lab.compare import CapturedConsole
from trapgate.lab.options import EMBEDDED, RunOptions
from trapgate.lab.recordings import (
    NotARecording,
    RecordedCourse,
    RecordingDamaged,
    RecordingError,
    ReplayDiverged,
    ReplayedCourse,
    UnknownRecordingVersion,
    read_recording,
)
from trapgate.lab.recordings.stream import Check, Delivery, Period, Recording, Writer
from trapgate.lab.run import RunOutcome, run_guest
from trapgate.machine.clock import Clock
from trapgate.machine.control import RunControl
from trapgate.machine.outside import Outside

pytestmark = pytest.mark.engine
MEMORY = 32 << 20
#: A boot sector that sends what comes to COM1 back, and ends at a `q`.
ECHO = (
    assemble(
        16,
        """
    fa                 cli
    31 c0              xor ax, ax
    8e d8              mov ds, ax
    8e d0              mov ss, ax
    bc 00 7c           mov sp, 7c00h
    c7 06 30 00 2e 7c  mov word [30h], 7c2eh
    a3 32 00           mov [32h], ax
    e4 21              in al, 21h
    24 ef              and al, 0efh
    e6 21              out 21h, al
    ba f9 03           mov dx, 3f9h
    b0 01              mov al, 1
    ee                 out dx, al
    ba fc 03           mov dx, 3fch
    b0 0b              mov al, 0bh
    ee                 out dx, al
    fb                 sti
    f4                 hlt
    b9 88 13           mov cx, 5000
    e2 fe              loop 7c2ah
    eb f8              jmp short 7c26h
    50                 push ax
    52                 push dx
    ba fd 03           mov dx, 3fdh
    ec                 in al, dx
    a8 01              test al, 1
    74 0b              je 7c43h
    ba f8 03           mov dx, 3f8h
    ec                 in al, dx
    3c 71              cmp al, 71h
    74 0a              je 7c4ah
    ee                 out dx, al
    eb ed              jmp short 7c30h
    b0 20              mov al, 20h
    e6 20              out 20h, al
    5a                 pop dx
    58                 pop ax
    cf                 iret
    30 c0              xor al, al
    e6 f4              out 0f4h, al
    """,
        org=0x7C00,
    ).data.ljust(510, b"\0")
    + b"\x55\xaa"
)


class Typing(CapturedConsole):
    """A console at which somebody types, whenever the guest has nothing else to do."""

    def __init__(self, chunks: Sequence[bytes]) -> None:
        super().__init__()
        self._chunks = list(chunks)
        self._looks = 0

    @property
    def has_input(self) -> bool:
        return True

    @property
    def is_interactive(self) -> bool:
        return True

    def poll(self) -> bytes:
        self._looks += 1
        return self._chunks.pop(0) if self._chunks and self._looks % 3 == 0 else b""


CHUNKS = (b"first ", b"and ", b"\x00\xff more", b"q")


def _record(folder: Path, technique: str = "bare", chunks: Sequence[bytes] = CHUNKS) -> tuple[RunOutcome, bytes]:
    (folder / "echo").write_bytes(ECHO)
    options = RunOptions(guest=str(folder / "echo"), memory_size=MEMORY, technique=technique)
    console = Typing(chunks)
    outcome = run_guest(options, console, course=RecordedCourse(folder / "input", options))
    return outcome, bytes(console.data)


def _replay(recording: Recording, folder: Path, technique: str = "bare") -> tuple[RunOutcome, bytes]:
    options = RunOptions(guest=str(folder / "echo"), memory_size=MEMORY, technique=technique)
    console = Typing((b"never looked at", b"q"))
    outcome = run_guest(options, console, course=ReplayedCourse(recording))
    return outcome, bytes(console.data)


@pytest.mark.parametrize("technique", ["bare", "software", "nested-tagged"])
def test_a_replayed_run_is_the_recorded_one(technique: str, tmp_path: Path) -> None:
    recorded, console = _record(tmp_path, technique)
    recording = read_recording(tmp_path / "input")
    assert b"first and \x00\xff more" in console
    deliveries = [entry for entry in recording.entries if isinstance(entry, Delivery)]
    assert [(entry.place, entry.data) for entry in deliveries] == [("console", chunk) for chunk in CHUNKS]
    assert sum(isinstance(entry, Period) for entry in recording.entries) == 1
    assert recording.end is not None
    assert recording.end["reason"] == "guest-exit"
    for _ in range(2):
        replayed, again = _replay(recording, tmp_path, technique)
        assert again == console
        assert replayed.statistics.guest_counts() == recorded.statistics.guest_counts()
        assert (replayed.reason, replayed.status) == (recorded.reason, recorded.status)


def test_a_recorded_run_is_the_same_as_one_that_is_not(tmp_path: Path) -> None:
    options = RunOptions(guest=EMBEDDED, append="tests", memory_size=MEMORY)
    plain = run_guest(options, CapturedConsole())
    recorded = run_guest(options, CapturedConsole(), course=RecordedCourse(tmp_path / "input", options))
    assert recorded.statistics.guest_counts() == plain.statistics.guest_counts()
    replayed = run_guest(options, CapturedConsole(), course=ReplayedCourse(read_recording(tmp_path / "input")))
    assert replayed.statistics.guest_counts() == plain.statistics.guest_counts()


def test_a_run_that_was_killed_leaves_a_recording_to_where_it_was(tmp_path: Path) -> None:
    _, console = _record(tmp_path)
    whole = (tmp_path / "input").read_bytes()
    recording = read_recording(tmp_path / "input")
    ends = [place for place in range(len(whole), 0, -1) if _reads(tmp_path, whole[:place])]
    assert ends == list(range(len(whole), ends[-1] - 1, -1))  # wherever it is cut behind its start
    assert len(ends) > 100
    (tmp_path / "input").write_bytes(whole[: len(whole) - 40])
    killed = read_recording(tmp_path / "input")
    assert killed.end is None
    assert killed.entries == recording.entries
    outcome, again = _replay(killed, tmp_path)
    assert outcome.message.endswith("trapgate: the recording ends here: the run that it is of was killed")
    assert console.startswith(again)
    last = killed.entries[-1]
    assert isinstance(last, Delivery)
    assert outcome.statistics.cycles == last.cycle


def _reads(folder: Path, data: bytes) -> bool:
    (folder / "cut").write_bytes(data)
    try:
        read_recording(folder / "cut")
    except RecordingDamaged:
        return False
    except NotARecording:
        return False
    return True


def test_every_change_is_refused(tmp_path: Path) -> None:
    """A bit flipped anywhere but in the last frame's end, where a killed run would leave less."""
    _record(tmp_path)
    whole = (tmp_path / "input").read_bytes()
    choose = random.Random(1)
    for place in range(0, len(whole), 3):
        changed = bytearray(whole)
        changed[place] ^= 1 << choose.randrange(8)
        (tmp_path / "input").write_bytes(changed)
        with pytest.raises((NotARecording, UnknownRecordingVersion, RecordingDamaged)) as caught:
            read_recording(tmp_path / "input")
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("what", ["later", "other bytes", "missing", "check"])
def test_a_replay_that_does_something_else_says_so(what: str, tmp_path: Path) -> None:
    _record(tmp_path)
    recording = read_recording(tmp_path / "input")
    entries = list(recording.entries)
    place = next(n for n, entry in enumerate(entries) if isinstance(entry, Delivery))
    delivery = entries[place]
    assert isinstance(delivery, Delivery)
    if what == "later":
        entries[place] = delivery._replace(cycle=delivery.cycle + 1)
    elif what == "other bytes":
        entries[place] = delivery._replace(data=b"other")
    elif what == "missing":
        del entries[place]
    else:
        entries.insert(place, Check(delivery.visit, 1, delivery.cycle, ""))
    with pytest.raises(ReplayDiverged):
        _replay(Recording(recording.start, tuple(entries), recording.end), tmp_path)


def test_a_full_disk_ends_the_recorded_run(tmp_path: Path) -> None:
    (tmp_path / "input").symlink_to("/dev/full")
    with pytest.raises(RecordingError, match="got no space left on device: make room, or name another file"):
        _record(tmp_path)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    entries = (Period(0, 20), Delivery(3, 60, "net0", b"\0\1"), Check(4, 70, 80, "ab"), Delivery(-1, 90, "x", b""))
    writer = Writer(tmp_path / "input", {"a": [1, None]})
    for entry in entries:
        writer.add(entry)
        assert read_recording(tmp_path / "input").entries[-1] == entry  # at once
    writer.finish({"reason": "reset"})
    writer.close()
    assert read_recording(tmp_path / "input") == Recording({"a": [1, None]}, entries, {"reason": "reset"})


class _Answering:
    """A network whose answers are there at once, at a moment that the host decides."""

    period = 1000
    listens = False

    def __init__(self, outside: Outside, after: int) -> None:
        self._outside, self._after = outside, after
        self.looks: list[int] = []

    def ask(self) -> None:
        self._outside.look_within(self._after)

    def descriptors(self) -> Sequence[int]:
        return ()

    def timeout(self) -> float | None:
        return None

    def poll(self) -> None:
        self.looks.append(self._outside._clock.now)


def test_looks_that_were_moved_are_where_they_were() -> None:
    """A look comes sooner when a network has its answer already; when that is, is recorded."""

    def run(after: int, looks: dict[int, int] | None) -> tuple[list[int], dict[int, int]]:
        clock = Clock(1_000_000)
        outside = Outside(clock, RunControl())
        source = _Answering(outside, after)
        outside.looks, moved = looks, {}
        outside.on_look = lambda cycle: moved.update({outside.visits: cycle})
        outside.add_source(source)
        for cycle in (300, 2100, 2150, 2700):
            clock.schedule(cycle, source.ask)
        for now in range(0, 4000, 10):
            clock.now = now
            clock.run_due()
        return source.looks, moved

    looks, moved = run(100, None)
    assert looks == [400, 1400, 2200, 2800, 3800]
    assert moved == {0: 400, 2: 2200, 3: 2800}
    assert run(700, moved) == (looks, {})
