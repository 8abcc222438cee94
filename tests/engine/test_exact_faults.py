"""Exceptions in the middle of a block: rip, registers, flags, memory and counts are those of its start."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from engine.assembly import assemble
from engine.harness import Guest, P, U
from trapgate.arch import layout

Make = Callable[[], Guest]

ABSENT, READ_ONLY, EDGE = 0x30_0000, 0x31_0000, 0x32_0000
STACK_IN_ABSENT = ABSENT + 0x800
NOT_PRESENT_READ, NOT_PRESENT_WRITE, READ_ONLY_WRITE = 0, 2, 3

# In each case r8 points to an absent page, r9 to one that is read-only, r10 to the last 4 bytes of a page whose
# successor is absent, r11 to a good page; rbp is in the absent page. `rsp_` cases have rsp in the absent page.
CASES = assemble(
    64,
    """
        rsp_push:
        01 d8           add eax, ebx
        50              push rax
        f4              hlt
        rsp_push_memory:
        01 d8           add eax, ebx
        41 ff 33        push qword [r11]
        f4              hlt
        push_absent:
        01 d8           add eax, ebx
        41 ff 30        push qword [r8]
        f4              hlt
        rsp_push_word:
        01 d8           add eax, ebx
        66 50           push ax
        f4              hlt
        rsp_pushfq:
        01 d8           add eax, ebx
        9c              pushfq
        f4              hlt
        rsp_pop:
        01 d8           add eax, ebx
        59              pop rcx
        f4              hlt
        rsp_pop_rsp:
        01 d8           add eax, ebx
        5c              pop rsp
        f4              hlt
        pop_to_absent:
        01 d8           add eax, ebx
        41 8f 00        pop qword [r8]
        f4              hlt
        pop_to_read_only:
        01 d8           add eax, ebx
        41 8f 04 09     pop qword [r9 + rcx]
        f4              hlt
        rsp_popfq:
        01 d8           add eax, ebx
        9d              popfq
        f4              hlt
        rsp_call:
        01 d8           add eax, ebx
        e8 f9 ff ff ff  call rsp_call
        rsp_call_register:
        01 d8           add eax, ebx
        ff d1           call rcx
        rsp_call_memory:
        01 d8           add eax, ebx
        41 ff 13        call [r11]
        call_absent:
        01 d8           add eax, ebx
        41 ff 10        call [r8]
        jmp_absent:
        01 d8           add eax, ebx
        41 ff 20        jmp [r8]
        rsp_ret:
        01 d8           add eax, ebx
        c3              ret
        rsp_ret_n:
        01 d8           add eax, ebx
        c2 10 00        ret 16
        rsp_retf:
        01 d8           add eax, ebx
        cb              retf
        rsp_iretq:
        01 d8           add eax, ebx
        48 cf           iretq
        rsp_enter:
        01 d8           add eax, ebx
        c8 20 00 00     enter 32, 0
        f4              hlt
        rsp_enter_nested:
        01 d8           add eax, ebx
        c8 20 00 03     enter 32, 3
        f4              hlt
        leave_absent:
        01 d8           add eax, ebx
        c9              leave
        f4              hlt
        movs_from_absent:
        01 d8           add eax, ebx
        4c 89 c6        mov rsi, r8
        48 a5           movsq
        f4              hlt
        movs_to_absent:
        01 d8           add eax, ebx
        4c 89 c7        mov rdi, r8
        a4              movsb
        f4              hlt
        movs_to_read_only:
        01 d8           add eax, ebx
        4c 89 cf        mov rdi, r9
        a5              movsd
        f4              hlt
        stos_to_read_only:
        01 d8           add eax, ebx
        4c 89 cf        mov rdi, r9
        ab              stosd
        f4              hlt
        lods_from_absent:
        01 d8           add eax, ebx
        4c 89 c6        mov rsi, r8
        48 ad           lodsq
        f4              hlt
        cmps_absent:
        01 d8           add eax, ebx
        4c 89 c7        mov rdi, r8
        66 a7           cmpsw
        f4              hlt
        scas_absent:
        01 d8           add eax, ebx
        4c 89 c7        mov rdi, r8
        ae              scasb
        f4              hlt
        cmpxchg_read_only:
        01 d8           add eax, ebx
        49 0f b1 09     cmpxchg [r9], rcx
        f4              hlt
        cmpxchg_edge:
        01 d8           add eax, ebx
        49 0f b1 0a     cmpxchg [r10], rcx
        f4              hlt
        cmpxchg8b_read_only:
        01 d8           add eax, ebx
        41 0f c7 09     cmpxchg8b [r9]
        f4              hlt
        cmpxchg16b_read_only:
        01 d8           add eax, ebx
        49 0f c7 09     cmpxchg16b [r9]
        f4              hlt
        xchg_read_only:
        01 d8           add eax, ebx
        49 87 09        xchg [r9], rcx
        f4              hlt
        xchg_edge:
        01 d8           add eax, ebx
        49 87 0a        xchg [r10], rcx
        f4              hlt
        xadd_read_only:
        01 d8           add eax, ebx
        41 0f c1 09     xadd [r9], ecx
        f4              hlt
        xadd_edge:
        01 d8           add eax, ebx
        f0 49 0f c1 0a  lock xadd [r10], rcx
        f4              hlt
        mov_to_read_only:
        01 d8           add eax, ebx
        49 89 09        mov [r9], rcx
        f4              hlt
        mov_to_edge:
        01 d8           add eax, ebx
        49 89 0a        mov [r10], rcx
        f4              hlt
        mov_from_edge:
        01 d8           add eax, ebx
        49 8b 0a        mov rcx, [r10]
        f4              hlt
        add_edge:
        01 d8           add eax, ebx
        49 01 0a        add [r10], rcx
        f4              hlt
        adc_read_only:
        01 d8           add eax, ebx
        41 10 09        adc [r9], cl
        f4              hlt
        inc_edge:
        01 d8           add eax, ebx
        49 ff 02        inc qword [r10]
        f4              hlt
        neg_read_only:
        01 d8           add eax, ebx
        66 41 f7 19     neg word [r9]
        f4              hlt
        not_edge:
        01 d8           add eax, ebx
        49 f7 12        not qword [r10]
        f4              hlt
        shl_edge:
        01 d8           add eax, ebx
        49 c1 22 03     shl qword [r10], 3
        f4              hlt
        rcr_read_only:
        01 d8           add eax, ebx
        41 d3 19        rcr dword [r9], cl
        f4              hlt
        shld_edge:
        01 d8           add eax, ebx
        49 0f a4 0a 05  shld [r10], rcx, 5
        f4              hlt
        bts_read_only:
        01 d8           add eax, ebx
        45 0f ab 21     bts [r9], r12d
        f4              hlt
        btc_edge:
        01 d8           add eax, ebx
        49 0f ba 3a 09  btc qword [r10], 9
        f4              hlt
        setb_read_only:
        01 d8           add eax, ebx
        41 0f 92 01     setb [r9]
        f4              hlt
        movups_edge:
        01 d8           add eax, ebx
        41 0f 11 0a     movups [r10], xmm1
        f4              hlt
        movaps_read_only:
        01 d8           add eax, ebx
        41 0f 29 09     movaps [r9], xmm1
        f4              hlt
        movq_from_edge:
        01 d8           add eax, ebx
        f3 41 0f 7e 0a  movq xmm1, [r10]
        f4              hlt
        addps_absent:
        01 d8           add eax, ebx
        41 0f 58 08     addps xmm1, [r8]
        f4              hlt
        fstp_edge:
        01 d8           add eax, ebx
        41 dd 1a        fstp qword [r10]
        f4              hlt
        fst_read_only:
        01 d8           add eax, ebx
        41 d9 11        fst dword [r9]
        f4              hlt
        fld_absent:
        01 d8           add eax, ebx
        41 dd 00        fld qword [r8]
        f4              hlt
        fistp_edge:
        01 d8           add eax, ebx
        41 df 3a        fistp qword [r10]
        f4              hlt
        stmxcsr_read_only:
        01 d8           add eax, ebx
        41 0f ae 19     stmxcsr [r9]
        f4              hlt
        imul_absent:
        01 d8           add eax, ebx
        49 6b 08 05     imul rcx, [r8], 5
        f4              hlt
        mul_absent:
        01 d8           add eax, ebx
        49 f7 20        mul qword [r8]
        f4              hlt
        cmov_absent:
        01 d8           add eax, ebx
        49 0f 42 08     cmovb rcx, [r8]
        f4              hlt
        bsf_absent:
        01 d8           add eax, ebx
        49 0f bc 08     bsf rcx, [r8]
        f4              hlt
        xlat_absent:
        01 d8           add eax, ebx
        4c 89 c3        mov rbx, r8
        d7              xlatb
        f4              hlt
        sgdt_edge:
        01 d8           add eax, ebx
        41 0f 01 02     sgdt [r10]
        f4              hlt
        rsp_push_segment:
        01 d8           add eax, ebx
        0f a0           push fs
        f4              hlt
        """,
)


def _addresses(label: str) -> tuple[int, int | None]:
    """(error code, CR2 or None where it depends on the operand's size) of a case."""
    if "edge" in label:
        return (NOT_PRESENT_READ if "_from_" in label else NOT_PRESENT_WRITE), EDGE + 0x1000
    if "read_only" in label:
        return READ_ONLY_WRITE, READ_ONLY
    if label.startswith("rsp_"):
        reads = ("rsp_pop", "rsp_ret", "rsp_iret")
        return (NOT_PRESENT_READ if label.startswith(reads) else NOT_PRESENT_WRITE), None
    return (NOT_PRESENT_WRITE if "_to_" in label else NOT_PRESENT_READ), None


@pytest.mark.parametrize("label", CASES.labels)
def test_a_page_fault_leaves_everything_as_it_was(guest: Make, label: str) -> None:
    g = guest().enter_long().load(CASES)
    g.map(ABSENT, 0, 0)
    g.map(READ_ONLY, 0x1_8000, P | U)
    g.map(EDGE, 0x1_9000)
    g.map(EDGE + 0x1000, 0, 0)
    g.memory.write(0x1_0000, bytes(range(256)) * 160)
    g.memory.write_u64(0x1_0300, CASES.origin)
    g.set(
        rax=0xFFFF_FFFF_8000_0001, rbx=0x8000_0007, rcx=0x0000_4567_89AB_0006, rdx=0x55, rsi=0x1_0100, rdi=0x1_0200,
        rbp=ABSENT + 0x80, rsp=0x1_0800, r8=ABSENT, r9=READ_ONLY, r10=EDGE + 0xFFC, r11=0x1_0300, r12=1,
        rip=CASES[label],
    )  # fmt: skip
    if label.startswith("rsp_"):
        g.set(rsp=STACK_IN_ABSENT)
    if label == "pop_to_read_only":
        g.set(rcx=0)
    g.go(CASES[label])
    # Run the instructions before it alone, for the state that is wanted.
    expected = guest().enter_long().load(CASES).set(**g.registers())
    expected.go(CASES[label])
    before_it = 2 if label.split("_")[0] in ("movs", "stos", "lods", "cmps", "scas", "xlat") else 1
    expected.processor.step(before_it)
    before = g.memory.read(0x1_0000, 0x1_0000)
    floating = _floating_point(g)

    frame = g.run_to_exception()

    error, address = _addresses(label)
    assert (frame.vector, frame.error) == (14, error)
    assert frame.rip == expected["rip"]
    assert frame.rsp == expected["rsp"]
    assert frame.rflags & ~0x1_0000 == expected["rflags"]
    assert frame.rflags & 0x1_0000, "a fault pushes RFLAGS with RF set (APM vol. 2, 8.1.3)"
    if address is not None:
        assert g.processor.cr2 == address
    else:
        assert g.processor.cr2 & ~0xFFF == ABSENT
    for name, value in expected.registers().items():
        if name not in ("rip", "rsp", "rflags"):
            assert g[name] == value, name
    assert g.memory.read(0x1_0000, 0x1_0000) == before
    assert _floating_point(g) == floating
    assert g.processor.instructions == before_it + 1  # and the stub's HLT


def _floating_point(g: Guest) -> bytes:
    state = bytes(g.processor.state.bytes[: layout.COUNTERS])
    return state[layout.FPR : layout.FPU_OPCODE] + state[layout.XMM : layout.MXCSR + 4]


def test_divide_error_in_the_middle_of_a_block(guest: Make) -> None:
    code = assemble(
        64,
        """
        b9 05 00 00 00  mov ecx, 5
        31 d2           xor edx, edx
        f9              stc
        48 f7 f2        div rdx
        b9 06 00 00 00  mov ecx, 6
        f4              hlt
        """,
    )
    g = guest().enter_long().load(code)
    frame = g.run_to_exception()
    assert (frame.vector, frame.error, frame.rip, g["rcx"]) == (0, None, code.origin + 8, 5)
    assert frame.rflags & 0xFFFF == 0x47
    assert g.processor.instructions == 3 + 1


def test_dead_flags_are_live_at_a_fault(guest: Make) -> None:
    """Flags that the next instruction overwrites are still right when it faults."""
    code = assemble(
        64,
        """
        29 c0     sub eax, eax
        49 03 08  add rcx, [r8]
        f4        hlt
        """,
    )
    g = guest().enter_long().load(code)
    g.map(ABSENT, 0, 0)
    g.set(rax=0x1234, r8=ABSENT)
    frame = g.run_to_exception()
    assert frame.rflags & 0xFFFF == 0x46


def test_the_instruction_restarts_after_the_handler(guest: Make) -> None:
    """A handler that maps the page and returns: the instruction is carried out once."""
    code = assemble(
        64,
        """
        b9 03 00 00 00           mov ecx, 3
        again:
        49 ff 00                 inc qword [r8]
        49 81 c0 00 10 00 00     add r8, 0x1000
        ff c9                    dec ecx
        75 f2                    jne again
        f4                       hlt
        handler:
        50                       push rax
        52                       push rdx
        0f 20 d0                 mov rax, cr2
        48 c1 e8 09              shr rax, 9
        25 f8 0f 00 00           and eax, 0xff8
        49 8b 14 24              mov rdx, [r12]
        49 89 54 05 00           mov [r13 + rax], rdx
        49 81 04 24 00 10 00 00  add qword [r12], 0x1000
        49 ff c6                 inc r14
        5a                       pop rdx
        58                       pop rax
        48 83 c4 08              add rsp, 8
        48 cf                    iretq
        """,
    )
    g = guest().enter_long().load(code)
    g.set_gate64(14, 8, code["handler"], ist=1)
    for i in range(3):
        g.map(ABSENT + 0x1000 * i, 0, 0)
    g.map(0x6000_0000, g.entry(ABSENT) & ~0xFFF)
    g.memory.write_u64(0x1_0000, 0x10_0007)
    g.set(r8=ABSENT, r12=0x1_0000, r13=0x6000_0000, r14=0)
    g.run_to_halt()
    assert g["r14"] == 3
    assert [g.memory.read_u64(0x10_0000 + 0x1000 * i) for i in range(3)] == [1, 1, 1]
    assert g.processor.instructions == 1 + 4 * 3 + 1 + 3 * 13


def test_iretq_with_nested_task_set_does_not_look_at_the_stack(guest: Callable[[], Guest]) -> None:
    """Long mode has no task switches: #GP(0) (APM vol. 3, IRET), before a page fault of the stack."""
    g = guest().enter_long().load(assemble(64, "48 cf  iretq"))
    g.set(rsp=0x20_0000, rflags=0x4002)
    assert g.first_exception() == (13, 0)
