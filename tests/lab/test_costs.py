"""Cost profiles: every number says where it comes from, and every name in them means something."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import fields
from typing import Any

import pytest

import trapgate.engine.processor  # noqa: F401  (registers every operation)
from support import ROOT
from trapgate.arch import vmcb
from trapgate.arch.costs import DEFAULT_COSTS, NAMES, UNITS, Costs, profile, read
from trapgate.isa.context import DEFINITIONS
from trapgate.isa.processor import PYTHON_FORMS

#: What counts as a source: somebody's publication, or the admission that there is none.
SOURCE = re.compile(
    r"assumed|Bhargava et al\., ASPLOS 2008|Adams and Agesen, ASPLOS 2006|Barham et al\., SOSP 2003|\(\d{5,6}\b"
    r"|Sander of AMD|Maeda, Kernel Mode Linux|The Tech Report|mini-HOWTO"
)


def entries(table: dict[str, Any], path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    for name, value in table.items():
        if isinstance(value, dict):
            if "source" in value:
                yield f"{path}{name}", value
            else:
                yield from entries(value, f"{path}{name}.")


def numbers(value: object) -> int:
    if isinstance(value, dict):
        return sum(numbers(item) for item in value.values())
    return int(isinstance(value, int))


def test_the_default_is_a_profile() -> None:
    assert DEFAULT_COSTS in NAMES
    assert list(NAMES) == sorted(path.stem for path in (ROOT / "src/trapgate/arch/costs").glob("*.toml"))


@pytest.mark.parametrize("name", NAMES)
def test_every_number_has_a_source(name: str) -> None:
    data = read(name)
    assert data["name"] == name
    found = dict(entries(data))
    # No number stands outside an entry with a source.
    assert numbers(data) == len(found)
    assert [place for place, entry in found.items() if not SOURCE.search(entry["source"])] == []
    assert all(entry[unit] >= 0 for entry in found.values() for unit in entry.keys() & set(UNITS))
    assert all(len(entry.keys() & set(UNITS)) == 1 for entry in found.values())


@pytest.mark.parametrize("name", NAMES)
def test_every_name_means_something(name: str) -> None:
    costs = profile(name)
    known = set(DEFINITIONS) | set(PYTHON_FORMS)
    assert set(costs.instructions) <= known
    exits = {vmcb.exit_name(code) for code in (*range(0x100), vmcb.EXIT_NPF)}
    assert set(costs.exits) <= exits
    for field in fields(Costs):
        assert getattr(costs, field.name) is not None
    # Time must pass where a handler raises its exception again, and where a guest does nothing but exit.
    assert costs.exception > 0
    assert costs.vmrun > 0


def test_exits_without_a_cost_of_their_own_have_the_common_one() -> None:
    costs = profile(DEFAULT_COSTS)
    assert costs.exit_work("exception_14") == costs.exits["exception_14"] != costs.exit
    assert costs.exit_work("cpuid") == costs.exit


def test_the_guide_has_every_number() -> None:
    text = (ROOT / "docs" / "costs.md").read_text()
    costs = [profile(name) for name in NAMES]
    assert "| | " + " | ".join(f"`{name}`" for name in NAMES) + " |" in text
    # Names with an underscore are other ways to carry out the same instruction.
    names = {name for c in costs for name in c.instructions if "_" not in name}
    rows = {name.upper(): [c.instructions.get(name, 1) for c in costs] for name in names}
    rows |= {f"`exits.{name}`": [c.exit_work(name) for c in costs] for name in costs[0].exits}
    plain = [field.name for field in fields(Costs) if type(getattr(costs[0], field.name)) is int]
    rows |= {f"`{name}`": [getattr(c, name) for c in costs] for name in plain}
    # A unit may stand behind a name.
    found = dict(re.findall(r"^\| ([^|(]+?)(?: \([^|]+\))? \|( .*) \|$", text, re.MULTILINE))
    missing = [name for name, row in rows.items() if found.get(name) != " " + " | ".join(map(str, row))]
    assert missing == []
