"""What the guest writes to its own page tables, carried into their shadows; tables opened for free writing.

A write to a protected table is carried over at once. A table that is written FLOOD times with no fault coming through
it is opened: its frame loses its protection, a copy of its content is kept, and it is compared with the copy wherever
the architecture lets a processor see new entries. Only entries that changed are taken out of the shadows, so that an
instruction that writes to a table of its own address space comes to its end.
"""

from __future__ import annotations

from trapgate.arch.paging import ADDRESS_MASK, PTE_A, PTE_P, PTE_PS
from trapgate.machine.ram import PAGE
from trapgate.vmm.memory.guest import GuestMemory
from trapgate.vmm.shadow.tables import ENTRIES, ShadowTable, ShadowTables
from trapgate.vmm.shadow.walk import ALL_RIGHTS, TWO_LEVEL, GuestWalker

#: Writes to a page table, with no fault through it in between, after which it is opened.
FLOOD = 4
#: Tables that may be open at once: each is compared at every fault.
MOST_OPEN = 8
#: An opened table that no fault came through, and of which this many entries changed, is taken for no table any more.
_ABANDONED = 32
#: Bits that an upper entry must have, and must not, for its link to stay.
_LINKED = PTE_P | PTE_A


class TableFollower:
    """Keeps the shadows of one guest's tables true to them."""

    def __init__(self, guest: GuestMemory, tables: ShadowTables, walker: GuestWalker) -> None:
        self.guest = guest
        self.tables = tables
        self.walker = walker
        self.counters = tables.counters
        #: Content of the opened tables when they were compared last, and how many entries have changed since opening.
        self.open = walker.open_tables
        self._changes: dict[int, int] = {}

    def guest_wrote(self, address: int, size: int) -> None:
        """`size` bytes at guest-physical `address`, within one page, have been written: carry them into the shadows."""
        gfn = address >> 12
        tables = self.tables.made_from.get(gfn)
        if tables is None:
            return
        self.counters.write_traps += 1
        if not self.tables.in_use(tables):
            self._drop_all(gfn)
            return
        for table in tables:
            table.writes += 1
        first = address & 0xFFF
        self._carry(gfn, first, first + size)
        if gfn in self.tables.made_from and gfn not in self.open and all(t.writes >= FLOOD for t in tables):
            self.open_table(gfn)

    def _carry(self, gfn: int, first: int, end: int) -> None:
        """Bring the shadows of a frame up to date with its bytes `first` to `end - 1`."""
        for table in tuple(self.tables.made_from.get(gfn, ())):
            if self.tables.by_key.get(table.key) is not table:
                continue  # dropped with the link to it, which stood in this very frame
            if table.role & 3 == TWO_LEVEL:
                for index in range(first >> 2, (end + 3) >> 2):
                    if table.level == 1:
                        if index >> 9 == table.part:
                            self._renew_leaf(table, index & 511, gfn << 12 | index << 2)
                    elif index >> 8 == table.part:
                        self._renew_link(table, 2 * (index & 255), gfn << 12 | index << 2)
                        self._renew_link(table, 2 * (index & 255) + 1, gfn << 12 | index << 2)
            else:
                for index in range(first >> 3, (end + 7) >> 3):
                    if table.level == 1:
                        self._renew_leaf(table, index, gfn << 12 | index << 3)
                    else:
                        self._renew_link(table, index, gfn << 12 | index << 3)

    def _renew_leaf(self, table: ShadowTable, index: int, source: int) -> None:
        """The guest's last-level entry at `source` may have changed; if it can be used as it is, it is filled in."""
        tables, guest = self.tables, self.guest
        place = table.words + index
        if table.role == self.walker.mode.role:
            entry = self.walker.read32(source) if table.role & 3 == TWO_LEVEL else self.walker.read64(source)
            found = self.walker.prefetch(entry, self.walker.mode, table.rights)
            if found is not None:
                physical, rights = found
                gfn = physical >> 12
                if guest.is_page(gfn):
                    if not tables.words[place]:
                        self.counters.prefills += 1
                    tables.set_leaf(place, self.tables.leaf(gfn, rights))
                    return
        tables.zap(place)

    def _renew_link(self, table: ShadowTable, index: int, source: int) -> None:
        """The guest's upper-level entry at `source` may have changed: take the link out unless it still holds."""
        tables = self.tables
        place = table.words + index
        old = tables.words[place]
        if not old:
            return
        entry = self.walker.read32(source) if table.role & 3 == TWO_LEVEL else self.walker.read64(source)
        child = tables.child(place)
        if child is None or child.gfn < 0:
            # One INVLPG of the guest flushes all of its large page, of which the TLB may hold many pieces.
            tables.zap(place)
            tables.flush_everything()
            return
        rights = table.rights & (entry | ~ALL_RIGHTS) | entry >> 63
        if (
            table.role == self.walker.mode.role
            and entry & (_LINKED | PTE_PS) == _LINKED
            and (table.role & 3 == TWO_LEVEL or not entry & self.walker.mode.reserved)
            and (entry & ADDRESS_MASK) >> 12 == child.gfn
            and rights == child.rights
        ):
            return
        tables.zap(place)
        if not entry & PTE_P and not self.tables.in_use((child,)):
            # The guest is done with the table below, and will likely use its frame for something else.
            tables.drop(child)
            if child.gfn not in tables.made_from:
                self.forget_open(child.gfn)

    # -- tables that the guest writes freely

    def unprotect(self, gfn: int) -> None:
        """Let the guest write its frame `gfn` freely: all its shadows go, and any made again follow it lazily.

        Always right, and the way on for an instruction that cannot be emulated. It holds until the next MOV CR3 or mode
        change, or until MOST_OPEN other frames were opened.
        """
        if not self.guest.is_page(gfn):
            return
        for table in tuple(self.tables.made_from.get(gfn, ())):
            if table.root:
                self.tables.clear(table)
                self.tables.flush_everything()
            else:
                self.tables.drop(table)
        if gfn not in self.open:
            self.open_table(gfn)

    def open_table(self, gfn: int) -> None:
        """Let the guest write its frame `gfn`, and compare it from now on."""
        while len(self.open) >= MOST_OPEN:
            oldest = next(iter(self.open))
            self._compare(oldest)
            if oldest in self.open:
                self._close(oldest)
        self.counters.unprotected += 1
        frame = self.guest.frames[gfn]
        self.tables.unprotect(gfn)
        self.open[gfn] = bytearray(self.guest.host.view[frame : frame + PAGE])
        self._changes[gfn] = 0

    def forget_open(self, gfn: int) -> None:
        """A frame is not open any more; the caller protects it, or it has no shadows."""
        self.open.pop(gfn, None)
        self._changes.pop(gfn, None)

    def synchronize(self) -> None:
        """Carry over what the guest has changed in opened tables."""
        for gfn in tuple(self.open):
            if gfn in self.open:
                self._compare(gfn)

    def _compare(self, gfn: int) -> None:
        self.counters.synchronizations += 1
        frame = self.guest.frames[gfn]
        known = self.open[gfn]
        now = bytes(self.guest.host.view[frame : frame + PAGE])
        if now == known:
            return
        self.counters.synchronizations_changed += 1
        old_words, new_words = memoryview(bytes(known)).cast("Q").tolist(), memoryview(now).cast("Q").tolist()
        changed = [i for i in range(ENTRIES) if old_words[i] != new_words[i]]
        known[:] = now
        self._changes[gfn] += len(changed)
        for i in changed:
            self._carry(gfn, 8 * i, 8 * i + 8)

    def close_all(self) -> None:
        """Protect all opened tables again. They have just been compared."""
        for gfn in tuple(self.open):
            if gfn in self.open:
                self._close(gfn)

    def _close(self, gfn: int) -> None:
        """Watch a table again, which was just compared; one that is no table any more loses its shadows."""
        changes = self._changes[gfn]
        self.forget_open(gfn)
        tables = self.tables.made_from.get(gfn)
        if tables is None:
            return
        abandoned = changes >= _ABANDONED and all(table.writes for table in tables)
        if abandoned or not self.tables.in_use(tables):
            self._drop_all(gfn)
        if gfn in self.tables.made_from:
            for table in tables:
                table.writes = 0
            self.tables.protect(gfn)

    def _drop_all(self, gfn: int) -> None:
        """Drop the shadows of a frame; those that are roots stay."""
        for table in tuple(self.tables.made_from.get(gfn, ())):
            if not table.root:
                self.tables.drop(table)

    def drop_idle(self, gfn: int) -> None:
        """Before a write to a frame with shadows: if nobody uses them, they go and the write need not trap."""
        if not self.tables.in_use(self.tables.made_from[gfn]):
            self._drop_all(gfn)
