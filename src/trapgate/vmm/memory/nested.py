"""Nested page tables: guest-physical to host-physical, in the format of long mode (APM vol. 2, 15.25.5).

Nested walks are made with user rights (15.25.5), so every entry is a user one. There is no A20 gate here: bit 20 of a
guest-physical address is never masked.
"""

from __future__ import annotations

from trapgate.arch.paging import ADDRESS_MASK, PTE_A, PTE_D, PTE_P, PTE_PS, PTE_RW, PTE_US
from trapgate.machine.ram import PAGE
from trapgate.vmm.memory.errors import OutOfHostMemory, OutsideGuestMemory
from trapgate.vmm.memory.frames import RUN
from trapgate.vmm.memory.guest import RUN_SIZE, GuestMemory

#: Accessed and dirty from the start: nobody reads them here, and the processor need not set them.
_TABLE = PTE_P | PTE_RW | PTE_US | PTE_A
_PAGE = _TABLE | PTE_D


class NestedTables:
    """Four levels that map all of a guest's RAM; `root` is what goes into N_CR3.

    2 MB pages where the guest's memory lies in runs, unless `large_pages` is False. After `unmap`, `protect` and a
    `map` over another mapping the caller flushes the guest's TLB entries. Raises OutOfHostMemory.
    """

    def __init__(self, guest: GuestMemory, large_pages: bool = True) -> None:
        self.guest = guest
        self.owner = f"{guest.owner}: nested tables"
        self._words = guest.host.view.cast("Q")
        self._tables: list[int] = []
        self.root = self._new_table()
        try:
            self._map_all(large_pages)
        except OutOfHostMemory:
            self.release()
            raise

    def _map_all(self, large_pages: bool) -> None:
        guest = self.guest
        for ram in guest.direct:
            address = ram.start
            while address < ram.stop:
                if large_pages and not address % RUN_SIZE and address + RUN_SIZE <= ram.stop and guest.is_run(address):
                    self._words[self._place(address, 2)] = guest.frames[address >> 12] | _PAGE | PTE_PS
                    address += RUN_SIZE
                else:
                    self._words[self._place(address, 1)] = guest.frames[address >> 12] | _PAGE
                    address += PAGE

    def _new_table(self) -> int:
        table = self.guest.allocator.allocate(self.owner)
        self._tables.append(table)
        return table

    def _place(self, address: int, level: int) -> int:
        """Index, in 64-bit words of host memory, of the entry for guest-physical `address`; tables are made."""
        table = self.root
        for above in (4, 3, 2, 1):
            place = (table >> 3) + (address >> (3 + 9 * above) & 511)
            if above == level:
                return place
            entry = self._words[place]
            if not entry & PTE_P:
                entry = self._words[place] = self._new_table() | _TABLE
            elif entry & PTE_PS:
                entry = self._split(place, entry)
            table = entry & ADDRESS_MASK
        raise AssertionError(f"level {level}")

    def _split(self, place: int, entry: int) -> int:
        table = self._new_table()
        first = entry & ~PTE_PS
        for i in range(RUN):
            self._words[(table >> 3) + i] = first + i * PAGE
        self._words[place] = table | _TABLE
        return self._words[place]

    def _page(self, address: int) -> int:
        if not self.guest.is_ram(address & ~0xFFF, PAGE):
            raise OutsideGuestMemory(address, "a page of guest RAM")
        return self._place(address, 1)

    def map(self, address: int, writable: bool = True, target: int | None = None) -> None:
        """Map the 4 KB page at guest-physical `address` to its frame, or to that of the page at `target`.

        Where that is hidden accesses exit. Raises OutsideGuestMemory.
        """
        place = self._page(address)
        rights = _PAGE if writable else _PAGE & ~(PTE_RW | PTE_D)
        frame = self.guest.frames[(address if target is None else target) >> 12]
        self._words[place] = frame | rights if frame else 0

    def follow(self, address: int, length: int) -> None:
        """Map the guest-physical pages from `address` on that have become memory, take those out that are none."""
        for place in range(address, address + length, PAGE):
            frame = self.guest.frames[place >> 12]
            self._words[self._place(place, 1)] = frame | _PAGE if frame else 0

    def unmap(self, address: int) -> None:
        """Take the 4 KB page at guest-physical `address` out; accesses exit from now on. Raises OutsideGuestMemory."""
        self._words[self._page(address)] = 0

    def protect(self, address: int) -> None:
        """Make the 4 KB page at guest-physical `address` read-only. Raises OutsideGuestMemory."""
        self.map(address, writable=False)

    def translate(self, address: int) -> tuple[int, bool] | None:
        """(host-physical address, writable) of guest-physical `address`, read from the tables; None: not mapped."""
        table, writable = self.root, True
        if address >> 48:
            return None
        for level in (4, 3, 2, 1):
            entry = self._words[(table >> 3) + (address >> (3 + 9 * level) & 511)]
            if not entry & PTE_P:
                return None
            writable = writable and bool(entry & PTE_RW)
            offset = (1 << (3 + 9 * level)) - 1
            if level == 1 or entry & PTE_PS:
                return entry & ADDRESS_MASK & ~offset | address & offset, writable
            table = entry & ADDRESS_MASK
        raise AssertionError("level 1 ends the walk")

    @property
    def table_count(self) -> int:
        """How many frames the tables take."""
        return len(self._tables)

    def release(self) -> None:
        """Give the tables' frames back."""
        for table in self._tables:
            self.guest.allocator.free(self.owner, table)
        self._tables.clear()
