"""System management mode: where it begins, and the AMD64 state-save area (APM vol. 2, 10.2 and 10.3)."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

#: SMBASE after RESET#, and offsets from it (10.2.1, 10.2.3).
SMBASE_RESET, ENTRY, SAVE_AREA = 0x3_0000, 0x8000, 0xFE00
#: SMM-revision identifier: SMBASE relocation, I/O restart, AMD64 save area (10.2.4).
REVISION = 0x0003_0064

# The save area, table 10-1: offsets from SMBASE + FE00h.
_SEGMENTS = (0x00, 0x10, 0x20, 0x30, 0x40, 0x50)  # ES, CS, SS, DS, FS, GS
_GDTR, _LDTR, _IDTR, _TR = 0x60, 0x70, 0x80, 0x90
AUTO_HALT_RESTART, EFER_PLACE, REVISION_PLACE, SMBASE_PLACE = 0xC9, 0xD0, 0xFC, 0x100
_CR4, _CR3, _CR0, _DR7, _DR6, _RFLAGS, _RIP = 0x148, 0x150, 0x158, 0x160, 0x168, 0x170, 0x178
#: R15 at 180h ... R8 at 1B8h, RDI, RSI, RBP, RSP, RBX, RDX, RCX, RAX at 1F8h.
_RAX = 0x1F8

#: (selector, base, limit in bytes, attributes).
Segment = tuple[int, int, int, int]


class SavedState(NamedTuple):
    """What an SMI saves. `segments` are ES, CS, SS, DS, FS, GS; tables are (base, limit); `registers` rax ... r15."""

    segments: tuple[Segment, ...]
    ldtr: Segment
    tr: Segment
    gdtr: tuple[int, int]
    idtr: tuple[int, int]
    halted: bool
    efer: int
    smbase: int
    cr4: int
    cr3: int
    cr0: int
    dr7: int
    dr6: int
    rflags: int
    rip: int
    registers: tuple[int, ...]

    def store(self, save: Callable[[int, int, int], None]) -> None:
        """Write it; `save(offset, size, value)` writes `size` bytes from the area's offset on."""
        for place, segment in zip((*_SEGMENTS, _LDTR, _TR), (*self.segments, self.ldtr, self.tr), strict=True):
            selector, base, limit, attributes = segment
            save(place, 2, selector)
            save(place + 2, 2, attributes)
            save(place + 4, 4, limit)
            save(place + 8, 8, base)
        for place, (base, limit) in ((_GDTR, self.gdtr), (_IDTR, self.idtr)):
            save(place + 4, 4, limit)
            save(place + 8, 8, base)
        save(AUTO_HALT_RESTART, 1, int(self.halted))
        save(REVISION_PLACE, 4, REVISION)
        save(SMBASE_PLACE, 4, self.smbase)
        for place, value in (
            (EFER_PLACE, self.efer), (_CR4, self.cr4), (_CR3, self.cr3), (_CR0, self.cr0), (_DR7, self.dr7),
            (_DR6, self.dr6), (_RFLAGS, self.rflags), (_RIP, self.rip),
        ):  # fmt: skip
            save(place, 8, value)
        for number, value in enumerate(self.registers):
            save(_RAX - 8 * number, 8, value)

    @staticmethod
    def load(saved: Callable[[int, int], int]) -> SavedState:
        """Read it; `saved(offset, size)` reads `size` bytes."""

        def segment(place: int, mask: int) -> Segment:
            return saved(place, 2), saved(place + 8, 8), saved(place + 4, 4), saved(place + 2, 2) & mask

        return SavedState(
            segments=tuple(segment(place, 0xFFF) for place in _SEGMENTS),
            ldtr=segment(_LDTR, 0xFFF),
            tr=segment(_TR, 0xFFF),
            gdtr=(saved(_GDTR + 8, 8), saved(_GDTR + 4, 4) & 0xFFFF),
            idtr=(saved(_IDTR + 8, 8), saved(_IDTR + 4, 4) & 0xFFFF),
            halted=bool(saved(AUTO_HALT_RESTART, 1) & 1),
            efer=saved(EFER_PLACE, 8),
            smbase=saved(SMBASE_PLACE, 4),
            cr4=saved(_CR4, 8),
            cr3=saved(_CR3, 8),
            cr0=saved(_CR0, 8),
            dr7=saved(_DR7, 8),
            dr6=saved(_DR6, 8),
            rflags=saved(_RFLAGS, 8),
            rip=saved(_RIP, 8),
            registers=tuple(saved(_RAX - 8 * number, 8) for number in range(16)),
        )
