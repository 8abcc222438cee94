"""Odd and forbidden prefixes: trapgate's decoding against the host's."""

from __future__ import annotations

import pytest

from . import areas
from .check import failures, report
from .host import Reference
from .prefixes import make_all_prefixed
from .trapgate_side import TrapgateProcessor

pytestmark = pytest.mark.xdist_group("oracle")
_DEFAULT = 1500


def test_prefixes(pytestconfig: pytest.Config, reference: Reference, trapgate64: TrapgateProcessor) -> None:
    wanted = pytestconfig.getoption("--oracle-cases", default=0)
    first = pytestconfig.getoption("--oracle-seed", default=0) if wanted else 0
    found = []
    for start in range(first, first + (wanted or _DEFAULT), areas.SLOT_COUNT):
        count = min(areas.SLOT_COUNT, first + (wanted or _DEFAULT) - start)
        found += failures(reference, trapgate64, make_all_prefixed(start, count))
    assert not found, report(found)
