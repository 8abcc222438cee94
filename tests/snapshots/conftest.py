"""Compiled handlers."""

from __future__ import annotations

import pytest

from trapgate.engine.handlers import HandlerStore


@pytest.fixture(scope="session")
def handlers() -> HandlerStore:
    """Those that usual guests need."""
    store = HandlerStore()
    store.build_usual()
    return store
