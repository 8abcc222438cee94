"""Input from outside: looked at in modelled time, waited for while the processor sleeps, delivered at a cycle."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

import pytest

from trapgate.machine.clock import Clock
from trapgate.machine.control import DebugStop, RunControl, UserQuit
from trapgate.machine.outside import Outside

HZ = 1_000_000_000
PERIOD = 1000


class Pipe:
    """A source that hands over what is written into a pipe, until its end."""

    period = PERIOD

    def __init__(self) -> None:
        self.read, self.write = os.pipe()
        os.set_blocking(self.read, False)
        self.deliver: Callable[[bytes], None]
        self.listens = True
        self.looks = 0

    def descriptors(self) -> tuple[int, ...]:
        return (self.read,) if self.listens else ()

    def timeout(self) -> float | None:
        return None

    def poll(self) -> None:
        self.looks += 1
        try:
            data = os.read(self.read, 100)
        except BlockingIOError:
            return
        if data:
            self.deliver(data)
        else:
            self.listens = False


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    pipe = Pipe()
    yield pipe
    for number in (pipe.read, pipe.write):
        try:
            os.close(number)
        except OSError:
            continue


@pytest.fixture
def clock() -> Clock:
    return Clock(HZ)


@pytest.fixture
def control() -> RunControl:
    return RunControl()


@pytest.fixture
def got() -> list[bytes]:
    return []


@pytest.fixture
def outside(clock: Clock, control: RunControl, pipe: Pipe, got: list[bytes]) -> Outside:
    outside = Outside(clock, control)
    pipe.deliver = outside.add_place("com1", got.append)
    outside.add_source(pipe)
    return outside


def test_source_is_looked_at_every_period(outside: Outside, clock: Clock, pipe: Pipe, got: list[bytes]) -> None:
    for now in range(PERIOD, 4 * PERIOD, PERIOD):
        clock.now = now - 1
        clock.run_due()
        looks = pipe.looks
        clock.now = now
        clock.run_due()
        assert pipe.looks == looks + 1
    os.write(pipe.write, b"ls")
    clock.now = 4 * PERIOD
    clock.run_due()
    assert got == [b"ls"]


def test_delivery_is_told_with_its_cycle_before_it_happens(outside: Outside, clock: Clock, got: list[bytes]) -> None:
    told: list[tuple[int, str, bytes, int]] = []
    outside.on_delivery = lambda cycle, name, data: told.append((cycle, name, data, len(got)))
    clock.now = 77
    outside.deliver("com1", b"x")
    assert told == [(77, "com1", b"x", 0)]
    assert got == [b"x"]


def test_sleeper_without_an_event_waits_for_input_and_goes_on_at_once(
    outside: Outside, clock: Clock, pipe: Pipe, got: list[bytes]
) -> None:
    os.write(pipe.write, b"x")
    clock.now = 500
    outside.idle(PERIOD)
    assert got == [b"x"]
    assert clock.deadline == 500


def test_sleeper_is_woken_by_input_that_comes_while_it_sleeps(
    outside: Outside, clock: Clock, pipe: Pipe, got: list[bytes]
) -> None:
    clock.schedule(3600 * HZ, lambda: None)
    if os.fork() == 0:
        os.write(pipe.write, b"late")
        os._exit(0)
    outside.idle(PERIOD)
    os.wait()
    assert got == [b"late"]
    assert clock.deadline == clock.now


def test_time_passes_at_once_when_no_input_can_come(outside: Outside, clock: Clock, pipe: Pipe) -> None:
    os.close(pipe.write)
    clock.schedule(3600 * HZ, lambda: None)
    outside.idle(PERIOD)
    assert clock.deadline == 3600 * HZ


def test_nothing_can_wake_a_sleeper_whose_input_has_ended(outside: Outside, clock: Clock, pipe: Pipe) -> None:
    os.close(pipe.write)
    outside.idle(PERIOD)
    assert clock.deadline is None


def test_sleep_ends_when_the_run_is_to_end(outside: Outside, clock: Clock, control: RunControl) -> None:
    control.stop(UserQuit())
    clock.schedule(3600 * HZ, lambda: None)
    outside.idle(PERIOD)
    assert clock.deadline == 3600 * HZ


def test_a_source_can_ask_for_an_earlier_look(outside: Outside, clock: Clock, pipe: Pipe) -> None:
    outside.look_within(PERIOD + 1)  # the usual look is earlier
    assert clock.deadline == PERIOD
    outside.look_within(10)
    assert clock.deadline == 10
    clock.now = 10
    clock.run_due()
    assert pipe.looks == 1
    assert clock.deadline == 10 + PERIOD


def test_a_sleeper_that_input_wakes_is_looked_at_once(outside: Outside, clock: Clock, pipe: Pipe) -> None:
    os.write(pipe.write, b"x")
    clock.now = 500
    outside.idle(PERIOD)
    assert (pipe.looks, clock.deadline) == (1, 500)
    clock.run_due()
    assert (pipe.looks, clock.deadline) == (1, 500 + PERIOD)


# Debuggers


class Debugger(Pipe):
    """A source that only looks at the guest."""

    brings_nothing = True
    period = 1


def test_a_debugger_changes_nothing_in_when_the_others_are_looked_at(outside: Outside, clock: Clock) -> None:
    before, debugger = clock.deadline, Debugger()
    outside.add_source(debugger)
    assert clock.deadline == before == PERIOD
    outside.look_again()
    assert clock.deadline == PERIOD
    clock.now = PERIOD
    clock.run_due()
    assert (debugger.looks, clock.deadline) == (1, 2 * PERIOD)


def test_a_sleep_without_an_end_that_was_cut_short_is_looked_at_again(
    outside: Outside, clock: Clock, control: RunControl
) -> None:
    control.stop(DebugStop())
    outside.idle(PERIOD)
    assert clock.deadline is None
    control.forget_debug_stop()
    assert control.request is None
    outside.look_again()
    assert clock.deadline == clock.now + PERIOD


def test_input_is_repeated_and_nothing_new_comes_before_the_end(
    outside: Outside, clock: Clock, pipe: Pipe, got: list[bytes]
) -> None:
    noted: list[object] = []
    outside.on_delivery = lambda *delivery: noted.append(delivery)
    debugger = Debugger()
    outside.add_source(debugger)
    os.write(pipe.write, b"new")
    name = next(iter(outside._takers))
    outside.repeat([(900, name, b"old"), (900, "", (500).to_bytes(8, "little")), (1400, name, b"later")], PERIOD, 2000)
    seen = []
    for cycle in (900, 1400, 1900, 2400):
        assert outside.repeating
        assert clock.deadline == cycle
        clock.now = cycle
        clock.run_due()
        outside.look_within(1)  # nobody has an answer to what was sent before
        seen.append(list(got))
    assert seen == [[b"old"], [b"old", b"later"], [b"old", b"later"], [b"old", b"later", b"new"]]
    assert not outside.repeating
    assert noted == [(2400, name, b"new")]
    assert debugger.looks == 4
