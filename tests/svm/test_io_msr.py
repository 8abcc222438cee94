"""Ports and MSRs under their permission maps (APM vol. 2, 15.10 "IOIO Intercepts" and 15.11 "MSR Intercepts")."""

from __future__ import annotations

import pytest

from engine.harness import DATA, PORT
from svm.conftest import LATER, Make
from svm.world import IOPM, MSRPM, World
from trapgate.arch import vmcb

IOIO, MSR, HLT = vmcb.EXIT["ioio"], vmcb.EXIT["msr"], vmcb.EXIT["hlt"]
IN, STRING, REPEAT = 1, 4, 8
SIZE = {1: 0x10, 2: 0x20, 4: 0x40}
A16, A32, A64 = 0x80, 0x100, 0x200


def protect(w: World, *ports: int) -> World:
    for port in ports:
        w.memory.write_u8(IOPM + port // 8, w.memory.read_u8(IOPM + port // 8) | 1 << (port & 7))
    return w


def long_mode(world: Make, text: str, features: frozenset[str] | None = None) -> World:
    w = world(features)
    w.guest.enter_long()
    w.wrap().intercept("ioio", "msr").code(64, text + "\nf4  hlt")
    w.guest.set(rdx=PORT, rsi=DATA, rdi=DATA, rcx=3)
    return w


IO = [
    ("ec  in al,dx", 1, IN), ("66 ed  in ax,dx", 2, IN), ("ed  in eax,dx", 4, IN),
    ("ee  out dx,al", 1, 0), ("66 ef  out dx,ax", 2, 0), ("ef  out dx,eax", 4, 0),
    ("6c  insb", 1, IN | STRING | A64), ("66 6d  insw", 2, IN | STRING | A64), ("6d  insd", 4, IN | STRING | A64),
    ("6e  outsb", 1, STRING | A64), ("66 6f  outsw", 2, STRING | A64), ("6f  outsd", 4, STRING | A64),
    ("f3 6c  rep insb", 1, IN | STRING | REPEAT | A64), ("f3 6e  rep outsb", 1, STRING | REPEAT | A64),
    ("f3 66 6f  rep outsw", 2, STRING | REPEAT | A64), ("67 6c  insb", 1, IN | STRING | A32),
    ("67 f3 6f  rep outsd", 4, STRING | REPEAT | A32),
]  # fmt: skip


@pytest.mark.parametrize(("text", "size", "info"), IO, ids=[text.split("  ")[1] + text[:2] for text, _, _ in IO])
def test_every_byte_of_the_access_is_looked_up(world: Make, text: str, size: int, info: int) -> None:
    w = long_mode(world, text)
    after = 0x8000 + len(text.split("  ")[0].split())
    for offset in range(-1, size + 1):
        w.memory.write(IOPM, bytes(0x3000))
        protect(w, PORT + offset).go()
        w.guest.set(rcx=3, rsi=DATA, rdi=DATA)
        if 0 <= offset < size:
            before = w.memory.read(DATA, 16)
            reads, writes = len(w.guest.device.reads), len(w.guest.device.writes)
            assert w.run() == (IOIO, PORT << 16 | SIZE[size] | info, after, 0)
            assert (w.guest["rcx"], w.guest["rsi"], w.guest["rdi"]) == (3, DATA, DATA)
            assert w.memory.read(DATA, 16) == before
            assert (reads, writes) == (len(w.guest.device.reads), len(w.guest.device.writes))
            assert w[vmcb.NEXT_RIP] == after
        else:
            assert w.run().code == HLT


@pytest.mark.parametrize("text", ["e4 60  in al,0x60", "e6 60  out 0x60,al"])
def test_immediate_ports(world: Make, text: str) -> None:
    w = protect(long_mode(world, text), 0x60)
    assert w.run() == (IOIO, 0x60 << 16 | 0x10 | (IN if "in" in text else 0), 0x8002, 0)


def test_sixteen_bit_addresses(world: Make) -> None:
    w = world()
    w.guest.enter_real()
    protect(w.wrap().intercept("ioio").code(16, "6c  insb"), PORT)
    w.guest.set(rdx=PORT)
    assert w.run() == (IOIO, PORT << 16 | 0x10 | IN | STRING | A16, 0x8001, 0)


@pytest.mark.parametrize(("text", "segment"), [
    ("6c  insb", 0), ("64 6c  insb", 0), ("6e  outsb", 3), ("26 6e  outsb", 0), ("2e 6e  outsb", 1),
    ("36 6e  outsb", 2), ("64 6e  outsb", 4), ("65 f3 6e  rep outsb", 5),
])  # fmt: skip
def test_the_segment_of_strings_comes_with_decode_assists(world: Make, text: str, segment: int) -> None:
    # 15.10.3; in 32-bit mode, where all of them count.
    for features, shown in ((LATER, segment), (None, 0)):
        w = world(features)
        w.guest.enter_protected()
        protect(w.wrap().intercept("ioio").code(32, text), PORT)
        w.guest.set(rdx=PORT, rcx=1)
        assert w.run().info1 >> 10 & 7 == shown


def test_the_map_has_three_bits_beyond_the_last_port(world: Make) -> None:
    # 15.10.1: "a linear array of 64K+3 bits".
    w = long_mode(world, "ed  in eax,dx")
    w.guest.set(rdx=0xFFFF)
    assert w.run().code == HLT
    w.memory.write_u8(IOPM + 0x2000, 4)
    assert w.go().run().info1 == 0xFFFF << 16 | 0x40 | IN
    w.memory.write_u8(IOPM + 0x2000, 8)
    assert w.go().run().code == HLT


def test_low_bits_of_the_map_addresses_are_ignored(world: Make) -> None:
    w = protect(long_mode(world, "ec  in al,dx"), PORT)
    w[vmcb.IOPM_BASE_PA] = IOPM | 0xFFF
    assert w.run().code == IOIO
    w = long_mode(world, "0f 32  rdmsr")
    w[vmcb.MSRPM_BASE_PA] = MSRPM | 0xFFF
    w.guest.set(rcx=0x10)
    w.memory.write_u8(MSRPM + 4, 1)
    assert w.run().code == MSR


def test_without_the_intercept_the_map_is_not_looked_at(world: Make) -> None:
    w = protect(long_mode(world, "ec  in al,dx"), PORT).let("ioio")
    assert w.run().code == HLT
    assert w.guest.device.reads == [(0, 1)]


def test_a_repeated_instruction_with_no_turns_touches_no_port(world: Make) -> None:
    w = protect(long_mode(world, "f3 6c  rep insb"), PORT)
    w.guest.set(rcx=0)
    assert w.run().code == HLT


def test_guest_permission_comes_first(world: Make) -> None:
    # 15.10.2: IOPL and the TSS's bitmap are checked before.
    w = world()
    w.guest.enter_long(cpl=3)
    protect(w.wrap().intercept("ioio").intercept_exceptions(13).code(64, "ec  in al,dx"), PORT)
    w.guest.set(rdx=PORT)
    w.memory.write_u16(0x3000 + 102, 0x800)
    assert w.run().code == 0x4D
    w.processor.tr.limit = 0x2000
    w.memory.write_u16(0x3000 + 102, 0x68)
    w.memory.write(0x3068 + PORT // 8, bytes(2))
    assert w.run().code == IOIO


# -- 15.11

RANGES = [(0, 0), (0x10, 0), (0x1FFF, 0), (0xC000_0000, 0x800), (0xC000_0080, 0x800), (0xC000_1FFF, 0x800),
          (0xC001_0000, 0x1000), (0xC001_0117, 0x1000), (0xC001_1FFF, 0x1000)]  # fmt: skip


@pytest.mark.parametrize("write", [False, True], ids=["read", "write"])
@pytest.mark.parametrize(("number", "offset"), RANGES, ids=[f"{number:x}" for number, _ in RANGES])
def test_two_bits_for_each_msr(world: Make, number: int, offset: int, write: bool) -> None:
    w = long_mode(world, "0f 30  wrmsr" if write else "0f 32  rdmsr").intercept_exceptions(13)
    bit = offset * 8 + 2 * (number & 0x1FFF) + write
    w.guest.set(rcx=number, rdx=0)
    w.memory.write_u8(MSRPM + bit // 8, 1 << (bit & 7))
    assert w.run() == (MSR, int(write), 0, 0)
    assert w[vmcb.NEXT_RIP] == 0x8002
    # Its own bit alone counts.
    w.memory.write(MSRPM, b"\xff" * 0x2000)
    w.memory.write_u8(MSRPM + bit // 8, ~(1 << (bit & 7)) & 0xFF)
    w[vmcb.RAX] = w[vmcb.EFER] & 0xFFFF_FFFF if number == 0xC000_0080 else 0
    assert w.run().code in (HLT, 0x4D)


@pytest.mark.parametrize("number", [0x2000, 0xBFFF_FFFF, 0xC000_2000, 0xC001_2000, 0xFFFF_FFFF])
@pytest.mark.parametrize("text", ["0f 32  rdmsr", "0f 30  wrmsr"])
def test_msrs_outside_the_map_are_always_intercepted(world: Make, number: int, text: str) -> None:
    w = long_mode(world, text)
    w.guest.set(rcx=number)
    assert w.run().code == MSR
    w.let("msr").intercept_exceptions(13)
    assert w.run().code == 0x4D


def test_an_msr_that_is_not_there_is_intercepted_first(world: Make) -> None:
    # 15.11: "Exceptions specific to a given MSR" come after.
    w = long_mode(world, "0f 32  rdmsr").intercept_exceptions(13)
    w.memory.write(MSRPM, b"\xff" * 0x2000)
    w.guest.set(rcx=0x1234)
    assert w.run().code == MSR
    w.memory.write(MSRPM, bytes(0x2000))
    assert w.run() == (0x4D, 0, 0, 0)


def test_maps_that_are_not_in_memory_intercept_everything(world: Make) -> None:
    # Nothing answers there: all ones. The manual leaves it open.
    w = long_mode(world, "0f 32  rdmsr")
    w[vmcb.MSRPM_BASE_PA] = w[vmcb.IOPM_BASE_PA] = 0x1_0000_0000
    w.guest.set(rcx=0x10)
    assert w.run().code == MSR
    w.code(64, "ec  in al,dx")
    assert w.run().code == IOIO
