"""A naive second model of address translation, written from the manual: AMD64 APM vol. 2, chapter 5.

Nothing here is shared with the processor under test. One walk follows one access; nothing is cached. Nested paging
(15.25) is in `translate_nested`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

# Page-table entry bits (5.4.1, field definitions).
PRESENT, WRITABLE, USER, ACCESSED, DIRTY, LARGE, GLOBAL = 1 << 0, 1 << 1, 1 << 2, 1 << 5, 1 << 6, 1 << 7, 1 << 8
NO_EXECUTE = 1 << 63

# Page-fault error code (8.4.2).
ERROR_P, ERROR_RW, ERROR_US, ERROR_RSV, ERROR_ID = 1, 2, 4, 8, 16


@dataclass(frozen=True)
class Registers:
    """Control bits that decide how addresses are translated."""

    cr3: int
    pae: bool = True
    long_mode: bool = True
    page_size_extensions: bool = True
    write_protect: bool = True
    no_execute_enable: bool = True
    #: Width of physical addresses in bits (CPUID 8000_0008h).
    physical_bits: int = 48
    #: The four page-directory-pointer entries of legacy PAE mode, as MOV CR3 loaded them; None where each walk reads
    #: them (15.25.10).
    pdptes: tuple[int, int, int, int] | None = (0, 0, 0, 0)
    #: CR0.PG
    paging: bool = True
    #: What the processor has (CPUID): 40-bit addresses of 4 MB pages, PAT bits in large pages' entries, 1 GB pages.
    pse36: bool = True
    pat: bool = True
    gigabyte_pages: bool = True


@dataclass(frozen=True)
class Access:
    write: bool = False
    user: bool = False
    fetch: bool = False


@dataclass
class Translation:
    """Where an access goes. `updates` maps the physical address of a table entry to its new value."""

    physical: int
    page_size: int
    is_global: bool
    references: int
    updates: dict[int, int] = field(default_factory=dict)


@dataclass
class PageFault:
    error: int
    references: int


#: Reads an entry: (physical address, size in bytes) to its value.
ReadEntry = Callable[[int, int], int]
#: Where in memory an address of a table lies.
Reach = Callable[[int], int]


def _as_it_is(address: int) -> int:
    return address


@dataclass
class _Level:
    """One table on the way: which bits of the linear address index it, and what a large page there covers."""

    low_bit: int
    index_bits: int
    entry_size: int
    may_be_large: bool
    #: Entry bits that must be 0, whatever the entry means, and only in a large page.
    reserved: int
    reserved_large: int = 0


def _bits(high: int, low: int) -> int:
    return ((1 << (high - low + 1)) - 1) << low


def _levels(registers: Registers) -> tuple[int, list[_Level]]:
    """(address of the first table, the levels from the top)."""
    address_bits = _bits(51, registers.physical_bits) if registers.physical_bits < 52 else 0
    if not registers.pae:
        # 5.2.1, 5.2.2: 4-MB pages where CR4.PSE is 1; bit 21 of such an entry is reserved, and so are the bits of
        # 20:13 beyond the physical address, and bit 12 without PAT.
        beyond = max(40 - registers.physical_bits, 0) if registers.pse36 else 8
        reserved = _bits(21, 21 - beyond) | (0 if registers.pat else 1 << 12)
        upper = _Level(22, 10, 4, registers.page_size_extensions, 0, reserved)
        return registers.cr3 & 0xFFFF_F000, [upper, _Level(12, 10, 4, False, 0)]
    reserved = address_bits
    if not registers.long_mode:
        reserved |= _bits(62, 52)  # figures 5-13, 5-14: must be zero outside long mode
    if not registers.no_execute_enable:
        reserved |= NO_EXECUTE
    lower = [_Level(21, 9, 8, True, reserved, _bits(20, 13)), _Level(12, 9, 8, False, reserved)]
    if not registers.long_mode:
        return 0, lower
    pml4 = _Level(39, 9, 8, False, reserved | LARGE)  # figure 5-20: bit 7 must be zero
    pdp = _Level(30, 9, 8, True, reserved, _bits(29, 13) | (0 if registers.gigabyte_pages else LARGE))
    return registers.cr3 & _bits(51, 12), [pml4, pdp, *lower]


def translate(
    read: ReadEntry, registers: Registers, linear: int, access: Access, reach: Reach = _as_it_is
) -> Translation | PageFault:
    """Translate a canonical linear address (32 bits outside long mode) as the processor must."""
    table, levels = _levels(registers)
    error = ERROR_RW if access.write else 0
    error |= ERROR_US if access.user else 0
    if access.fetch and registers.pae and registers.no_execute_enable:
        error |= ERROR_ID
    own_references = 0
    if registers.pae and not registers.long_mode:
        if registers.pdptes is None:
            pdpte = read(reach((registers.cr3 & _bits(31, 5)) + 8 * (linear >> 30 & 3)), 8)
            own_references = 1
        else:
            pdpte = registers.pdptes[linear >> 30 & 3]
        if not pdpte & PRESENT:
            return PageFault(error, own_references)
        # Figure 5-10: R/W, U/S and bits 8:5 do not exist at this level, nor do the bits above the address.
        if registers.pdptes is None and pdpte & (_bits(2, 1) | _bits(8, 5) | _bits(63, registers.physical_bits)):
            return PageFault(error | ERROR_P | ERROR_RSV, own_references)
        table = pdpte & _bits(51, 12)
    path: list[tuple[int, int, _Level]] = []
    for references, level in enumerate(levels, own_references + 1):
        index = linear >> level.low_bit & ((1 << level.index_bits) - 1)
        place = reach(table + index * level.entry_size)
        entry = read(place, level.entry_size)
        if not entry & PRESENT:
            return PageFault(error, references)
        large = level.may_be_large and bool(entry & LARGE)
        forbidden = level.reserved | (level.reserved_large if large else 0)
        if entry & forbidden:
            return PageFault(error | ERROR_P | ERROR_RSV, references)
        path.append((place, entry, level))
        if large or level.low_bit == 12:
            return _finish(registers, linear, access, error, references, path)
        table = entry & (_bits(51, 12) if level.entry_size == 8 else 0xFFFF_F000)
    raise AssertionError("the last level always ends the walk")


def _finish(
    registers: Registers,
    linear: int,
    access: Access,
    error: int,
    references: int,
    path: list[tuple[int, int, _Level]],
) -> Translation | PageFault:
    # 5.6: a page is writable, a user page, only if every level says so; no-execute if any level says so.
    writable = all(entry & WRITABLE for _, entry, _ in path)
    user = all(entry & USER for _, entry, _ in path)
    no_execute = registers.pae and any(entry & NO_EXECUTE for _, entry, _ in path)
    denied = access.user and not user
    if access.write and not writable and (access.user or registers.write_protect):
        denied = True
    if access.fetch and no_execute:
        denied = True
    if denied:
        return PageFault(error | ERROR_P, references)
    place, entry, level = path[-1]
    page_size = 1 << level.low_bit
    if page_size == 4 << 20:
        # 5.2.2: bits 20:13 hold physical address bits 39:32.
        base = (entry & 0xFFC0_0000) | (entry >> 13 & 0xFF) << 32
    else:
        mask = _bits(51, 12) if level.entry_size == 8 else 0xFFFF_F000
        base = entry & mask & ~(page_size - 1)
    updates = {}
    for at, old, _ in path:
        new = old | ACCESSED
        if at == place and access.write:
            new |= DIRTY
        if new != old:
            updates[at] = new
    return Translation(base | (linear & (page_size - 1)), page_size, bool(entry & GLOBAL), references, updates)


# Nested paging: EXITINFO1 (15.25.6).
FINAL, GUEST_TABLE = 1 << 32, 1 << 33


@dataclass
class NestedFault(Exception):
    """#VMEXIT(NPF): EXITINFO1 and EXITINFO2."""

    info1: int
    guest_physical: int


@dataclass
class Outcome:
    """Of one access of a guest: the two-dimensional walk's result and what it did on its way."""

    result: Translation | PageFault | NestedFault
    #: Of both tables, and of the nested ones.
    references: int
    nested_references: int
    #: Physical address of an entry, and its new value and size in bytes.
    updates: dict[int, tuple[int, int]]


class NestedTlb(Protocol):
    """Remembers where guest-physical addresses of tables lie."""

    def find(self, guest_physical: int) -> int | None: ...
    def fill(self, guest_physical: int, physical: int) -> None: ...


class _Nested:
    """One access of a guest."""

    def __init__(self, read: ReadEntry, guest: Registers, host: Registers, nested_tlb: NestedTlb | None) -> None:
        self._memory, self.guest, self.host, self._nested_tlb = read, guest, host, nested_tlb
        self.references = self.nested_references = 0
        self.updates: dict[int, tuple[int, int]] = {}

    def _read(self, physical: int, size: int) -> int:
        self.references += 1
        value = self._memory(physical, size)
        return self.updates[physical][0] if physical in self.updates else value

    def _note(self, found: Translation, registers: Registers) -> None:
        for place, entry in found.updates.items():
            self.updates[place] = (entry, 8 if registers.pae else 4)

    def _physical(self, guest_physical: int, access: Access, why: int) -> Translation:
        if guest_physical >> (48 if self.host.long_mode else 32):
            error = ERROR_US | (ERROR_RW if access.write else 0)
            error |= ERROR_ID if access.fetch and self.host.pae and self.host.no_execute_enable else 0
            raise NestedFault(error | why, guest_physical)
        before = self.references
        found = translate(self._read, self.host, guest_physical, access)
        self.nested_references += self.references - before
        if isinstance(found, PageFault):
            raise NestedFault(found.error | why, guest_physical)
        self._note(found, self.host)
        return found

    def _reach(self, table: int) -> int:
        """15.25.5: the walk of a guest's table is a user's write."""
        known = self._nested_tlb.find(table) if self._nested_tlb else None
        if known is not None:
            return known
        physical = self._physical(table, Access(write=True, user=True), GUEST_TABLE).physical
        if self._nested_tlb:
            self._nested_tlb.fill(table, physical)
        return physical

    def access(self, linear: int, access: Access) -> Translation | PageFault:
        guest_physical, page_size, is_global = linear, 1 << 30, False
        if self.guest.paging:
            found = translate(self._read, self.guest, linear, access, self._reach)
            if isinstance(found, PageFault):
                return found
            self._note(found, self.guest)
            guest_physical, page_size, is_global = found.physical, found.page_size, found.is_global
        # 15.25.5: at the nested level every access is a user's.
        nested = self._physical(guest_physical, Access(access.write, True, access.fetch), FINAL)
        return Translation(nested.physical, min(page_size, nested.page_size), is_global, self.references)


def translate_nested(
    read: ReadEntry, guest: Registers, host: Registers, linear: int, access: Access, nested_tlb: NestedTlb | None = None
) -> Outcome:
    """The access of a guest whose physical addresses go through the tables of `host` (its `cr3` is nCR3).

    The guest's own accessed and dirty bits are set once its tables allow the access, before the final address is
    translated. `host.write_protect` must be set: hCR0.WP has no effect.
    """
    walk = _Nested(read, guest, host, nested_tlb)
    try:
        result: Translation | PageFault | NestedFault = walk.access(linear, access)
    except NestedFault as fault:
        result = fault
    return Outcome(result, walk.references, walk.nested_references, walk.updates)
