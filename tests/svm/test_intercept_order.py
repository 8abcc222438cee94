"""Exceptions that go before an instruction intercept, and those that do not (APM vol. 2, table 15-7).

Every exception of the guest's is intercepted, so that whatever comes first makes the exit.
"""

from __future__ import annotations

import pytest

from svm.conftest import LATER, Make
from svm.world import World, event
from trapgate.arch import layout, vmcb
from trapgate.arch.registers import (
    CR0_CD,
    CR0_ET,
    CR0_NE,
    CR0_NW,
    CR0_PE,
    CR0_PG,
    CR0_WP,
    CR4_DE,
    CR4_PAE,
    CR4_TSD,
    EFER_SVME,
)

UD, GP, PF, DB = 0x46, 0x4D, 0x4E, 0x41
MISSING = 0x20_0000  # not mapped
ALL = [v for v in range(32) if v not in (2, 9)]


def intercept_all(w: World) -> World:
    """Everything is intercepted: all instructions, registers, exceptions."""
    w.intercept(*vmcb.MISC1, *vmcb.MISC2).intercept_exceptions(*ALL)
    w.let("mwait_conditional")
    return w.u32(vmcb.INTERCEPT_CR, 0xFFFF_FFFF).u32(vmcb.INTERCEPT_DR, 0xFFFF_FFFF)


#: What CPL 3 gets: #GP or #UD before the intercept; or the intercept's own code.
AT_CPL3 = [
    ("0f 20 c0  mov rax,cr0", GP), ("0f 22 c0  mov cr0,rax", GP), ("0f 22 d8  mov cr3,rax", GP),
    ("44 0f 20 c0  mov rax,cr8", GP), ("0f 21 c0  mov rax,dr0", GP), ("0f 23 f8  mov dr7,rax", GP),
    ("0f 01 f0  lmsw ax", GP), ("0f 06  clts", GP), ("0f 01 e0  smsw eax", 0x00),
    ("0f 01 0b  sidt [rbx]", 0x66), ("0f 01 03  sgdt [rbx]", 0x67), ("0f 00 c0  sldt eax", 0x68),
    ("0f 00 c8  str eax", 0x69), ("0f 01 1b  lidt [rbx]", GP), ("0f 01 13  lgdt [rbx]", GP),
    ("0f 00 d0  lldt ax", GP), ("0f 00 d8  ltr ax", GP), ("0f 31  rdtsc", 0x6E), ("0f 33  rdpmc", GP),
    ("9c  pushfq", 0x70), ("9d  popfq", 0x71), ("0f a2  cpuid", 0x72), ("0f aa  rsm", 0x73), ("48 cf  iretq", 0x74),
    ("cd 80  int 0x80", 0x75), ("0f 08  invd", GP), ("f3 90  pause", 0x77), ("f4  hlt", GP),
    ("0f 01 3b  invlpg [rbx]", GP), ("0f 01 df  invlpga rax,ecx", GP), ("0f 32  rdmsr", GP), ("0f 30  wrmsr", GP),
    ("0f 01 d8  vmrun rax", GP), ("0f 01 d9  vmmcall", 0x81), ("0f 01 da  vmload rax", GP),
    ("0f 01 db  vmsave rax", GP), ("0f 01 dc  stgi", GP), ("0f 01 dd  clgi", GP), ("0f 01 de  skinit eax", GP),
    ("0f 01 f9  rdtscp", 0x87), ("f1  int1", 0x88), ("0f 09  wbinvd", GP), ("0f 01 c8  monitor", UD),
    ("0f 01 c9  mwait", UD), ("ec  in al,dx", GP), ("fa  cli", GP), ("cc  int3", 0x43),
]  # fmt: skip


@pytest.mark.parametrize(("text", "code"), AT_CPL3, ids=[text.split("  ")[1] for text, _ in AT_CPL3])
def test_at_cpl_3(world: Make, text: str, code: int) -> None:
    w = world()
    w.guest.enter_long(cpl=3)
    intercept_all(w.wrap()).code(64, text)
    w.guest.set(rbx=MISSING, rdx=0x500)  # so memory that cannot be reached plays no part
    w.memory.write_u16(0x3000 + 102, 0xFFFF)  # the TSS has no I/O bitmap
    assert w.run() == (code, 0, 0, 0)
    assert w[vmcb.RIP] == 0x8000


#: In real mode: #UD of what protected mode alone has.
IN_REAL_MODE = [
    ("0f 00 c0  sldt ax", UD), ("0f 00 c8  str ax", UD), ("0f 00 d0  lldt ax", UD), ("0f 00 d8  ltr ax", UD),
    ("0f 01 d8  vmrun ax", UD), ("0f 01 da  vmload ax", UD), ("0f 01 db  vmsave ax", UD), ("0f 01 dc  stgi", UD),
    ("0f 01 dd  clgi", UD), ("0f 01 de  skinit eax", UD), ("0f 01 df  invlpga ax,ecx", UD),
    ("0f 01 d9  vmmcall", 0x81), ("0f 20 c0  mov eax,cr0", 0x00), ("0f 01 e0  smsw ax", 0x00),
    ("0f a2  cpuid", 0x72), ("cf  iret", 0x74), ("cd 10  int 0x10", 0x75), ("f4  hlt", 0x78),
    ("0f 01 1f  lidt [bx]", 0x6A), ("0f 01 17  lgdt [bx]", 0x6B),
]  # fmt: skip


@pytest.mark.parametrize(("text", "code"), IN_REAL_MODE, ids=[text.split("  ")[1] for text, _ in IN_REAL_MODE])
def test_in_real_mode(world: Make, text: str, code: int) -> None:
    w = world()
    w.guest.enter_real()
    intercept_all(w.wrap()).code(16, text)
    assert w.run() == (code, 0, 0, 0)


@pytest.mark.parametrize("text", [
    "0f 01 d8  vmrun rax", "0f 01 da  vmload rax", "0f 01 db  vmsave rax",
])  # fmt: skip
@pytest.mark.parametrize("place", [0x1008, 1 << 48, 0x1000])
def test_addresses_that_no_vmcb_can_have(world: Make, text: str, place: int) -> None:
    # APM vol. 3, VMRUN: not aligned, or beyond the physical address.
    w = world()
    w.guest.enter_long()
    intercept_all(w.wrap()).code(64, text)
    w[vmcb.RAX] = place
    assert (w.run().code == GP) == (place != 0x1000)


def test_tsd_goes_before_rdtsc_and_rdtscp(world: Make) -> None:
    for text in ("0f 31  rdtsc", "0f 01 f9  rdtscp"):
        w = world()
        w.guest.enter_long(cpl=3)
        intercept_all(w.wrap()).code(64, text)
        w[vmcb.CR4] |= CR4_TSD
        assert w.run() == (GP, 0, 0, 0)


def test_a_counter_that_is_not_there_goes_before_rdpmc(world: Make) -> None:
    w = world()
    w.guest.enter_long()
    intercept_all(w.wrap()).code(64, "0f 33  rdpmc")
    w.guest.set(rcx=4)
    assert w.run() == (GP, 0, 0, 0)
    w.guest.set(rcx=3)
    assert w.run() == (0x6F, 0, 0, 0)


@pytest.mark.parametrize(("text", "ecx", "code"), [
    ("0f 01 c8  monitor", 1, GP), ("0f 01 c9  mwait", 2, GP), ("0f 01 c9  mwait", 1, 0x8B),
])  # fmt: skip
def test_extensions_that_are_not_there_go_before_monitor_and_mwait(world: Make, text: str, ecx: int, code: int) -> None:
    w = world()
    w.guest.enter_long()
    intercept_all(w.wrap()).code(64, text)
    w.guest.set(rcx=ecx)
    assert w.run() == (code, 0, 0, 0)


_CR0 = CR0_PE | CR0_ET | CR0_NE | CR0_WP | CR0_PG


@pytest.mark.parametrize(("text", "value", "code"), [
    ("0f 22 c0  mov cr0,rax", 1 << 32, GP),
    ("0f 22 c0  mov cr0,rax", CR0_PG, GP),
    ("0f 22 c0  mov cr0,rax", _CR0 | CR0_NW, GP),
    ("0f 22 c0  mov cr0,rax", _CR0 & ~CR0_PG, GP),  # leaving paging in 64-bit code
    ("0f 22 c0  mov cr0,rax", _CR0 | CR0_NW | CR0_CD, 0x10),
    ("0f 22 d0  mov cr2,rax", 1 << 63, 0x12),
    ("0f 22 d8  mov cr3,rax", 1 << 52, GP),
    ("0f 22 d8  mov cr3,rax", 0x1000, 0x13),
    ("0f 22 e0  mov cr4,rax", 1 << 31, GP),
    ("0f 22 e0  mov cr4,rax", 0, GP),  # long mode without PAE
    ("0f 22 e0  mov cr4,rax", CR4_PAE, 0x14),
    ("44 0f 22 c0  mov cr8,rax", 16, GP),
    ("44 0f 22 c0  mov cr8,rax", 15, 0x18),
    ("0f 22 c8  db mov cr1,rax", 0, UD),
    ("0f 20 c8  db mov rax,cr1", 0, UD),
    ("0f 23 f0  mov dr6,rax", 1 << 32, GP),
    ("0f 23 f8  mov dr7,rax", 1 << 32, GP),
    ("0f 23 f8  mov dr7,rax", 0x400, 0x37),
    ("0f 23 c0  mov dr0,rax", 1 << 32, 0x30),
    ("44 0f 23 c0  db mov dr8,rax", 0, UD),
])  # fmt: skip
@pytest.mark.parametrize("selective", [False, True])
def test_values_that_a_register_refuses_go_first(
    world: Make, text: str, value: int, code: int, selective: bool
) -> None:
    w = world()
    w.guest.enter_long()
    intercept_all(w.wrap()).code(64, text)
    w[vmcb.RAX] = value
    if selective:
        w.u32(vmcb.INTERCEPT_CR, 0xFFFE_FFFF)
        code = 0x65 if code == 0x10 else code
    assert w.run() == (code, 0, 0, 0)


def test_pae_pointers_come_after_the_intercept_of_cr3(world: Make) -> None:
    # Table 15-7: "the VMM handling a CR3 intercept cannot rely on the PDPEs being legal".
    w = world()
    w.guest.enter_protected("pae")
    intercept_all(w.wrap()).code(32, "0f 22 d8  mov cr3,eax")
    w.memory.write_u64(0x9000, 0x1E7)
    w[vmcb.RAX] = 0x9000
    assert w.run().code == 0x13
    w.u32(vmcb.INTERCEPT_CR, 0)
    assert w.run() == (GP, 0, 0, 0)


def test_general_detect_and_de_go_before_debug_registers(world: Make) -> None:
    w = world()
    w.guest.enter_long()
    intercept_all(w.wrap()).code(64, "0f 21 c0  mov rax,dr0")
    w[vmcb.DR7] = 0x2400
    assert w.run() == (DB, 0, 0, 0)
    # 15.12.2: DR6 and DR7 are what the handler would see.
    assert (w[vmcb.DR6] >> 13 & 1, w[vmcb.DR7]) == (1, 0x400)
    w = world()
    w.guest.enter_long()
    intercept_all(w.wrap()).code(64, "0f 21 e0  mov rax,dr4")
    assert w.run() == (0x24, 0, 0, 0)
    w[vmcb.CR4] |= CR4_DE
    assert w.run() == (UD, 0, 0, 0)


def test_memory_comes_after_the_intercepts_of_lmsw_and_smsw(world: Make) -> None:
    for text, code in (("0f 01 33  lmsw [rbx]", 0x10), ("0f 01 23  smsw [rbx]", 0x00)):
        w = world()
        w.guest.enter_long()
        intercept_all(w.wrap()).code(64, text)
        w.guest.set(rbx=MISSING)
        assert w.run() == (code, 0, 0, 0)


@pytest.mark.parametrize("text", ["9c  pushfq", "9d  popfq", "48 cf  iretq", "cd 80  int 0x80"])
def test_stack_faults_come_after_the_intercept(world: Make, text: str) -> None:
    w = world()
    w.guest.enter_long()
    intercept_all(w.wrap()).code(64, text)
    w[vmcb.RSP] = MISSING
    assert w.run().code in (0x70, 0x71, 0x74, 0x75)


def test_breakpoints_come_before_instruction_intercepts(world: Make) -> None:
    # 15.7: "Instruction breakpoints for the current instruction ... before instruction intercepts".
    w = world()
    w.guest.enter_long()
    w.processor.dr[0] = 0x8000
    intercept_all(w.wrap()).code(64, "0f a2  cpuid")
    w[vmcb.DR7] = 0x402
    assert w.run() == (DB, 0, 0, 0)
    w[vmcb.RFLAGS] |= 1 << 16
    assert w.run() == (0x72, 0, 0, 0)
    assert w[vmcb.RFLAGS] >> 16 & 1  # it has not run: RF stays


def test_svme_in_the_guest(world: Make) -> None:
    # VMRUN demands it (15.5.1); a guest that clears it, where that is not intercepted, has #UD.
    w = world()
    w.guest.enter_long()
    w.wrap().intercept("stgi").intercept_exceptions(6)
    w.code(64, "b9 80 00 00 c0  mov ecx,0xc0000080\n0f 32  rdmsr\n80 e4 ef  and ah,0xef\n0f 30  wrmsr\n0f 01 dc  stgi")
    assert w[vmcb.EFER] & EFER_SVME
    assert w.run().code == UD
    assert not w.processor.state.get(layout.EFER) & EFER_SVME


@pytest.mark.parametrize("iopl", [0, 3])
def test_virtual_8086_checks_of_int_come_after_the_intercept(world: Make, iopl: int) -> None:
    w = world()
    w.guest.enter_protected()
    intercept_all(w.wrap()).code(16, "cd 21  int 0x21")
    for place in (vmcb.CS, vmcb.SS, vmcb.DS, vmcb.ES):
        w[place] = 0xFFFF << 32 | 0x0F3 << 16
    w[vmcb.RFLAGS] = 1 << 17 | iopl << 12 | 2
    assert w.run().code == 0x75
    w.let("swint")
    # With IOPL 3 it is the gate's DPL that keeps it from being taken.
    assert w.run() == (GP, 0 if iopl == 0 else 0x21 * 8 + 2, 0, 0 if iopl == 0 else event(4, 0x21))


def test_string_io_checks_the_port_before_memory(world: Make) -> None:
    # 15.10.2: "All other exceptions are checked after the SVM intercept check."
    w = world(LATER)
    w.guest.enter_long()
    intercept_all(w.wrap()).code(64, "6c  insb")
    w.memory.write(w[vmcb.IOPM_BASE_PA], b"\xff" * 0x3000)
    w.guest.set(rdx=0x60, rdi=MISSING)
    assert w.run().code == 0x7B
    w.memory.write(w[vmcb.IOPM_BASE_PA], bytes(0x3000))
    assert w.run() == (PF, 2, MISSING, 0)
