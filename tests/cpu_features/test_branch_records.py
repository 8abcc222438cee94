"""Control-transfer recording and single-stepping of control transfers (APM vol. 2, 13.1.1.5 to 13.1.1.6, 13.1.6)."""

from __future__ import annotations

import pytest

from engine.assembly import Code, assemble
from engine.harness import CODE, DATA, STUBS, USER64, Guest
from trapgate.arch.registers import (
    DEBUG_CTL_BTF,
    DEBUG_CTL_LBR,
    IF,
    MSR_DEBUG_CTL,
    MSR_LAST_BRANCH_FROM,
    MSR_LAST_BRANCH_TO,
    MSR_LAST_EXCEPTION_FROM,
    MSR_LAST_EXCEPTION_TO,
    TF,
)
from trapgate.arch.vectors import DB, PF
from trapgate.engine.handlers import HandlerStore

RECORDS = (MSR_LAST_BRANCH_FROM, MSR_LAST_BRANCH_TO, MSR_LAST_EXCEPTION_FROM, MSR_LAST_EXCEPTION_TO)


def ready(handlers: HandlerStore, text: str, control: int = DEBUG_CTL_LBR, bits: int = 64) -> tuple[Guest, Code]:
    """A guest with DebugCtl set, and its code."""
    guest = Guest(handlers)
    if bits == 64:
        guest.enter_long()
    elif bits == 32:
        guest.enter_protected()
    else:
        guest.enter_real()
    code = assemble(bits, text)
    guest.load(code)
    guest.processor.write_msr(MSR_DEBUG_CTL, control)
    return guest, code


def records(guest: Guest) -> list[int]:
    """LastBranchFromIP, LastBranchToIP, LastIntFromIP, LastIntToIP."""
    return [guest.processor.read_msr(number) for number in RECORDS]


BRANCHES = {
    # name: (bits, code that ends in "from" and goes to "to", where a HLT is)
    "jmp": (64, "from:\neb 02  jmp short 0x8004\n90 90  db\nto:\nf4  hlt"),
    "jmp to the next": (64, "from:\neb 00  jmp short 0x8002\nto:\nf4  hlt"),
    "jmp r": (64, "b8 08 80 00 00  mov eax,0x8008\nfrom:\nff e0  jmp rax\n90  nop\nto:\nf4  hlt"),
    "jmp m": (64, "from:\nff 24 25 00 00 01 00  jmp [0x10000]\n90  nop\nto:\nf4  hlt"),
    "call": (64, "from:\ne8 01 00 00 00  call 0x8006\n90  nop\nto:\nf4  hlt"),
    "ret": (64, "68 08 80 00 00  push 0x8008\nfrom:\nc3  ret\n90 90  db\nto:\nf4  hlt"),
    "jz": (64, "31 c0  xor eax,eax\nfrom:\n74 01  je 0x8005\n90  nop\nto:\nf4  hlt"),
    "jz to the next": (64, "31 c0  xor eax,eax\nfrom:\n74 00  je 0x8004\nto:\nf4  hlt"),
    "cmp and jz": (64, "39 c0  cmp eax,eax\nfrom:\n74 01  je 0x8005\n90  nop\nto:\nf4  hlt"),
    "loop": (64, "b9 02 00 00 00  mov ecx,2\nfrom:\ne2 01  loop 0x8008\n90  nop\nto:\nf4  hlt"),
    "jecxz": (32, "31 c9  xor ecx,ecx\nfrom:\ne3 01  jecxz 0x8005\n90  nop\nto:\nf4  hlt"),
    "real": (16, "from:\neb 01  jmp short 0x8003\n90  nop\nto:\nf4  hlt"),
    "jmp far": (32, "from:\nea 08 80 00 00 18 00  jmp 0x18:0x8008\n90  nop\nto:\nf4  hlt"),
    "call far": (32, "from:\n9a 08 80 00 00 18 00  call 0x18:0x8008\n90  nop\nto:\nf4  hlt"),
    "retf": (32, "6a 18  push 0x18\n68 08 80 00 00  push 0x8008\nfrom:\ncb  retf\nto:\nf4  hlt"),
    "syscall": (64, "from:\n0f 05  syscall\nto:\nf4  hlt"),
    "iretq": (64, "6a 10  push 0x10\n68 00 70 00 00  push 0x7000\n6a 02  push 2\n6a 08  push 8\n"
              "68 12 80 00 00  push 0x8012\nfrom:\n48 cf  iretq\nto:\nf4  hlt"),
}  # fmt: skip


@pytest.mark.parametrize("recording", [True, False], ids=["on", "off"])
@pytest.mark.parametrize("name", list(BRANCHES))
def test_13_1_6_1_branches(handlers: HandlerStore, name: str, recording: bool) -> None:
    bits, text = BRANCHES[name]
    guest, code = ready(handlers, text, int(recording), bits)
    if name == "jmp m":
        guest.memory.write_u64(DATA, code["to"])
    target = code["to"]
    if name == "syscall":
        guest.processor.write_msr(0xC000_0081, 8 << 32)
        guest.processor.write_msr(0xC000_0082, target)
    guest.run_to_halt()
    assert guest["rip"] == target + 1
    assert records(guest) == ([code["from"], target, 0, 0] if recording else [0] * 4)


def test_all_branches_of_a_loop_in_their_order(handlers: HandlerStore) -> None:
    """A loop that ran natively before; and one that is switched on and off by WRMSR between its branches."""
    wrmsr = "b9 d9 01 00 00  mov ecx,0x1d9\n31 d2  xor edx,edx\nb8 0{} 00 00 00  mov eax,{}\n0f 30  wrmsr\n"
    text = (
        "bb 03 00 00 00  mov ebx,3\nfirst:\nff cb  dec ebx\n75 fc  jne 0x8005\n" + wrmsr.format(1, 1)
        + "bb 03 00 00 00  mov ebx,3\nsecond:\nff cb  dec ebx\nback:\n75 fc  jne 0x801c\neb 00  jmp short 0x8022\n"
        "after:\n" + wrmsr.format(0, 0) + "eb 00  jmp short 0x8032\nf4  hlt"
    )  # fmt: skip
    guest, code = ready(handlers, text, 0)
    seen: list[tuple[int, int]] = []
    record = guest.processor.record_branch
    guest.processor.record_branch = lambda origin, target: (seen.append((origin, target)), record(origin, target))[1]  # type: ignore[method-assign]
    guest.run_to_halt()
    assert seen == [(code["back"], code["second"])] * 2 + [(code["back"] + 2, code["after"])]
    assert records(guest)[:2] == list(seen[-1])
    count = guest.processor.instructions
    other, _ = ready(handlers, text.replace("mov eax,1", "mov eax,0").replace("b8 01", "b8 00"), 0)
    other.run_to_halt()
    assert other.processor.instructions == count


def test_a_branch_not_taken_is_none(handlers: HandlerStore) -> None:
    guest, _ = ready(handlers, "31 c0  xor eax,eax\n75 01  jne 0x8005\n90  nop\nf4  hlt")
    guest.run_to_halt()
    assert records(guest) == [0] * 4


@pytest.mark.parametrize("bits", [16, 32, 64])
def test_13_1_6_1_exceptions_keep_what_came_before(handlers: HandlerStore, bits: int) -> None:
    """The exception's own transfer is the last branch; LastInt is the one before it."""
    guest, code = ready(handlers, "eb 00  jmp short 0x8002\nud:\n0f 0b  ud2", bits=bits)
    guest.run_to_halt()
    assert records(guest) == [code["ud"], STUBS + 6 * 16, CODE, code["ud"]]


def test_13_1_6_1_interrupts(handlers: HandlerStore) -> None:
    guest, code = ready(handlers, "eb 00  jmp short 0x8002\nint:\ncd 50  int 0x50")
    guest.run_to_halt()
    assert records(guest) == [code["int"], STUBS + 0x50 * 16, CODE, code["int"]]
    guest, code = ready(handlers, "eb 00  jmp short 0x8002\nhere:\n90  nop\nf4  hlt")
    guest.set(rflags=IF | 2)
    guest.processor.set_intr(True)
    guest.run_to_halt()
    assert records(guest) == [CODE, STUBS + guest.interrupt * 16, 0, 0]


def test_a_branch_that_faults_is_none(handlers: HandlerStore) -> None:
    guest, _ = ready(handlers, "ff 24 25 00 00 20 00  jmp [0x200000]")
    assert guest.run_to_exception().vector == PF
    assert records(guest) == [CODE, STUBS + PF * 16, 0, 0]


def test_13_1_6_1_a_debug_exception_ends_recording(handlers: HandlerStore) -> None:
    """#DB clears LBR, and BTF with it, and leaves the records alone."""
    guest, _ = ready(handlers, "eb 00  jmp short 0x8002\nf1  int1", DEBUG_CTL_LBR | DEBUG_CTL_BTF)
    assert guest.run_to_exception().vector == DB
    assert guest.processor.read_msr(MSR_DEBUG_CTL) == 0
    assert records(guest) == [CODE, CODE + 2, 0, 0]


def test_13_1_6_2_single_stepping_goes_from_branch_to_branch(handlers: HandlerStore) -> None:
    text = "90  nop\n31 c0  xor eax,eax\n75 00  jne 0x8005\njump:\neb 01  jmp short 0x8008\n90  nop\nto:\nf4  hlt"
    guest, code = ready(handlers, text, DEBUG_CTL_BTF)
    guest.set(rflags=TF | 2)
    frame = guest.run_to_exception()
    assert (frame.vector, frame.rip) == (DB, code["to"])
    assert guest.processor.dr[6] & 1 << 14
    assert guest.processor.read_msr(MSR_DEBUG_CTL) == 0
    assert records(guest) == [0] * 4


def test_single_stepping_of_branches_needs_tf(handlers: HandlerStore) -> None:
    guest, _ = ready(handlers, "eb 00  jmp short 0x8002\nf4  hlt", DEBUG_CTL_BTF)
    guest.run_to_halt()
    assert guest["rip"] == CODE + 3
    assert guest.processor.read_msr(MSR_DEBUG_CTL) == DEBUG_CTL_BTF


def test_user_code_is_recorded(handlers: HandlerStore) -> None:
    guest = Guest(handlers)
    guest.enter_long(cpl=3)
    guest.load(assemble(64, "eb 00  jmp short 0x8002\n0f 0b  ud2"))
    guest.processor.write_msr(MSR_DEBUG_CTL, DEBUG_CTL_LBR)
    assert guest.run_to_exception().cs == USER64
    assert records(guest) == [CODE + 2, STUBS + 6 * 16, CODE, CODE + 2]


def test_no_recording_after_reset(handlers: HandlerStore) -> None:
    guest, _ = ready(handlers, "f4  hlt")
    guest.processor.reset()
    assert not guest.processor.records_branches
    assert records(guest) == [0] * 4
