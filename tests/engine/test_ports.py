"""IN and OUT on their short way: whatever a device does meanwhile, the run is that of the long way."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from engine.assembly import assemble
from engine.harness import CODE64, DATA, Guest
from engine.test_privilege import state
from trapgate.machine.control import GuestExit

LOOP = assemble(
    64,
    """
    loop:
    89 f8         mov eax, edi
    66 ba 00 05   mov dx, 0x500
    ef            out dx, eax
    66 ed         in ax, dx
    e4 80         in al, 0x80
    01 06         add [rsi], eax
    fb            sti
    ff cf         dec edi
    75 ee         db 0x75, 0xee  ; jnz loop
    fa            cli
    f4            hlt
    """,
)
HANDLER = assemble(64, "ff c3  inc ebx\n48 cf  iretq", org=0xA000)
Action = Callable[[Guest, int], None]


def raise_intr(g: Guest, value: int) -> None:
    if value % 3 == 0:
        g.processor.set_intr(True)


def schedule(g: Guest, value: int) -> None:
    g.clock.schedule(g.clock.now + value % 40, lambda: g.processor.set_intr(True))


def schedule_and_cancel(g: Guest, value: int) -> None:
    g.clock.cancel(g.clock.schedule(g.clock.now + 5, lambda: g.processor.set_intr(True)))


def write_over_the_loop(g: Guest, value: int) -> None:
    """A device that writes to memory: the increment of a register takes the place of STI."""
    if value == 20:
        g.processor.write_physical(LOOP.origin + 13, 1, 0x90)


def nmi(g: Guest, value: int) -> None:
    if value == 7:
        g.processor.pulse_nmi()


def stop(g: Guest, value: int) -> None:
    if value == 11:
        g.control.stop(GuestExit(5))


def move_the_time_stamp(g: Guest, value: int) -> None:
    g.processor.set_time_stamp(1000 * value)


ACTIONS = [raise_intr, schedule, schedule_and_cancel, write_over_the_loop, nmi, stop, move_the_time_stamp]


@pytest.mark.parametrize("action", ACTIONS, ids=lambda action: action.__name__)
@pytest.mark.parametrize("limit", [100_000, 60])
def test_both_ways_are_the_same_run(action: Action, limit: int, guest: Callable[[], Guest]) -> None:
    seen = []
    for watched in (False, True):
        g = guest().enter_long().load(LOOP)
        g.memory.write(HANDLER.origin, HANDLER.data)
        for vector in (2, 0x40):
            g.set_gate64(vector, CODE64, HANDLER.origin)
        g.set(rdi=30, rsi=DATA, rbx=0)
        cycles: list[tuple[int, int]] = []

        def on_write(offset: int, width: int, value: int, g: Guest = g, cycles: list[tuple[int, int]] = cycles) -> None:
            cycles.append((g.clock.now, value))
            action(g, value)

        g.device.on_write = on_write
        g.processor.sees_ports = watched
        stopped = g.run(limit)
        seen.append((state(g), cycles, g.device.reads, g.device.writes, stopped, g.processor.device_cycles))
    assert seen[0] == seen[1]
    assert len(seen[0][1]) > 2


def test_a_port_costs_its_cycles(guest: Callable[[], Guest]) -> None:
    g = guest().enter_long().load(assemble(64, "e6 80  out 0x80, al\ne4 80  in al, 0x80\nf4  hlt"))
    g.run_to_halt()
    assert g.processor.device_cycles == 2 * g.processor.costs.port
