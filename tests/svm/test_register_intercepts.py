"""Reads and writes of control and debug registers (APM vol. 2, 15.9 and 15.8.1)."""

from __future__ import annotations

import pytest

from svm.conftest import LATER, Make
from svm.world import World
from trapgate.arch import layout, vmcb
from trapgate.arch.registers import CR0_MP, CR0_TS

VALID = 1 << 63


def modrm(register: int, general: int) -> str:
    return f"{0xC0 | (register & 7) << 3 | general & 7:02x}"


def move(kind: str, number: int, write: bool, general: int = 0) -> str:
    """MOV between a 64-bit register and CRn or DRn."""
    opcode = (0x20 if kind == "cr" else 0x21) + (2 if write else 0)
    rex = 0x40 | (4 if number > 7 else 0) | (1 if general > 7 else 0)
    return f"{rex:02x} 0f {opcode:02x} {modrm(number, general)}  mov"


MOVES = [("cr", n) for n in (0, 2, 3, 4, 8)] + [("dr", n) for n in range(8)]


@pytest.mark.parametrize("assisted", [False, True], ids=["", "assists"])
@pytest.mark.parametrize("write", [False, True], ids=["read", "write"])
@pytest.mark.parametrize(("kind", "number"), MOVES)
def test_each_register(world: Make, kind: str, number: int, write: bool, assisted: bool) -> None:
    w = world(LATER if assisted else None)
    w.guest.enter_long()
    w.wrap().code(64, move(kind, number, write, 11) + "\nf4  hlt")
    value = w[vmcb.CR0] if (kind, number) == ("cr", 0) else w[vmcb.CR4] if (kind, number) == ("cr", 4) else 0
    if (kind, number) == ("cr", 3):
        value = w[vmcb.CR3]
    w.guest.set(r11=value)
    w.u32(vmcb.INTERCEPT_CR if kind == "cr" else vmcb.INTERCEPT_DR, 1 << number + (16 if write else 0))
    before = w.state()
    code = {"cr": 0x00, "dr": 0x20}[kind] + (0x10 if write else 0) + number
    info1 = (11 | (VALID if kind == "cr" else 0)) if assisted else 0
    assert w.run() == (code, info1, 0, 0)
    assert (w.state(), w[vmcb.NEXT_RIP], w.guest["r11"]) == (before, 0x8004, value)
    # Every other bit leaves it alone.
    w.u32(vmcb.INTERCEPT_CR, 0xFFFF_FFFF).u32(vmcb.INTERCEPT_DR, 0xFFFF_FFFF)
    w.u32(vmcb.INTERCEPT_CR if kind == "cr" else vmcb.INTERCEPT_DR, ~(1 << number + (16 if write else 0)) & 0xFFFF_FFFF)
    assert w.run().code == vmcb.EXIT["hlt"]


@pytest.mark.parametrize(("text", "code"), [
    ("0f 01 f0  lmsw ax", 0x10), ("0f 06  clts", 0x10), ("0f 01 e0  smsw eax", 0x00),
])  # fmt: skip
def test_other_ways_to_cr0_give_no_register(world: Make, text: str, code: int) -> None:
    # 15.8.1: "bit 63 is not set".
    w = world(LATER)
    w.guest.enter_long()
    w.wrap().u32(vmcb.INTERCEPT_CR, 0x0001_0001).code(64, text)
    assert w.run() == (code, 0, 0, 0)


def selective(world: Make, text: str, change: int, features: frozenset[str] | None = None) -> World:
    w = world(features)
    w.guest.enter_long()
    w.wrap().intercept("cr0_sel_write").code(64, text + "\nf4  hlt")
    w[vmcb.RAX] = w[vmcb.CR0] ^ change
    return w


@pytest.mark.parametrize(("change", "leaves"), [
    (0, False), (CR0_TS, False), (CR0_MP, False), (CR0_TS | CR0_MP, False),
    (1 << 4, False),  # ET is fixed: the write does not change it
    (1 << 6, False), (1 << 28, False),  # reserved bits stay 0
    (1 << 2, True), (1 << 5, True), (1 << 16, True), (1 << 18, True), (1 << 30, True), (CR0_TS | 1 << 5, True),
])  # fmt: skip
def test_selective_write_of_cr0(world: Make, change: int, leaves: bool) -> None:
    w = selective(world, "0f 22 c0  mov cr0,rax", change)
    before = w[vmcb.CR0]
    assert w.run().code == (0x65 if leaves else vmcb.EXIT["hlt"])
    if leaves:
        assert (w[vmcb.CR0], w[vmcb.RIP], w[vmcb.NEXT_RIP]) == (before, 0x8000, 0x8003)
    else:
        assert w[vmcb.CR0] == before ^ change & (CR0_TS | CR0_MP)


def test_the_general_intercept_goes_before_the_selective_one(world: Make) -> None:
    w = selective(world, "0f 22 c0  mov cr0,rax", 1 << 5).u32(vmcb.INTERCEPT_CR, 1 << 16)
    assert w.run().code == 0x10


def test_lmsw_is_always_selective_and_clts_never(world: Make) -> None:
    # Table 15-7: LMSW "intercepts regardless of the value being written"; CLTS does not check it.
    w = selective(world, "0f 01 f0  lmsw ax", 0)
    assert w.run().code == 0x65
    w = selective(world, "0f 06  clts", 0)
    w[vmcb.CR0] |= CR0_TS
    assert w.run().code == vmcb.EXIT["hlt"]
    assert not w[vmcb.CR0] & CR0_TS


def test_selective_write_with_decode_assists(world: Make) -> None:
    w = selective(world, "41 0f 22 c1  mov cr0,r9", 0, LATER)
    w.guest.set(r9=w[vmcb.CR0] ^ 1 << 5)
    assert w.run() == (0x65, VALID | 9, 0, 0)


def test_cr8_by_the_lock_prefix(world: Make) -> None:
    # 15.21.3: LOCK MOV CR0 is MOV CR8.
    w = world()
    w.guest.enter_protected()
    w.wrap().code(32, "f0 0f 22 c0  mov cr8,eax\nf0 0f 20 c3  mov ebx,cr8\nf4  hlt").virtual_interrupt(
        pending=False, masking=True
    )
    w[vmcb.RAX] = 5
    assert w.run().code == vmcb.EXIT["hlt"]
    assert (w.guest["rbx"], w[vmcb.VIRTUAL_INTERRUPT] & 0xFF) == (5, 5)
    w.go().u32(vmcb.INTERCEPT_CR, 1 << 24)
    assert w.run().code == 0x18


@pytest.mark.parametrize("event", ["task", "vmrun"])
def test_implicit_reads_and_writes_are_not_intercepted(world: Make, event: str) -> None:
    # Table 15-7: "The reads and writes of CR3 that occur in VMRUN, #VMEXIT or task switches are not subject to this".
    w = world()
    w.guest.enter_protected("two-level")
    w.wrap().u32(vmcb.INTERCEPT_CR, 0xFFFF_FFFF).u32(vmcb.INTERCEPT_DR, 0xFFFF_FFFF)
    if event == "task":
        g = w.guest
        g.set_descriptor(0x60, 0x0000_8900_3400_0067)
        tss = bytearray(0x68)
        for at, value in ((0x1C, g.root), (0x20, 0x9000), (0x24, 2), (0x48, 0x10), (0x4C, 0x18), (0x50, 0x10),
                          (0x54, 0x10), (0x58, 0x10), (0x5C, 0x10)):  # fmt: skip
            tss[at : at + 4] = value.to_bytes(4, "little")
        w.memory.write(0x3400, bytes(tss))
        w.code(32, "ea 00 00 00 00 60 00  jmp 0x60:0").code(32, "f4  hlt", 0x9000)
    else:
        w.code(32, "f4  hlt")
    assert w.run().code == vmcb.EXIT["hlt"]
    assert w[vmcb.CR3] == w.guest.root == w.processor.state.get(layout.CR3)
