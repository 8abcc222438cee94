"""Compiled handlers, shared by all tests and with the user's cache."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from engine.harness import Guest
from svm.world import World
from trapgate.engine.handlers import HandlerStore


@pytest.fixture(scope="session")
def handlers() -> HandlerStore:
    """Compiled handlers."""
    return HandlerStore()


@pytest.fixture
def world(handlers: HandlerStore) -> Callable[[], World]:
    """Makes worlds."""
    return lambda: World(Guest(handlers))
