"""Shadow paging case by case: what traps, what is flushed, what is kept. Long mode where nothing else is said."""

from __future__ import annotations

import pytest

from paging import naive
from trapgate.arch.cpuid import OPTERON_2007
from trapgate.arch.registers import CR0_PE, CR0_PG, CR0_WP, CR4_PAE, CR4_PGE, EFER_LMA, EFER_LME, EFER_NXE
from trapgate.machine.memory import PhysicalMemory
from trapgate.vmm.memory import FrameAllocator, GuestMemory
from trapgate.vmm.shadow import Device, Flush, Guest, Resume, ShadowMmu, TableWrite
from trapgate.vmm.shadow.follow import FLOOD

from .hardware import PAGE, Processor

READ, WRITE, USER_READ = naive.Access(), naive.Access(write=True), naive.Access(user=True)
PML4, PDP, PD, PT, PT2, OTHER_PML4, DATA, MORE = (0x10_0000 + i * PAGE for i in range(8))
#: Present, writable, user; accessed, dirty; global.
PWU, AD, G, PS = 0x07, 0x60, 0x100, 0x80
LINEAR = 0x40_3000
LONG_EFER = EFER_LME | EFER_LMA | EFER_NXE


class World:
    """A guest of 6 MB in long mode that maps DATA at LINEAR and, in a second table, itself at 0x60_0000 on."""

    def __init__(self, wp: bool = True, large_pages: bool = False, leaf: int = DATA | PWU, **options: int) -> None:
        self.host = PhysicalMemory(16 << 20)
        self.frames = FrameAllocator(self.host)
        self.guest = GuestMemory(self.frames, 6 << 20)
        self.mmu = ShadowMmu(self.guest, OPTERON_2007, large_pages=large_pages, **options)
        self.processor = Processor(self.mmu)
        for table, below in ((PML4, PDP), (OTHER_PML4, PDP), (PDP, PD)):
            self.guest.write_u64(table, below | PWU)
        self.guest.write_u64(PD + 8 * 2, PT | PWU)
        self.guest.write_u64(PD + 8 * 3, PT2 | PWU)
        self.guest.write_u64(PT + 8 * 3, leaf)
        for i in range(8):
            self.guest.write_u64(PT2 + 8 * i, PML4 + i * PAGE | PWU)
        cr0 = CR0_PE | CR0_PG | (CR0_WP if wp else 0)
        assert self.mmu.set_mode(cr0, PML4, CR4_PAE | CR4_PGE, LONG_EFER)
        self.processor.enter()

    def access(self, linear: int, access: naive.Access) -> int | Guest | Device | TableWrite:
        return self.processor.access(linear, access)

    def at(self, physical: int) -> int:
        address = self.guest.host_address(physical)
        assert address is not None
        return address


def window(table: int) -> int:
    """Where the guest sees one of its tables."""
    return 0x60_0000 + table - PML4


def test_the_first_write_to_a_clean_page_sets_its_dirty_bit() -> None:
    w = World()
    assert w.access(LINEAR + 5, READ) == w.at(DATA + 5)
    assert w.guest.read_u64(PT + 24) == DATA | PWU | 0x20
    assert w.access(LINEAR, WRITE) == w.at(DATA)
    assert w.guest.read_u64(PT + 24) == DATA | PWU | AD
    assert (w.mmu.counters.faults_resume, w.mmu.counters.fills) == (2, 2)
    assert [w.guest.read_u64(place) & AD for place in (PML4, PDP, PD + 16)] == [0x20] * 3


def test_writes_to_page_tables_trap_and_are_carried_over() -> None:
    w = World()
    assert w.access(LINEAR, READ) == w.at(DATA)
    assert w.access(window(PT) + 24, WRITE) == TableWrite(PT + 24)
    w.guest.write_u64(PT + 24, MORE | PWU | AD)
    assert w.mmu.counters.write_traps == 1
    w.mmu.invlpg(LINEAR)
    faults = w.mmu.counters.faults_resume
    assert w.access(LINEAR, WRITE) == w.at(MORE)
    assert w.mmu.counters.faults_resume == faults, "an entry that can be used as it is was filled in ahead"


def test_a_data_page_can_be_written_until_it_becomes_a_table() -> None:
    w = World()
    assert w.access(window(OTHER_PML4), WRITE) == w.at(OTHER_PML4)
    assert w.mmu.set_cr3(OTHER_PML4)
    assert w.mmu.take_flush() == Flush(not_global=True, addresses=(window(OTHER_PML4),))
    w.processor.tlb.pop(window(OTHER_PML4) >> 12)
    assert w.access(window(OTHER_PML4), WRITE) == TableWrite(OTHER_PML4)


@pytest.mark.parametrize("what", ["other frame", "clean", "other table"])
def test_a_writable_translation_that_may_be_old_is_flushed_before_a_frame_is_protected(what: str) -> None:
    w = World(leaf=OTHER_PML4 | PWU | AD | G)
    assert w.access(LINEAR, WRITE) == w.at(OTHER_PML4)
    if what == "other table":
        w.guest.write_u64(PD + 16, PT2 | PWU | AD)
    else:
        w.guest.write_u64(PT + 24, MORE | PWU | AD | G if what == "other frame" else OTHER_PML4 | PWU | G | 0x20)
    assert w.mmu.take_flush() == Flush(), "the guest has flushed nothing itself"
    assert w.mmu.set_cr3(OTHER_PML4)
    assert w.mmu.take_flush() == Flush(everything=True)


def test_a_changed_large_page_is_flushed_whole() -> None:
    w = World()
    w.guest.write_u64(PD + 32, 0x20_0000 | PWU | PS)
    assert w.access(0x80_1000, READ) == w.at(0x20_1000)
    w.guest.write_u64(PD + 32, 0x20_0000 | PWU | PS | G)
    assert w.mmu.take_flush() == Flush(everything=True)


def test_rights_of_an_upper_entry_count() -> None:
    w = World()
    assert w.access(LINEAR, WRITE) == w.at(DATA)
    w.guest.write_u64(PD + 16, PT | 0x25)
    w.mmu.invlpg(LINEAR)
    assert w.access(LINEAR, WRITE) == Guest(3)
    assert w.access(LINEAR, READ) == w.at(DATA)


def test_without_wp_the_supervisor_writes_read_only_user_pages() -> None:
    w = World(wp=False, leaf=DATA | 5)
    for _ in range(2):
        assert w.access(LINEAR, WRITE) == w.at(DATA)
        assert w.access(LINEAR, USER_READ) == w.at(DATA)
        assert w.access(LINEAR, naive.Access(write=True, user=True)) == Guest(7)


def test_devices_and_faults_of_the_guest() -> None:
    w = World(leaf=0xFEE0_0000 | PWU)
    assert w.access(LINEAR + 0x20, WRITE) == Device(0xFEE0_0020)
    assert w.guest.read_u64(PT + 24) & AD == AD
    assert w.access(0x123_0000, READ) == Guest(0)
    assert w.mmu.counters.faults_device == 1
    assert w.mmu.counters.fills == 0


def test_a_flooded_table_is_written_freely_and_compared() -> None:
    w = World()
    assert w.access(LINEAR, READ) == w.at(DATA)
    assert w.access(window(PT), WRITE) == TableWrite(PT)
    for i in range(FLOOD):
        assert w.guest.watched[PT >> 12]
        w.guest.write_u64(PT + 8 * (16 + i), DATA | PWU)
    assert w.access(window(PT), WRITE) == w.at(PT)
    assert w.mmu.counters.unprotected == 1
    # An entry that was not present is seen without INVLPG, an old one with it.
    w.host.write_u64(w.at(PT + 32), MORE | PWU)
    assert w.access(LINEAR + PAGE, READ) == w.at(MORE)
    w.host.write_u64(w.at(PT + 24), MORE | PWU)
    w.mmu.invlpg(LINEAR)
    assert w.access(LINEAR, READ) == w.at(MORE)
    # A fault compares too: the entry is there before the guest is blamed.
    w.host.write_u64(w.at(PT + 24), DATA | PWU | AD)
    assert isinstance(w.mmu.fault(LINEAR, 3), Resume)
    assert w.processor.walk(LINEAR, READ).physical == w.at(DATA)  # type: ignore[union-attr]


def test_an_entry_that_was_used_and_changed_back_is_not_missed() -> None:
    w = World(leaf=DATA | PWU | AD)
    w.mmu.unprotect(PT >> 12)
    assert w.access(window(PT), WRITE) == w.at(PT)
    assert w.access(LINEAR + PAGE, READ) == Guest(0)
    w.host.write_u64(w.at(PT + 24), MORE | PWU | AD)
    assert w.access(LINEAR, READ) == w.at(MORE)
    w.host.write_u64(w.at(PT + 24), DATA | PWU | AD)
    w.mmu.invlpg(LINEAR)
    assert w.access(LINEAR, READ) == w.at(DATA)


def test_what_a_mode_change_flushes() -> None:
    w = World(leaf=DATA | 5)
    paged, cr4 = CR0_PE | CR0_PG, CR4_PAE | CR4_PGE
    assert w.access(LINEAR, WRITE) == Guest(3)
    assert w.mmu.set_mode(paged, PML4, cr4, LONG_EFER)
    assert w.mmu.take_flush() == Flush(everything=True)
    assert w.access(LINEAR, WRITE) == w.at(DATA)
    assert w.mmu.set_mode(paged, PML4, cr4, LONG_EFER)
    assert w.mmu.take_flush() == Flush()
    assert w.mmu.set_mode(paged, PML4, CR4_PAE, LONG_EFER)
    assert w.mmu.take_flush() == Flush(everything=True)
    assert w.mmu.set_mode(paged | CR0_WP, PML4, CR4_PAE, LONG_EFER)
    assert w.access(LINEAR, WRITE) == Guest(3)


@pytest.mark.parametrize("through", ["cr3", "mode"])
def test_opened_tables_are_compared_and_closed_with_the_address_space(through: str) -> None:
    w = World()
    assert w.access(LINEAR, READ) == w.at(DATA)
    w.mmu.unprotect(PT >> 12)
    assert w.access(window(PT), WRITE) == w.at(PT)
    assert w.access(LINEAR, READ) == w.at(DATA)
    w.host.write_u64(w.at(PT + 24), MORE | PWU)
    if through == "cr3":
        assert w.mmu.set_cr3(PML4)
    else:
        assert w.mmu.set_mode(CR0_PE | CR0_PG | CR0_WP, PML4, CR4_PAE, LONG_EFER)
    assert w.access(LINEAR, READ) == w.at(MORE)
    assert w.access(window(PT), WRITE) == TableWrite(PT)


def test_a_store_to_a_table_of_its_own_path_can_be_finished_without_emulation() -> None:
    w = World()
    for table in (PML4, PDP, PD, PT2):
        assert w.access(window(table), WRITE) == TableWrite(table)
        w.mmu.unprotect(table >> 12)
        assert w.access(window(table), WRITE) == w.at(table)
        assert w.access(window(table), READ) == w.at(table)


def test_a_table_that_the_guest_unlinked_is_free_at_once() -> None:
    w = World()
    assert w.access(LINEAR, READ) == w.at(DATA)
    freed = w.mmu.counters.tables_freed
    w.guest.write_u64(PD + 16, 0)
    assert w.mmu.counters.tables_freed == freed + 1
    assert w.mmu.take_flush() == Flush(everything=True), "processors cache upper entries that lead to the freed frame"
    assert w.access(window(PT), WRITE) == w.at(PT)


def test_roots_are_kept_and_the_oldest_goes() -> None:
    w = World(max_roots=2)
    for cr3 in (OTHER_PML4, PML4, OTHER_PML4):
        assert w.mmu.set_cr3(cr3)
    # Paging off, PML4, OTHER_PML4 were made: the first is gone.
    assert (w.mmu.counters.roots_made, w.mmu.counters.roots_reused) == (3, 2)
    assert w.access(LINEAR, READ) == w.at(DATA)
    assert w.mmu.set_cr3(MORE)
    assert w.mmu.counters.roots_made == 4
    assert w.access(LINEAR, READ) == Guest(0)


def test_large_pages_lie_in_runs_and_are_split_where_a_table_is_inside() -> None:
    w = World(large_pages=True)
    w.guest.write_u64(PD + 32, 0x40_0000 | PWU | PS)
    assert w.access(0x80_1000, WRITE) == w.at(0x40_1000)
    fills = w.mmu.counters.fills
    assert w.access(0x90_0000, WRITE) == w.at(0x50_0000)
    assert w.mmu.counters.fills == fills, "one entry maps 2 MB"
    w.guest.write_u64(PD + 40, 0x40_2000 | PWU)
    w.guest.write_u64(0x40_2000, DATA | PWU)
    assert w.access(0xA0_0000, READ) == w.at(DATA)
    assert w.access(0x80_2000, WRITE) == TableWrite(0x40_2000)
    assert w.access(0x80_1000, WRITE) == w.at(0x40_1000)
    w.processor.check_tables()


def test_pdptes_are_loaded_with_cr3_and_refused_with_reserved_bits() -> None:
    w = World()
    table = 0x30_0000
    w.guest.write_u64(table, PD | 1)
    w.guest.write_u64(PD + 16, PT | PWU)
    cr0 = CR0_PE | CR0_PG | CR0_WP
    assert w.mmu.set_mode(cr0, table, CR4_PAE, EFER_NXE)
    assert w.access(LINEAR, READ) == w.at(DATA)
    assert w.mmu.hardware.cr3 < 1 << 32
    w.guest.write_u64(table, 0)
    assert w.mmu.set_mode(cr0 & ~CR0_WP, table, CR4_PAE, EFER_NXE)
    assert w.access(LINEAR, READ) == w.at(DATA), "memory is not looked at before the next MOV CR3"
    w.guest.write_u64(table, PD | 7)
    assert not w.mmu.set_cr3(table)
    assert w.access(LINEAR, READ) == w.at(DATA), "nothing has changed"
    w.guest.write_u64(table, 0)
    assert w.mmu.set_cr3(table)
    assert w.access(LINEAR, READ) == Guest(0)


def test_what_the_processor_is_run_with() -> None:
    w = World()
    hardware = w.mmu.hardware
    assert hardware.cr0 == CR0_PG | CR0_WP
    assert (hardware.cr4, hardware.efer) == (CR4_PAE | CR4_PGE, LONG_EFER)
    assert w.mmu.set_mode(0, 0, 0, 0)
    hardware = w.mmu.hardware
    assert (hardware.cr0, hardware.cr4, hardware.efer) == (CR0_PG | CR0_WP, CR4_PAE, 0)
    assert w.access(0x1_2345, USER_READ) == w.at(0x1_2345)
    assert w.access(0xB_8000_0000 & 0xFFFF_FFFF, WRITE) == Device(0x8000_0000)


def test_tables_are_bounded_by_what_is_asked_and_what_the_host_has() -> None:
    w = World(max_tables=16)
    for i in range(64):
        w.guest.write_u64(PD + 8 * (8 + i), 0x38_0000 + i * PAGE | PWU)
        w.guest.write_u64(0x38_0000 + i * PAGE, DATA | PWU)
    for i in range(64):
        assert w.access((8 + i) << 21, READ) == w.at(DATA)
        assert len(w.mmu.tables.by_key) <= 16
    w.processor.check_tables()
    # Now somebody else takes all frames of the host but a few.
    while w.frames.free_frames > 3:
        w.frames.allocate("somebody")
    for i in range(64):
        assert w.access((8 + i) << 21, READ) == w.at(DATA)
    w.processor.check_tables()


def test_translate_gives_what_an_emulated_access_needs() -> None:
    w = World(leaf=DATA | 5)
    assert w.mmu.translate(LINEAR + 4, 4) == DATA + 4
    assert w.guest.read_u64(PT + 24) == DATA | 5 | 0x20
    assert w.mmu.translate(LINEAR, 2) == Guest(3)
    assert w.mmu.counters.fills == 0
