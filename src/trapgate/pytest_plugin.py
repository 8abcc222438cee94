"""A pytest plugin for people who test kernels: the `machine` fixture, and the guest's state in reports of failures.

    @pytest.mark.machine(memory="64M", symbols="kernel.elf")
    def test_it_says_hello(machine):
        machine.boot(kernel="kernel.elf")
        machine.expect("hello", seconds=1)

Nothing of trapgate's engine is imported before a test asks for a machine.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from trapgate.api import Machine

MARKER = "machine(memory='256M', cpu='opteron-2007', start_time=None, symbols=None): how the machine fixture is made"
_MACHINE = pytest.StashKey["Machine"]()


def pytest_configure(config: pytest.Config) -> None:
    """Make the marker known."""
    config.addinivalue_line("markers", MARKER)


@pytest.fixture
def machine(request: pytest.FixtureRequest) -> Machine:
    """A trapgate.Machine without a guest, made as the test's `machine` marker says."""
    from trapgate.api import Machine
    from trapgate.machine.errors import MachineError

    marker = request.node.get_closest_marker("machine")
    wrong = ""
    try:
        made = Machine(*(marker.args if marker else ()), **(marker.kwargs if marker else {}))
    except MachineError as error:
        wrong = f"the machine marker: {error}"
    except TypeError as error:
        got = str(error).removeprefix("Machine.__init__() ").removeprefix("got ")
        wrong = f"wanted the marker {MARKER.partition(':')[0]}, got {got}: correct the marker"
    if wrong:
        pytest.fail(wrong, pytrace=False)
    request.node.stash[_MACHINE] = made
    return made


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Add what the guest was doing to the report of a test, or of its fixtures, that failed."""
    report = yield
    made: Any = item.stash.get(_MACHINE, None)
    if made is not None and call.when in ("setup", "call") and report.failed:
        report.sections.append(("trapgate machine", made.report()))
    return report
