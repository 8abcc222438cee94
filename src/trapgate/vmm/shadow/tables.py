"""Shadow tables in host frames: entries, which guest frame each table was made from, and who maps which frame.

An entry is named by its place: its index in the host's memory taken as 64-bit words. There is no object for an entry,
only one for each table. Three reverse maps make every change local:

- guest frame to the shadow tables made from it (`made_from`),
- table to the places that link to it (`ShadowTable.parents`),
- host frame of the guest's RAM to the places of the leaves that map it (`_leaves`, and `_large_leaves` for 2 MB ones).

Links grant everything; the rights of all guest levels stand in the leaf. So one guest table reached with different
rights has several shadows, which is why the rights above a table are part of its key.

**What the TLB may still hold.** A leaf or a link that was taken out may live on in the TLB until the guest flushes it,
as its own entries may. That is the guest's affair, with two exceptions. Before a guest frame's writable mappings can be
relied on to be gone (`protect`) everything in doubt is flushed; and before a frame that held a shadow table is used
again everything is, as processors cache upper levels. `doubt` remembers what kinds of entries may live on.
"""

from __future__ import annotations

from collections.abc import Iterable

from trapgate.arch.paging import ADDRESS_MASK, PTE_A, PTE_D, PTE_G, PTE_NX, PTE_P, PTE_PS, PTE_RW, PTE_US
from trapgate.vmm.memory.guest import GuestMemory
from trapgate.vmm.shadow.outcomes import Counters, Flush
from trapgate.vmm.shadow.walk import NO_EXECUTE

#: A shadow table that was made from no guest table: roots without one, and pieces of large pages.
NO_FRAME = -1
ENTRIES = 512
_LINK = PTE_P | PTE_RW | PTE_US | PTE_A
#: A PAE root's entries have no rights, and reserved bits in their places (APM vol. 2, figure 5-10).
_POINTER = PTE_P
DOUBT_LOCAL, DOUBT_GLOBAL = 1, 2
#: More single addresses than this are flushed as everything.
_MOST_ADDRESSES = 16
_MOST_PATHS = 8
_FOUR_GB = 1 << 32
_UPPER_HALF = 0xFFFF << 48


class ShadowTable:
    """One shadow table: 512 entries, or the 4 of a PAE root."""

    __slots__ = ("address", "gfn", "key", "level", "parents", "part", "rights", "role", "root", "words", "writes")

    def __init__(self, key: int, address: int, gfn: int, level: int, role: int, part: int, rights: int) -> None:
        self.key = key
        #: Host-physical address, and place of the first entry.
        self.address = address
        self.words = address >> 3
        self.gfn = gfn
        #: 1: entries map 4 KB; 2, 3, 4 as in long mode; a PAE root has level 3.
        self.level = level
        self.role = role
        #: Which piece of a 1024-entry guest table this is the shadow of.
        self.part = part
        self.rights = rights
        #: Places of the links to this table; whether it stands in the cache of roots.
        self.parents: set[int] = set()
        self.root = False
        #: Trapped writes to the guest's table since a fault last came through here.
        self.writes = 0


class ShadowTables:
    """The shadow tables of one guest. Raises OutOfHostMemory when the host has no frames left for them."""

    def __init__(self, guest: GuestMemory, counters: Counters) -> None:
        self.guest = guest
        self.counters = counters
        self.owner = f"{guest.owner}: shadow tables"
        self.words = guest.host.view.cast("Q")
        self.by_key: dict[int, ShadowTable] = {}
        self.made_from: dict[int, list[ShadowTable]] = {}
        self._by_frame: dict[int, ShadowTable] = {}
        self._leaves: dict[int, int | set[int]] = {}
        self._large_leaves: dict[int, set[int]] = {}
        #: How many protected frames each 2 MB of guest-physical memory has: such cannot be one large page.
        self.protected_in: dict[int, int] = {}
        self._runs: dict[int, bool] = {}
        #: Frames of tables given back, all zeros.
        self._spare: list[int] = []
        self.doubt = 0
        self._everything = self._not_global = False
        self._addresses: set[int] = set()

    # -- tables

    def make(self, key: int, gfn: int, level: int, role: int, part: int, rights: int, low: bool = False) -> ShadowTable:
        """A new, empty table; `low`: below 4 GB. The guest's frame `gfn` is not protected yet."""
        usable = [address for address in self._spare if address < _FOUR_GB] if low else self._spare
        if usable:
            address = usable[-1]
            self._spare.remove(address)
        else:
            address = self.guest.allocator.allocate(self.owner, _FOUR_GB if low else None)
        table = ShadowTable(key, address, gfn, level, role, part, rights)
        self.by_key[key] = table
        self._by_frame[address >> 12] = table
        if gfn >= 0:
            self.made_from.setdefault(gfn, []).append(table)
        self.counters.tables_made += 1
        return table

    def clear(self, table: ShadowTable) -> None:
        """Take every entry of a table out."""
        start = table.words
        for i, entry in enumerate(self.words[start : start + ENTRIES].tolist()):
            if entry:
                self.zap(start + i)

    def drop(self, table: ShadowTable) -> None:
        """Give a table back: its entries and the links to it are taken out."""
        self.clear(table)
        for place in table.parents:
            self.words[place] = 0
            self.counters.zaps += 1
        table.parents.clear()
        del self.by_key[table.key]
        del self._by_frame[table.address >> 12]
        if table.gfn >= 0:
            siblings = self.made_from[table.gfn]
            siblings.remove(table)
            if not siblings:
                del self.made_from[table.gfn]
                self.unprotect(table.gfn)
        self._spare.append(table.address)
        self.flush_everything()
        self.counters.tables_freed += 1

    @property
    def spare_count(self) -> int:
        """Frames that are kept for the next tables."""
        return len(self._spare)

    def in_use(self, tables: Iterable[ShadowTable]) -> bool:
        """Whether a root or a link leads to one of the tables."""
        return any(table.root or table.parents for table in tables)

    def release(self) -> None:
        """Give all frames back to the host."""
        for table in list(self.by_key.values()):
            self.drop(table)
        for address in self._spare:
            self.guest.allocator.free(self.owner, address)
        self._spare.clear()

    # -- entries

    def child(self, place: int) -> ShadowTable | None:
        """The table that the entry at `place` links to; None for a leaf and for nothing."""
        entry = self.words[place]
        return self._by_frame.get((entry & ADDRESS_MASK) >> 12) if entry and not entry & PTE_PS else None

    def link(self, place: int, child: ShadowTable, pointer: bool) -> None:
        """Make the entry at `place` lead to `child`; `pointer`: it is one of a PAE root's."""
        entry = child.address | (_POINTER if pointer else _LINK)
        old = self.words[place]
        if old == entry:
            return
        if old:
            self.zap(place)
        if pointer:
            # The processor has the four pointers in registers.
            self.flush_everything()
        self.words[place] = entry
        child.parents.add(place)

    def leaf(self, gfn: int, rights: int) -> int:
        """An entry that maps the guest's frame `gfn`; `rights` has PTE_RW, PTE_US, PTE_G and NO_EXECUTE."""
        entry = self.guest.frames[gfn] | PTE_P | PTE_A | rights & (PTE_US | PTE_G)
        if rights & PTE_RW and not self.guest.watched[gfn]:
            entry |= PTE_RW | PTE_D
        return entry | PTE_NX if rights & NO_EXECUTE else entry

    def set_leaf(self, place: int, entry: int) -> None:
        """Put a leaf (its frame is one of the guest's) at `place`, in place of what is there."""
        old = self.words[place]
        if old == entry:
            return
        if old:
            if not (old ^ entry) & (ADDRESS_MASK | PTE_PS):
                if old & PTE_RW and not entry & PTE_RW:
                    self.doubt |= DOUBT_GLOBAL if old & PTE_G else DOUBT_LOCAL
                self.words[place] = entry
                return
            self.zap(place)
        self.words[place] = entry
        frame = (entry & ADDRESS_MASK) >> 12
        if entry & PTE_PS:
            self._large_leaves.setdefault(frame >> 9, set()).add(place)
            return
        leaves = self._leaves
        known = leaves.get(frame)
        if known is None:
            leaves[frame] = place
        elif isinstance(known, int):
            leaves[frame] = {known, place}
        else:
            known.add(place)

    def zap(self, place: int) -> None:
        """Take out the entry at `place`, if there is one. The TLB may hold it until it is flushed."""
        words = self.words
        entry = words[place]
        if not entry:
            return
        words[place] = 0
        self.counters.zaps += 1
        frame = (entry & ADDRESS_MASK) >> 12
        if entry & PTE_PS:
            self._large_leaves[frame >> 9].discard(place)
            self.doubt |= DOUBT_GLOBAL if entry & PTE_G else DOUBT_LOCAL
            return
        child = self._by_frame.get(frame)
        if child is not None:
            child.parents.discard(place)
            self.doubt |= DOUBT_LOCAL | DOUBT_GLOBAL
            return
        self.doubt |= DOUBT_GLOBAL if entry & PTE_G else DOUBT_LOCAL
        known = self._leaves[frame]
        if isinstance(known, int):
            del self._leaves[frame]
        else:
            known.discard(place)
            if not known:
                del self._leaves[frame]

    # -- protection of the guest's page tables

    def protect(self, gfn: int) -> None:
        """Let every write to the guest's frame `gfn` trap, wherever it is mapped."""
        guest = self.guest
        if guest.watched[gfn]:
            return
        guest.watched[gfn] = 1
        self.protected_in[gfn >> 9] = self.protected_in.get(gfn >> 9, 0) + 1
        frame = guest.frames[gfn] >> 12
        for place in tuple(self._large_leaves.get(frame >> 9, ())):
            self.zap(place)
        known = self._leaves.get(frame)
        for place in () if known is None else (known,) if isinstance(known, int) else known:
            if self.words[place] & PTE_RW:
                self.words[place] &= ~PTE_RW
                self.flush_leaf(place)
        if self.doubt:
            self.flush_everything()

    def unprotect(self, gfn: int) -> None:
        """Let writes to the guest's frame `gfn` go through again, as leaves are filled in anew."""
        if self.guest.watched[gfn]:
            self.guest.watched[gfn] = 0
            self.protected_in[gfn >> 9] -= 1

    def can_be_large(self, gfn: int) -> bool:
        """Whether the 2 MB around a guest frame can be one shadow page."""
        piece = gfn >> 9
        run = self._runs.get(piece)
        if run is None:
            run = self._runs[piece] = self.guest.is_run(gfn << 12)
        return run and not self.protected_in.get(piece)

    def leaf_places(self, gfn: int) -> list[int]:
        """Places of the entries that map the guest's frame `gfn`, large ones included. For tests and reports."""
        frame = self.guest.frames[gfn] >> 12
        known = self._leaves.get(frame, ())
        places = [known] if isinstance(known, int) else list(known)
        return places + list(self._large_leaves.get(frame >> 9, ()))

    # -- what the TLB must lose

    def flush_leaf(self, place: int) -> None:
        """Flush the page of the leaf at `place`: by its linear addresses where they are few, else everything."""
        table = self._by_frame[place >> 9]
        paths = {(table, (place & 511) << (3 + 9 * table.level))}
        addresses: set[int] = set()
        while paths:
            above: set[tuple[ShadowTable, int]] = set()
            for table, linear in paths:
                if table.root:
                    addresses.add(linear | _UPPER_HALF if linear >> 47 else linear)
                shift = 12 + 9 * table.level
                above |= {(self._by_frame[p >> 9], linear | (p & 511) << shift) for p in table.parents}
            if len(above) > 4 * _MOST_PATHS or len(addresses) > _MOST_PATHS:
                self.flush_everything()
                return
            paths = above
        # Links that were taken out are in `doubt`.
        for linear in addresses:
            self.flush_address(linear)

    def flush_address(self, linear: int) -> None:
        """Flush the page of a linear address."""
        self._addresses.add(linear)
        if len(self._addresses) > _MOST_ADDRESSES:
            self.flush_everything()

    def flush_not_global(self) -> None:
        """Flush all entries but the global ones."""
        self._not_global = True
        self.doubt &= ~DOUBT_LOCAL

    def flush_everything(self) -> None:
        """Flush all of the guest's entries."""
        self._everything = True
        self.doubt = 0

    def take_flush(self) -> Flush:
        """What has gathered since the last call."""
        everything, not_global, addresses = self._everything, self._not_global, self._addresses
        if not (everything or not_global or addresses):
            return Flush()
        self._everything = self._not_global = False
        self._addresses = set()
        if everything:
            return Flush(everything=True)
        return Flush(not_global=not_global, addresses=tuple(sorted(addresses)))
