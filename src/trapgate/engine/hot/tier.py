"""The hot tier: finds where the run spends its time, and puts regions there.

Where the budget of native code runs out is a sample: a block that was about to run. When a block has enough of them for
what its region costs to compile, the region is formed and compiled in the background, and installed between two
stretches of native code.
"""

from __future__ import annotations

import ctypes
import os
from collections import deque

from trapgate.engine.block import Block, Translation
from trapgate.engine.blocks import BlockStore
from trapgate.engine.compile import CodeFolder
from trapgate.engine.hot import recipes
from trapgate.engine.hot.compile import IMPOSSIBLE, UNNAMED, Compiled, Job, Workshop, named, workshop
from trapgate.engine.hot.context import TABLE, RegionContext
from trapgate.engine.hot.recipes import linear_page
from trapgate.engine.hot.samples import Samples
from trapgate.engine.hot.shape import Former, Shape, can_hold
from trapgate.engine.record import CODE_SIZE
from trapgate.machine.errors import UnknownTierSetting

#: Samples for each instruction of a region that make it worth compiling, as later runs have it for nothing
#: (docs/engine.md).
SAMPLES_PER_INSTRUCTION = 0.2
#: Samples of all runs for each instruction with which a region is compiled in any case: one in cold code costs half a
#: millisecond more than one in a region, and an instruction takes half a millisecond to generate and compile.
PAID_PER_INSTRUCTION = 1
#: What a run may spend on regions that only its earlier runs make worth it, before these are paid for: instructions
#: for each sample, which stands for about a millisecond.
SPARE = 0.1
#: 1024 times the golden ratio's fraction: multiples of it are evenly spread.
GOLDEN = 633
#: More samples than there can be.
NEVER = 1 << 60
#: Regions at most that wait to be compiled.
MOST_WAITING = 8
#: When regions are made; the first is the default.
SETTINGS = ("auto", "off", "always")
VARIABLE = "TRAPGATE_HOT"


class Region:
    """A region: its code, and where it is installed."""

    __slots__ = ("address", "generation", "shape", "table")

    def __init__(self, shape: Shape, table: list[int], generation: int) -> None:
        self.shape = shape
        self.table = (ctypes.c_uint64 * len(table))(*table)
        self.generation = generation
        self.address = 0


class HotTier:
    """The regions of one processor. `when` is "auto", or "always" (every block, at once: for tests).

    `size`: bytes of machine code after which no more regions are made; they stay to the process's end.
    """

    def __init__(self, store: BlockStore, folder: CodeFolder, when: str, size: int = CODE_SIZE) -> None:
        self._store = store
        self._size, self._loaded = size, 0
        self._former = Former(store)
        self._folder = folder
        self._ready: deque[Compiled] = deque()
        self._waiting = 0
        self.always = when == "always"
        self._samples = Samples(store, folder)
        self._due: dict[Block, int] = {}
        self._originals: dict[Block, int] = {}
        #: Instructions of regions that only earlier runs have made worth it.
        self._spent = 0
        #: Regions installed so far, regions dropped, samples, and those in regions.
        self.installed = self.dropped = self.samples = self.samples_inside = 0
        #: Pages that have code; those of them of which earlier runs have regions that are to be installed; all files.
        self._pages: set[tuple[Translation, int, int]] = set()
        self._new_pages: deque[tuple[Translation, int, int]] = deque()
        self._files: frozenset[str] | None = None
        self._wrote = False
        if not self.always:
            store.on_laid_out = self._laid_out
        store.on_gone = self._gone
        store.on_all_gone = self._all_gone

    @classmethod
    def chosen(
        cls, store: BlockStore, folder: CodeFolder, when: str | None = None, size: int = CODE_SIZE
    ) -> HotTier | None:
        """The tier that `when` asks for, "auto", "off" or "always". Raises UnknownTierSetting.

        None: as the environment variable TRAPGATE_HOT says, "auto" by default.
        """
        source = "the hot tier's setting"
        if when is None:
            when, source = os.environ.get(VARIABLE) or SETTINGS[0], VARIABLE
        if when not in SETTINGS:
            raise UnknownTierSetting(when, source)
        return None if when == "off" else cls(store, folder, when, size)

    @property
    def _workshop(self) -> Workshop:
        return workshop()

    @property
    def share(self) -> float:
        """The share of samples that found the run in a region."""
        return self.samples_inside / self.samples if self.samples else 0.0

    # -- sampling

    def sample(self, block: Block) -> None:
        """The run was found at a block."""
        self.samples += 1
        if self._ready:
            self._install_ready()
        generation = self._store.generation
        if self._new_pages:
            self._install_kept()
            if self._store.generation != generation:
                return
        if block.regions:
            self.samples_inside += 1
            return
        if self._samples.add(block) == 1:
            self._laid_out(block.translation, linear_page(block), block.page)
            self._install_kept()
        if block.regions or self._store.generation != generation:
            return
        total = self._samples.total(block)
        due = self._due.get(block) or self._samples.due(block)
        if total >= due:
            self._consider(block, total)

    def save(self) -> None:
        """Keep what was sampled for later runs."""
        self._samples.save()
        if self._wrote:
            self._folder.keep_newest(recipes.PREFIX, recipes.MOST_KEPT)

    def phase(self, distance: int) -> int:
        """How far the samples of this run are shifted, of `distance` between them: others have seen other places."""
        return self._samples.runs * GOLDEN % 1024 * distance >> 10

    def _laid_out(self, translation: Translation, linear: int, page: int) -> None:
        """Code of a page is there: regions that earlier runs have made of it will be, too."""
        where = translation, linear, page
        if where not in self._pages:
            self._pages.add(where)
            if self._files is None:
                self._files = self._folder.listing()
            if recipes.file_of(translation, linear) in self._files:
                self._new_pages.append(where)

    def _install_kept(self) -> None:
        """Install the regions of new pages that earlier runs have made, where their code is the same."""
        while self._new_pages:
            translation, linear, page = self._new_pages.popleft()
            for rip, recipe in recipes.read(self._folder, recipes.file_of(translation, linear)):
                generation = self._store.generation
                if self._loaded >= self._size:
                    return
                followed = recipes.follow(recipe, self._store, translation, (rip, page), self._original)
                if self._store.generation != generation:
                    return
                if followed is None or followed[0].seed.regions:
                    continue
                shape, table = followed
                code = self._folder.read(recipe.name)
                if code:
                    job = Job("", recipe.name, self._folder, Region(shape, table, generation))
                    self._install(Compiled(code, job))

    def _consider(self, block: Block, total: int) -> None:
        """Have a region around a block compiled, if it is worth it.

        | | samples of the region's blocks | is compiled |
        |---|---|---|
        | a | enough in this run | yes |
        | b | so many in all runs that cold code has cost what the region costs | yes |
        | c | enough in all runs | if little was spent so in this run; else with a quarter more |
        | d | not enough | no; not considered again until it has twice as many |
        """
        self._due[block] = total + self._samples.own(block)
        if self._waiting >= MOST_WAITING or self._loaded >= self._size:
            return
        samples = self._samples
        shape = self._former.form(block)
        if shape is None:
            self._put_off(block, 2 * total)
            return
        enough = SAMPLES_PER_INSTRUCTION * shape.instructions
        if sum(map(samples.own, shape.blocks)) < enough:  # else a
            weight = sum(map(samples.total, shape.blocks))
            if weight < enough:
                self._put_off(block, 2 * total)  # d
                return
            if weight < PAID_PER_INSTRUCTION * shape.instructions:  # else b
                if self._spent > SPARE * self.samples:
                    self._put_off(block, total + max(1, total // 4))
                    return
                self._spent += shape.instructions  # c
        job = self._generate(shape)
        code = self._workshop.kept(job)
        if code is not None:
            self._install(Compiled(code, job))
            self._keep(job)
        else:
            self._waiting += 1
            for b in shape.blocks:
                self._due[b] = NEVER
            self._workshop.give(job, self._ready)

    def _put_off(self, block: Block, due: int) -> None:
        self._due[block] = due
        self._samples.put_off(block, due)

    def force(self, block: Block) -> None:
        """Where the tier is "always" used: have a region around a block, and another one when it has got links."""
        if not self.always or len(block.regions) >= 2 or self._loaded >= self._size:
            return
        shape = self._former.form(block)
        if shape is None or (block.regions and len(shape.blocks) == 1):
            return
        job = self._generate(shape)
        self._install(Compiled(self._workshop.now(job), job))

    def _generate(self, shape: Shape) -> Job:
        shape.originals = {block: self._original(block) for block in shape.entries}
        declarations: set[str] = set()
        context = RegionContext(shape, UNNAMED, declarations, shape.originals)
        text, name = named(context.generate(), declarations)
        return Job(text, name, self._folder, Region(shape, context.table, self._store.generation))

    # -- installing

    def _install_ready(self) -> None:
        while self._ready:
            self._waiting -= 1
            compiled = self._ready.popleft()
            if self._install(compiled):
                self._keep(compiled.job)

    def _keep(self, job: Job) -> None:
        """Let later runs find a region again."""
        region = job.customer
        assert isinstance(region, Region)
        recipes.write(self._folder, self._store, job.name, region.shape, list(region.table))
        self._wrote = True

    def _original(self, block: Block) -> int:
        """The handler of a block's first record, behind any region."""
        known = self._originals.get(block)
        return self._store.words[(block.first - self._store.base) >> 3] if known is None else known

    def _install(self, compiled: Compiled) -> bool:
        """Put a region in place; whether its blocks are still there."""
        if compiled.code == IMPOSSIBLE:
            return False
        region = compiled.job.customer
        assert isinstance(region, Region)
        shape = region.shape
        if region.generation != self._store.generation or not all(can_hold(block) for block in shape.blocks):
            for block in shape.blocks:
                self._due.pop(block, None)
            return False
        region.address = self._workshop.load(compiled.job, compiled.code)
        self._loaded += len(compiled.code)
        words, base = self._store.words, self._store.base
        for block in shape.entries:
            place = (block.first - base) >> 3
            self._originals.setdefault(block, words[place])
            words[place + TABLE // 8] = ctypes.addressof(region.table)
            words[place] = region.address
        for block in shape.blocks:
            block.regions.append(region)
        self.installed += 1
        return True

    # -- dropping

    def _gone(self, block: Block) -> None:
        """A block is dropped, or must be seen when it runs."""
        for region in list(block.regions):
            assert isinstance(region, Region)
            self._uninstall(region)
        self._samples.forget(block)
        self._due.pop(block, None)
        self._originals.pop(block, None)
        self._pages.discard((block.translation, linear_page(block), block.page))

    def _uninstall(self, region: Region) -> None:
        words, base = self._store.words, self._store.base
        self.dropped += 1
        for block in region.shape.blocks:
            block.regions.remove(region)
            self._due.pop(block, None)
            self._samples.forget(block)
        for block in region.shape.entries:
            place = (block.first - base) >> 3
            if words[place] == region.address:
                words[place] = self._originals[block]

    def _all_gone(self) -> None:
        self._samples.clear()
        self._due.clear()
        self._originals.clear()
        self._pages.clear()
        self._new_pages.clear()
