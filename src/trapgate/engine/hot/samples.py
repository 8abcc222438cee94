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
#: Samples with which a block is considered for the first time.
FIRST_DUE = 2
#: Samples of a block that are told apart.
MOST = (1 << 32) - 1
#: Key, samples, and with how many the block is to be considered.
_ENTRY = struct.Struct("<8sII")
#: The key of an entry that counts runs.
_RUNS = bytes(8)


class Samples:
    """Counts by block."""

    def __init__(self, store: BlockStore, folder: CodeFolder) -> None:
        self._store, self._folder = store, folder
        self._name = f"samples-{FORMAT}"
        self._earlier: dict[bytes, tuple[int, int]] | None = None
        #: This run's, of blocks that are still there.
        self._own: dict[Block, int] = {}
        self._keys: dict[Block, bytes] = {}
        #: What this run has added, and put off.
        self._added: dict[bytes, int] = {}
        self._due: dict[bytes, int] = {}

    @property
    def runs(self) -> int:
        """Earlier runs that have kept samples."""
        return self._read().get(_RUNS, (0, 0))[0]

    def add(self, block: Block) -> int:
        """One more sample: how many there are of this run."""
        own = self._own[block] = self._own.get(block, 0) + 1
        key = self._key(block)
        self._added[key] = self._added.get(key, 0) + 1
        return own

    def own(self, block: Block) -> int:
        """A block's samples of this run."""
        return self._own.get(block, 0)

    def total(self, block: Block) -> int:
        """A block's samples of this run and of earlier ones."""
        return self._own.get(block, 0) + self._kept(self._key(block))[0]

    def due(self, block: Block) -> int:
        """With how many samples in all a block is to be considered."""
        key = self._key(block)
        return self._due.get(key) or self._kept(key)[1]

    def put_off(self, block: Block, due: int) -> None:
        """A block is not worth a region until it has so many samples."""
        self._due[self._key(block)] = min(due, MOST)

    def forget(self, block: Block) -> None:
        """A block is gone, or begins anew."""
        self._own.pop(block, None)
        self._keys.pop(block, None)

    def clear(self) -> None:
        """All blocks are gone."""
        self._own.clear()
        self._keys.clear()

    def _key(self, block: Block) -> bytes:
        key = self._keys.get(block)
        if key is None:
            what = struct.pack("<Q", block.rip) + block.translation.name + self._store.code_of(block)
            key = self._keys[block] = hashlib.blake2b(what, digest_size=8).digest()
        return key

    # -- the file

    def _kept(self, key: bytes) -> tuple[int, int]:
        return self._read().get(key, (0, FIRST_DUE))

    def _read(self) -> dict[bytes, tuple[int, int]]:
        if self._earlier is None:
            data = self._folder.read(self._name) or b""
            entries = () if len(data) % _ENTRY.size else _ENTRY.iter_unpack(data)
            self._earlier = {key: (count, due) for key, count, due in entries}
        return self._earlier

    def save(self) -> None:
        """Keep what this run has added for later ones."""
        if sum(self._added.values()) < ENOUGH:
            return
        self._earlier = None  # another run may have written it meanwhile
        kept = self._read()
        for key, added in self._added.items():
            count, due = self._kept(key)
            kept[key] = min(count + added, MOST), self._due.get(key, due)
        self._added.clear()
        runs = kept.pop(_RUNS, (0, 0))[0] + 1
        most = sorted(kept.items(), key=lambda item: item[1], reverse=True)[:MOST_KEPT]
        entries = [(_RUNS, (runs & MOST, 0)), *most]
        self._folder.write(self._name, b"".join([_ENTRY.pack(key, *entry) for key, entry in entries]))
