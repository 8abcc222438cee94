"""Instructions that decode to something else than they look like."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from engine.assembly import assemble
from engine.harness import CODE, Guest

Make = Callable[[], Guest]


def _run(g: Guest, text: str) -> None:
    g.load(assemble(64, text + "\nf4  hlt", CODE))
    g.run_to_halt()


@pytest.mark.parametrize("first", ["48 c1 d8 00  rcr rax, 0", "48 c1 d8 40  rcr rax, 64"])
def test_a_rotation_by_32_uses_the_carry_that_one_by_0_does_not(guest: Make, first: str) -> None:
    """Both have the same form; what was remembered of the first decided for the second."""
    g = guest().enter_long().set(rax=0, rbx=0)
    _run(g, first)
    g.set(rflags=2, rax=0)
    # The carry is the addition's, and only the rotation reads it.
    _run(g, "48 83 c3 ff  add rbx, -1\n48 83 c3 01  add rbx, 1\n48 c1 d8 20  rcr rax, 32\n48 31 db  xor rbx, rbx")
    assert g["rax"] == 1 << 32


def test_a_rotation_of_a_byte_by_1_uses_the_carry_that_one_by_9_does_not(guest: Make) -> None:
    g = guest().enter_long().set(rax=0, rbx=0)
    _run(g, "c0 d0 09  rcl al, 9")
    g.set(rflags=2, rax=0)
    _run(g, "48 83 c3 ff  add rbx, -1\n48 83 c3 01  add rbx, 1\nc0 d0 01  rcl al, 1\n48 31 db  xor rbx, rbx")
    assert g["rax"] == 1


@pytest.mark.parametrize("code", ["f3 49 90", "46 f3 49 90", "f3 41 90"])
def test_pause_with_rex_b_is_an_exchange(guest: Make, code: str) -> None:
    """90 is XCHG r8, rAX when REX.B is there, whatever else precedes it (as AMD's processors do)."""
    g = guest().enter_long().set(rax=0x1_0000_0001, r8=0x2_0000_0002)
    _run(g, f"{code}  pause")
    wide = "49" in code
    assert (g["rax"], g["r8"]) == ((0x2_0000_0002, 0x1_0000_0001) if wide else (2, 1))


def test_pause_without_rex_b_does_nothing(guest: Make) -> None:
    g = guest().enter_long().set(rax=0x1_0000_0001, r8=0x2_0000_0002)
    _run(g, "f3 48 90  pause\nf3 90  pause")
    assert (g["rax"], g["r8"]) == (0x1_0000_0001, 0x2_0000_0002)
