"""Data segments and the bases of FS and GS, which native code loads in 64-bit mode, and what it leaves to Python."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest

from engine.assembly import assemble
from engine.harness import DATA0, USER_DATA, Guest
from trapgate.arch import layout
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


@pytest.mark.parametrize("rpl", [0, 3])
def test_data_segments(guest: Make, in_python: Counter[str], rpl: int) -> None:
    """What native code loads is what Python loads; a DPL below the RPL faults (APM vol. 2, 4.10.2)."""
    g = guest().enter_long().load(LOADS)
    ram, table = g.memory.view, g.processor.gdtr_base
    # 1 MB at 12345678h, accessed: writable data of DPL 3, and the same without being writable.
    for place, access in ((0x60, 0xF3), (0x68, 0xF1)):
        ram[table + place : table + place + 8] = bytes((0xFF, 0xFF, 0x78, 0x56, 0x34, access, 0x4F, 0x12))
    g.processor.gdtr_limit = max(g.processor.gdtr_limit, 0x6F)
    g.set(rax=0x60 | rpl, rcx=0x68 | rpl, rdx=0x60 | rpl, rbx=0x68 | rpl)
    g.run_to_halt()
    assert not in_python
    state = g.processor.state.bytes
    for number in (3, 0, 4, 5):
        segment = g.processor.segments[number]
        natively = segment.selector, segment.base, segment.limit, segment.attributes
        place = layout.segment(number)
        hidden = bytes(state[place : place + layout.SEGMENT_SIZE])
        g.processor.load_data_segment(number, natively[0])
        assert natively == (segment.selector, segment.base, segment.limit, segment.attributes)
        assert bytes(state[place : place + layout.SEGMENT_SIZE]) == hidden
        assert segment.base == 0x1234_5678
        assert segment.limit == 0xF_FFFF


@pytest.mark.parametrize(
    ("access", "flags"), [(0xF2, 0x4F), (0xF7, 0x4F), (0xFB, 0x4F)], ids=["not accessed", "expands down", "code"]
)
def test_other_segments_are_python_s(guest: Make, in_python: Counter[str], access: int, flags: int) -> None:
    g = guest().enter_long().load(LOADS)
    ram, table = g.memory.view, g.processor.gdtr_base
    ram[table + 0x60 : table + 0x68] = bytes((0xFF, 0xFF, 0, 0, 0, access, flags, 0))
    g.processor.gdtr_limit = max(g.processor.gdtr_limit, 0x6F)
    g.set(rax=0x60, rcx=0, rdx=0, rbx=0)
    g.run_to_halt()
    assert g.processor.segments[3].attributes & 0xFF == access | 1
    assert in_python == {"mov_to_ds": 1}


def test_a_segment_of_another_level_faults(guest: Make) -> None:
    """DPL 0 and RPL 3: #GP(selector)."""
    g = guest().enter_long().load(LOADS)
    g.set(rax=DATA0 | 3)
    assert g.first_exception() == (GP, DATA0)


def test_user_code_loads_them_in_python(guest: Make, in_python: Counter[str]) -> None:
    g = guest().enter_long(cpl=3).load(LOADS)
    g.set(rax=USER_DATA, rcx=0, rdx=0, rbx=0)
    g.first_exception()
    assert g.processor.segments[3].selector == USER_DATA
    assert in_python["mov_to_ds"] == 1


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
