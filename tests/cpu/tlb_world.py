"""Page tables for TLB tests, in a guest's memory and in the naive model alike, and a look into the fast tables."""

from __future__ import annotations

import random

from engine.harness import NX, G, Guest, P, U, W
from trapgate.arch import layout
from trapgate.arch.registers import CR0_WP, CR4_PAE, EFER_LMA, EFER_NXE
from trapgate.cpu import tlb

from .naive_tlb import HUGE, LARGE, SMALL, Mapping, NaiveTlb

SMALL_AT, LARGE_AT, HUGE_AT = 0x4000_0000, 0x8000_0000, 0x1_0000_0000
_SCRATCH = 0x10_0000
_IDENTITY = 0x8_0000
#: Guest-physical address where the host's tables are.
_NESTED_AT = 0x38_0000
#: Guest-physical address of the host's entries of 4 KB pages, from page 0 on.
NESTED_LEAVES = _NESTED_AT + 0x3000


class World:
    """A guest with address spaces, and the naive model of its TLB."""

    def __init__(self, guest: Guest, choose: random.Random, small: int, large: int) -> None:
        """`small` and `large` say how many pages of each size there are to choose from."""
        self.guest = guest
        self.choose = choose
        self.model = NaiveTlb()
        self.pages = [SMALL_AT + SMALL * i for i in choose.sample(range(512), small)]
        self.pages += [LARGE_AT + LARGE * i for i in choose.sample(range(512), large)]
        self.pages += [HUGE_AT + LARGE * i for i in choose.sample(range(1, 512), min(large, 8))]
        self.roots = [guest.root, guest.new_root()]
        for root in self.roots:
            self.model.spaces[root] = {
                page: Mapping(page, SMALL, page) for page in range(0, _IDENTITY, SMALL)
            }  # fmt: skip
            for page in self.pages:
                self.remap(root, page)
        self.model.switch(guest.root)

    def nest(self, small: int) -> None:
        """Nested paging (see `nest`) in ASID 1, for the model too."""
        nest(self.guest, small)
        self.model.nested = lambda guest_physical: SMALL if guest_physical < small << 20 else LARGE
        self.model.asid = 1

    def set_asid(self, asid: int) -> None:
        """As VMRUN does: the entries stay."""
        set_asid(self.guest, asid)
        self.model.asid = asid

    def remap(self, root: int, page: int) -> tuple[int, int]:
        """New rights for a page, without a flush: (guest-physical address of the entry, its value)."""
        place, value, mapping = self.new_entry(root, page)
        self.guest.memory.write_u64(place, value)
        self.model.spaces[root][mapping.page] = mapping
        return place, value

    def new_entry(self, root: int, page: int) -> tuple[int, int, Mapping]:
        """Rights by chance: (guest-physical address of the entry, its value, what it means)."""
        choose = self.choose
        mapping = Mapping(
            page, SMALL, _SCRATCH + (page & 0xF000), present=choose.random() < 0.95, writable=choose.random() < 0.8,
            user=choose.random() < 0.7, no_execute=choose.random() < 0.2, is_global=choose.random() < 0.2,
        )  # fmt: skip
        guest = self.guest
        bits = mapping.present * P | mapping.writable * W | mapping.user * U | mapping.is_global * G
        bits |= mapping.no_execute * NX
        if page >= HUGE_AT:
            # Only its second 2 MB are RAM, and not even all of them.
            mapping.page, mapping.size, mapping.physical, mapping.present = HUGE_AT, HUGE, 0, True
            return self._large(root, HUGE_AT, 30, bits | P, mapping)
        if page >= LARGE_AT:
            mapping.size, mapping.physical, mapping.present = LARGE, 0x20_0000, True
            return self._large(root, page, 21, bits | P, mapping)
        return guest.entry(page, root), mapping.physical | bits, mapping

    def _large(self, root: int, page: int, shift: int, bits: int, mapping: Mapping) -> tuple[int, int, Mapping]:
        levels = tuple(level for level in (39, 30, 21) if level > shift)
        place = self.guest._place(page, root, levels) + (page >> shift & 511) * 8
        return place, mapping.physical | bits | 0x80, mapping

    def counters(self) -> dict[str, int]:
        """What trapgate counted, by the names that the model has too."""
        return {name: self.guest.counter(name) for name in self.model.counters()}


def nest(guest: Guest, small: int) -> None:
    """Nested paging: 1 GB mapped to itself in pages of 2 MB, the first `small` MB of it in pages of 4 KB; ASID 1."""
    memory, state = guest.memory, guest.processor.state
    rights = P | W | U | 0x60
    memory.write_u64(_NESTED_AT, _NESTED_AT + 0x1000 | rights)
    memory.write_u64(_NESTED_AT + 0x1000, _NESTED_AT + 0x2000 | rights)
    for region in range(512):
        entry = region << 21 | rights | 0x80
        if region < small // 2:
            for page in range(512):
                memory.write_u64(NESTED_LEAVES + 0x1000 * region + 8 * page, region << 21 | page << 12 | rights)
            entry = NESTED_LEAVES + 0x1000 * region | rights
        memory.write_u64(_NESTED_AT + 0x2000 + 8 * region, entry)
    state.set(layout.NESTED, 1)
    state.set(layout.NESTED_CR3, _NESTED_AT)
    state.set(layout.HOST_CR4, CR4_PAE)
    state.set(layout.HOST_EFER, EFER_LMA | EFER_NXE)
    set_asid(guest, 1)


def set_asid(guest: Guest, asid: int) -> None:
    """Another ASID, and what goes with it."""
    guest.processor.state.set(layout.ASID, asid)
    guest.processor.native_reset_fast(guest.processor.state.address)


def check_fast_tables(guest: Guest) -> int:
    """Every entry of the fast tables comes from a valid entry of level 1 and allows no more; how many there are.

    Also: each entry is in the list of its owner, and in no other.
    """
    state = guest.processor.state
    q, w = state.q, state.w
    write_protect = bool(q[layout.CR0 >> 3] & CR0_WP)
    ram_base = q[layout.RAM_BASE >> 3]
    found = 0
    for side in (tlb.DATA, tlb.INSTRUCTION):
        listed: dict[int, int] = {}
        for i in range(tlb.L1_ENTRIES):
            slot = q[(side.heads >> 3) + i]
            previous = tlb.NO_SLOT
            while slot != tlb.NO_SLOT:
                assert slot not in listed, "a fast entry in two lists"
                listed[slot] = i
                at = (side.fast + slot * tlb.FAST_SIZE) >> 1
                assert w[at + 14] == previous
                previous, slot = slot, w[at + 13]
        for slot in range(2 * tlb.FAST_ENTRIES):
            at = (side.fast + slot * tlb.FAST_SIZE) >> 3
            tag, write_tag, place = q[at], q[at + 1], q[at + 2]
            if tag == (1 << 64) - 1:
                assert write_tag == (1 << 64) - 1, "an entry for writes alone"
                assert slot not in listed, "an empty fast entry in a list"
                continue
            found += 1
            where = f"{side.name} fast entry {slot} for {tag:#x}"
            owner = listed.get(slot)
            assert owner is not None, f"{where} belongs to no entry of level 1"
            assert w[(at << 2) + 12] == owner
            assert slot % tlb.FAST_ENTRIES == tag >> 12 & (tlb.FAST_ENTRIES - 1)
            mask, rights = q[(side.masks >> 3) + owner], q[(side.rights >> 3) + owner]
            asid = q[layout.ASID >> 3]
            assert q[(side.tags >> 3) + owner] == tag & mask | asid, f"{where}: level 1 holds another page"
            physical = q[(side.pages >> 3) + owner] | tag & ~mask & (1 << 64) - 1
            if side.is_data:
                assert place + tag & (1 << 64) - 1 == ram_base + physical, f"{where} leads elsewhere"
            else:
                assert place == physical, f"{where} leads elsewhere"
                assert not rights & tlb.RIGHT_NX
            user = slot >= tlb.FAST_ENTRIES
            assert not user or rights & tlb.RIGHT_U, f"{where}: a user entry for a supervisor page"
            if write_tag != (1 << 64) - 1:
                assert write_tag == tag
                assert rights & tlb.RIGHT_D, f"{where}: writable but not dirty"
                assert rights & tlb.RIGHT_W or not (user or write_protect), f"{where}: writable, but the page is not"
    return found
