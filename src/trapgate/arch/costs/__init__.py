"""What things cost in modelled cycles. Each profile is a TOML file here; docs/costs.md explains every entry.

A number stands in the file beside its source: a publication and a section, or the word `assumed`. Its unit is its key:
cycles, entries, kilobytes, ways, lines.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from importlib import resources
from typing import Any

DEFAULT_COSTS = "opteron-2007"
#: What numbers in the files can be of: the key of each.
UNITS = ("cycles", "entries", "kilobytes", "ways", "lines")
NAMES = ("core2-2006", "opteron-2006", "opteron-2007", "opteron-2007-plain", "pentium4-2005")


@dataclass(frozen=True)
class Costs:
    """A cost profile. Numbers are modelled cycles, where nothing else is said."""

    name: str
    description: str
    #: Operations (names of isa/) that take other than one cycle.
    instructions: Mapping[str, int]
    #: A translation that level 1 of the TLB lacks and level 2 has.
    l2_tlb_hit: int
    #: A memory reference of a page walk that the page walk cache holds.
    walk_cache_hit: int
    #: A nested walk that the nested TLB saves.
    nested_tlb_hit: int
    #: Sizes of the two caches, 0: there is none; and how many of the page walk cache's entries may be of nested tables:
    #: all or none.
    walk_cache_entries: int
    walk_cache_nested_entries: int
    nested_tlb_entries: int
    #: The caches that other references of walks go through (cpu/walk_memory.py): size in KB (0: there is no such
    #: level), ways, cycles of a hit. Lines have 64 bytes.
    l1_size: int
    l1_ways: int
    l1_hit: int
    l2_size: int
    l2_ways: int
    l2_hit: int
    l3_size: int
    l3_ways: int
    l3_hit: int
    #: A reference that none of them holds.
    memory: int
    #: Page tables hold one in so many ways of a set.
    walk_share: int
    #: Lines of other data that come into the caches with a translation that level 1 of the TLB lacks; and with a
    #: #VMEXIT.
    data_lines: int
    exit_lines: int
    #: Delivery of an exception and of an external interrupt, besides their memory accesses.
    exception: int
    interrupt: int
    vmrun: int
    vmexit: int
    #: The same for a guest without AMD-V: an exception into the hypervisor, and the return from it.
    deprivileged_exit: int
    deprivileged_entry: int
    #: Read or write of a field of such a guest's state by the hypervisor, which keeps it in plain memory.
    deprivileged_field: int
    #: Read and write of a field of the VMCB by the hypervisor.
    vmcb_read: int
    vmcb_write: int
    #: Access to a port, and to a memory-mapped register.
    port: int
    device_memory: int
    #: The hypervisor's own work for an exit, by the exit's name; `exit` for the others.
    exit: int
    exits: Mapping[str, int]
    #: Besides: an instruction of the guest that it carries out by decoding it.
    emulated_instruction: int
    #: Whether the TLB, walks and caches are modelled; else translations cost nothing, and are not counted.
    models_translation: bool = True

    @property
    def caches(self) -> tuple[tuple[int, int, int], ...]:
        """Size in KB, ways, and cycles of a hit of the three levels."""
        return (
            (self.l1_size, self.l1_ways, self.l1_hit), (self.l2_size, self.l2_ways, self.l2_hit),
            (self.l3_size, self.l3_ways, self.l3_hit),
        )  # fmt: skip

    def without_translation(self) -> Costs:
        """The same without a model of the TLB, walks and caches."""
        nothing: dict[str, Any] = dict.fromkeys(_TRANSLATION, 0)
        return replace(self, models_translation=False, **nothing)

    def exit_work(self, name: str) -> int:
        """The hypervisor's own work for an exit (arch/vmcb.py: exit_name)."""
        return self.exits.get(name, self.exit)


#: What `MODELS` of translation there are: TLB, walks and caches; nothing.
MODELS = FULL, NONE = "full", "none"
_TRANSLATION = (
    "l2_tlb_hit", "walk_cache_hit", "nested_tlb_hit", "walk_cache_entries", "walk_cache_nested_entries",
    "nested_tlb_entries", "l1_size", "l1_hit", "l2_size", "l2_hit", "l3_size", "l3_hit", "memory", "data_lines",
    "exit_lines",
)  # fmt: skip


def _numbers(table: Mapping[str, Any]) -> dict[str, int]:
    return {name: next(entry[unit] for unit in UNITS if unit in entry) for name, entry in table.items()}


def read(name: str) -> dict[str, Any]:
    """The file of a profile, one of NAMES, as it stands."""
    return tomllib.loads((resources.files(__name__) / f"{name}.toml").read_text(encoding="utf-8"))


def profile(name: str, model: str = FULL) -> Costs:
    """The cost profile of a name in NAMES, with or without a model of translation (one of MODELS)."""
    return _profile(name) if model == FULL else _profile(name).without_translation()


@cache
def _profile(name: str) -> Costs:
    data = read(name)
    operations = {
        operation: entry["cycles"] for entry in data["instructions"].values() for operation in entry["operations"]
    }
    hypervisor = dict(data["hypervisor"])
    exits = _numbers(hypervisor.pop("exits", {}))
    single: dict[str, Any] = {
        **_numbers(data["translation"]), **_numbers(data["caches"]), **_numbers(data["events"]),
        **_numbers(data["world_switch"]), **_numbers(data["devices"]), **_numbers(hypervisor),
    }  # fmt: skip
    return Costs(data["name"], data["description"], operations, exits=exits, **single)
