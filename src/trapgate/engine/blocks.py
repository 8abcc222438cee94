"""Blocks of decoded code: the arena of records, finding, linking and dropping blocks.

A block is straight-line code from one linear address, in one mode, from one guest-physical page (or two, when its only
instruction crosses into the next). It is found again by exactly these.
"""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Callable

from trapgate.cpu.mode import Mode
from trapgate.engine import native_translate, record
from trapgate.engine.arena import Arena
from trapgate.engine.block import Block, Translation
from trapgate.engine.breakpoints import Breakpoints
from trapgate.engine.handler_keys import handler_keys
from trapgate.engine.handlers import HandlerStore
from trapgate.engine.laid_page import LaidPage
from trapgate.engine.links import Links
from trapgate.engine.templates import Row, Templates
from trapgate.isa.decode import Decoder
from trapgate.isa.decoded import Decoded
from trapgate.machine.memory import GRANULE, PAGE, PhysicalMemory

#: Writes to the code of a page with which it is still taken for code that stays. Kernels change theirs a few times.
MOST_WRITES = 200
# Words of what native code decodes with.
_LOGGED, _LOG = native_translate.USED >> 3, native_translate.LOG >> 3
#: Blocks of a page, and which of its granules they cover.
_Covering = tuple[Block | LaidPage, int]


class BlockStore:
    """The arena and everything in it. `size` is the arena's in bytes; when it is full, all blocks go."""

    def __init__(self, memory: PhysicalMemory, handlers: HandlerStore, size: int = record.CODE_SIZE) -> None:
        self._memory = memory
        self._handlers = handlers
        self._arena = arena = Arena(handlers, memory.base, size)
        self._links = links = Links(arena)
        self.words, self.base, self.side_base, self.sites = arena.words, arena.base, arena.side_base, arena.sites
        self.block_at = arena.block_at
        #: Host address of the log of native code (engine/block_table.py).
        self.log = links.log
        self.link = links.link
        self._area = links.area
        self._changing = mmap.mmap(-1, memory.page_count)
        self._area[native_translate.LAYING >> 3] = arena.laying
        self._area[native_translate.CHANGING >> 3] = ctypes.addressof(ctypes.c_char.from_buffer(self._changing))
        self._area[native_translate.ENABLED >> 3] = 1
        arena.take_in = self._take_in
        self.note_indirect, self.targets_of = links.note_indirect, links.targets_of
        #: Keys of handlers that are known to be there.
        self._built: set[str] = set()
        #: How often code of a page was written to: what changes again and again is not kept for later runs.
        self._writes: dict[int, int] = {}
        self._by_page: dict[int, list[_Covering]] = {}
        self._translations: list[Translation] = []
        self.breakpoints = Breakpoints(self)
        self._translated = 0
        #: Blocks dropped because their code was written to.
        self.dropped = 0
        #: Changes when everything is dropped at once.
        self.generation = 0
        #: Called with the guest-physical page when a page gets its first code, and when everything has been dropped.
        self.on_new_code_page: Callable[[int], None] = lambda page: None
        #: Called with a block that goes, or that must not be run unseen; and when all have gone.
        self.on_gone: Callable[[Block], None] = lambda block: None
        self.on_all_gone: Callable[[], None] = lambda: None
        #: Called with the translation, linear and guest-physical address of a page where an earlier run's blocks were
        #: laid out.
        self.on_laid_out: Callable[[Translation, int, int], None] = lambda translation, linear, page: None
        self._templates: dict[str, Templates] = {}
        #: Translations whose blocks native code may decode, by their numbers.
        self._natively: list[Translation] = []

    def translation(self, mode: Mode, decoder: Decoder) -> Translation:
        """A new place for blocks of a mode."""
        has_table = self.finds_natively and mode.decode.bits == 64 and not mode.breakpoints
        translation = Translation(mode, decoder, has_table)
        self._translations.append(translation)
        if mode.decode.bits == 64 and not mode.breakpoints and self.keeps_templates:
            name = decoder.name
            if name not in self._templates:
                self._templates[name] = Templates(self._handlers.folder, self._handlers, name)
            translation.templates = self._templates[name]
            self._natively.append(translation)
            translation.decode_natively(translation.templates.decoding, len(self._natively) - 1)
        return translation

    #: Whether native code finds blocks by itself; where it does not, Python sees every link that is made.
    finds_natively = True
    #: Whether blocks that earlier runs have decoded are used, and those of this run remembered.
    keeps_templates = False

    def save_templates(self) -> None:
        """Keep what was decoded for later runs."""
        self._take_in()
        for templates in self._templates.values():
            templates.save()

    # -- finding

    def find(self, translation: Translation, rip: int, page: int, single: bool = False) -> Block:
        """The block at `rip`, decoded from guest-physical `page`; decodes it when it is not there."""
        if self._area[_LOGGED]:
            self._take_in()
        blocks = translation.single if single else translation.blocks
        block = blocks.get((rip, page))
        if block is None and not single:
            block = self._laid(translation, rip, page)
        if block is None:
            block = self._build(translation, rip, page, single)
            blocks[(rip, page)] = block
        return block

    def _laid(self, translation: Translation, rip: int, page: int) -> Block | None:
        """The block at `rip` if it was laid out with others of its page."""
        for laid in translation.pages.get((rip & ~(PAGE - 1), page), ()):
            block = laid.at(rip % PAGE)
            if block is not None:
                return block
        return None

    # -- what native code does by itself

    @property
    def translated(self) -> int:
        """Blocks decoded."""
        self._take_in()
        return self._translated

    def allow_native_decoding(self, allowed: bool) -> None:
        """Whether native code may decode blocks that Python does not see first."""
        self._area[native_translate.ENABLED >> 3] = int(allowed)

    def read_log(self) -> None:
        """Take note of what native code has done by itself: blocks, links."""
        self._take_in()
        self._links.read_log()

    def _take_in(self) -> None:
        """Take in the blocks that native code has decoded and laid out by itself (engine/native_translate.py)."""
        area = self._area
        logged = area[_LOGGED] >> 3
        if not logged:
            return
        area[_LOGGED] = 0
        log = area[_LOG : _LOG + logged].tolist()
        size = native_translate.ENTRY_WORDS
        headers, pages = log[::size], list(zip(log[5::size], log[2::size], log[3::size], strict=True))
        ends = [*headers[1:], self._arena.end]
        first, count = 0, len(pages)
        for number in {number for number, _, _ in pages}:
            templates = self._natively[number].templates
            assert templates is not None
            templates.take_in()
        while first < count:
            place, last = pages[first], first + 1
            while last < count and pages[last] == place:
                last += 1
            part = slice(first * size, last * size)
            translation, where = self._natively[place[0]], place[1:]
            templates, members = translation.templates, log[part][1::size]
            assert templates is not None
            for member in members:
                templates.stands(where, member >> 12, member & 0xFFF)
            granules = log[part][4::size]
            laid = self._arena.adopt(translation, where, None, headers[first:last], members, granules, ends[last - 1])
            translation.pages.setdefault(where, []).append(laid)
            self._note_granules(where[1] // PAGE, laid, laid.covered)
            self._translated += last - first
            first = last

    # -- building

    def _build(self, translation: Translation, rip: int, page: int, single: bool) -> Block:
        if self._arena.is_full:
            self.drop_all()
        mode = translation.mode
        linear = (mode.code_base + rip) & (0xFFFF_FFFF if mode.decode.bits != 64 else 0xFFFF_FFFF_FFFF_FFFF)
        offset = linear & (PAGE - 1)
        code = bytes(self._memory.view[page + offset : page + PAGE])
        in_segment = mode.code_limit - rip + 1
        if mode.decode.bits != 64 and in_segment < len(code):
            code = code[: max(in_segment, 0)]
        changes = self._writes.get(page // PAGE, 0) > MOST_WRITES
        templates = None if single or changes else translation.templates
        if templates is None:
            return self._decode(translation, rip, page, linear, code, single)
        row = templates.find(code)
        if row is not None:
            found = self._lay_out(translation, templates, linear, page, row)
            if found is None:
                # Others of its group have taken all the room: it comes first, and alone.
                self.drop_all()
                found = self._lay_out(translation, templates, linear, page, row, alone=True)
            assert found is not None
            return found
        learned = templates.decode(self._memory.base + page, offset)
        if learned is None:
            return self._decode(translation, rip, page, linear, code, single, templates)
        return self._lay_out_learned(Block(translation, rip, page), templates, learned)

    def _decode(
        self, translation: Translation, rip: int, page: int, linear: int, code: bytes, single: bool,
        templates: Templates | None = None,
    ) -> Block:  # fmt: skip
        """The block whose code begins with `code`, decoded in Python; what native code can lay out is put among the
        templates."""
        mode = translation.mode
        block = Block(translation, rip, page)
        decoded, _ = translation.decoder.block(code, record.MAX_INSTRUCTIONS, single)
        if not decoded:
            decoded = self._crossing(block, linear, code)
        if mode.breakpoints and not single:
            decoded = self._until_breakpoint(translation, linear, decoded)
        if mode.decode.bits != 64:
            self._check_branch(block, decoded)
        block.decoded = decoded
        keys = self._keys(decoded)
        if templates is not None and block.second_page is None:
            learned = templates.learn(code, sum([d.length for d in decoded]), decoded, keys)
            if learned is not None:
                return self._lay_out_learned(block, templates, learned)
        block.watched = self.breakpoints.holds(block)
        self._arena.emit(block, linear, single, keys)
        if not single and not block.watched:
            translation.enter(rip, block.address)
        self._note_code(block)
        self._translated += 1
        return block

    def _lay_out_learned(self, block: Block, templates: Templates, learned: tuple[int, Row]) -> Block:
        """Lay out a block that has just been put among the templates."""
        page, place = block.page, block.rip % PAGE
        templates.stands((block.rip - place, page), learned[0], place)
        granules = self._arena.lay_out_one(templates, block, learned, self._table(block.translation))
        self._note_granules(page // PAGE, block, granules)
        block.watched = self.breakpoints.holds(block)
        self._translated += 1
        return block

    def _lay_out(
        self, translation: Translation, templates: Templates, linear: int, page: int, row: int, alone: bool = False
    ) -> Block | None:
        """Lay out a block that an earlier run has decoded, and all of its group, or it alone; None where there is no
        room."""
        place = linear % PAGE
        where = (linear - place, page)
        group = None if self.breakpoints.addresses or alone else templates.group(row << 12 | place)
        if group is None and not alone:
            templates.stands(where, row, place)
        if group is None or self._stands(translation, where, group[0]):
            wanted: tuple[int | None, int, int] = (None, *self._arena.one_member(row, place))
        else:
            wanted = group
            templates.laid_out(where, group[0])
        laid, granules = self._arena.lay_out_group(translation, templates, where, wanted, self._table(translation))
        if wanted is group:
            translation.pages.setdefault(where, []).append(laid)
            self.on_laid_out(translation, *where)
        self._note_granules(page // PAGE, laid, granules)
        self._translated += laid.count
        templates.used += laid.count
        block = laid.at(place)
        if block is not None:
            block.watched = self.breakpoints.holds(block)
        return block

    def _table(self, translation: Translation) -> int:
        """Where native code is to find what is laid out; 0 where blocks may be watched, or Python finds everything."""
        return 0 if self.breakpoints.addresses else translation.table

    @staticmethod
    def _stands(translation: Translation, where: tuple[int, int], group: int) -> bool:
        """Whether a group has been laid out on a page, and most of it is still there."""
        pages = translation.pages.get(where, [])
        for laid in pages:
            if laid.group == group:
                if 2 * laid.left >= laid.count:
                    return True
                pages.remove(laid)
                return False
        return False

    @staticmethod
    def _until_breakpoint(translation: Translation, linear: int, decoded: list[Decoded]) -> list[Decoded]:
        """The instructions before the first one at a breakpoint; at a breakpoint, what raises #DB."""
        for i, d in enumerate(decoded):
            if linear in translation.mode.breakpoints:
                return decoded[:i] or [translation.decoder.fault("instruction_breakpoint")]
            linear += d.length
        return decoded

    @staticmethod
    def _check_branch(block: Block, decoded: list[Decoded]) -> None:
        """A direct branch out of the code segment faults where it stands, with nothing changed (APM vol. 3, JMP)."""
        last, mode = decoded[-1], block.translation.mode
        if last.target is not None:
            rip = block.rip + sum(d.length for d in decoded[:-1])
            if (rip + last.target) & last.target_mask > mode.code_limit:
                decoded[-1] = block.translation.decoder.branch_outside(last)

    def code_of(self, block: Block) -> bytes:
        """The bytes of a block that lies on one page."""
        return block.code or self._bytes(self._start(block), block.length)

    def holds(self, start: int, code: bytes) -> bool:
        """Whether memory holds some bytes at a guest-physical address, on one page."""
        return self._bytes(start, len(code)) == code

    def _bytes(self, start: int, length: int) -> bytes:
        return bytes(self._memory.view[start : start + length])

    @staticmethod
    def _start(block: Block) -> int:
        mode = block.translation.mode
        return block.page + (mode.code_base + block.rip) % PAGE

    #: Set by the processor: (linear address of the next page) -> guest-physical page or None, without side effects.
    peek_page: Callable[[int], int | None] = staticmethod(lambda linear: None)

    def _crossing(self, block: Block, linear: int, head: bytes) -> list[Decoded]:
        """The single instruction whose first bytes end their page (or their segment)."""
        decoder, mode = block.translation.decoder, block.translation.mode
        if mode.decode.bits != 64 and block.rip + len(head) > mode.code_limit:
            return [decoder.fault("raise_gp")]
        next_linear = (linear | (PAGE - 1)) + 1
        if mode.decode.bits != 64:
            next_linear &= 0xFFFF_FFFF
        second = self.peek_page(next_linear)
        block.second_page = -1 if second is None else second
        if second is None:
            # The page check in front of it will raise the page fault.
            return [decoder.fault("raise_ud")]
        code = head + bytes(self._memory.view[second : second + 16])
        decoded, _ = decoder.block(code[:15] if len(code) > 15 else code, 1, True)
        if not decoded:
            return [decoder.fault("raise_gp")]  # more than 15 bytes (APM vol. 3, 1.1)
        if mode.decode.bits != 64 and block.rip + decoded[0].length - 1 > mode.code_limit:
            return [decoder.fault("raise_gp")]
        return decoded

    def _keys(self, decoded: list[Decoded]) -> list[str]:
        """The keys of the handlers of a block's instructions, which are there then."""
        keys = handler_keys(decoded)
        if not self._built.issuperset(keys):
            handlers = self._handlers
            missing = [key for key in keys if key and not handlers.has(key)]
            if missing:
                handlers.build(missing)
            self._built.update(keys)
        return keys

    def _note_code(self, block: Block) -> None:
        """Mark the bytes of a block as code, so that writes to them are noticed."""
        for start in (block.page, block.second_page):
            if start is not None and start >= 0:
                page = start // PAGE
                self._note_granules(page, block, block.granules(page))

    def _note_granules(self, page: int, laid: LaidPage | Block, granules: int) -> None:
        """Mark the granules that a group or a block covers as code."""
        code_map = self._memory.code_map
        old = code_map[page]
        if not old:
            self.on_new_code_page(page * PAGE)
        code_map[page] = old | granules
        self._by_page.setdefault(page, []).append((laid, granules))

    def valid_blocks(self) -> list[Block]:
        """All blocks that can be found."""
        self._take_in()
        return [block for block in self._arena.all_blocks() if block.valid]

    def isolate(self, block: Block) -> None:
        """Undo every link and jump cache entry that leads to a block."""
        self.read_log()
        self._links.unlink(block.address)
        block.translation.clear_jump_cache()
        self.on_gone(block)

    # -- dropping

    def drop(self, start: int, length: int) -> None:
        """Drop all blocks with code in a guest-physical range."""
        self.read_log()
        for page in range(start // PAGE, (start + length - 1) // PAGE + 1):
            first = max(start - page * PAGE, 0) // GRANULE
            last = min(start + length - 1 - page * PAGE, PAGE - 1) // GRANULE
            mask = (1 << (last + 1)) - (1 << first)
            if not self._memory.code_map[page] & mask:
                continue
            writes = self._writes[page] = self._writes.get(page, 0) + 1
            if writes > MOST_WRITES:
                self._changing[page] = 1
            remaining: list[_Covering] = []
            kept = 0
            for entry in self._by_page.pop(page, []):
                block, covered = entry
                if type(block) is LaidPage:
                    if covered & mask:
                        self._take_out(block, mask)
                        entry = block, block.covered
                    if block.left:
                        remaining.append(entry)
                        kept |= entry[1]
                    else:
                        self._forget_laid(block)
                    continue
                assert type(block) is Block
                if not block.valid:
                    continue
                if covered & mask:
                    self._invalidate(block)
                else:
                    remaining.append(entry)
                    kept |= covered
            if remaining:
                self._by_page[page] = remaining
            self._memory.code_map[page] = kept

    def _take_out(self, laid: LaidPage, mask: int) -> None:
        """Drop the blocks of a group that have code in some granules."""
        translation, addresses = laid.translation, laid.addresses
        for number, place, block in laid.take(mask):
            if block is None:
                address = addresses[number]
                self._arena.make_stale(address, addresses[number + 1] - record.END_SIZE + record.UNLINKED_TARGET)
                self._forget_address(translation, laid.linear | place, address)
                self.dropped += 1
            elif block.valid:
                self._invalidate(block)

    @staticmethod
    def _forget_laid(laid: LaidPage) -> None:
        """Let a group of which nothing is left be looked at no more."""
        pages = laid.translation.pages.get((laid.linear, laid.page), [])
        if laid in pages:
            pages.remove(laid)

    def _forget_address(self, translation: Translation, rip: int, address: int) -> None:
        """Let nothing lead to a header."""
        self._links.unlink(address)
        translation.remove(rip, address)

    def _invalidate(self, block: Block) -> None:
        block.valid = False
        self.dropped += 1
        if block.regions:
            self.on_gone(block)
        self._arena.make_stale(block.address, block.end + record.UNLINKED_TARGET)
        self._forget_address(block.translation, block.rip, block.address)
        blocks = block.translation.blocks
        key = (block.rip, block.page)
        if blocks.get(key) is block:
            del blocks[key]
        if block.translation.single.get(key) is block:
            del block.translation.single[key]
        if block.translation.latest.get(block.rip) is block:
            del block.translation.latest[block.rip]

    def forget(self, block: Block) -> None:
        """Drop one block: what it was decoded from is no longer there."""
        self.read_log()
        self._invalidate(block)

    def forget_translations(self) -> None:
        """Forget all modes; after drop_all, when there are too many."""
        for translation in self._translations:
            translation.forgotten = True
        self._translations.clear()
        self._natively.clear()

    def drop_all(self) -> None:
        """Start over with an empty arena. Native code must not be running."""
        self._take_in()
        for page in self._by_page:
            self._memory.code_map[page] = 0
        self._by_page.clear()
        self._arena.clear()
        self._links.clear()
        self.generation += 1
        for translation in self._translations:
            translation.blocks.clear()
            translation.pages.clear()
            translation.single.clear()
            translation.latest.clear()
            translation.clear_jump_cache()
        self.on_all_gone()
