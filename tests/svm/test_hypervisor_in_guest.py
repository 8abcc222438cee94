"""A hypervisor that the processor runs itself: VMRUN and #VMEXIT (APM vol. 2, 15.5 and 15.6), AMD-V's other
instructions (APM vol. 3, chapter 4), and its MSRs (15.30).

The host is 64-bit code at 8000h, its guest's is at A000h.
"""

from __future__ import annotations

import dataclasses

import pytest

from engine.assembly import assemble
from engine.harness import DATA, STUBS
from svm.conftest import LATER, Make
from svm.world import PAT, VMCB, World, event
from trapgate.arch import layout, vmcb
from trapgate.arch.cpuid import OPTERON_2007
from trapgate.arch.registers import (
    CR0_ET,
    CR0_NE,
    CR0_PE,
    CR0_PG,
    CR0_WP,
    CR4_OSFXSR,
    CR4_PAE,
    CR4_PGE,
    EFER_LMA,
    EFER_LME,
    EFER_NXE,
    EFER_SCE,
    EFER_SVME,
)

UD, GP = 6, 13
IF, TF = 1 << 9, 1 << 8
VMRUN = "0f 01 d8  vmrun rax"
GUEST = 0xA000


def host(world: Make, text: str, guest: str = "0f 01 d9  vmmcall", features: frozenset[str] | None = None) -> World:
    """A 64-bit host about to run `text`, and a 64-bit guest in the VMCB."""
    w = world(features)
    w.guest.enter_long()
    w.wrap().go(GUEST).code(64, guest, GUEST)
    p = w.processor
    p.python_host = False
    p.state.set(layout.EFER, p.efer | EFER_SVME)
    w.guest.load(assemble(64, text + "\nf4  hlt"))
    w.guest.set(rax=VMCB, rsp=0x6E00)
    w[vmcb.RSP], w[vmcb.RAX] = 0x7000, 0x1111
    return w


def state_of_host(w: World) -> dict[str, object]:
    p = w.processor
    return {
        "segments": [(s.selector, s.base, s.limit, s.attributes) for s in p.segments[:4]],
        "tables": (p.gdtr_base, p.gdtr_limit, p.idtr_base, p.idtr_limit),
        "control": (p.cr0, p.cr3, p.cr4, p.efer), "rflags": p.rflags, "cpl": p.cpl,
        "rsp": w.guest["rsp"], "rax": w.guest["rax"], "asid": p.state.get(layout.ASID),
    }  # fmt: skip


def test_it_returns_behind_vmrun(world: Make) -> None:
    w = host(world, VMRUN, "ff c3  inc ebx\n48 c7 c0 22 00 00 00  mov rax,0x22\n0f 01 d9  vmmcall")
    w.guest.set(rbx=1)
    before = state_of_host(w)
    w.guest.run_to_halt()
    assert w.guest["rip"] == 0x8004
    assert state_of_host(w) == before
    assert w.exit() == (vmcb.EXIT["vmmcall"], 0, 0, 0)
    assert (w[vmcb.RIP], w[vmcb.NEXT_RIP], w[vmcb.RAX], w[vmcb.RSP]) == (GUEST + 9, GUEST + 12, 0x22, 0x7000)
    assert w.guest["rbx"] == 2  # the other registers are the software's to switch
    assert not w.processor.gif


def test_a_guest_of_another_mode(world: Make) -> None:
    """Real mode below a 64-bit host: everything that VMRUN saves is another."""
    w = world()
    w.guest.enter_real(0x100)
    w.wrap().code(16, "b0 07  mov al,7\n0f 01 d9  vmmcall", GUEST + 0x1000).go(GUEST)
    p, g = w.processor, w.guest
    g.enter_long()
    p.python_host = False
    p.state.set(layout.EFER, p.efer | EFER_SVME)
    g.load(assemble(64, VMRUN + "\nf4  hlt")).set(rax=VMCB)
    before = state_of_host(w)
    g.run_to_halt()
    assert state_of_host(w) == before
    assert (w[vmcb.CS] & 0xFFFF, w[vmcb.RAX] & 0xFF, w[vmcb.RIP]) == (0x100, 7, GUEST + 2)
    assert (w.read_u8(vmcb.CPL), w[vmcb.CR0]) == (0, CR0_ET)


def test_it_goes_round(world: Make) -> None:
    """A loop of VMRUN that moves the guest's rip behind VMMCALL."""
    w = host(world, VMRUN, "ff c3  inc ebx\n0f 01 d9  vmmcall\neb f9  jmp 0xa000")
    # The VMCB's page is mapped at 1_0000h for the host.
    w.guest.map(0x1_0000, VMCB)
    w.guest.load(
        assemble(
            64,
            "0f 01 d8  vmrun rax\n48 8b 0c 25 c8 00 01 00  mov rcx,[0x100c8]\n"
            "48 89 0c 25 78 05 01 00  mov [0x10578],rcx\nff ca  dec edx\n75 e9  db jnz 0x8000\nf4  hlt",
        )
    )
    w.guest.set(rbx=0, rdx=5)
    w.guest.run_to_halt()
    assert w.guest["rbx"] == 5
    assert w.processor.exit_counts == {vmcb.EXIT["vmmcall"]: 5}


def test_refusals_come_back_too(world: Make) -> None:
    w = host(world, VMRUN).u32(vmcb.ASID, 0)
    w.processor.dr[7] = 0x400 | 2
    before, state = state_of_host(w), w.state()
    w.guest.run_to_halt()
    assert (w[vmcb.EXITCODE], w.processor.refusal) == (vmcb.EXIT_INVALID, "ASID is 0")
    assert state_of_host(w) == before
    assert w.state() == state
    assert (w.processor.gif, w.processor.dr[7]) == (False, 0x400)


def test_host_breakpoints_are_off_after_an_exit(world: Make) -> None:
    # 15.6: "Disables all breakpoints in the host DR7 register."
    w = host(world, VMRUN)
    w.processor.write_dr(0, 0x8003)
    w.processor.write_dr(7, 0x402)
    w[vmcb.DR7] = 0x400
    w.guest.run_to_halt()
    assert (w.guest["rip"], w.processor.dr[7]) == (0x8004, 0x400)


def test_a_host_in_pae_mode_reads_its_pointers_again(world: Make) -> None:
    # 15.6: from the tables; illegal ones mean shutdown.
    for entry, reason in ((None, "halted"), (0x1E7, "triple-fault")):
        w = world()
        w.guest.enter_long()
        w.wrap().go(GUEST).code(64, "0f 01 d9  vmmcall", GUEST)
        p, g = w.processor, w.guest
        g._next_table = 0x10_0000
        g.enter_protected("pae")
        p.python_host = False
        p.state.set(layout.EFER, p.efer & ~(EFER_LME | EFER_LMA) | EFER_SVME)
        g.load(assemble(32, "0f 01 d8  vmrun eax\nf4  hlt")).set(rax=VMCB)
        if entry is not None:
            w.memory.write_u64(g.root, entry)
        assert g.run().reason == reason


@pytest.mark.parametrize("masking", [False, True])
@pytest.mark.parametrize("host_if", [False, True])
@pytest.mark.parametrize("guest_if", [False, True])
def test_whose_if_counts(world: Make, masking: bool, host_if: bool, guest_if: bool) -> None:
    # 15.21.1: with V_INTR_MASKING the host's at the time of VMRUN.
    w = host(world, VMRUN, "90  nop\n0f 01 d9  vmmcall").intercept("intr")
    w.virtual_interrupt(pending=False, masking=masking)
    w.processor.rflags = 2 | (IF if host_if else 0)
    w[vmcb.RFLAGS] = 2 | (IF if guest_if else 0)
    w.processor.set_gif(False)
    w.processor.set_intr(True)
    w.guest.run()
    taken = host_if if masking else guest_if
    assert w[vmcb.EXITCODE] == vmcb.EXIT["intr" if taken else "vmmcall"]
    assert w.guest["rip"] == 0x8004  # GIF is clear: the host does not take it either
    # STGI lets it in.
    w.guest.load(assemble(64, "0f 01 dc  stgi\n90  nop\nf4  hlt"))
    w.guest.run_to_halt()
    assert w.guest["rip"] == (STUBS + 0x401 if host_if else 0x8005)


@pytest.mark.parametrize("pin", ["intr", "nmi"])
def test_clgi_and_stgi_in_the_host(world: Make, pin: str) -> None:
    # 15.17.
    w = host(world, "0f 01 dd  clgi\n" + "90  nop\n" * 8 + "0f 01 dc  stgi\n90  nop\n90  nop")
    w.processor.rflags = 2 | IF
    w.guest.run(1)
    if pin == "intr":
        w.processor.set_intr(True)
    else:
        w.processor.pulse_nmi()
    w.guest.run_to_halt()
    vector = 0x40 if pin == "intr" else 2
    assert w.guest["rip"] == STUBS + 16 * vector + 1
    assert w.memory.read_u64(w.guest["rsp"]) == 0x800E


# -- traps (15.5.1, "VMRUN and TF/RF Bits in EFLAGS")


def test_tf_of_the_host_traps_when_vmrun_is_done(world: Make) -> None:
    w = host(world, VMRUN, "90  nop\n90  nop\n0f 01 d9  vmmcall")
    w.processor.rflags = 2 | TF
    w.guest.run_to_halt()
    assert w.guest["rip"] == STUBS + 16 + 1
    assert w.memory.read_u64(w.guest["rsp"]) == 0x8003
    assert w[vmcb.RIP] == GUEST + 2
    assert w.processor.exception_counts == {1: 1}


def test_tf_of_the_host_traps_behind_a_refused_vmrun(world: Make) -> None:
    w = host(world, VMRUN).u32(vmcb.ASID, 0)
    w.processor.rflags = 2 | TF
    w.guest.run_to_halt()
    assert w.memory.read_u64(w.guest["rsp"]) == 0x8003


def test_tf_of_the_guest_traps_after_its_first_instruction(world: Make) -> None:
    w = host(world, VMRUN, "90  nop\n90  nop").intercept_exceptions(1)
    w[vmcb.RFLAGS] = 2 | TF
    w.guest.run_to_halt()
    assert (w[vmcb.EXITCODE], w[vmcb.RIP], w.guest["rip"]) == (0x41, GUEST + 1, 0x8004)


def test_tf_of_the_guest_is_not_seen_behind_an_exit(world: Make) -> None:
    for outside in (False, True):
        w = host(world, VMRUN)
        w[vmcb.RFLAGS] = 2 | TF
        w.processor.python_host = outside
        if outside:
            assert w.run().code == vmcb.EXIT["vmmcall"]
        else:
            w.guest.run_to_halt()
            assert w.guest["rip"] == 0x8004
        assert w.processor.exception_counts == {}
        assert w[vmcb.RFLAGS] & TF


# -- faults of the instructions

INSTRUCTIONS = {
    "vmrun": VMRUN, "vmload": "0f 01 da  vmload rax", "vmsave": "0f 01 db  vmsave rax", "stgi": "0f 01 dc  stgi",
    "clgi": "0f 01 dd  clgi", "invlpga": "0f 01 df  invlpga rax,ecx",
}  # fmt: skip


@pytest.mark.parametrize("name", list(INSTRUCTIONS))
def test_ud_without_svme(world: Make, name: str) -> None:
    w = host(world, INSTRUCTIONS[name])
    w.processor.state.set(layout.EFER, w.processor.efer & ~EFER_SVME)
    assert w.guest.first_exception() == (UD, None)


@pytest.mark.parametrize("name", list(INSTRUCTIONS))
def test_gp_outside_cpl_0(world: Make, name: str) -> None:
    w = world()
    w.guest.enter_long(cpl=3)
    w.processor.state.set(layout.EFER, w.processor.efer | EFER_SVME)
    w.guest.load(assemble(64, INSTRUCTIONS[name])).set(rax=VMCB)
    assert w.guest.first_exception() == (GP, 0)


@pytest.mark.parametrize("name", list(INSTRUCTIONS))
def test_ud_outside_protected_mode(world: Make, name: str) -> None:
    code = INSTRUCTIONS[name].split("  ")[0] + "  db"
    for virtual in (False, True):
        w = world()
        g = w.guest
        if virtual:
            g.enter_protected()
            for segment in w.processor.segments:
                segment.load(0, 0, 0xFFFF, 0xF3)
            w.processor.rflags = 2 | 1 << 17
            w.processor.cpl = 3
        else:
            g.enter_real()
        w.processor.state.set(layout.EFER, EFER_SVME)
        g.load(assemble(16, code)).set(rax=VMCB)
        assert g.first_exception() == (UD, None)


@pytest.mark.parametrize("name", ["vmrun", "vmload", "vmsave"])
@pytest.mark.parametrize("place", [VMCB + 8, 1 << 48, 0xF000_0000])
def test_gp_for_addresses_where_no_vmcb_can_be(world: Make, name: str, place: int) -> None:
    # The last is a device's page, where the manual leaves it open.
    w = host(world, INSTRUCTIONS[name])
    w.guest.set(rax=place)
    assert w.guest.first_exception() == (GP, 0)


def test_the_address_size_says_how_much_of_rax_counts(world: Make) -> None:
    w = host(world, "67 0f 01 d8  vmrun eax")
    w.guest.set(rax=VMCB | 1 << 32)
    w.guest.run_to_halt()
    assert w[vmcb.EXITCODE] == vmcb.EXIT["vmmcall"]


@pytest.mark.parametrize("text", ["0f 01 d9  vmmcall", "0f 01 de  skinit eax"])
def test_ud_where_nobody_intercepts(world: Make, text: str) -> None:
    assert host(world, text).guest.first_exception() == (UD, None)


def test_vmmcall_in_a_guest_that_is_not_intercepted(world: Make) -> None:
    w = host(world, VMRUN).let("vmmcall").intercept_exceptions(6)
    w.guest.run_to_halt()
    assert w[vmcb.EXITCODE] == 0x46


# -- VMLOAD and VMSAVE (15.5.2)

_MSRS = {
    vmcb.STAR: 0xC000_0081, vmcb.LSTAR: 0xC000_0082, vmcb.CSTAR: 0xC000_0083, vmcb.SFMASK: 0xC000_0084,
    vmcb.KERNEL_GS_BASE: 0xC000_0102, vmcb.SYSENTER_CS: 0x174, vmcb.SYSENTER_ESP: 0x175, vmcb.SYSENTER_EIP: 0x176,
}  # fmt: skip


def test_vmload_and_vmsave_move_the_same(world: Make) -> None:
    w = host(world, "0f 01 da  vmload rax\n0f 01 db  vmsave rax")
    values = {}
    for i, place in enumerate((vmcb.FS, vmcb.GS, vmcb.LDTR, vmcb.TR)):
        values[place] = (0x60 + 8 * i) | 0xC93 << 16 | (0x1000 + i) << 32
        values[place + 8] = 0xFFFF_8000_0000_0000 + i
    for i, place in enumerate(_MSRS):
        values[place] = 0x100 + i
    for place, value in values.items():
        w[place] = value
    w.guest.run(1)
    p = w.processor
    assert [p.read_msr(number) for number in _MSRS.values()] == [0x100 + i for i in range(8)]
    assert (p.segments[4].base, p.segments[5].selector, p.tr.limit, p.ldtr.attributes) == (
        0xFFFF_8000_0000_0000, 0x68, 0x1003, 0xC93,
    )  # fmt: skip
    for place in values:
        w[place] = 0
    before = w.state()
    w.guest.run_to_halt()
    assert {place: w[place] for place in values} == values
    for place in values:
        w[place] = 0
    assert w.state() == before  # and nothing else is touched


def test_vmload_makes_bases_canonical(world: Make) -> None:
    w = host(world, "0f 01 da  vmload rax")
    for place in (vmcb.FS, vmcb.GS, vmcb.LDTR, vmcb.TR):
        w[place + 8] = 0x1234_8000_0000_0000
    w[vmcb.KERNEL_GS_BASE] = 0xFFFF_0000_0000_1000
    w.guest.run_to_halt()
    p = w.processor
    assert [t.base for t in (p.segments[4], p.segments[5], p.ldtr, p.tr)] == [0xFFFF_8000_0000_0000] * 4
    assert p.read_msr(0xC000_0102) == 0x1000


def test_vmrun_leaves_vmloads_state_alone(world: Make) -> None:
    # 15.5.1: the guest runs with the host's FS base until VMLOAD.
    w = host(world, VMRUN, "64 8b 1c 25 00 00 00 00  mov ebx,[fs:0]\n0f 01 d9  vmmcall")
    w.processor.segments[4].base = DATA
    w.memory.write_u32(DATA, 77)
    w.guest.run_to_halt()
    assert w.guest["rbx"] == 77


# -- MSRs (15.30) and EFER.SVME (15.4)


def msr(world: Make, number: int, value: int | None = None) -> World:
    text = "0f 32  rdmsr" if value is None else "0f 30  wrmsr"
    w = host(world, text)
    w.guest.set(rcx=number, rax=(value or 0) & 0xFFFF_FFFF, rdx=(value or 0) >> 32)
    return w


def test_svme_is_writable_unless_disabled(world: Make) -> None:
    efer = EFER_LME | EFER_LMA | EFER_NXE | EFER_SCE
    w = msr(world, 0xC000_0080, efer)
    w.guest.run_to_halt()
    assert w.processor.efer == efer
    w = msr(world, 0xC000_0080, efer | EFER_SVME)
    w.processor.state.set(layout.EFER, efer)
    w.guest.run_to_halt()
    assert w.processor.efer == efer | EFER_SVME
    w = msr(world, 0xC000_0080, efer | EFER_SVME)
    w.processor.state.set(layout.EFER, efer)
    w.processor.vm_cr = vmcb.VM_CR_SVMDIS
    assert w.guest.first_exception() == (GP, 0)


@pytest.mark.parametrize(("old", "value", "svme", "new"), [
    (0, vmcb.VM_CR_SVMDIS, False, vmcb.VM_CR_SVMDIS),
    (0, vmcb.VM_CR_SVMDIS, True, None),
    (0, 1 << 5, False, None),
    (vmcb.VM_CR_SVMDIS, 0, False, 0),
    (vmcb.VM_CR_LOCK, vmcb.VM_CR_SVMDIS, False, vmcb.VM_CR_LOCK),
    (vmcb.VM_CR_LOCK | vmcb.VM_CR_SVMDIS, 0, False, vmcb.VM_CR_LOCK | vmcb.VM_CR_SVMDIS),
    (vmcb.VM_CR_LOCK, vmcb.VM_CR_R_INIT, False, vmcb.VM_CR_LOCK | vmcb.VM_CR_R_INIT),
])  # fmt: skip
def test_vm_cr(world: Make, old: int, value: int, svme: bool, new: int | None) -> None:
    w = msr(world, vmcb.MSR_VM_CR, value)
    w.processor.vm_cr = old
    if not svme:
        w.processor.state.set(layout.EFER, w.processor.efer & ~EFER_SVME)
    if new is None:
        assert w.guest.first_exception() == (GP, 0)
        return
    w.guest.run_to_halt()
    assert w.processor.vm_cr == new
    w.guest.load(assemble(64, "0f 32  rdmsr\nf4  hlt"))
    w.guest.run_to_halt()
    assert w.guest["rax"] == new


@pytest.mark.parametrize(("value", "good"), [(0x5000, True), (0x5001, False), (1 << 48, False)])
def test_vm_hsave_pa(world: Make, value: int, good: bool) -> None:
    w = msr(world, vmcb.MSR_VM_HSAVE_PA, value)
    if good:
        w.guest.run_to_halt()
        assert w.processor.hsave_pa == value
    else:
        assert w.guest.first_exception() == (GP, 0)


def test_the_host_save_area_is_not_written(world: Make) -> None:
    # 15.30.4 allows to keep the host's state on chip.
    w = host(world, VMRUN)
    w.processor.hsave_pa = 0x38_0000
    w.guest.run_to_halt()
    assert w.memory.read(0x38_0000, 0x1000) == bytes(0x1000)


def test_cpuid_says_what_there_is(world: Make) -> None:
    # 25481, Fn8000_0001 ECX bit 2 and Fn8000_000A.
    w = host(world, "0f a2  cpuid")
    w.guest.set(rax=0x8000_000A)
    w.guest.run_to_halt()
    assert (w.guest["rax"], w.guest["rbx"], w.guest["rdx"]) == (1, 64, 0b1111)
    profile = dataclasses.replace(OPTERON_2007, svm_features=LATER)
    assert profile.cpuid(0x8000_000A)[3] == 0b1_0100_1110_1111
    assert profile.cpuid(0x8000_0001)[2] >> 2 & 1


# -- more than one thing at a time


def test_npt_needs_paging_in_the_host(world: Make) -> None:
    # 15.25.3.
    w = world()
    w.guest.enter_long()
    w.wrap().nested().go(GUEST).code(64, "0f 01 d9  vmmcall", GUEST)
    p, g = w.processor, w.guest
    g.enter_protected()
    p.python_host = False
    p.state.set(layout.EFER, EFER_SVME)
    g.load(assemble(32, "0f 01 d8  vmrun eax\nf4  hlt")).set(rax=VMCB)
    g.run_to_halt()
    assert (w[vmcb.EXITCODE], p.refusal) == (vmcb.EXIT_INVALID, "nested paging while the host has paging off")


def test_nested_paging_uses_the_hosts_mode(world: Make) -> None:
    w = host(world, VMRUN, "8b 1c 25 00 00 01 00  mov ebx,[0x10000]\n0f 01 d9  vmmcall").nested()
    w.map_nested(DATA, 0x38_0000)
    w.memory.write_u32(0x38_0000, 99)
    w.guest.run_to_halt()
    assert (w[vmcb.EXITCODE], w.guest["rbx"]) == (vmcb.EXIT["vmmcall"], 99)
    assert w.processor.state.get(layout.NESTED) == 0
    assert w.processor.cr0 == (CR0_PE | CR0_PG | CR0_NE | CR0_WP | CR0_ET)
    assert w.processor.cr4 == CR4_OSFXSR | CR4_PAE | CR4_PGE


def test_pat_of_the_host(world: Make) -> None:
    """Under nested paging the guest has its own (15.25.2); else it writes the host's (15.25.8)."""
    text = (
        "b9 77 02 00 00  mov ecx,0x277\n0f 32  rdmsr\n89 c3  mov ebx,eax\n31 c0  xor eax,eax\n0f 30  wrmsr\n"
        "0f 01 d9  vmmcall"
    )
    for nested in (False, True):
        w = host(world, VMRUN, text)
        if nested:
            w.nested()
            w[vmcb.G_PAT] = 0x0606_0606_0606_0606
        w.guest.run_to_halt()
        assert w.guest["rbx"] == (0x0606_0606 if nested else PAT & 0xFFFF_FFFF)
        assert w.processor.read_msr(0x277) == (PAT if nested else PAT >> 32 << 32)
        assert w[vmcb.G_PAT] == (0x0606_0606_0000_0000 if nested else PAT)


def test_an_event_whose_delivery_exits_leaves_vmrun_done(world: Make) -> None:
    w = host(world, VMRUN).inject(3, 13, 0).intercept_exceptions(14)
    w.memory.write_u64(0x3000 + 36, 0x20_0000)
    w.guest.run_to_halt()
    assert w.guest["rip"] == 0x8004
    assert w.exit() == (0x4E, 2, 0x1F_FFF8, event(3, 13, 0))


def test_vmrun_in_a_guest_is_always_intercepted(world: Make) -> None:
    w = host(world, VMRUN, VMRUN)
    w[vmcb.RAX] = VMCB
    w.guest.run_to_halt()
    assert w[vmcb.EXITCODE] == vmcb.EXIT["vmrun"]
