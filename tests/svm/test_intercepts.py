"""Every instruction intercept (APM vol. 2, 15.9 "Instruction Intercepts"; exit codes: appendix C).

An intercepted instruction has done nothing: registers, flags, memory and counts are as they were, rip is its own, and
with NRIP_SAVE nRIP is the next (15.7.1 "State Saved on Exit").
"""

from __future__ import annotations

from typing import NamedTuple

import pytest

from engine.assembly import assemble
from engine.harness import DATA
from svm.conftest import LATER, Make
from svm.world import VMCB, World
from trapgate.arch import vmcb
from trapgate.arch.registers import EFER_SVME


class Case(NamedTuple):
    """One instruction and the exit that it makes."""

    name: str
    text: str
    code: int
    #: long, protected, real
    mode: str = "long"
    info1: int = 0


BITS = {"long": 64, "protected": 32, "real": 16}

CASES = [
    Case("idtr_read", "0f 01 0b  sidt [rbx]", 0x66),
    Case("gdtr_read", "0f 01 03  sgdt [rbx]", 0x67),
    Case("ldtr_read", "0f 00 c0  sldt eax", 0x68),
    Case("ldtr_read", "0f 00 03  sldt [rbx]", 0x68),
    Case("tr_read", "0f 00 c8  str eax", 0x69),
    Case("idtr_write", "0f 01 1b  lidt [rbx]", 0x6A),
    Case("gdtr_write", "0f 01 13  lgdt [rbx]", 0x6B),
    Case("ldtr_write", "0f 00 d0  lldt ax", 0x6C),
    Case("tr_write", "0f 00 d8  ltr ax", 0x6D),
    Case("rdtsc", "0f 31  rdtsc", 0x6E),
    Case("rdpmc", "0f 33  rdpmc", 0x6F),
    Case("pushf", "9c  pushfq", 0x70),
    Case("pushf", "66 9c  pushf", 0x70),
    Case("pushf", "9c  pushfd", 0x70, "protected"),
    Case("pushf", "9c  pushf", 0x70, "real"),
    Case("popf", "9d  popfq", 0x71),
    Case("popf", "9d  popfd", 0x71, "protected"),
    Case("popf", "9d  popf", 0x71, "real"),
    Case("cpuid", "0f a2  cpuid", 0x72),
    Case("rsm", "0f aa  rsm", 0x73),
    Case("iret", "48 cf  iretq", 0x74),
    Case("iret", "cf  iretd", 0x74),
    Case("iret", "cf  iretd", 0x74, "protected"),
    Case("iret", "cf  iret", 0x74, "real"),
    Case("swint", "cd 80  int 0x80", 0x75),
    Case("swint", "cd 03  int 3", 0x75),
    Case("swint", "cd 21  int 0x21", 0x75, "real"),
    Case("invd", "0f 08  invd", 0x76),
    Case("pause", "f3 90  pause", 0x77),
    Case("hlt", "f4  hlt", 0x78),
    Case("invlpg", "0f 01 3b  invlpg [rbx]", 0x79),
    Case("invlpga", "0f 01 df  invlpga rax,ecx", 0x7A),
    Case("ioio", "ec  in al,dx", 0x7B, info1=0x0500_0011),
    Case("msr", "0f 32  rdmsr", 0x7C, info1=0),
    Case("msr", "0f 30  wrmsr", 0x7C, info1=1),
    Case("vmrun", "0f 01 d8  vmrun rax", 0x80),
    Case("vmmcall", "0f 01 d9  vmmcall", 0x81),
    Case("vmload", "0f 01 da  vmload rax", 0x82),
    Case("vmsave", "0f 01 db  vmsave rax", 0x83),
    Case("stgi", "0f 01 dc  stgi", 0x84),
    Case("clgi", "0f 01 dd  clgi", 0x85),
    Case("skinit", "0f 01 de  skinit eax", 0x86),
    Case("rdtscp", "0f 01 f9  rdtscp", 0x87),
    Case("icebp", "f1  int1", 0x88),
    Case("wbinvd", "0f 09  wbinvd", 0x89),
    Case("monitor", "0f 01 c8  monitor", 0x8A),
    Case("mwait", "0f 01 c9  mwait", 0x8B),
    Case("mwait_conditional", "0f 01 c9  mwait", 0x8C),
]
IDS = [f"{case.name}-{case.text.split('  ')[1].split()[0]}-{case.mode}" for case in CASES]


def enter(w: World, mode: str) -> World:
    """The guest in this mode, with registers that every case can do with."""
    if mode == "long":
        w.guest.enter_long()
    elif mode == "protected":
        w.guest.enter_protected()
    else:
        w.guest.enter_real()
    w.guest.set(rax=0x40000, rbx=DATA, rcx=0, rdx=0x500, rsi=DATA, rdi=DATA)
    w.memory.write(DATA, bytes(range(16)))
    return w.wrap()


def arm(w: World, case: Case) -> World:
    """Turn the intercept on; the permission maps have every bit set."""
    w.memory.write(w[vmcb.IOPM_BASE_PA], b"\xff" * 0x3000)
    w.memory.write(w[vmcb.MSRPM_BASE_PA], b"\xff" * 0x2000)
    return w.intercept(case.name).code(BITS[case.mode], case.text)


@pytest.mark.parametrize("assisted", [False, True], ids=["", "nrip"])
@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_an_intercepted_instruction_has_done_nothing(world: Make, case: Case, assisted: bool) -> None:
    w = arm(enter(world(frozenset(("NP", "NRIP_SAVE")) if assisted else frozenset(("NP",))), case.mode), case)
    length = len(assemble(BITS[case.mode], case.text).data)
    w[vmcb.RFLAGS] = 0x8D7
    w[vmcb.NEXT_RIP] = 0x1234
    before, registers, data = w.state(), w.guest.registers(), w.memory.read(DATA, 16)
    stack = w.memory.read(0x6F80, 0x80)
    at = w.processor.instructions
    info2 = 0x8000 + length if case.name == "ioio" else 0
    assert w.run() == (case.code, case.info1, info2, 0)
    assert w.state() == before
    for name in ("rbx", "rcx", "rdx", "rsi", "rdi", "rbp", "r8"):
        assert w.guest[name] == registers[name]
    assert w.memory.read(DATA, 16) == data
    assert w.memory.read(0x6F80, 0x80) == stack
    assert w.processor.instructions == at
    assert w[vmcb.NEXT_RIP] == (0x8000 + length if assisted else 0x1234)
    assert w.processor.exit_counts == {case.code: 1}


#: VMRUN's bit must be set; HLT and MWAIT would wait.
_LEAVABLE = [i for i, case in enumerate(CASES) if case.name not in ("vmrun", "hlt", "mwait", "mwait_conditional")]


@pytest.mark.parametrize("case", [CASES[i] for i in _LEAVABLE], ids=[IDS[i] for i in _LEAVABLE])
def test_without_its_bit_it_makes_no_such_exit(world: Make, case: Case) -> None:
    w = arm(enter(world(), case.mode), case).let(case.name)
    w.memory.write(0x8000 + len(assemble(BITS[case.mode], case.text).data), b"\xf4" * 16)
    w.memory.write(w[vmcb.IOPM_BASE_PA], bytes(0x3000))
    w.memory.write(0x7000, bytes(64))
    assert w.run().code == vmcb.EXIT["hlt"]


def test_names_and_codes_are_those_of_appendix_c() -> None:
    assert (vmcb.EXIT["intr"], vmcb.EXIT["vintr"], vmcb.EXIT["cr0_sel_write"]) == (0x60, 0x64, 0x65)
    assert (vmcb.EXIT["task_switch"], vmcb.EXIT["ferr_freeze"], vmcb.EXIT["shutdown"]) == (0x7D, 0x7E, 0x7F)
    assert vmcb.EXIT["mwait_conditional"] == 0x8C


def test_nrip_is_the_next_instruction_not_the_target(world: Make) -> None:
    # 15.7.1: IRET would go elsewhere.
    w = enter(world(), "real").intercept("iret").code(16, "cf  iret")
    w.memory.write(0x7000, b"\x00\x90\x00\x00\x02\x00")
    assert w.run().code == 0x74
    assert w[vmcb.NEXT_RIP] == 0x8001


@pytest.mark.parametrize("intercepted", [True, False])
def test_nrip_goes_on_beyond_64_kb_in_16_bit_code(world: Make, intercepted: bool) -> None:
    """EIP has 32 bits in 16-bit code, too, where the segment's limit lets it go on."""
    w = world()
    w.guest.enter_real()
    w.guest.processor.segments[1].load(0, 0, 0xFFFF_FFFF, 0x9B)
    w.wrap().code(16, "0f 08  invd\n0f 01 d9  vmmcall", 0x3_0008).go(0x3_0008)
    if intercepted:
        w.intercept("invd")
    assert w.run().code == vmcb.EXIT["invd" if intercepted else "vmmcall"]
    assert w[vmcb.NEXT_RIP] == (0x3_000A if intercepted else 0x3_000D)


def test_nrip_is_zero_for_other_exits(world: Make) -> None:
    w = enter(world(), "long").intercept_exceptions(6).code(64, "0f 0b  ud2")
    w[vmcb.NEXT_RIP] = 0x1234
    assert w.run().code == 0x46
    assert w[vmcb.NEXT_RIP] == 0


@pytest.mark.parametrize(("text", "bits", "vector", "flags"), [
    ("cc  int3", 64, 3, 2), ("ce  into", 32, 4, 0x802), ("62 03  bound eax,[ebx]", 32, 5, 2),
])  # fmt: skip
def test_nrip_of_int3_into_and_bound(world: Make, text: str, bits: int, vector: int, flags: int) -> None:
    # 15.7.1 and 15.12: rip is the instruction's own, nRIP the next.
    w = enter(world(), "long" if bits == 64 else "protected").intercept_exceptions(vector).code(bits, text)
    w.memory.write(DATA, bytes(8))  # the bounds are 0 and 0, eax is not
    w[vmcb.RFLAGS] = flags
    assert w.run() == (0x40 + vector, 0, 0, 0)
    assert (w[vmcb.RIP], w[vmcb.NEXT_RIP]) == (0x8000, 0x8000 + len(assemble(bits, text).data))


def test_into_without_overflow_is_no_exception(world: Make) -> None:
    w = enter(world(), "protected").intercept_exceptions(4).code(32, "ce  into\nf4  hlt")
    assert w.run().code == vmcb.EXIT["hlt"]


def test_software_interrupt_number_needs_decode_assists(world: Make) -> None:
    # 15.8.2.
    for features, number in ((LATER, 0x80), (frozenset(("NRIP_SAVE",)), 0)):
        w = enter(world(features), "long").intercept("swint").code(64, "cd 80  int 0x80")
        assert w.run() == (0x75, number, 0, 0)


def test_invlpg_address_needs_decode_assists(world: Make) -> None:
    # 15.8.3: the linear address, after the segment's base.
    for features, address in ((LATER, 0x11_0010), (frozenset(("NRIP_SAVE",)), 0)):
        w = enter(world(features), "long").intercept("invlpg").code(64, "64 0f 01 7b 10  invlpg [fs:rbx+0x10]")
        w.processor.segments[4].load(0, 0x10_0000, 0xFFFF_FFFF, 0xC93)
        assert w.run() == (0x79, address, 0, 0)


def test_invlpga_gives_no_address(world: Make) -> None:
    # 15.8.3: it is in rAX.
    w = enter(world(LATER), "long").intercept("invlpga").code(64, "0f 01 df  invlpga rax,ecx")
    assert w.run() == (0x7A, 0, 0, 0)


def test_pause_filter_counts_down(world: Make) -> None:
    # 15.9, table 15-7: the intercept occurs when the counter goes below zero.
    w = enter(world(LATER), "long").intercept("pause").code(64, "f3 90  pause\n" * 4 + "f4  hlt")
    w.memory.write_u16(VMCB + vmcb.PAUSE_FILTER_COUNT, 2)
    assert w.run().code == 0x77
    assert w[vmcb.RIP] == 0x8004
    assert w.memory.read_u16(VMCB + vmcb.PAUSE_FILTER_COUNT) == 2
    w.go(0x8004)  # VMRUN loads the counter again
    assert w.run().code == vmcb.EXIT["hlt"]


def test_pause_filter_threshold_starts_the_count_again(world: Make) -> None:
    # 15.14.4: PAUSEs that are far apart are no spinning.
    body = "f3 90  pause\n" + "0f 31  rdtsc\n" * 4  # 40 cycles each
    w = enter(world(LATER), "long").intercept("pause").code(64, body * 6 + "f4  hlt")
    w.memory.write_u16(VMCB + vmcb.PAUSE_FILTER_COUNT, 1)
    w.memory.write_u16(VMCB + vmcb.PAUSE_FILTER_THRESHOLD, 100)
    assert w.run().code == vmcb.EXIT["hlt"]
    w.memory.write_u16(VMCB + vmcb.PAUSE_FILTER_THRESHOLD, 1000)
    w.go()
    assert w.run().code == 0x77
    assert w[vmcb.RIP] == 0x8014  # the first one only loads the counter: the last PAUSE was long ago


@pytest.mark.parametrize("features", [frozenset(("NRIP_SAVE",)), LATER - {"PAUSE_FILTER_THRESHOLD"}])
def test_pause_fields_of_missing_features_are_ignored(world: Make, features: frozenset[str]) -> None:
    w = enter(world(features), "long").intercept("pause").code(64, "0f 31  rdtsc\nf3 90  pause\n" * 3 + "f4  hlt")
    w.memory.write_u16(VMCB + vmcb.PAUSE_FILTER_COUNT, 1)
    w.memory.write_u16(VMCB + vmcb.PAUSE_FILTER_THRESHOLD, 10)
    assert w.run().code == 0x77
    assert w[vmcb.RIP] == (0x8006 if "PAUSE_FILTER" in features else 0x8002)


def test_conditional_mwait_goes_first(world: Make) -> None:
    # 15.9, table 15-7: both bits are set, and MWAIT would wait.
    w = enter(world(), "long").intercept("mwait", "mwait_conditional").code(64, "0f 01 c9  mwait")
    assert w.run().code == 0x8C


def test_ferr_freeze(world: Make) -> None:
    # 15.14.2: an unmasked x87 exception with CR0.NE clear; FWAIT would wait for the interrupt of FERR#.
    w = world()
    levels: list[bool] = []
    w.processor.set_ferr = levels.append
    w.guest.enter_protected()
    w.wrap().intercept("ferr_freeze").code(
        32, "db e3  fninit\nd9 2b  fldcw [ebx]\nd9 ee  fldz\nd9 e8  fld1\nde f1  fdivrp st1,st0\n9b  wait\nf4  hlt"
    )
    w.guest.set(rbx=DATA)
    w.memory.write_u16(DATA, 0x0300)
    w[vmcb.CR0] &= ~(1 << 5)
    assert w.run().code == 0x7E
    assert w[vmcb.RIP] == 0x800A
    assert levels[-1:] == [True]


def test_invlpg_in_protected_mode_masks_its_address(world: Make) -> None:
    w = enter(world(LATER), "protected").intercept("invlpg").code(32, "64 0f 01 3b  invlpg [fs:ebx]")
    w.processor.segments[4].load(0, 0xFFFF_F000, 0xFFFF_FFFF, 0xC93)
    assert w.run().info1 == DATA - 0x1000


def test_guest_state_needs_no_svme_for_vmmcall(world: Make) -> None:
    # 15.18: at any privilege; EFER.SVME is set as VMRUN demands, and plays no part.
    w = world()
    w.guest.enter_long(cpl=3)
    w.wrap().code(64, "0f 01 d9  vmmcall")
    assert w[vmcb.EFER] & EFER_SVME
    assert w.run().code == 0x81
