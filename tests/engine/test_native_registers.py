"""Null selectors and the bases of FS and GS, which native code loads in 64-bit mode, and what it leaves to Python."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest

from engine.assembly import assemble
from engine.harness import DATA0, Guest
from trapgate.arch.msrs import MSR_FS_BASE, MSR_GS_BASE, MSR_KERNEL_GS_BASE
from trapgate.arch.vectors import GP
from trapgate.engine.exits import Exits

Make = Callable[[], Guest]
BASE = 0xFFFF_8000_1234_5678


@pytest.fixture
def in_python(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often Python carried out instructions that stand inside a block."""
    seen: Counter[str] = Counter()
    original = Exits._exit_python_inside

    def exit_(self: Exits, uop: int) -> int:
        block = self.blocks.block_at(uop)
        seen[block.decoded[block.index_of(uop)].name] += 1
        return original(self, uop)

    monkeypatch.setattr(Exits, "_exit_python_inside", exit_)
    return seen


LOADS = assemble(
    64,
    """
    8e d8     mov ds, eax
    8e c1     mov es, ecx
    8e e2     mov fs, edx
    8e eb     mov gs, ebx
    f4        hlt
    """,
)


def test_null_selectors(guest: Make, in_python: Counter[str]) -> None:
    """AMD keeps the base of FS and GS (APM vol. 2, 4.5.3); the selector keeps its RPL."""
    g = guest().enter_long().load(LOADS)
    segments = g.processor.segments
    for number in (4, 5):
        segments[number].base = BASE + number
    g.set(rax=0xFFFF_0000, rcx=1, rdx=2, rbx=3)
    g.run_to_halt()
    assert [segments[n].selector for n in (3, 0, 4, 5)] == [0, 1, 2, 3]
    assert [segments[n].base for n in (3, 0, 4, 5)] == [0, 0, BASE + 4, BASE + 5]
    assert {segments[n].attributes for n in (3, 0, 4, 5)} == {0}
    assert {segments[n].limit for n in (3, 0, 4, 5)} == {0}
    assert not in_python


def test_other_selectors_are_python_s(guest: Make, in_python: Counter[str]) -> None:
    g = guest().enter_long().load(LOADS)
    g.set(rax=DATA0, rcx=DATA0, rdx=DATA0, rbx=DATA0)
    g.run_to_halt()
    segments = g.processor.segments
    assert [segments[n].selector for n in (3, 0, 4, 5)] == [DATA0] * 4
    assert all(segments[n].attributes & 0x80 for n in (3, 0, 4, 5))
    assert in_python == dict.fromkeys(("mov_to_ds", "mov_to_es", "mov_to_fs", "mov_to_gs"), 1)


def test_a_selector_beyond_the_table_faults(guest: Make) -> None:
    g = guest().enter_long().load(LOADS)
    g.set(rax=0, rcx=0xFFF8)
    assert g.first_exception() == (GP, 0xFFF8)


WRITE = assemble(64, "0f 30  wrmsr\n65 48 8b 18  mov rbx, [gs:rax]\nf4  hlt")


@pytest.mark.parametrize("msr", [MSR_FS_BASE, MSR_GS_BASE, MSR_KERNEL_GS_BASE])
def test_bases(guest: Make, msr: int, in_python: Counter[str]) -> None:
    g = guest().enter_long().load(assemble(64, "0f 30  wrmsr\nf4  hlt"))
    g.set(rax=0xDEAD_BEEF_1234_5678, rcx=0xAAAA_AAAA_0000_0000 | msr, rdx=0xFFFF_8000)
    g.run_to_halt()
    assert g.processor.read_msr(msr) == BASE
    assert not in_python


def test_the_next_access_uses_the_new_base(guest: Make) -> None:
    g = guest().enter_long().load(WRITE)
    g.map(0x30_0000, 0x18_0000)
    g.memory.write(0x18_0000, (0x1122_3344_5566_7788).to_bytes(8, "little"))
    g.set(rax=0x18_0000, rcx=MSR_GS_BASE, rdx=0)
    g.run_to_halt()
    assert g["rbx"] == 0x1122_3344_5566_7788


def test_an_address_that_is_not_canonical_faults(guest: Make, in_python: Counter[str]) -> None:
    """#GP(0) (APM vol. 2, 5.3.1), with nothing written."""
    g = guest().enter_long().load(WRITE)
    g.set(rax=0, rcx=MSR_GS_BASE, rdx=0x0000_8000)
    assert g.first_exception() == (GP, 0)
    assert g.processor.read_msr(MSR_GS_BASE) == 0
    assert in_python == {"wrmsr_base": 1}


def test_user_code_may_not_write_them(guest: Make) -> None:
    g = guest().enter_long(cpl=3).load(WRITE)
    g.set(rax=0x18_0000, rcx=MSR_GS_BASE, rdx=0)
    assert g.first_exception() == (GP, 0)
