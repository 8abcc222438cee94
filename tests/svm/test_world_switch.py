"""VMRUN and #VMEXIT (APM vol. 2, 15.5 and 15.6)."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from svm.world import World
from trapgate.arch import vmcb

Make = Callable[[], World]


def test_a_guest_runs_until_it_halts(world: Make) -> None:
    w = world()
    w.guest.enter_long()
    w.wrap().code(64, "48 c7 c0 05 00 00 00  mov rax,5\n48 01 c3  add rbx,rax\nf4  hlt")
    w.guest.set(rbx=7)
    assert w.run() == (vmcb.EXIT["hlt"], 0, 0, 0)
    assert w.guest["rbx"] == 12
    assert (w[vmcb.RAX], w[vmcb.RIP], w[vmcb.NEXT_RIP]) == (5, 0x800A, 0x800B)


@pytest.mark.parametrize("rounds", [3])
def test_it_goes_on_where_it_left(world: Make, rounds: int) -> None:
    w = world()
    w.guest.enter_long()
    w.wrap().code(64, "0f 01 d9  vmmcall\nff c3  inc ebx\neb f9  jmp 0x8000")
    w.guest.set(rbx=0)
    for turn in range(rounds):
        assert w.run().code == vmcb.EXIT["vmmcall"]
        assert w.guest["rbx"] == turn
        w[vmcb.RIP] = w[vmcb.NEXT_RIP]
