"""Blocks that native code decodes by itself: nothing that can be seen is different from a run in which Python does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from engine.assembly import assemble
from engine.harness import CODE, Guest
from trapgate.engine import native_translate, templates
from trapgate.engine.blocks import MOST_WRITES, BlockStore
from trapgate.engine.compile import CodeFolder
from trapgate.engine.handlers import HandlerStore
from trapgate.lab.lockstep import memory_difference
from trapgate.lab.processor_state import read_state, read_tlb

Prepare = Callable[[Guest], Guest]


class Runs:
    """Runs of a program: by Python's decoder, and by native code that has learned the program's instructions."""

    def __init__(self, handlers: HandlerStore, monkeypatch: pytest.MonkeyPatch) -> None:
        self._handlers = handlers
        #: Blocks that Python was asked for in the last run.
        self.asked = 0
        right = BlockStore._build

        def build(store: BlockStore, *arguments: object) -> object:
            self.asked += 1
            return right(store, *arguments)  # type: ignore[arg-type]

        monkeypatch.setattr(BlockStore, "_build", build)

    def guest(self, prepare: Prepare, code_size: int | None = None, natively: bool = True) -> Guest:
        """A guest, ready to run."""
        self.asked = 0
        g = Guest(self._handlers, hot="off", code_size=code_size)
        g.processor.blocks.keeps_templates = natively
        return prepare(g)

    def learn(self, prepare: Prepare) -> Guest:
        """Run the program once in Python, for its instructions to be known, and give that guest."""
        plain = self.guest(prepare, natively=False)
        plain.run_to_halt()
        teacher = self.guest(prepare)
        teacher.run_to_halt()
        teacher.processor.keep_code()
        same(plain, teacher)
        return plain

    def compare(self, prepare: Prepare, code_size: int | None = None) -> Guest:
        """Run it by native code; it is the same. That guest."""
        plain = self.learn(prepare)
        native = self.guest(prepare, code_size)
        native.run_to_halt()
        same(plain, native)
        return native


def same(one: Guest, other: Guest) -> None:
    """Registers, flags, counts, memory and the modelled TLB."""
    differences = read_state(one.processor).differences(read_state(other.processor))
    differences += memory_difference(one.memory, other.memory)
    assert not differences, "\n".join(differences)
    assert read_tlb(one.processor) == read_tlb(other.processor)
    assert one.processor.instructions == other.processor.instructions
    assert one.clock.now == other.clock.now


@pytest.fixture
def runs(handlers: HandlerStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Runs:
    monkeypatch.setattr(handlers, "folder", CodeFolder(tmp_path))
    monkeypatch.setattr(templates, "ENOUGH", 1 << 30)
    monkeypatch.setattr(templates, "ENOUGH_PATTERNS", 1)
    return Runs(handlers, monkeypatch)


#: 40 loops with branches both ways, one after the other.
LOOPS = "".join(
    f"""
    f{i}:
    83 c0 {i:02x}        add eax, {i}
    a8 01                test al, 1
    74 03                je even{i}
    48 ff c3             inc rbx
    even{i}:
    48 81 c3 {i:02x} 00 00 00  add rbx, {i}
    48 83 ee 01          sub rsi, 1
    75 e9                jne f{i}
    be 03 00 00 00       mov esi, 3
    48 8d 8c 3b {i:02x} 01 00 00  lea rcx, [rbx + rdi + {256 + i}]
    """
    for i in range(40)
)
PROGRAM = assemble(64, f"be 03 00 00 00  mov esi, 3\n{LOOPS}\nf4  hlt")


def _program(g: Guest) -> Guest:
    return g.enter_long().load(PROGRAM).set(rax=0, rbx=0, rdi=5)


def test_blocks_are_decoded_by_native_code(runs: Runs) -> None:
    native = runs.compare(_program)
    assert native.processor.blocks.translated > 120
    assert runs.asked == 2  # the first block of the page, and the one that ends in HLT
    blocks = native.processor.blocks.valid_blocks()
    assert len(blocks) == native.processor.blocks.translated
    assert all(block.decoded and block.rip_of(block.first) == block.rip for block in blocks)


def test_they_are_kept_for_later_runs(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    native = runs.compare(_program)
    monkeypatch.setattr(templates, "ENOUGH", 1)
    native.processor.keep_code()
    again = runs.guest(_program)
    again.run_to_halt()
    same(native, again)
    assert runs.asked == 2
    assert again.processor.blocks.translated == native.processor.blocks.translated


def test_code_that_is_written_to_right_after_it_was_decoded(runs: Runs) -> None:
    """Before Python has heard of it: the loop's own ADD changes in its first turn."""
    code = assemble(
        64,
        """
        b9 05 00 00 00        mov ecx, 5
        eb 00                 jmp body
        body:
        83 c0 01              add eax, 1
        83 f9 04              cmp ecx, 4
        75 07                 jne next
        c6 05 f3 ff ff ff 07  mov byte [rel body + 2], 7
        next:
        ff c9                 dec ecx
        75 ed                 jne body
        f4                    hlt
        """,
    )
    native = runs.compare(lambda g: g.enter_long().load(code).set(rax=0))
    assert native["rax"] == 1 + 1 + 7 + 7 + 7
    assert native.processor.blocks.dropped > 0


def test_a_page_that_is_written_to_again_and_again_is_python_s(runs: Runs) -> None:
    runs.learn(_program)
    native = _program(runs.guest(_program))
    for _ in range(MOST_WRITES + 2):
        native.go(CODE)
        native.set(rax=0, rbx=0, rdi=5)
        native.run_to_halt()
        native.memory.write(CODE, native.memory.read(CODE, 1))
        native.processor.blocks.drop(CODE, 1)
    assert native.processor.blocks._changing[CODE >> 12]
    native.processor.blocks.drop(CODE, 0x1000)
    runs.asked = 0
    native.go(CODE)
    native.run_to_halt()
    assert runs.asked > 100


def test_what_is_dropped_is_looked_at_no_more(runs: Runs) -> None:
    """Each turn native code lays out what is new: what has gone does not pile up."""
    runs.learn(_program)
    native = runs.guest(_program)
    for _ in range(20):
        native.go(CODE)
        native.set(rax=0, rbx=0, rdi=5)
        native.run_to_halt()
        native.processor.blocks.drop(CODE, len(PROGRAM.data))
    translations = native.processor.blocks._natively
    assert not any(pages for translation in translations for pages in translation.pages.values())


def test_breakpoints_are_seen_in_code_that_is_new(runs: Runs) -> None:
    runs.learn(_program)
    for wanted in (PROGRAM["f20"], PROGRAM["f39"]):
        native = runs.guest(_program)
        native.processor.blocks.breakpoints.set([wanted])
        assert native.run().reason == "breakpoint"
        assert native["rip"] == wanted
        native.processor.blocks.breakpoints.set([])
        assert native.processor.step().reason == "steps"
        native.run_to_halt()


def test_an_arena_that_native_code_fills(runs: Runs) -> None:
    """Python starts over with an empty one, wherever the limit lies between blocks."""
    for size in range(16 << 10, 20 << 10, 144):
        native = runs.compare(_program, size)
        assert native.processor.blocks.generation > 0


def test_a_log_that_is_full(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    """5710 blocks on ten pages that have code, with no other reason to leave native code: Python is asked between."""
    pages = [0x10_0000 + 0x1000 * i for i in range(10)]
    fill = []
    right = BlockStore._take_in

    def take_in(store: BlockStore) -> None:
        fill.append(store._area[native_translate.USED >> 3])
        right(store)

    def prepare(g: Guest) -> Guest:
        g.enter_long()
        start = b""
        for i, page in enumerate(pages):
            g.map(page, page)
            # mov rcx, page; lea rdx, [behind the jump]; jmp rcx -- and back: jmp rdx
            start += b"\x48\xc7\xc1" + page.to_bytes(4, "little") + bytes.fromhex("48 8d 15 02 00 00 00  ff e1")
            # mov eax, number; jmp to the next one
            body = b"".join(b"\xb8" + (i * 1000 + n).to_bytes(4, "little") + b"\xeb\x00" for n in range(571))
            g.memory.write(page, b"\xff\xe2" + body)
            g.memory.write(page + 2 + len(body), b"\xe9" + (0x1000 - len(body) - 5).to_bytes(4, "little"))
            g.memory.write(page + 7 + len(body), bytes([i]))  # each block begins as no other
        g.memory.write(pages[-1] + 2 + 571 * 7, b"\xf4")
        g.memory.write(CODE, start + b"\x48\xc7\xc1" + (pages[0] + 2).to_bytes(4, "little") + b"\xff\xe1")
        g.go(CODE)
        return g

    monkeypatch.setattr(BlockStore, "_take_in", take_in)
    native = runs.compare(prepare)
    assert max(fill) == native_translate.LOG_SIZE
    assert native.processor.blocks.translated > 5710
    assert runs.asked < 50


def test_another_page_at_the_same_address(runs: Runs) -> None:
    """Code of two address spaces: a block is found where its page is there, and decoded anew where another is."""
    other = assemble(64, "83 c0 07  add eax, 7\na8 01  test al, 1\n74 00  je on\non:\nf4  hlt", org=PROGRAM.origin)

    def prepare(g: Guest) -> Guest:
        g.enter_long().load(other)
        g.map_large(0x20_0000, 0x20_0000, 21)
        g.memory.write(0x20_0000, PROGRAM.data)
        return g.set(rax=0, rbx=0, rdi=5)

    def both_spaces(g: Guest) -> None:
        for physical in (CODE & ~0xFFF, 0x20_0000, CODE & ~0xFFF):
            g.map(CODE & ~0xFFF, physical)
            g.flush(CODE & ~0xFFF)
            g.go(CODE)
            g.run_to_halt()

    runs.learn(prepare)
    plain, native = runs.guest(prepare, natively=False), runs.guest(prepare)
    for g in (plain, native):
        both_spaces(g)
    same(plain, native)
