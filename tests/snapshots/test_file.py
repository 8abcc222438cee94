"""Files of states: whole or refused with one line, and never in the way of the machine that runs."""

from __future__ import annotations

import errno
import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from trapgate.engine.handlers import HandlerStore
from trapgate.lab.options import EMBEDDED, RunOptions
from trapgate.lab.snapshots import (
    MachineState,
    NotASnapshot,
    SnapshotDamaged,
    SnapshotError,
    SnapshotOfAnother,
    SnapshotUnreadable,
    SnapshotUnwritable,
    UnknownSnapshotVersion,
    put,
    read,
    take,
    write,
)
from trapgate.lab.snapshots.content import Content

from .machines import MEMORY, Made, differences, load, make

pytestmark = pytest.mark.engine
OPTIONS = RunOptions(guest=EMBEDDED, append="tests", memory_size=MEMORY)


@pytest.fixture(scope="module")
def made(handlers: HandlerStore) -> Made:
    made = load(make(handlers), OPTIONS)
    made.run_to(200_000)
    return made


@pytest.fixture
def state(made: Made) -> MachineState:
    return take(made.machine)


@pytest.fixture
def file(state: MachineState, tmp_path: Path) -> Path:
    write(state, tmp_path / "state")
    return tmp_path / "state"


def test_round_trip(state: MachineState, file: Path) -> None:
    assert read(file) == state
    assert sorted(os.listdir(file.parent)) == ["state"]


def _refused(made: Made, file: Path) -> SnapshotError:
    """Loading the file into the machine is refused with one line, and changes nothing."""
    before = take(made.machine)
    with pytest.raises(SnapshotError) as caught:
        put(made.machine, read(file))
    assert "\n" not in str(caught.value)
    after = take(made.machine)
    assert (after.parts, after.block, after.memory) == (before.parts, before.block, before.memory)
    return caught.value


def test_every_kind_of_change_is_refused(made: Made, file: Path) -> None:
    """A bit flipped anywhere in head and sums, and at random elsewhere."""
    whole = file.read_bytes()
    choose = random.Random(1)
    places = [*range(32 + 6 * 80 + 32), *(choose.randrange(len(whole)) for _ in range(150)), len(whole) - 1]
    kinds = set()
    for place in places:
        changed = bytearray(whole)
        changed[place] ^= 1 << choose.randrange(8)
        file.write_bytes(changed)
        with pytest.raises(SnapshotError) as caught:
            read(file)
        kinds.add(type(caught.value))
        assert str(caught.value).startswith("wanted ")
        assert "\n" not in str(caught.value)
    assert kinds == {NotASnapshot, UnknownSnapshotVersion, SnapshotDamaged}
    _refused(made, file)


def test_every_truncation_is_refused(made: Made, file: Path) -> None:
    whole = file.read_bytes()
    choose = random.Random(2)
    for length in [*range(700), *(choose.randrange(len(whole)) for _ in range(100)), len(whole) - 1]:
        file.write_bytes(whole[:length])
        with pytest.raises((NotASnapshot, SnapshotDamaged)):
            read(file)
    _refused(made, file)
    for more in (b"\0", whole):
        file.write_bytes(whole + more)
        with pytest.raises(SnapshotDamaged):
            read(file)


def test_parts_of_two_snapshots_make_none(made: Made, file: Path, tmp_path: Path, handlers: HandlerStore) -> None:
    other = load(make(handlers), OPTIONS)
    other.run_to(50_000)
    write(take(other.machine), tmp_path / "other")
    first, second = file.read_bytes(), (tmp_path / "other").read_bytes()
    choose = random.Random(3)
    for _ in range(60):
        cut = choose.randrange(1, min(len(first), len(second)))
        mixed = first[:cut] + second[cut:]
        if mixed in (first, second):
            continue
        file.write_bytes(mixed)
        with pytest.raises(SnapshotError):
            read(file)


@pytest.mark.parametrize(
    ("another", "text"),
    [
        (lambda handlers: make(handlers, memory=2 * MEMORY),
         "a machine with memory 67108864, got one with 33554432: start the machine as it was then"),
        (lambda handlers: make(handlers, "nested"),
         "a machine with technique nested, got one with bare: start the machine as it was then"),
        (lambda handlers: make(handlers, model="none"),
         "a machine with model none, got one with full: start the machine as it was then"),
    ],
)  # fmt: skip
def test_another_machine_refuses_it(
    another: Callable[[HandlerStore], Made], text: str, handlers: HandlerStore, file: Path
) -> None:
    other = load(another(handlers), OPTIONS)
    error = _refused(other, file)
    assert isinstance(error, SnapshotOfAnother)
    assert str(error) == f"wanted a snapshot of {text}"


def test_without_room_nothing_is_written_and_the_machine_goes_on(
    made: Made, state: MachineState, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "state"
    path.write_bytes(b"of before")

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as context:
        context.setattr(os, "fsync", full)
        with pytest.raises(SnapshotUnwritable) as caught:
            write(state, path)
    assert str(caught.value) == (
        f"wanted to write a snapshot to {path}, got no space left on device: make room, or name another file"
    )
    assert path.read_bytes() == b"of before"
    assert os.listdir(tmp_path) == ["state"]
    assert take(made.machine).parts == state.parts


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(SnapshotUnreadable, match="got no such file or directory: name another file"):
        read(tmp_path / "none")
    with pytest.raises(SnapshotUnreadable, match="got is a directory: name another file"):
        read(tmp_path)
    with pytest.raises(NotASnapshot):
        read(Path(os.devnull))
    with pytest.raises(SnapshotUnwritable, match="got no such file or directory"):
        write(MachineState({}, {}, b"", Content(())), tmp_path / "none" / "state")


def test_a_file_is_as_readable_as_others_of_the_user(file: Path) -> None:
    other = file.parent / "other"
    other.touch()
    assert file.stat().st_mode == other.stat().st_mode


def test_another_machine_of_the_same_kind_takes_it(made: Made, file: Path, handlers: HandlerStore) -> None:
    other = make(handlers)
    put(other.machine, read(file))
    assert not differences(made, other)
