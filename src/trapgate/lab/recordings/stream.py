"""The file of a recording: frames that are written one by one, so that a run that is killed leaves a usable one.

| bytes | what |
|---|---|
| 0 to 15 | what kind of file it is |
| 16 to 19 | version of the format |
| then, for each frame, 12 bytes | bytes of its content (4); the first 8 of the SHA-256 of the chain and these 4 |
| its content | a plain value (lab/snapshots/plain.py) |
| 8 bytes | the first of the SHA-256 of the chain and the content: the chain from here on |

Each sum goes over all before it, so nothing can be changed, left out or exchanged. A file that ends in a frame was
being written when its run was killed; the frames before are good.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from trapgate.lab.recordings.errors import (
    NotARecording,
    RecordingDamaged,
    RecordingUnreadable,
    RecordingUnwritable,
    UnknownRecordingVersion,
)
from trapgate.lab.snapshots import plain

MAGIC = b"TRAPGATE INPUT\r\n"
#: Changes whenever a recording of before can no longer be read.
VERSION = 1
_HEAD = len(MAGIC) + 4
_SUM = 8


def _sum(chain: bytes, data: bytes) -> bytes:
    return hashlib.sha256(chain + data).digest()[:_SUM]


class Delivery(NamedTuple):
    """Bytes that came in, at a place, in the `visit`-th look at the sources, at a modelled cycle."""

    visit: int
    cycle: int
    place: str
    data: bytes


class Period(NamedTuple):
    """From the `visit`-th look on there are so many modelled cycles between two."""

    visit: int
    cycles: int


class Look(NamedTuple):
    """After the `visit`-th look the next one was moved to another cycle."""

    visit: int
    cycle: int


class Check(NamedTuple):
    """What the run had done at a look: instructions, modelled cycles, and the digest of its processor."""

    visit: int
    instructions: int
    cycle: int
    digest: str


Entry = Delivery | Period | Look | Check
_KINDS: dict[str, type[Entry]] = {"delivery": Delivery, "period": Period, "look": Look, "check": Check}
_TYPES = {"visit": int, "cycle": int, "cycles": int, "instructions": int, "place": str, "digest": str, "data": bytes}


@dataclass(frozen=True, slots=True)
class Recording:
    """What is in a recording. `start` is what the run was made of, `end` how it ended; None if it was killed."""

    start: dict[str, Any]
    entries: tuple[Entry, ...] = field(repr=False)
    end: dict[str, Any] | None


class Writer:
    """Writes a recording to `path`. Raises RecordingUnwritable."""

    def __init__(self, path: Path, start: dict[str, Any]) -> None:
        self._path = path
        self._chain = b""
        try:
            self._file = open(path, "wb", buffering=0)  # noqa: SIM115 - `close` closes it
        except (OSError, ValueError) as error:
            raise RecordingUnwritable(path, _reason(error)) from error
        self._write(MAGIC + VERSION.to_bytes(4, "little"))
        self._chain = _sum(b"", MAGIC + VERSION.to_bytes(4, "little"))
        self._frame(["start", start])

    def add(self, entry: Entry) -> None:
        """One more entry."""
        kind = next(name for name, one in _KINDS.items() if isinstance(entry, one))
        self._frame([kind, *entry])

    def finish(self, end: dict[str, Any]) -> None:
        """The run has ended."""
        self._frame(["end", end])

    def close(self) -> None:
        """Nothing more is written."""
        self._file.close()

    def _frame(self, value: Any) -> None:
        content = plain.encode(value)
        length = len(content).to_bytes(4, "little")
        head = length + _sum(self._chain, length)
        self._chain = _sum(self._chain, content)
        self._write(head + content + self._chain)

    def _write(self, data: bytes) -> None:
        view = memoryview(data)
        try:
            while view:
                view = view[self._file.write(view) or 0 :]
        except OSError as error:
            raise RecordingUnwritable(self._path, _reason(error)) from error


def _reason(error: OSError | ValueError) -> str:
    return ((error.strerror if isinstance(error, OSError) else None) or "no valid name").lower()


def read_recording(path: Path) -> Recording:
    """What is in a file. Raises RecordingUnreadable, NotARecording, UnknownRecordingVersion, RecordingDamaged."""
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD)
            if head[: len(MAGIC)] != MAGIC:
                raise NotARecording(path)
            data = head + file.read()
    except (OSError, ValueError) as error:
        raise RecordingUnreadable(path, _reason(error)) from error
    if len(data) < _HEAD:
        raise RecordingDamaged(path, "one that ends in its head")
    version = int.from_bytes(data[len(MAGIC) : _HEAD], "little")
    if version != VERSION:
        raise UnknownRecordingVersion(path, VERSION, version)
    try:
        values = [plain.decode(content) for content in _contents(path, data)]
        return _recording(values)
    except (plain.Malformed, ValueError) as error:
        raise RecordingDamaged(path, "one whose content makes no sense") from error


def _contents(path: Path, data: bytes) -> list[bytes]:
    place, chain, found = _HEAD, _sum(b"", data[:_HEAD]), []
    while place + 4 + _SUM <= len(data):
        length = data[place : place + 4]
        if data[place + 4 : place + 4 + _SUM] != _sum(chain, length):
            raise RecordingDamaged(path, f"one that was changed at byte {place}")
        start = place + 4 + _SUM
        end = start + int.from_bytes(length, "little")
        if end + _SUM > len(data):
            break
        content = data[start:end]
        chain = _sum(chain, content)
        if data[end : end + _SUM] != chain:
            raise RecordingDamaged(path, f"one that was changed at byte {start}")
        found.append(content)
        place = end + _SUM
    return found


def _recording(values: list[Any]) -> Recording:
    """Raises ValueError for frames that nobody has written."""
    if not values or not isinstance(values[0], list) or len(values[0]) != 2 or values[0][0] != "start":
        raise ValueError("no start")
    end = values.pop()[1] if len(values) > 1 and isinstance(values[-1], list) and values[-1][0] == "end" else None
    entries = []
    for value in values[1:]:
        kind = _KINDS[value[0]] if isinstance(value, list) and value and value[0] in _KINDS else None
        if kind is None or len(value) != 1 + len(kind._fields):
            raise ValueError("a frame of an unknown kind")
        for name, item in zip(kind._fields, value[1:], strict=True):
            if type(item) is not _TYPES[name]:
                raise ValueError("a field of another type")
        entries.append(kind(*value[1:]))
    if not all(isinstance(part, dict) for part in (values[0][1], end or {})):
        raise ValueError("no start or end")
    return Recording(values[0][1], tuple(entries), end)
