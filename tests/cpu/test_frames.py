"""Frames that cannot be pushed: which word's fault it is, and that nothing is written."""

from __future__ import annotations

from collections.abc import Callable

from engine.assembly import assemble
from engine.harness import CODE, DATA, FREE, STACK, Guest, descriptor
from trapgate.cpu.faults import Fault

Make = Callable[[], Guest]
UNMAPPED = 0x9_0000


def _fault(g: Guest) -> Fault:
    """The first exception to be delivered."""
    caught: list[Fault] = []

    class Caught(Exception):
        pass

    def catch(fault: Fault) -> None:
        caught.append(fault)
        raise Caught

    g.processor.deliver_exception = catch  # type: ignore[method-assign]
    try:
        g.run(10)
    except Caught:
        return caught[0]
    raise AssertionError("wanted a fault")


def test_a_page_fault_is_that_of_the_first_word_pushed(guest: Make) -> None:
    """CR2 has the address of SS, which is pushed first, not the bottom of the frame."""
    g = guest().enter_long(ist=0).load(assemble(64, "cd 40  int 0x40")).set(rsp=UNMAPPED + 0x100)
    assert _fault(g).address == UNMAPPED + 0xF8


def test_a_frame_across_two_pages(guest: Make) -> None:
    """The upper page is there and the lower is not: the first word below the boundary faults."""
    g = guest().enter_long(ist=0).load(assemble(64, "cd 40  int 0x40")).set(rsp=0x2_0010)
    g.map(0x1_F000, 0, rights=0)
    assert _fault(g).address == 0x1_FFF8
    assert g.memory.read(0x2_0000, 16) == bytes(16)


def test_a_far_call(guest: Make) -> None:
    """CS is pushed first."""
    g = guest().enter_long().load(assemble(64, "ff 1b  call far [rbx]")).set(rsp=UNMAPPED + 0x100, rbx=DATA)
    g.memory.write(DATA, CODE.to_bytes(4, "little") + b"\x08\0")
    assert _fault(g).address == UNMAPPED + 0xFC


def test_in_32_bit_mode(guest: Make) -> None:
    g = guest().enter_protected("two-level").load(assemble(32, "cd 40  int 0x40")).set(rsp=UNMAPPED + 0x100)
    assert _fault(g).address == UNMAPPED + 0xFC


def test_a_call_gate_beyond_the_limit_writes_nothing(guest: Make) -> None:
    """The target's limit is checked when the frame can be pushed, and before it is."""
    g = guest().enter_protected()
    small = FREE + 8
    g.set_descriptor(FREE, (0x9000 & 0xFFFF) | small << 16 | 0x8C << 40)
    g.set_descriptor(small, descriptor(0x49A, 0, 0xFFF))
    g.load(assemble(32, f"9a 00 00 00 00 {FREE:02x} 00  call 0x60:0"))
    fault = _fault(g)
    assert (fault.vector, fault.error, g["rip"], g["rsp"]) == (13, 0, CODE, STACK)
    assert g.memory.read(STACK - 16, 16) == bytes(16)
