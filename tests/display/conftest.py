"""What these tests share."""

from __future__ import annotations

import pytest

from trapgate.engine.handlers import HandlerStore


@pytest.fixture(scope="session")
def handlers() -> HandlerStore:
    """Compiled handlers."""
    return HandlerStore()
