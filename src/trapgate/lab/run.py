"""Runs one guest under one technique: finds it, composes the machine, loads, runs, and says how it ended."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

from trapgate.boards.pci import DiskConfig, FolderConfig
from trapgate.lab.characters.backend import CharacterBackend
from trapgate.lab.characters.opening import PortBackends, Say, open_ports
from trapgate.lab.console import CommandOutput, GuestConsole, ProgressCallback
from trapgate.lab.courses import Course, Running, describe_run
from trapgate.lab.disks import open_disks
from trapgate.lab.displays import with_vga
from trapgate.lab.ends import End, Reason
from trapgate.lab.errors import CommandNotRun
from trapgate.lab.folders import open_folders
from trapgate.lab.guest import Guest
from trapgate.lab.networks import Nic, open_networks
from trapgate.lab.options import BARE, RunOptions
from trapgate.lab.statistics import Statistics
from trapgate.machine.console import ConsoleBackend

# Exit statuses, as docs/cli.md lists them.
TRIPLE_FAULT_STATUS = 3
UNIMPLEMENTED_STATUS = 4
LIMIT_STATUS = 124


class Machine(Running, Protocol):
    """What a run needs of a machine."""

    def statistics(self) -> Statistics:
        """What the run counted."""


#: Makes the machine for `options`, with COM1's output going to the backend and its input coming from the console.
MachineMaker = Callable[[RunOptions, ConsoleBackend, GuestConsole, ProgressCallback], Machine]
#: Gets a machine that is about to run, and what gives what the run knows besides it, for states that are saved.
Prepare = Callable[[Machine, Callable[[], dict[str, Any]]], object]


@dataclass(frozen=True, slots=True)
class RunOutcome:
    """A run that has ended. `status` is the exit status that follows; `message` is for the user, often empty."""

    options: RunOptions
    description: str
    reason: Reason
    status: int
    message: str
    statistics: Statistics


def run_guest(
    options: RunOptions,
    console: GuestConsole,
    progress: ProgressCallback = lambda stage, done, total: None,
    make_machine: MachineMaker | None = None,
    course: Course | None = None,
    stdio: CharacterBackend | None = None,
    say: Say = lambda text: None,
    prepare: Prepare = lambda machine, describe: None,
) -> RunOutcome:
    """Run the guest that `options` describe, its serial console on `console`, until it ends.

    `stdio` is for a port besides COM1 that asks for it; `say` shows the user where ports are. `prepare` is called right
    before the guest's first instruction, the console being entered.

    Raises RunError, FirmwareError and the like for what the user got wrong; nothing that the guest does raises.
    """
    with open_disks(options) as disks, open_networks(options) as nics:
        course = course or Course()
        guest = course.find(options, disks, progress)
        with open_ports(options, stdio, say) as ports, open_folders(options) as folders:
            make = make_machine or partial(_machine, disks=disks, nics=nics, ports=ports, folders=folders)
            return _run(options, guest, console, progress, make, course, prepare)


def _run(
    options: RunOptions,
    guest: Guest,
    console: GuestConsole,
    progress: ProgressCallback,
    make_machine: MachineMaker,
    course: Course,
    prepare: Prepare,
) -> RunOutcome:
    output = CommandOutput(console, guest.splitter) if guest.splitter is not None else None
    options = with_vga(options, guest.image)
    machine = make_machine(options, output or console, console, progress)
    course.load(machine, guest)
    console.on_quit = machine.stop
    with console:
        prepare(machine, partial(describe_run, options, guest))
        end = course.run(machine, guest, options)
        if output is not None:
            output.finish()
    status = _status(end, guest)
    message = "\n".join(
        [*(f"trapgate: BIOS: {note}" for note in end.notes), _message(end, options), course.message]
    ).strip("\n")
    return RunOutcome(options, guest.description, end.reason, status, message, machine.statistics())


def _machine(
    options: RunOptions,
    output: ConsoleBackend,
    console: GuestConsole,
    progress: ProgressCallback,
    disks: tuple[DiskConfig, ...],
    nics: tuple[Nic, ...],
    ports: PortBackends,
    folders: tuple[FolderConfig, ...],
) -> Machine:
    # Bad input is found before the engine with LLVM, the slowest of all imports, is needed.
    if options.technique == BARE:
        from trapgate.lab.bare import BareRun

        return BareRun(options, output, console, progress, disks, nics, ports, folders)
    from trapgate.lab.virtual import VirtualRun

    return VirtualRun(options, output, console, progress, disks, nics, ports, folders)


def _status(end: End, guest: Guest) -> int:
    """The exit status. Raises CommandNotRun when the guest ended by itself without having run its command."""
    if guest.splitter is not None and guest.splitter.status is not None:
        return guest.splitter.status
    if end.reason == "triple-fault":
        return TRIPLE_FAULT_STATUS
    if end.reason == "unimplemented":
        return UNIMPLEMENTED_STATUS
    if end.reason == "limit":
        return LIMIT_STATUS
    if end.reason == "user-quit":
        return 0
    if guest.splitter is not None:
        last = telling_line(guest.splitter.preamble.decode(errors="replace"))
        raise CommandNotRun(f"one that ended ({end.reason}) before it was done", last)
    if end.reason == "guest-exit" and end.guest_status != guest.success_status:
        return end.guest_status & 0xFF
    return 0


def telling_line(console: str) -> str:
    """The line of a console that says most about its end: a kernel's panic, else the last one that is not empty."""
    lines = [line.strip() for line in console.split("\n") if line.strip()]
    panics = [line for line in lines if "Kernel panic" in line]
    return (panics or lines or [""])[-1]


def _message(end: End, options: RunOptions) -> str:
    """What the user should know about the end, without a newline at the end."""
    if end.reason == "reset":
        return "trapgate: the guest asked for a reset: the run ends here"
    if end.reason == "halted":
        return "trapgate: the guest's processor has halted, and nothing is left to wake it"
    if end.reason == "limit":
        return f"trapgate: ended after {options.max_instructions} instructions, as --max-instructions asks"
    if end.reason == "triple-fault":
        return f"trapgate: triple fault: the guest's processor has shut down\n{end.report}".rstrip()
    if end.reason == "unimplemented":
        return f"trapgate: {end.report}".rstrip()
    return ""
