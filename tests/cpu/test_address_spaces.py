"""What changes the address space around a guest of AMD-V: ASIDs under running code, flushes, PAE's pointers."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from engine.assembly import assemble
from engine.harness import Guest
from trapgate.arch import layout
from trapgate.cpu.faults import Fault

from .tlb_world import NESTED_LEAVES, SMALL_AT, nest, set_asid

Make = Callable[[], Guest]
ADD_ONE = assemble(64, "48 83 c0 01  add rax, 1\nf4  hlt")
ADD_TEN = assemble(64, "48 83 c0 0a  add rax, 10\nf4  hlt")


def test_the_same_address_holds_other_code_in_another_asid(guest: Make) -> None:
    """Two worlds in turn, each with its own nested mapping of the code's page; the second round walks no more."""
    g = guest().enter_long().load(ADD_ONE).set(rax=0)
    nest(g, 4)
    place = NESTED_LEAVES + 8 * (ADD_ONE.origin >> 12)
    g.memory.write(0x12_0000, ADD_TEN.data)
    misses = []
    for turn in range(4):
        set_asid(g, 1 + turn % 2)
        g.memory.write_u64(place, (0x12_0000 if turn % 2 else ADD_ONE.origin) | 0x67)
        g.go(ADD_ONE.origin)
        g.run_to_halt()
        misses.append(g.counter("itlb_misses"))
    assert g["rax"] == 1 + 10 + 1 + 10
    assert misses == [1, 2, 2, 2]


@pytest.mark.parametrize("what", ["a20", "smi"])
def test_these_flush_every_asid(guest: Make, what: str) -> None:
    g = guest().enter_long()
    p = g.processor
    g.map(SMALL_AT, 0x20_0000, 0x107)  # global
    for asid in (3, 0):
        set_asid(g, asid)
        p.translate(SMALL_AT, 0)
    if what == "a20":
        p.set_a20(False)
    else:
        p.enter_smm()
        p.leave_smm()
    before = g.counter("dtlb_misses")
    for asid in (3, 0):
        set_asid(g, asid)
        p.translate(SMALL_AT, 0)
    assert g.counter("dtlb_misses") - before == 2


def test_a_guests_mov_cr3_flushes_its_own_asid(guest: Make) -> None:
    g = guest().enter_long()
    p = g.processor
    g.map(SMALL_AT, 0x20_0000)
    misses = []
    for asid in (3, 5, 5, 3):
        set_asid(g, asid)
        p.translate(SMALL_AT, 0)
        misses.append(g.counter("dtlb_misses"))
        if len(misses) == 2:
            p.set_cr3(g.root)
    assert misses == [1, 2, 3, 3]


def test_under_nested_paging_mov_cr3_does_not_read_paes_pointers(guest: Make) -> None:
    """APM vol. 2, 15.25.10: reserved bits are found by the walk that reads them, as a page fault."""
    g = guest().enter_protected("pae")
    p = g.processor
    g.memory.write_u64(g.root, g.memory.read_u64(g.root) | 2)
    with pytest.raises(Fault) as refused:
        p.set_cr3(g.root)
    assert (refused.value.vector, refused.value.error) == (13, 0)
    nest(g, 4)
    p.set_cr3(g.root)
    with pytest.raises(Fault) as raised:
        p.translate(0x1_0000, 0)
    assert (raised.value.vector, raised.value.error, raised.value.address) == (14, 9, 0x1_0000)
    g.memory.write_u64(g.root, g.memory.read_u64(g.root) & ~2)
    assert p.translate(0x1_0000, 0) == 0x1_0000
    # Three entries of the guest's, and four nested walks of four.
    assert g.counter("dtlb_walk_references") == (4 + 1) + (4 * 4 + 3)


def test_reset_leaves_the_guest(guest: Make) -> None:
    g = guest().enter_long()
    nest(g, 4)
    g.processor.reset()
    state = g.processor.state
    assert [state.get(field) for field in (layout.NESTED, layout.NESTED_CR3, layout.ASID)] == [0, 0, 0]
    assert g.processor.translate(0x7777, 0) == 0x7777
