"""A processor as the shadow tables meet it: it walks them naively and keeps what it finds in an endless TLB.

The TLB loses only what it is told to, and a forbidden access faults from it without another walk: both are the worst
that processors are allowed.
"""

from __future__ import annotations

from dataclasses import dataclass

from paging import naive
from trapgate.arch.registers import CR4_PAE, CR4_PGE, EFER_LMA, EFER_NXE
from trapgate.vmm.shadow import Device, Guest, Resume, ShadowMmu, TableWrite

PAGE = 4096


@dataclass
class Entry:
    host: int
    writable: bool
    user: bool
    no_execute: bool
    is_global: bool


def error_bits(access: naive.Access) -> int:
    """The bits of an error code that say what the access was; NX is on."""
    return 2 * access.write | 4 * access.user | 16 * access.fetch


class Processor:
    """Runs a guest's accesses on the shadow tables of `mmu`."""

    def __init__(self, mmu: ShadowMmu) -> None:
        self.mmu = mmu
        self.host = mmu.guest.host
        self.tlb: dict[int, Entry] = {}
        self.gfn_of = {frame: gfn for gfn, frame in enumerate(mmu.guest.frames) if frame}

    def enter(self) -> None:
        """VMRUN: flush what is to be flushed."""
        flush = self.mmu.take_flush()
        if flush.everything:
            self.tlb.clear()
        if flush.not_global:
            self.tlb = {page: entry for page, entry in self.tlb.items() if entry.is_global}
        for linear in flush.addresses:
            self.tlb.pop(linear >> 12, None)

    def registers(self) -> naive.Registers:
        """What the processor runs with, the page-directory pointers loaded anew."""
        hardware = self.mmu.hardware
        assert hardware.cr4 & CR4_PAE
        long_mode = bool(hardware.efer & EFER_LMA)
        pdptes = (0, 0, 0, 0)
        if not long_mode:
            assert hardware.cr3 < 1 << 32, "the processor's CR3 has 32 bits outside long mode"
            pdptes = tuple(self.host.read_u64(hardware.cr3 + 8 * i) for i in range(4))  # type: ignore[assignment]
            assert not any(entry & 0xFFF0_0000_0000_01E6 for entry in pdptes if entry & 1)
        return naive.Registers(
            cr3=hardware.cr3, long_mode=long_mode, no_execute_enable=bool(hardware.efer & EFER_NXE), pdptes=pdptes
        )

    def _read(self, physical: int, size: int) -> int:
        assert self.host.is_ram(physical, size)
        assert self.mmu.guest.allocator.owner(physical) == self.mmu.tables.owner
        return int.from_bytes(self.host.read(physical, size), "little")

    def walk(self, linear: int, access: naive.Access) -> naive.Translation | naive.PageFault:
        result = naive.translate(self._read, self.registers(), linear, access)
        if isinstance(result, naive.Translation):
            assert result.updates == {}, "shadow entries have their accessed and dirty bits set"
            assert result.physical & -PAGE in self.gfn_of, "mapped memory that is not the guest's"
        return result

    def _try(self, linear: int, access: naive.Access) -> int | naive.PageFault:
        self.enter()
        entry = self.tlb.get(linear >> 12)
        if entry is None:
            found = self.walk(linear, access)
            if isinstance(found, naive.PageFault):
                return found

            # The rights of the entry, found by asking for each.
            def allowed(**kind: bool) -> bool:
                return isinstance(self.walk(linear, naive.Access(**kind)), naive.Translation)

            is_global = found.is_global and bool(self.mmu.hardware.cr4 & CR4_PGE)
            writable = allowed(write=True) or allowed(write=True, user=True)
            entry = Entry(found.physical & -PAGE, writable, allowed(user=True), not allowed(fetch=True), is_global)
            self.tlb[linear >> 12] = entry
        if (
            (access.write and not entry.writable)
            or (access.user and not entry.user)
            or (access.fetch and entry.no_execute)
        ):
            return naive.PageFault(error_bits(access) | 1, 0)
        return entry.host | linear & 0xFFF

    def access(self, linear: int, access: naive.Access) -> int | Guest | Device | TableWrite:
        """Run one access to its end: the host-physical address, or what the hypervisor has to do."""
        for _ in range(4):
            got = self._try(linear, access)
            if not isinstance(got, naive.PageFault):
                if access.write:
                    assert not self.mmu.guest.watched[self.gfn_of[got & -PAGE]], "wrote to a watched page table"
                return got
            outcome = self.mmu.fault(linear, got.error)
            if not isinstance(outcome, Resume):
                return outcome
        raise AssertionError(f"no end to the faults at {linear:#x} by {access}")

    def check_tables(self) -> None:
        """Every shadow entry leads to a table or a frame of the guest, and the reverse maps know it."""
        tables, guest = self.mmu.tables, self.mmu.guest
        links: dict[int, set[int]] = {}
        leaves = 0
        by_address = {table.address: table for table in tables.by_key.values()}
        for table in tables.by_key.values():
            for place in range(table.words, table.words + 512):
                entry = tables.words[place]
                if not entry:
                    continue
                target = entry & 0x000F_FFFF_FFFF_F000
                if target in by_address and not entry & 0x80:
                    assert by_address[target].level == table.level - 1
                    links.setdefault(target, set()).add(place)
                    continue
                assert table.level == 1 or (table.level == 2 and entry & 0x80)
                pages = 512 if entry & 0x80 else 1
                for i in range(pages):
                    gfn = self.gfn_of[target + i * PAGE]
                    assert not (entry & 2 and guest.watched[gfn])
                    assert place in tables.leaf_places(gfn)
                    leaves += 1
        for address, table in by_address.items():
            assert table.parents == links.get(address, set())
        known = sum(len(tables.leaf_places(gfn)) for gfn in range(guest.page_count) if guest.frames[gfn])
        assert known == leaves
        for gfn in tables.made_from:
            assert guest.watched[gfn] or gfn in self.mmu.walker.open_tables
        assert sum(guest.watched) == sum(tables.protected_in.values())
