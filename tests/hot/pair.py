"""The same guest twice, without the hot tier and with a region for every block, held to each other at every stop."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from engine.harness import Guest
from trapgate.engine.blocks import Block
from trapgate.engine.handlers import HandlerStore
from trapgate.engine.hot.tier import Region
from trapgate.engine.processor import Stopped
from trapgate.lab.lockstep import memory_difference
from trapgate.lab.processor_state import read_state, read_tlb

Make = Callable[[Guest], Guest]


class Pair:
    """Two guests made by the same function; `cold` and `hot` for what a test does to one of them."""

    def __init__(self, handlers: HandlerStore, make: Make, hot: str = "always", code_size: int | None = None) -> None:
        self.cold, self.hot = (make(Guest(handlers, hot=when, code_size=code_size)) for when in ("off", hot))
        tier = self.hot.processor.hot
        assert self.cold.processor.hot is None
        assert tier is not None
        self.tier = tier

    def __iter__(self) -> Iterator[Guest]:
        return iter((self.cold, self.hot))

    def run(self, count: int | None = 100_000) -> Stopped:
        """Run both on for `count` instructions or to their end; they must be the same afterwards."""
        first, second = self.cold.run(count), self.hot.run(count)
        assert first == second
        self.compare()
        return first

    def step(self, count: int = 1) -> Stopped:
        """The same, one instruction at a time."""
        first, second = self.cold.processor.step(count), self.hot.processor.step(count)
        assert first == second
        self.compare()
        return first

    def run_to_halt(self) -> None:
        """Run both until they halt, and see that the second one had regions."""
        stopped = self.run()
        assert stopped.reason == "halted", f"wanted a halt, got {stopped} at {self.cold['rip']:#x}"
        assert self.tier.installed > 0

    def force(self, rip: int) -> list[Block]:
        """Make the region around the block at `rip`, now: its blocks."""
        block = next(block for block in self.hot.processor.blocks.valid_blocks() if block.rip == rip)
        was, self.tier.always = self.tier.always, True
        self.tier.force(block)
        self.tier.always = was
        (region,) = block.regions
        assert isinstance(region, Region)
        return region.shape.blocks

    def compare(self) -> None:
        """Everything of the two: registers, flags, counts, memory, the modelled TLB, the device's accesses."""
        cold, hot = self.cold, self.hot
        differences = read_state(cold.processor).differences(read_state(hot.processor))
        differences += memory_difference(cold.memory, hot.memory)
        assert not differences, "\n".join(["without the hot tier, with it:", *differences])
        assert read_tlb(cold.processor) == read_tlb(hot.processor)
        assert (cold.device.reads, cold.device.writes) == (hot.device.reads, hot.device.writes)
