"""Guests that change their privilege in native code (SYSCALL, SYSRET, IRETQ, page faults) and are left in between.

Two worlds take the same steps: in one native code is left to itself, in the other somebody watches, for whom Python
carries everything out. What #VMEXIT stores, and what all of it has cost, must be the same.
"""

from __future__ import annotations

import random

import pytest

from engine.assembly import assemble
from engine.harness import CODE64, DATA, DEVICE, USER32
from svm.conftest import Make
from svm.test_hypervisor_in_guest import state_of_host
from svm.world import VMCB, World, event
from trapgate.arch import layout, vmcb
from trapgate.arch.registers import EFER_SVME, IF, TF
from trapgate.isa.operand_tables import CONTROL_READS, CONTROL_WRITES

USER, CALL, FAULT, INTERRUPT, PROTECTION, STUBS = 0xA000, 0xA100, 0xA200, 0xA300, 0xA400, 0x2_0000
ABSENT = 0x20_0000
PF, GP = 14, 13
STAR, LSTAR, SFMASK = 0xC000_0081, 0xC000_0082, 0xC000_0084
NATIVES = frozenset(("syscall_long", "sysretq_long", "iretq_within", *CONTROL_READS.values(), *CONTROL_WRITES.values()))
PLACES = {
    USER: "49 8b 00  mov rax,[r8]\n0f a2  cpuid\n0f 05  syscall\n49 8b 02  mov rax,[r10]\n0f 01 d9  vmmcall\n"
    "49 83 c1 10  add r9,byte 16\n41 ff e1  jmp r9",
    CALL: "ff c6  inc esi\n0f 01 d9  vmmcall\n48 0f 07  sysret",
    FAULT: "41 0f 20 d5  mov r13,cr2\n4d 01 ee  add r14,r13\n0f a2  cpuid\n41 0f 20 dc  mov r12,cr3\n"
    "41 0f 22 dc  mov cr3,r12\n48 83 44 24 08 03  add qword [rsp+8],byte 3\n48 83 c4 08  add rsp,byte 8\n"
    "48 cf  iretq",
    PROTECTION: "48 83 c4 08  add rsp,byte 8\n48 c7 04 24 00 a0 00 00  mov qword [rsp],0xa000\n48 cf  iretq",
    INTERRUPT: "ff c7  inc edi\n0f 01 d9  vmmcall\n48 cf  iretq",
}  # fmt: skip
#: Bytes of the instructions that are intercepted, by exit code: CR2 and CR3 are read, CR3 is written to.
LENGTHS = {vmcb.EXIT["cpuid"]: 2, vmcb.EXIT["vmmcall"]: 3, 0x02: 4, 0x03: 4, 0x13: 4}


def prepare(w: World, nested: bool, in_guest: bool, watched: bool) -> World:
    g, p = w.guest, w.processor
    g.enter_long(cpl=3, ist=0).set(r8=ABSENT, r9=STUBS, r10=DATA, rflags=2 | IF)
    w.wrap().go(USER)
    w.intercept("cpuid")
    if nested:
        w.nested()
    else:
        g.map(DATA, DEVICE)
    if in_guest:
        g.enter_long()
        p.python_host = False
        p.state.set(layout.EFER, p.efer | EFER_SVME)
        g.load(assemble(64, "0f 01 d8  vmrun rax\nf4  hlt"))
    for place, text in PLACES.items():
        w.code(64, text, place)
    # Each is gone to once, and forbidden at CPL 3.
    w.memory.write(STUBS, bytes.fromhex("0f20db").ljust(16, b"\xf4") * 512)
    g.set_gate64(PF, CODE64, FAULT)
    g.set_gate64(GP, CODE64, PROTECTION)
    g.set_gate64(0x30, CODE64, INTERRUPT)
    p.write_msr(STAR, (USER32 & ~3) << 48 | CODE64 << 32)
    p.write_msr(LSTAR, CALL)
    p.write_msr(SFMASK, IF | TF)
    w[vmcb.RSP] = 0x7000
    if watched:
        p.see_natives(NATIVES)
        p.see_faults()
    return w


def run(w: World, in_guest: bool) -> object:
    p = w.processor
    if not in_guest:
        return p.run_guest(VMCB)
    w.guest.go(0x8000)
    w.guest.set(rax=VMCB, rsp=0x6E00)
    p.set_gif(False)
    return p.run()


def seen(w: World, in_guest: bool) -> dict[str, object]:
    p = w.processor
    found: dict[str, object] = {
        "vmcb": bytes(w.memory.read(VMCB, vmcb.SIZE)), "registers": list(p.q[:16]), "now": w.guest.clock.now,
        "instructions": p.instructions, "exits": dict(p.exit_counts), "exceptions": dict(p.exception_counts),
        "interrupts": dict(p.interrupt_counts), "switches": p.switch_cycles, "events": p.event_cycles,
        "last": list(p.recent_exceptions), "gif": p.gif, "why": p.refusal, "inside": p.in_guest,
        "counters": [p.state.counter(name) for name in layout.TLB_COUNTER_NAMES],
        "mode": p.mode().decode._replace(intercepted=frozenset()),
    }  # fmt: skip
    return found | state_of_host(w) if in_guest else found


def change(w: World, choose: random.Random) -> None:
    """What a hypervisor may do between two runs."""
    what = choose.randrange(12)
    if what == 0:
        (w.intercept if choose.random() < 0.5 else w.let)(choose.choice(("cpuid", "iret")))
    elif what == 1:
        w.intercept_exceptions(*choose.choice(((), (PF,))))
    elif what == 2:
        w.u32(vmcb.INTERCEPT_CR, choose.choice((0, 0, 1 << 2, 1 << 3, 1 << 19)))
    elif what == 3 and w[vmcb.RFLAGS] & IF:
        w[vmcb.EVENTINJ] = event(vmcb.EVENT_INTR, 0x30)
    elif what == 4:
        w[vmcb.RFLAGS] ^= 3 << 12
    elif what == 5:
        w[vmcb.DR7] = choose.choice((0x400, 0x402, 0x30402))
    elif what == 6:
        w.virtual_interrupt(0x30, pending=choose.random() < 0.5)


def handle(w: World) -> None:
    """Do what the exit asks for, and go on."""
    code = w[vmcb.EXITCODE]
    if code in LENGTHS:
        w[vmcb.RIP] = w[vmcb.RIP] + LENGTHS[code]
    elif code == vmcb.EXIT_EXCEPTION + PF:
        w[vmcb.CR2] = w[vmcb.EXITINFO2]
        w[vmcb.EVENTINJ] = event(vmcb.EVENT_EXCEPTION, PF, w[vmcb.EXITINFO1])
    else:
        assert code == vmcb.EXIT["iret"]
        w.let("iret")


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("in_guest", [False, True], ids=["host outside", "host in guest"])
def test_what_native_code_does_is_what_python_does(
    world: Make, monkeypatch: pytest.MonkeyPatch, nested: bool, in_guest: bool
) -> None:
    choose = random.Random(2 * nested + in_guest)
    native, python = (prepare(world(), nested, in_guest, watched) for watched in (False, True))
    p, by_native_code = native.processor, set()
    old = p._count_exit
    monkeypatch.setattr(
        p, "_count_exit", lambda place: (by_native_code.add((native.read_u8(vmcb.CPL), native[vmcb.RIP])), old(place))
    )
    levels: set[int] = set()
    quiet = True
    for turn in range(500):
        results = [run(w, in_guest) for w in (native, python)]
        wanted, got = seen(python, in_guest), seen(native, in_guest)
        assert results[0] == results[1], turn
        assert p.mode().decode.cpl == p.cpl, turn
        assert got == wanted, (turn, {k: (got[k], wanted[k]) for k in got if got[k] != wanted[k]})
        levels.add(native.read_u8(vmcb.CPL))
        quiet = quiet and turn < 100
        state = choose.getrandbits(32)
        for w in (native, python):
            handle(w)
            if not quiet:
                change(w, random.Random(state))
    assert levels == {0, 3}
    assert {(3, USER + 3), (0, CALL + 2), (3, USER + 10)} <= by_native_code
    assert p.q[layout.FAULTS_DELIVERED >> 3] >= 20
    assert python.processor.q[layout.FAULTS_DELIVERED >> 3] == 0
