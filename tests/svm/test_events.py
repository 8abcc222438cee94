"""Physical interrupts, NMI, SMI, INIT, HLT, task switches and GIF (APM vol. 2, 15.13, 15.14, 15.17, 15.21)."""

from __future__ import annotations

import pytest

from engine.harness import CODE32, DATA0, IDT, STUBS, TSS
from svm.conftest import Make
from svm.world import VMCB, World, event
from trapgate.arch import vmcb

HLT = vmcb.EXIT["hlt"]
IF, TF, NT = 1 << 9, 1 << 8, 1 << 14
LOOP = "90  nop\neb fd  jmp 0x8000"


def looping(world: Make, flags: int = 2 | IF) -> World:
    w = world()
    w.guest.enter_long()
    w.wrap().code(64, LOOP)
    w[vmcb.RFLAGS] = flags
    return w


def raise_intr(w: World) -> None:
    w.processor.set_intr(True)


PINS = {
    "intr": lambda w: w.processor.set_intr(True),
    "nmi": lambda w: w.processor.pulse_nmi(),
    "smi": lambda w: w.processor.pulse_smi(),
    "init": lambda w: w.processor.request_reset(),
}


@pytest.mark.parametrize("late", [False, True], ids=["at entry", "later"])
@pytest.mark.parametrize("name", list(PINS))
def test_an_intercepted_event_stays_pending(world: Make, name: str, late: bool) -> None:
    # 15.13: "the interrupt is held pending so that the interrupt can eventually be taken in the VMM".
    w = looping(world).intercept(name)
    if late:
        w.after(2000, lambda: PINS[name](w))
    else:
        PINS[name](w)
    info1 = vmcb.SMI_EXTERNAL if name == "smi" else 0
    assert w.run() == (vmcb.EXIT[name], info1, 0, 0)
    assert w[vmcb.RIP] in (0x8000, 0x8001)
    assert w[vmcb.NEXT_RIP] == 0
    assert (w.processor.instructions == 0) is not late
    # It is still there.
    assert w.run().code == vmcb.EXIT[name]


def test_intr_that_is_not_intercepted_goes_to_the_guest(world: Make) -> None:
    w = looping(world)
    raise_intr(w)
    assert w.run().code == HLT
    assert w[vmcb.RIP] == STUBS + 0x400
    assert w.processor.interrupt_counts == {0x40: 1}


def test_if_of_the_guest_masks_intr_and_its_exit(world: Make) -> None:
    # 15.21.1, V_INTR_MASKING clear.
    w = looping(world, 2).intercept("intr").code(64, "90  nop\n0f 01 d9  vmmcall\nfb  sti\n90  nop\n90  nop")
    raise_intr(w)
    assert w.run().code == vmcb.EXIT["vmmcall"]
    w.go(w[vmcb.NEXT_RIP])
    assert w.run().code == vmcb.EXIT["intr"]
    assert w[vmcb.RIP] == 0x8006  # STI's shadow: one more instruction


def test_host_if_counts_with_v_intr_masking(world: Make) -> None:
    # 15.21.1: the guest's IF plays no part. The host's IF is set, for a hypervisor outside always.
    w = looping(world, 2).intercept("intr").virtual_interrupt(pending=False, masking=True)
    w.after(2000, lambda: raise_intr(w))
    assert w.run().code == vmcb.EXIT["intr"]


def test_priorities_among_events(world: Make) -> None:
    order = ("init", "smi", "nmi", "intr")
    w = looping(world).intercept(*order).virtual_interrupt(0x50)
    for pin in PINS.values():
        pin(w)
    for name in order:
        assert w.run().code == vmcb.EXIT[name]
        w.let(name)
        p = w.processor
        if name == "init":
            p._reset_wanted = False
        elif name == "smi":
            p.smi_pending = False
        elif name == "nmi":
            p._nmi = False
            p.pending_changed()
        else:
            p.set_intr(False)
    assert w.run().code == HLT  # physical ones go before the virtual one (15.21.4)
    assert w[vmcb.RIP] == STUBS + 0x500


def test_an_nmi_that_is_not_intercepted_is_the_guests(world: Make) -> None:
    w = looping(world, 2)
    w.processor.pulse_nmi()
    assert w.run().code == HLT
    assert w[vmcb.RIP] == STUBS + 0x20
    assert w.processor.nmi_blocked


def test_init_that_is_not_intercepted(world: Make) -> None:
    # It takes the processor out of guest mode; MSRs stay (14.1.3).
    w = looping(world)
    w.processor.vm_cr = vmcb.VM_CR_LOCK
    w.processor.hsave_pa = 0x5000
    w.processor.request_reset()
    assert w.processor.run_guest(VMCB) == "unimplemented"  # there is no memory at FFFFFFF0h
    assert w.processor.stop_report == (
        "unimplemented: wanted what trapgate has, got execution outside RAM at rip 0xfff0, guest-physical 0xfffffff0: "
        "docs/processor.md lists what is not there yet"
    )
    assert not w.processor.in_guest
    assert (w.processor.vm_cr, w.processor.hsave_pa) == (vmcb.VM_CR_LOCK, 0x5000)


@pytest.mark.parametrize("intercepted", [False, True])
def test_redirected_init_is_a_security_exception(world: Make, intercepted: bool) -> None:
    # 15.21.8, table 15-12, and 15.28: #SX with error code 1.
    w = looping(world)
    w.processor.vm_cr = vmcb.VM_CR_R_INIT
    w.intercept_exceptions(*((30,) if intercepted else ()))
    w.processor.request_reset()
    exit_ = w.run()
    if intercepted:
        assert exit_ == (0x5E, 1, 0, 0)
    else:
        assert exit_.code == HLT
        assert (w[vmcb.RIP], w.memory.read_u64(w[vmcb.RSP])) == (STUBS + 16 * 30, 1)


# -- HLT

WAKERS = {"intr": 0x40, "nmi": 2}


@pytest.mark.parametrize("name", ["intr", "nmi", "smi"])
def test_a_halted_guest_is_woken_by_an_exit(world: Make, name: str) -> None:
    w = looping(world).let("hlt").intercept(name).code(64, "f4  hlt\n0f 01 d9  vmmcall")
    w.after(10_000, lambda: PINS[name](w))
    assert w.run().code == vmcb.EXIT[name]
    assert w[vmcb.RIP] == 0x8001
    assert w.guest.clock.now >= 10_000


@pytest.mark.parametrize("name", ["intr", "nmi"])
def test_a_halted_guest_takes_its_interrupt(world: Make, name: str) -> None:
    w = looping(world).let("hlt").code(64, "f4  hlt\n0f 01 d9  vmmcall")
    w.memory.write(STUBS + 16 * WAKERS[name], b"\x48\xcf")
    w.after(10_000, lambda: PINS[name](w))
    assert w.run().code == vmcb.EXIT["vmmcall"]


def test_a_virtual_interrupt_wakes(world: Make) -> None:
    w = looping(world).let("hlt").code(64, "f4  hlt\n0f 01 d9  vmmcall").virtual_interrupt(0x50)
    w.memory.write(STUBS + 0x500, b"\x48\xcf")
    w.u8(vmcb.INTERRUPT_SHADOW, 1)  # so that HLT comes first
    assert w.run().code == vmcb.EXIT["vmmcall"]
    assert w[vmcb.VIRTUAL_INTERRUPT] >> 8 & 1 == 0


def test_sti_hlt_is_woken(world: Make) -> None:
    w = looping(world, 2).let("hlt").code(64, "fb  sti\nf4  hlt\n0f 01 d9  vmmcall").virtual_interrupt(0x50)
    w.memory.write(STUBS + 0x500, b"\x48\xcf")
    assert w.run().code == vmcb.EXIT["vmmcall"]


def test_a_guest_that_nothing_wakes_stops_the_run(world: Make) -> None:
    w = looping(world, 2).let("hlt").code(64, "f4  hlt")
    assert w.processor.run_guest(VMCB) == "halted"


# -- task switches (15.14.1)

SELECTOR, PLACE = 0x60, 0x3400


def task(world: Make, text: str, flags: int = 2) -> World:
    """A second TSS at 3400h whose code, at 9000h, halts."""
    w = world()
    g = w.guest
    g.enter_protected()
    g.set_descriptor(SELECTOR, 0x0000_8900_3400_0067)
    tss = bytearray(0x68)
    for at, value in ((0x20, 0x9000), (0x24, 2), (0x38, 0x7000), (0x48, DATA0), (0x4C, CODE32), (0x50, DATA0),
                      (0x54, DATA0), (0x58, DATA0), (0x5C, DATA0)):  # fmt: skip
        tss[at : at + 4] = value.to_bytes(4, "little")
    w.memory.write(PLACE, bytes(tss))
    w.memory.write(0x9000, b"\xf4")
    w.wrap().code(32, text).intercept("task_switch")
    w[vmcb.RFLAGS] = flags
    return w


TASK_GATE = 0x8500 << 32 | SELECTOR << 16
JUMP, IRET, ERROR, RESUME = 1 << 38, 1 << 36, 1 << 44, 1 << 48

WAYS = {
    "jmp": ("ea 00 00 00 00 60 00  jmp 0x60:0", JUMP, 0),
    "call": ("9a 00 00 00 00 60 00  call 0x60:0", 0, 0),
    "iret": ("cf  iretd", IRET, 0),
    "int": ("cd 30  int 0x30", 0, event(4, 0x30)),
    "exception": ("0f 0b  ud2", RESUME, event(3, 6)),
    "with error": ("8e d8  mov ds,eax", RESUME | ERROR | 0x1234, event(3, 13, 0x1234)),
    "interrupt": ("90  nop\neb fd  jmp 0x8000", 0, event(0, 0x40)),
}


def prepare(world: Make, way: str) -> World:
    w = task(world, WAYS[way][0], 2 | IF | (NT if way == "iret" else 0))
    for vector in (0x30, 6, 13, 0x40):
        w.memory.write_u64(IDT + 8 * vector, TASK_GATE)
    w[vmcb.RAX] = 0x1234
    if way == "iret":
        w.memory.write_u16(TSS, SELECTOR)
        w.guest.set_descriptor(SELECTOR, 0x0000_8B00_3400_0067)
    elif way == "interrupt":
        raise_intr(w)
    return w


@pytest.mark.parametrize("way", list(WAYS))
def test_task_switches(world: Make, way: str) -> None:
    w = prepare(world, way)
    descriptor, tss = w.memory.read_u64(0x1060), w.memory.read(TSS, 0x68)
    assert w.run() == (vmcb.EXIT["task_switch"], SELECTOR, WAYS[way][1], WAYS[way][2])
    assert (w[vmcb.RIP], w[vmcb.NEXT_RIP]) == (0x8000, 0)
    assert (w.memory.read_u64(0x1060), w.memory.read(TSS, 0x68)) == (descriptor, tss)
    w = prepare(world, way).let("task_switch")
    assert w.run().code == HLT
    assert w[vmcb.RIP] == 0x9000


@pytest.mark.parametrize(("descriptor", "code", "info1"), [
    (0x0000_0900_3400_0067, 0x4B, SELECTOR),  # not present
    (0x0000_8B00_3400_0067, 0x4D, SELECTOR),  # busy
    (0x0000_8900_3400_0066, 0x4A, SELECTOR),  # too short
])  # fmt: skip
def test_the_incoming_tss_is_checked_first(world: Make, descriptor: int, code: int, info1: int) -> None:
    w = task(world, WAYS["jmp"][0]).intercept_exceptions(10, 11, 13)
    w.guest.set_descriptor(SELECTOR, descriptor)
    assert w.run() == (code, info1, 0, 0)


# -- GIF and the shadow (15.17, 15.21.5)


@pytest.mark.parametrize("name", list(PINS))
def test_gif_holds_everything(world: Make, name: str) -> None:
    """A guest that may use CLGI and STGI itself."""
    w = looping(world).intercept(name).virtual_interrupt(0x50)
    w.code(64, "0f 01 dd  clgi\n" + "90  nop\n" * 8 + "0f 01 dc  stgi\n90  nop\n0f 01 d9  vmmcall")
    w.u8(vmcb.INTERRUPT_SHADOW, 1)  # so that CLGI comes first
    if name != "intr":
        w[vmcb.RFLAGS] = 2
    if name in ("intr", "nmi"):
        PINS[name](w)
        assert w.run().code == vmcb.EXIT[name]
    else:
        w.after(603, lambda: PINS[name](w))
        assert w.run().code == vmcb.EXIT[name]
    assert w[vmcb.RIP] == 0x800E


def test_gif_discards_breakpoints_but_not_single_steps(world: Make) -> None:
    # Table 15-10.
    w = looping(world, 2).intercept_exceptions(1).code(64, "0f 01 dd  clgi\n90  nop\n90  nop\n0f 01 dc  stgi\n90  nop")
    w.processor.dr[0], w.processor.dr[1] = 0x8004, 0x8008
    w[vmcb.DR7] = 0x400 | 2 | 8
    assert w.run().code == 0x41
    assert (w[vmcb.RIP], w[vmcb.DR6] & 0xF) == (0x8008, 2)
    w = looping(world, 2 | TF).intercept_exceptions(1).code(64, "0f 01 dd  clgi\n90  nop")
    assert w.run().code == 0x41
    assert w[vmcb.RIP] == 0x8003
    assert w.run().code == 0x41
    assert w[vmcb.RIP] == 0x8004
