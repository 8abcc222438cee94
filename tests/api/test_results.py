"""What the ends of runs say."""

from __future__ import annotations

import typing

import pytest

from trapgate.api import MemoryAccess, results

TEXTS = {
    results.ConsoleMatch("text", "~ # "): "'~ # ' on the console",
    results.AddressReached(0x7C00): "address 0x7c00 reached",
    results.BreakpointHit(0x7C00): "breakpoint at 0x7c00",
    results.WatchpointHit(0x7C00, MemoryAccess("read-write", 0x500, 4)): (
        "read-write of 4 bytes at 0x500 by the instruction at 0x7c00"
    ),
    results.ExceptionTaken(14, 2, 0x7C00, 0x1000): "#PF for 0x1000 at 0x7c00",
    results.ExceptionTaken(13, 0, 0x7C00, None): "#GP at 0x7c00",
    results.ExceptionTaken(200, None, 0x7C00, None): "200 at 0x7c00",
    results.DeadlineReached("seconds"): "the seconds of the run are used up",
    results.StepsDone(): "all steps are done",
    results.StopRequested(): "the program asked for it",
    results.PoweredOff(): "power off",
    results.GuestExited(3): "guest exit with status 3",
    results.ResetRequested(): "reset",
    results.Halted(): "halted for ever",
    results.TripleFault(): "triple fault",
    results.Unimplemented("unimplemented: wanted x, got y: z"): "unimplemented: wanted x, got y: z",
}


@pytest.mark.parametrize("result", TEXTS, ids=lambda result: type(result).__name__)
def test_the_text_of_a_result(result: results.Result) -> None:
    assert str(result) == TEXTS[result]


def test_no_result_is_without_a_text() -> None:
    assert {type(result) for result in TEXTS} == set(typing.get_args(results.Result))
