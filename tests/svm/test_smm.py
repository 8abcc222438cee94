"""SMIs that are not intercepted: "taken from within the guest context" (APM vol. 2, 15.22.3)."""

from __future__ import annotations

import pytest

from engine.assembly import assemble
from engine.harness import DATA
from svm.conftest import Make
from svm.world import GUEST_ASID, SMBASE, World
from trapgate.arch import layout, vmcb
from trapgate.arch.registers import CR0_ET, CR0_PG, EFER_SVME

VMMCALL = vmcb.EXIT["vmmcall"]
SAVED = SMBASE + 0xFE00


def guest(world: Make, text: str, handler: str, mode: str = "long") -> World:
    """A guest at 8000h with an SMI pending, and a handler at SMBASE + 8000h that ends in RSM."""
    w = world()
    g = w.guest
    if mode == "long":
        g.enter_long()
        w.wrap()
    elif mode == "real":
        g.enter_real(0x100)
        w.wrap().go(0x7000)
    else:
        g.enter_protected("pae")
        root, cr4 = g.root, w.processor.cr4
        g.enter_real()
        w.wrap().intercept_exceptions(14)
        w[vmcb.CR0], w[vmcb.CR3], w[vmcb.CR4], w[vmcb.EFER] = CR0_ET | CR0_PG, root, cr4, EFER_SVME
    w.code(64 if mode == "long" else 16, text)
    w.processor.smbase = SMBASE
    w.memory.write(SMBASE + 0x8000, assemble(16, handler + "\n0f aa  rsm").data)
    w.processor.pulse_smi()
    return w


#: mov dword [0x380000], 1; the handler is 16-bit code with 4 GB limits.
STORE = "66 67 c7 05 00 00 38 00 01 00 00 00  mov dword [0x380000],1"


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("mode", ["long", "real", "paged real"])
def test_smm_is_outside_the_guest(world: Make, mode: str, nested: bool) -> None:
    w = guest(world, "fe c3  inc bl\n0f 01 d9  vmmcall", "0f a2  cpuid\n" + STORE, mode)
    w.intercept("cpuid", "rsm", "msr").virtual_interrupt(0x50, masking=True)
    if nested and mode != "paged real":
        w.nested()
        w.map_nested(SMBASE, 0, 0)
    w.guest.set(rbx=1)
    before = w.state()
    assert w.run().code == VMMCALL
    after = w.state()
    rip = vmcb.RIP - 0x400
    assert after[: rip - 8] == before[: rip - 8]  # RFLAGS and rip are the INC's
    assert w.memory.read_u32(0x38_0000) == 1
    assert w.guest["rbx"] == 2
    assert w.processor.exit_counts == {VMMCALL: 1}
    # The save area shows the guest.
    assert w.memory.read_u64(SAVED + 0x178) == (0x7000 if mode == "real" else 0x8000)
    assert w.memory.read_u64(SAVED + 0x150) == w[vmcb.CR3]
    assert w.processor.state.get(layout.ASID) == GUEST_ASID
    assert w.processor.state.get(layout.NESTED) == int(nested and mode != "paged real")


def test_changes_of_the_save_area_reach_the_guest(world: Make) -> None:
    # 15.22.3: "any modifications to the SMM State-Save area ... are reflected in the guest state".
    place = f"{(SAVED + 0x1F8).to_bytes(4, 'little').hex(' ')}"
    w = guest(world, "0f 01 d9  vmmcall", f"66 67 c7 05 {place} 77 00 00 00  mov dword [0x38fff8],0x77")
    assert w.run().code == VMMCALL
    assert w[vmcb.RAX] == 0x77


def test_entering_and_leaving_flush_every_asid(world: Make) -> None:
    # 15.16.1: "All TLB entries belonging to all ASIDs are flushed by SMI, RSM".
    w = guest(world, "8b 1c 25 00 00 01 00  mov ebx,[0x10000]\n0f 01 d9  vmmcall", "90  nop")
    w.processor.smi_pending = False
    w.memory.write_u32(DATA, 1)
    w.memory.write_u32(0x11_0000, 2)
    for asid in (1, 2):
        w.u32(vmcb.ASID, asid).go()
        assert w.run().code == VMMCALL
    w.guest.map(DATA, 0x11_0000)
    w.go()
    assert w.run().code == VMMCALL
    assert w.guest["rbx"] == 1
    w.processor.pulse_smi()
    for asid in (2, 1):
        w.u32(vmcb.ASID, asid).go()
        assert w.run().code == VMMCALL
        assert w.guest["rbx"] == 2


def test_virtual_interrupts_wait_in_smm(world: Make) -> None:
    w = guest(world, "90  nop\n0f 01 d9  vmmcall", "fb  sti\n90  nop\n90  nop\nfa  cli")
    w.virtual_interrupt(0x50)
    w.u8(vmcb.INTERRUPT_SHADOW, 1)
    w[vmcb.RFLAGS] |= 1 << 9
    assert w.run().code == vmcb.EXIT["hlt"]
    assert w[vmcb.RIP] == 0x4500


def test_a_halted_guest_goes_on_waiting_behind_rsm(world: Make) -> None:
    w = guest(world, "f4  hlt\n0f 01 d9  vmmcall", STORE).let("hlt")
    w.processor.smi_pending = False
    w.after(5000, w.processor.pulse_smi)
    w.after(50_000, lambda: w.processor.set_intr(True))
    w[vmcb.RFLAGS] |= 1 << 9
    w.memory.write(0x4400, b"\x48\xcf")
    assert w.run().code == VMMCALL
    assert w.guest.clock.now > 50_000
    assert w.memory.read_u32(0x38_0000) == 1


def test_rsm_in_a_guest_outside_smm(world: Make) -> None:
    w = guest(world, "0f aa  rsm", "90  nop").intercept_exceptions(6)
    w.processor.smi_pending = False
    assert w.run().code == 0x46


def test_tsc_offset_is_the_same_behind_rsm(world: Make) -> None:
    w = guest(world, "0f 31  rdtsc\n0f 01 d9  vmmcall", "90  nop")
    w[vmcb.TSC_OFFSET] = 1 << 40
    assert w.run().code == VMMCALL
    assert w.guest["rdx"] == 1 << 8
    assert w.processor.time_stamp() == w.guest.clock.now
