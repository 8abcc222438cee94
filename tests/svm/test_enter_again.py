"""Going back into the guest that was left last (cpu/svm/world_switch.py): whatever somebody has written to its VMCB in
between counts (15.5.1), and nothing else differs from entering it for the first time.

Two worlds take the same steps. One may use what it has kept of the VMCB, the other is made to forget it each time.
"""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from engine.assembly import assemble
from svm.conftest import LATER, Make
from svm.test_hypervisor_in_guest import state_of_host
from svm.world import PAT, VMCB, World, event
from trapgate.arch import layout, vmcb
from trapgate.arch.registers import CR0_TS, CR0_WP, EFER_SVME
from trapgate.engine.processor import Stopped

GUEST = 0xA000
#: What the guest may do next, 16 bytes each. A stub of the harness halts behind an exception.
_PLACES = (
    "0f 01 d9  vmmcall", "0f a2  cpuid\n0f 01 d9  vmmcall", "ff c3  inc ebx\n0f 01 d9  vmmcall", "f4  hlt",
    "e4 80  in al,0x80\n0f 01 d9  vmmcall", "0f 20 d9  mov rcx,cr3\n0f 22 d9  mov cr3,rcx\n0f 01 d9  vmmcall",
    "0f 31  rdtsc\n0f 01 d9  vmmcall", "fb  sti\n0f 01 d9  vmmcall", "8b 04 25 00 00 50 00  mov eax,[0x500000]",
    "b8 05 00 00 00  mov eax,5\n44 0f 22 c0  mov cr8,rax\n0f 01 d9  vmmcall", "0f 0b  ud2",
    "fa  cli\n9c  pushf\n9d  popf\n0f 01 d9  vmmcall", "31 c9  xor ecx,ecx\n8e d9  mov ds,ecx\n0f 01 d9  vmmcall",
    "0f 06  clts\n0f 01 d9  vmmcall", "f4  hlt", "f3 90  pause\n0f 01 d9  vmmcall",
    "8b 04 25 00 f0 00 00  mov eax,[0xf000]\n0f 01 d9  vmmcall",
    "b9 77 02 00 00  mov ecx,0x277\nb8 06 00 00 00  mov eax,6\n31 d2  xor edx,edx\n0f 30  wrmsr\n0f 01 d9  vmmcall",
)  # fmt: skip


def _toggle(place: int, mask: int) -> Callable[[World, random.Random], None]:
    def change(w: World, choose: random.Random) -> None:
        w[place] = w[place] ^ mask

    return change


def _choose(place: int, *values: int) -> Callable[[World, random.Random], None]:
    def change(w: World, choose: random.Random) -> None:
        w[place] = choose.choice(values)

    return change


def _intercept(*names: str) -> Callable[[World, random.Random], None]:
    def change(w: World, choose: random.Random) -> None:
        name = choose.choice(names)
        if choose.random() < 0.5:
            w.intercept(name)
        else:
            w.let(name)

    return change


def _code(w: World, choose: random.Random) -> None:
    """The guest's instruction at its first place, by a write from outside."""
    w.memory.write(GUEST, bytes.fromhex(choose.choice(("0f01d9", "90f490"))))


def _interrupt(w: World, choose: random.Random) -> None:
    p = w.processor
    w.after(choose.choice((1, 500, 600, 2000)), lambda: p.set_intr(True))
    w.after(5000, lambda: p.set_intr(False))


def _inject(w: World, choose: random.Random) -> None:
    w[vmcb.EVENTINJ] = event(choose.choice((vmcb.EVENT_INTR, vmcb.EVENT_EXCEPTION, 1)), choose.choice((6, 13, 0x30)))


def _host_debug(w: World, choose: random.Random) -> None:
    """A host that the processor runs has its own DR6 until VMRUN, and the guest's afterwards (15.6)."""
    if not w.processor.python_host:
        w.processor.write_dr(6, choose.choice((0, 0x4000)))


#: What anybody may do to a VMCB between two runs.
_CHANGES: tuple[Callable[[World, random.Random], None], ...] = (
    _intercept("vmmcall", "cpuid", "rdtsc", "pushf", "popf", "ioio", "intr", "vintr", "pause", "msr"),
    _intercept("vmmcall", "cpuid"),
    _toggle(vmcb.INTERCEPT_CR, 1 << 3 | 1 << 19), _toggle(vmcb.INTERCEPT_EXCEPTIONS & ~7, 1 << 14 | 1 << 6),
    _toggle(vmcb.RFLAGS, 1 << 18), _toggle(vmcb.RFLAGS, 1 << 9), _toggle(vmcb.RFLAGS, 3 << 12),
    _toggle(vmcb.RFLAGS, 0x8D5), _toggle(vmcb.RFLAGS, 1 << 17),
    _toggle(vmcb.CR0, CR0_WP), _toggle(vmcb.CR0, CR0_TS), _toggle(vmcb.CR0, 1 << 29),
    _toggle(vmcb.CR4, 1 << 2), _toggle(vmcb.EFER, 1), _toggle(vmcb.EFER, EFER_SVME), _toggle(vmcb.CS, 1 << 25),
    _toggle(vmcb.SS + 8, 1 << 20), _toggle(vmcb.DS, 1 << 40), _toggle(vmcb.ES, 3), _toggle(vmcb.CPL & ~7, 3 << 24),
    _choose(vmcb.DR7, 0x400, 0x400, 0x401, 0x30401), _choose(vmcb.DR6, 0xFFFF_0FF0, 0xFFFF_4FF0),
    _choose(vmcb.G_PAT, PAT, PAT, 0x0606, 2), _choose(vmcb.TSC_OFFSET, 0, 0, 1 << 40, (1 << 64) - 5),
    _choose(vmcb.ASID, 1, 1, 2, 0, 1 | 1 << 32, 1 | 3 << 32), _toggle(vmcb.GDTR, 1 << 34),
    _toggle(vmcb.IDTR + 8, 1 << 12),
    _choose(vmcb.CR2, 0, 0x1234), _choose(vmcb.RAX, 7, 0x8000_0000), _choose(vmcb.RSP, 0x7000, 0x6FF8),
    _choose(vmcb.INTERRUPT_SHADOW, 0, 1), _choose(vmcb.LBR_CONTROL, 0, 1),
    _choose(vmcb.IOPM_BASE_PA, 0x2F_1000, 0x2F_0000),
    _choose(vmcb.VIRTUAL_INTERRUPT, 0, 1 << 8 | 0xF << 16 | 0x30 << 32, 3, 1 << 24),
    _choose(vmcb.PAUSE_FILTER_THRESHOLD & ~7, 0, 2 << 48), _choose(vmcb.CLEAN_BITS, 0, 0xFFFF_FFFF),
    _inject, _code, _interrupt, _host_debug,
)  # fmt: skip


def _prepare(w: World, nested: bool, in_guest: bool) -> World:
    w.guest.enter_long()
    w.wrap().go(GUEST)
    for i, text in enumerate(_PLACES):
        w.code(64, text, GUEST + 16 * i)
    if nested:
        w.nested()
    p = w.processor
    if in_guest:
        p.python_host = False
        p.state.set(layout.EFER, p.efer | EFER_SVME)
        w.guest.load(assemble(64, "0f 01 d8  vmrun rax\nf4  hlt"))
    w[vmcb.RSP], w[vmcb.RAX] = 0x7000, 0x1111
    return w


def _forget(w: World) -> None:
    p = w.processor
    p.state.set(layout.WORLD_STATE_OF, 0)
    p.state.set(layout.WORLD_CONTROLS_OF, 0)
    p.vmcb = -1


def _run(w: World, in_guest: bool) -> str | Stopped:
    p = w.processor
    if not in_guest:
        return p.run_guest(VMCB)
    w.guest.go(0x8000)
    w.guest.set(rax=VMCB, rsp=0x6E00)
    p.set_gif(False)
    return p.run()


def _seen(w: World, in_guest: bool) -> dict[str, object]:
    p = w.processor
    seen: dict[str, object] = {
        "vmcb": bytes(w.memory.read(VMCB, vmcb.SIZE)), "registers": list(p.q[:16]), "now": w.guest.clock.now,
        "instructions": p.instructions, "exits": dict(p.exit_counts), "exceptions": dict(p.exception_counts),
        "interrupts": dict(p.interrupt_counts), "switches": p.switch_cycles, "gif": p.gif, "why": p.refusal,
        "counters": [p.state.counter(name) for name in layout.TLB_COUNTER_NAMES], "tsc": p.time_stamp(),
        "pat": p.read_msr(0x277), "inside": p.in_guest, "dr": list(p.dr),
    }  # fmt: skip
    return seen | state_of_host(w) if in_guest else seen


@pytest.mark.parametrize("cleared", [False, True])
def test_a_shadow_that_the_hypervisor_takes_away(world: Make, cleared: bool) -> None:
    # 15.21.5: INTERRUPT_SHADOW is loaded at VMRUN; the guest stands where the STI has left it.
    w = world()
    w.guest.enter_long()
    w.wrap().go(GUEST).code(64, "fb  sti\n0f 01 d9  vmmcall", GUEST)
    w.processor.set_intr(True)
    w.run()
    assert (w[vmcb.RIP], w.read_u8(vmcb.INTERRUPT_SHADOW)) == (GUEST + 1, 1)
    w.processor.set_intr(False)
    if cleared:
        w.u8(vmcb.INTERRUPT_SHADOW, 0)
    assert w.run().code == vmcb.EXIT["vmmcall"]
    assert w.read_u8(vmcb.INTERRUPT_SHADOW) == (not cleared)


@pytest.mark.parametrize("features", [None, LATER])
@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("in_guest", [False, True], ids=["host outside", "host in guest"])
def test_what_changes_between_two_runs_counts(
    world: Make, monkeypatch: pytest.MonkeyPatch, nested: bool, in_guest: bool, features: frozenset[str] | None
) -> None:
    seed = 4 * nested + 2 * in_guest + (features is None)
    choose = random.Random(seed)
    warm, cold = (_prepare(world(features), nested, in_guest) for _ in range(2))
    again = []
    for w in (warm, cold):
        p = w.processor
        monkeypatch.setattr(p, "_count_exit", lambda place, p=p, old=p._count_exit: (again.append(p), old(place)))
    good = bytes(warm.memory.read(VMCB, vmcb.SIZE))
    for turn in range(400):
        place = choose.randrange(len(_PLACES))
        changes = [choose.choice(_CHANGES) for _ in range(choose.choice((0, 0, 0, 1, 1, 2)))]
        state = choose.getrandbits(32)
        restored = choose.random() < 0.15
        for w in (warm, cold):
            if restored:
                w.memory.write(VMCB, good)
            w[vmcb.RIP] = GUEST + 16 * place
            for change in changes:
                change(w, random.Random(state))
        _forget(cold)
        results = [_run(w, in_guest) for w in (warm, cold)]
        wanted, got = _seen(cold, in_guest), _seen(warm, in_guest)
        assert results[0] == results[1], (seed, turn)
        assert got == wanted, (seed, turn, {k: (got[k], wanted[k]) for k in got if got[k] != wanted[k]})
        if warm[vmcb.EXITCODE] in (vmcb.EXIT_INVALID, vmcb.EXIT["shutdown"]):
            for w in (warm, cold):
                w.memory.write(VMCB, good)
        for w in (warm, cold):
            w.processor.set_intr(False)
    assert warm.processor in again or features is not None  # native code leaves no bytes of the instruction
    assert cold.processor not in again
