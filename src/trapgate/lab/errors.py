"""What the user can get wrong in what a run is made of. Each message: what was wanted, what was got, what to do."""

from __future__ import annotations

from collections.abc import Sequence

from trapgate.machine.errors import MachineError


class RunError(MachineError):
    """Base of bad input to a run."""

    def __init__(self, wanted: str, got: str, remedy: str) -> None:
        super().__init__(f"wanted {wanted}, got {got}: {remedy}")


class ConflictingOptions(RunError):
    """Two options that exclude each other, or one that needs another."""


class UnknownProcessor(RunError):
    """--cpu names no processor profile."""

    def __init__(self, name: str, known: Sequence[str]) -> None:
        super().__init__(f"a processor that trapgate has ({', '.join(known)})", repr(name), "choose one with --cpu")


class UnknownTechnique(RunError):
    """--technique or --techniques names none."""

    def __init__(self, name: str, known: Sequence[str]) -> None:
        super().__init__(f"a technique that trapgate has ({', '.join(known)})", repr(name), "choose one of these")


class UnknownIo(RunError):
    """--io names no kind of devices."""

    def __init__(self, name: str, known: Sequence[str]) -> None:
        super().__init__(f"a kind of devices ({', '.join(known)})", repr(name), "choose one with --io")


class IoNotDone(RunError):
    """A guest has not done what `--io` measures."""

    def __init__(self, io: str, got: str) -> None:
        super().__init__(f"a guest that works with {io} devices", got, "run it by itself, with --serial stdio")


class UnknownCosts(RunError):
    """--costs names no cost profile."""

    def __init__(self, name: str, known: Sequence[str]) -> None:
        super().__init__(
            f"a cost profile that trapgate has ({', '.join(known)})", repr(name), "choose one with --costs"
        )


class UnknownModel(RunError):
    """--model names none."""

    def __init__(self, name: str, known: Sequence[str]) -> None:
        super().__init__(f"one of {', '.join(known)}", repr(name), "choose one with --model")


class WorkerDied(RunError):
    """A process of its own that ran a guest has ended without saying why."""

    def __init__(self, status: int) -> None:
        what = f"signal {-status}" if status < 0 else f"exit status {status}"
        super().__init__("each run to report how it ended", f"a process that ended with {what}", "try --jobs 1")


class FileUnusable(RunError):
    """A file that was named as guest, kernel or initrd cannot be used."""

    def __init__(self, what: str, path: str, got: str, remedy: str) -> None:
        article = "an" if what[0] in "aeiou" else "a"
        super().__init__(f"{article} {what} file at {path}", got, remedy)


class CharactersUnusable(RunError):
    """A port's back end cannot be opened or connected."""

    def __init__(self, port: str, backend: str, got: str) -> None:
        super().__init__(f"{backend} behind {port}", got, "correct it, or choose another back end")


class CharactersUnwritable(RunError):
    """The file behind a port takes no more bytes."""

    def __init__(self, port: str, got: str) -> None:
        super().__init__(f"to write what the guest sends to {port}", got, "make room, or choose another back end")


class FolderUnusable(RunError):
    """A folder that was named with --virtfs cannot be had, or not with security_model=mapped."""

    def __init__(self, path: str, got: str) -> None:
        super().__init__(f"a folder for the guest at {path}", got, "correct --virtfs")


class CommandNotRun(RunError):
    """The guest ended without running the command that it was given."""

    def __init__(self, got: str, last: str) -> None:
        super().__init__("the guest to run the command", got, f"it said {last!r}, run it without a command to see all")


class UnknownWork(RunError):
    """`trapgate bench` was given a name that is no work and no group."""

    def __init__(self, name: str, known: Sequence[str]) -> None:
        super().__init__(f"work that trapgate has ({', '.join(known)})", repr(name), "choose some of these, or none")


class UnknownPeer(RunError):
    """--against names no emulator that trapgate knows how to start."""

    def __init__(self, name: str, known: Sequence[str]) -> None:
        super().__init__(f"an emulator to measure against ({', '.join(known)})", repr(name), "choose one of these")


class PeerMissing(RunError):
    """The emulator that --against names is not installed."""

    def __init__(self, program: str, package: str) -> None:
        super().__init__(f"the program {program}", "none", f"install it (Debian package {package}), or leave it out")


class WorkNotDone(RunError):
    """A run of a benchmark has not printed what it must: its time means nothing."""

    def __init__(self, emulator: str, wanted: str, got: str) -> None:
        super().__init__(f"{wanted} from {emulator}", got, "the time of such a run means nothing, run it by hand")


class NothingToSave(RunError):
    """A run whose state was to be saved has ended for good before that."""

    def __init__(self, at: int | None, end: str) -> None:
        wanted = "a run that can go on, to save its state" if at is None else f"a run of {at} instructions to save"
        super().__init__(wanted, f"one that ended ({end})", "save it earlier with --savevm-at")
