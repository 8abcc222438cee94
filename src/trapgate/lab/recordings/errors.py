"""What can be wrong with a recording. Each message is one line: what was wanted, what was got, what to do."""

from __future__ import annotations

from pathlib import Path

from trapgate.machine.errors import MachineError


class RecordingError(MachineError):
    """Base of what can be wrong with a recording."""


class NotARecording(RecordingError):
    """A file is no recording at all."""

    def __init__(self, path: Path) -> None:
        super().__init__(f"wanted a recording in {path}, got another kind of file: name one that --record has written")


class UnknownRecordingVersion(RecordingError):
    """A recording has a format that this version does not read."""

    def __init__(self, path: Path, wanted: int, got: int) -> None:
        super().__init__(
            f"wanted a recording of format {wanted} in {path}, got format {got}: "
            "replay it with the version that wrote it"
        )


class RecordingDamaged(RecordingError):
    """A recording is not what was written."""

    def __init__(self, path: Path, got: str) -> None:
        super().__init__(f"wanted a recording in {path} as it was written, got {got}: use another copy of the file")


class RecordingUnreadable(RecordingError):
    """The host does not let us read the file."""

    def __init__(self, path: Path, got: str) -> None:
        super().__init__(f"wanted a recording in {path}, got {got}: name another file")


class RecordingUnwritable(RecordingError):
    """The host has no room for the file, or does not let us write it."""

    def __init__(self, path: Path, got: str) -> None:
        super().__init__(f"wanted to record to {path}, got {got}: make room, or name another file")


class ReplayOfAnother(RecordingError):
    """What the recorded run was made of is not there any more."""

    def __init__(self, what: str, got: str = "another content") -> None:
        super().__init__(f"wanted {what} as it was recorded, got {got}: replay it with the files of then")


class ReplayDiverged(RecordingError):
    """A replayed run does not do what the recorded one did."""

    def __init__(self, what: str, wanted: object, got: object) -> None:
        super().__init__(
            f"wanted the run that was recorded, with {what} {wanted}, got one with {got}: "
            "replay it with the version of trapgate that recorded it"
        )
