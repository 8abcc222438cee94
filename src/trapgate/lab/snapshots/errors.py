"""What can be wrong with a snapshot. Each message is one line: what was wanted, what was got, what to do."""

from __future__ import annotations

from pathlib import Path

from trapgate.machine.errors import MachineError


class SnapshotError(MachineError):
    """Base of what can be wrong with a snapshot. The machine in question has not been changed."""


class NotASnapshot(SnapshotError):
    """A file is no snapshot at all."""

    def __init__(self, path: Path) -> None:
        super().__init__(f"wanted a snapshot in {path}, got another kind of file: name one that savevm has written")


class UnknownSnapshotVersion(SnapshotError):
    """A snapshot has a format that this version does not read."""

    def __init__(self, path: Path, wanted: int, got: int) -> None:
        super().__init__(
            f"wanted a snapshot of format {wanted} in {path}, got format {got}: load it with the version that wrote it"
        )


class SnapshotDamaged(SnapshotError):
    """A snapshot is not what was written."""

    def __init__(self, path: Path, got: str) -> None:
        super().__init__(f"wanted a whole snapshot in {path}, got {got}: use another copy of the file")


class SnapshotUnreadable(SnapshotError):
    """The host does not let us read the file."""

    def __init__(self, path: Path, got: str) -> None:
        super().__init__(f"wanted a snapshot in {path}, got {got}: name another file")


class SnapshotUnwritable(SnapshotError):
    """The host has no room for the file, or does not let us write it. What was there before is still there."""

    def __init__(self, path: Path, got: str) -> None:
        super().__init__(f"wanted to write a snapshot to {path}, got {got}: make room, or name another file")


class SnapshotOfAnother(SnapshotError):
    """A snapshot of a machine that is made of other parts."""

    def __init__(self, what: str, wanted: str, got: str) -> None:
        super().__init__(
            f"wanted a snapshot of a machine with {what} {wanted}, got one with {got}: start the machine as it was then"
        )


class CannotTake(SnapshotError):
    """A machine whose state cannot be taken."""

    def __init__(self, got: str, remedy: str) -> None:
        super().__init__(f"wanted a machine whose state can be saved, got {got}: {remedy}")
