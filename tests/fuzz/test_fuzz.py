"""Whatever a guest does to itself, it is data: no exception, no hang, nothing outside its RAM, the manual's outcome."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from .campaign import Outcome

#: Cases in `make test`.
FEW = {"code": 300, "tables": 600, "pages": 600}


@pytest.mark.parametrize("family", FEW)
def test_random_cases(fuzz: Callable[[str, int], Outcome], family: str) -> None:
    outcome = fuzz(family, FEW[family])
    assert not outcome.failure, outcome.failure
    assert outcome.ends.total()
