"""Random programs leave the same state with the hot tier and without it, wherever they are stopped."""

from __future__ import annotations

import pytest

from trapgate.engine.handlers import HandlerStore

from .random_runs import compare_case, make_case

FEW = 12


def test_random_programs(handlers: HandlerStore, request: pytest.FixtureRequest) -> None:
    options = request.config
    count = options.getoption("--hot-cases", None) or FEW
    seed, first = options.getoption("--hot-seed", 0), options.getoption("--hot-first", 0)
    regions = 0
    for number in range(first, first + count):
        regions += compare_case(make_case(f"{seed} {number}"), handlers, always=number % 4 == 3)
    assert regions > count / 2
