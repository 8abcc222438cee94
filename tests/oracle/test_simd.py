"""MMX, SSE, SSE2, SSE3 and SSE4a: trapgate against the host's CPU, in 64-bit code at CPL 3."""

from __future__ import annotations

import pytest
from hypothesis import given

from .budget import SETTINGS, chosen, sweeps
from .check import assert_agree, cases_of, failures, report
from .forms import Form, family
from .host import Reference
from .trapgate_side import TrapgateProcessor

pytestmark = pytest.mark.xdist_group("oracle")
FAMILIES = ("simd",)
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
