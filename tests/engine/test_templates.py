"""Decoded blocks that are kept on disk: a second run lays out the same records, and damaged files do no harm."""

from __future__ import annotations

from pathlib import Path

import pytest

from trapgate.boards.machine import BareMachine, MachineConfig
from trapgate.engine import templates
from trapgate.engine.compile import CodeFolder
from trapgate.engine.handlers import HandlerStore
from trapgate.firmware.multiboot import MultibootImage
from trapgate.guests import image
from trapgate.machine.console import MemoryConsole

pytestmark = pytest.mark.engine


class Run:
    """One run of the `bench` image, with what it has kept of earlier ones in a folder."""

    def __init__(self, handlers: HandlerStore, line: str = "bench=quicksort n=1") -> None:
        console = MemoryConsole()
        machine = BareMachine(MachineConfig(memory_size=32 << 20), console, handlers)
        blocks = machine.processor.blocks
        blocks.keeps_templates = True
        machine.load(MultibootImage(image("bench"), line))
        machine.run()
        blocks.save_templates()
        self.console = bytes(console.data)
        self.counts = machine.processor.instructions, machine.clock.now, blocks.translated
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
        assert self.records == other.records


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
        *sizes, _ = templates._HEADER.unpack_from(data)
        # The bytes of every block, as another guest would have them behind the same heads.
        for place in range(len(data) - sizes[5], len(data)):
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
    store._new.append((b"\x90" * 16, b"\x90", [0], 1, 0, 0))
    store.save()
    assert file.read_bytes() == content
    Run(kept).same_as(first)
