"""Stops a guest, serves those who look at it, and lets it go on.

Debuggers and monitors are looked at as all sources of the outside are (machine/outside.py), but bring no input to the
guest by themselves: they ask for a stop between two instructions, and what they want is done there. A run that is
stopped and let go on has the counts of one that is not.
"""

from __future__ import annotations

import select
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from trapgate.debug.errors import CommandError
from trapgate.debug.guest import Guest
from trapgate.debug.history import Go, History, Put, Travel
from trapgate.debug.stops import Resume, Stop
from trapgate.debug.watching import Points, Watch
from trapgate.engine.stepping import UNCOUNTED
from trapgate.lab import snapshots
from trapgate.lab.snapshots import MachineState
from trapgate.machine.control import DebugStop, UserQuit
from trapgate.machine.outside import TYPING_PERIOD

#: Seconds: while nobody says anything, look whether the user has ended the run.
LONGEST_WAIT = 0.2
#: Steps that may pass without an instruction (a page of a table that is filled in, an exit to a hypervisor).
MOST_EMPTY_STEPS = 10_000


class Client(Protocol):
    """Who looks at a guest: a server for gdb, a monitor."""

    def filenos(self) -> Sequence[int]:
        """What is to be waited at."""

    def look(self) -> bool:
        """Take what has come, without waiting; whether the guest is to be stopped for it."""

    def serve(self) -> Resume | None:
        """The guest is stopped: do what is wanted; how it is to go on when the client has said so."""

    def report(self, stop: Stop) -> None:
        """The guest has stopped by itself."""

    def close(self) -> None:
        """The run is over."""


@runtime_checkable
class Printer(Protocol):
    """A client that prints text."""

    def write(self, data: bytes) -> None:
        """Print."""


@runtime_checkable
class HasPoints(Protocol):
    """A client that has breakpoints and watchpoints."""

    points: Points


class Session:
    """The clients of one guest. `running` says whether the guest is to go on when they have been served."""

    period = TYPING_PERIOD
    listens = False
    brings_nothing = True

    def __init__(self, guest: Guest, stopped: bool = False) -> None:
        """`stopped`: the guest waits for somebody before its first instruction."""
        self.guest = guest
        self.running = not stopped
        self.clients: list[Client] = []
        self._resume = Resume()
        self._before: tuple[int, ...] = ()
        self._empty_steps = 0
        self.last_stop = Stop("attached")
        #: Called after a debugger has changed registers or memory.
        self.on_change: list[Callable[[], None]] = []
        self.history = History(guest)
        #: The way back that the guest is on, and a state that is to be put as soon as it can be.
        self._travel: Travel | None = None
        self._to_put: MachineState | None = None
        #: What is to be done where the guest's state can be taken: under a technique, between two entries.
        self._at_top: list[Callable[[], None]] = []
        #: More that is to be waited at while the guest is stopped, and looked at: the console.
        self.others: list[tuple[Callable[[], Sequence[int]], Callable[[], None]]] = []
        #: States that were saved: name, instructions and cycle.
        self.saved: dict[str, tuple[int, int]] = {}
        #: Input for the guest, which comes in when it runs.
        self._input: list[tuple[str, bytes]] = []
        guest.outside.add_source(self)

    #: What a run knows besides its machine, for states that are saved; takes pictures of the screen.
    describe: Callable[[], dict[str, Any]] = staticmethod(dict)
    screenshot: Callable[[Path], None] | None = None
    #: Carries out a line of the monitor's and gives what it prints.
    command: Callable[[str], str] = staticmethod(lambda line: "there is no monitor\n")

    @property
    def goes_backwards(self) -> bool:
        """Whether the guest can be brought to where it was earlier. From now on states are kept for that."""
        self.history.begin()
        self.history.keep()
        return not self.history.refusal

    def add(self, client: Client) -> None:
        """Serve one more."""
        self.clients.append(client)

    def remove(self, client: Client) -> None:
        """Serve it no more."""
        client.close()
        self.clients.remove(client)

    # -- as a source of the machine's outside

    def descriptors(self) -> Sequence[int]:
        """All clients'."""
        return [number for client in self.clients for number in client.filenos()]

    def timeout(self) -> float | None:
        """None: who wants something makes a descriptor readable."""
        return None

    def poll(self) -> None:
        """Look at the clients while the guest runs, and hand over what they have for it."""
        waiting, self._input = self._input, []
        for place, data in waiting:
            self.guest.outside.deliver(place, data)
        self.look()

    def look(self) -> None:
        """Stop the guest when a client wants something."""
        wants = False
        for client in self.clients:
            wants |= client.look()
        if wants and self._travel is None:
            self.guest.ask_to_stop()

    # -- what clients ask for

    def pause(self, stop: Stop) -> None:
        """Stop the guest; for clients, while it is stopped or is asked to."""
        self.running = False
        self.last_stop = stop

    def deliver(self, place: str, data: bytes) -> None:
        """Hand input to a place of the machine (machine/outside.py), with the next look at what comes from there.

        Raises CommandError.
        """
        if self.guest.outside.repeating:
            raise CommandError("the guest repeats what it has done: it takes no input before it has come to the end")
        self._input.append((place, data))

    def tell(self, stop: Stop) -> None:
        """One client has stopped the guest: the others hear of it."""
        self._report(stop)

    def announce(self, text: str) -> None:
        """Tell those who read what the monitor prints."""
        for client in self.clients:
            if text and isinstance(client, Printer):
                client.write(text.encode(errors="replace"))

    @property
    def busy(self) -> bool:
        """Whether what was asked for last has still to be done: clients wait with what comes next."""
        return self._travel is not None or bool(self._at_top)

    def go_on(self) -> None:
        """Let the guest run; for monitors."""
        self.running = True
        self._resume = Resume()

    def changed(self) -> None:
        """A register or memory of the guest has been changed from outside: nothing can be repeated from before."""
        self.history.restart()
        for call in self.on_change:
            call()

    def quit(self) -> None:
        """End the run."""
        self.guest.end(UserQuit())

    # -- the run

    def begin(self, end: int | None) -> bool:
        """Before the first instruction: serve who is there already; whether the run may begin. It ends at `end`
        instructions."""
        self.guest.limit_to(end)
        going = self._serve()
        self.guest.at_top = False
        return going

    def join(self, end: int | None) -> None:
        """As `begin`, for a run that goes on already."""
        self.guest.limit_to(end)
        self.guest.at_top = False

    @property
    def pause_at(self) -> int | None:
        """Instructions at which a state is due."""
        return None if self._travel is not None else self.history.next

    @property
    def limit(self) -> int | None:
        """Instructions at which the run is to be stopped next."""
        limits = (self.guest.limit, self.pause_at if self.guest.pauses_by_limit else None)
        return min((limit for limit in limits if limit is not None), default=None)

    def stopped(self, reason: str) -> bool:
        """The run has stopped, for `reason` (engine/processor.py: Stopped); True when it is to go on."""
        guest = self.guest
        if reason == "request" and guest.processor.steps_left <= 0:
            reason = "steps"
        guest.processor.steps_left = UNCOUNTED
        if self._travel is not None:
            return self._travel_on(reason)
        request = guest.request
        if request is not None and not isinstance(request, DebugStop):
            return False
        asked = request is not None
        guest.forget_stop()
        if reason == "limit":
            if guest.at_end:
                return False
            self.history.keep()
            return True
        if reason == "steps" and self._goes_on_stepping():
            self._prepare_step()
            return True
        if reason == "halted":
            # For ever, by itself: only who is there can wake it.
            if not asked and not self._is_watched():
                return False
            self._wait()
        elif reason != "request":
            stop = self._describe(reason)
            self.pause(stop)
            self._report(stop)
        ended = reason in ("triple-fault", "unimplemented")
        if not self._serve():
            return False
        return not ended

    def returned(self, reason: str) -> bool:
        """The hypervisor's loop has returned (lab/virtual.py); True when it is to be entered again."""
        guest = self.guest
        guest.at_top = True
        try:
            if self._to_put is not None:
                state, self._to_put = self._to_put, None
                guest.put(state)
                return self._travel_on("put")
            if reason == "paused":
                self._do_at_top()
                self.history.keep()
                return self._serve()
            if reason == "triple-fault" and guest.request is None:
                self.stopped(reason)
            return False
        finally:
            guest.at_top = False

    def when_at_top(self, call: Callable[[], None]) -> None:
        """Do something where the guest's state can be taken: now, or at its next exit, to which it runs on."""
        self._at_top.append(call)
        if self.guest.can_take:
            self._do_at_top()
        else:
            self.guest.ask_to_pause()

    def _do_at_top(self) -> None:
        waiting, self._at_top = self._at_top, []
        for call in waiting:
            call()

    # -- going elsewhere

    def load(self, state: MachineState) -> None:
        """Make the machine what it was; it goes on from there if it is running now. Raises SnapshotError."""
        snapshots.check(self.guest.machine, state)
        self._travel = self._to_loaded(state, self.running)

    def _to_loaded(self, state: MachineState, running: bool) -> Travel:
        yield Put(state)
        self.guest.machine.redraw_screen()
        self.history.restart()
        self.running = running
        return Stop("loaded")

    def _depart(self) -> bool:
        """The client wants to go back."""
        points = self._points()
        self._travel = self.history.go(points) if points and not self._resume.step else self.history.step()
        return self._travel_on(None)

    def _points(self) -> Points | None:
        return next((client.points for client in self.clients if isinstance(client, HasPoints)), None)

    def _travel_on(self, reason: str | None) -> bool:
        """What is to be done next on the way back; True when the guest is to run."""
        guest, points = self.guest, self._points()
        while self._travel is not None:
            try:
                command = next(self._travel) if reason is None else self._travel.send(reason)
            except StopIteration as end:
                self._travel = None
                guest.stop_at(None)
                guest.forget_stop()
                if end.value.kind != "loaded":
                    self.pause(end.value)
                    self._report(end.value)
                return self._serve()
            if isinstance(command, Go):
                if points is not None:
                    if command.armed:
                        points.arm()
                    else:
                        points.rest()
                guest.stop_at(command.limit)
                if command.step:
                    guest.processor.steps_left = 1
                return True
            if not guest.can_put:
                self._to_put = command.state
                guest.end(UserQuit())  # until the hypervisor's loop has been left
                return False
            guest.put(command.state)
            reason = "put"
        return False

    def _goes_on_stepping(self) -> bool:
        """A step has done nothing yet: an exit to the hypervisor came first, or a page was looked up."""
        if self._hit() is not None or self.guest.progress != self._before or not self._resume.step:
            return False
        self._empty_steps += 1
        return self._empty_steps < MOST_EMPTY_STEPS

    def _describe(self, reason: str) -> Stop:
        """What clients are told."""
        hit = self._hit()
        if hit is not None:
            return Stop("watchpoint", hit[1], hit[0].kind)
        if reason == "breakpoint":
            return Stop("breakpoint", self.guest.linear_rip)
        if reason == "triple-fault":
            return Stop("shutdown")
        if reason == "unimplemented":
            return Stop("unimplemented")
        return Stop("step")

    def _hit(self) -> tuple[Watch, int] | None:
        points = self._points()
        return None if points is None else points.hit

    def _is_watched(self) -> bool:
        """Whether somebody is there who could wake a guest that has halted."""
        return any(getattr(client, "attached", False) for client in self.clients)

    def _report(self, stop: Stop) -> None:
        for client in self.clients:
            client.report(stop)

    def _serve(self) -> bool:
        """Serve the clients until the guest is to go on; False when the run is to end."""
        while True:
            for client in list(self.clients):
                client.look()
                resume = client.serve()
                if resume is not None:
                    self.running = True
                    self._resume = resume
            request = self.guest.request
            if request is not None and not isinstance(request, DebugStop):
                return False
            if self._travel is not None:
                return self._travel_on(None)
            if self._at_top and not self.running:
                self._prepare()
                return True
            if self.running:
                if self._resume.backwards:
                    return self._depart()
                self._prepare()
                return True
            self._wait()

    def _wait(self) -> None:
        """Until somebody says something, or for a while."""
        poller = select.poll()
        for number in self.descriptors():
            poller.register(number, select.POLLIN)
        for descriptors, _ in self.others:
            for number in descriptors():
                poller.register(number, select.POLLIN)
        poller.poll(LONGEST_WAIT * 1000)
        for _, look in self.others:
            look()

    def _prepare(self) -> None:
        """The guest is about to run."""
        guest = self.guest
        guest.forget_stop()
        guest.stop_at(None)
        self.history.keep()
        points = self._points()
        if points is not None:
            points.arm()
        guest.outside.look_again()
        if self._resume.step:
            self._empty_steps = 0
            self._prepare_step()

    def _prepare_step(self) -> None:
        self._before = self.guest.progress
        self.guest.processor.steps_left = 1

    def close(self) -> None:
        """The run is over."""
        self._report(Stop("ended"))
        for client in self.clients:
            client.close()
