"""Samples by block: how often the run was found at each, in this run and in earlier ones of the same guest.

What one short run is too short for is worth compiling when it is run again and again. So samples are kept, in one file:
a block is found again by a hash of its mode, rip and bytes.
"""

from __future__ import annotations

import hashlib
import struct

from trapgate.engine.block import Block
from trapgate.engine.blocks import BlockStore
from trapgate.engine.compile import CodeFolder

#: Of the file: part of its name.
FORMAT = 1
#: Blocks in the file; those with the most samples stay.
MOST_KEPT = 20_000
#: A run without this many new ones is not worth writing the file.
ENOUGH = 20
#: Samples of a block that are told apart.
MOST = (1 << 32) - 1
_ENTRY = struct.Struct("<8sI")


class Samples:
    """Counts by block. A block's earlier runs count from its first sample in this one on."""

    def __init__(self, store: BlockStore, folder: CodeFolder) -> None:
        self._store, self._folder = store, folder
        self._name = f"samples-{FORMAT}"
        self._earlier: dict[bytes, int] | None = None
        self._counts: dict[Block, int] = {}
        #: Of blocks that are still there.
        self._keys: dict[Block, bytes] = {}
        #: What this run has added.
        self._added: dict[bytes, int] = {}

    def of(self, block: Block) -> int:
        """Samples of a block so far."""
        count = self._counts.get(block)
        return self._read().get(self._key(block), 0) if count is None else count

    def add(self, block: Block) -> tuple[int, bool]:
        """One more sample: how many there are, and whether it is the first in this run."""
        count = self._counts.get(block)
        is_first = count is None
        if count is None:
            key = self._keys[block] = self._key(block)
            count = self._read().get(key, 0) + self._added.get(key, 0)
        else:
            key = self._keys[block]
        self._added[key] = self._added.get(key, 0) + 1
        self._counts[block] = count + 1
        return count + 1, is_first

    def forget(self, block: Block) -> None:
        """A block is gone, or begins anew."""
        self._counts.pop(block, None)
        self._keys.pop(block, None)

    def clear(self) -> None:
        """All blocks are gone."""
        self._counts.clear()
        self._keys.clear()

    def _key(self, block: Block) -> bytes:
        mode = block.translation.name
        return hashlib.blake2b(struct.pack("<Q", block.rip) + mode + self._store.code_of(block), digest_size=8).digest()

    # -- the file

    def _read(self) -> dict[bytes, int]:
        if self._earlier is None:
            data = self._folder.read(self._name) or b""
            self._earlier = {} if len(data) % _ENTRY.size else dict(_ENTRY.iter_unpack(data))
        return self._earlier

    def save(self) -> None:
        """Keep what this run has added for later ones."""
        if sum(self._added.values()) < ENOUGH:
            return
        self._earlier = None  # another run may have written it meanwhile
        counts = self._read()
        for key, count in self._added.items():
            counts[key] = min(counts.get(key, 0) + count, MOST)
        self._added.clear()
        most = sorted(counts.items(), key=lambda item: item[1], reverse=True)[:MOST_KEPT]
        self._folder.write(self._name, b"".join(_ENTRY.pack(key, count) for key, count in most))
