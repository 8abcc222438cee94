"""A block of decoded code, the instructions in it that Python carries out, and all blocks of one mode."""

from __future__ import annotations

import ctypes
import mmap
from typing import TYPE_CHECKING

from trapgate.arch import layout
from trapgate.cpu.mode import Mode
from trapgate.engine import block_table, record
from trapgate.engine.templates import Templates
from trapgate.isa.decode import Decoder
from trapgate.isa.decoded import Decoded
from trapgate.machine.memory import GRANULE, PAGE

if TYPE_CHECKING:
    from trapgate.engine.laid_page import LaidPage


class Block:
    """A decoded block. `address` is the host address of its header record."""

    __slots__ = (
        "_decoded", "address", "code", "cost", "end", "first", "length", "next_rip", "page",
        "regions", "rip", "second_page", "supported", "target", "translation", "valid", "watched",
    )  # fmt: skip

    def __init__(self, translation: Translation, rip: int, page: int) -> None:
        self.translation = translation
        self.rip = rip
        self.page = page
        self.second_page: int | None = None
        #: Its instructions; empty while only their bytes are known, which are then in `code`.
        self._decoded: list[Decoded] = []
        self.code = b""
        #: Bytes of code.
        self.length = 0
        self.address = 0
        #: Host address of the first instruction's record, and of the record that ends the block.
        self.first = 0
        self.end = 0
        self.next_rip = 0
        self.target: int | None = None
        #: What the whole block costs: (modelled cycles << 32) + instructions.
        self.cost = 0
        #: How many of its instructions the hot tier can have in a region, from the first; -1: not yet known.
        self.supported = -1
        #: Regions of the hot tier that it is part of (engine/hot/).
        self.regions: list[object] = []
        self.valid = True
        #: Holds a breakpoint (engine/breakpoints.py): nothing links to it.
        self.watched = False

    @property
    def decoded(self) -> list[Decoded]:
        """Its instructions."""
        if not self._decoded:
            self._decoded, _ = self.translation.decoder.block(self.code, record.MAX_INSTRUCTIONS, False)
        return self._decoded

    @decoded.setter
    def decoded(self, value: list[Decoded]) -> None:
        self._decoded = value

    def rip_of(self, uop: int) -> int:
        """rip of what a record stands for, given its host address."""
        if uop <= self.first:
            return self.rip
        if uop == self.end + record.UNLINKED_TARGET:
            assert self.target is not None
            return self.target
        if uop == self.end + record.UNLINKED_NEXT:
            return self.next_rip
        index = (uop - self.first) // record.RECORD_SIZE
        return self.rip + sum(d.length for d in self.decoded[:index])

    def index_of(self, uop: int) -> int:
        """How many of its instructions stand before a record."""
        return max(0, min((uop - self.first) // record.RECORD_SIZE, self.cost & 0xFFFF_FFFF))

    def cycles_before(self, index: int) -> int:
        """Modelled cycles of its first `index` instructions."""
        if not index:
            return 0
        return sum([d.cycles for d in self.decoded[:index]])

    def granules(self, page: int) -> int:
        """Which granules of a page, by its number, hold its code, as a mask."""
        mode = self.translation.mode
        offset = (mode.code_base + self.rip) & (PAGE - 1)
        length = self.length
        granules = 0
        if self.page // PAGE == page:
            first, last = offset, min(offset + length, PAGE) - 1
            granules = (1 << (last // GRANULE + 1)) - (1 << (first // GRANULE))
        if self.second_page is not None and self.second_page // PAGE == page:
            # Both parts are on one page when two linear pages are mapped to it.
            last = max(offset + length - PAGE - 1, 0)
            granules |= (1 << (last // GRANULE + 1)) - 1
        return granules


class Site:
    """An instruction that Python carries out, where it stands."""

    __slots__ = ("block", "decoded", "next_rip", "port", "rip")

    def __init__(self, block: Block, decoded: Decoded, rip: int, next_rip: int) -> None:
        self.block = block
        #: Of IN and OUT that leave native code by EXIT_PORT: is it IN, size in bytes, port (None: it is in DX).
        self.port: tuple[bool, int, int | None] = False, 0, None
        self.decoded = decoded
        self.rip = rip
        self.next_rip = next_rip


class Translation:
    """All blocks of one mode, and its jump cache."""

    def __init__(self, mode: Mode, decoder: Decoder, has_table: bool) -> None:
        """`has_table`: native code finds blocks by itself (engine/block_table.py)."""
        self.mode = mode
        self.decoder = decoder
        self.blocks: dict[tuple[int, int], Block] = {}
        self.single: dict[tuple[int, int], Block] = {}
        #: The block that was found last at a rip. Its header says whether its page is still there.
        self.latest: dict[int, Block] = {}
        #: True when there were too many modes: its blocks are not told any more when they go.
        self.forgotten = False
        #: This one and its like at the other privilege, CPL 0 first, once somebody has asked for them: by whether
        #: RDTSC is allowed at that other one.
        self.privileges: dict[bool, tuple[Translation, Translation]] = {}
        #: Blocks of this mode that earlier runs have decoded, in 64-bit code.
        self.templates: Templates | None = None
        #: Blocks that were laid out together, by linear and guest-physical address of their page.
        self.pages: dict[tuple[int, int], list[LaidPage]] = {}
        #: A name of the mode, for what is kept for later runs.
        self.name = f"{decoder.name} {mode.code_base:x} {mode.code_limit:x} {mode.breakpoints}".encode()
        self._has_table = has_table
        size = block_table.SIZE if has_table else block_table.FIRST_BUCKET
        self._cache = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self._cache_words = memoryview(self._cache).cast("Q")
        self.jump_cache = ctypes.addressof(ctypes.c_char.from_buffer(self._cache))
        #: The same where native code finds blocks by itself, else 0.
        self.table = self.jump_cache if has_table else 0
        self._decoding = self._number = 0
        self.clear_jump_cache()

    def clear_jump_cache(self) -> None:
        """Forget where indirect branches went. An empty entry holds a rip that belongs to another entry."""
        self._cache.madvise(mmap.MADV_DONTNEED)
        self._cache_words[0] = 1
        if self._has_table:
            self._cache_words[layout.JUMP_CACHE_SIZE >> 3] = block_table.BUCKETS - 1
            self.decode_natively(self._decoding, self._number)

    def decode_natively(self, arguments: int, number: int) -> None:
        """Let native code decode blocks with arguments at a host address (0: no more); it calls this one `number`."""
        if self._has_table:
            self._cache_words[block_table.DECODING >> 3] = self._decoding = arguments
            self._cache_words[block_table.NUMBER >> 3] = self._number = number

    def remember(self, rip: int, address: int) -> None:
        """An indirect branch to `rip` finds the block whose header is at `address`."""
        place = layout.jump_cache_offset(rip) >> 3
        self._cache_words[place + 1] = address
        self._cache_words[place] = rip
        self.enter(rip, address)

    def enter(self, rip: int, address: int) -> None:
        """Let native code find the block whose header is at `address`."""
        if self._has_table:
            block_table.enter(self._cache_words, rip, address)

    def remove(self, rip: int, address: int) -> None:
        """Let native code find it no more."""
        if self._has_table:
            block_table.remove(self._cache_words, rip, address)
