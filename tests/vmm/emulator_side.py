"""Cases of the oracle on the hypervisor's emulator, and a guest of plain Python values for it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field

from oracle import areas
from oracle.areas import Case, Outcome, State
from oracle.trapgate_side import UNIMPLEMENTED
from trapgate.arch.paging import PF_I, PF_P
from trapgate.arch.registers import (
    CR0_ET,
    CR0_MP,
    CR0_NE,
    CR0_PE,
    CR0_PG,
    CR0_WP,
    CR4_OSFXSR,
    CR4_OSXMMEXCPT,
    CR4_PAE,
    CS,
    EFER_LMA,
    EFER_LME,
    FS,
    GS,
    SS,
)
from trapgate.arch.segments import ATTRIBUTE_DB, ATTRIBUTE_G, ATTRIBUTE_L, CODE_ACCESSED, DATA_RW_ACCESSED, DPL_SHIFT
from trapgate.arch.vectors import PF
from trapgate.vmm.emulate import CHECK, USER, WRITE, GuestFault, NotEmulated, emulate

_M32, _M64 = (1 << 32) - 1, (1 << 64) - 1
Segment = tuple[int, int, int, int]
#: Turns of a REP that a case never reaches.
_MOST_CALLS = 100


@dataclass
class Guest:
    """Registers as the emulator sees them."""

    gpr: list[int] = field(default_factory=lambda: [0] * 16)
    rip: int = 0
    rflags: int = 2
    cpl: int = 0
    cr0: int = CR0_PE | CR0_ET
    cr4: int = CR4_OSFXSR
    efer: int = 0
    segments: list[Segment] = field(default_factory=list)
    vectors: list[bytes] = field(default_factory=lambda: [bytes(16)] * 16)

    def segment(self, number: int) -> Segment:
        return self.segments[number]

    def xmm(self, number: int) -> bytes:
        return self.vectors[number]

    def set_xmm(self, number: int, value: bytes) -> None:
        assert len(value) == 16
        self.vectors[number] = value


class Pages:
    """Memory of some pages, which may be read-only; all others are missing. Says what was asked of it."""

    def __init__(self, mask: int = _M64) -> None:
        self._mask = mask
        self._pages: dict[int, bytearray] = {}
        self._read_only: set[int] = set()
        #: Error code of a fetch from a missing page.
        self.fetching = 0
        #: Accesses that have succeeded: (kind, linear, size).
        self.log: list[tuple[str, int, int]] = []

    def map(self, linear: int, data: bytes, read_only: bool = False) -> None:
        """Map whole pages; `linear` and the length of `data` are multiples of 4096."""
        for at in range(0, len(data), areas.PAGE):
            number = linear + at >> 12
            self._pages[number] = bytearray(data[at : at + areas.PAGE])
            if read_only:
                self._read_only.add(number)

    def _places(self, linear: int, size: int, access: int) -> list[tuple[bytearray, int]]:
        places = []
        for i in range(size):
            at = linear + i & self._mask
            page = self._pages.get(at >> 12)
            error = access & (WRITE | USER | PF_I)
            if page is None:
                raise GuestFault(PF, error, at)
            if access & WRITE and at >> 12 in self._read_only:
                raise GuestFault(PF, error | PF_P, at)
            places.append((page, at & 0xFFF))
        return places

    def read(self, linear: int, size: int, access: int) -> bytes:
        assert 1 <= size <= 16
        places = self._places(linear, size, access)
        self.log.append(("check" if access & CHECK else "update" if access & WRITE else "read", linear, size))
        return bytes(size) if access & CHECK else bytes(page[at] for page, at in places)

    def write(self, linear: int, data: bytes, access: int) -> None:
        assert access & WRITE
        assert 1 <= len(data) <= 16
        for (page, at), byte in zip(self._places(linear, len(data), access), data, strict=True):
            page[at] = byte
        self.log.append(("write", linear, len(data)))

    def fetch(self, linear: int, size: int) -> bytes:
        room = areas.PAGE - (linear & 0xFFF)
        return bytes(page[at] for page, at in self._places(linear, min(size, room), self.fetching))

    def poke(self, linear: int, data: bytes) -> None:
        """Write without rights."""
        for (page, at), byte in zip(self._places(linear, len(data), 0), data, strict=True):
            page[at] = byte

    def peek(self, linear: int, size: int) -> bytes:
        """Read without a trace."""
        return bytes(page[at] for page, at in self._places(linear, size, 0))


def flat_segments(mode: str) -> list[Segment]:
    """Segment registers as oracle.trapgate_side has them in a mode."""
    dpl3 = 3 << DPL_SHIFT
    if mode == "real16":
        return [(0, 0, 0xFFFF, DATA_RW_ACCESSED)] * 6
    if mode == "protected32":
        big = ATTRIBUTE_DB | ATTRIBUTE_G
        return [(0, 0, _M32, (CODE_ACCESSED if n == CS else DATA_RW_ACCESSED) | big) for n in range(6)]
    data = (areas.USER_DATA, 0, _M32, DATA_RW_ACCESSED | ATTRIBUTE_DB | ATTRIBUTE_G | dpl3)
    null = (0, 0, _M32, 0)
    if mode == "long64":
        segments = [data if n == SS else null for n in range(6)]
        segments[CS] = (areas.USER_CODE, 0, _M32, CODE_ACCESSED | ATTRIBUTE_L | ATTRIBUTE_G | dpl3)
        segments[GS] = (0, areas.GS_BASE, _M32, 0)
        return segments
    segments = [null if n >= FS else data for n in range(6)]
    segments[CS] = (areas.USER_CODE_32, 0, _M32, CODE_ACCESSED | ATTRIBUTE_DB | ATTRIBUTE_G | dpl3)
    return segments


class EmulatorProcessor:
    """The emulator as one of the oracle's processors. What it does not know is UNIMPLEMENTED."""

    def __init__(self, mode: str, segments: Sequence[Segment] | None = None) -> None:
        self.places = areas.PLACES[mode]
        self._long = mode in ("long64", "compat32")
        self.segments = list(segments or flat_segments(mode))
        self._protected = 0 if mode == "real16" else CR0_PE | CR0_PG
        self.mask = _M64 if mode == "long64" else _M32

    def run(self, cases: Sequence[Case]) -> list[Outcome]:
        """Run every case from its own state."""
        return [self._run(case) for case in cases]

    def guest(self, state: State) -> Guest:
        """Registers of a state."""
        vectors = [state.fx[areas.FX_XMM + 16 * i :][:16] for i in range(16)]
        return Guest(
            list(state.gpr),
            state.rip,
            state.rflags,
            3 if self._long else 0,
            self._protected | CR0_ET | CR0_MP | CR0_NE | CR0_WP,
            CR4_OSFXSR | CR4_OSXMMEXCPT | CR4_PAE,
            EFER_LMA | EFER_LME if self._long else 0,
            self.segments,
            vectors,
        )

    def memory(self, case: Case) -> Pages:
        """The pages of a case. Real mode has no pages that are missing or read-only, all 64 KiB and more are there."""
        places, pages = self.places, Pages(self.mask)
        pages.fetching = USER | PF_I if self._long else 0
        if not self._protected:
            pages.map(0, bytes(1 << 20))
        else:
            pages.map(places.slots, bytes(places.slot_count * areas.SLOT_SIZE))
        pages.map(places.read_only, areas.read_only_bytes(), read_only=bool(self._protected))
        pages.map(places.read_only + areas.PAGE, bytes(areas.PAGE))
        slot = case.state.rip - areas.SLOT_START
        pages.poke(slot, (b"\xcc" * areas.SLOT_START + case.code).ljust(areas.SLOT_SIZE, b"\xcc"))
        pages.poke(places.window, case.state.window)
        return pages

    def _run(self, case: Case) -> Outcome:
        guest, pages = self.guest(case.state), self.memory(case)
        vector, error, address = -1, 0, 0
        try:
            for _ in range(_MOST_CALLS):
                if emulate(guest, pages).finished:
                    pages.fetch(guest.rip, 1)  # a branch may have gone to a page that is missing
                    break
            else:
                raise AssertionError(f"{case.text} does not end")
        except GuestFault as fault:
            vector, error, address = fault.vector, fault.error or 0, fault.address or 0
        except NotEmulated:
            vector = UNIMPLEMENTED
        fx = bytearray(case.state.fx)
        fx[areas.FX_XMM : areas.FX_XMM + 256] = b"".join(guest.vectors)
        window = pages.peek(self.places.window, areas.WINDOW_SIZE)
        state = dataclasses.replace(case.state, gpr=guest.gpr, rflags=guest.rflags, fx=bytes(fx), window=window)
        state.rip = guest.rip
        return Outcome(state, vector, error, address)
