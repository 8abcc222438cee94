"""Exits leave the same counts whether a run was stepped or not, and each time."""

from __future__ import annotations

import pytest

from engine.assembly import assemble
from engine.harness import DATA
from svm.conftest import Make
from svm.world import VMCB, World
from trapgate.arch import layout, vmcb
from trapgate.arch.registers import EFER_SVME


class Watch:
    """An observer that only counts."""

    def __init__(self) -> None:
        self.steps = 0

    def before(self) -> None:
        self.steps += 1

    def after(self) -> None:
        pass


#: Some of everything: loads, stores, STI and CLI, strings, ports, CPUID, RDTSC, a page fault, a nested page fault.
PROGRAM = """
31 c9  xor ecx,ecx
0f a2  cpuid
fb  sti
90  nop
90  nop
fa  cli
0f 31  rdtsc
89 03  mov [rbx],eax
b9 40 00 00 00  mov ecx,64
bf 00 10 01 00  mov edi,0x11000
f3 aa  rep stosb
e4 60  in al,0x60
8b 04 25 00 00 02 00  mov eax,[0x20000]
9c  pushfq
9d  popfq
0f 0b  ud2
ff c5  inc ebp
83 fd 03  cmp ebp,3
0f 01 d9  vmmcall
"""


def trace(w: World, stepped: bool) -> list[tuple[int, ...]]:
    """Every exit with rip, instructions and cycles; what is missing is put right, everything is then skipped."""
    p = w.processor
    if stepped:
        p.observer = Watch()
    out = []
    for _ in range(60):
        exit_ = w.run()
        out.append((*exit_, w[vmcb.RIP], p.instructions, w.guest.clock.now, w[vmcb.RAX], w[vmcb.RFLAGS]))
        if exit_.code == vmcb.EXIT["vmmcall"]:
            if w.guest["rbp"] == 3:
                break
            w.go()
        elif exit_.code == vmcb.EXIT_NPF:
            w.map_nested(exit_.info2 & ~0xFFF, exit_.info2 & ~0xFFF)
        elif exit_.code == vmcb.EXIT["intr"]:
            p.set_intr(False)
        elif exit_.code == 0x46:
            w.go(w[vmcb.RIP] + 2)
        else:
            w.go(w[vmcb.NEXT_RIP])
    if stepped:
        assert isinstance(p.observer, Watch)
        assert p.observer.steps > 30
    return out


def program(world: Make, nested: bool) -> World:
    w = world()
    w.guest.enter_long()
    w.guest.set(rbx=DATA, rbp=0)
    w.wrap().code(64, PROGRAM).intercept("cpuid", "rdtsc", "ioio", "popf", "intr").intercept_exceptions(6)
    w.memory.write_u8(w[vmcb.IOPM_BASE_PA] + 12, 1)
    w.virtual_interrupt(0x50, masking=True, priority=0)
    if nested:
        w.nested()
        for page in (DATA, 0x1_1000, 0x2_0000):
            w.map_nested(page, 0, 0)
    for cycles in (1500, 3200, 4321, 5100, 7777, 12345, 20011):
        w.after(cycles, lambda: w.processor.set_intr(True))
    return w


@pytest.mark.parametrize("nested", [False, True])
def test_stepped_or_not(world: Make, nested: bool) -> None:
    plain = trace(program(world, nested), False)
    again = trace(program(world, nested), False)
    stepped = trace(program(world, nested), True)
    assert plain == again == stepped
    assert plain[-1][0] == vmcb.EXIT["vmmcall"]
    codes = {entry[0] for entry in plain}
    assert {vmcb.EXIT["intr"], vmcb.EXIT["cpuid"], vmcb.EXIT["ioio"], 0x46} <= codes
    assert (vmcb.EXIT_NPF in codes) == nested


@pytest.mark.parametrize("steps", [1, 2, 7])
def test_a_hypervisor_in_guest_code_in_steps(world: Make, steps: int) -> None:
    """VMRUN, the guest and the exits of a whole loop, some instructions at a time."""

    def make() -> World:
        w = world()
        w.guest.enter_long()
        w.wrap().go(0xA000).code(64, "fb  sti\nff c3  inc ebx\n0f 01 d9  vmmcall\neb f8  jmp 0xa000", 0xA000)
        p, g = w.processor, w.guest
        p.python_host = False
        p.state.set(layout.EFER, p.efer | EFER_SVME)
        g.map(0x1_0000, VMCB)
        g.load(
            assemble(
                64,
                "0f 01 d8  vmrun rax\n48 8b 0c 25 c8 00 01 00  mov rcx,[0x100c8]\n"
                "48 89 0c 25 78 05 01 00  mov [0x10578],rcx\nff ca  dec edx\n75 e9  db jnz 0x8000\nf4  hlt",
            )
        ).set(rax=VMCB, rbx=0, rdx=5)
        return w

    plain = make()
    plain.guest.run_to_halt()
    stepped = make()
    for _ in range(500):
        if stepped.processor.step(steps).reason == "halted":
            break
    p, q = plain.processor, stepped.processor
    assert (p.instructions, plain.guest.clock.now) == (q.instructions, stepped.guest.clock.now)
    assert plain.guest.registers() == stepped.guest.registers()
    assert plain.memory.read(VMCB, 0x1000) == stepped.memory.read(VMCB, 0x1000)
    assert plain.guest["rbx"] == 5


def test_what_an_exit_counts(world: Make) -> None:
    """The instructions before it, and not the one that made it."""
    w = world()
    w.guest.enter_long()
    w.wrap().intercept("cpuid").code(64, "90  nop\n90  nop\n90  nop\n0f a2  cpuid")
    assert w.run().code == vmcb.EXIT["cpuid"]
    assert w.processor.instructions == 3
    assert w.run().code == vmcb.EXIT["cpuid"]
    assert w.processor.instructions == 3
