"""Work in processes of its own: order, errors, and processes that die."""

from __future__ import annotations

import os
import signal

import pytest

from trapgate.lab.errors import WorkerDied
from trapgate.lab.parallel import Failure, run_parallel


def test_results_come_in_the_jobs_order_and_changes_are_told() -> None:
    changes: list[tuple[int, bool]] = []
    assert run_parallel(abs, [-1, 2, -3], 2, lambda number, done: changes.append((number, done))) == [1, 2, 3]
    assert sorted(changes) == [(number, done) for number in range(3) for done in (False, True)]
    begun = [number for number, done in changes if not done]
    assert begun == [0, 1, 2]
    assert changes.index((2, False)) > min(changes.index((0, True)), changes.index((1, True)))


def test_what_a_job_raises_is_its_result() -> None:
    good, bad = run_parallel(int, ["7", "x"], 1, lambda number, done: None)
    assert good == 7
    assert isinstance(bad, Failure)
    assert bad.message == "ValueError: invalid literal for int() with base 10: 'x'"
    assert bad.traceback.startswith("Traceback (most recent call last):")


@pytest.mark.parametrize(
    ("work", "job", "what"),
    [(os._exit, 3, "exit status 3"), (signal.raise_signal, signal.SIGKILL, "signal 9")],
    ids=["exits", "is killed"],
)
def test_a_process_that_dies(work: object, job: int, what: str) -> None:
    with pytest.raises(WorkerDied) as error:
        run_parallel(work, [job], 2, lambda number, done: None)  # type: ignore[arg-type]
    assert str(error.value) == (
        f"wanted each run to report how it ended, got a process that ended with {what}: try --jobs 1"
    )
