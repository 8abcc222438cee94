"""The user's wish to end a run, as Ctrl-C and Ctrl-A X make it, is heard soon whatever the guest does."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest

from engine.assembly import assemble
from engine.harness import DATA, DEVICE, Guest
from trapgate.engine.native_core import SLICE
from trapgate.machine.control import UserQuit

Make = Callable[[], Guest]

#: Host seconds: a slice of native code takes some hundredths of one; the rest is for a busy machine.
SOON = 5.0
LOOPS = assemble(
    32,
    """
        registers:
        40              inc eax
        eb fd           jmp registers
        ports:
        e6 80           out 0x80, al
        eb fc           jmp ports
        device:
        89 03           mov [ebx], eax
        eb fc           jmp device
        faults:
        0f 0b           ud2
        copies:
        b9 00 00 10 00  mov ecx, 0x100000
        be 00 00 10 00  mov esi, 0x100000
        bf 00 00 20 00  mov edi, 0x200000
        f3 a4           rep movsb
        eb ed           jmp copies
        one_long_copy:
        b9 ff ff ff ff  mov ecx, 0xffffffff
        bf 00 00 01 00  mov edi, 0x10000
        endless:
        f3 ac           rep lodsb
        eb f2           jmp one_long_copy
        """,
)


@pytest.mark.parametrize("label", ["registers", "ports", "device", "faults", "copies", "one_long_copy"])
def test_a_request_from_another_thread(guest: Make, label: str) -> None:
    g = guest().enter_protected().load(LOOPS).set(rbx=DEVICE, rsi=DATA)
    # The handler of #UD returns to where it came from.
    g.memory.write(0x4000 + 6 * 16, b"\xcf")
    g.go(LOOPS[label])
    asked: list[float] = []

    def ask() -> None:
        asked.append(time.monotonic())
        g.control.stop(UserQuit())

    timer = threading.Timer(0.3, ask)
    timer.start()
    stopped = g.run(None)
    ended = time.monotonic()
    timer.join()
    assert stopped.reason == "request"
    assert g.control.request == UserQuit()
    assert ended - asked[0] < SOON


def test_a_request_ends_the_run_within_a_slice(guest: Make) -> None:
    """In modelled time: at most one slice and one block after an event that asks for it, and at once after a port."""
    g = guest().enter_protected().load(LOOPS)
    g.clock.schedule(1000, lambda: g.control.stop(UserQuit()))
    assert g.run(None).reason == "request"
    assert 1000 <= g.clock.now <= 1002
    g = guest().enter_protected().load(LOOPS)
    g.device.on_write = lambda offset, width, value: g.control.stop(UserQuit())
    g.set(rbx=DEVICE)
    g.go(LOOPS["device"])
    assert g.run(None).reason == "request"
    assert len(g.device.writes) == 1
    assert g.clock.now < SLICE


def test_the_run_can_go_on_where_it_was_stopped(guest: Make) -> None:
    g = guest().enter_protected().load(LOOPS).set(rax=0)
    g.clock.schedule(1000, lambda: g.control.stop(UserQuit()))
    g.run(None)
    g.control.request = None
    g.run(1000)
    assert g["rax"] == g.processor.instructions // 2
