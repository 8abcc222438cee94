"""Event injection (APM vol. 2, 15.20 "Event Injection")."""

from __future__ import annotations

import pytest

from engine.harness import CODE32, IDT, INTERRUPT_STACK, STACK, STUBS
from svm.conftest import Make
from svm.world import VMCB, World, event
from trapgate.arch import vmcb
from trapgate.arch.vectors import WITH_ERROR_CODE

MISSING = 0x20_0000
INTR, NMI, EXCEPTION, SOFTWARE = 0, 2, 3, 4
HLT, INVALID = vmcb.EXIT["hlt"], vmcb.EXIT_INVALID
RF = 1 << 16


def long_mode(world: Make, features: frozenset[str] | None = None, cpl: int = 0) -> World:
    w = world(features)
    w.guest.enter_long(cpl=cpl)
    return w.wrap().code(64, "0f 01 d9  vmmcall\nf4  hlt")


def pushed(w: World, count: int = 5) -> tuple[int, ...]:
    """What lies on top of the stack in long mode."""
    return tuple(w.memory.read_u64(w[vmcb.RSP] + 8 * i) for i in range(count))


@pytest.mark.parametrize(("kind", "vector"), [
    (INTR, 0x40), (INTR, 0xFF), (INTR, 6), (NMI, 2), (SOFTWARE, 0x80), (SOFTWARE, 3),
    *((EXCEPTION, v) for v in (0, 1, 3, 6, 7, 8, 10, 11, 12, 13, 14, 16, 17, 18, 19, 30)),
])  # fmt: skip
def test_each_type_is_delivered_before_the_first_instruction(world: Make, kind: int, vector: int) -> None:
    w = long_mode(world)
    # Not subject to intercepts itself.
    w.intercept_exceptions(*range(32)).intercept("intr", "nmi", "swint", "vintr", "iret")
    error = 0x5A5A if kind == EXCEPTION and vector in WITH_ERROR_CODE else None
    w.inject(kind, vector, error)
    w[vmcb.RFLAGS] = 0x202
    at = w.processor.instructions
    assert w.run().code == HLT
    assert w[vmcb.RIP] == STUBS + 16 * vector
    assert w.processor.instructions == at  # the stub's HLT has not run either
    words = pushed(w, 6 if error is not None else 5)
    if error is not None:
        assert words[0] == error
        words = words[1:]
    resume = RF if kind == EXCEPTION and vector not in (1, 3) else 0
    assert words == (0x8000, 8, 0x202 | resume, STACK, 0x10)
    assert w[vmcb.RFLAGS] == 2
    assert not w[vmcb.EVENTINJ] & vmcb.EVENT_VALID
    assert w[vmcb.EXITINTINFO] == 0


def test_what_is_not_valid_is_not_injected(world: Make) -> None:
    w = long_mode(world)
    w[vmcb.EVENTINJ] = event(EXCEPTION, 2) & ~vmcb.EVENT_VALID
    assert w.run().code == vmcb.EXIT["vmmcall"]


def test_it_is_injected_once(world: Make) -> None:
    w = long_mode(world).inject(INTR, 0x40)
    assert w.run().code == HLT
    w.go()
    assert w.run().code == vmcb.EXIT["vmmcall"]


def test_an_interrupt_is_injected_with_if_clear_and_in_a_shadow(world: Make) -> None:
    # 15.20: "unconditionally".
    w = long_mode(world).inject(INTR, 0x41).u8(vmcb.INTERRUPT_SHADOW, 1)
    w[vmcb.RFLAGS] = 2
    assert w.run().code == HLT
    assert w[vmcb.RIP] == STUBS + 0x410


def test_the_vector_of_an_nmi_is_ignored(world: Make) -> None:
    w = long_mode(world).inject(NMI, 0x77)
    assert w.run().code == HLT
    assert w[vmcb.RIP] == STUBS + 0x20


def test_an_injected_nmi_blocks_no_others(world: Make) -> None:
    # 15.20: "An injected NMI does not block delivery of further NMIs."
    w = long_mode(world).inject(NMI, 2)
    w.processor.pulse_nmi()
    w.intercept("nmi")
    assert w.run().code == vmcb.EXIT["nmi"]
    assert w[vmcb.RIP] == STUBS + 0x20


@pytest.mark.parametrize("kind", [1, 5, 6, 7])
def test_reserved_types(world: Make, kind: int) -> None:
    w = long_mode(world).inject(kind, 0x40)
    before = w.state()
    assert w.run() == (INVALID, 0, 0, 0)
    assert w.state() == before


@pytest.mark.parametrize("vector", [2, 32, 0x80, 255])
def test_an_exception_that_is_none(world: Make, vector: int) -> None:
    assert long_mode(world).inject(EXCEPTION, vector).run().code == INVALID


@pytest.mark.parametrize("vector", [4, 5])
def test_an_exception_that_the_mode_cannot_raise(world: Make, vector: int) -> None:
    # 15.20: "e.g., a #BR exception when the guest is in 64-bit mode".
    assert long_mode(world).inject(EXCEPTION, vector).run().code == INVALID
    w = world()
    w.guest.enter_protected()
    w.wrap().inject(EXCEPTION, vector)
    assert w.run().code == HLT
    assert w[vmcb.RIP] == STUBS + 16 * vector


def test_the_error_code_is_pushed_only_if_it_is_valid(world: Make) -> None:
    w = long_mode(world)
    w[vmcb.EVENTINJ] = event(EXCEPTION, 13) | 0x1234 << 32
    assert w.run().code == HLT
    assert pushed(w)[:2] == (0x8000, 8)


def test_software_interrupts_return_behind_the_instruction(world: Make) -> None:
    # With NextRIP the VMCB's nRIP is what is pushed.
    w = long_mode(world).inject(SOFTWARE, 0x80)
    w[vmcb.NEXT_RIP] = 0x8002
    assert w.run().code == HLT
    assert pushed(w)[0] == 0x8002
    w = long_mode(world, frozenset(("NP",))).inject(SOFTWARE, 0x80)
    w[vmcb.NEXT_RIP] = 0x8002
    assert w.run().code == HLT
    assert pushed(w)[0] == 0x8000


def test_a_fault_on_the_way_is_the_instructions(world: Make) -> None:
    # EXITINTINFO has the software interrupt, and rip still is INT's own.
    w = long_mode(world).inject(SOFTWARE, 0x80).intercept_exceptions(14)
    w.memory.write_u64(0x3000 + 36, MISSING + 0x1000)
    w[vmcb.NEXT_RIP] = 0x8002
    assert w.run() == (0x4E, 2, MISSING + 0xFF8, event(SOFTWARE, 0x80))
    assert (w[vmcb.RIP], w[vmcb.EVENTINJ] >> 31 & 1) == (0x8000, 0)
    # Put right, it can be injected again.
    w.memory.write_u64(0x3000 + 36, INTERRUPT_STACK)
    w[vmcb.EVENTINJ] = w[vmcb.EXITINTINFO]
    w[vmcb.NEXT_RIP] = 0x8002
    assert w.run().code == HLT
    assert (w[vmcb.RIP], pushed(w)[0]) == (STUBS + 0x800, 0x8002)


@pytest.mark.parametrize(("kind", "vector", "checked"), [
    (SOFTWARE, 0x80, True), (EXCEPTION, 3, True), (EXCEPTION, 6, False), (INTR, 0x80, False), (EXCEPTION, 1, False),
])  # fmt: skip
def test_the_gates_privilege_counts_for_what_instructions_raise(
    world: Make, kind: int, vector: int, checked: bool
) -> None:
    # 15.20: vectors 3 and 4 as INT3 and INTO raise them; the gates have DPL 0.
    w = long_mode(world, cpl=3).inject(kind, vector).intercept_exceptions(13)
    if checked:
        kind_shown = kind
        assert w.run() == (0x4D, vector * 8 + 2, 0, event(kind_shown, vector))
        assert w[vmcb.RIP] == 0x8000
    else:
        assert w.run().code == HLT


@pytest.mark.parametrize("intercepted", [(), (11,), (8,)])
def test_a_second_exception_is_combined_with_the_injected_one(world: Make, intercepted: tuple[int, ...]) -> None:
    w = long_mode(world).inject(EXCEPTION, 13, 0x18).intercept_exceptions(*intercepted)
    w.memory.write_u8(IDT + 16 * 13 + 5, 0x0E)  # not present
    first = event(EXCEPTION, 13, 0x18)
    expected = {(): (HLT, 0, 0, 0), (11,): (0x4B, 13 * 8 + 3, 0, first), (8,): (0x48, 0, 0, first)}
    assert w.run() == expected[intercepted]
    if not intercepted:
        assert w[vmcb.RIP] == STUBS + 0x80


def test_an_injected_double_fault_that_fails_is_a_shutdown(world: Make) -> None:
    w = long_mode(world).inject(EXCEPTION, 8, 0)
    w.memory.write_u8(IDT + 16 * 8 + 5, 0x0E)
    assert w.run().code == vmcb.EXIT["shutdown"]
    w.let("shutdown").inject(EXCEPTION, 8, 0)
    assert w.processor.run_guest(VMCB) == "triple-fault"


def test_an_interrupts_second_exception_stands_alone(world: Make) -> None:
    w = long_mode(world).inject(INTR, 0x40)
    w.memory.write_u8(IDT + 16 * 0x40 + 5, 0x0E)
    assert w.run().code == HLT
    assert (w[vmcb.RIP], pushed(w, 2)) == (STUBS + 16 * 11, (0x40 * 8 + 3, 0x8000))


@pytest.mark.parametrize(("kind", "vector", "error"), [
    (EXCEPTION, 13, 0), (EXCEPTION, 6, None), (INTR, 8, None), (SOFTWARE, 0x21, None), (NMI, 2, None),
])  # fmt: skip
def test_real_mode(world: Make, kind: int, vector: int, error: int | None) -> None:
    # Through the table at the IDTR's base; no error code is pushed.
    w = world()
    w.guest.enter_real()
    w.wrap().inject(kind, vector, error)
    w[vmcb.RFLAGS] = 0x202
    assert w.run().code == HLT
    assert (w[vmcb.RIP], w[vmcb.RSP]) == (STUBS + 16 * vector, STACK - 6)
    frame = w.memory.read(STACK - 6, 6)
    assert frame[:4] == b"\x00\x80\x00\x00"
    assert w[vmcb.RFLAGS] == 2


def test_virtual_8086_mode(world: Make) -> None:
    w = world()
    w.guest.enter_protected()
    w.wrap().inject(INTR, 0x40)
    for place in (vmcb.CS, vmcb.SS, vmcb.DS, vmcb.ES):
        w[place] = 0xFFFF << 32 | 0x0F3 << 16
    w[vmcb.RFLAGS] = 1 << 17 | 0x202
    assert w.run().code == HLT
    assert (w[vmcb.RIP], w.read_u8(vmcb.CPL), w[vmcb.CS] & 0xFFFF) == (STUBS + 0x400, 0, CODE32)
    assert w[vmcb.RSP] == INTERRUPT_STACK - 36


def test_injection_in_a_guest_that_halted(world: Make) -> None:
    # HLT's exit leaves rip at HLT; the hypervisor moves it on and injects what wakes the guest.
    w = long_mode(world).go(0x8003)
    assert w.run().code == HLT
    w.go(w[vmcb.NEXT_RIP]).inject(INTR, 0x40)
    assert w.run().code == HLT
    assert pushed(w)[0] == 0x8004


def test_a_nested_page_fault_on_the_way(world: Make) -> None:
    w = world()
    w.guest.enter_long()
    w.wrap().nested().inject(EXCEPTION, 14, 6)
    w.map_nested(INTERRUPT_STACK - 0x1000, 0, 0)
    exit_ = w.run()
    assert exit_ == (vmcb.EXIT_NPF, 6 | vmcb.NPF_FINAL, INTERRUPT_STACK - 8, event(EXCEPTION, 14, 6))
