"""System calls, IRETQ, page faults and MOV CRn that native code carries out: as when Python does, in every respect.

One guest of user code, a system call's and a page fault's handler runs twice, once with native code left to itself and
once with somebody watching, for whom Python carries everything out. Whatever is unusual in the guest is a case.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from engine.assembly import assemble
from engine.harness import (
    CODE64,
    DATA,
    DATA0,
    GDT,
    IDT,
    INTERRUPT_GATE,
    INTERRUPT_STACK,
    STUBS,
    TRAP_GATE,
    TSS,
    USER32,
    Guest,
    P,
    U,
    W,
)
from trapgate.api.hooks import Hooks
from trapgate.arch import layout
from trapgate.arch.registers import AC, CR0_AM, IF, IOPL, NT, RF, TF
from trapgate.isa.operand_tables import CONTROL_READS, CONTROL_WRITES

CONTROL = assemble(
    64,
    """
    again:
    41 0f 20 d1     mov r9, cr2
    0f 20 db        mov rbx, cr3
    49 87 d8        xchg rbx, r8
    0f 22 db        mov cr3, rbx
    48 8b 04 25 00 00 01 00  mov rax, [0x10000]
    49 01 c4        add r12, rax
    0f 20 c1        mov rcx, cr0
    0f 20 e2        mov rdx, cr4
    9c              pushfq
    41 5e           pop r14
    ff cf           dec edi
    75 db           db 0x75, 0xdb  ; jnz again
    41 0f 22 dd     mov cr3, r13
    f4              hlt
    """,
)
STAR, LSTAR, SFMASK = 0xC000_0081, 0xC000_0082, 0xC000_0084
ABSENT, ANOTHER_STACK = 0x20_0000, 0x30_0000
TURNS = 50
Change = Callable[[Guest], None]

GUEST = assemble(
    64,
    """
    user:
    49 8b 00           mov rax, [r8]
    0f 05              syscall
    49 ff cf           dec r15
    75 f6              db 0x75, 0xf6  ; jnz user
    f4                 hlt
    90*245
    call:
    48 ff c3           inc rbx
    49 8b 01           mov rax, [r9]
    4d 31 e3           xor r11, r12
    48 0f 07           sysret
    90*244
    fault:
    48 ff c7           inc rdi
    4c 31 74 24 18     xor [rsp+0x18], r14
    48 83 44 24 08 03  add qword [rsp+8], byte 3
    48 83 c4 08        add rsp, byte 8
    48 cf              iretq
    90*235
    interrupt:
    48 ff c6           inc rsi
    48 cf              iretq
    """,
)


def prepare(g: Guest) -> None:
    g.enter_long(cpl=3, ist=0).load(GUEST)
    p = g.processor
    g.set_gate64(14, CODE64, GUEST["fault"])
    g.set_gate64(0x40, CODE64, GUEST["interrupt"])
    p.write_msr(STAR, (USER32 & ~3) << 48 | CODE64 << 32)
    p.write_msr(LSTAR, GUEST["call"])
    p.write_msr(SFMASK, IF | TF)
    g.set(r8=ABSENT, r9=DATA, r15=TURNS, rflags=2)


def state(g: Guest) -> dict[str, object]:
    p = g.processor
    return {
        "registers": g.registers() | {"rflags": g["rflags"] & ~RF},  # see iretq_within
        "segments": [(s.selector, s.base, s.limit, s.attributes) for s in p.segments],
        "checked": [p.q[layout.SEGMENTS >> 3 : (layout.SEGMENTS >> 3) + 24].tolist()],
        "descriptor": p.q[layout.CODE_DESCRIPTOR >> 3],
        "cpl": p.cpl, "cr2": p.cr2, "mode": p.mode().decode._replace(intercepted=frozenset()), "halted": p.halted,
        "counts": (p.instructions, p.exception_counts, p.interrupt_counts, list(p.recent_exceptions)),
        "cycles": (g.clock.now, p.event_cycles, p.charged),
        "tlb": {name: g.counter(name) for name in layout.COUNTER_NAMES if name != "device_accesses"},
        "memory": bytes(p.ram),
    }  # fmt: skip


def watched(g: Guest) -> None:
    """Nothing of it in native code."""
    control = (*CONTROL_READS.values(), *CONTROL_WRITES.values())
    g.processor.see_natives(frozenset(("syscall_long", "sysretq_long", "iretq_within", *control)))
    g.processor.see_faults()


def run_both(guest: Callable[[], Guest], change: Change, limit: int = 3000) -> list[Guest]:
    guests = []
    for watch in (False, True):
        g = guest()
        prepare(g)
        change(g)
        if watch:
            watched(g)
        g.ends = g.run(limit)  # type: ignore[attr-defined]
        guests.append(g)
    native, python = map(state, guests)
    for name in native:
        assert native[name] == python[name], name
    assert guests[0].ends == guests[1].ends  # type: ignore[attr-defined]
    return guests


def test_the_usual_case(guest: Callable[[], Guest]) -> None:
    native, python = run_both(guest, lambda g: None)
    assert (native["rbx"], native["rdi"]) == (TURNS, TURNS)
    assert native.processor.exception_counts == {14: TURNS, 13: 1}  # HLT at CPL 3 is the last
    assert native.processor.q[layout.FAULTS_DELIVERED >> 3] == TURNS
    assert python.processor.q[layout.FAULTS_DELIVERED >> 3] == 0


def set_flags(flags: int, cr0: int = 0) -> Change:
    def change(g: Guest) -> None:
        p = g.processor
        p.state.set(layout.CR0, p.cr0 | cr0)
        g.set(rflags=2 | flags)
        p.mode_changed()

    return change


def registers(**values: int) -> Change:
    return lambda g: g.set(**values) and None


def msr(number: int, value: int) -> Change:
    return lambda g: g.processor.write_msr(number, value)


def gate(kind: int = INTERRUPT_GATE, selector: int = CODE64, ist: int = 0, offset: int = GUEST["fault"]) -> Change:
    return lambda g: g.set_gate64(14, selector, offset, kind, ist)


def memory(place: int, value: int) -> Change:
    return lambda g: g.memory.write_u64(place, value)


def stack(top: int, mapped: bool = True, code: bool = False) -> Change:
    def change(g: Guest) -> None:
        g.memory.write_u64(TSS + 4, top)
        if mapped:
            g.map(top - 1 & ~0xFFF, 0x11_0000, P | W)
            g.map((top - 1 & ~0xFFF) - 0x1000, 0x12_0000, P | W)

    return change


def limits(tss: int = 0x67, idt: int = 0xFFF, gdt: int = 0xFF) -> Change:
    def change(g: Guest) -> None:
        g.processor.tr.limit, g.processor.idtr_limit, g.processor.gdtr_limit = tss, idt, gdt

    return change


def both(*changes: Change) -> Change:
    def change(g: Guest) -> None:
        for one in changes:
            one(g)

    return change


def data_segments(attributes: int) -> Change:
    return lambda g: g.processor.segments[3].load(DATA0, 0, 0xFFFF_FFFF, attributes)


def interrupts(every: int) -> Change:
    def change(g: Guest) -> None:
        def raise_intr() -> None:
            g.processor.set_intr(True)
            if g["r15"] > 5:
                g.clock.schedule(g.clock.now + every, raise_intr)

        g.clock.schedule(every, raise_intr)
        g.set(rflags=2 | IF)

    return change


def halts_at(g: Guest, linear: int) -> None:
    g.map(linear, 0x14_0000)
    g.memory.write(0x14_0000, b"\xf4" * 16)


def debug_registers(dr0: int, dr7: int) -> Change:
    def change(g: Guest) -> None:
        g.processor.write_dr(0, dr0)
        g.processor.write_dr(7, dr7)

    return change


def without_sce(g: Guest) -> None:
    g.processor.state.set(layout.EFER, g.processor.efer & ~1)


def not_accessed(selector: int) -> Change:
    def change(g: Guest) -> None:
        place = GDT + (selector & ~7)
        g.memory.write_u64(place, g.memory.read_u64(place) & ~(1 << 40))

    return change


CASES: dict[str, Change] = {
    "arithmetic flags": set_flags(0x8D5),
    "DF and ID": set_flags(0x20_0400),
    "NT": set_flags(NT),
    "TF": set_flags(TF),
    "AC without AM": set_flags(AC),
    "AC with AM": set_flags(AC, CR0_AM),
    "IOPL 3": set_flags(IOPL),
    "IOPL 1": set_flags(0x1000),
    "SYSRET changes TF": registers(r12=TF),
    "SYSRET changes AC": both(set_flags(0, CR0_AM), registers(r12=AC, r9=DATA + 1)),
    "SYSRET changes IOPL": registers(r12=IOPL),
    "SYSRET changes the arithmetic flags": registers(r12=0x8D5),
    "IRETQ changes TF": registers(r14=TF),
    "IRETQ changes AC": both(set_flags(0, CR0_AM), registers(r14=AC)),
    "IRETQ changes IOPL": registers(r14=IOPL),
    "IRETQ changes NT": registers(r14=NT),
    "SFMASK masks everything": msr(SFMASK, 0xFFFF_FFFF),
    "SFMASK masks nothing": msr(SFMASK, 0),
    "LSTAR leads to a missing page": both(msr(LSTAR, ABSENT + 0xFF4), lambda g: halts_at(g, ABSENT + 0x1000)),
    "LSTAR is code of the user": msr(LSTAR, GUEST["user"] + 10),
    "STAR with low bits": msr(STAR, (USER32 & ~3) << 48 | (CODE64 | 3) << 32),
    "without EFER.SCE": without_sce,
    "a fault in the handler of the call": registers(r9=ABSENT + 8),
    "a jump to a missing page": both(lambda g: g.go(ABSENT + 0xFF4), lambda g: halts_at(g, ABSENT + 0x1000)),
    "a trap gate": gate(TRAP_GATE),
    "a gate with an IST": gate(ist=1),
    "a gate with a missing IST": gate(ist=7),
    "a gate that is not present": gate(0x0E),
    "a gate of a wrong type": gate(0x85),
    "a gate of DPL 3": gate(0xEE),
    "a gate with a null selector": gate(selector=0),
    "a gate to data": gate(selector=DATA0),
    "a gate to 32-bit code": gate(selector=0x18),
    "a gate to the LDT": gate(selector=CODE64 | 4),
    "a gate beyond the GDT": gate(selector=0x200),
    "a gate to nowhere": gate(offset=1 << 47),
    "a gate to a missing page": gate(offset=ABSENT),
    "the IDT ends before": limits(idt=14 * 16 + 14),
    "the TSS ends before RSP0": limits(tss=10),
    "the GDT ends before the user's segments": limits(gdt=0x2F),
    "a code segment that was not accessed": not_accessed(CODE64),
    "a user's code segment that was not accessed": not_accessed(0x40),
    "a user's stack segment that was not accessed": not_accessed(0x38),
    "a stack across two pages": stack(ANOTHER_STACK + 0x20),
    "a stack that is not aligned": stack(ANOTHER_STACK + 0x128 - 5),
    "a stack that is missing": stack(ANOTHER_STACK, mapped=False),
    "a stack that is not canonical": stack(1 << 47, mapped=False),
    "a stack that is a device": lambda g: g.map(INTERRUPT_STACK - 0x1000, 0xF000_0000),
    "a stack among code": memory(TSS + 4, GUEST["user"] + 0x100 - 8),
    "a missing IDT": lambda g: g.map(IDT, IDT, 0),
    "a missing GDT": lambda g: g.map(GDT, GDT, 0),
    "a missing TSS": lambda g: g.map(TSS, TSS, 0),
    "a data segment of CPL 0": data_segments(0xC93),
    "a null data segment": data_segments(0),
    "a read-only user page": lambda g: g.map(ABSENT, 0x13_0000, P | U),
    "interrupts": interrupts(97),
    "many interrupts": interrupts(11),
    "an NMI whose handler is not done": lambda g: setattr(g.processor, "nmi_blocked", True),
    "a data breakpoint": debug_registers(DATA, 0x000F_0001),
    "a breakpoint": debug_registers(GUEST["call"], 1),
}


@pytest.mark.parametrize("name", CASES)
def test_native_code_does_as_python_does(name: str, guest: Callable[[], Guest]) -> None:
    run_both(guest, CASES[name])


@pytest.mark.parametrize("limit", [1, 2, 7, 40, 41, 42, 43, 44, 45, 46, 47, 48, 200])
def test_a_run_ends_at_its_limit(limit: int, guest: Callable[[], Guest]) -> None:
    """At most a block behind it, though native code goes from one privilege to the other without being left."""
    g = guest()
    prepare(g)
    assert g.run(limit).reason == "limit"
    assert limit <= g.processor.instructions <= limit + 5


def test_steps_are_the_same_run(guest: Callable[[], Guest]) -> None:
    native, _ = run_both(guest, interrupts(97))
    g = guest()
    prepare(g)
    interrupts(97)(g)
    for _ in range(3000):
        if g.processor.halted or g.processor.step().reason != "steps":
            break
    stepped, run = state(g), state(native)
    assert {name: stepped[name] for name in ("registers", "segments", "counts", "tlb", "memory")} == {
        name: run[name] for name in ("registers", "segments", "counts", "tlb", "memory")
    }


def test_a_user_without_the_right_to_a_page_of_the_call_handler(guest: Callable[[], Guest]) -> None:
    """After SYSCALL the kernel's tables are in use, after SYSRET the user's: a supervisor page is read by one alone."""

    def change(g: Guest) -> None:
        g.map(DATA, DATA, P | W)
        g.set(r8=DATA)

    native, _ = run_both(guest, change)
    assert native.processor.exception_counts == {14: TURNS, 13: 1}


def test_hooks_see_what_native_code_would_have_done(guest: Callable[[], Guest]) -> None:
    g = guest()
    prepare(g)
    g.run(100)
    hooks = Hooks(g.processor)
    calls: list[str] = []
    faults: list[tuple[int, int, int | None]] = []
    hooks.on_instruction("syscall", lambda event: calls.append(event.name))
    hooks.on_instruction("sysret", lambda event: calls.append(event.name))
    hooks.on_exception((14,), lambda event: faults.append((event.vector, event.rip, event.address)))
    left = g["r15"]
    assert 0 < left < TURNS
    g.run(3000)
    assert g.processor.exception_counts == {14: TURNS, 13: 1}
    assert (calls.count("syscall"), calls.count("sysret")) == (left, left)
    assert set(faults) == {(14, GUEST["user"], ABSENT)}
    assert left - 1 <= len(faults) <= left


def test_the_last_faults_are_reported(guest: Callable[[], Guest]) -> None:
    g = guest()
    prepare(g)
    g.run(3000)
    recent = list(g.processor.recent_exceptions)
    assert recent == [(14, 4, GUEST["user"], ABSENT)] * 7 + [(13, 0, GUEST["user"] + 10, None)]


def control_registers(r13: int, same: bool) -> Change:
    """CPL 0: two address spaces in turn, with the same contents but for one page of data, or for the code as well."""

    def change(g: Guest) -> None:
        g.enter_long().load(CONTROL)
        other = g.new_root()
        g.map(DATA, 0x11_0000, root=other)
        if not same:
            g.map(CONTROL.origin, 0x12_0000, root=other)
            g.memory.write(0x12_0000, CONTROL.data.replace(b"\x49\x01\xc4", b"\x49\x29\xc4"))  # sub r12, rax
        g.memory.write_u64(DATA, 3)
        g.memory.write_u64(0x11_0000, 50)
        g.processor.cr2 = 0x1234_5678
        g.set(r8=other, rdi=20, r12=0, r13=r13 or g.root)

    return change


@pytest.mark.parametrize("same", [True, False])
@pytest.mark.parametrize("r13", [0, 1 << 52])
def test_control_registers(r13: int, same: bool, guest: Callable[[], Guest]) -> None:
    native, _ = run_both(guest, control_registers(r13, same))
    assert native["r12"] == (530 if same else 30 - 500) & (1 << 64) - 1
    assert (native["rbx"], native["rcx"], native["rdx"]) == (native.root, native.processor.cr0, native.processor.cr4)
    assert native["r9"] == 0x1234_5678
    assert native.processor.exception_counts == ({13: 1} if r13 else {})
    assert native.counter("tlb_flushes") == (20 if r13 else 21)


def test_an_older_state_block_does_not_take_counts_back(guest: Callable[[], Guest]) -> None:
    g = guest()
    prepare(g)
    before = bytes(g.processor.state.bytes)
    g.run(3000)
    assert g.processor.exception_counts == {14: TURNS, 13: 1}
    g.processor.state.bytes[:] = before
    assert g.processor.exception_counts == {14: TURNS, 13: 1}


def test_where_cases_end(guest: Callable[[], Guest]) -> None:
    native, _ = run_both(guest, CASES["a missing IDT"])
    assert native.ends.reason == "triple-fault"  # type: ignore[attr-defined]
    native, _ = run_both(guest, CASES["a stack that is missing"])
    assert native.ends.reason == "triple-fault"  # type: ignore[attr-defined]
    native, _ = run_both(guest, CASES["a stack across two pages"])
    assert native["rip"] - 1 == STUBS + 16 * 13  # HLT at CPL 3
