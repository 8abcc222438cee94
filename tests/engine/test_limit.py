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


def test_stops_do_not_move_blocks(guest: Make) -> None:
    """A limit that is reached in a repeated instruction does not leave its block in two: interrupts, which come at
    the ends of blocks, would come elsewhere."""
    copy = "b9 2c 01 00 00  mov ecx, 300\nf3 aa  rep stosb\n90*70\n"
    code = copy + "81 ef 2c 01 00 00  sub edi, 300\neb ab  jmp short 8000h"
    found = []
    for step in (5000, 1, 7):
        g = guest().enter_protected().load(assemble(32, code)).set(rdi=DATA)
        while g.processor.instructions < 5000:
            g.processor.run(min(step, 5000 - g.processor.instructions))
        blocks = {block.rip for block in g.processor.blocks.valid_blocks() if len(block.decoded) > 1}
        found.append((blocks, g.clock.now, g.processor.instructions, g.registers()))
    assert found[0] == found[1] == found[2]
    assert CODE + 5 not in found[0][0]
