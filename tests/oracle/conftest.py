"""The processors under comparison, started once. `--oracle-cases N` runs N random cases of each family by hand."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from .host import Reference


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--oracle-cases", type=int, default=0, help="random cases per family of instructions, for long runs by hand"
    )
    parser.addoption("--oracle-seed", type=int, default=1000, help="first seed of --oracle-cases")


@pytest.fixture(scope="session")
def reference() -> Iterator[Reference]:
    """The host's CPU."""
    processor = Reference()
    yield processor
    processor.close()
