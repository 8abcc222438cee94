"""Virtual interrupts, V_TPR and interrupt shadows (APM vol. 2, 15.21.2, 15.21.4, 15.21.5 and 15.13.5)."""

from __future__ import annotations

import pytest

from engine.harness import STUBS
from svm.conftest import Make
from svm.world import World
from trapgate.arch import vmcb

HLT, VMMCALL, VINTR = vmcb.EXIT["hlt"], vmcb.EXIT["vmmcall"], vmcb.EXIT["vintr"]
IF = 1 << 9


def guest(world: Make, text: str, flags: int = 2 | IF) -> World:
    w = world()
    w.guest.enter_long()
    w.wrap().code(64, text)
    w[vmcb.RFLAGS] = flags
    return w


def pending(w: World) -> bool:
    return bool(w[vmcb.VIRTUAL_INTERRUPT] & vmcb.V_IRQ)


@pytest.mark.parametrize("masking", [False, True])
@pytest.mark.parametrize(("priority", "tpr", "ignore", "taken"), [
    (15, 0, False, True), (1, 0, False, True), (0, 0, False, False), (5, 5, False, False), (6, 5, False, True),
    (4, 5, False, False), (0, 15, True, True), (5, 5, True, True),
])  # fmt: skip
def test_priority(world: Make, priority: int, tpr: int, ignore: bool, taken: bool, masking: bool) -> None:
    w = guest(world, "90  nop\n0f 01 d9  vmmcall")
    w.virtual_interrupt(0x55, priority, tpr, ignore_tpr=ignore, masking=masking)
    before = w[vmcb.VIRTUAL_INTERRUPT]
    assert w.run().code == (HLT if taken else VMMCALL)
    if taken:
        assert w[vmcb.RIP] == STUBS + 0x550
        assert w[vmcb.VIRTUAL_INTERRUPT] == before & ~vmcb.V_IRQ
        assert w[vmcb.RFLAGS] & IF == 0
    else:
        assert w[vmcb.VIRTUAL_INTERRUPT] == before


def test_if_of_the_guest_holds_it(world: Make) -> None:
    w = guest(world, "90  nop\n0f 01 d9  vmmcall\nfb  sti\n90  nop\n90  nop", 2).virtual_interrupt(0x55)
    assert w.run().code == VMMCALL
    assert pending(w)
    w.go(w[vmcb.NEXT_RIP])
    assert w.run().code == HLT
    assert w.memory.read_u64(w[vmcb.RSP]) == 0x8006  # behind the instruction in STI's shadow
    assert not pending(w)


@pytest.mark.parametrize("text", ["9d  popfq", "48 cf  iretq"])
def test_other_ways_to_set_if_have_no_shadow(world: Make, text: str) -> None:
    w = guest(world, text + "\n90  nop\n90  nop", 2).virtual_interrupt(0x55)
    length = len(text.split("  ")[0].split())
    frame = [0x202] if "popfq" in text else [0x8000 + length, 8, 0x202, 0x7000, 0x10]
    for i, word in enumerate(frame):
        w.memory.write_u64(0x6F00 + 8 * i, word)
    w[vmcb.RSP] = 0x6F00
    assert w.run().code == HLT
    assert w.memory.read_u64(w[vmcb.RSP]) == 0x8000 + length


def test_vintr_comes_just_before_it_is_taken(world: Make) -> None:
    # 15.13.5: "has not been taken, and remains pending".
    w = guest(world, "fb  sti\n90  nop\n90  nop", 2).virtual_interrupt(0x55).intercept("vintr")
    assert w.run() == (VINTR, 0, 0, 0)
    assert (w[vmcb.RIP], w[vmcb.NEXT_RIP], pending(w), w[vmcb.RFLAGS] & IF) == (0x8002, 0, True, IF)
    assert w.run().code == VINTR  # and again
    w.let("vintr")
    assert w.run().code == HLT
    assert w.memory.read_u64(w[vmcb.RSP]) == 0x8002


def test_vintr_waits_for_the_priority(world: Make) -> None:
    w = guest(world, "44 0f 22 c0  mov cr8,rax\n90  nop\n0f 01 d9  vmmcall").intercept("vintr")
    w.virtual_interrupt(0x55, 3, 8, masking=True)
    w[vmcb.RAX] = 2
    assert w.run().code == VINTR
    assert (w[vmcb.RIP], w[vmcb.VIRTUAL_INTERRUPT] & 0xFF) == (0x8004, 2)
    w.virtual_interrupt(0x55, 3, 8, masking=True).go()
    w[vmcb.RAX] = 3
    assert w.run().code == VMMCALL


def test_exitintinfo_when_delivery_faults(world: Make) -> None:
    # V_IRQ is cleared "before the IDT is accessed" (15.21.4).
    w = guest(world, "90  nop").virtual_interrupt(0x55).intercept_exceptions(14)
    w.memory.write_u64(0x3000 + 36, 0x20_0000)
    assert w.run() == (0x4E, 2, 0x1F_FFF8, 0x8000_0055)
    assert not pending(w)


# -- CR8 (15.21.2)


class Apic:
    """The processor's own part of a local APIC."""

    def __init__(self) -> None:
        self.apic_base, self.tpr = 0xFEE0_0900, 7

    def read_cr8(self) -> int:
        return self.tpr

    def write_cr8(self, value: int) -> None:
        self.tpr = value


@pytest.mark.parametrize("masking", [False, True])
def test_cr8(world: Make, masking: bool) -> None:
    """With V_INTR_MASKING it is V_TPR alone; without, reads are the APIC's, and writes go to both."""
    w = guest(world, "44 0f 20 c3  mov rbx,cr8\n44 0f 22 c0  mov cr8,rax\n44 0f 20 c1  mov rcx,cr8\nf4  hlt", 2)
    apic = Apic()
    w.processor.apic = apic
    w.virtual_interrupt(pending=False, tpr=4, masking=masking)
    w[vmcb.RAX] = 9
    assert w.run().code == HLT
    assert (w.guest["rbx"], w.guest["rcx"]) == ((4, 9) if masking else (7, 9))
    assert (apic.tpr, w[vmcb.VIRTUAL_INTERRUPT] & 0xFF) == ((7, 9) if masking else (9, 9))


def test_v_tpr_does_not_mask_physical_interrupts(world: Make) -> None:
    # 15.21.2: "The APIC's TPR always controls the task priority for physical interrupts".
    w = (
        guest(world, "90  nop\neb fd  jmp 0x8000")
        .intercept("intr")
        .virtual_interrupt(pending=False, tpr=15, masking=True)
    )
    w.processor.set_intr(True)
    assert w.run().code == vmcb.EXIT["intr"]


# -- shadows (15.21.5)


@pytest.mark.parametrize(("text", "shadow"), [
    ("fb  sti\n0f 01 d9  vmmcall", 1),
    ("fb  sti\nf4  hlt", 1),
    ("fb  sti\n90  nop\n0f 01 d9  vmmcall", 0),
    ("8e d3  mov ss,ebx\n0f 01 d9  vmmcall", 1),
    ("8e d3  mov ss,ebx\n90  nop\n0f 01 d9  vmmcall", 0),
    ("8e db  mov ds,ebx\n0f 01 d9  vmmcall", 0),
    ("fa  cli\n0f 01 d9  vmmcall", 0),
    ("fb  sti\n8b 00  mov eax,[rax]", 1),
])  # fmt: skip
@pytest.mark.parametrize("irq", [False, True], ids=["", "irq"])
def test_a_shadow_is_saved_right_behind_its_instruction(world: Make, text: str, shadow: int, irq: bool) -> None:
    w = guest(world, text, 2).intercept_exceptions(14)
    w.guest.set(rbx=0x10)
    w[vmcb.RAX] = 0x20_0000
    if irq:
        w.virtual_interrupt(0x55, masking=True)
    exit_ = w.run()
    if irq and text.startswith("fb") and shadow == 0:
        assert exit_.code == HLT  # it was taken behind the NOP
        return
    assert exit_.code in (VMMCALL, HLT, 0x4E)
    assert w.read_u8(vmcb.INTERRUPT_SHADOW) == shadow
    assert pending(w) == irq


def test_sti_with_if_set_makes_no_shadow(world: Make) -> None:
    # "an STI instruction that sets EFLAGS.IF (from zero to one)".
    w = guest(world, "fb  sti\n0f 01 d9  vmmcall")
    assert w.run().code == VMMCALL
    assert w.read_u8(vmcb.INTERRUPT_SHADOW) == 0


def test_the_same_place_later_is_no_shadow(world: Make) -> None:
    """STI's shadow is where and when: a jump back behind it is none."""
    # At 8001h first IN AL, 60h, which is let through, then the exit of IN AL, 61h that has been written over it.
    w = guest(world, "fb  sti\ne4 60  in al,0x60\nfe 05 f9 ff ff ff  inc byte [rel 0x8002]\neb f6  jmp 0x8001", 2)
    w.intercept("ioio")
    w.memory.write_u8(w[vmcb.IOPM_BASE_PA] + 12, 2)
    assert w.run().code == vmcb.EXIT["ioio"]
    assert (w[vmcb.RIP], w.read_u8(vmcb.INTERRUPT_SHADOW)) == (0x8001, 0)


@pytest.mark.parametrize("pin", ["virtual", "intr", "nmi"])
def test_a_loaded_shadow_holds_interrupts_for_one_instruction(world: Make, pin: str) -> None:
    w = guest(world, "90  nop\n90  nop\n0f 01 d9  vmmcall").u8(vmcb.INTERRUPT_SHADOW, 1).intercept("intr", "nmi")
    if pin == "virtual":
        w.virtual_interrupt(0x55).intercept("vintr")
    elif pin == "intr":
        w.processor.set_intr(True)
    else:
        w.processor.pulse_nmi()
    assert w.run().code == vmcb.EXIT["vintr" if pin == "virtual" else pin]
    assert (w[vmcb.RIP], w.read_u8(vmcb.INTERRUPT_SHADOW)) == (0x8001, 0)


def test_a_loaded_shadow_is_saved_if_the_first_instruction_exits(world: Make) -> None:
    w = guest(world, "0f 01 d9  vmmcall").u8(vmcb.INTERRUPT_SHADOW, 1)
    assert w.run().code == VMMCALL
    assert w.read_u8(vmcb.INTERRUPT_SHADOW) == 1


def test_v_irq_is_not_seen_outside_the_guest(world: Make) -> None:
    # 15.21.4: "On #VMEXIT, the processor clears its internal copies of V_IRQ and V_INTR_MASKING".
    w = guest(world, "0f 01 d9  vmmcall", 2).virtual_interrupt(0x55, masking=True)
    assert w.run().code == VMMCALL
    assert not w.processor.v_irq
    assert pending(w)
