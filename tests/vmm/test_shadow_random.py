"""Random guests on shadow tables, held to the naive walk of the guest's own tables.

Every access that is compared comes behind an INVLPG of its address, so that nothing the guest sees may be old. The
stores in between run on whatever the TLB still holds.
"""

from __future__ import annotations

import os
import random

import pytest

from paging import naive
from trapgate.arch.cpuid import OPTERON_2007
from trapgate.arch.registers import CR0_PE, CR0_PG, CR0_WP, CR4_PAE, CR4_PGE, CR4_PSE, EFER_LMA, EFER_LME, EFER_NXE
from trapgate.machine.memory import PhysicalMemory
from trapgate.vmm.memory import FrameAllocator, GuestMemory
from trapgate.vmm.shadow import Device, Guest, ShadowMmu, TableWrite

from .hardware import PAGE, Processor

GUEST_SIZE = 6 << 20
#: Frames that serve as tables of all levels; some lie in a large page that is mapped too.
TABLES = [*range(0x200, 0x206), 0x3FF, 0x5FE]
OUTSIDE = [0x700, 0xF_FFFF, 0x8_0000_0000]
SLOTS = [0, 1, 511]
#: Entries of 1024-entry tables, in each quarter.
SLOTS32 = [0, 1, 0x100, 0x201, 0x3FF]
ACCESSES = [
    naive.Access(write=write, user=user, fetch=fetch)
    for user in (False, True)
    for write, fetch in ((False, False), (True, False), (False, True))
]
SEEDS = int(os.environ.get("TRAPGATE_SHADOW_SEEDS", "24"))
STEPS = 400


class RandomGuest:
    """A guest that does what it likes to its page tables."""

    def __init__(self, seed: int) -> None:
        self.choose = choose = random.Random(seed)
        host = PhysicalMemory(16 << 20)
        frames = FrameAllocator(host)
        self.guest = GuestMemory(frames, GUEST_SIZE, scattered=choose.random() < 0.4)
        self.mmu = ShadowMmu(
            self.guest,
            OPTERON_2007,
            large_pages=choose.random() < 0.5,
            max_roots=choose.choice((1, 2, 16)),
            max_tables=choose.choice((16, 40, 4096)),
        )
        self.processor = Processor(self.mmu)
        self.registers: naive.Registers | None = None
        self.cr3 = 0
        self.seen: set[str] = set()
        self.known: list[int] = []
        self.pge = False
        #: How often an entry is such that a walk gets past it.
        self.sane = choose.choice((0.8, 0.95, 0.99))
        self.fill_tables(8)
        self.change_mode()

    # -- what it does

    def fill_tables(self, size: int) -> None:
        self.filled_for = size
        for table in TABLES:
            for slot in SLOTS if size == 8 else SLOTS32:
                self.guest.write(table * PAGE + size * slot, self.entry(size).to_bytes(size, "little"))

    def entry(self, size: int) -> int:
        choose = self.choose
        chance = choose.random
        sane = chance() < self.sane
        frame = choose.choice(TABLES) if chance() < 0.75 else choose.randrange(GUEST_SIZE // PAGE)
        value = frame << 12
        for bit, likely in ((0, 0.9), (1, 0.5), (2, 0.5), (5, 0.6), (6, 0.5), (8, 0.3)):
            value |= (chance() < (0.95 if sane and bit < 3 else likely)) << bit
        if chance() < 0.08:
            value |= 1 << 7
            if sane:
                value &= ~(0x1F_E000 if chance() < 0.5 or size == 4 else 0x3FFF_E000)
                if size == 4:
                    value &= ~0x3F_E000
        if size == 8:
            value |= (chance() < (0.03 if sane else 0.3)) << 63
        if not sane:
            value = value & 0xFFF | choose.choice((*OUTSIDE, frame)) << 12
            value |= (chance() < 0.2) << choose.choice((49, 53, 62))
        if size == 8:
            return value
        return value & 0xFFFF_FFFF

    def linear(self) -> int:
        """An address worth trying; often one that was reached before."""
        if self.known and self.choose.random() < 0.5:
            return self.choose.choice(self.known)
        return self.any_linear()

    def any_linear(self) -> int:
        choose = self.choose
        if self.registers is None:
            return choose.choice((choose.randrange(GUEST_SIZE), choose.getrandbits(32)))
        size = 8 if self.registers.pae else 4
        offset = size * choose.choice(SLOTS if size == 8 else SLOTS32)
        if not self.registers.pae:
            return choose.choice(SLOTS32) << 22 | choose.choice(SLOTS32) << 12 | offset
        value = offset
        for shift in (12, 21, 30, 39):
            value |= choose.choice(SLOTS) << shift
        if not self.registers.long_mode:
            return value & 0xFFFF_FFFF
        return value | 0xFFFF << 48 if value >> 47 else value

    def change_mode(self) -> None:
        choose = self.choose
        kind = choose.choice(("none", "two-level", "pae", "long", "long"))
        wp, pse, pge, nxe = (choose.random() < p for p in (0.6, 0.7, 0.7, 0.7))
        cr3 = choose.choice(TABLES) * PAGE if choose.random() < 0.97 else choose.choice(OUTSIDE) * PAGE
        cr0 = CR0_PE | (CR0_WP if wp else 0) | (0 if kind == "none" else CR0_PG)
        cr4 = (CR4_PSE if pse else 0) | (CR4_PGE if pge else 0) | (CR4_PAE if kind in ("pae", "long") else 0)
        efer = (EFER_NXE if nxe else 0) | (EFER_LME | EFER_LMA if kind == "long" else 0)
        # A mode is entered with paging off, as systems do, so that the processor flushes.
        known_pdptes = self.registers is not None and self.registers.pae and not self.registers.long_mode
        direct = choose.random() < 0.5 and not (known_pdptes and kind == "pae")
        if not direct:
            assert self.mmu.set_mode(CR0_PE, self.cr3, 0, 0)
            self.registers = None
            self.known.clear()
            self.processor.enter()
        pdptes: tuple[int, int, int, int] | None = (0, 0, 0, 0)
        if kind != "long":
            cr3 &= 0xFFFF_FFFF
        if kind == "pae":
            pdptes = self.load_pdptes(cr3)
        accepted = self.mmu.set_mode(cr0, cr3, cr4, efer)
        assert accepted == (pdptes is not None)
        if pdptes is None:
            self.seen.add("refused pdptes")
            return
        self.cr3, self.pge = cr3, pge
        self.registers = None
        self.seen.add(kind)
        self.known.clear()
        if kind != "none":
            self.registers = naive.Registers(
                cr3=cr3, pae=kind != "two-level", long_mode=kind == "long", page_size_extensions=pse,
                write_protect=wp, no_execute_enable=nxe, physical_bits=48, pdptes=pdptes,
            )  # fmt: skip
            if self.filled_for != (8 if self.registers.pae else 4):
                self.fill_tables(8 if self.registers.pae else 4)

    def load_pdptes(self, cr3: int) -> tuple[int, int, int, int] | None:
        """APM vol. 2, 5.2.3. Mostly the tables are made good first: random ones are seldom."""
        base = cr3 & 0xFFFF_FFE0
        if self.guest.is_ram(base, 32) and self.choose.random() < 0.9:
            for i in range(4):
                self.guest.write_u64(base + 8 * i, self.choose.choice(TABLES) << 12 | (self.choose.random() < 0.9))
        values = tuple(self.read(base + 8 * i, 8) for i in range(4))
        if any(value & 1 and value & 0xFFFF_0000_0000_01E6 for value in values):
            return None
        return values  # type: ignore[return-value]

    def change_cr3(self) -> bool:
        """False: refused, so that nothing was flushed."""
        cr3 = self.choose.choice(TABLES) * PAGE
        registers = self.registers
        if registers is None:
            assert self.mmu.set_cr3(cr3)
            self.cr3 = cr3
            return True
        pdptes: tuple[int, int, int, int] | None = registers.pdptes
        if registers.pae and not registers.long_mode:
            pdptes = self.load_pdptes(cr3)
        assert self.mmu.set_cr3(cr3) == (pdptes is not None)
        if pdptes is None:
            self.seen.add("refused pdptes")
            return False
        self.cr3 = cr3
        fields = {**registers.__dict__, "cr3": cr3, "pdptes": pdptes}
        self.registers = naive.Registers(**fields)
        return True

    def store(self) -> None:
        """A store by the guest, on what its TLB holds; the hypervisor emulates it where it must."""
        address = self.linear()
        size = 4 if address & 4 else self.choose.choice((4, 8))
        data = self.entry(size).to_bytes(size, "little")
        got = self.processor.access(address, naive.Access(write=True, user=self.choose.random() < 0.3))
        if isinstance(got, int):
            self.guest.host.write(got, data)
            self.known = [*self.known[-7:], address]
            self.seen.add("stored")
        elif isinstance(got, TableWrite):
            self.seen.add("table write")
            if self.choose.random() < 0.2:
                # The hypervisor cannot emulate it.
                self.seen.add("unprotected")
                self.mmu.unprotect(got.address >> 12)
                again = self.processor.access(address, naive.Access(write=True))
                if not isinstance(again, int):
                    return
                self.guest.host.write(again, data)
            else:
                self.guest.write(got.address, data)

    def write_table(self) -> None:
        """A device, or the emulator, writes to a table."""
        table, size = self.choose.choice(TABLES), self.choose.choice((4, 8))
        place = table * PAGE + self.slot() + self.choose.choice((0, 8 - size))
        self.guest.write(place & -size, self.entry(size).to_bytes(size, "little"))

    def slot(self) -> int:
        """Where in a table an entry of the present mode stands, in bytes."""
        if self.registers is None or self.registers.pae:
            return 8 * self.choose.choice(SLOTS)
        return 4 * self.choose.choice(SLOTS32)

    def change_bits(self) -> None:
        """Accessed and dirty bits are taken away, as systems do to see what is in use, or rights are changed."""
        place = self.choose.choice(TABLES) * PAGE + self.slot()
        if self.choose.random() < 0.6:
            taken = self.choose.choice((0x20, 0x40, 0x60))
            self.guest.write_u32(place, self.guest.read_u32(place) & ~taken)
        else:
            self.guest.write_u32(place, self.guest.read_u32(place) ^ self.choose.choice((2, 4, 6, 0x80, 0x100)))

    # -- what is compared

    def read(self, physical: int, size: int) -> int:
        if not self.guest.is_ram(physical, size):
            return (1 << 8 * size) - 1
        return int.from_bytes(self.guest.read(physical, size), "little")

    def compare(self, linear: int, access: naive.Access, invalidate: bool = True) -> None:
        if invalidate:
            self.mmu.invlpg(linear)
        if self.registers is None:
            expected: naive.Translation | naive.PageFault = naive.Translation(linear, 0, False, 0)
        else:
            expected = naive.translate(self.read, self.registers, linear, access)
        before = {table: bytearray(self.guest.read(table * PAGE, PAGE)) for table in TABLES}
        got = self.processor.access(linear, access)
        where = f"{access} of {linear:#x} with {self.registers}: {got}"
        if isinstance(expected, naive.PageFault):
            assert got == Guest(expected.error), where
            self.seen.add(f"error {expected.error}")
        else:
            self.seen.add(f"page {expected.page_size}")
            self.known = [*self.known[-7:], linear]
            if not self.guest.is_ram(expected.physical):
                assert got == Device(expected.physical), where
                self.seen.add("device")
            elif isinstance(got, TableWrite):
                assert access.write, where
                assert got.address == expected.physical, where
                assert self.guest.watched[got.address >> 12], where
            else:
                assert got == self.guest.host_address(expected.physical), where
            size = 8 if self.registers is not None and self.registers.pae else 4
            for place, entry in expected.updates.items():
                if self.guest.is_ram(place):
                    at = place % PAGE
                    before.setdefault(place // PAGE, bytearray(self.guest.read(place & -PAGE, PAGE)))
                    before[place // PAGE][at : at + size] = entry.to_bytes(size, "little")
        for table, content in before.items():
            assert self.guest.read(table * PAGE, PAGE) == content, f"{where}: entries in frame {table:#x}"

    def compare_some(self) -> None:
        """The processor has flushed everything of itself: nothing may be old."""
        tried: set[int] = set()
        for _ in range(4):
            linear = self.linear()
            if linear >> 12 not in tried:
                self.compare(linear, self.choose.choice(ACCESSES), invalidate=False)
            tried.add(linear >> 12)

    def step(self) -> None:
        what = self.choose.random()
        if what < 0.45:
            self.compare(self.linear(), self.choose.choice(ACCESSES))
        elif what < 0.65:
            self.store()
        elif what < 0.80:
            self.write_table()
        elif what < 0.88:
            self.change_bits()
        elif what < 0.93:
            if self.change_cr3() and not self.pge:
                self.compare_some()
        elif what < 0.94:
            self.mmu.unprotect(self.choose.choice(TABLES))
        elif what < 0.945:
            role = self.mmu.walker.mode.role
            self.change_mode()
            if self.mmu.walker.mode.role != role:
                self.compare_some()
        elif what < 0.955:
            self.fill_tables(8 if self.registers is None or self.registers.pae else 4)
        else:
            # An access on old translations: it may go anywhere in the guest, and nowhere else.
            self.processor.access(self.linear(), self.choose.choice(ACCESSES))


@pytest.mark.parametrize("seed", range(SEEDS))
def test_shadows_agree_with_the_guests_own_tables(seed: int) -> None:
    guest = RandomGuest(seed)
    for number in range(STEPS):
        guest.step()
        if number % 50 == 0:
            guest.processor.check_tables()
    guest.processor.check_tables()
    allocator, owner = guest.guest.allocator, guest.mmu.tables.owner
    assert allocator.owned(owner) > 0
    guest.mmu.release()
    assert allocator.owned(owner) == 0
    assert not any(guest.guest.watched)


def test_random_guests_reach_everything() -> None:
    """Modes, page sizes, error codes, traps and opened tables all occur, so that the test above means something."""
    seen: set[str] = set()
    counts: dict[str, int] = {}
    for seed in range(1000, 1008):
        guest = RandomGuest(seed)
        for _ in range(STEPS):
            guest.step()
        seen |= guest.seen
        for name, value in guest.mmu.counters.__dict__.items():
            counts[name] = counts.get(name, 0) + value
    assert {"none", "two-level", "pae", "long", "device", "stored", "table write", "unprotected"} <= seen
    assert {"refused pdptes", *(f"page {1 << n}" for n in (12, 21, 22, 30))} <= seen
    assert {f"error {code}" for code in (0, 2, 4, 6, 16, 20, 3, 5, 7, 9, 13, 17)} <= seen
    assert [name for name, value in counts.items() if value == 0] == []
