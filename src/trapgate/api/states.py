"""Saved states of a machine: taken, put back, written to files."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trapgate.api.booting import PathLike
from trapgate.boards.machine import BareMachine

if TYPE_CHECKING:
    from trapgate.lab.snapshots import MachineState


class SavedStates:
    """A machine whose state can be saved (docs/snapshots.md).

    Hooks, breakpoints, what the console has shown and devices of the program's own are not in a state: they stay as
    they are.
    """

    _bare: BareMachine
    _booted: bool
    #: The last state that was taken or put back: the next one shares with it what has not changed.
    _state: MachineState | None = None

    def _check_runnable(self) -> None:
        """Raises NotBooted."""

    def snapshot(self) -> MachineState:
        """The state now, in memory. Raises NotBooted, SnapshotError."""
        from trapgate.lab.snapshots import take

        self._check_runnable()
        self._state = take(self._bare, self._state)
        return self._state

    def restore(self, state: MachineState) -> None:
        """Go back to a state of this machine, or on from one of another machine with the same parts. A machine that
        boots from a disk must have been booted from the same. Raises SnapshotError."""
        from trapgate.lab.snapshots import put

        put(self._bare, state)
        self._state, self._booted = state, True

    def save(self, path: PathLike) -> None:
        """Write the state to a file. Raises NotBooted, SnapshotError."""
        from trapgate.lab.snapshots import write

        write(self.snapshot(), path)

    def load(self, path: PathLike) -> None:
        """Go on from the state in a file. Raises SnapshotError; the machine is then what it was."""
        from trapgate.lab.snapshots import read

        self.restore(read(path))
