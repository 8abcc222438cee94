"""The clock: order of events, cancelling, exact crystals."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trapgate.machine.clock import Clock, TickSource
from trapgate.machine.errors import InvalidFrequency


def test_events_run_in_order_of_cycle_then_of_scheduling() -> None:
    clock = Clock(1_000_000)
    seen: list[str] = []
    clock.schedule(20, lambda: seen.append("late"))
    clock.schedule(10, lambda: seen.append("first"))
    clock.schedule(10, lambda: seen.append("second"))
    assert clock.deadline == 10
    clock.now = 9
    clock.run_due()
    assert seen == []
    clock.now = 30
    clock.run_due()
    assert seen == ["first", "second", "late"]
    assert clock.deadline is None


def test_cancelled_events_do_not_happen_and_do_not_set_the_deadline() -> None:
    clock = Clock(1_000_000)
    seen: list[int] = []
    event = clock.schedule(5, lambda: seen.append(5))
    clock.schedule(7, lambda: seen.append(7))
    clock.cancel(event)
    clock.cancel(event)
    assert clock.deadline == 7
    clock.now = 100
    clock.run_due()
    clock.cancel(event)
    assert seen == [7]


def test_an_event_scheduled_by_an_event_runs_in_the_same_call_when_due() -> None:
    clock = Clock(1_000_000)
    seen: list[int] = []
    clock.schedule(1, lambda: (seen.append(1), clock.schedule(2, lambda: seen.append(2)))[0])
    clock.now = 2
    clock.run_due()
    assert seen == [1, 2]


def test_arming_and_cancelling_far_events_does_not_grow_the_heap() -> None:
    clock = Clock(1_000_000)
    kept = clock.schedule(1 << 60, lambda: None)
    for _ in range(10_000):
        clock.cancel(clock.schedule(1 << 50, lambda: None))
    assert len(clock._heap) < 200
    assert clock.deadline == kept.at


def test_a_frequency_too_low_for_timers_is_refused() -> None:
    with pytest.raises(InvalidFrequency, match=r"at least 1000000 Hz, got 50: choose another"):
        Clock(50)


@given(
    st.integers(1_000_000, 5_000_000_000), st.sampled_from([32_768, 1_193_182, 200_000_000]), st.integers(0, 1 << 60)
)
def test_cycle_of_is_the_first_cycle_of_a_tick(hz: int, frequency: int, tick: int) -> None:
    clock = Clock(hz)
    source = TickSource(clock, frequency)
    clock.now = source.cycle_of(tick)
    assert source.ticks() >= tick
    if clock.now:
        clock.now -= 1
        assert source.ticks() < tick


class _Timer:
    """Something that schedules events again when it is restored."""

    def __init__(self, name: str, clock: Clock, seen: list[str]) -> None:
        self.name, self._clock, self._seen = name, clock, seen

    def start(self, at: int) -> None:
        self._clock.schedule(at, self.ring)

    def ring(self) -> None:
        self._seen.append(self.name)


def test_restored_events_come_in_the_order_that_they_had() -> None:
    seen: list[str] = []
    clock, other = Clock(1_000_000), Clock(1_000_000)
    for name, at in (("c", 9), ("a", 7), ("b", 7), ("d", 7)):
        _Timer(name, clock, seen).start(at)
    snapshot = clock.snapshot()
    assert snapshot == {"now": 0, "events": [[7, "a.ring"], [7, "b.ring"], [7, "d.ring"], [9, "c.ring"]]}
    other.schedule(7, lambda: seen.append("of the user"))
    for name in "dcba":  # in another order, and at other cycles
        _Timer(name, other, seen).start(8)
    other.restore(snapshot)
    assert other.snapshot()["events"] == snapshot["events"]
    other.now = 9
    other.run_due()
    assert seen == ["a", "b", "d", "of the user", "c"]
    assert other.deadline is None


def test_two_events_of_one_name_keep_their_cycles() -> None:
    seen: list[str] = []
    clock = Clock(1_000_000)
    timer = _Timer("t", clock, seen)
    for at in (5, 3):
        timer.start(at)
    snapshot = clock.snapshot()
    other = Clock(1_000_000)
    again = _Timer("t", other, seen)
    for at in (3, 5):
        again.start(at)
    other.restore(snapshot)
    assert other.snapshot()["events"] == [[3, "t.ring"], [5, "t.ring"]]
    assert other.deadline == 3
