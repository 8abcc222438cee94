"""How a run goes: from the guest's start to its end, or from a saved state, or with its state saved on the way."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from trapgate.boards.pci import DiskConfig
from trapgate.firmware.bios.disk_image import DiskImage
from trapgate.lab.console import ProgressCallback
from trapgate.lab.console_output import ConsoleSplitter
from trapgate.lab.ends import End
from trapgate.lab.errors import NothingToSave
from trapgate.lab.guest import Guest, boot_disk, boots_disk, find_guest
from trapgate.lab.options import RunOptions
from trapgate.lab.plain_options import to_plain
from trapgate.lab.statistics import Statistics

if TYPE_CHECKING:
    from trapgate.firmware.image import BootImage, EntryState
    from trapgate.lab.snapshots import Machine, MachineState
    from trapgate.machine.ram import Ram

#: Ends of a run after which it could have gone on.
_CAN_GO_ON = ("limit", "user-quit")


@dataclass(frozen=True, slots=True)
class InMemory:
    """The image of a guest that a saved state brings with it."""

    description: str

    def load(self, memory: Ram, rsdp: int = 0) -> EntryState:
        """There is nothing to load."""
        raise AssertionError("a guest of a saved state was loaded")


class Running(Protocol):
    """A machine that is run."""

    @property
    def machine(self) -> Machine:
        """The machine itself."""

    #: Whether the user's wish to end the run waits until the state can be saved.
    ends_between_entries: bool

    def load(self, image: BootImage) -> None:
        """Put a guest into memory."""

    def stop(self) -> None:
        """End the run as soon as possible: the user asks for it. May be called from a signal handler."""

    def run(self, max_instructions: int | None) -> End:
        """Run until something ends it."""

    def run_to(self, instructions: int) -> End | None:
        """Run until there have been so many instructions; how it has ended if that was before."""

    def statistics(self) -> Statistics:
        """What the run has counted up to now."""


class Course:
    """From the guest's start to its end."""

    #: What the user should know in the end.
    message = ""

    def find(self, options: RunOptions, disks: tuple[DiskConfig, ...], progress: ProgressCallback) -> Guest:
        """The guest that `options` name. Raises RunError, FirmwareError, BlockError."""
        return boot_disk(options, disks) if boots_disk(options) else find_guest(options, progress)

    def load(self, machine: Running, guest: Guest) -> None:
        """Put it into the machine. Raises FirmwareError."""
        machine.load(guest.image)

    def run(self, machine: Running, guest: Guest, options: RunOptions) -> End:
        """Run it to the end."""
        return machine.run(options.max_instructions)


@dataclass(frozen=True, slots=True)
class Saving:
    """Where a state is to be saved, and after how many instructions (None: at the end of the run)."""

    path: Path
    at: int | None = None


class SavedCourse(Course):
    """A run that begins with `loaded`, if that is given, and whose state is saved as `saving` says."""

    def __init__(self, saving: Saving | None = None, loaded: MachineState | None = None) -> None:
        self._saving, self._loaded = saving, loaded

    def find(self, options: RunOptions, disks: tuple[DiskConfig, ...], progress: ProgressCallback) -> Guest:
        """As from the start; but a guest that has left its image behind does not need the image again."""
        loaded = self._loaded
        if loaded is None:
            return super().find(options, disks, progress)
        run = loaded.run
        if loaded.configuration["BIOS"]:
            guest = super().find(options, disks, progress)
            if digest(guest) != run["image"]:
                from trapgate.lab.snapshots import SnapshotOfAnother

                raise SnapshotOfAnother("the image", *(d[:16] for d in (digest(guest), run["image"])))
            return guest
        splitter = None
        if run["splitter"] is not None:
            splitter = ConsoleSplitter("")
            vars(splitter).update(run["splitter"])
        return Guest(InMemory(run["description"]), run["description"], splitter, run["success status"])

    def load(self, machine: Running, guest: Guest) -> None:
        """Raises SnapshotOfAnother too."""
        if not isinstance(guest.image, InMemory):
            super().load(machine, guest)
        if self._loaded is not None:
            from trapgate.lab.snapshots import put

            put(machine.machine, self._loaded)
            machine.machine.redraw_screen()

    def run(self, machine: Running, guest: Guest, options: RunOptions) -> End:
        """Raises NothingToSave, SnapshotError."""
        saving, most = self._saving, options.max_instructions
        if saving is None:
            return machine.run(most)
        machine.ends_between_entries = True
        at = most if saving.at is None else saving.at
        end = None if at is None else machine.run_to(at)
        if end is None and at is None:
            end = machine.run(None)
        if end is not None and (end.reason not in _CAN_GO_ON or saving.at is not None):
            raise NothingToSave(saving.at, end.reason)
        self._save(machine, guest, options, saving.path)
        if end is not None:
            return end
        return End("limit") if saving.at is None else machine.run(most)

    def _save(self, machine: Running, guest: Guest, options: RunOptions, path: Path) -> None:
        from trapgate.lab.snapshots import take, write

        write(replace(take(machine.machine), run=describe_run(options, guest)), path)


def describe_run(options: RunOptions, guest: Guest) -> dict[str, Any]:
    """What a run knows besides its machine, in plain values."""
    return {
        "options": to_plain(replace(options, max_instructions=None)),
        "description": guest.description,
        "splitter": None if guest.splitter is None else dict(vars(guest.splitter)),
        "success status": guest.success_status,
        "image": digest(guest),
    }


def digest(guest: Guest) -> str:
    """SHA-256 of a disk's image, as far as it was read to boot it; empty for a guest that has no more need of it."""
    image = guest.image
    return hashlib.sha256(image.data).hexdigest() if isinstance(image, DiskImage) else ""
