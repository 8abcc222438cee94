"""How many random cases: `pytest tests/fuzz --fuzz-cases 1000000 --fuzz-seed 7`."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from . import campaign


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("fuzz", "random code, descriptor tables and page tables")
    group.addoption("--fuzz-cases", type=int, default=None, metavar="N", help="N cases of each family")
    group.addoption("--fuzz-seed", type=int, default=0, metavar="SEED", help="what the cases are made from")
    group.addoption("--fuzz-first", type=int, default=0, metavar="CASE", help="number of the first case")


@pytest.fixture
def fuzz(request: pytest.FixtureRequest) -> Callable[[str, int], campaign.Outcome]:
    """Runs a family: as many cases as asked for, else the given few. A long run shows how far it is."""
    options = request.config
    manager = options.pluginmanager
    reporter, capture = manager.getplugin("terminalreporter"), manager.getplugin("capturemanager")

    def run(family: str, few: int) -> campaign.Outcome:
        asked = options.getoption("--fuzz-cases", None)
        count, last = asked or few, time.monotonic()

        def show(done: int) -> None:
            nonlocal last
            if asked is None or reporter is None or (time.monotonic() - last < 10 and done < count):
                return
            last = time.monotonic()
            with capture.global_and_fixture_disabled():
                reporter.write_line(f"{family}: {done} of {count} cases")

        return campaign.run(
            family, options.getoption("--fuzz-seed", 0), options.getoption("--fuzz-first", 0), count, show
        )

    return run
