"""A run with a limit ends, also where the guest completes no instruction."""

from __future__ import annotations

from collections.abc import Callable

from engine.assembly import assemble
from engine.harness import CODE, DATA, Guest
from trapgate.arch.registers import IF
from trapgate.engine.processor import MOST_IDLE

Make = Callable[[], Guest]
UD2 = assemble(32, "0f 0b  ud2")
COPY = assemble(32, "f3 a4  rep movsb")
HALT = assemble(32, "f4  hlt")


def _faulting(guest: Guest) -> Guest:
    """#UD leads to a #UD again, without an instruction in between."""
    g = guest.enter_protected().load(UD2)
    g.set_gate32(6, 0x18, CODE)
    return g


def test_a_loop_of_exceptions(guest: Make) -> None:
    g = _faulting(guest())
    stopped = g.processor.run(1000, max_stall=5000)
    assert stopped.reason == "limit"
    assert g.processor.instructions == 0
    # An exception costs 100 cycles.
    assert g.processor.exception_counts == {6: 50}
    assert g["rip"] == CODE


def test_an_endless_copy(guest: Make) -> None:
    g = guest().enter_protected().load(COPY).set(rcx=0xFFFF_FFFF, rsi=DATA, rdi=DATA + 0x1000)
    stopped = g.processor.run(1000, max_stall=3000)
    assert stopped.reason == "limit"
    assert (g.processor.instructions, g["rip"]) == (0, CODE)
    assert 3000 <= 0xFFFF_FFFF - g["rcx"] <= 3001


def test_the_allowance_is_for_each_instruction(guest: Make) -> None:
    g = guest().enter_protected()
    fill = "b9 d0 07 00 00  mov ecx, 2000\nf3 aa  rep stosb\n"
    g.load(assemble(32, fill + fill + "f4  hlt"))
    g.set(rdi=DATA)
    assert g.processor.run(1000, max_stall=3000).reason == "halted"


def test_a_halt_that_only_masked_events_end(guest: Make) -> None:
    g = guest().enter_protected().load(HALT).set(rflags=2 | IF)
    second = g.clock.hz

    def tick() -> None:
        g.clock.schedule(g.clock.now + second, tick)

    tick()
    assert g.run(10).reason == "limit"
    assert g.clock.now // second in (MOST_IDLE, MOST_IDLE + 1)
