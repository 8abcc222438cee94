"""ASIDs and flushes (APM vol. 2, 15.16 "TLB Control").

A page-table entry is changed behind the TLB's back: whoever still sees the old page has kept its translation.
"""

from __future__ import annotations

import pytest

from engine.assembly import assemble
from engine.harness import DATA, G, P, U, W
from svm.conftest import LATER, Make
from svm.world import VMCB, World
from trapgate.arch import layout, vmcb
from trapgate.arch.registers import EFER_SVME

VMMCALL = vmcb.EXIT["vmmcall"]
OLD, NEW = 0x11_0000, 0x12_0000
LOAD = "8b 1c 25 00 00 01 00  mov ebx,[0x10000]\n0f 01 d9  vmmcall"
GLOBAL = 0x2_0000
LOAD_GLOBAL = "8b 0c 25 00 00 02 00  mov ecx,[0x20000]\n0f 01 d9  vmmcall"


def ready(world: Make, features: frozenset[str] | None = None) -> World:
    """Pages 1_0000h, and 2_0000h which is global, lead to OLD; both translations are known to ASID 1."""
    w = world(features)
    w.guest.enter_long()
    w.wrap().code(64, LOAD).code(64, LOAD_GLOBAL, 0x9000)
    w.memory.write_u32(OLD, 1)
    w.memory.write_u32(NEW, 2)
    remap(w, OLD)
    assert seen(w) == (1, 1)
    remap(w, NEW)
    assert seen(w) == (1, 1)
    return w


def remap(w: World, place: int) -> None:
    w.guest.map(DATA, place)
    w.guest.map(GLOBAL, place, P | W | U | G)


def seen(w: World) -> tuple[int, int]:
    """What the guest reads in both pages: 1 through an old translation, 2 through the new one."""
    w[vmcb.RIP] = 0x8000
    assert w.run().code == VMMCALL
    w[vmcb.RIP] = 0x9000
    w.u8(vmcb.TLB_CONTROL, 0)
    assert w.run().code == VMMCALL
    return w.guest["rbx"], w.guest["rcx"]


def do(w: World, text: str) -> World:
    """The guest runs something, at A000h."""
    w.code(64, text + "\n0f 01 d9  vmmcall", 0xA000).go(0xA000)
    assert w.run().code == VMMCALL
    return w


@pytest.mark.parametrize(("value", "by_asid", "result"), [
    (0, False, (1, 1)), (1, False, (2, 2)), (0, True, (1, 1)), (1, True, (2, 2)), (3, True, (2, 2)), (7, True, (2, 1)),
    (3, False, (2, 2)), (7, False, (2, 2)), (2, True, (2, 2)), (0xFF, True, (2, 2)),
])  # fmt: skip
def test_tlb_control(world: Make, value: int, by_asid: bool, result: tuple[int, int]) -> None:
    """Table 15-9. Encodings that are reserved, or come with FlushByAsid, flush all here."""
    w = ready(world, LATER if by_asid else None).u8(vmcb.TLB_CONTROL, value)
    w[vmcb.RIP] = 0x8000
    assert w.run().code == VMMCALL
    assert w.read_u8(vmcb.TLB_CONTROL) == value  # "reads, but does not change"
    w.u8(vmcb.TLB_CONTROL, 0)
    assert seen(w) == result


@pytest.mark.parametrize(("value", "others"), [(1, (2, 2)), (3, (1, 1)), (7, (1, 1))])
def test_whose_entries_tlb_control_flushes(world: Make, value: int, others: tuple[int, int]) -> None:
    w = ready(world, LATER).u32(vmcb.ASID, 2).u8(vmcb.TLB_CONTROL, value)
    assert seen(w) == (2, 2)
    w.u32(vmcb.ASID, 1)
    assert seen(w) == others


def test_asids_keep_their_own_translations(world: Make) -> None:
    # 15.16: "global page table entries (PTEs) are global only within an ASID".
    w = ready(world).u32(vmcb.ASID, 2)
    assert seen(w) == (2, 2)
    w.u32(vmcb.ASID, 1)
    assert seen(w) == (1, 1)
    w.u32(vmcb.ASID, 63)
    assert seen(w) == (2, 2)


FLUSHES = {
    "mov cr3": ("0f 20 d8  mov rax,cr3\n0f 22 d8  mov cr3,rax", (2, 1)),
    "mov cr4": ("0f 20 e0  mov rax,cr4\n34 80  xor al,0x80\n0f 22 e0  mov cr4,rax\n34 80  xor al,0x80\n"
                "0f 22 e0  mov cr4,rax", (2, 2)),
    "invlpg": ("0f 01 3c 25 00 00 01 00  invlpg [0x10000]", (2, 1)),
    "invlpg global": ("0f 01 3c 25 00 00 02 00  invlpg [0x20000]", (1, 2)),
    "invlpga": ("b8 00 00 01 00  mov eax,0x10000\nb9 01 00 00 00  mov ecx,1\n0f 01 df  invlpga rax,ecx", (2, 1)),
}  # fmt: skip


@pytest.mark.parametrize("how", list(FLUSHES))
def test_a_guests_flush_is_its_own_asids(world: Make, how: str) -> None:
    # 15.16.1: "affects only the TLB entries belonging to the current ASID".
    text, result = FLUSHES[how]
    w = ready(world)
    assert seen(do(w, text)) == result
    w = ready(world).u32(vmcb.ASID, 2)
    if how != "invlpga":
        do(w, text).u32(vmcb.ASID, 1)
        assert seen(w) == (1, 1)


@pytest.mark.parametrize(("how", "intercept"), [
    ("mov cr3", (vmcb.INTERCEPT_CR, 1 << 19)), ("mov cr4", (vmcb.INTERCEPT_CR, 1 << 20)),
    ("invlpg", (vmcb.INTERCEPT_MISC1, vmcb.misc1("invlpg"))),
    ("invlpga", (vmcb.INTERCEPT_MISC1, vmcb.misc1("invlpga"))),
])  # fmt: skip
def test_an_intercepted_flush_flushes_nothing(world: Make, how: str, intercept: tuple[int, int]) -> None:
    # 15.16.1: "the #VMEXIT intercept occurs and the TLB is not flushed".
    w = ready(world)
    place, bits = intercept
    before = w.memory.read_u32(VMCB + place)
    w.u32(place, before | bits).code(64, FLUSHES[how][0], 0xA000).go(0xA000)
    assert w.run().code in (0x13, 0x14, 0x79, 0x7A)
    w.u32(place, before)
    assert seen(w) == (1, 1)


def test_vmrun_and_vmexit_flush_nothing(world: Make) -> None:
    # 15.16: they "write the CR0, CR3, CR4 and EFER registers, but these writes do not flush the TLB".
    w = ready(world)
    w[vmcb.CR3] = w.guest.new_root()
    assert seen(w) == (1, 1)


def test_the_hosts_invlpga(world: Make) -> None:
    # 15.16.2: a page of an ASID; others keep theirs.
    w = ready(world).u32(vmcb.ASID, 2)
    remap(w, OLD)
    assert seen(w) == (1, 1)
    remap(w, NEW)
    w.processor.flush_page_of(DATA, 2)
    assert seen(w) == (2, 1)
    w.processor.flush_page_of(GLOBAL | 0xFFF, 2)
    assert seen(w) == (2, 2)
    w.u32(vmcb.ASID, 1)
    assert seen(w) == (1, 1)
    w.processor.flush_page_of(DATA, 1 | 0x1_0000)  # there is no such ASID
    assert seen(w) == (1, 1)


def test_the_hosts_own_flush_is_asid_0s(world: Make) -> None:
    """A host that the processor runs: its MOV CR3 leaves its guest's translations alone."""
    w = ready(world)
    p, g = w.processor, w.guest
    image = w.memory.read(VMCB, 0x1000)
    g.enter_long()
    p.python_host = p.left_guest = False
    p.state.set(layout.ASID, 0)
    p.fast_tables_belong_to_mode()
    p.state.set(layout.EFER, p.efer | EFER_SVME)
    p.state.set(layout.CR3, int.from_bytes(image[vmcb.CR3 : vmcb.CR3 + 8], "little"))
    g.root = p.cr3
    w.guest.map(DATA, NEW)
    w[vmcb.RIP] = 0x8000
    g.load(
        assemble(
            64,
            "44 8b 04 25 00 00 01 00  mov r8d,[0x10000]\n0f 20 da  mov rdx,cr3\n0f 22 da  mov cr3,rdx\n"
            "44 8b 0c 25 00 00 01 00  mov r9d,[0x10000]\n0f 01 d8  vmrun rax\nf4  hlt",
            0xB000,
        )
    ).set(rax=VMCB)
    g.run_to_halt()
    assert (g["r8"], g["r9"], g["rbx"]) == (2, 2, 1)
    assert p.state.get(layout.ASID) == 0


def test_code_is_looked_up_by_asid(world: Make) -> None:
    w = ready(world)
    w.memory.write(OLD, assemble(64, "b3 01  mov bl,1\n0f 01 d9  vmmcall").data)
    w.memory.write(NEW, assemble(64, "b3 02  mov bl,2\n0f 01 d9  vmmcall").data)
    remap(w, OLD)
    results = []
    for asid, place in ((3, OLD), (4, NEW), (3, NEW), (4, OLD), (3, NEW)):
        remap(w, place)
        w.u32(vmcb.ASID, asid).go(DATA)
        assert w.run().code == VMMCALL
        results.append(w.guest["rbx"] & 0xFF)
    assert results == [1, 2, 1, 2, 1]
