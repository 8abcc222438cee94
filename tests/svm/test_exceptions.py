"""Exception intercepts, EXITINTINFO and combined exceptions (APM vol. 2, 15.12, 15.7.2 and 15.7.3)."""

from __future__ import annotations

import pytest

from engine.harness import CODE32, DATA, DATA0, GDT, IDT, STUBS
from svm.conftest import LATER, Make
from svm.world import VMCB, World, event
from trapgate.arch import vmcb
from trapgate.arch.registers import CR0_AM, CR0_MP, CR0_NE, CR0_TS, CR4_OSXMMEXCPT

MISSING = 0x20_0000
DE, DB, NMI, BP, OF, BR, UD, NM, DF, TS, NP, SS, GP, PF = *range(9), 10, 11, 12, 13, 14
MF, AC, XF = 16, 17, 19
EXCEPTION, SOFTWARE = 3, 4
HLT = vmcb.EXIT["hlt"]


def raise_(w: World, vector: int) -> tuple[int, int, int]:
    """A guest that raises this exception at 8000h (or, for #MF, 800Ch); EXITINFO1, EXITINFO2 and rip of the exit."""
    g, rip, info1, info2, bits, cr0 = w.guest, 0x8000, 0, 0, 64, 0
    g.set(rbx=DATA, rcx=0)
    if vector in (OF, BR, TS):
        g.enter_protected()
        bits = 32
    else:
        g.enter_long(cpl=3 if vector == AC else 0)
    text = {
        DE: "f7 f1  div ecx", DB: "90  nop", BP: "cc  int3", OF: "ce  into", BR: "62 03  bound eax,[ebx]",
        UD: "0f 0b  ud2", NM: "9b  wait", TS: "ea 00 00 00 00 60 00  jmp 0x60:0", NP: "8e db  mov ds,ebx",
        SS: "8e d3  mov ss,ebx", GP: "8e db  mov ds,ebx", PF: "89 03  mov [rbx],eax",
        MF: "db e3  fninit\nd9 2b  fldcw [rbx]\nd9 ee  fldz\nd9 e8  fld1\nde f1  fdivrp st1,st0\n9b  wait",
        AC: "8b 43 01  mov eax,[rbx+1]",
        XF: "0f ae 13  ldmxcsr [rbx]\n0f 57 c0  xorps xmm0,xmm0\n0f 5e c0  divps xmm0,xmm0",
    }[vector]  # fmt: skip
    if vector == NM:
        cr0 = CR0_MP | CR0_TS
    elif vector in (NP, SS):
        g.set_descriptor(0x60, 0x00CF_1300_0000_FFFF)
        g.set(rbx=0x60)
        info1 = 0x60
    elif vector == GP:
        g.set(rbx=0x1000)
        info1 = 0x1000
    elif vector == PF:
        g.set(rbx=MISSING)
        info1, info2 = 2, MISSING
    elif vector == TS:
        g.set_descriptor(0x60, 0x0000_8900_3400_0010)
        info1 = 0x60
    elif vector == MF:
        cr0, rip = CR0_NE, 0x800A
        w.memory.write_u16(DATA, 0x0300)
    elif vector == AC:
        cr0 = CR0_AM
    elif vector == XF:
        rip = 0x8006
        w.memory.write_u32(DATA, 0)
    w.wrap().code(bits, text + "\nf4  hlt")
    w[vmcb.CR0] |= cr0
    if vector == AC:
        w[vmcb.RFLAGS] |= 1 << 18
    elif vector == BR:
        w[vmcb.RAX] = 1
    elif vector == OF:
        w[vmcb.RFLAGS] |= 1 << 11
    elif vector == XF:
        w[vmcb.CR4] |= CR4_OSXMMEXCPT
    elif vector == DB:
        w[vmcb.RFLAGS] |= 1 << 8
        rip = 0x8001
    return info1, info2, rip


VECTORS = (DE, DB, BP, OF, BR, UD, NM, TS, NP, SS, GP, PF, MF, AC, XF)


@pytest.mark.parametrize("vector", VECTORS)
def test_each_exception(world: Make, vector: int) -> None:
    w = world()
    info1, info2, rip = raise_(w, vector)
    w.intercept_exceptions(vector)
    w[vmcb.CR2] = 0x5555
    assert w.run() == (0x40 + vector, info1, info2, 0)
    assert w[vmcb.RIP] == rip
    assert w[vmcb.CR2] == 0x5555  # 15.12.15: tested before CR2 is written
    assert w.processor.exception_counts == {}


@pytest.mark.parametrize("vector", VECTORS)
def test_other_bits_do_not_intercept_it(world: Make, vector: int) -> None:
    w = world()
    raise_(w, vector)
    w.intercept_exceptions(*(v for v in range(32) if v != vector))
    assert w.run().code == HLT
    counted = w.processor.interrupt_counts if vector in (BP, OF) else w.processor.exception_counts
    assert counted == {vector: 1}
    assert w[vmcb.RIP] == STUBS + 16 * vector


def test_debug_trap_shows_dr6(world: Make) -> None:
    # 15.12.2: "the value saved for DR6 and DR7 matches what would be visible to a #DB exception handler".
    w = world()
    raise_(w, DB)
    w.intercept_exceptions(DB)
    assert w.run().code == 0x41
    assert w[vmcb.DR6] == 0xFFFF_4FF0


def test_data_breakpoint_is_a_trap(world: Make) -> None:
    # 15.7.1, the example: the state is that after the instruction.
    w = world()
    w.guest.enter_long().set(rbx=DATA)
    w.processor.dr[1] = DATA
    w.wrap().intercept_exceptions(DB).code(64, "89 03  mov [rbx],eax\nf4  hlt")
    w[vmcb.DR7] = 0x400 | 1 << 2 | 0xD << 20
    w[vmcb.RAX] = 0x1234
    assert w.run() == (0x41, 0, 0, 0)
    assert (w[vmcb.RIP], w[vmcb.DR6] & 0xF, w.memory.read_u32(DATA)) == (0x8002, 2, 0x1234)


def test_int1_is_not_intercepted_as_an_exception(world: Make) -> None:
    # 15.12.2: ICEBP "does not trigger the #DB intercept".
    w = world()
    w.guest.enter_long()
    w.wrap().intercept_exceptions(DB).code(64, "f1  int1")
    assert w.run().code == HLT
    assert w[vmcb.RIP] == STUBS + 16


@pytest.mark.parametrize("vector", [1, 3, 6, 13, 14])
def test_int_n_does_not_check_exception_intercepts(world: Make, vector: int) -> None:
    # 15.12: neither do external interrupts.
    w = world()
    w.guest.enter_long()
    w.wrap().intercept_exceptions(*range(32)).code(64, f"cd {vector:02x}  int {vector}")
    assert w.run().code == HLT
    assert w[vmcb.RIP] == STUBS + 16 * vector
    w = world()
    w.guest.enter_long()
    w.wrap().intercept_exceptions(*range(32)).code(64, "90  nop\neb fd  jmp 0x8000")
    w[vmcb.RFLAGS] |= 1 << 9
    w.guest.interrupt = vector
    w.processor.set_intr(True)
    assert w.run().code == HLT
    assert w[vmcb.RIP] == STUBS + 16 * vector


def break_gate(w: World, vector: int) -> None:
    """The vector's IDT entry is not present: #NP with the entry's number while delivering it."""
    w.memory.write_u8(IDT + 16 * vector + 5, 0x0E)


def no_stack(w: World) -> None:
    """IST 1 leads to memory that is not there: #PF while delivering."""
    w.memory.write_u64(0x3000 + 36, MISSING + 0x1000)


@pytest.mark.parametrize(("text", "info", "rip"), [
    ("0f 0b  ud2", event(EXCEPTION, UD), 0x8000),
    ("cd 80  int 0x80", event(SOFTWARE, 0x80), 0x8000),
    ("cc  int3", event(EXCEPTION, BP), 0x8000),
    ("f1  int1", event(EXCEPTION, DB), 0x8001),
    ("8e db  mov ds,ebx", event(EXCEPTION, GP, 0x1000), 0x8000),
])  # fmt: skip
def test_exitintinfo_of_a_page_fault_on_the_way(world: Make, text: str, info: int, rip: int) -> None:
    # 15.7.2; INT1 and INT3 count as exceptions there.
    w = world()
    w.guest.enter_long().set(rbx=0x1000)
    no_stack(w)
    w.wrap().intercept_exceptions(PF).code(64, text)
    assert w.run() == (0x4E, 2, MISSING + 0xFF8, info)
    if "int3" not in text and "int1" not in text:
        assert w[vmcb.RIP] == rip
    w.intercept_exceptions(6).code(64, "0f 0b  ud2").go()
    assert w.run() == (0x46, 0, 0, 0)  # and none when none is under way


@pytest.mark.parametrize(("vector", "kind"), [(0x40, 0), (2, 2), (2, 0)])
def test_exitintinfo_of_interrupts(world: Make, vector: int, kind: int) -> None:
    w = world()
    w.guest.enter_long()
    no_stack(w)
    w.wrap().intercept_exceptions(PF).code(64, "90  nop\neb fd  jmp 0x8000")
    w[vmcb.RFLAGS] |= 1 << 9
    if kind == 2:
        w.processor.pulse_nmi()
    else:
        w.guest.interrupt = vector
        w.processor.set_intr(True)
    assert w.run() == (0x4E, 2, MISSING + 0xFF8, event(kind, vector))


def test_double_faults_are_seen_one_after_another(world: Make) -> None:
    # 15.12, the example: #NP, and #GP while delivering it. The #GP goes first, then the #DF they make.
    def make(*intercepted: int) -> World:
        w = world()
        w.guest.enter_long().set(rbx=0x60)
        w.guest.set_descriptor(0x60, 0x00CF_1300_0000_FFFF)
        w.memory.write_u8(IDT + 16 * NP + 5, 0x80)  # no gate at all
        return w.wrap().intercept_exceptions(*intercepted).code(64, "8e db  mov ds,ebx")

    np = event(EXCEPTION, NP, 0x60)
    assert make(GP, DF).run() == (0x4D, NP * 8 + 3, 0, np)
    assert make(DF).run() == (0x48, 0, 0, np)
    w = make()
    assert w.run().code == HLT
    assert w[vmcb.RIP] == STUBS + 16 * DF


def test_exitintinfo_has_the_double_fault_under_way(world: Make) -> None:
    # 15.7.2, the example: #GP and #NP make a #DF, and #PF while delivering that is intercepted.
    w = world()
    w.guest.enter_long().set(rbx=0x1000)
    break_gate(w, GP)
    no_stack(w)
    w.wrap().intercept_exceptions(PF).code(64, "8e db  mov ds,ebx")
    assert w.run() == (0x4E, 2, MISSING + 0xFF8, event(EXCEPTION, DF, 0))


def test_a_benign_first_exception_makes_no_double_fault(world: Make) -> None:
    w = world()
    w.guest.enter_long()
    break_gate(w, UD)
    w.wrap().intercept_exceptions(DF).code(64, "0f 0b  ud2")
    assert w.run().code == HLT
    assert w[vmcb.RIP] == STUBS + 16 * NP


def test_shutdown(world: Make) -> None:
    # 15.14.3: what would be a triple fault.
    w = world()
    w.guest.enter_long()
    w.wrap().code(64, "0f 0b  ud2")
    w.memory.write_u32(VMCB + vmcb.IDTR + 4, 0)
    assert w.run().code == vmcb.EXIT["shutdown"]
    w.go().let("shutdown")
    assert w.processor.run_guest(VMCB) == "triple-fault"


def test_bytes_of_the_instruction_with_decode_assists(world: Make) -> None:
    # 15.8.4: at an intercepted #PF of data; other exits clear the count.
    w = world(LATER)
    w.guest.enter_long().set(rbx=MISSING)
    w.wrap().intercept_exceptions(PF, UD).code(64, "89 03  mov [rbx],eax\nf4  hlt\n0f 0b  ud2")
    assert w.run().code == 0x4E
    assert w.memory.read(VMCB + vmcb.FETCHED_COUNT, 16) == b"\x0f" + w.memory.read(0x8000, 15)
    w.go(0x8003)
    assert w.run().code == 0x46
    assert w.read_u8(vmcb.FETCHED_COUNT) == 0
    w.memory.write(0x7_FFFE, b"\x89\x03")
    w.go(0x7_FFFE)  # the next page is not there
    assert w.run().code == 0x4E
    assert w.memory.read(VMCB + vmcb.FETCHED_COUNT, 3) == b"\x02\x89\x03"
    w.go(MISSING)
    assert w.run() == (0x4E, 0x10, MISSING, 0)
    assert w.read_u8(vmcb.FETCHED_COUNT) == 0


def test_bytes_end_with_the_code_segment(world: Make) -> None:
    w = world(LATER)
    w.guest.enter_protected("two-level").set(rbx=MISSING)
    w.wrap().intercept_exceptions(PF).code(32, "89 03  mov [ebx],eax")
    w.memory.write_u32(VMCB + vmcb.CS + vmcb.SEGMENT_LIMIT, 0x8003)
    assert w.run() == (0x4E, 2, MISSING, 0)
    assert w.memory.read(VMCB + vmcb.FETCHED_COUNT, 5) == b"\x04" + w.memory.read(0x8000, 4)


def test_a_fault_in_the_handlers_first_instruction_is_not_in_delivery(world: Make) -> None:
    w = world()
    w.guest.enter_protected()
    w.guest.set_gate32(UD, CODE32, 0x9000)
    w.wrap().intercept_exceptions(GP).code(32, "0f 0b  ud2").code(32, "8e d8  mov ds,eax", 0x9000)
    w[vmcb.RAX] = 0x1000
    assert w.run() == (0x4D, 0x1000, 0, 0)
    assert (w[vmcb.RIP], DATA0, GDT) == (0x9000, 0x10, 0x1000)
