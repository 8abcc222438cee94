"""Snapshots as files (container.py): one section each for what the machine is made of, RAM, disks and so on."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from trapgate.lab.snapshots import container, plain
from trapgate.lab.snapshots.container import AnotherKind, AnotherVersion, Damaged, Section
from trapgate.lab.snapshots.content import Content
from trapgate.lab.snapshots.errors import (
    NotASnapshot,
    SnapshotDamaged,
    SnapshotUnreadable,
    SnapshotUnwritable,
    UnknownSnapshotVersion,
)
from trapgate.lab.snapshots.media import MediumState
from trapgate.lab.snapshots.state import MachineState

MAGIC = b"TRAPGATE STATE\r\n"
#: Changes whenever a state of before can no longer be read.
VERSION = 1
_PIECE = struct.Struct("<QI")


def write(state: MachineState, path: Path | str | os.PathLike[str]) -> None:
    """Write a state to a file. Raises SnapshotUnwritable; a file that was there is then as it was."""
    path = Path(path)
    sections = [
        Section("machine", [plain.encode(state.configuration)]),
        Section("parts", [plain.encode(state.parts)]),
        Section("processor", [state.block]),
        Section("memory", _memory(state.memory)),
        Section("disks", _disks(state.media)),
        Section("run", [plain.encode(state.run)]),
    ]
    try:
        container.write(path, MAGIC, VERSION, sections)
    except (OSError, ValueError) as error:
        raise SnapshotUnwritable(path, _reason(error)) from error


def read(path: Path | str | os.PathLike[str]) -> MachineState:
    """The state in a file. Raises SnapshotUnreadable, NotASnapshot, UnknownSnapshotVersion, SnapshotDamaged."""
    path = Path(path)
    try:
        sections = container.read(path, MAGIC, VERSION)
        return MachineState(
            plain.decode(sections["machine"]),
            plain.decode(sections["parts"]),
            sections["processor"],
            _read_memory(sections["memory"]),
            _read_disks(sections["disks"]),
            plain.decode(sections["run"]),
        )
    except AnotherKind as error:
        raise NotASnapshot(path) from error
    except AnotherVersion as error:
        raise UnknownSnapshotVersion(path, VERSION, error.got) from error
    except Damaged as error:
        raise SnapshotDamaged(path, str(error)) from error
    except (plain.Malformed, KeyError, struct.error) as error:
        raise SnapshotDamaged(path, "one whose content makes no sense") from error
    except (OSError, ValueError) as error:
        raise SnapshotUnreadable(path, _reason(error)) from error


def _reason(error: OSError | ValueError) -> str:
    return ((error.strerror if isinstance(error, OSError) else None) or "no valid name").lower()


def _memory(memory: Content) -> Iterator[bytes]:
    """How many pieces there are; of each that is not all zeros its number, its length and its bytes."""
    yield len(memory.pieces).to_bytes(8, "little")
    for number, piece in enumerate(memory.pieces):
        if piece is not None:
            yield _PIECE.pack(number, len(piece))
            yield piece


def _read_memory(data: bytes) -> Content:
    count = int.from_bytes(data[:8], "little")
    found: dict[int, bytes] = {}
    for number, piece in _pieces(data, 8):
        found[number] = piece
    if any(number >= count for number in found):
        raise plain.Malformed("a piece beyond the end of memory")
    return Content(tuple(found.get(number) for number in range(count)))


def _pieces(data: bytes, place: int) -> Iterator[tuple[int, bytes]]:
    while place < len(data):
        number, length = _PIECE.unpack_from(data, place)
        place += _PIECE.size + length
        if place > len(data):
            raise plain.Malformed("a piece beyond the end")
        yield number, data[place - length : place]


def _disks(media: tuple[MediumState | None, ...]) -> Iterator[bytes]:
    """Names and images; then of each cluster of each disk its number (the disk's above bit 40) and its bytes."""
    heads: list[Any] = [None if medium is None else [medium.name, medium.base] for medium in media]
    head = plain.encode(heads)
    yield len(head).to_bytes(8, "little") + head
    for index, medium in enumerate(media):
        for number, (_, cluster) in () if medium is None else sorted(medium.clusters.items()):
            yield _PIECE.pack(index << 40 | number, len(cluster))
            yield cluster


def _read_disks(data: bytes) -> tuple[MediumState | None, ...]:
    start = 8 + int.from_bytes(data[:8], "little")
    heads = plain.decode(data[8:start])
    media = tuple(None if head is None else MediumState(head[0], head[1], {}) for head in heads)
    for number, cluster in _pieces(data, start):
        index = number >> 40
        medium = media[index] if index < len(media) else None
        if medium is None:
            raise plain.Malformed("a cluster of no disk")
        medium.clusters[number & (1 << 40) - 1] = 0, cluster
    return media
