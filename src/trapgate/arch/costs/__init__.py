"""What things cost in modelled cycles. Each profile is a TOML file here; docs/costs.md explains every entry.

A number stands in the file beside its source: a publication and a section, or the word `assumed`.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

DEFAULT_COSTS = "opteron-2007"
NAMES = ("core2-2006", "opteron-2006", "opteron-2007", "pentium4-2005")


@dataclass(frozen=True)
class Costs:
    """A cost profile. All numbers are modelled cycles, but for the two `_entries`."""

    name: str
    description: str
    #: Operations (names of isa/) that take other than one cycle.
    instructions: Mapping[str, int]
    #: A translation that level 1 of the TLB lacks and level 2 has.
    l2_tlb_hit: int
    #: A memory reference of a page walk that the page walk cache does not hold.
    walk_reference: int
    #: One that it holds.
    walk_cache_hit: int
    #: A nested walk that the nested TLB saves.
    nested_tlb_hit: int
    #: Sizes of the two caches, 0: there is none.
    walk_cache_entries: int
    nested_tlb_entries: int
    #: Delivery of an exception and of an external interrupt, besides their memory accesses.
    exception: int
    interrupt: int
    vmrun: int
    vmexit: int
    #: The same for a guest without AMD-V: an exception into the hypervisor, and the return from it.
    deprivileged_exit: int
    deprivileged_entry: int
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

    def exit_work(self, name: str) -> int:
        """The hypervisor's own work for an exit (arch/vmcb.py: exit_name)."""
        return self.exits.get(name, self.exit)


def _numbers(table: Mapping[str, Any]) -> dict[str, int]:
    return {name: entry["cycles"] if "cycles" in entry else entry["entries"] for name, entry in table.items()}


def read(name: str) -> dict[str, Any]:
    """The file of a profile, one of NAMES, as it stands."""
    return tomllib.loads((resources.files(__name__) / f"{name}.toml").read_text(encoding="utf-8"))


@cache
def profile(name: str) -> Costs:
    """The cost profile of a name in NAMES."""
    data = read(name)
    operations = {
        operation: entry["cycles"] for entry in data["instructions"].values() for operation in entry["operations"]
    }
    hypervisor = dict(data["hypervisor"])
    exits = _numbers(hypervisor.pop("exits", {}))
    single = {
        **_numbers(data["translation"]), **_numbers(data["events"]), **_numbers(data["world_switch"]),
        **_numbers(data["devices"]), **_numbers(hypervisor),
    }  # fmt: skip
    return Costs(data["name"], data["description"], operations, exits=exits, **single)
