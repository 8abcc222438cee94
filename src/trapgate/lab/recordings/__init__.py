"""Recordings of runs: all that came into a machine from outside, and when, so that the run can be had again.

`RecordedCourse` records a run, `ReplayedCourse` repeats one; docs/snapshots.md has the rest.
"""

from trapgate.lab.recordings.course import RecordedCourse, ReplayedCourse
from trapgate.lab.recordings.errors import (
    NotARecording,
    RecordingDamaged,
    RecordingError,
    RecordingUnreadable,
    RecordingUnwritable,
    ReplayDiverged,
    ReplayOfAnother,
    UnknownRecordingVersion,
)
from trapgate.lab.recordings.stream import Recording, read_recording

__all__ = [
    "NotARecording",
    "RecordedCourse",
    "Recording",
    "RecordingDamaged",
    "RecordingError",
    "RecordingUnreadable",
    "RecordingUnwritable",
    "ReplayDiverged",
    "ReplayOfAnother",
    "ReplayedCourse",
    "UnknownRecordingVersion",
    "read_recording",
]
