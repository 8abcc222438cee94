"""What VMRUN loads and #VMEXIT saves: TSC_OFFSET, LBR virtualization, clean bits, CR2, debug registers, CPL, paged real
mode, page-directory pointers (APM vol. 2, 15.5.1, 15.15, 15.19, 15.23, 15.25.4).
"""

from __future__ import annotations

import pytest

from engine.harness import DATA
from svm.conftest import LATER, Make
from svm.world import VMCB, World
from trapgate.arch import vmcb
from trapgate.arch.registers import CR0_ET, CR0_PG, CR0_TS, CR4_PAE, EFER_LMA, EFER_LME, EFER_SVME

HLT, VMMCALL = vmcb.EXIT["hlt"], vmcb.EXIT["vmmcall"]
M64 = (1 << 64) - 1


def long_mode(world: Make, text: str, features: frozenset[str] | None = None) -> World:
    w = world(features)
    w.guest.enter_long()
    return w.wrap().code(64, text)


# -- TSC_OFFSET (15.5.1)

READS = {
    "rdtsc": "0f 31  rdtsc", "rdtscp": "0f 01 f9  rdtscp", "rdmsr": "b9 10 00 00 00  mov ecx,0x10\n0f 32  rdmsr",
}  # fmt: skip


def stamp(w: World) -> int:
    return w.guest["rdx"] << 32 | w[vmcb.RAX]


@pytest.mark.parametrize("deadline", [False, True], ids=["", "with an event"])
@pytest.mark.parametrize("offset", [0, 1 << 40, -(1 << 40) & M64])
@pytest.mark.parametrize("how", list(READS))
def test_tsc_offset(world: Make, how: str, offset: int, deadline: bool) -> None:
    w = long_mode(world, READS[how] + "\n0f 01 d9  vmmcall")
    if deadline:
        w.after(1 << 30, lambda: None)
    plain = []
    assert w.run().code == VMMCALL  # so that the TLB has what it needs
    for value in (0, offset, 0, offset):
        w[vmcb.TSC_OFFSET] = value
        start = w.guest.clock.now
        assert w.go().run().code == VMMCALL
        plain.append(stamp(w) - value - start & M64)
        assert w.processor.time_stamp() == w.guest.clock.now  # it is the guest's alone
    assert len(set(plain)) == 1
    assert plain[0] < 1000


def test_an_intercepted_rdtsc_reads_nothing(world: Make) -> None:
    w = long_mode(world, "0f 31  rdtsc").intercept("rdtsc")
    w[vmcb.TSC_OFFSET] = 1 << 40
    assert w.run().code == vmcb.EXIT["rdtsc"]
    assert (w[vmcb.RAX], w.guest["rdx"]) == (0, 0x0010_0F23)


def test_a_write_of_the_tsc_is_the_physical_one(world: Make) -> None:
    # The offset is added "when the guest reads the TSC".
    w = long_mode(world, "b9 10 00 00 00  mov ecx,0x10\n0f 30  wrmsr\n0f 31  rdtsc\n0f 01 d9  vmmcall")
    w[vmcb.TSC_OFFSET] = 1 << 40
    w[vmcb.RAX] = 1 << 20
    w.guest.set(rdx=0)
    assert w.run().code == VMMCALL
    assert 0 < stamp(w) - (1 << 40) - (1 << 20) < 1000
    assert 0 < w.processor.time_stamp() - (1 << 20) < 2000


# -- LBR virtualization (15.23.1)


@pytest.mark.parametrize("enabled", [False, True])
def test_debug_control_changes_hands(world: Make, enabled: bool) -> None:
    """DebugCtl and the four last-branch registers."""
    w = long_mode(world, "b9 d9 01 00 00  mov ecx,0x1d9\n0f 32  rdmsr\n89 c3  mov ebx,eax\nb8 01 00 00 00  mov eax,1\n"
                  "0f 30  wrmsr\nb9 db 01 00 00  mov ecx,0x1db\n0f 32  rdmsr\n0f 01 d9  vmmcall")  # fmt: skip
    w.processor.write_msr(0x1D9, 4)
    w[vmcb.LBR_CONTROL] = int(enabled)
    places = (vmcb.DBGCTL, vmcb.BR_FROM, vmcb.BR_TO, vmcb.LAST_EXCEPTION_FROM, vmcb.LAST_EXCEPTION_TO)
    for i, place in enumerate(places):
        w[place] = 0x20 + i
    assert w.run().code == VMMCALL
    assert w.guest["rbx"] == (0x20 if enabled else 4)
    assert w[vmcb.RAX] == (0x21 if enabled else 0)
    assert w.processor.read_msr(0x1D9) == (4 if enabled else 1)
    assert [w[place] for place in places] == [1 if enabled else 0x20, 0x21, 0x22, 0x23, 0x24]
    assert w.processor.read_msr(0x1DB) == 0


@pytest.mark.parametrize("enabled", [False, True])
def test_a_guest_records_its_branches_in_its_own_registers(world: Make, enabled: bool) -> None:
    """With LBR virtualization DebugCtl and the records are the VMCB's; without, the host's, for both."""
    w = long_mode(world, "eb 00  jmp short 0x8002\n0f 01 d9  vmmcall")
    w[vmcb.LBR_CONTROL], w[vmcb.DBGCTL] = int(enabled), 1
    for on in (0, 1):
        w.processor.write_msr(0x1D9, on)
        w.processor.msrs.update({0x1DB: 0, 0x1DC: 0})
        w[vmcb.BR_FROM] = w[vmcb.BR_TO] = 0
        assert w.go().run().code == VMMCALL
        assert (w[vmcb.BR_FROM], w[vmcb.BR_TO]) == ((0x8000, 0x8002) if enabled else (0, 0))
        recorded = on and not enabled
        host = w.processor.read_msr(0x1DB), w.processor.read_msr(0x1DC)
        assert host == ((0x8000, 0x8002) if recorded else (0, 0))
        assert w.processor.records_branches == bool(on)


def test_an_injected_exception_is_recorded(world: Make) -> None:
    w = long_mode(world, "90  nop").inject(vmcb.EVENT_EXCEPTION, 6)
    w[vmcb.LBR_CONTROL], w[vmcb.DBGCTL], w[vmcb.BR_FROM], w[vmcb.BR_TO] = 1, 1, 0x123, 0x456
    assert w.run().code == HLT
    assert (w[vmcb.BR_FROM], w[vmcb.BR_TO]) == (0x8000, 0x4060)
    assert (w[vmcb.LAST_EXCEPTION_FROM], w[vmcb.LAST_EXCEPTION_TO]) == (0x123, 0x456)


# -- clean bits (15.15)


@pytest.mark.parametrize("clean", [0, 0xFFFF_FFFF])
def test_clean_bits_are_a_hint_that_is_not_taken(world: Make, clean: int) -> None:
    # 15.15.1: "any given processor implementation may ignore bits that are set to 1".
    w = long_mode(world, "0f 20 d3  mov rbx,cr2\n0f 01 d9  vmmcall", LATER)
    for value in (0x1000, 0x2000):
        w.go().u32(vmcb.CLEAN_BITS, clean)
        w[vmcb.CR2] = value
        assert w.run().code == VMMCALL
        assert w.guest["rbx"] == value


# -- registers


def test_cr2_and_debug_registers(world: Make) -> None:
    w = long_mode(
        world,
        "0f 20 d3  mov rbx,cr2\n0f 22 d0  mov cr2,rax\n0f 21 f1  mov rcx,dr6\n0f 21 fa  mov rdx,dr7\n"
        "48 31 c0  xor rax,rax\n0f 23 f0  mov dr6,rax\n0f 23 f8  mov dr7,rax\n0f 01 d9  vmmcall",
    )
    w[vmcb.CR2], w[vmcb.DR6], w[vmcb.DR7], w[vmcb.RAX] = 0x1234_5678_9ABC, 1, 0x101, 0x77
    w.processor.dr[0] = 0x123
    assert w.run().code == VMMCALL
    assert (w.guest["rbx"], w.guest["rcx"], w.guest["rdx"]) == (0x1234_5678_9ABC, 0xFFFF_0FF1, 0x501)
    assert (w[vmcb.CR2], w[vmcb.DR6], w[vmcb.DR7]) == (0x77, 0xFFFF_0FF0, 0x400)
    assert w.processor.dr[0] == 0x123  # DR0 to DR3 are the software's to switch


def test_bases_are_canonicalized(world: Make) -> None:
    # 15.5.1: "All base addresses in the segment registers that have been loaded."
    w = long_mode(world, "0f 01 d9  vmmcall")
    for place in (vmcb.ES, vmcb.CS, vmcb.SS, vmcb.DS):
        w[place + 8] = 0x1234_8000_0000_0000
    assert w.run().code == VMMCALL
    for place in (vmcb.ES, vmcb.CS, vmcb.SS, vmcb.DS):
        assert w[place + 8] == 0xFFFF_8000_0000_0000


def test_fixed_bits(world: Make) -> None:
    """CR0 and RFLAGS keep what no instruction could set; LMA follows from LME and PG."""
    w = long_mode(world, "0f 20 c3  mov rbx,cr0\n0f 01 d9  vmmcall")
    cr0 = w[vmcb.CR0]
    w[vmcb.CR0] = cr0 & ~CR0_ET | 1 << 28 | 1 << 6
    w[vmcb.RFLAGS] = 1 << 15 | 1 << 40
    w[vmcb.EFER] &= ~EFER_LMA
    assert w.run().code == VMMCALL
    assert (w.guest["rbx"], w[vmcb.CR0], w[vmcb.RFLAGS] & ~0x8D5) == (cr0, cr0, 2)
    assert w[vmcb.EFER] & EFER_LMA


@pytest.mark.parametrize(("mode", "field", "cpl"), [
    ("real", 3, 0), ("virtual", 0, 3), ("protected", 0, 0), ("protected", 3, 3), ("long", 3, 3),
])  # fmt: skip
def test_cpl(world: Make, mode: str, field: int, cpl: int) -> None:
    # 15.5.1: real mode forces 0, virtual-8086 mode 3; else the field counts, not a DPL.
    w = world()
    g = w.guest
    if mode == "real":
        g.enter_real()
    elif mode == "long":
        g.enter_long(cpl=3)
    else:
        g.enter_protected(cpl=field)
    w.wrap().u8(vmcb.CPL, field).code(64 if mode == "long" else 32, "0f 01 d9  vmmcall")
    if mode == "virtual":
        w[vmcb.RFLAGS] = 1 << 17 | 2
    assert w.run().code == VMMCALL
    assert (w.read_u8(vmcb.CPL), w.processor.cpl) == (cpl, cpl)
    w.intercept_exceptions(13).code(64 if mode == "long" else 32, "f4  hlt")
    assert w.run().code == (HLT if cpl == 0 else 0x4D)


def test_virtual_8086_means_nothing_in_long_mode(world: Make) -> None:
    w = long_mode(world, "0f 01 d9  vmmcall")
    w[vmcb.RFLAGS] |= 1 << 17
    assert w.run().code == VMMCALL
    assert (w[vmcb.RFLAGS] >> 17 & 1, w.read_u8(vmcb.CPL)) == (0, 0)


def test_the_next_guest_gets_its_own(world: Make) -> None:
    """Two VMCBs in turn, in different modes: nothing of one is seen by the other."""
    w = world()
    g = w.guest
    g.enter_real()
    w.wrap().code(16, "ff c3  inc bx\n0f 01 d9  vmmcall\neb f9  jmp 0x8000")
    real = w.memory.read(VMCB, 0x1000)
    g.enter_long()
    w.wrap().code(64, "48 ff c1  inc rcx\n0f 01 d9  vmmcall\neb f8  jmp 0x9000", 0x9000).go(0x9000)
    long = w.memory.read(VMCB, 0x1000)
    g.set(rbx=0, rcx=0)
    for turn in range(1, 6):
        for name in ("real", "long"):
            w.memory.write(VMCB, real if name == "real" else long)
            assert w.run().code == VMMCALL
            w[vmcb.RIP] = w[vmcb.NEXT_RIP]
            if name == "real":
                real = w.memory.read(VMCB, 0x1000)
            else:
                long = w.memory.read(VMCB, 0x1000)
        assert (g["rbx"], g["rcx"]) == (turn, turn)


# -- paged real mode (15.19)


def paged_real(world: Make, text: str, paging: str = "pae") -> World:
    w = world()
    w.guest.enter_protected(paging)
    root, cr4 = w.guest.root, w.processor.cr4
    w.guest.enter_real()
    w.wrap().code(16, text).intercept_exceptions(14)
    w[vmcb.CR0] = CR0_ET | CR0_PG
    w[vmcb.CR3], w[vmcb.CR4], w[vmcb.EFER] = root, cr4, EFER_SVME
    return w


@pytest.mark.parametrize("paging", ["pae", "two-level"])
def test_paged_real_mode(world: Make, paging: str) -> None:
    w = paged_real(world, "b8 00 10  mov ax,0x1000\n8e d8  mov ds,ax\nc6 06 05 00 2a  mov byte [5],42\n"
                   "0f 01 d9  vmmcall", paging)  # fmt: skip
    w.guest.map(0x1_0000, 0x11_0000)
    assert w.run().code == VMMCALL
    assert w.memory.read_u8(0x11_0005) == 42
    assert (w[vmcb.CR0], w.read_u8(vmcb.CPL), w[vmcb.DS + 8]) == (CR0_ET | CR0_PG, 0, 0x1_0000)


def test_page_faults_of_paged_real_mode(world: Make) -> None:
    # 15.12.15: "will deliver the (protected-mode) page-fault error code in EXITINFO1".
    w = paged_real(world, "b8 00 10  mov ax,0x1000\n8e d8  mov ds,ax\nc6 06 05 00 2a  mov byte [5],42")
    w.guest.map(0x1_0000, 0, 0)
    assert w.run() == (0x4E, 2, 0x1_0005, 0)
    w.guest.map(0x1_0000, 0x1_0000, 1)
    w[vmcb.CR0] |= 1 << 16
    assert w.run() == (0x4E, 3, 0x1_0005, 0)
    assert w[vmcb.RIP] == 0x8005


def test_real_mode_interrupts_and_calls_under_paging(world: Make) -> None:
    w = paged_real(world, "cd 21  int 0x21\n0f 01 d9  vmmcall")
    w.memory.write_u32(4 * 0x21, 0x9000)
    w.code(16, "fe c3  inc bl\ncf  iret", 0x9000)
    w.guest.set(rbx=1)
    assert w.run().code == VMMCALL
    assert w.guest["rbx"] == 2
    w.guest.map(0, 0, 0)  # the vectors' page
    w.u8(vmcb.TLB_CONTROL, 1).go()
    assert w.run() == (0x4E, 0, 0x84, 0x8000_0421)


@pytest.mark.parametrize(("text", "leaves"), [
    ("0f 06  clts\n0f 01 d9  vmmcall", False),
    ("0f 20 c0  mov eax,cr0\n0f 22 c0  mov cr0,eax\n0f 01 d9  vmmcall", False),
    ("0f 20 c0  mov eax,cr0\n0c 01  or al,1\n0f 22 c0  mov cr0,eax\n0f 01 d9  vmmcall", True),
])  # fmt: skip
def test_cr0_in_paged_real_mode(world: Make, text: str, leaves: bool) -> None:
    w = paged_real(world, text).intercept_exceptions(13, 14)
    w[vmcb.CR0] |= CR0_TS
    assert w.run().code == VMMCALL
    assert w[vmcb.CR0] & 1 == leaves


def test_nobody_else_gets_paged_real_mode(world: Make) -> None:
    w = world()
    w.guest.enter_real()
    w.wrap().intercept_exceptions(13).code(16, "66 b8 10 00 00 80  mov eax,0x80000010\n0f 22 c0  mov cr0,eax")
    assert w.run() == (0x4D, 0, 0, 0)


def test_pointers_are_loaded_at_vmrun_not_later(world: Make) -> None:
    # 15.5.1 and 5.2.3: without nested paging they are registers.
    w = world()
    w.guest.enter_protected("pae")
    w.wrap().code(32, "a1 00 00 01 00  mov eax,[0x10000]\n0f 01 d9  vmmcall")
    w.memory.write_u32(DATA, 7)
    other = w.guest.new_root()
    w.guest.map(DATA, 0x11_0000, root=other)
    w.memory.write_u32(0x11_0000, 8)
    for root, value in ((w.guest.root, 7), (other, 8), (w.guest.root, 7)):
        w[vmcb.CR3] = root
        w.go().u8(vmcb.TLB_CONTROL, 1)
        assert w.run().code == VMMCALL
        assert w[vmcb.RAX] == value
    assert w[vmcb.CR4] & CR4_PAE
    assert not w[vmcb.EFER] & EFER_LME
