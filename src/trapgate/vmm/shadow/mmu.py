"""Shadow paging: a guest's linear addresses to host-physical ones, in tables that follow the guest's own.

The processor walks the shadow tables alone. They are empty at first and are filled in by page faults: `fault` walks the
guest's tables as the processor would, sets accessed and dirty bits there, and puts in what it found. A page that is not
dirty is read-only in the shadow, so that its first write comes here and sets the bit.

**How shadows stay true.** Every guest frame from which a shadow was made is write-protected, and each write to it
is carried into the shadows at once (`guest_wrote`). So shadows are never stale, a MOV CR3 costs no more than finding
its root, and INVLPG nothing but the flush: the simplest rule that is exact. It costs one exit for each write to a page
table, which is too much when a guest rewrites a whole table (fork, exit). Such a table (`follow.FLOOD` writes with no
fault through it) is opened: the guest writes it freely, and it is compared with what its shadows were made from
wherever the architecture lets a processor see new entries: at page faults, INVLPG, MOV CR3, mode changes (APM vol. 2,
5.5). At MOV CR3 opened tables are closed again; those that nobody used as tables meanwhile lose their shadows.

**CR0.WP = 0.** The processor always runs with WP = 1. A read-only user page that the supervisor writes becomes
a writable supervisor page; the next user access faults and turns it back.

**Global pages** keep their bit always; the processor heeds it only with CR4.PGE, which is the guest's own.

**Memory types** are not carried over: guest RAM is write-back.
"""

from __future__ import annotations

from collections import OrderedDict

from trapgate.arch.cpuid import CpuProfile
from trapgate.arch.paging import ADDRESS_MASK, PF_P, PF_W, PTE_D, PTE_G, PTE_P, PTE_PS, PTE_RW, PTE_US
from trapgate.arch.registers import CR0_PG, CR0_WP, CR4_PAE, CR4_PGE, CR4_PSE, EFER_LMA, EFER_LME, EFER_NXE
from trapgate.vmm.memory.guest import GuestMemory
from trapgate.vmm.shadow.follow import TableFollower
from trapgate.vmm.shadow.outcomes import RESUME, Counters, Device, Flush, Guest, Hardware, Outcome, TableWrite
from trapgate.vmm.shadow.tables import NO_FRAME, ShadowTable, ShadowTables
from trapgate.vmm.shadow.walk import (
    ALL_RIGHTS,
    FOUND,
    LONG,
    NO_PAGING,
    PAE,
    TWO_LEVEL,
    GuestMode,
    GuestWalker,
)

#: Tables that one fault can make, with some to spare.
_AT_ONCE = 8

_LINEAR32 = (1 << 32) - 1


class ShadowMmu:
    """The shadow tables of one virtual processor with `guest`'s memory; `profile` is the processor that the guest sees.

    `max_roots`: address spaces whose roots are kept, the least recently used going first. `max_tables`: shadow tables,
    of one frame each, that are kept. `large_pages`: whether a large guest page in a run of host frames is a 2 MB shadow
    page; otherwise all shadow pages are of 4 KB. Raises OutOfHostMemory when the host cannot hold even one path.
    """

    def __init__(
        self,
        guest: GuestMemory,
        profile: CpuProfile,
        large_pages: bool = False,
        max_roots: int = 16,
        max_tables: int = 4096,
        counters: Counters | None = None,
    ) -> None:
        self.guest = guest
        self.counters = counters or Counters()
        self.tables = ShadowTables(guest, self.counters)
        self.walker = GuestWalker(guest, profile)
        self.large_pages = large_pages
        self._profile = profile
        self._max_roots = max(1, max_roots)
        self._max_tables = max(2 * _AT_ONCE, max_tables)
        self._roots: OrderedDict[int | tuple[int, ...], ShadowTable] = OrderedDict()
        self._next_pointer_root = 0
        self._follower = TableFollower(guest, self.tables, self.walker)
        self._open = self._follower.open
        #: Both are called from outside, see there.
        self.guest_wrote = self._follower.guest_wrote
        self.unprotect = self._follower.unprotect
        self._mode = self.walker.mode
        self._other_mode = GuestMode(profile, 0, 0, 0, deprivileged=True)
        self._cr4 = self._efer = 0
        guest.on_watched_write = self.guest_wrote
        self._root = self._select_root()

    # -- control registers

    def set_mode(self, cr0: int, cr3: int, cr4: int, efer: int) -> bool:
        """The guest's control registers are now these; EFER.LMA must be right.

        False, and nothing has changed, where the processor raises #GP(0): PAE paging begins, or CR3 changes in it, with
        reserved bits in the page-directory pointers. Else they are loaded in these two cases (APM vol. 2, 5.2.3).
        """
        mode = GuestMode(self._profile, cr0, cr4, efer, self._mode.deprivileged)
        self._other_mode = GuestMode(self._profile, cr0, cr4, efer, not mode.deprivileged)
        walker = self.walker
        if mode.format != LONG:
            cr3 &= _LINEAR32
        if mode.format == PAE and (self._mode.format != PAE or cr3 != walker.cr3):
            pdptes = walker.read_pdptes(cr3)
            if pdptes is None:
                return False
            walker.pdptes = pdptes
        everything = mode.role != self._mode.role or (cr4 ^ self._cr4) & (CR4_PAE | CR4_PGE | CR4_PSE)
        moved = cr3 != walker.cr3
        # Tables that were opened in the old mode are compared while that mode's rules hold.
        self._follower.synchronize()
        self._mode = walker.mode = mode
        walker.cr3 = cr3
        self._cr4, self._efer = cr4, efer
        self._follower.close_all()
        self._root = self._select_root()
        if everything:
            self.tables.flush_everything()
        elif moved:
            self.tables.flush_not_global()
        return True

    def set_deprivileged(self, deprivileged: bool) -> None:
        """The guest's kernel runs on these tables as a user, or no longer: its pages are the user's, or its own.

        The two kinds of tables are kept side by side. The caller flushes the TLB.
        """
        if deprivileged == self._mode.deprivileged:
            return
        self._mode, self._other_mode = self._other_mode, self._mode
        self.walker.mode = self._mode
        self._root = self._select_root()

    def set_cr3(self, value: int) -> bool:
        """The guest moves `value` to CR3. False, and nothing has changed, where that raises #GP(0) (see `set_mode`)."""
        walker = self.walker
        format_ = self._mode.format
        if format_ != LONG:
            value &= _LINEAR32
        if format_ == PAE:
            pdptes = walker.read_pdptes(value)
            if pdptes is None:
                return False
            walker.pdptes = pdptes
        self._follower.synchronize()
        walker.cr3 = value
        self._follower.close_all()
        self._root = self._select_root()
        self.tables.flush_not_global()
        return True

    @property
    def hardware(self) -> Hardware:
        """What the processor is to be run with. CR3 changes with `set_mode` and `set_cr3` only."""
        efer = self._efer & EFER_NXE
        if self._mode.format == LONG:
            efer |= EFER_LMA | EFER_LME
        return Hardware(CR0_PG | CR0_WP, self._root.address, CR4_PAE | self._cr4 & CR4_PGE, efer)

    @property
    def pdptes(self) -> tuple[int, int, int, int]:
        """The guest's page-directory pointers, as loaded last."""
        return self.walker.pdptes

    def invlpg(self, linear: int) -> None:
        """The guest invalidates the translation of a linear address."""
        self._follower.synchronize()
        self.tables.flush_address(linear if self._mode.format == LONG else linear & _LINEAR32)

    def take_flush(self) -> Flush:
        """What the TLB must lose of this guest before it runs again; asked before each VMRUN."""
        return self.tables.take_flush()

    # -- roots

    def _select_root(self) -> ShadowTable:
        mode, walker = self._mode, self.walker
        # CR3's flags select nothing, and other bits than the address do not count in the key.
        name: int | tuple[int, ...]
        if mode.format == PAE:
            name = (mode.role, *(entry & ADDRESS_MASK if entry & PTE_P else 0 for entry in walker.pdptes))
        elif mode.format == NO_PAGING:
            name = mode.role
        else:
            name = (mode.role, (walker.cr3 & ADDRESS_MASK) >> 12)
        root = self._roots.get(name)
        if root is not None:
            self._roots.move_to_end(name)
            self.counters.roots_reused += 1
            return root
        while len(self._roots) >= self._max_roots:
            self._drop_root(next(iter(self._roots)))
        self._make_room(None)
        self.counters.roots_made += 1
        gfn = (walker.cr3 & ADDRESS_MASK) >> 12
        if mode.format == LONG and self.guest.is_page(gfn):
            root = self._table(gfn, 4, 0, ALL_RIGHTS)
        else:
            # Nothing is ever mapped below a top table outside RAM, so such a root stays empty.
            self._next_pointer_root += 1
            key = -self._next_pointer_root
            level = 4 if mode.format == LONG else 3
            root = self.tables.make(key, NO_FRAME, level, mode.role, 0, ALL_RIGHTS, low=level == 3)
        root.root = True
        self._roots[name] = root
        return root

    def _drop_root(self, name: int | tuple[int, ...]) -> None:
        self.tables.drop(self._roots.pop(name))

    # -- tables

    def _table(self, gfn: int, level: int, part: int, rights: int) -> ShadowTable:
        """The shadow, as a table of `level`, of the guest's table in frame `gfn`."""
        role = self._mode.role
        key = (((gfn << 8 | role) << 4 | level) << 4 | part) << 4 | rights
        table = self.tables.by_key.get(key)
        if table is None:
            table = self.tables.make(key, gfn, level, role, part, rights)
            if gfn not in self._open:
                self.tables.protect(gfn)
        return table

    def _piece(self, gfn: int, level: int, rights: int) -> ShadowTable:
        """A table of `level` that maps consecutive guest frames from `gfn` on: large pages, and no paging."""
        key = ((((gfn << 8) << 4 | level) << 4 | 0xF) << 16 | rights) << 1 | 1 << 100
        table = self.tables.by_key.get(key)
        return table or self.tables.make(key, NO_FRAME, level, self._mode.role, 0, rights)

    def _make_room(self, root: ShadowTable | None) -> None:
        """Have room for the tables of one path: first by what is not in use, then by all but `root`."""
        tables = self.tables
        if len(tables.by_key) + _AT_ONCE <= self._max_tables and self._frames_left() >= _AT_ONCE:
            return
        for name, other in list(self._roots.items()):
            if other is not root:
                self._drop_root(name)
        again = True
        while again:
            idle = [table for table in tables.by_key.values() if not table.root and not table.parents]
            for table in idle:
                tables.drop(table)
            again = bool(idle)
        if len(tables.by_key) > self._max_tables // 2 or self._frames_left() < _AT_ONCE:
            for table in list(tables.by_key.values()):
                if table is not root:
                    tables.drop(table)
        for gfn in [gfn for gfn in self._open if gfn not in tables.made_from]:
            self._follower.forget_open(gfn)

    def _frames_left(self) -> int:
        return self.guest.allocator.free_frames + self.tables.spare_count

    # -- page faults

    def fault(self, linear: int, error_code: int) -> Outcome:
        """The guest, on the shadow tables, has raised #PF at `linear` with the processor's `error_code`.

        Of the error code only what the access was (PF_W, PF_U, PF_I) counts; whether the guest's own tables allow it is
        found out here.
        """
        counters, walker = self.counters, self.walker
        if self._mode.format != LONG:
            linear &= _LINEAR32
        if self._open:
            self._follower.synchronize()
        error = walker.walk(linear, error_code)
        if error != FOUND:
            counters.faults_guest += 1
            return Guest(error)
        physical = walker.physical
        gfn = physical >> 12
        guest = self.guest
        if not guest.is_page(gfn):
            counters.faults_device += 1
            return Device(physical)
        if len(self.tables.by_key) + _AT_ONCE > self._max_tables or self._frames_left() < _AT_ONCE:
            self._make_room(self._root)
        write = error_code & PF_W
        if write and guest.watched[gfn]:
            self._follower.drop_idle(gfn)
        self._fill(linear, gfn, self._rights(error_code))
        if error_code & PF_P:
            # The TLB may hold the entry that forbade the access.
            self.tables.flush_address(linear)
        if write and guest.watched[gfn]:
            counters.faults_table_write += 1
            return TableWrite(physical)
        counters.faults_resume += 1
        return RESUME

    def translate(self, linear: int, access: int) -> int | Guest:
        """The guest-physical address of an access (PF_W, PF_U, PF_I) that is emulated, accessed and dirty bits set.

        Guest(error code) where it raises #PF. The shadow tables stay as they are.
        """
        if self._mode.format != LONG:
            linear &= _LINEAR32
        self._follower.synchronize()
        error = self.walker.walk(linear, access)
        return self.walker.physical if error == FOUND else Guest(error)

    def _rights(self, access: int) -> int:
        """The rights of the page that the walk has found, as its shadow must have them, and PTE_G if it is global."""
        walker = self.walker
        rights = walker.rights
        if self._mode.deprivileged:
            rights |= PTE_US | (0 if self._mode.wp else PTE_RW)
        elif not rights & PTE_RW and not self._mode.wp:
            if not rights & PTE_US:
                rights |= PTE_RW
            elif access & PF_W:
                rights = rights & ~PTE_US | PTE_RW
        if not walker.leaf & PTE_D:
            rights &= ~PTE_RW
        return rights | walker.leaf & PTE_G

    def _fill(self, linear: int, gfn: int, rights: int) -> None:
        """Put the translation that was found into the shadow tables."""
        tables, walker = self.tables, self.walker
        two_level = self._mode.format == TWO_LEVEL
        table, level = self._root, self._root.level
        table.writes = 0
        for link_gfn, above in zip(walker.link_gfns, walker.link_rights, strict=True):
            place = table.words + (linear >> (3 + 9 * level) & 511)
            level -= 1
            part = 0
            if two_level:
                part = linear >> 30 if level == 2 else linear >> 21 & 1
            child = self._table(link_gfn, level, part, above)
            tables.link(place, child, pointer=table.level == 3 and table.gfn < 0)
            table = child
            table.writes = 0
        while level > 1:
            place = table.words + (linear >> (3 + 9 * level) & 511)
            if level == 2 and self.large_pages and tables.can_be_large(gfn):
                tables.set_leaf(place, tables.leaf(gfn & ~511, rights) | PTE_PS)
                self.counters.fills += 1
                return
            level -= 1
            piece = self._piece(gfn & -1 << 9 * level, level, rights)
            tables.link(place, piece, pointer=self._mode.format != LONG and level == 2)
            table = piece
        tables.set_leaf(table.words + (linear >> 12 & 511), tables.leaf(gfn, rights))
        self.counters.fills += 1

    def release(self) -> None:
        """Give all host frames back; the guest cannot run afterwards."""
        for gfn in tuple(self._open):
            self._follower.forget_open(gfn)
        self._roots.clear()
        self.tables.release()
        self.guest.on_watched_write = lambda address, length: None
