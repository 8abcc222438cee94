"""The way back: states of the machine taken as it goes, and what came in from outside since the first of them.

A guest is brought to an earlier place by putting the last state before it back and running on from there, with the
input repeated at the cycles at which it came and nothing shown twice. A place is its modelled cycle: every instruction
takes one at least. What a debugger changes cannot be repeated, so the history begins anew there.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass

from trapgate.debug.guest import Guest
from trapgate.debug.stops import Stop
from trapgate.debug.watching import Points
from trapgate.lab.snapshots import MachineState, SnapshotError
from trapgate.machine.block import BlockError
from trapgate.machine.outside import Delivery

#: Instructions between two states: what is run again to go back, a few tenths of a second.
INTERVAL = 20_000_000
#: Bytes of memory that states may have beside what they share; older ones are then thinned out.
MOST_BYTES = 512 << 20
MOST_STATES = 64
#: Bytes of input that are kept.
MOST_INPUT = 64 << 20
#: Instructions that are stepped before a place: native code overshoots by less than a block.
STEPPED = 128


@dataclass(frozen=True, slots=True)
class Put:
    """Make the machine what it was; nothing of the run may be on the stack."""

    state: MachineState


@dataclass(frozen=True, slots=True)
class Go:
    """Run to the first stop: at breakpoints and watchpoints if `armed`, after one instruction if `step`, or where the
    guest has come to `limit` instructions."""

    limit: int | None = None
    step: bool = False
    armed: bool = False


#: A way back: what is to be done next, and why the guest has stopped then; in the end what the debugger is told.
Travel = Generator[Put | Go, str, Stop]


class History:
    """Of one guest, once somebody wants it."""

    def __init__(self, guest: Guest) -> None:
        self._guest = guest
        self._states: list[MachineState] = []
        #: At the cycles of states: cycles between two looks at the sources, how much input had come.
        self._marks: dict[int, tuple[int, int]] = {}
        self._input: list[Delivery] = []
        self._input_bytes = 0
        #: The cycle to which the guest has come before it was first taken back.
        self._present = 0
        self.wanted = False
        #: Why there is no way back; "" while there is one.
        self.refusal = ""
        self._next = 0

    def begin(self) -> None:
        """Keep states from now on."""
        if not self.wanted:
            self.wanted = True
            outside = self._guest.outside
            if outside.on_delivery is not None or outside.on_visit is not None:
                self.refusal = "the run is recorded"
                return
            outside.on_delivery, outside.on_period = self._note, self._note_period
            self.restart()

    def end(self) -> None:
        """Keep none any more."""
        if self.wanted:
            self.wanted = False
            if self.refusal:
                return
            self._guest.outside.on_delivery = self._guest.outside.on_period = None
            self._guest.outside.stop_repeating()
            self._states.clear()
            self._input.clear()

    def restart(self) -> None:
        """What was cannot be repeated from here on."""
        self._states.clear()
        self._input.clear()
        self._input_bytes = 0
        self._marks.clear()
        self._present = self._next = 0
        self._guest.outside.stop_repeating()

    def _note_period(self, cycles: int) -> None:
        self._note(self._guest.clock.now, "", cycles.to_bytes(8, "little"))

    def _note(self, cycle: int, place: str, data: bytes) -> None:
        self._input.append((cycle, place, data))
        self._input_bytes += len(data) + 64
        if self._input_bytes > MOST_INPUT:
            self.restart()

    @property
    def next(self) -> int | None:
        """Instructions at which the next state is due."""
        return self._next if self.wanted and not self.refusal and not self._guest.outside.repeating else None

    def keep(self) -> None:
        """Take a state where one is due and can be taken."""
        due = self.next
        if due is None or self._guest.instructions < due or not self._guest.can_take:
            return
        try:
            state = self._guest.take(self._states[-1] if self._states else None)
        except (SnapshotError, BlockError) as error:
            self.refusal = str(error)
            return
        self._states.append(state)
        self._marks[state.cycle] = self._guest.outside.period, len(self._input)
        self._next = self._guest.instructions + INTERVAL
        while len(self._states) > 2 and (len(self._states) > MOST_STATES or self._bytes() > MOST_BYTES):
            # The older half keeps every second one; the first stays, or the way back would get shorter.
            half = len(self._states) // 2
            kept = self._states[:half][::2]
            self._states = (kept if len(kept) < half else self._states[:1]) + self._states[half:]

    def _bytes(self) -> int:
        seen: set[int] = set()
        total = 0
        for state in self._states:
            total += len(state.block)
            for piece in state.memory.pieces:
                if piece is not None and id(piece) not in seen:
                    seen.add(id(piece))
                    total += len(piece)
        return total

    # -- going back

    def _repeat(self, state: MachineState) -> None:
        """Input is repeated from a state on that was put back, as far as the guest had come."""
        period, already = self._marks[state.cycle]
        self._guest.outside.repeat(self._input[already:], period, self._present)

    def _before(self, cycle: int) -> list[MachineState]:
        """States of before a cycle, the last first."""
        return [state for state in reversed(self._states) if state.cycle < cycle]

    def _leave_present(self) -> int:
        """The cycle where the guest stands."""
        here = self._guest.cycle
        self._present = max(self._present, here)
        return here

    def _put(self, state: MachineState) -> Generator[Put | Go, str, None]:
        yield Put(state)
        self._repeat(state)

    def step(self) -> Travel:
        """One instruction back."""
        here, instructions = self._leave_present(), self._guest.instructions
        return (yield from self._step_to_before(here, instructions, self._guest.progress, Stop("step")))

    def _step_to_before(self, here: int, instructions: int, progress: tuple[int, ...], stop: Stop) -> Travel:
        """To the last place before the cycle `here`, where the guest had done so many instructions and looked so."""
        for state in self._before(here):
            # How many steps lead to it from a place that is easy to come to; then so many.
            yield from self._approach(state, instructions)
            if self._guest.cycle >= here:
                continue
            done, steps = 0, -1
            while self._guest.cycle < here:
                if self._guest.progress != progress:
                    steps = done
                reason = yield Go(step=True)
                done += 1
                if reason != "steps":
                    break
            if steps < 0:
                continue
            yield from self._approach(state, instructions)
            for _ in range(steps):
                yield Go(step=True)
            return stop
        return (yield from self._to_begin())

    def _approach(self, state: MachineState, instructions: int) -> Generator[Put | Go, str, None]:
        """To somewhat before so many instructions."""
        yield from self._put(state)
        if state.instructions < instructions - STEPPED:
            yield Go(limit=instructions - STEPPED)

    def _to_begin(self) -> Travel:
        """The first state there is."""
        if self._states:
            yield from self._put(self._states[0])
        return Stop("begin")

    def go(self, points: Points) -> Travel:
        """Back to where a breakpoint or watchpoint was hit last."""
        here, instructions = self._leave_present(), self._guest.instructions
        for state in self._before(here):
            # Behind the next state everything has been searched already.
            yield from self._put(state)
            hits, found = 0, Stop("breakpoint")
            place, at, progress = 0, 0, self._guest.progress
            while True:
                reason = yield Go(limit=instructions, armed=True)
                if self._guest.cycle >= here or (reason != "breakpoint" and points.hit is None):
                    break
                hits += 1
                place, at, progress = self._guest.cycle, self._guest.instructions, self._guest.progress
                found = Stop("breakpoint", self._guest.linear_rip)
                if points.hit is not None:
                    found = Stop("watchpoint", points.hit[1], points.hit[0].kind)
            if not hits:
                here, instructions = state.cycle, state.instructions
                continue
            if found.kind == "watchpoint":
                # The value of before the access is what going back leads to.
                return (yield from self._step_to_before(place, at, progress, found))
            yield from self._put(state)
            for _ in range(hits):
                yield Go(limit=instructions, armed=True)
            return found
        return (yield from self._to_begin())
