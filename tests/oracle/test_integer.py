"""General-purpose instructions: trapgate against the host's CPU, in 64-bit code at CPL 3."""

from __future__ import annotations

import pytest
from hypothesis import given

from . import areas
from .budget import SETTINGS, chosen, sweeps
from .check import assert_agree, cases_of, failures, report
from .forms import Form, family
from .host import Reference
from .sequences import make_sequences
from .trapgate_side import TrapgateProcessor

pytestmark = pytest.mark.xdist_group("oracle")
FAMILIES = ("integer", "stack", "branch", "string", "privileged")
_SEQUENCES = 1000
FORMS = [form for name in FAMILIES for form in family(name)]


@pytest.mark.parametrize("name", FAMILIES)
def test_every_form(
    pytestconfig: pytest.Config, reference: Reference, trapgate64: TrapgateProcessor, name: str
) -> None:
    found = []
    for pairs in sweeps(pytestconfig, family(name), default=4):
        found += failures(reference, trapgate64, cases_of(pairs))
    assert not found, report(found)


@SETTINGS
@given(pairs=chosen(FORMS))
def test_random_cases(reference: Reference, trapgate64: TrapgateProcessor, pairs: list[tuple[Form, int]]) -> None:
    assert_agree(reference, trapgate64, cases_of(pairs))


def test_sequences(pytestconfig: pytest.Config, reference: Reference, trapgate64: TrapgateProcessor) -> None:
    """Several instructions in a row: dead flags, fused compares and branches."""
    wanted = pytestconfig.getoption("--oracle-cases", default=0)
    first = pytestconfig.getoption("--oracle-seed", default=0) if wanted else 0
    end = first + (wanted or _SEQUENCES)
    found = []
    for start in range(first, end, areas.SLOT_COUNT):
        seeds = range(start, min(start + areas.SLOT_COUNT, end))
        found += failures(reference, trapgate64, make_sequences(seeds))
    assert not found, report(found)
