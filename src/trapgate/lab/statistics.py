"""What a run counted. docs/statistics.md explains every name; a changed meaning needs a new SCHEMA_VERSION."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from trapgate.arch import layout

if TYPE_CHECKING:
    from trapgate.boards.machine import BareMachine

SCHEMA_VERSION = 1


@dataclass(frozen=True, slots=True)
class Statistics:
    """Counts of one run.

    All but `host_seconds`, `translated_blocks` and `handlers_built` are the guest's own and the same on every run of
    the same inputs. `interrupts` and `exceptions` are by vector, `port_accesses` and `memory_accesses` by device name.
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
    #: Blocks of guest code that were decoded in this process.
    translated_blocks: int = 0
    #: Native handlers that had to be compiled because the disk cache did not have them.
    handlers_built: int = 0

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
        }

    def host_counts(self) -> dict[str, object]:
        """The part of the JSON report that depends on the host and its caches."""
        return {
            "seconds": round(self.host_seconds, 6),
            "guest_mips": round(self.guest_mips, 3),
            "translated_blocks": self.translated_blocks,
            "handlers_built": self.handlers_built,
        }


def _by_vector(counts: Mapping[int, int]) -> dict[str, int]:
    return {str(vector): counts[vector] for vector in sorted(counts) if counts[vector]}


def _by_name(counts: Mapping[str, int]) -> dict[str, int]:
    return {name: counts[name] for name in sorted(counts) if counts[name]}


def read_statistics(machine: BareMachine, host_seconds: float) -> Statistics:
    """What a machine has counted up to now; later counts do not change it."""
    processor, bus = machine.processor, machine.board.bus
    return Statistics(
        instructions=processor.instructions,
        cycles=machine.clock.now,
        host_seconds=host_seconds,
        interrupts=dict(processor.interrupt_counts),
        exceptions=dict(processor.exception_counts),
        tlb={name: processor.state.counter(name) for name in layout.TLB_COUNTER_NAMES},
        port_accesses=bus.port_accesses,
        memory_accesses=bus.memory_accesses,
        translated_blocks=processor.blocks.translated,
        handlers_built=processor.handlers.built,
    )
