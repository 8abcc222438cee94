"""Samples: taken at even distances of modelled time, kept for later runs; regions that later runs find again."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from engine.assembly import Code, assemble
from engine.harness import CODE, Guest
from trapgate.engine import native_core as core_module
from trapgate.engine.block import Block
from trapgate.engine.compile import CodeFolder
from trapgate.engine.handlers import HandlerStore
from trapgate.engine.hot import recipes
from trapgate.engine.hot import samples as samples_module
from trapgate.engine.hot import tier as tier_module
from trapgate.engine.hot.samples import Samples
from trapgate.engine.hot.shape import Former, Shape
from trapgate.engine.hot.tier import HotTier

from .waiting import wait_for

LOOP = assemble(
    64,
    """
    b9 64 00 00 00  mov ecx, 100
    body:
    01 c8           add eax, ecx
    ff c9           dec ecx
    75 fa           jne body
    f4              hlt
    """,
)


@pytest.fixture
def keeps_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each run's samples are kept, however few."""
    monkeypatch.setattr(samples_module, "ENOUGH", 1)


def _block(g: Guest, rip: int) -> Block:
    return next(block for block in g.processor.blocks.valid_blocks() if block.rip == rip)


def _guest(
    handlers: HandlerStore, folder: CodeFolder, code: Code = LOOP, label: str = "body"
) -> tuple[Guest, HotTier, Block]:
    """A guest that has run, its tier, and the block at a label."""
    g = Guest(handlers, hot="off").enter_long().load(code).set(rax=0)
    g.run_to_halt()
    g.processor.hot = tier = HotTier(g.processor.blocks, folder, "auto")
    return g, tier, _block(g, code[label])


def test_earlier_runs_count(handlers: HandlerStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(samples_module, "ENOUGH", 2)
    folder = CodeFolder(tmp_path)
    for earlier in (0, 2, 4):
        g, _, block = _guest(handlers, folder)
        samples = Samples(g.processor.blocks, folder)
        assert samples.total(block) == earlier
        assert [samples.add(block), samples.add(block)] == [1, 2]
        assert (samples.own(block), samples.total(block)) == (2, earlier + 2)
        samples.save()
        samples.save()
    others = Guest(handlers, hot="off").enter_protected().load(LOOP), Guest(handlers, hot="off").enter_long().load(LOOP)
    others[1].memory.write(LOOP["body"] + 1, b"\xc0")
    for g in others:
        g.set(rax=0).run_to_halt()
        other = _block(g, LOOP["body"])
        assert Samples(g.processor.blocks, folder).total(other) == 0


def test_a_run_with_few_samples_writes_nothing(handlers: HandlerStore, tmp_path: Path) -> None:
    folder = CodeFolder(tmp_path)
    _, tier, block = _guest(handlers, folder)
    tier.sample(block)
    tier.save()
    assert not folder.names()


@pytest.mark.parametrize("damage", [b"", b"three", struct.pack("<8sII", b"no block", 5, 2) + b"?"])
def test_a_file_that_is_none_counts_nothing(handlers: HandlerStore, tmp_path: Path, damage: bytes) -> None:
    folder = CodeFolder(tmp_path)
    folder.write(f"samples-{samples_module.FORMAT}", damage)
    g, _, block = _guest(handlers, folder)
    samples = Samples(g.processor.blocks, folder)
    samples.add(block)
    assert samples.total(block) == 1


@pytest.mark.usefixtures("keeps_all")
def test_the_file_keeps_those_with_the_most(
    handlers: HandlerStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(samples_module, "MOST_KEPT", 1)
    folder = CodeFolder(tmp_path)
    g, _, block = _guest(handlers, folder)
    other = _block(g, CODE)
    samples = Samples(g.processor.blocks, folder)
    for one in (other, block, block):
        samples.add(one)
    samples.save()
    again = Samples(g.processor.blocks, folder)
    assert (again.total(block), again.total(other)) == (2, 0)


@pytest.mark.usefixtures("keeps_all")
def test_runs_that_are_too_short_each_have_their_region_after_some(
    handlers: HandlerStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One sample in each run, four wanted: the fourth run makes the region, the fifth finds it and forms none."""
    monkeypatch.setattr(tier_module, "SAMPLES_PER_INSTRUCTION", 4 / 3)
    folder = CodeFolder(tmp_path)
    for number in range(1, 5):
        _, tier, block = _guest(handlers, folder)
        tier.sample(block)
        assert tier._waiting == (number == 4)
        tier.save()
    wait_for(lambda: bool(tier._ready))
    tier.sample(block)
    assert tier.installed == 1

    def form(self: Former, seed: Block) -> None:
        raise AssertionError("it was kept")

    monkeypatch.setattr(Former, "form", form)
    g, tier, block = _guest(handlers, folder)
    monkeypatch.setattr(Block, "decoded", property(lambda self: pytest.fail("it need not be decoded")))
    tier.sample(block)
    assert tier.installed == 1
    assert block.regions
    monkeypatch.undo()
    g.processor.halted = False
    g.set(rax=0, rip=CODE).run_to_halt()
    assert g["rax"] == 5050


@pytest.mark.usefixtures("keeps_all")
def test_what_only_earlier_runs_make_worth_it_is_made_little_by_little(
    handlers: HandlerStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that has spent its share leaves the region to a later one; when cold code has cost enough it is made."""
    monkeypatch.setattr(tier_module, "SAMPLES_PER_INSTRUCTION", 4 / 3)
    monkeypatch.setattr(tier_module, "PAID_PER_INSTRUCTION", 10 / 3)
    for spent, made_in in (([1, 1, 1, 1, 0, 0], 5), ([1] * 20, 10)):
        folder = CodeFolder(tmp_path / str(made_in))
        for number, before in enumerate(spent, 1):
            _, tier, block = _guest(handlers, folder)
            tier._spent = before
            tier.sample(block)
            assert tier._waiting == (number == made_in)
            tier.save()
            if tier._waiting:
                break
        else:
            pytest.fail("it was never made")


def test_regions_are_there_when_code_of_their_page_is(
    handlers: HandlerStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two loops on a page, found again at once where their bytes are there, and a third that has changed."""
    body = "\n".join(
        f"""
        b9 64 00 00 00  mov ecx, 100
        body{i}:
        83 c0 {i:02x}   add eax, {i}
        ff c9           dec ecx
        75 f9           jne body{i}
        """
        for i in range(3)
    )
    code = assemble(64, body + "f4  hlt")
    monkeypatch.setattr(tier_module, "SAMPLES_PER_INSTRUCTION", 0)
    folder = CodeFolder(tmp_path)

    g, tier, first = _guest(handlers, folder, code, "body0")
    for block in (first, _block(g, code["body1"]), _block(g, code["body2"])):
        tier.sample(block)
        tier.sample(block)
    wait_for(lambda: len(tier._ready) >= 3)
    tier.sample(first)
    assert tier.installed == 3
    (file,) = [name for name in folder.names() if name.startswith(recipes.PREFIX)]

    g, tier, first = _guest(handlers, folder, code, "body0")
    g.memory.write(code["body2"] + 2, b"\x05")
    g.processor.blocks.drop(code["body2"], 3)
    g.go(CODE)
    g.set(rax=0).run_to_halt()
    g.processor.blocks.on_laid_out(first.translation, CODE & ~0xFFF, CODE & ~0xFFF)
    tier.sample(_block(g, CODE))
    assert tier.installed == 2
    assert {b.rip for b in g.processor.blocks.valid_blocks() if b.regions} >= {code["body0"], code["body1"]}
    g.go(CODE)
    g.set(rax=0).run_to_halt()
    assert g["rax"] == 600
    for damage in (b"", b"{}"):
        folder.write(file, damage)
        _, tier, first = _guest(handlers, folder, code, "body0")
        tier.sample(first)
        assert tier.installed == 0


def test_a_page_keeps_its_newest_recipes(
    handlers: HandlerStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recipes, "MOST_OF_PAGE", 1)
    monkeypatch.setattr(tier_module, "SAMPLES_PER_INSTRUCTION", 0)
    folder = CodeFolder(tmp_path)
    g, tier, block = _guest(handlers, folder)
    other = _block(g, CODE)
    for seed in (other, block):
        shape = tier._former.form(seed)
        assert shape is not None
        recipes.write(folder, g.processor.blocks, "name", shape, [])
    kept = recipes.read(folder, recipes.file_of(block.translation, recipes.linear_page(block)))
    assert [rip for rip, _ in kept] == [block.rip]


@pytest.mark.usefixtures("keeps_all")
def test_what_was_put_off_is_not_formed_again_in_the_next_run(
    handlers: HandlerStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is considered with 2, 4, 8 and 16 samples, whichever runs they are of."""
    monkeypatch.setattr(tier_module, "SAMPLES_PER_INSTRUCTION", 1000)
    folder, seeds = CodeFolder(tmp_path), []
    right = Former.form

    def form(self: Former, seed: Block) -> Shape | None:
        seeds.append(seed)
        return right(self, seed)

    monkeypatch.setattr(Former, "form", form)
    formed = []
    for _ in range(17):
        _, tier, block = _guest(handlers, folder)
        tier.sample(block)
        tier.save()
        formed.append(len(seeds))
    assert formed == [0, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3, 3, 3, 3, 3, 4, 4]


def test_what_leaves_native_code_again_and_again_is_sampled_as_often(
    handlers: HandlerStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A CPUID each 625 instructions, a sample each 5000 cycles."""
    monkeypatch.setattr(core_module, "SLICE", 5000)
    code = assemble(
        64,
        """
        be f4 01 00 00  mov esi, 500
        body:
        bf 9b 00 00 00  mov edi, 155
        turn:
        01 c8           add eax, ecx
        83 c1 03        add ecx, 3
        ff cf           dec edi
        75 f7           jne turn
        0f a2           cpuid
        ff ce           dec esi
        75 ec           jne body
        f4              hlt
        """,
    )
    g = Guest(handlers, hot="auto").enter_long().load(code).set(rax=0)
    assert g.run(1_000_000).reason == "halted"
    tier = g.processor.hot
    assert tier is not None
    assert tier.samples == pytest.approx(g.clock.now / 5150, rel=0.1)
