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


def test_page_directory_pointers_are_loaded_at_each_vmrun(world: Make) -> None:
    """They change in memory between two entries of one VMCB, nothing else does (15.5.1)."""
    w = world()
    w.guest.enter_protected("pae")
    w.wrap().code(32, "0f 01 d9  vmmcall\n8a 03  mov al,[ebx]\nf4  hlt").intercept_exceptions(14)
    w.guest.set(rbx=0x4000_0000)
    assert w.run().code == vmcb.EXIT["vmmcall"]
    w[vmcb.RIP] = w[vmcb.NEXT_RIP]
    root = w[vmcb.CR3]
    pointer = w.memory.read_u64(root + 8)
    w.memory.write_u64(root + 8, 0)
    assert w.run() == (vmcb.EXIT_EXCEPTION + 14, 0, 0x4000_0000, 0)
    w.memory.write_u64(root + 8, w.memory.read_u64(root))
    assert w.run().code == vmcb.EXIT["hlt"]
    assert pointer & 1
