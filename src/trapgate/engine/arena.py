"""The memory of decoded code: records, the blocks that they belong to, and native code that lays out known blocks."""

from __future__ import annotations

import ctypes
import functools
import mmap
import struct
from array import array
from bisect import bisect_right
from collections.abc import Callable

from trapgate.cpu.native_delivery import SIDE_INSTRUCTION, SIDE_PAGE_CHECK
from trapgate.cpu.svm.intercepts import SIMPLE_EXITS
from trapgate.cpu.svm.world_switch import simple_exit
from trapgate.engine import page_code, record
from trapgate.engine.block import Block, Site, Translation
from trapgate.engine.handlers import HandlerStore
from trapgate.engine.laid_page import LaidPage, fill
from trapgate.engine.templates import MOST_MEMBERS, Row, Templates
from trapgate.isa.form import Form
from trapgate.isa.system.input_output import port_access
from trapgate.machine.memory import PAGE

#: One extra form ends blocks that no instruction ended.
_END = Form("end_of_block").text()
#: Bytes that the longest block takes, and some.
_LONGEST = record.MAX_INSTRUCTIONS * record.RECORD_SIZE + 4096


class Arena:
    """`size` bytes of records. `ram` is the host address of guest-physical address 0."""

    def __init__(self, handlers: HandlerStore, ram: int, size: int) -> None:
        self._handlers, self._ram = handlers, ram
        self._memory = mmap.mmap(-1, size)
        self._view = memoryview(self._memory)
        self.words = self._view.cast("Q")
        self.base = ctypes.addressof(ctypes.c_char.from_buffer(self._memory))
        # Beside the records: what the delivery of faults must know of each (cpu/native_delivery.py).
        self._side = mmap.mmap(-1, size // 2)
        self.side_base = ctypes.addressof(ctypes.c_char.from_buffer(self._side))
        self._starts: list[int] = []
        self._blocks: list[Block | LaidPage] = []
        #: Instructions that Python carries out, by their number in the record.
        self.sites: list[Site] = []
        self._fixed = fixed = handlers.fixed
        self._header = struct.pack("<Q", fixed["page_check"])
        self._stale_words = memoryview(array("Q", [fixed["stale"]] * (record.MAX_INSTRUCTIONS + 3)))
        self._native_lay_out = ctypes.CFUNCTYPE(*[ctypes.c_uint64] * 3)(handlers.runtime["lay_out"])
        self._arguments = array("Q", bytes(8 * page_code.ARGUMENTS))
        #: Host address of the arguments.
        self.laying = self._arguments.buffer_info()[0]
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
        self._arguments[page_code.LIMIT] = self.base + size - _LONGEST
        self.clear()
        #: Called before blocks are looked at that native code has laid out by itself.
        self.take_in: Callable[[], None] = lambda: None

    @property
    def end(self) -> int:
        """The host address behind the last block."""
        return self._arguments[page_code.OUT]

    @property
    def is_full(self) -> bool:
        """Whether there may be no room for another block."""
        return self.end >= self._arguments[page_code.LIMIT]

    def clear(self) -> None:
        """Forget all blocks."""
        self._starts.clear()
        self._blocks.clear()
        self.sites.clear()
        self._known = self._arguments[page_code.OUT] = self.base

    # -- blocks

    def block_at(self, uop: int) -> Block:
        """The block that a record (host address) belongs to."""
        if uop >= self._known:
            self.take_in()
        number = bisect_right(self._starts, uop) - 1
        block = self._blocks[number]
        if type(block) is LaidPage:
            block = self._blocks[number] = block.block(number - block.first)
        return block  # type: ignore[return-value]

    def all_blocks(self) -> list[Block]:
        """Every block, dropped ones too."""
        return [self.block_at(start) for start in self._starts]

    def make_stale(self, address: int, end: int) -> None:
        """Make the records from `address` to `end` ones that leave native code, links not yet made aside."""
        first, last = (address - self.base) >> 3, (end - self.base) >> 3
        step = record.RECORD_SIZE // 8
        count = (last - first + step - 1) // step
        self.words[first:last:step] = self._stale_words[:count]

    # -- laying out

    def emit(self, block: Block, linear: int, single: bool, keys: list[str]) -> None:
        """Lay out the block's records."""
        decoded = block.decoded
        handlers, fixed = self._handlers, self._fixed
        mode = block.translation.mode
        address = self.end
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
        used = address - self.base
        self._view[used : used + len(data)] = data
        _side_entries(len(side) // 4).pack_into(self._side, used >> 1, *side)
        if block.target is not None:
            self.words[(end + record.LINK - self.base) >> 3] = end + record.UNLINKED_TARGET
        self._known = self._arguments[page_code.OUT] = address + (len(data) + 15 & ~15)
        self._starts.append(address)
        self._blocks.append(block)

    def lay_out_group(
        self, translation: Translation, templates: Templates, where: tuple[int, int],
        group: tuple[int | None, int, int], table: int,
    ) -> tuple[LaidPage, int]:  # fmt: skip
        """Lay out the members of a group (its number, the host address of its members, how many there are) whose bytes
        are on a page (linear and guest-physical address). `table` gets their headers, if it is not 0. What there is
        of them, and the granules that they cover."""
        number, members, count = group
        self._lay_out(templates, where, members, count, table)
        laid = self._arguments[page_code.LAID]
        results = self._results[: page_code.RESULT * laid].tolist()
        addresses, granules = results[::3], results[2::3]
        if members == self._one_member_address:
            rows = [self._one_member[0]] * laid
        else:
            rows = [templates.member(members, index) for index in results[1::3]]
        laid_page = self.adopt(translation, where, number, addresses, rows, granules, self.end)
        return laid_page, laid_page.covered

    def adopt(
        self, translation: Translation, where: tuple[int, int], group: int | None, addresses: list[int],
        members: list[int], granules: list[int], end: int,
    ) -> LaidPage:  # fmt: skip
        """Take in blocks of a page that native code has laid out one after the other, up to `end`."""
        self._starts += addresses
        laid = LaidPage(translation, *where, group, len(self._blocks), [*addresses, end], members, granules)
        self._blocks += [laid] * len(addresses)
        self._known = end
        return laid

    def one_member(self, row: int, place: int) -> tuple[int, int]:
        """A group of one: a row at a place of a page."""
        self._one_member[0] = row << 12 | place
        return self._one_member_address, 1

    def lay_out_one(self, templates: Templates, block: Block, learned: tuple[int, Row], table: int) -> int:
        """Lay out a block that has just been decoded and learned; the granules that it covers."""
        number, row = learned
        place = block.rip % PAGE
        self._lay_out(templates, (block.rip - place, block.page), *self.one_member(number, place), table)
        assert self._arguments[page_code.LAID] == 1, "there is room: the store has asked whether it is full"
        address, _, granules = self._results[: page_code.RESULT]
        fill(block, address, row)
        self._starts.append(address)
        self._blocks.append(block)
        return granules

    def _lay_out(self, templates: Templates, where: tuple[int, int], members: int, count: int, table: int) -> None:
        """Have native code lay out members of a group; their blocks are in the results."""
        linear, page = where
        a = self._arguments
        a[page_code.BYTES], a[page_code.LINEAR], a[page_code.PHYSICAL] = self._ram + page, linear, page
        a[page_code.POOL], a[page_code.INDICES] = templates.pool, templates.indices
        a[page_code.ROWS], a[page_code.CODE] = templates.rows, templates.code
        a[page_code.MEMBERS], a[page_code.COUNT], a[page_code.TABLE] = members, count, table
        self._native_lay_out(0, self.laying)
        self._known = a[page_code.OUT]


@functools.cache
def _side_entries(count: int) -> struct.Struct:
    """So many entries of the table beside the arena."""
    return struct.Struct("<" + "QIHH" * count)
