"""The whole state of a machine: taken, put back, written to a file and read from one.

    state = take(machine)           # in memory; `like`, an earlier state, shares with it what has not changed
    put(machine, state)             # goes on from there, with the counts that a run has which was never stopped
    write(state, path)              # one file, checked
    put(another, read(path))        # another machine of the same configuration

A machine is a BareMachine or a VirtualMachine that does not run just now. docs/snapshots.md has the rest.
"""

from trapgate.lab.snapshots.errors import (
    CannotTake,
    NotASnapshot,
    SnapshotDamaged,
    SnapshotError,
    SnapshotOfAnother,
    SnapshotUnreadable,
    SnapshotUnwritable,
    UnknownSnapshotVersion,
)
from trapgate.lab.snapshots.file import read, write
from trapgate.lab.snapshots.machine import Machine, check, put, take
from trapgate.lab.snapshots.state import MachineState

__all__ = [
    "CannotTake",
    "Machine",
    "MachineState",
    "NotASnapshot",
    "SnapshotDamaged",
    "SnapshotError",
    "SnapshotOfAnother",
    "SnapshotUnreadable",
    "SnapshotUnwritable",
    "UnknownSnapshotVersion",
    "check",
    "put",
    "read",
    "take",
    "write",
]
