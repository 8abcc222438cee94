"""Nested page faults: EXITINFO1 and EXITINFO2 for every kind of access, and what the walks leave in the tables (APM
vol. 2, 15.25.5, 15.25.6, 15.25.7).
"""

from __future__ import annotations

import pytest

from engine.harness import (
    CODE32,
    DATA,
    GDT,
    IDT,
    INTERRUPT_STACK,
    NX,
    STUBS,
    TSS,
    G,
    P,
    U,
    W,
)
from svm.conftest import LATER, Make
from svm.world import VMCB, World, event
from trapgate.arch import vmcb

NPF, HLT, VMMCALL = vmcb.EXIT_NPF, vmcb.EXIT["hlt"], vmcb.EXIT["vmmcall"]
PRESENT, WRITE, USER, RESERVED, FETCH = 1, 2, 4, 8, 16
FINAL, TABLE = 1 << 32, 1 << 33
A, D = 0x20, 0x40
WALKED = WRITE | USER | TABLE  # "always treated as data writes"


def long_mode(world: Make, text: str, features: frozenset[str] | None = None) -> World:
    w = world(features)
    w.guest.enter_long()
    w.guest.set(rbx=DATA)
    return w.wrap().nested().code(64, text)


ACCESSES = {
    "read": ("8b 03  mov eax,[rbx]", 0), "write": ("89 03  mov [rbx],eax", WRITE),
    "update": ("01 03  add [rbx],eax", WRITE),
}  # fmt: skip


@pytest.mark.parametrize("how", list(ACCESSES))
@pytest.mark.parametrize(("rights", "shown"), [
    (0, 0), (P | U, PRESENT), (P | W, PRESENT), (P | W | U | 1 << 51, PRESENT | RESERVED), (P | W | U | NX, None),
])  # fmt: skip
def test_data(world: Make, how: str, rights: int, shown: int | None) -> None:
    text, access = ACCESSES[how]
    w = long_mode(world, text + "\n0f 01 d9  vmmcall")
    w.guest.set(rbx=DATA + 0x123)
    w.map_nested(DATA, DATA, rights)
    data = w.memory.read(DATA, 0x1000)
    if shown is None or (rights == P | U and not access):
        assert w.run().code == VMMCALL
        return
    assert w.run() == (NPF, FINAL | USER | access | shown, DATA + 0x123, 0)
    assert (w[vmcb.RIP], w[vmcb.NEXT_RIP]) == (0x8000, 0)
    assert w.memory.read(DATA, 0x1000) == data
    w.map_nested(DATA, DATA)  # put right, it goes on
    assert w.run().code == VMMCALL


@pytest.mark.parametrize(("rights", "shown"), [
    (0, 0), (P | W | U | NX, PRESENT), (P | W, PRESENT), (P | W | U | 1 << 50, PRESENT | RESERVED),
])  # fmt: skip
def test_instruction_fetch(world: Make, rights: int, shown: int) -> None:
    w = long_mode(world, "e9 fb 0f 00 00  jmp 0x9000").code(64, "0f 01 d9  vmmcall", 0x9010)
    w.code(64, "e9 0b 10 00 00  jmp 0x9010")
    w.map_nested(0x9000, 0x9000, rights)
    assert w.run() == (NPF, FINAL | USER | FETCH | shown, 0x9010, 0)
    assert w[vmcb.RIP] == 0x9010
    w.map_nested(0x9000, 0x9000)
    assert w.run().code == VMMCALL


def test_the_first_fetch_of_a_run(world: Make) -> None:
    w = long_mode(world, "90  nop").go(0x8123)
    w.map_nested(0x8000, 0, 0)
    assert w.run() == (NPF, FINAL | USER | FETCH, 0x8123, 0)


def tables(w: World, linear: int) -> list[int]:
    """Guest-physical addresses of the entries of a walk, from the first level."""
    table, places = w.guest.root, []
    for shift in (39, 30, 21, 12):
        places.append(table + (linear >> shift & 511) * 8)
        table = w.memory.read_u64(places[-1]) & 0xF_FFFF_FFFF_F000
    return places


FAR = 0x80_4080_0000  # an address whose tables are its own


@pytest.mark.parametrize("level", range(4))
@pytest.mark.parametrize(("rights", "shown"), [(0, 0), (P | U, PRESENT), (P | W, PRESENT)])
@pytest.mark.parametrize("how", ["read", "write", "fetch"])
def test_guest_tables(world: Make, level: int, rights: int, shown: int, how: str) -> None:
    """A walk for a read and even for a fetch is a write of the table at the nested level."""
    w = long_mode(world, "ff e3  jmp rbx" if how == "fetch" else ACCESSES[how][0])
    w.guest.map(FAR, DATA)
    w.guest.set(rbx=FAR + 5)
    place = tables(w, FAR)[level]
    if level:
        w.map_nested(place & ~0xFFF, place & ~0xFFF, rights)
        assert w.run() == (NPF, WALKED | shown, place, 0)
    else:
        w.map_nested(w.guest.root, w.guest.root, rights)
        # The root serves the code as well.
        first = tables(w, 0x8000)[0]
        assert w.run() == (NPF, WALKED | shown, first, 0)
        return
    assert w[vmcb.RIP] == (FAR + 5 if how == "fetch" else 0x8000)


def test_guest_faults_come_before_the_final_translation(world: Make) -> None:
    # 15.25.6, steps 2 to 4.
    w = long_mode(world, "89 03  mov [rbx],eax").intercept_exceptions(14)
    w.map_nested(DATA, 0, 0)
    w.guest.map(DATA, DATA, 0)
    assert w.run() == (0x4E, WRITE, DATA, 0)
    w.guest.map(DATA, DATA, P | U)
    assert w.run() == (0x4E, PRESENT | WRITE, DATA, 0)
    w.guest.map(DATA, DATA)
    assert w.run() == (NPF, FINAL | USER | WRITE, DATA, 0)


def test_accessed_and_dirty_bits(world: Make) -> None:
    """15.25.5: nested entries of guest tables get both; the final page D only for a write. Guest entries as always."""
    w = long_mode(world, "8b 03  mov eax,[rbx]\n0f 01 d9  vmmcall\n89 03  mov [rbx],eax\n0f 01 d9  vmmcall")
    w.guest.map(FAR, DATA)
    w.guest.set(rbx=FAR)
    places = tables(w, FAR)

    def nested(place: int) -> int:
        return w.memory.read_u64(w.nested_entry(place)) & (A | D)

    def guest(place: int) -> int:
        return w.memory.read_u64(place) & (A | D)

    assert w.run().code == VMMCALL
    assert [nested(place) for place in places] == [A | D] * 4
    assert [guest(place) for place in places] == [A] * 4
    assert nested(DATA) == A
    w.go(0x8005)
    assert w.run().code == VMMCALL
    assert [guest(place) for place in places] == [A, A, A, A | D]
    assert nested(DATA) == A | D
    assert nested(0x8000) == A
    assert nested(0x9000) == 0


def test_a_fault_at_the_end_leaves_the_tables_bits(world: Make) -> None:
    # 15.25.6, step 2: "Guest dirty and accessed bits are set as needed in the guest page tables during the walk."
    w = long_mode(world, "8b 03  mov eax,[rbx]")
    w.guest.map(FAR, DATA)
    w.guest.set(rbx=FAR)
    w.map_nested(DATA, 0, 0)
    assert w.run() == (NPF, FINAL | USER, DATA, 0)
    assert w.memory.read_u64(w.nested_entry(tables(w, FAR)[3])) & (A | D) == A | D
    assert w.memory.read_u64(w.nested_entry(DATA)) == 0


@pytest.mark.parametrize(("text", "info"), [
    ("8b 03  mov eax,[rbx]", 0), ("89 03  mov [rbx],eax", WRITE), ("48 01 03  add [rbx],rax", WRITE),
    ("0f 10 03  movups xmm0,[rbx]", 0),
])  # fmt: skip
def test_the_second_page_of_an_access(world: Make, text: str, info: int) -> None:
    """Its guest-physical address is another page's: the pages need not follow each other."""
    w = long_mode(world, text)
    w.guest.map(DATA + 0x1000, 0x11_0000)
    w.guest.set(rbx=DATA + 0xFFD)
    w.map_nested(0x11_0000, 0, 0)
    data = w.memory.read(DATA, 0x1000)
    assert w.run() == (NPF, FINAL | USER | info, 0x11_0000, 0)
    assert w.memory.read(DATA, 0x1000) == data


def test_the_second_page_of_a_fetch(world: Make) -> None:
    w = long_mode(world, "90  nop").go(0x8FFE)
    w.memory.write(0x8FFE, b"\x0f\x01\xd9")
    w.guest.map(0x9000, 0x11_0000)
    w.memory.write(0x11_0000, b"\xd9")
    w.map_nested(0x11_0000, 0, 0)
    assert w.run() == (NPF, FINAL | USER | FETCH, 0x11_0000, 0)
    assert w[vmcb.RIP] == 0x8FFE
    w.map_nested(0x11_0000, 0x11_0000)
    assert w.run().code == VMMCALL


# -- the processor's own accesses


@pytest.mark.parametrize(("page", "info", "address"), [
    (IDT, 0, IDT + 16 * 6), (GDT, 0, GDT + 8), (TSS, 0, TSS + 36),
    (INTERRUPT_STACK - 0x1000, WRITE, INTERRUPT_STACK - 8),
])  # fmt: skip
def test_delivery(world: Make, page: int, info: int, address: int) -> None:
    """EXITINTINFO has the event under way; injected again it arrives."""
    w = long_mode(world, "0f 0b  ud2")
    w.map_nested(page, 0, 0)
    assert w.run() == (NPF, FINAL | USER | info, address, event(3, 6))
    assert w[vmcb.RIP] == 0x8000
    w.map_nested(page, page)
    w[vmcb.EVENTINJ] = w[vmcb.EXITINTINFO]
    assert w.run().code == HLT
    assert w[vmcb.RIP] == STUBS + 0x60


@pytest.mark.parametrize("how", ["exception", "software", "interrupt", "virtual", "nmi"])
def test_every_kind_of_event(world: Make, how: str) -> None:
    text = {"exception": "0f 0b  ud2", "software": "cd 06  int 6"}.get(how, "90  nop")
    w = long_mode(world, text)
    w[vmcb.RFLAGS] |= 1 << 9
    info = {"exception": event(3, 6), "software": event(4, 6), "interrupt": event(0, 6), "virtual": event(0, 6),
            "nmi": event(2, 2)}[how]  # fmt: skip
    w.guest.interrupt = 6
    if how == "interrupt":
        w.processor.set_intr(True)
    elif how == "virtual":
        w.virtual_interrupt(6)
    elif how == "nmi":
        w.processor.pulse_nmi()
    w.map_nested(IDT, 0, 0)
    assert w.run() == (NPF, FINAL | USER, IDT + 16 * (info & 0xFF), info)
    assert w[vmcb.RIP] == 0x8000


def test_a_segment_load_marks_its_descriptor_accessed(world: Make) -> None:
    w = world()
    w.guest.enter_protected("two-level")
    w.guest.set_descriptor(0x60, 0x00CF_9200_0000_FFFF)
    w.wrap().nested().code(32, "8e db  mov ds,ebx\n0f 01 d9  vmmcall")
    w.guest.set(rbx=0x60)
    w.map_nested(GDT, GDT, P | U)
    exit_ = w.run()
    assert exit_.code == NPF
    # The guest's page is dirty by then, so the write of the descriptor faults, and not its read.
    assert exit_ == (NPF, FINAL | USER | WRITE | PRESENT, exit_.info2, 0)
    assert exit_.info2 & ~7 == GDT + 0x60
    w.map_nested(GDT, GDT)
    assert w.run().code == VMMCALL


def test_call_to_another_privilege_reads_the_tss(world: Make) -> None:
    w = world()
    w.guest.enter_protected("two-level", cpl=3)
    w.guest.set_gate32(0x80, CODE32, STUBS, 0xEE)
    w.wrap().nested().code(32, "cd 80  int 0x80")
    w.map_nested(TSS, 0, 0)
    assert w.run() == (NPF, FINAL | USER, TSS + 4, event(4, 0x80))


# -- without paging in the guest


@pytest.mark.parametrize("mode", ["real", "protected"])
def test_an_unpaged_guest_is_translated_too(world: Make, mode: str) -> None:
    # 15.25.5: "the final guest-physical address is equal to the guest-linear address".
    w = world()
    if mode == "real":
        w.guest.enter_real(0x100)
        w.wrap().nested().code(16, "89 07  mov [bx],ax\n0f 01 d9  vmmcall", 0x9000)
    else:
        w.guest.enter_protected()
        w.wrap().nested().code(32, "89 03  mov [ebx],eax\n0f 01 d9  vmmcall")
    w.guest.set(rbx=0x4010)
    address = 0x5010 if mode == "real" else 0x4010
    w.map_nested(address & ~0xFFF, 0, 0)
    assert w.run() == (NPF, FINAL | USER | WRITE, address, 0)
    w.map_nested(address & ~0xFFF, 0x11_0000)
    w[vmcb.RAX] = 0x5A5A
    assert w.run().code == VMMCALL
    assert w.memory.read_u16(0x11_0010) == 0x5A5A


# -- attributes (15.25.7)


def test_wp_of_the_guest_does_not_help(world: Make) -> None:
    w = long_mode(world, "89 03  mov [rbx],eax")
    w[vmcb.CR0] &= ~(1 << 16)
    w.map_nested(DATA, DATA, P | U)
    assert w.run() == (NPF, FINAL | USER | WRITE | PRESENT, DATA, 0)


def test_global_pages_are_the_guests_word(world: Make) -> None:
    for guest_global, nested_global, kept in ((True, False, True), (False, True, False)):
        w = long_mode(world, "90  nop")
        w.guest.map(DATA, DATA, P | W | U | (G if guest_global else 0))
        w.map_nested(DATA, DATA, P | W | U | (G if nested_global else 0))
        w.intercept("rdtsc")
        w.code(64, "8b 0b  mov ecx,[rbx]\n0f 31  rdtsc\n0f 20 d8  mov rax,cr3\n0f 22 d8  mov cr3,rax\n"
                   "8b 13  mov edx,[rbx]\n0f 01 d9  vmmcall")  # fmt: skip
        w.memory.write_u32(DATA, 1)
        w.memory.write_u32(0x11_0000, 2)
        assert w.run().code == vmcb.EXIT["rdtsc"]
        w.map_nested(DATA, 0x11_0000)
        w.go(w[vmcb.NEXT_RIP])
        assert w.run().code == VMMCALL
        assert (w.guest["rcx"], w.guest["rdx"]) == (1, 1 if kept else 2)


def test_bytes_of_the_instruction(world: Make) -> None:
    # 15.8.4.
    w = long_mode(world, "89 03  mov [rbx],eax\nf4  hlt", LATER)
    w.map_nested(DATA, 0, 0)
    assert w.run().code == NPF
    assert w.memory.read(VMCB + vmcb.FETCHED_COUNT, 16) == b"\x0f" + w.memory.read(0x8000, 15)
    w.map_nested(0x9000, 0, 0)
    w.go(0x9000)
    assert w.run().info1 & FETCH
    assert w.read_u8(vmcb.FETCHED_COUNT) == 0


def test_a_guest_physical_address_beyond_the_tables(world: Make) -> None:
    w = long_mode(world, "8b 03  mov eax,[rbx]")
    w.guest.map(DATA, 0xFFFF_FFFF_F000)
    assert w.run() == (NPF, FINAL | USER, 0xFFFF_FFFF_F000, 0)
