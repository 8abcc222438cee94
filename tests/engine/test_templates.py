"""Decoded blocks that are kept on disk: a second run lays out the same records, and damaged files do no harm."""

from __future__ import annotations

from pathlib import Path

import pytest

from trapgate.boards.machine import BareMachine, MachineConfig
from trapgate.engine import block_table, record, templates
from trapgate.engine.block import Block
from trapgate.engine.compile import CodeFolder
from trapgate.engine.handlers import HandlerStore
from trapgate.firmware.multiboot import MultibootImage
from trapgate.guests import image
from trapgate.machine.console import MemoryConsole

pytestmark = pytest.mark.engine


class Run:
    """One run of the `bench` image, with what it has kept of earlier ones in a folder."""

    def __init__(self, handlers: HandlerStore, line: str = "bench=quicksort n=1", code_size: int | None = None) -> None:
        console = MemoryConsole()
        config = MachineConfig(memory_size=32 << 20, code_size=code_size, hot="auto")
        machine = BareMachine(config, console, handlers)
        blocks = machine.processor.blocks
        blocks.keeps_templates = True
        machine.load(MultibootImage(image("bench"), line))
        machine.run()
        blocks.save_templates()
        self.console = bytes(console.data)
        self.blocks = blocks
        self.counts = machine.processor.instructions, machine.clock.now
        self.tlb = {name: machine.processor.state.counter(name) for name in ("itlb_misses", "dtlb_misses")}
        self.used = sum(one.used for one in blocks._templates.values())
        self.records = {
            (block.rip, block.translation.mode): (
                len(block.decoded), block.length, block.cost, block.target, block.next_rip,
                [d.text for d in block.decoded],
            )
            for block in blocks.valid_blocks()
        }  # fmt: skip

    def same_as(self, other: Run) -> None:
        assert self.console == other.console != b""
        assert self.counts == other.counts
        assert self.tlb == other.tlb
        # What stands on one page is laid out together, whichever of it a run needs.
        assert self.records.items() >= other.records.items()


@pytest.fixture
def kept(handlers: HandlerStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> HandlerStore:
    """The handlers, with an empty folder of their own for what runs keep, which keep every block."""
    monkeypatch.setattr(handlers, "folder", CodeFolder(tmp_path))
    monkeypatch.setattr(templates, "ENOUGH", 1)
    return handlers


def _files(kept: HandlerStore) -> list[Path]:
    return sorted(kept.folder.folder.glob("decoded-*"))


def test_a_second_run_lays_out_what_the_first_has_decoded(kept: HandlerStore) -> None:
    first, second = Run(kept), Run(kept)
    assert first.used == 0
    assert second.used > 50
    second.same_as(first)
    assert second.records == first.records
    assert second.blocks.translated == first.blocks.translated


def test_another_guest_adds_its_blocks(kept: HandlerStore) -> None:
    Run(kept)
    plain = Run(kept, "bench=md5 n=2")
    both = Run(kept, "bench=md5 n=2")
    assert both.used > plain.used > 0
    both.same_as(plain)
    assert Run(kept).used > 50


def test_code_with_the_same_head_and_another_tail_is_decoded(kept: HandlerStore) -> None:
    first = Run(kept)
    for file in _files(kept):
        data = bytearray(kept.folder.read(file.name) or b"")
        sizes = templates._HEADER.unpack_from(data)
        # The bytes of every block, as another guest would have them behind the same heads.
        start = templates._HEADER.size + sum(sizes[:5])
        for place in range(start, start + sizes[5]):
            data[place] ^= 0xFF
        kept.folder.write(file.name, bytes(data))
    second = Run(kept)
    assert second.used == 0
    second.same_as(first)


def test_a_damaged_file_is_as_none(kept: HandlerStore) -> None:
    first = Run(kept)
    for file in _files(kept):
        file.write_bytes(file.read_bytes()[:-7])
    second = Run(kept)
    assert second.used == 0
    second.same_as(first)


def test_too_many_blocks_start_over(kept: HandlerStore, monkeypatch: pytest.MonkeyPatch) -> None:
    Run(kept)
    whole = Run(kept).used
    monkeypatch.setattr(templates, "MOST_BLOCKS", 10)
    Run(kept, "bench=md5 n=2")
    assert Run(kept).used < whole


def test_what_another_run_has_kept_meanwhile_stays(kept: HandlerStore) -> None:
    """A run that finds another file than the one it has read keeps nothing: numbers of the two would be mixed."""
    first = Run(kept)
    (file,) = _files(kept)
    store = templates.Templates(kept.folder, kept, file.name.removeprefix(f"decoded-{templates.FORMAT}-"))
    Run(kept, "bench=md5 n=2")
    content = file.read_bytes()
    store._news = templates.ENOUGH
    store.save()
    assert file.read_bytes() == content
    Run(kept).same_as(first)


def test_a_write_drops_the_blocks_of_a_group_that_it_touches(kept: HandlerStore) -> None:
    Run(kept)
    blocks = Run(kept).blocks
    before = {(block.rip, block.page): block for block in blocks.valid_blocks()}
    page = max((page for _, page in before), key=lambda page: sum(other == page for _, other in before))
    hit = {key for key, block in before.items() if key[1] == page and key[0] % 4096 // 64 == 3}
    assert hit
    blocks.drop(page + 3 * 64 + 7, 1)
    after = {(block.rip, block.page) for block in blocks.valid_blocks()}
    assert not after & hit
    gone = [before[key] for key in before.keys() - after]
    assert all(block.page == page and block.rip % 4096 // 64 <= 3 <= (block.rip + block.length - 1) % 4096 // 64
               for block in gone)  # fmt: skip
    # Nothing leads to them any more.
    places = {to for block in gone for to in (block.address, block.first)}
    for key in after:
        end = before[key].end
        assert not places & {blocks.words[(end + link - blocks.base) >> 3] for link in (record.LINK, record.NEXT_LINK)}
    for block in gone:
        assert not _found(block)
        assert blocks.words[(block.address - blocks.base) >> 3] == kept.fixed["stale"]


def _found(block: Block) -> bool:
    """Whether native code finds a block in the table."""
    words = block.translation._cache_words
    first = (block_table.FIRST_BUCKET + block_table.bucket_of(block.rip) * block_table.BUCKET) >> 3
    return block.address in words[first + 1 : first + 2 * block_table.WAYS : 2].tolist()


def test_blocks_are_in_the_table_until_they_go(kept: HandlerStore) -> None:
    Run(kept)
    for run in (Run(kept), Run(kept, "bench=md5 n=2")):
        valid = [block for block in run.blocks.valid_blocks() if block.translation.table]
        assert valid
        assert all(_found(block) for block in valid)
        run.blocks.drop(0, 32 << 20)
        assert not any(_found(block) for block in valid)
        assert not run.blocks.valid_blocks()


def test_a_breakpoint_is_seen_in_code_that_was_laid_out_before(kept: HandlerStore) -> None:
    Run(kept)
    blocks = Run(kept).blocks
    block = max(blocks.valid_blocks(), key=lambda block: block.length)
    blocks.breakpoints.set([block.rip])
    assert block.watched
    assert not _found(block)


def test_full_buckets_lose_the_oldest() -> None:
    words = memoryview(bytearray(block_table.SIZE)).cast("Q")
    rips = [rip for rip in range(1 << 20) if block_table.bucket_of(rip) == 5][: block_table.WAYS + 2]
    for rip in rips:
        block_table.enter(words, rip, rip + 1)
    first = (block_table.FIRST_BUCKET + 5 * block_table.BUCKET) >> 3
    assert words[first : first + 2 * block_table.WAYS : 2].tolist() == rips[2:]
    block_table.remove(words, rips[3], 0)
    block_table.remove(words, rips[4], rips[4] + 1)
    block_table.enter(words, rips[0], 7)
    assert words[first : first + 2 * block_table.WAYS].tolist() == [
        word for rip, address in ((rips[2], rips[2] + 1), (rips[3], rips[3] + 1), (rips[0], 7), (rips[5], rips[5] + 1))
        for word in (rip, address)
    ]  # fmt: skip


def test_an_arena_that_is_full_to_the_last_byte(kept: HandlerStore) -> None:
    """All blocks go then: where one more begins exactly at the limit, and where a group takes all the room."""
    first = Run(kept)
    for size in range(14 << 10, 22 << 10, 144):
        small = Run(kept, code_size=size)
        assert small.blocks.generation > 0
        assert (small.console, small.counts, small.tlb) == (first.console, first.counts, first.tlb)
