"""Alignment checks (APM vol. 2, 8.2.17): #AC(0) at CPL 3 with CR0.AM and RFLAGS.AC, by each operand's own alignment."""

from __future__ import annotations

import pytest

from trapgate.arch import layout
from trapgate.arch.registers import AC, CR0_AM
from trapgate.arch.vectors import AC as ALIGNMENT_CHECK
from trapgate.arch.vectors import GP, PF

from .bench import CODE, DATA, STACK, Bench

#: (bytes with the operand at [ebx], alignment)
OPERANDS = [
    ("8a03", 1), ("668b03", 2), ("8b03", 4), ("8803", 1), ("668903", 2), ("8903", 4), ("0103", 4), ("ff03", 4),
    ("0f6f03", 8), ("0f7f03", 8), ("f30f7e03", 8), ("f30f1003", 4), ("f20f1003", 8), ("0f1003", 16), ("0f1103", 16),
    ("0fc70b", 8), ("f00fb10b", 4), ("0fa303", 4), ("660fa303", 2),
    ("d903", 4), ("dd03", 8), ("db2b", 8), ("db03", 4), ("df03", 2), ("df2b", 8), ("d92b", 2), ("d93b", 2),
    ("d933", 4), ("0fae5b00", 4), ("6203", 4),
]  # fmt: skip


def prepare(bench: Bench, cpl: int = 3, am: bool = True, ac: bool = True) -> Bench:
    bench.prepare32(cpl)
    p = bench.processor
    if am:
        p.state.set(layout.CR0, p.cr0 | CR0_AM)
    bench.set(rflags=2 | (AC if ac else 0))
    p.mode_changed()
    bench.memory.write(DATA, bytes(64))
    return bench


@pytest.mark.parametrize(("code", "alignment"), OPERANDS)
def test_each_operand_has_its_alignment(bench: Bench, code: str, alignment: int) -> None:
    for offset in range(17):
        prepare(bench).set(rbx=DATA + offset)
        got = bench.run(code)
        if offset % alignment:
            assert got is not None, offset
            assert (got.vector, got.error, got.rip) == (ALIGNMENT_CHECK, 0, CODE)
        else:
            assert got is None, (offset, got)


@pytest.mark.parametrize(("cpl", "am", "ac"), [(0, True, True), (3, False, True), (3, True, False)])
def test_only_where_enabled(bench: Bench, cpl: int, am: bool, ac: bool) -> None:
    prepare(bench, cpl, am, ac).set(rbx=DATA + 1)
    assert bench.run("8b038903") is None


def test_stack_and_strings(bench: Bench) -> None:
    prepare(bench).set(rsp=STACK + 1)
    got = bench.run("50")
    assert got is not None
    assert got.vector == ALIGNMENT_CHECK
    assert bench.get("rsp") == STACK + 1
    prepare(bench).set(rsi=DATA, rdi=DATA + 0x101, rcx=4)
    got = bench.run("f3a5")  # rep movsd
    assert got is not None
    assert (got.vector, bench.get("rcx")) == (ALIGNMENT_CHECK, 4)
    prepare(bench).set(rsi=DATA, rdi=DATA + 0x100, rcx=4)
    assert bench.run("f3a5") is None


def test_popf_turns_it_on_and_off(bench: Bench) -> None:
    prepare(bench, ac=False).set(rbx=DATA + 1)
    bench.memory.write_u32(STACK, 2 | AC)
    got = bench.run("8b039d8b03")
    assert got is not None
    assert (got.vector, got.rip) == (ALIGNMENT_CHECK, CODE + 3)
    prepare(bench).set(rbx=DATA + 1)
    bench.memory.write_u32(STACK, 2)
    assert bench.run("9d8b03") is None


def test_general_protection_of_sixteen_byte_operands_goes_first(bench: Bench) -> None:
    prepare(bench).set(rbx=DATA + 4)
    got = bench.run("0f2803")  # movaps
    assert got is not None
    assert (got.vector, got.error) == (GP, 0)


def test_page_fault_goes_first(bench: Bench) -> None:
    """APM vol. 2, table 8-8: #PF before #AC."""
    bench.prepare64(3)
    p = bench.processor
    p.state.set(layout.CR0, p.cr0 | CR0_AM)
    bench.set(rflags=2 | AC, rbx=0x3F_FFFD)
    got = bench.run("8b03")
    assert got is not None
    assert got.vector == PF
