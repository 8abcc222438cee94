"""Breakpoints: blocks that hold one are watched.

Nothing links to a watched block and no jump cache leads to it, so every way into it passes through Python, which steps
through it (engine/stepping.py). Without breakpoints no block is watched, and nothing costs anything.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trapgate.engine.block import Block
    from trapgate.engine.blocks import BlockStore


class Breakpoints:
    """Linear addresses before whose instructions the processor stops."""

    def __init__(self, store: BlockStore) -> None:
        self._store = store
        self.addresses: frozenset[int] = frozenset()

    def set(self, addresses: Iterable[int]) -> None:
        """Make `addresses` (linear) the breakpoints. Native code must not be inside a block that one of them hits."""
        self.addresses = frozenset(addresses)
        self._store.allow_native_decoding(not self.addresses)
        for block in self._store.valid_blocks():
            watched = self.holds(block)
            if watched and not block.watched:
                self._store.isolate(block)
            block.watched = watched

    def holds(self, block: Block) -> bool:
        """Whether an instruction of `block` begins at a breakpoint."""
        if not self.addresses:
            return False
        mode = block.translation.mode
        mask = (1 << 64) - 1 if mode.decode.bits == 64 else 0xFFFF_FFFF
        linear = mode.code_base + block.rip & mask
        for decoded in block.decoded:
            if linear in self.addresses:
                return True
            linear = linear + decoded.length & mask
        return False
