"""Translation without side effects, for whoever looks at a guest from outside: nothing is counted, filled or set, and
rights do not matter."""

from __future__ import annotations

from collections.abc import Callable

from trapgate.arch import layout
from trapgate.arch.paging import ADDRESS_MASK, PTE_P, PTE_PS
from trapgate.arch.registers import CR0_PG, CR4_PAE, CR4_PSE, EFER_LMA

#: (physical address, size in bytes) to the entry there; 0 where no RAM is.
ReadEntry = Callable[[int, int], int]
#: Where in RAM an address of a table lies, or None.
Reach = Callable[[int], int | None]


def peek(q: memoryview, linear: int, read: ReadEntry) -> int | None:
    """Physical address of a linear one in the current state (`q`: the state block as words), or None.

    With nested paging it is the host's. A20 is the caller's business.
    """

    def nested(guest_physical: int) -> int | None:
        cr3, cr4 = q[layout.NESTED_CR3 >> 3], q[layout.HOST_CR4 >> 3]
        return _walk(guest_physical, cr3, cr4, q[layout.HOST_EFER >> 3], None, lambda table: table, read)

    in_guest = bool(q[layout.NESTED >> 3])
    reach: Reach = nested if in_guest else lambda table: table
    physical: int | None = linear
    if q[layout.CR0 >> 3] & CR0_PG:
        pdpte = None if in_guest else q[(layout.PDPTE >> 3) + (linear >> 30 & 3)]
        cr3, cr4, efer = q[layout.CR3 >> 3], q[layout.CR4 >> 3], q[layout.EFER >> 3]
        physical = _walk(linear, cr3, cr4, efer, pdpte, reach, read)
    return None if physical is None else reach(physical)


def _walk(linear: int, cr3: int, cr4: int, efer: int, pdpte: int | None, reach: Reach, read: ReadEntry) -> int | None:
    levels: tuple[int, ...]
    large: tuple[int, ...]
    if not cr4 & CR4_PAE:
        size, index_mask, address_mask = 4, 1023, 0xFFFF_F000
        levels, large = (22, 12), (22,) if cr4 & CR4_PSE else ()
        table = cr3 & address_mask
    elif efer & EFER_LMA:
        size, index_mask, address_mask = 8, 511, ADDRESS_MASK
        levels, large = (39, 30, 21, 12), (30, 21)
        table = cr3 & address_mask
    else:
        size, index_mask, address_mask = 8, 511, ADDRESS_MASK
        levels, large = (21, 12), (21,)
        if pdpte is None:  # not in a register: APM vol. 2, 15.25.10
            place = reach((cr3 & 0xFFFF_FFE0) + (linear >> 30 & 3) * 8)
            pdpte = 0 if place is None else read(place, 8)
        if not pdpte & PTE_P:
            return None
        table = pdpte & address_mask
    for shift in levels:
        place = reach(table + (linear >> shift & index_mask) * size)
        entry = 0 if place is None else read(place, size)
        if not entry & PTE_P:
            return None
        if shift == 12 or (shift in large and entry & PTE_PS):
            inside = (1 << shift) - 1
            base = entry & address_mask & ~inside
            if shift == 22:
                base |= (entry >> 13 & 0xFF) << 32
            return base | linear & inside
        table = entry & address_mask
    return None
