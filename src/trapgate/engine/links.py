"""Links between blocks, those that Python makes and those that native code makes, and where indirect branches went."""

from __future__ import annotations

import ctypes
import mmap

from trapgate.engine import native_translate, record
from trapgate.engine.arena import Arena
from trapgate.engine.block import Block
from trapgate.engine.block_table import INDIRECT, KIND_MASK, LOG_SIZE, LOG_START, TARGET
from trapgate.machine.memory import PAGE

#: Targets of an indirect branch that are remembered.
MOST_SEEN = 64


class Links:
    """The links of an arena's blocks."""

    def __init__(self, arena: Arena) -> None:
        self._arena = arena
        #: Link fields by the record that they lead to: (host address of the field, what to put there when that goes).
        self._incoming: dict[int, list[tuple[int, int]]] = {}
        self._log = mmap.mmap(-1, LOG_SIZE + LOG_START + native_translate.AREA_SIZE)
        self._log_words = memoryview(self._log).cast("Q")
        self._log_words[0] = LOG_START
        #: What native code needs to decode blocks (engine/native_translate.py), as words.
        self.area = self._log_words[LOG_SIZE + LOG_START >> 3 :]
        #: Headers that indirect branches have led to, by the branch's record.
        self._went: dict[int, list[int]] = {}
        #: Host address of the log of native code (engine/block_table.py).
        self.log = ctypes.addressof(ctypes.c_char.from_buffer(self._log))

    def clear(self) -> None:
        """Forget all links."""
        self._incoming.clear()
        self._went.clear()
        self._log_words[0] = LOG_START

    def link(self, block: Block, is_target: bool, to: Block) -> int:
        """Make the link from the end of `block` to the block `to`; returns the record that it leads to."""
        mode = block.translation.mode
        here, there = mode.code_base + block.rip, mode.code_base + to.rip
        same_page = block.second_page is None and block.page == to.page and here // PAGE == there // PAGE
        destination = to.address + record.RECORD_SIZE if same_page else to.address
        if is_target:
            field, unlinked = block.end + record.LINK, block.end + record.UNLINKED_TARGET
        else:
            field, unlinked = block.end + record.NEXT_LINK, block.end + record.UNLINKED_NEXT
        if block.valid and to.valid:
            self._arena.words[(field - self._arena.base) >> 3] = destination
            self._incoming.setdefault(destination, []).append((field, unlinked))
        return destination

    def unlink(self, address: int) -> None:
        """Undo every link to the block whose header is at `address`; the log has been read."""
        words, base = self._arena.words, self._arena.base
        for to in (address, address + record.RECORD_SIZE):
            for field, unlinked in self._incoming.pop(to, ()):
                words[(field - base) >> 3] = unlinked

    def read_log(self) -> None:
        """Take note of the links that native code has made, and of where indirect branches went."""
        log = self._log_words
        end = log[0] >> 3
        if end == LOG_START >> 3:
            return
        incoming = self._incoming
        entries = log[LOG_START >> 3 : end].tolist()
        log[0] = LOG_START
        for what, to in zip(entries[::2], entries[1::2], strict=True):
            kind = what & KIND_MASK
            if kind == INDIRECT:
                self.note_indirect(what - kind, to)
                continue
            field = what - kind
            # Between a link and what stands in its place until it is made there are eight bytes.
            unlinked = (
                field - record.LINK + record.UNLINKED_TARGET
                if kind == TARGET
                else (field - record.NEXT_LINK + record.UNLINKED_NEXT)
            )
            incoming.setdefault(to, []).append((field, unlinked))

    def note_indirect(self, branch: int, to: int) -> None:
        """The indirect branch with the record at `branch` has led to the block whose header is at `to`."""
        went = self._went.setdefault(branch, [])
        if len(went) < MOST_SEEN:
            went.append(to)

    def targets_of(self, block: Block) -> list[Block]:
        """Blocks that the indirect branch at the end of a block was seen to go to; the log has been read.

        Not those behind a change of privilege: a region has one mode.
        """
        found = [self._arena.block_at(to) for to in self._went.get(block.end, ())]
        return [to for to in found if to.translation is block.translation]
