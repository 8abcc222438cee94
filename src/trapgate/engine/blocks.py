"""Blocks of decoded code: the arena of records, finding, linking and dropping blocks.

A block is straight-line code from one linear address, in one mode, from one guest-physical page (or two, when its only
instruction crosses into the next). It is found again by exactly these.
"""

from __future__ import annotations

import ctypes
import functools
import mmap
import struct
from array import array
from bisect import bisect_right
from collections.abc import Callable

from trapgate.cpu.mode import Mode
from trapgate.cpu.native_delivery import SIDE_INSTRUCTION, SIDE_PAGE_CHECK
from trapgate.cpu.svm.intercepts import SIMPLE_EXITS
from trapgate.cpu.svm.world_switch import simple_exit
from trapgate.engine import page_code, record
from trapgate.engine.block import MAX_INSTRUCTIONS, Block, Site, Translation
from trapgate.engine.block_table import INDIRECT, KIND_MASK, LOG_SIZE, LOG_START, TARGET
from trapgate.engine.breakpoints import Breakpoints
from trapgate.engine.handler_keys import handler_keys
from trapgate.engine.handlers import HandlerStore
from trapgate.engine.laid_page import LaidPage, fill
from trapgate.engine.templates import MOST_MEMBERS, Templates
from trapgate.isa.decode import Decoder
from trapgate.isa.decoded import Decoded
from trapgate.isa.form import Form
from trapgate.isa.system.input_output import port_access
from trapgate.machine.memory import GRANULE, PAGE, PhysicalMemory

#: Blocks of a page, and which of its granules they cover.
_Covering = tuple[Block | LaidPage, int]
#: Targets of an indirect branch that are remembered.
MOST_SEEN = 64
#: One extra form ends blocks that no instruction ended.
_END = Form("end_of_block").text()


class BlockStore:
    """The arena and everything in it. `size` is the arena's in bytes; when it is full, all blocks go."""

    def __init__(self, memory: PhysicalMemory, handlers: HandlerStore, size: int = 64 << 20) -> None:
        self._memory = memory
        self._handlers = handlers
        self._arena = mmap.mmap(-1, size)
        self._view = memoryview(self._arena)
        self.words = self._view.cast("Q")
        self.base = ctypes.addressof(ctypes.c_char.from_buffer(self._arena))
        # Beside the arena: what the delivery of faults must know of each record (cpu/native_delivery.py).
        self._side = mmap.mmap(-1, size // 2)
        self.side_base = ctypes.addressof(ctypes.c_char.from_buffer(self._side))
        self._size = size
        self._used = 0
        self._starts: list[int] = []
        self._blocks: list[Block | LaidPage] = []
        #: Link fields by the record that they lead to: (host address of the field, what to put there when that goes).
        self._incoming: dict[int, list[tuple[int, int]]] = {}
        self._log = mmap.mmap(-1, LOG_SIZE + LOG_START)
        self._log_words = memoryview(self._log).cast("Q")
        self._log_words[0] = LOG_START
        #: Host address of the log of native code (engine/block_table.py).
        self.log = ctypes.addressof(ctypes.c_char.from_buffer(self._log))
        self._by_page: dict[int, list[_Covering]] = {}
        self._translations: list[Translation] = []
        self.sites: list[Site] = []
        self.breakpoints = Breakpoints(self)
        #: Blocks decoded, and blocks dropped because their code was written to.
        self.translated = 0
        self.dropped = 0
        #: Changes when everything is dropped at once.
        self.generation = 0
        #: Called with the guest-physical page when a page gets its first code, and when everything has been dropped.
        self.on_new_code_page: Callable[[int], None] = lambda page: None
        #: Called with a block that goes, or that must not be run unseen; and when all have gone.
        self.on_gone: Callable[[Block], None] = lambda block: None
        self.on_all_gone: Callable[[], None] = lambda: None
        self._templates: dict[str, Templates] = {}
        self._native_lay_out = ctypes.CFUNCTYPE(*[ctypes.c_uint64] * 3)(handlers.runtime["lay_out"])
        self._fixed = fixed = handlers.fixed
        self._arguments = array("Q", bytes(8 * page_code.ARGUMENTS))
        self._arguments_address = self._arguments.buffer_info()[0]
        self._stale_words = memoryview(array("Q", [fixed["stale"]] * (MAX_INSTRUCTIONS + 3)))
        self._one_member = array("Q", [0])
        self._one_member_address = self._one_member.buffer_info()[0]
        results = array("Q", bytes(8 * page_code.RESULT * MOST_MEMBERS))
        self._results = memoryview(results)
        for number, value in (
            (page_code.ARENA, self.base), (page_code.SIDE, self.side_base),
            (page_code.RESULTS, results.buffer_info()[0]),
            (page_code.PAGE_CHECK, fixed["page_check"]), (page_code.UNLINKED_TARGET, fixed["unlinked_target"]),
            (page_code.UNLINKED_NEXT, fixed["unlinked_next"]), (page_code.END_OF_BLOCK, handlers.address(_END)),
        ):  # fmt: skip
            self._arguments[number] = value
        self._header = struct.pack("<Q", self._fixed["page_check"])

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
        return translation

    #: Whether native code finds blocks by itself; where it does not, Python sees every link that is made.
    finds_natively = True
    #: Whether blocks that earlier runs have decoded are used, and those of this run remembered.
    keeps_templates = False

    def save_templates(self) -> None:
        """Keep what was decoded for later runs."""
        for templates in self._templates.values():
            templates.save()

    # -- finding

    def block_at(self, uop: int) -> Block:
        """The block that a record (host address) belongs to."""
        number = bisect_right(self._starts, uop) - 1
        block = self._blocks[number]
        if type(block) is LaidPage:
            block = self._blocks[number] = block.block(number - block.first)
        return block  # type: ignore[return-value]

    def find(self, translation: Translation, rip: int, page: int, single: bool = False) -> Block:
        """The block at `rip`, decoded from guest-physical `page`; decodes it when it is not there."""
        blocks = translation.single if single else translation.blocks
        block = blocks.get((rip, page))
        if block is None and not single:
            block = self._laid(translation, rip, page)
        if block is None:
            block = self._build(translation, rip, page, single)
            blocks[(rip, page)] = block
            if not single and not block.watched:
                translation.enter(rip, block.address)
        return block

    def _laid(self, translation: Translation, rip: int, page: int) -> Block | None:
        """The block at `rip` if it was laid out with others of its page."""
        for laid in translation.pages.get((rip & ~(PAGE - 1), page), ()):
            block = laid.at(rip % PAGE)
            if block is not None:
                return block
        return None

    # -- building

    def _build(self, translation: Translation, rip: int, page: int, single: bool) -> Block:
        if self._used + MAX_INSTRUCTIONS * record.RECORD_SIZE + 4096 > self._size:
            self.drop_all()
        mode = translation.mode
        linear = (mode.code_base + rip) & (0xFFFF_FFFF if mode.decode.bits != 64 else 0xFFFF_FFFF_FFFF_FFFF)
        offset = linear & (PAGE - 1)
        start = page + offset
        code = bytes(self._memory.view[start : page + PAGE])
        in_segment = mode.code_limit - rip + 1
        if mode.decode.bits != 64 and in_segment < len(code):
            code = code[: max(in_segment, 0)]
        block = Block(translation, rip, page)
        templates = None if single else translation.templates
        if templates is not None:
            row = templates.find(code)
            if row is not None:
                found = self._lay_out(translation, templates, linear, page, row)
                if found is not None:
                    return found
        decoded, _ = translation.decoder.block(code, MAX_INSTRUCTIONS, single)
        if not decoded:
            decoded = self._crossing(block, linear, code)
        if mode.breakpoints and not single:
            decoded = self._until_breakpoint(translation, linear, decoded)
        if mode.decode.bits != 64:
            self._check_branch(block, decoded)
        keys = self._keys(decoded)
        if templates is not None and block.second_page is None:
            row = templates.learn(code, sum(d.length for d in decoded), decoded, keys)
            if row is not None:
                return self._lay_out_new(block, templates, row, decoded)
        block.decoded = decoded
        block.watched = self.breakpoints.holds(block)
        self._emit(block, linear, single, keys)
        self._note_code(block, start)
        self.translated += 1
        return block

    def _lay_out(
        self, translation: Translation, templates: Templates, linear: int, page: int, row: int
    ) -> Block | None:
        """Lay out a block that an earlier run has decoded, and all of its group; None where there is no room."""
        place = linear % PAGE
        where = (linear - place, page)
        group = None if self.breakpoints.addresses else templates.group(row << 12 | place)
        if group is None:
            templates.stands(where, row, place)
        number, members, count = group or (None, 0, 0)
        if group is None or self._stands(translation, where, group[0]):
            self._one_member[0] = row << 12 | place
            members, count = self._one_member_address, 1
        else:
            templates.laid_out(where, group[0])
        self._lay_out_natively(translation, templates, where, members, count)
        laid = self._laid_members(translation, templates, where, number, members)
        block = laid.at(place)
        if block is not None:
            block.watched = self.breakpoints.holds(block)
        return block

    @staticmethod
    def _stands(translation: Translation, where: tuple[int, int], group: int) -> bool:
        """Whether a group has been laid out on a page, and most of it is still there."""
        pages = translation.pages.get(where, [])
        for laid in pages:
            if laid.group == group and laid.count > 1:
                if 2 * laid.left >= laid.count:
                    return True
                pages.remove(laid)
                return False
        return False

    def _lay_out_new(self, block: Block, templates: Templates, row: int, decoded: list[Decoded]) -> Block:
        """Lay out a block that has just been decoded."""
        place = block.rip % PAGE
        where = (block.rip - place, block.page)
        templates.stands(where, row, place)
        self._one_member[0] = row << 12 | place
        self._lay_out_natively(block.translation, templates, where, self._one_member_address, 1)
        address, _, granules = self._results[: page_code.RESULT]
        fill(block, address, templates.row(row))
        block.decoded = decoded
        block.watched = self.breakpoints.holds(block)
        self._starts.append(address)
        self._blocks.append(block)
        self._note_granules(block.page // PAGE, block, granules)
        self.translated += 1
        return block

    def _lay_out_natively(
        self, translation: Translation, templates: Templates, where: tuple[int, int], members: int, count: int
    ) -> None:
        """Have native code lay out members of a group; their blocks are in the results."""
        linear, page = where
        a = self._arguments
        a[page_code.OUT] = self.base + self._used
        a[page_code.LIMIT] = self.base + self._size - MAX_INSTRUCTIONS * record.RECORD_SIZE - 4096
        a[page_code.BYTES], a[page_code.LINEAR], a[page_code.PHYSICAL] = self._memory.base + page, linear, page
        a[page_code.POOL], a[page_code.INDICES] = templates.pool, templates.indices
        a[page_code.ROWS], a[page_code.CODE] = templates.rows, templates.code
        a[page_code.MEMBERS], a[page_code.COUNT] = members, count
        a[page_code.TABLE] = 0 if self.breakpoints.addresses else translation.table
        self._native_lay_out(0, self._arguments_address)
        self._used = a[page_code.OUT] - self.base

    def _laid_members(
        self, translation: Translation, templates: Templates, where: tuple[int, int], group: int | None, members: int
    ) -> LaidPage:
        """What has been laid out, as one."""
        linear, page = where
        a = self._arguments
        laid = a[page_code.LAID]
        results = self._results[: page_code.RESULT * laid].tolist()
        addresses, granules = results[::3], results[2::3]
        if members == self._one_member_address:
            numbers = [self._one_member[0]] * laid
        else:
            numbers = [templates.member(members, index) for index in results[1::3]]
        self._starts += addresses
        addresses.append(a[page_code.OUT])
        made = LaidPage(translation, linear, page, group, len(self._blocks), addresses, numbers, granules)
        self._blocks += [made] * laid
        translation.pages.setdefault(where, []).append(made)
        self._note_granules(page // PAGE, made, made.covered)
        self.translated += laid
        templates.used += laid
        return made

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
        handlers = self._handlers
        keys = handler_keys(decoded)
        missing = [key for key in keys if key and not handlers.has(key)]
        if missing:
            handlers.build(missing)
        return keys

    def _emit(self, block: Block, linear: int, single: bool, keys: list[str]) -> None:
        """Lay out the block's records."""
        decoded = block.decoded
        handlers, fixed = self._handlers, self._fixed
        mode = block.translation.mode
        address = self.base + self._used
        page_linear = linear & ~(PAGE - 1)
        parts = [self._header, struct.pack("<QQQ", page_linear, block.page, 0)]
        count = 1
        if block.second_page is not None:
            next_linear = page_linear + PAGE
            if mode.decode.bits != 64:
                next_linear &= 0xFFFF_FFFF
            second = block.second_page & 0xFFFF_FFFF_FFFF_FFFF
            parts += [self._header, struct.pack("<QQQ", next_linear, second, 0)]
            count = 2
        block.address = address
        block.first = address + count * record.RECORD_SIZE
        rip = block.rip
        # Also in 16-bit code: EIP goes on beyond FFFFh where the segment does.
        ip_mask = (1 << 64) - 1 if mode.decode.bits == 64 else 0xFFFF_FFFF
        pack = struct.pack
        cycles = 0
        # A fault of a second page is Python's.
        side = [rip, 0, 0, SIDE_PAGE_CHECK] if count == 1 else [rip, 0, 0, SIDE_PAGE_CHECK, 0, 0, 0, 0]
        for index, (d, key) in enumerate(zip(decoded, keys, strict=True)):
            length = d.length
            side += (rip, cycles, index, SIDE_INSTRUCTION)
            cycles += d.cycles
            if key:
                known = d.records.get(key)
                if known is None:
                    body = d.body if d.relative is None else d.body[:16]
                    known = d.records[key] = pack("<Q", handlers.address(key)) + body
                parts.append(known)
                if d.relative is not None:
                    parts.append(pack("<Q", (rip + d.relative) & 0xFFFF_FFFF_FFFF_FFFF))
            else:
                next_rip = (rip + length) & ip_mask
                code = SIMPLE_EXITS.get(d.name, 0) if next_rip == rip + length else 0
                simple = simple_exit(code, length, d.cycles) if code else 0
                site = Site(block, d, rip, next_rip)
                exit_ = fixed["python"]
                if d.name in ("in", "out") and mode.decode.io_allowed:
                    site.port, exit_ = port_access(d.instruction), fixed["port"]
                parts.append(pack("<QQQQ", exit_, simple, rip, len(self.sites)))
                self.sites.append(site)
            rip += length
        last = decoded[-1]
        block.length = rip - block.rip
        block.next_rip = rip & ip_mask
        n = len(decoded)
        block.end = block.first + (n - 1) * record.RECORD_SIZE
        if not last.ends_block:
            block.end += record.RECORD_SIZE
            parts.append(pack("<QQQQ", handlers.address(_END), 0, 0, 0))
        elif last.target is not None:
            block.target = (rip - last.length + last.target) & last.target_mask
        end = block.end
        block.cost = (cycles << 32) + n
        parts.append(
            pack(
                "<QQQQQQQQ",
                fixed["unlinked_target"],
                fixed["unlinked_next"],
                end + record.UNLINKED_NEXT,
                block.next_rip,
                block.cost,
                0,
                block.target or 0,
                address if mode.decode.bits == 64 and count == 1 and not single else 0,
            )
        )
        data = b"".join(parts)
        used = self._used
        self._view[used : used + len(data)] = data
        _side_entries(len(side) // 4).pack_into(self._side, used >> 1, *side)
        if block.target is not None:
            self.words[(end + record.LINK - self.base) >> 3] = end + record.UNLINKED_TARGET
        self._used = used + (len(data) + 15 & ~15)
        self._starts.append(address)
        self._blocks.append(block)

    def _note_code(self, block: Block, start: int) -> None:
        """Mark the bytes of a block as code, so that writes to them are noticed."""
        length = block.length
        first_page_end = (start | (PAGE - 1)) + 1
        self._mark(block, start, min(length, first_page_end - start))
        if block.second_page is not None and block.second_page >= 0:
            self._mark(block, block.second_page, max(length - (first_page_end - start), 1))

    def _mark(self, block: Block, start: int, length: int) -> None:
        page = start // PAGE
        code_map = self._memory.code_map
        old = code_map[page]
        if not old:
            self.on_new_code_page(page * PAGE)
        offset = start % PAGE
        first, last = offset // GRANULE, (offset + length - 1) // GRANULE
        code_map[page] = old | ((1 << (last + 1)) - (1 << first))
        self._by_page.setdefault(page, []).append((block, self._granules(block, page)))

    def _note_granules(self, page: int, laid: LaidPage | Block, granules: int) -> None:
        """Mark the granules that a group or a block covers as code."""
        code_map = self._memory.code_map
        old = code_map[page]
        if not old:
            self.on_new_code_page(page * PAGE)
        code_map[page] = old | granules
        self._by_page.setdefault(page, []).append((laid, granules))

    # -- linking

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
            self.words[(field - self.base) >> 3] = destination
            self._incoming.setdefault(destination, []).append((field, unlinked))
        return destination

    def valid_blocks(self) -> list[Block]:
        """All blocks that can be found."""
        return [block for block in map(self.block_at, self._starts) if block.valid]

    def isolate(self, block: Block) -> None:
        """Undo every link and jump cache entry that leads to a block."""
        self.read_log()
        self._unlink(block.address)
        block.translation.clear_jump_cache()
        self.on_gone(block)

    def _unlink(self, address: int) -> None:
        """Undo every link to the block whose header is at `address`; the log has been read."""
        words, base = self.words, self.base
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
                self.note_indirect(self.block_at(what - kind), self.block_at(to))
                continue
            field = what - kind
            # Between a link and what stands in its place until it is made there are eight bytes.
            unlinked = (
                field - record.LINK + record.UNLINKED_TARGET
                if kind == TARGET
                else (field - record.NEXT_LINK + record.UNLINKED_NEXT)
            )
            incoming.setdefault(to, []).append((field, unlinked))

    @staticmethod
    def note_indirect(source: Block, to: Block) -> None:
        """The indirect branch at the end of `source` has gone to `to`."""
        if source.valid and len(source.indirect) < MOST_SEEN and to.translation is source.translation:
            # With a change of privilege it is not noted: a region has one mode.
            source.indirect.append(to)

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
                self._stale(address, addresses[number + 1] - record.END_SIZE + record.UNLINKED_TARGET)
                self._forget_address(translation, laid.linear | place, address)
                self.dropped += 1
            elif block.valid:
                self._invalidate(block)

    def _stale(self, address: int, end: int) -> None:
        """Make the records from `address` to `end` ones that leave native code, links not yet made aside."""
        first, last = (address - self.base) >> 3, (end - self.base) >> 3
        step = record.RECORD_SIZE // 8
        count = (last - first + step - 1) // step
        self.words[first:last:step] = self._stale_words[:count]

    def _forget_address(self, translation: Translation, rip: int, address: int) -> None:
        """Let nothing lead to a header."""
        self._unlink(address)
        translation.remove(rip, address)

    @staticmethod
    def _granules(block: Block, page: int) -> int:
        """Which granules of a page hold the block's code."""
        mode = block.translation.mode
        offset = (mode.code_base + block.rip) & (PAGE - 1)
        length = block.length
        granules = 0
        if block.page // PAGE == page:
            first, last = offset, min(offset + length, PAGE) - 1
            granules = (1 << (last // GRANULE + 1)) - (1 << (first // GRANULE))
        if block.second_page is not None and block.second_page // PAGE == page:
            # Both parts are on one page when two linear pages are mapped to it.
            last = max(offset + length - PAGE - 1, 0)
            granules |= (1 << (last // GRANULE + 1)) - 1
        return granules

    def _invalidate(self, block: Block) -> None:
        block.valid = False
        self.dropped += 1
        if block.regions:
            self.on_gone(block)
        self._stale(block.address, block.end + record.UNLINKED_TARGET)
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

    def drop_all(self) -> None:
        """Start over with an empty arena. Native code must not be running."""
        for page in self._by_page:
            self._memory.code_map[page] = 0
        self._by_page.clear()
        self._starts.clear()
        self._blocks.clear()
        self.sites.clear()
        self._incoming.clear()
        self._log_words[0] = LOG_START
        self._used = 0
        self.generation += 1
        for translation in self._translations:
            translation.blocks.clear()
            translation.pages.clear()
            translation.single.clear()
            translation.latest.clear()
            translation.clear_jump_cache()
        self.on_all_gone()


@functools.cache
def _side_entries(count: int) -> struct.Struct:
    """So many entries of the table beside the arena."""
    return struct.Struct("<" + "QIHH" * count)
