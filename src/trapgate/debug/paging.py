"""A guest's own page tables, walked from outside: one address, or everything that they map.

Source: AMD64 Architecture Programmer's Manual, volume 2, chapter 5. Nothing is counted, filled or set.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from typing import NamedTuple

from trapgate.arch.paging import ADDRESS_MASK, PTE_P, PTE_PS
from trapgate.arch.registers import CR0_PG, CR4_PAE, CR4_PSE, EFER_LMA

#: (guest-physical address, size in bytes) to the entry there; 0 where no RAM is.
ReadEntry = Callable[[int, int], int]

_M32 = 0xFFFF_FFFF


class Mapping(NamedTuple):
    """One page that the tables map: linear address, its size, where it leads, the last entry, and the rights (U, W)
    that all levels together give."""

    linear: int
    size: int
    physical: int
    entry: int
    user: bool
    writable: bool


class Paging:
    """The tables that these control registers name. `a20` masks physical addresses."""

    def __init__(self, cr0: int, cr3: int, cr4: int, efer: int, read: ReadEntry, a20: int = -1) -> None:
        self.enabled, self.is_long, self._read, self._a20 = bool(cr0 & CR0_PG), bool(efer & EFER_LMA), read, a20
        #: Bytes of an entry; linear-address bits from which each level's index comes; levels with large pages.
        self._size = 8
        self._levels: tuple[int, ...] = (39, 30, 21, 12)
        self._large: tuple[int, ...] = (30, 21)
        self._root = cr3 & ADDRESS_MASK
        if not cr4 & CR4_PAE:
            self._size, self._levels, self._large = 4, (22, 12), (22,) if cr4 & CR4_PSE else ()
            self._root = cr3 & 0xFFFF_F000
        elif not self.is_long:
            self._levels, self._large = (30, 21, 12), (21,)
            self._root = cr3 & 0xFFFF_FFE0

    def translate(self, linear: int) -> int | None:
        """Guest-physical address of a linear one, or None."""
        if not self.enabled:
            return linear & _M32 & self._a20
        if self.is_long:
            if linear >> 47 not in (0, 0x1FFFF):
                return None
        elif linear >> 32:
            return None
        table = self._root
        for shift in self._levels:
            entry = self._entry(table, shift, linear)
            if not entry & PTE_P:
                return None
            if shift == 12 or (shift in self._large and entry & PTE_PS):
                return (self._frame(entry, shift) | linear & (1 << shift) - 1) & self._a20
            table = entry & ADDRESS_MASK
        return None

    def _entry(self, table: int, shift: int, linear: int) -> int:
        bits = 2 if shift == 30 and len(self._levels) == 3 else 10 if self._size == 4 else 9
        return self._read((table + (linear >> shift & (1 << bits) - 1) * self._size) & self._a20, self._size)

    def _frame(self, entry: int, shift: int) -> int:
        base = entry & ADDRESS_MASK & ~((1 << shift) - 1)
        if self._size == 4 and shift == 22:
            base |= (entry >> 13 & 0xFF) << 32  # PSE-36 (5.2.2)
        return base

    def mappings(self) -> Iterator[Mapping]:
        """Every page that is mapped, by linear address. Tables that contain themselves give very many."""
        if self.enabled:
            yield from self._below(self._root, 0, 0, True, True)

    def _below(self, table: int, level: int, linear: int, user: bool, writable: bool) -> Iterator[Mapping]:
        shift = self._levels[level]
        bits = 2 if shift == 30 and len(self._levels) == 3 else 10 if self._size == 4 else 9
        length = self._size << bits
        data = self._read(table & self._a20, length).to_bytes(length, "little")
        for index, (entry,) in enumerate(struct.iter_unpack("<I" if self._size == 4 else "<Q", data)):
            if not entry & PTE_P:
                continue
            address = linear | index << shift
            if shift == 39 and index >> 8:
                address |= 0xFFFF << 48
            # Entries of the page-directory pointers of PAE have no rights (5.2.3).
            plain = len(self._levels) == 3 and shift == 30
            is_user, is_writable = user and (plain or bool(entry & 4)), writable and (plain or bool(entry & 2))
            if shift == 12 or (shift in self._large and entry & PTE_PS):
                yield Mapping(address, 1 << shift, self._frame(entry, shift), entry, is_user, is_writable)
            else:
                yield from self._below(entry & ADDRESS_MASK, level + 1, address, is_user, is_writable)
