"""Where regions were worth compiling in earlier runs, kept beside their code: a second run of a guest starts hot."""

from __future__ import annotations

import functools
import json

from trapgate.engine.block import Block
from trapgate.engine.compile import CodeFolder

_FILE = "heads"
#: Heads that are kept, the newest.
MOST_HEADS = 20_000


class Heads:
    """Blocks from which regions were formed: the size of their code and their rip."""

    def __init__(self, folder: CodeFolder) -> None:
        self._folder = folder

    @functools.cached_property
    def _known(self) -> dict[tuple[int, int], None]:
        return dict.fromkeys(_read(self._folder))

    def __contains__(self, block: Block) -> bool:
        return _name(block) in self._known

    def add(self, block: Block) -> None:
        """Remember a block. What another process has remembered in the meantime stays."""
        name = _name(block)
        if name not in self._known:
            self._known = dict.fromkeys([*_read(self._folder), *self._known, name][-MOST_HEADS:])
            self._folder.write(_FILE, json.dumps(list(self._known)).encode())


def _name(block: Block) -> tuple[int, int]:
    return block.translation.mode.decode.bits, block.rip


def _read(folder: CodeFolder) -> list[tuple[int, int]]:
    """The heads in a folder; none where the file is missing, or holds something else."""
    data = folder.read(_FILE)
    if data is None:
        return []
    return [(int(bits), int(rip)) for bits, rip in json.loads(data)]
