"""Blocks that native code has laid out together on one page; each becomes a Block when somebody asks for it."""

from __future__ import annotations

import functools
import operator

from trapgate.engine import record
from trapgate.engine.block import Block, Translation
from trapgate.engine.templates import Row

_M64 = (1 << 64) - 1


class LaidPage:
    """Blocks of a page at linear address `linear`, guest-physical address `page`, by their place in the page."""

    __slots__ = (
        "_blocks", "_granules", "_members", "_numbers", "addresses", "count", "first", "group", "left", "linear",
        "page", "translation",
    )  # fmt: skip

    def __init__(
        self, translation: Translation, linear: int, page: int, group: int | None, first: int, addresses: list[int],
        members: list[int], granules: list[int],
    ) -> None:  # fmt: skip
        """`first` is the number of the first one in the arena; `addresses` are those of their headers and of what is
        behind the last one, `members` what they are: (number of a row << 12) + place in the page, `granules` masks of
        what they cover."""
        self.translation, self.linear, self.page, self.first = translation, linear, page, first
        #: Number of the group (engine/templates.py).
        self.group = group
        self.addresses, self._members, self._granules = addresses, members, granules
        #: How many have not been taken out.
        self.left = self.count = len(members)
        self._numbers = {member & 0xFFF: number for number, member in enumerate(members)}
        self._blocks: list[Block | None] = [None] * len(members)

    def at(self, place: int) -> Block | None:
        """The block at a place of the page, if there is one that is still valid."""
        number = self._numbers.get(place)
        if number is None:
            return None
        block = self.block(number)
        return block if block.valid else None

    def block(self, number: int) -> Block:
        """One of them, counted from the first."""
        block = self._blocks[number]
        if block is None:
            block = self._blocks[number] = self._make(number)
        return block

    @property
    def covered(self) -> int:
        """The granules of those that are left."""
        return functools.reduce(operator.or_, self._granules, 0)

    def take(self, mask: int) -> list[tuple[int, int, Block | None]]:
        """Take those out that have code in the granules of a mask: (number, place in the page, the block if somebody
        has asked for it)."""
        taken = []
        for number, granules in enumerate(self._granules):
            if granules & mask:
                self._granules[number] = 0
                place = self._members[number] & 0xFFF
                self._numbers.pop(place, None)
                taken.append((number, place, self._blocks[number]))
        self.left -= len(taken)
        return taken

    def _make(self, number: int) -> Block:
        translation, member = self.translation, self._members[number]
        templates = translation.templates
        assert templates is not None
        block = Block(translation, self.linear | member & 0xFFF, self.page)
        fill(block, self.addresses[number], templates.row(member >> 12))
        if self._granules[number]:
            translation.blocks.setdefault((block.rip, self.page), block)
        else:
            block.valid = False
        return block


def fill(block: Block, address: int, row: Row) -> None:
    """What is to be known of a block of 64-bit code that native code has laid out at `address`."""
    count = row.instructions
    block.address = address
    block.first = address + record.RECORD_SIZE
    block.code, block.length = row.code, len(row.code)
    block.next_rip = block.rip + block.length & _M64
    block.cost = (row.cycles << 32) + count
    block.end = block.first + (count if not row.ends else count - 1) * record.RECORD_SIZE
    if row.target is not None:
        block.target = block.next_rip + row.target & _M64
