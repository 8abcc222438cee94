"""A run on the bare machine: composes it, connects the console's input, and reads its counters."""

from __future__ import annotations

import time
from dataclasses import replace

from trapgate.arch.cpuid import PROFILES
from trapgate.boards.machine import BareMachine, MachineConfig
from trapgate.engine.handlers import HandlerStore
from trapgate.engine.processor import Stopped
from trapgate.firmware.image import BootImage
from trapgate.lab.console import GuestConsole, ProgressCallback
from trapgate.lab.ends import End
from trapgate.lab.options import RunOptions
from trapgate.lab.processor_report import describe_processor
from trapgate.lab.statistics import Statistics, read_statistics
from trapgate.machine.console import ConsoleBackend
from trapgate.machine.control import GuestExit, PowerOff, Reset, UserQuit

#: Modelled cycles between two looks at the console: 10 ms of the guest's time at 2 GHz.
POLL_PERIOD = 20_000_000
#: Seconds: for a shorter sleep of the guest no system call is made.
SHORTEST_WAIT = 0.0005
#: Seconds: after a longer wait for input, look whether the run is to end.
LONGEST_WAIT = 0.1


class BareRun:
    """A machine for `options`; `output` gets what COM1 sends, `console` gives what it receives."""

    def __init__(
        self, options: RunOptions, output: ConsoleBackend, console: GuestConsole, progress: ProgressCallback
    ) -> None:
        self._handlers = HandlerStore(progress=lambda stage, done, total: progress(f"building {stage}", done, total))
        self._handlers.build_usual()
        config = MachineConfig(memory_size=options.memory_size, profile=PROFILES[options.processor])
        self._machine = BareMachine(config, output, self._handlers)
        self._console = console
        self._host_seconds = 0.0
        self._received = False
        self._machine.processor.on_idle = self._idle
        self._next_poll = self._machine.clock.schedule(POLL_PERIOD, self._poll)

    def load(self, image: BootImage) -> None:
        """Put a guest into memory. Raises FirmwareError."""
        self._machine.load(image)

    def stop(self) -> None:
        """End the run: the user asks for it."""
        self._machine.control.stop(UserQuit())

    def run(self, max_instructions: int | None) -> End:
        """Run until something ends it."""
        started = time.perf_counter()
        try:
            stopped = self._machine.run(max_instructions)
        finally:
            self._host_seconds += time.perf_counter() - started
            if self._machine.bios is not None:
                self._machine.bios.screen.close()
        return self._end(stopped)

    def statistics(self) -> Statistics:
        """What the run counted."""
        return read_statistics(self._machine, self._host_seconds)

    def _end(self, stopped: Stopped) -> End:
        end = self._reason(stopped)
        bios = self._machine.bios
        return end if bios is None else replace(end, notes=tuple(bios.notes))

    def _reason(self, stopped: Stopped) -> End:
        request = self._machine.control.request
        if request is not None:
            match request:
                case PowerOff():
                    return End("power-off")
                case GuestExit(status):
                    return End("guest-exit", guest_status=status)
                case Reset():
                    return End("reset")
                case _:
                    return End("user-quit")
        if stopped.reason == "limit":
            return End("limit")
        if stopped.reason == "halted":
            return End("halted")
        report = "\n".join(part for part in (stopped.report, describe_processor(self._machine.processor)) if part)
        return End("triple-fault" if stopped.reason == "triple-fault" else "unimplemented", report=report)

    def _poll(self) -> None:
        """Show what was sent and take what was typed, and again after POLL_PERIOD. No guest can see this event."""
        self._receive(0.0)
        self._poll_after(self._machine.clock.now)

    def _poll_after(self, cycle: int) -> None:
        self._next_poll = self._machine.clock.schedule(cycle + POLL_PERIOD, self._poll)

    def _idle(self, cycles: int) -> None:
        """The processor sleeps. While somebody may type it sleeps for real, else time passes at once."""
        clock, control = self._machine.clock, self._machine.control
        clock.cancel(self._next_poll)
        if clock.deadline is None:
            # Only input can wake it; without input nothing can, and the processor's loop ends the run.
            while self._listens() and clock.deadline is None and control.request is None:
                self._receive(LONGEST_WAIT)
        else:
            self._sleep((clock.deadline - clock.now) / clock.hz)
        if clock.deadline is not None:
            self._poll_after(clock.deadline)

    def _sleep(self, seconds: float) -> None:
        """Wait for input, at most `seconds` of host time, if there can be any."""
        if seconds < SHORTEST_WAIT or not self._listens():
            self._receive(0.0)
            return
        self._received = False
        end = time.monotonic() + seconds
        while not self._received and self._machine.control.request is None and (left := end - time.monotonic()) > 0:
            self._receive(min(left, LONGEST_WAIT))

    def _receive(self, seconds: float) -> None:
        """Hand over typed bytes, after waiting at most `seconds` of host time for them."""
        if self._machine.bios is not None:
            self._machine.bios.screen.refresh()
        if not self._listens():
            self._console.flush()
            return
        data = self._console.wait(seconds) if seconds else self._console.poll()
        if data:
            self._machine.receive(data)
            self._received = True

    def _listens(self) -> bool:
        """True when input may come and is wanted.

        The bytes of a pipe or file wait until the guest listens, or its drivers would clear them away at boot.
        """
        return self._console.has_input and (self._console.is_interactive or self._machine.listens)
