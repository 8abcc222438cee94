"""The guest's own page tables, walked as the processor would (APM vol. 2, chapter 5); accessed and dirty bits in them.

The walker reads guest-physical memory as the host sees it. Entries outside the guest's RAM read as all ones.
"""

from __future__ import annotations

from trapgate.arch.cpuid import CpuProfile
from trapgate.arch.paging import (
    ADDRESS_MASK,
    PF_I,
    PF_P,
    PF_RSV,
    PF_U,
    PF_W,
    PTE_A,
    PTE_D,
    PTE_G,
    PTE_NX,
    PTE_P,
    PTE_PS,
    PTE_RW,
    PTE_US,
)
from trapgate.arch.registers import CR0_PG, CR0_WP, CR4_PAE, CR4_PSE, EFER_LMA, EFER_NXE
from trapgate.vmm.memory.guest import GuestMemory

#: Formats of the guest's tables.
NO_PAGING, TWO_LEVEL, PAE, LONG = range(4)

#: Rights gathered on the way down: PTE_RW and PTE_US while every level grants them, NO_EXECUTE once one level sets it.
NO_EXECUTE = 1
ALL_RIGHTS = PTE_RW | PTE_US
#: The walk has found a page; any other result is a page-fault error code.
FOUND = -1

_ONES32, _ONES64 = (1 << 32) - 1, (1 << 64) - 1
_ADDRESS32 = 0xFFFF_F000
#: Reserved in the PDPTEs of PAE paging (APM vol. 2, figure 5-10), besides what is beyond the physical address.
_PDPTE_RESERVED = 0xFFF0_0000_0000_01E6
#: Bits 62:52 are the system's to use in long mode only (5.2.3, 5.3.3).
_AVAILABLE_HIGH = 0x7FF << 52


class GuestMode:
    """How the guest's control registers say that addresses are translated."""

    __slots__ = ("deprivileged", "format", "nx", "pse", "reserved", "role", "wp")

    def __init__(self, profile: CpuProfile, cr0: int, cr4: int, efer: int, deprivileged: bool = False) -> None:
        #: The guest's kernel runs as a user: its pages are the user's in the shadow.
        self.deprivileged = deprivileged
        if not cr0 & CR0_PG:
            self.format = NO_PAGING
        elif efer & EFER_LMA:
            self.format = LONG
        else:
            self.format = PAE if cr4 & CR4_PAE else TWO_LEVEL
        paging = self.format != NO_PAGING
        self.wp = paging and bool(cr0 & CR0_WP)
        self.nx = self.format in (PAE, LONG) and bool(efer & EFER_NXE)
        self.pse = self.format == TWO_LEVEL and bool(cr4 & CR4_PSE)
        #: Reserved in every 64-bit entry.
        self.reserved = profile.reserved_address_bits | (0 if self.nx else PTE_NX)
        if self.format == PAE:
            self.reserved |= _AVAILABLE_HIGH
        #: What a shadow table's content depends on besides the guest's table: small, and equal for equal modes.
        self.role = self.format | self.wp << 2 | self.nx << 3 | self.pse << 4 | deprivileged << 5


class GuestWalker:
    """Walks the guest's tables. After `walk` has returned FOUND the attributes say what it found.

    `link_gfns` and `link_rights`: page-frame number of each table below the top, and the rights gathered above it. In
    TWO_LEVEL the top table itself is among them, in PAE the page directory, because their shadows have a level above.
    """

    def __init__(self, guest: GuestMemory, profile: CpuProfile) -> None:
        self._guest = guest
        self._host = guest.host
        self._frames = guest.frames
        self._words = guest.host.view.cast("Q")
        self._halves = guest.host.view.cast("I")
        self._reserved_pdpte = 0 if "PAGE1GB" in profile.flags else PTE_PS
        self._reserved_4mb = profile.reserved_in_4mb_entry
        self._beyond = profile.reserved_address_bits
        self.mode = GuestMode(profile, 0, 0, 0)
        self.cr3 = 0
        self.pdptes = (0, 0, 0, 0)
        #: Content of tables that the guest writes freely, by page-frame number; A and D bits are set there too.
        self.open_tables: dict[int, bytearray] = {}
        # What the last walk found:
        self.link_gfns: list[int] = []
        self.link_rights: list[int] = []
        self._places: list[int] = []
        self._entries: list[int] = []
        #: Guest-physical address; level at which the walk ended (1: 4 KB, 2: 2 or 4 MB, 3: 1 GB or no paging).
        self.physical = 0
        self.level = 0
        self.rights = 0
        #: The last entry, with the bits that the walk has set.
        self.leaf = 0

    def read64(self, place: int) -> int:
        """A 64-bit entry at guest-physical `place`, a multiple of 8."""
        page = place >> 12
        frame = self._frames[page] if page < len(self._frames) else 0
        return self._words[(frame | place & 0xFFF) >> 3] if frame else _ONES64

    def read32(self, place: int) -> int:
        """A 32-bit entry at guest-physical `place`, a multiple of 4."""
        page = place >> 12
        frame = self._frames[page] if page < len(self._frames) else 0
        return self._halves[(frame | place & 0xFFF) >> 2] if frame else _ONES32

    def read_pdptes(self, cr3: int) -> tuple[int, int, int, int] | None:
        """The page-directory pointers at a PAE CR3 (5.2.3); None where loading them raises #GP(0)."""
        table = cr3 & 0xFFFF_FFE0
        a, b, c, d = (self.read64(table + 8 * i) for i in range(4))
        if any(entry & PTE_P and entry & (_PDPTE_RESERVED | self._beyond) for entry in (a, b, c, d)):
            return None
        return a, b, c, d

    def walk(self, linear: int, access: int) -> int:
        """Follow an access (PF_W, PF_U, PF_I) to `linear`: FOUND, with A and D bits set, or the page-fault error code.

        A fault changes nothing in memory. `linear` is canonical, and 32 bits wide outside long mode.
        """
        mode = self.mode
        links, rights_above = self.link_gfns, self.link_rights
        places, entries = self._places, self._entries
        links.clear()
        rights_above.clear()
        places.clear()
        entries.clear()
        format_ = mode.format
        if format_ == NO_PAGING:
            self.physical, self.level, self.rights, self.leaf = linear, 3, ALL_RIGHTS, PTE_D
            return FOUND
        seen = access & (PF_W | PF_U | PF_I) if mode.nx else access & (PF_W | PF_U)
        if format_ == TWO_LEVEL:
            error = self._walk32(linear)
        elif format_ == LONG:
            error = self._walk64(linear, self.cr3 & ADDRESS_MASK, 4)
        else:
            pdpte = self.pdptes[linear >> 30 & 3]
            if not pdpte & PTE_P:
                return seen
            links.append((pdpte & ADDRESS_MASK) >> 12)
            rights_above.append(ALL_RIGHTS)
            error = self._walk64(linear, pdpte & ADDRESS_MASK, 2)
        if error != FOUND:
            return error | seen
        rights = self.rights
        if (
            (access & PF_U and not rights & PTE_US)
            or (access & PF_W and not rights & PTE_RW and (access & PF_U or mode.wp))
            or (access & PF_I and rights & NO_EXECUTE)
        ):
            return PF_P | seen
        self._set_bits(PTE_A | PTE_D if access & PF_W else PTE_A)
        return FOUND

    def _walk64(self, linear: int, table: int, level: int) -> int:
        reserved = self.mode.reserved
        rights = ALL_RIGHTS
        while True:
            place = table + ((linear >> (3 + 9 * level) & 511) << 3)
            entry = self.read64(place)
            if not entry & PTE_P:
                return 0
            large = entry & PTE_PS and level > 1
            if entry & reserved or (large and entry & self.reserved_large(level)):
                return PF_P | PF_RSV
            rights = rights & (entry | ~ALL_RIGHTS) | entry >> 63
            self._places.append(place)
            self._entries.append(entry)
            if large or level == 1:
                offset = (1 << (3 + 9 * level)) - 1
                self.physical = entry & ADDRESS_MASK & ~offset | linear & offset
                self.level, self.rights = level, rights
                return FOUND
            table = entry & ADDRESS_MASK
            self.link_gfns.append(table >> 12)
            self.link_rights.append(rights)
            level -= 1

    def reserved_large(self, level: int) -> int:
        """Bits that must be 0 in a 64-bit entry with PS set: the low address bits but PAT, or PS itself (5.3.1)."""
        if level == 2:
            return 0x1F_E000
        return 0x3FFF_E000 | self._reserved_pdpte if level == 3 else PTE_PS

    def _walk32(self, linear: int) -> int:
        directory = self.cr3 & _ADDRESS32
        place = directory + (linear >> 22 << 2)
        entry = self.read32(place)
        if not entry & PTE_P:
            return 0
        self.link_gfns.append(directory >> 12)
        self.link_rights.append(ALL_RIGHTS)
        self._places.append(place)
        self._entries.append(entry)
        rights = entry & ALL_RIGHTS
        if self.mode.pse and entry & PTE_PS:
            if entry & self._reserved_4mb:
                return PF_P | PF_RSV
            # PSE-36: bits 20:13 are physical address bits 39:32 (5.2.2).
            self.physical = entry & 0xFFC0_0000 | (entry >> 13 & 0xFF) << 32 | linear & 0x3F_FFFF
            self.level, self.rights = 2, rights
            return FOUND
        table = entry & _ADDRESS32
        self.link_gfns.append(table >> 12)
        self.link_rights.append(rights)
        place = table + ((linear >> 12 & 1023) << 2)
        entry = self.read32(place)
        if not entry & PTE_P:
            return 0
        self._places.append(place)
        self._entries.append(entry)
        self.physical = entry & _ADDRESS32 | linear & 0xFFF
        self.level, self.rights = 1, rights & entry
        return FOUND

    def _set_bits(self, leaf_bits: int) -> None:
        places, entries = self._places, self._entries
        last = len(places) - 1
        for i in range(last):
            if not entries[i] & PTE_A:
                self._store(places[i], entries[i] | PTE_A)
        leaf = entries[last]
        if leaf & leaf_bits != leaf_bits:
            leaf |= leaf_bits
            self._store(places[last], leaf)
        self.leaf = leaf

    def _store(self, place: int, entry: int) -> None:
        page = place >> 12
        frame = self._frames[page] if page < len(self._frames) else 0
        if not frame:
            return
        size = 4 if self.mode.format == TWO_LEVEL else 8
        address = frame | place & 0xFFF
        if self._host.code_map[frame >> 12]:
            self._host.write(address, entry.to_bytes(size, "little"))
        elif size == 8:
            self._words[address >> 3] = entry
        else:
            self._halves[address >> 2] = entry
        if page in self.open_tables:
            at = place & 0xFFF
            self.open_tables[page][at : at + size] = entry.to_bytes(size, "little")

    def prefetch(self, entry: int, mode: GuestMode, rights: int) -> tuple[int, int] | None:
        """(guest-physical page, rights) of a last-level entry that a walk would use as it is; None if it is not such.

        Its accessed bit must be set already; without the dirty bit the page is read-only. `rights` are those above it.
        """
        wanted = PTE_P | PTE_A
        if entry & wanted != wanted:
            return None
        if mode.format == TWO_LEVEL:
            physical = entry & _ADDRESS32
        else:
            if entry & mode.reserved:
                return None
            physical = entry & ADDRESS_MASK
        rights = rights & (entry | ~ALL_RIGHTS) | entry >> 63
        if mode.deprivileged:
            rights |= PTE_US | (0 if mode.wp else PTE_RW)
        if not entry & PTE_D:
            rights &= ~PTE_RW
        return physical, rights | entry & PTE_G
