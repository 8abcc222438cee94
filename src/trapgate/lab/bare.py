"""A run on the bare machine: composes it, connects the console's input, and reads its counters."""

from __future__ import annotations

import time
from dataclasses import replace

from trapgate.arch.cpuid import PROFILES
from trapgate.boards.machine import BareMachine, MachineConfig
from trapgate.boards.pci import DiskConfig, FolderConfig
from trapgate.engine.collection import without_collection
from trapgate.engine.handlers import HandlerStore
from trapgate.engine.processor import Stopped
from trapgate.firmware.image import BootImage
from trapgate.lab.characters.opening import PortBackends
from trapgate.lab.characters.source import board_config, connect
from trapgate.lab.console import GuestConsole, ProgressCallback, ShownOnce
from trapgate.lab.displays import connect_console, open_displays, serial_output
from trapgate.lab.ends import End, requested_end
from trapgate.lab.networks import Nic, plug_in, with_networks
from trapgate.lab.options import RunOptions
from trapgate.lab.processor_report import describe_processor
from trapgate.lab.statistics import Statistics, read_statistics
from trapgate.lab.supervisor import Supervisor
from trapgate.machine.console import ConsoleBackend
from trapgate.machine.control import UserQuit


class BareRun:
    """A machine for `options`; `output` gets what COM1 sends, `console` gives what it receives."""

    #: A bare machine's state can be taken wherever its run ends.
    ends_between_entries = True

    def __init__(
        self,
        options: RunOptions,
        output: ConsoleBackend,
        console: GuestConsole,
        progress: ProgressCallback,
        disks: tuple[DiskConfig, ...] = (),
        nics: tuple[Nic, ...] = (),
        ports: PortBackends | None = None,
        folders: tuple[FolderConfig, ...] = (),
    ) -> None:
        ports = ports or PortBackends()
        config = MachineConfig(
            memory_size=options.memory_size, profile=PROFILES[options.processor], costs=options.costs,
            model=options.model, code_size=options.code_size,
            board=board_config(options, disks, nics, ports, folders),
        )  # fmt: skip
        self._options = options
        shown = ShownOnce(serial_output(options, output), lambda: machine.outside.repeating)
        self.machine = machine = BareMachine(config, shown, usual_handlers(progress))
        #: Stops the run and lets it go on, where there is one.
        self.supervisor: Supervisor | None = None
        machine.processor.blocks.keeps_templates = True
        self._host_seconds = 0.0
        self._nics = nics
        self._terminal = connect_console(options, machine, machine.board, machine.clock, console)
        plug_in(machine, nics)
        connect(machine, ports)

    def load(self, image: BootImage) -> None:
        """Put a guest into memory. Raises FirmwareError."""
        self.machine.load(image)

    def stop(self) -> None:
        """End the run: the user asks for it."""
        self.machine.control.stop(UserQuit())

    def run(self, max_instructions: int | None) -> End:
        """Run until something ends it: `max_instructions` are counted from the guest's start."""
        try:
            machine = self.machine
            with open_displays(self._options, machine.board.vga, machine.outside, machine.input):
                stopped = self._run(max_instructions)
        finally:
            if self.supervisor is not None:
                self.supervisor.close()
            with without_collection():
                self.machine.processor.keep_code()
            if self.machine.bios is not None:
                self.machine.bios.screen.close()
            if self._terminal is not None:
                self._terminal.close()
        return self._end(stopped)

    def run_to(self, instructions: int) -> End | None:
        """Run until there have been so many instructions; how it has ended if that was before."""
        stopped = self._run(instructions)
        if stopped.reason == "limit" and self.machine.processor.instructions >= instructions:
            return None
        return self._end(stopped)

    def _run(self, limit: int | None) -> Stopped:
        started = time.perf_counter()
        done = self.machine.processor.instructions
        try:
            if self.supervisor is not None:
                return run_supervised(self.machine, self.supervisor, limit)
            return self.machine.run(None if limit is None else max(0, limit - done))
        finally:
            self._host_seconds += time.perf_counter() - started

    def statistics(self) -> Statistics:
        """What the run counted."""
        return with_networks(read_statistics(self.machine, self._host_seconds), self._nics)

    def _end(self, stopped: Stopped) -> End:
        end = self._reason(stopped)
        bios = self.machine.bios
        return end if bios is None else replace(end, notes=tuple(bios.notes))

    def _reason(self, stopped: Stopped) -> End:
        request = self.machine.control.request
        if request is not None:
            return requested_end(request)
        if stopped.reason == "limit":
            return End("limit")
        if stopped.reason == "halted":
            return End("halted")
        report = "\n".join(part for part in (stopped.report, describe_processor(self.machine.processor)) if part)
        return End("triple-fault" if stopped.reason == "triple-fault" else "unimplemented", report=report)


def run_supervised(machine: BareMachine, supervisor: Supervisor, end: int | None) -> Stopped:
    """Run, stopping and going on as `supervisor` has it, until something ends the run: `end` instructions at last."""
    stopped = Stopped("request")
    going = supervisor.begin(end)
    while going:
        limit = supervisor.limit
        stopped = machine.run(None if limit is None else max(0, limit - machine.processor.instructions))
        going = supervisor.stopped(stopped.reason)
    return stopped


def usual_handlers(progress: ProgressCallback) -> HandlerStore:
    """The native code that most guests need, built now where the cache does not have it."""
    handlers = HandlerStore(progress=lambda stage, done, total: progress(f"building {stage}", done, total))
    handlers.build_usual()
    return handlers
