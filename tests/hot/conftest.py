"""Compiled handlers, and how many random programs: `pytest tests/hot -k random --hot-cases 1000 --hot-seed 7`."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from trapgate.engine.handlers import HandlerStore

from .pair import Make, Pair


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("hot", "random programs with the hot tier and without it")
    group.addoption("--hot-cases", type=int, default=None, metavar="N", help="N programs")
    group.addoption("--hot-seed", type=int, default=0, metavar="SEED", help="what the programs are made from")
    group.addoption("--hot-first", type=int, default=0, metavar="CASE", help="number of the first program")


@pytest.fixture(scope="session")
def handlers() -> HandlerStore:
    """Compiled handlers."""
    return HandlerStore()


@pytest.fixture
def pair(handlers: HandlerStore) -> Callable[[Make], Pair]:
    """Makes pairs of guests."""
    return lambda make: Pair(handlers, make)
