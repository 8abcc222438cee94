"""Where a run spends its modelled time: samples of the code that was about to run when the budget was used up."""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

from trapgate.engine.block import Block

#: Places at most that are told apart; what is rarer is left out of a longer run.
MOST_PLACES = 65536


class Place(NamedTuple):
    """A block of code: offset in its code segment, privilege level, code size in bits."""

    rip: int
    cpl: int
    bits: int


class RunProfile:
    """Modelled cycles by place, each sample standing for those since the one before it."""

    def __init__(self) -> None:
        self.cycles: Counter[Place] = Counter()
        #: The part of them that was found in regions of the hot tier.
        self.hot: Counter[Place] = Counter()
        self._last = 0

    def add(self, block: Block, now: int) -> None:
        """The run was found at a block, at a modelled cycle."""
        decode = block.translation.mode.decode
        place = Place(block.rip, decode.cpl, decode.bits)
        spent, self._last = now - self._last, now
        if len(self.cycles) >= MOST_PLACES and place not in self.cycles:
            return
        self.cycles[place] += spent
        if block.regions:
            self.hot[place] += spent
