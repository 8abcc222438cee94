"""What a run counted. docs/statistics.md explains every name; a changed meaning needs a new SCHEMA_VERSION."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from trapgate.arch import layout

if TYPE_CHECKING:
    from trapgate.boards.host import HostMachine
    from trapgate.boards.machine import BareMachine
    from trapgate.boards.pc import Pc
    from trapgate.engine.processor import Processor
    from trapgate.engine.profile import RunProfile
    from trapgate.vmm.statistics import ExitCount
    from trapgate.vmm.vm import VirtualMachine

SCHEMA_VERSION = 1


#: Where modelled cycles can go, in the order of tables (docs/statistics.md).
PLACES = ("guest", "translation", "events", "world_switches", "hypervisor", "devices", "idle")


@dataclass(frozen=True, slots=True)
class ExitStatistics:
    """#VMEXITs of one reason. Cycles are those between #VMEXIT and the next VMRUN, without time asleep."""

    samples: int
    cycles: int
    least: int
    most: int

    @property
    def mean(self) -> float:
        """Cycles of an exit on average."""
        return self.cycles / self.samples

    def report(self) -> dict[str, object]:
        """As JSON has it."""
        return {
            "samples": self.samples, "cycles": self.cycles, "min": self.least, "max": self.most,
            "mean": round(self.mean, 1),
        }  # fmt: skip


class HotPlace(NamedTuple):
    """A block where samples found the run: its rip, CPL, code size in bits; the share of modelled cycles that samples
    found there (0 to 1), and the share of those in regions of the hot tier."""

    rip: int
    cpl: int
    bits: int
    share: float
    hot: float


#: Places that statistics have.
MOST_PLACES = 200


@dataclass(frozen=True, slots=True)
class Statistics:
    """Counts of one run.

    All but `host_seconds`, `translated_blocks`, `handlers_built`, `regions`, `hot_share` and `hottest` are the guest's
    own and the same on every run of the same inputs. `interrupts` and `exceptions` are by vector, `port_accesses` and
    `memory_accesses` by device name.
    """

    instructions: int
    #: Modelled cycles from the guest's first instruction on.
    cycles: int
    #: Host time from the guest's first instruction to the end of the run, in seconds.
    host_seconds: float
    #: External and software interrupts that the processor took.
    interrupts: Mapping[int, int] = field(default_factory=dict)
    #: Exceptions that were delivered.
    exceptions: Mapping[int, int] = field(default_factory=dict)
    tlb: Mapping[str, int] = field(default_factory=dict)
    port_accesses: Mapping[str, int] = field(default_factory=dict)
    memory_accesses: Mapping[str, int] = field(default_factory=dict)
    #: What drives and virtio devices did, and what went wrong with PCI devices, by device name.
    device_counts: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    device_faults: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    #: Instructions of the guest that its hypervisor carried out, part of `instructions`.
    emulated_instructions: int = 0
    #: VMRUNs.
    world_switches: int = 0
    #: #VMEXITs by reason, the most frequent first.
    exits: Mapping[str, ExitStatistics] = field(default_factory=dict)
    #: Modelled cycles by PLACES; their sum is `cycles`.
    cycles_by_place: Mapping[str, int] = field(default_factory=dict)
    #: Blocks of guest code that were decoded in this process.
    translated_blocks: int = 0
    #: Native handlers that had to be compiled because the disk cache did not have them.
    handlers_built: int = 0
    #: Regions of the hot tier, and the share of samples that found the run in one (0 to 1).
    regions: int = 0
    hot_share: float = 0.0
    #: Where modelled cycles went, the most first.
    hottest: tuple[HotPlace, ...] = ()

    @property
    def guest_mips(self) -> float:
        """Millions of guest instructions per second of host time; 0 for a run that took none."""
        return self.instructions / self.host_seconds / 1e6 if self.host_seconds > 0 else 0.0

    def guest_counts(self) -> dict[str, object]:
        """The part of the JSON report that is the same on every run."""
        return {
            "instructions": self.instructions,
            "cycles": self.cycles,
            "interrupts": _by_vector(self.interrupts),
            "exceptions": _by_vector(self.exceptions),
            "tlb": dict(self.tlb),
            "port_accesses": _by_name(self.port_accesses),
            "memory_accesses": _by_name(self.memory_accesses),
            "device_counts": {name: _by_name(counts) for name, counts in self.device_counts.items()},
            "device_faults": {name: _by_name(faults) for name, faults in self.device_faults.items()},
            "emulated_instructions": self.emulated_instructions,
            "world_switches": self.world_switches,
            "exits": {name: count.report() for name, count in self.exits.items()},
            "cycles_by_place": dict(self.cycles_by_place),
        }

    def host_counts(self) -> dict[str, object]:
        """The part of the JSON report that depends on the host and its caches."""
        return {
            "seconds": round(self.host_seconds, 6),
            "guest_mips": round(self.guest_mips, 3),
            "translated_blocks": self.translated_blocks,
            "handlers_built": self.handlers_built,
            "regions": self.regions,
            "hot_share": self.hot_share,
            "hottest": [place._asdict() for place in self.hottest],
        }


def _hottest(profile: RunProfile) -> tuple[HotPlace, ...]:
    total = sum(profile.cycles.values())
    return tuple(
        HotPlace(place.rip, place.cpl, place.bits, cycles / total, profile.hot[place] / cycles)
        for place, cycles in profile.cycles.most_common(MOST_PLACES)
        if cycles
    )


def _by_vector(counts: Mapping[int, int]) -> dict[str, int]:
    return {str(vector): counts[vector] for vector in sorted(counts) if counts[vector]}


def _by_name(counts: Mapping[str, int]) -> dict[str, int]:
    return {name: counts[name] for name in sorted(counts) if counts[name]}


def read_statistics(machine: BareMachine, host_seconds: float) -> Statistics:
    """What a machine has counted up to now; later counts do not change it."""
    processor, bus = machine.processor, machine.board.bus
    cycles, tlb = machine.clock.now, _tlb(processor)
    return Statistics(
        instructions=processor.instructions,
        cycles=cycles,
        host_seconds=host_seconds,
        interrupts=dict(processor.interrupt_counts),
        exceptions=dict(processor.exception_counts),
        tlb=tlb if processor.costs.models_translation else {},
        port_accesses=bus.port_accesses,
        memory_accesses=bus.memory_accesses,
        device_counts=_device_counts(machine.board),
        device_faults=_device_faults(machine.board),
        cycles_by_place=_places(cycles, processor, tlb, 0, processor.device_cycles, processor.idle_cycles),
        translated_blocks=processor.blocks.translated,
        handlers_built=processor.handlers.built,
        regions=0 if processor.hot is None else processor.hot.installed,
        hot_share=0.0 if processor.hot is None else processor.hot.share,
        hottest=_hottest(processor.run_profile),
    )


def read_virtual_statistics(host: HostMachine, vm: VirtualMachine, host_seconds: float) -> Statistics:
    """What a host with one virtual machine has counted up to now."""
    processor, bus = host.processor, vm.board.bus
    cycles, tlb = host.clock.now, _tlb(processor)
    exits = vm.vcpu.statistics.by_name()
    devices = processor.device_cycles + host.device_cycles
    return Statistics(
        instructions=host.instructions,
        cycles=cycles,
        host_seconds=host_seconds,
        interrupts=dict(processor.interrupt_counts),
        exceptions=dict(processor.exception_counts),
        tlb=tlb if processor.costs.models_translation else {},
        port_accesses=bus.port_accesses,
        memory_accesses=bus.memory_accesses,
        device_counts=_device_counts(vm.board),
        device_faults=_device_faults(vm.board),
        emulated_instructions=host.emulated,
        world_switches=host.entries,
        exits={name: _exit(count) for name, count in exits.items()},
        cycles_by_place=_places(cycles, processor, tlb, host.charged, devices, processor.idle_cycles + vm.idle_cycles),
        translated_blocks=processor.blocks.translated,
        handlers_built=processor.handlers.built,
        regions=0 if processor.hot is None else processor.hot.installed,
        hot_share=0.0 if processor.hot is None else processor.hot.share,
        hottest=_hottest(processor.run_profile),
    )


def _device_counts(board: Pc) -> dict[str, dict[str, int]]:
    counts = board.counts()
    return counts | {"vga": dict(board.vga.counts)} if board.vga is not None and board.vga.counts else counts


def _device_faults(board: Pc) -> dict[str, dict[str, int]]:
    faults = board.faults()
    if board.vga is not None and board.vga.faults:
        # Those of its PCI function are under the same name.
        faults["vga"] = dict(Counter(faults.get("vga", {})) + board.vga.faults)
    return faults


def _tlb(processor: Processor) -> dict[str, int]:
    return {name: processor.state.counter(name) for name in layout.TLB_COUNTER_NAMES}


def _exit(count: ExitCount) -> ExitStatistics:
    return ExitStatistics(count.samples, count.cycles, count.least, count.most)


def _places(
    cycles: int, processor: Processor, tlb: Mapping[str, int], hypervisor: int, devices: int, idle: int
) -> dict[str, int]:
    """`cycles` by PLACES. What is not accounted for elsewhere are the guest's instructions."""
    costs = processor.costs
    translation = (
        (tlb["itlb_l2_hits"] + tlb["dtlb_l2_hits"]) * costs.l2_tlb_hit
        + tlb["walk_l1_hits"] * costs.l1_hit
        + tlb["walk_l2_hits"] * costs.l2_hit
        + tlb["walk_l3_hits"] * costs.l3_hit
        + tlb["walk_memory_references"] * costs.memory
        + tlb["pwc_hits"] * costs.walk_cache_hit
        + tlb["nested_tlb_hits"] * costs.nested_tlb_hit
    )
    others = {
        "translation": translation, "events": processor.event_cycles, "world_switches": processor.switch_cycles,
        "hypervisor": hypervisor, "devices": devices, "idle": idle,
    }  # fmt: skip
    return {"guest": cycles - sum(others.values()), **others}
