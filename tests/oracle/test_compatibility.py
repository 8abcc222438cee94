"""32-bit code in compatibility mode at CPL 3: trapgate against the host's CPU."""

from __future__ import annotations

import pytest
from hypothesis import given

from .budget import SETTINGS, chosen, sweeps
from .check import assert_agree, cases_of, failures, report
from .forms import Form, all_forms, family
from .host import Reference
from .trapgate_side import TrapgateProcessor

pytestmark = pytest.mark.xdist_group("oracle")
FAMILIES = ("integer", "stack", "branch", "string", "privileged", "simd", "x87")


@pytest.mark.parametrize("name", FAMILIES)
def test_every_form(
    pytestconfig: pytest.Config, reference: Reference, trapgate_compat: TrapgateProcessor, name: str
) -> None:
    found = []
    for pairs in sweeps(pytestconfig, family(name, "compat32"), default=2):
        found += failures(reference, trapgate_compat, cases_of(pairs))
    assert not found, report(found)


@SETTINGS
@given(pairs=chosen(all_forms("compat32")))
def test_random_cases(reference: Reference, trapgate_compat: TrapgateProcessor, pairs: list[tuple[Form, int]]) -> None:
    assert_agree(reference, trapgate_compat, cases_of(pairs))
