"""Task switches with paging: CR3 of the new TSS, and faults on both sides of the commit point (APM vol. 2, 12.4)."""

from __future__ import annotations

import pytest

from engine.assembly import Code
from engine.harness import CODE, CODE32, DATA, DATA0, FREE, GDT, STACK, TSS, TSS_SELECTOR, Guest, P, U
from trapgate.arch import layout
from trapgate.engine.handlers import HandlerStore

_NEW_TSS = DATA
_TARGET = CODE + 0x100
_JUMP = b"\xea" + bytes(4) + FREE.to_bytes(2, "little")


def _guest(handlers: HandlerStore, paging: str, cr3: int | None = None) -> Guest:
    guest = Guest(handlers).enter_protected(paging)
    memory = guest.memory
    guest.processor.tr.load(TSS_SELECTOR, TSS, 0x67, 0x8B)
    memory.write_u8(GDT + TSS_SELECTOR + 5, 0x8B)
    low = _NEW_TSS
    memory.write_u64(GDT + FREE, 0x67 | (low & 0xFF_FFFF) << 16 | 0x89 << 40)
    fields = {0x1C: guest.root if cr3 is None else cr3, 0x20: _TARGET, 0x24: 2, 0x38: STACK - 0x80, 0x4C: CODE32}
    for at in (0x48, 0x50, 0x54, 0x58, 0x5C):
        fields[at] = DATA0
    for at, value in fields.items():
        memory.write_u32(_NEW_TSS + at, value)
    memory.write(_TARGET, b"\xf4")
    return guest.load(Code(_JUMP, CODE)).set(rsp=STACK)


@pytest.mark.parametrize("paging", ["two-level", "pae"])
def test_address_space(handlers: HandlerStore, paging: str) -> None:
    """CR3 comes from the TSS, and with PAE the page-directory pointers with it."""
    guest = _guest(handlers, paging)
    other = guest.new_root()
    guest.map(_TARGET & ~0xFFF, 0x7_0000, root=other)
    guest.memory.write(0x7_0000 + (_TARGET & 0xFFF), b"\x90\xf4")
    guest.memory.write_u32(_NEW_TSS + 0x1C, other)
    guest.run_to_halt()
    assert guest["rip"] == _TARGET + 2
    assert guest.processor.cr3 == other
    assert guest.processor.tr.selector == FREE


def test_page_fault_before_the_commit_point(handlers: HandlerStore) -> None:
    """The old TSS cannot be written (CR0.WP): #PF at the jump, nothing has changed."""
    guest = _guest(handlers, "two-level")
    guest.map(TSS & ~0xFFF, TSS & ~0xFFF, P | U)
    guest.flush(TSS)
    before = bytes(guest.memory.read(TSS, 0x68))
    frame = guest.run_to_exception()
    assert (frame.vector, frame.error, frame.rip) == (14, 3, CODE)
    assert guest.processor.tr.selector == TSS_SELECTOR
    assert guest.memory.read(TSS, 0x68) == before
    assert guest.memory.read_u8(GDT + FREE + 5) == 0x89
    assert guest.memory.read_u8(GDT + TSS_SELECTOR + 5) == 0x8B


def test_reserved_bits_in_new_pointers(handlers: HandlerStore) -> None:
    """PAE: #TS with the new TSS's selector, in the new task; the old pointers stay in use."""
    guest = _guest(handlers, "pae")
    bad = guest.new_table()
    guest.memory.write_u64(bad, 0x1E7)
    guest.memory.write_u32(_NEW_TSS + 0x1C, bad)
    pointers = [guest.processor.state.get(layout.PDPTE + 8 * i) for i in range(4)]
    # Nothing but the address of the fault can be looked at: the new task has no stack segment yet, so its exception
    # cannot be delivered.
    assert guest.run().reason == "triple-fault"
    recent = guest.processor.recent_exceptions
    assert guest.processor.exception_counts[10] == 1, recent
    assert guest.processor.tr.selector == FREE
    assert guest["rip"] == _TARGET
    assert [guest.processor.state.get(layout.PDPTE + 8 * i) for i in range(4)] == pointers
