"""Run cases on the reference and on trapgate, and report what differs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

from . import areas, host
from .areas import Case, Outcome
from .compare import describe, differences
from .forms import Form
from .generate import make_case


class Processor(Protocol):
    """Whatever runs cases."""

    def run(self, cases: Sequence[Case]) -> list[Outcome]: ...


def cases_of(chosen: Iterable[tuple[Form, int]]) -> list[Case]:
    """Cases for (form, seed) pairs, numbered for their slots; those that no reference can judge are left out."""
    cases: list[Case] = []
    for form, seed in chosen:
        if not host.can_run(form.mnemonic):
            continue
        case = make_case(form, seed, len(cases) % areas.PLACES[form.mode].slot_count)
        if not host.undefined_fields(case):
            cases.append(case)
    return cases


def failures(reference: Processor, processor: Processor, cases: Sequence[Case]) -> list[tuple[Case, list[str]]]:
    """Cases whose outcomes differ, with the fields that do."""
    expected, got = reference.run(cases), processor.run(cases)
    found = []
    for case, wanted, outcome in zip(cases, expected, got, strict=True):
        lines = differences(case, wanted, outcome)
        if lines:
            found.append((case, lines))
    return found


def report(found: Sequence[tuple[Case, list[str]]], limit: int = 8) -> str:
    """One failing case of each form, the first `limit` forms."""
    by_form: dict[str, tuple[Case, list[str]]] = {}
    for case, lines in found:
        by_form.setdefault(case.form, (case, lines))
    shown = "\n\n".join(describe(case, lines) for case, lines in list(by_form.values())[:limit])
    forms = " ".join(by_form)
    return f"{len(found)} cases of {len(by_form)} forms differ: {forms}\n\n{shown}"


def assert_agree(reference: Processor, processor: Processor, cases: Sequence[Case]) -> None:
    """Fail with a report unless every outcome agrees."""
    found = failures(reference, processor, cases)
    assert not found, report(found)
