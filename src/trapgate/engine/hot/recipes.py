"""What regions of earlier runs were made of: where all their blocks are found again, the code is used as it is.

A recipe is kept for the block around which a region was formed, in one file with the others of its page. It names the
file with the machine code, and says which blocks the region has, with their bytes and pages, where it can be entered,
and what its table holds (engine/hot/context.py). So a second run of a guest neither forms nor writes nor compiles its
regions, and has those of a page as soon as code of the page runs.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from trapgate.engine import record
from trapgate.engine.block import Block, Translation
from trapgate.engine.blocks import BlockStore
from trapgate.engine.compile import CodeFolder
from trapgate.engine.hot.shape import Shape, can_hold, supported
from trapgate.machine.memory import PAGE

#: Files that are kept on disk, a few kilobytes each, and recipes of one.
MOST_KEPT = 4000
MOST_OF_PAGE = 64
#: Of the files: part of their names.
FORMAT = 3
PREFIX = "recipe-"
#: What an entry of a region's table is: an address in the records of a block, the page of a block, or the handler that
#: a block's first record had.
_RECORD, _PAGE, _HANDLER = range(3)


class Recipe(NamedTuple):
    """`blocks`: rip, number of the page among those of the region, bytes, and how many instructions a region can have;
    `entries`: numbers of blocks; `table`: what, number of the block, offset from its header."""

    name: str
    blocks: list[tuple[int, int, bytes, int]]
    entries: list[int]
    table: list[tuple[int, int, int]]


def file_of(translation: Translation, linear: int) -> str:
    """The name of the file with the recipes of a page."""
    return f"{PREFIX}{FORMAT}-" + hashlib.sha256(b"%x " % linear + translation.name).hexdigest()[:32]


def write(folder: CodeFolder, store: BlockStore, name: str, shape: Shape, table: list[int]) -> None:
    """Keep what the region `name` was made of. One that cannot be described is not kept."""
    pages = list(dict.fromkeys(block.page for block in shape.blocks))
    entries = []
    for value in table:
        entry = _describe(value, shape)
        if entry is None:
            return
        entries.append(entry)
    blocks = [
        (block.rip, pages.index(block.page), store.code_of(block).hex(), supported(block)) for block in shape.blocks
    ]
    file = file_of(shape.seed.translation, linear_page(shape.seed))
    kept = _content(folder, file)
    seed = str(shape.seed.rip)
    kept.pop(seed, None)
    kept[seed] = [name, blocks, [shape.blocks.index(block) for block in shape.entries], entries]
    newest = list(kept.items())[-MOST_OF_PAGE:]
    folder.write(file, json.dumps(dict(newest)).encode())


def _content(folder: CodeFolder, file: str) -> dict[str, list[Any]]:
    data = folder.read(file)
    return json.loads(data) if data else {}


def _describe(value: int, shape: Shape) -> tuple[int, int, int] | None:
    for number, block in enumerate(shape.blocks):
        if block.address <= value < block.end + record.END_SIZE:
            return _RECORD, number, value - block.address
        if value == block.page:
            return _PAGE, number, 0
        if value == shape.originals.get(block):
            return _HANDLER, number, 0
    return None


def read(folder: CodeFolder, file: str) -> list[tuple[int, Recipe]]:
    """The recipes of a page, with the rips of the blocks around which the regions were formed."""
    return [
        (int(seed), Recipe(name, [(rip, page, bytes.fromhex(code), most) for rip, page, code, most in blocks], *others))
        for seed, (name, blocks, *others) in _content(folder, file).items()
    ]


def follow(
    recipe: Recipe, store: BlockStore, translation: Translation, seed: tuple[int, int], original: Callable[[Block], int]
) -> tuple[Shape, list[int]] | None:
    """The region's shape and table here, or None where its code is not what it was; `seed` is the rip and the page of
    the block around which it was formed.

    Its edges are not known: they are in the code alone.
    """
    mode = translation.mode
    pages: dict[int, int] = {}
    by_linear = {(mode.code_base + seed[0] & mode.linear_mask) & ~(PAGE - 1): seed[1]}
    places: list[tuple[int, int]] = []
    for rip, number, code, _ in recipe.blocks:
        linear = mode.code_base + rip & mode.linear_mask
        page = by_linear.get(linear & ~(PAGE - 1))
        if page is None:
            page = store.peek_page(linear)
        if page is None or pages.setdefault(number, page) != page or not store.holds(page + linear % PAGE, code):
            return None
        by_linear[linear & ~(PAGE - 1)] = page
        places.append((rip, page))
    generation = store.generation
    blocks = [store.find(translation, rip, page) for rip, page in places]
    if store.generation != generation:
        return None
    for block, (_, _, code, most) in zip(blocks, recipe.blocks, strict=True):
        if block.length != len(code):
            return None
        block.supported = most  # the same bytes in the same mode: they need not be decoded to know it
    if not all(map(can_hold, blocks)):
        return None
    shape = Shape(blocks, [blocks[number] for number in recipe.entries], blocks[places.index(seed)])
    shape.originals = {block: original(block) for block in shape.entries}
    return shape, [_value(entry, blocks, shape.originals) for entry in recipe.table]


def linear_page(block: Block) -> int:
    """Linear address of the page on which a block begins."""
    mode = block.translation.mode
    return (mode.code_base + block.rip & mode.linear_mask) & ~(PAGE - 1)


def _value(entry: tuple[int, int, int], blocks: list[Block], originals: Mapping[Block, int]) -> int:
    what, number, offset = entry
    block = blocks[number]
    if what == _RECORD:
        return block.address + offset
    return block.page if what == _PAGE else originals[block]
