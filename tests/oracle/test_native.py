"""The native harness itself: it must see what an instruction does, and nothing of its own."""

from __future__ import annotations

import struct

import pytest

from . import areas
from .areas import Case, State
from .check import cases_of
from .compare import differences
from .forms import all_forms
from .host import Reference
from .native import NativeProcessor, NativeRunFailed

pytestmark = pytest.mark.xdist_group("oracle")


def _case(code: str, number: int = 0, **registers: int) -> Case:
    names = ("rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", *(f"r{i}" for i in range(8, 16)))
    gpr = [registers.get(name, 0x0101_0101_0101_0101 * i) for i, name in enumerate(names)]
    fx = bytearray(areas.FX_SIZE)
    struct.pack_into("<H", fx, areas.FX_CONTROL, 0x37F)
    struct.pack_into("<I", fx, areas.FX_MXCSR, areas.MXCSR_RESET)
    state = State(gpr, 0x202, bytes(fx), bytes(areas.WINDOW_SIZE), areas.slot_address(number))
    return Case(bytes.fromhex(code), state)


def test_a_nop_changes_nothing_but_rip(reference: Reference) -> None:
    case = _case("90")
    (outcome,) = reference.run([case])
    assert outcome.vector == -1
    assert outcome.state.rip == case.state.rip + 1
    assert outcome.state.gpr == case.state.gpr
    assert outcome.state.rflags == case.state.rflags
    assert outcome.state.window == case.state.window


@pytest.mark.parametrize(
    ("code", "registers", "vector", "error", "address"),
    [
        ("f7f1", {"rcx": 0, "rax": 1}, 0, 0, 0),  # div ecx
        ("0f0b", {}, 6, 0, 0),  # ud2
        ("f4", {}, 13, 0, 0),  # hlt
        ("8b00", {"rax": areas.UNMAPPED + 8}, 14, 4, areas.UNMAPPED + 8),  # mov eax, [rax]
        ("8b00", {"rax": areas.UNMAPPED - 1}, 14, 4, areas.UNMAPPED),  # crosses into the page that is missing
        ("8900", {"rax": areas.READ_ONLY}, 14, 7, areas.READ_ONLY),  # mov [rax], eax
        ("8b00", {"rax": 1 << 63}, 13, 0, 0),  # not canonical
        ("50", {"rsp": 1 << 62}, 12, 0, 0),  # push rax, not canonical
        ("0f2800", {"rax": areas.WINDOW + 8}, 13, 0, 0),  # movaps xmm0, [rax], misaligned
    ],
)
def test_exceptions_are_seen(
    reference: Reference, code: str, registers: dict[str, int], vector: int, error: int, address: int
) -> None:
    case = _case(code, **registers)
    (outcome,) = reference.run([case])
    assert (outcome.vector, outcome.error, outcome.address) == (vector, error, address)
    assert outcome.state.rip == case.state.rip
    assert outcome.state.gpr == case.state.gpr


def test_rsp_is_a_data_register(reference: Reference) -> None:
    (outcome,) = reference.run([_case("4829e0", rax=10, rsp=3)])  # sub rax, rsp
    assert outcome.state.gpr[0] == 7
    assert outcome.state.gpr[4] == 3


def test_branches_report_where_they_went(reference: Reference) -> None:
    taken, not_taken = _case("7420"), _case("7520", 1)  # jz, jnz; ZF is set
    taken.state.rflags |= 0x40
    not_taken.state.rflags |= 0x40
    first, second = reference.run([taken, not_taken])
    assert first.state.rip == taken.state.rip + 0x22
    assert second.state.rip == not_taken.state.rip + 2


def test_the_same_case_has_the_same_outcome(reference: Reference) -> None:
    cases = cases_of((form, 7) for form in all_forms("long64"))
    assert len(cases) > 1000
    first, second = reference.run(cases), reference.run(cases)
    for case, a, b in zip(cases, first, second, strict=True):
        assert not differences(case, a, b), case.text


def test_a_wild_instruction_kills_only_the_worker() -> None:
    native = NativeProcessor()
    try:
        broken = _case("b83c0000000f05")  # mov eax, 60; syscall: exit
        with pytest.raises(NativeRunFailed, match="the native worker"):
            native.run([broken])
        (outcome,) = native.run([_case("90")])
        assert outcome.vector == -1
    finally:
        native.close()
