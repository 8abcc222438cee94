"""The processors under comparison, started once."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from trapgate.engine.handlers import HandlerStore

from .host import Reference
from .trapgate_side import TrapgateProcessor


@pytest.fixture(scope="session")
def reference() -> Iterator[Reference]:
    """The host's CPU."""
    processor = Reference()
    yield processor
    processor.close()


@pytest.fixture(scope="session")
def handlers() -> HandlerStore:
    """Compiled handlers, shared by the processors and with the user's cache."""
    return HandlerStore()


@pytest.fixture(scope="session")
def trapgate64(handlers: HandlerStore) -> TrapgateProcessor:
    """Trapgate in 64-bit code at CPL 3."""
    return TrapgateProcessor("long64", handlers)


@pytest.fixture(scope="session")
def trapgate32(handlers: HandlerStore) -> TrapgateProcessor:
    """Trapgate in flat 32-bit code at CPL 0."""
    return TrapgateProcessor("protected32", handlers)


@pytest.fixture(scope="session")
def trapgate16(handlers: HandlerStore) -> TrapgateProcessor:
    """Trapgate in real mode."""
    return TrapgateProcessor("real16", handlers)


@pytest.fixture(scope="session")
def trapgate_compat(handlers: HandlerStore) -> TrapgateProcessor:
    """Trapgate in compatibility mode at CPL 3."""
    return TrapgateProcessor("compat32", handlers)
