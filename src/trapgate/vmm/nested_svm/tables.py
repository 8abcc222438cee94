"""Nested tables for L2 where L1 uses nested paging: L2's guest-physical addresses to host frames.

They are filled as nested page faults ask: L1's nested tables say which guest-physical page of L1's it is, L0's which
host frame. They hold what a TLB might: until L1 flushes (TLB_CONTROL, another ASID or nCR3, INVLPGA), an entry may be
older than L1's tables. Then all are dropped.
"""

from __future__ import annotations

from trapgate.arch.paging import ADDRESS_MASK, PTE_A, PTE_D, PTE_NX, PTE_P, PTE_PS, PTE_RW, PTE_US
from trapgate.vmm.memory.guest import GuestMemory

_TABLE = PTE_P | PTE_RW | PTE_US | PTE_A
_PAGE = 4096
#: So many tables, and all are dropped: L1 can map more addresses than there is memory to keep tables for.
MOST_TABLES = 512


class InnerTables:
    """Four levels; `root` is what goes into nCR3 of VMCB 02. Raises OutOfHostMemory."""

    def __init__(self, guest: GuestMemory) -> None:
        self.guest = guest
        self.owner = f"{guest.owner}: nested tables of its guests"
        self._words = guest.host.view.cast("Q")
        self.root = guest.allocator.allocate(self.owner)
        self._tables: list[int] = []
        #: Pages filled in, and how often all were dropped.
        self.fills = self.drops = 0

    def drop(self) -> None:
        """Empty them. The caller flushes L2's TLB entries."""
        self.drops += 1
        self.guest.host.view[self.root : self.root + _PAGE] = bytes(_PAGE)
        for table in self._tables:
            self.guest.allocator.free(self.owner, table)
        self._tables.clear()

    def has_room(self) -> bool:
        """Whether another page can be filled in without dropping the others first."""
        return len(self._tables) + 3 <= MOST_TABLES and self.guest.allocator.free_frames >= 3

    def fill(self, address: int, frame: int, large: bool, writable: bool, execute: bool) -> None:
        """Map the 4 KB (`large`: 2 MB) page of L2 around `address` to the host frame or run at `frame`."""
        self.fills += 1
        entry = frame | PTE_P | PTE_US | PTE_A | PTE_D | (PTE_RW if writable else 0) | (0 if execute else PTE_NX)
        words, table, leaf = self._words, self.root, 2 if large else 1
        for level in (4, 3, 2, 1):
            place = (table >> 3) + (address >> (3 + 9 * level) & 511)
            if level == leaf:
                words[place] = entry | PTE_PS if large else entry
                return
            below = words[place]
            if not below & PTE_P or below & PTE_PS:
                self._tables.append(self.guest.allocator.allocate(self.owner))
                below = words[place] = self._tables[-1] | _TABLE
            table = below & ADDRESS_MASK

    @property
    def table_count(self) -> int:
        """Frames in use, the root included."""
        return len(self._tables) + 1
