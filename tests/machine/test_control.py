"""The end of a run."""

from __future__ import annotations

from trapgate.machine.control import GuestExit, PowerOff, RunControl, UserQuit


def test_the_first_request_wins() -> None:
    control = RunControl()
    assert control.request is None
    control.stop(GuestExit(3))
    control.stop(PowerOff())
    control.stop(UserQuit())
    assert control.request == GuestExit(3)
