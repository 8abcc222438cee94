"""16- and 32-bit code: trapgate against Unicorn."""

from __future__ import annotations

import pytest
from hypothesis import given

from .areas import Case
from .budget import SETTINGS, chosen, sweeps
from .check import assert_agree, cases_of, failures, report
from .forms import Form, all_forms
from .trapgate_side import TrapgateProcessor
from .unicorn_side import UnicornProcessor, can_judge, is_compared

pytestmark = pytest.mark.xdist_group("oracle")
FORMS = {mode: [form for form in all_forms(mode) if is_compared(form)] for mode in ("real16", "protected32")}


def _cases(pairs: list[tuple[Form, int]]) -> list[Case]:
    return [case for case in cases_of(pairs) if can_judge(case)]


@pytest.fixture(scope="module")
def unicorn16() -> UnicornProcessor:
    return UnicornProcessor("real16")


@pytest.fixture(scope="module")
def unicorn32() -> UnicornProcessor:
    return UnicornProcessor("protected32")


def test_every_16_bit_form(
    pytestconfig: pytest.Config, unicorn16: UnicornProcessor, trapgate16: TrapgateProcessor
) -> None:
    found = []
    for pairs in sweeps(pytestconfig, FORMS["real16"], default=3):
        found += failures(unicorn16, trapgate16, _cases(pairs))
    assert not found, report(found)


def test_every_32_bit_form(
    pytestconfig: pytest.Config, unicorn32: UnicornProcessor, trapgate32: TrapgateProcessor
) -> None:
    found = []
    for pairs in sweeps(pytestconfig, FORMS["protected32"], default=3):
        found += failures(unicorn32, trapgate32, _cases(pairs))
    assert not found, report(found)


@SETTINGS
@given(pairs=chosen(FORMS["real16"]))
def test_random_16_bit_cases(
    unicorn16: UnicornProcessor, trapgate16: TrapgateProcessor, pairs: list[tuple[Form, int]]
) -> None:
    assert_agree(unicorn16, trapgate16, _cases(pairs))


@SETTINGS
@given(pairs=chosen(FORMS["protected32"]))
def test_random_32_bit_cases(
    unicorn32: UnicornProcessor, trapgate32: TrapgateProcessor, pairs: list[tuple[Form, int]]
) -> None:
    assert_agree(unicorn32, trapgate32, _cases(pairs))
