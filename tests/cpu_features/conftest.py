"""Compiled handlers, shared by all tests."""

from __future__ import annotations

import pytest

from trapgate.engine.handlers import HandlerStore

from .bench import Bench


@pytest.fixture(scope="session")
def handlers() -> HandlerStore:
    return HandlerStore()


@pytest.fixture
def bench(handlers: HandlerStore) -> Bench:
    """An opteron-2007."""
    return Bench(handlers=handlers)
