"""Error codes of #GP, #NP, #SS and #TS: which selector, and the bits EXT, IDT and TI (APM vol. 2, 8.4.1)."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from engine.assembly import assemble
from engine.harness import (
    CODE32,
    DATA0,
    DATA16,
    DEVICE,
    FREE,
    GDT,
    IDT,
    TSS,
    TSS_SELECTOR,
    USER64,
    USER_DATA,
    Guest,
    descriptor,
)

Make = Callable[[], Guest]
TS, NP, SS, GP = 10, 11, 12, 13
#: Descriptors that the cases below name: FREE and the ones after it.
(
    EMPTY, ABSENT_CODE, ABSENT_DATA, READ_ONLY, SHORT_CODE, CODE_DPL3, CONFORMING3, LDT_ABSENT, TSS_BUSY, TSS_ABSENT,
    SHORT_STACK,
) = (FREE + 8 * i for i in range(11))  # fmt: skip
BEYOND = 0x100

CASES = assemble(
    32,
    """
        jmp_null:
        ea 00 80 00 00 00 00  jmp 0x00:0x8000
        jmp_null_rpl:
        ea 00 80 00 00 03 00  jmp 0x03:0x8000
        jmp_empty:
        ea 00 80 00 00 60 00  jmp 0x60:0x8000
        jmp_beyond:
        ea 00 80 00 00 00 01  jmp 0x100:0x8000
        jmp_without_ldt:
        ea 00 80 00 00 0c 00  jmp 0x0c:0x8000
        jmp_data:
        ea 00 80 00 00 10 00  jmp 0x10:0x8000
        jmp_absent:
        ea 00 80 00 00 68 00  jmp 0x68:0x8000
        jmp_rpl:
        ea 00 80 00 00 1b 00  jmp 0x1b:0x8000
        jmp_outer:
        ea 00 80 00 00 88 00  jmp 0x88:0x8000
        jmp_limit:
        ea 00 80 00 00 80 00  jmp 0x80:0x8000
        call_absent:
        9a 00 80 00 00 68 00  call 0x68:0x8000
        call_limit:
        9a 00 80 00 00 80 00  call 0x80:0x8000
        retf_null:
        6a 00                 push dword 0
        68 00 80 00 00        push dword 0x8000
        cb                    retf
        retf_absent:
        6a 68                 push dword 0x68
        68 00 80 00 00        push dword 0x8000
        cb                    retf
        retf_data:
        6a 10                 push dword 0x10
        68 00 80 00 00        push dword 0x8000
        cb                    retf
        iret_null:
        6a 02                 push dword 2
        6a 00                 push dword 0
        68 00 80 00 00        push dword 0x8000
        cf                    iretd
        iret_absent:
        6a 02                 push dword 2
        6a 68                 push dword 0x68
        68 00 80 00 00        push dword 0x8000
        cf                    iretd
        iret_outer_null_ss:
        6a 00                 push dword 0
        68 00 70 00 00        push dword 0x7000
        6a 02                 push dword 2
        6a 33                 push dword 0x33
        68 00 80 00 00        push dword 0x8000
        cf                    iretd
        iret_outer_absent_ss:
        6a 73                 push dword 0x73
        68 00 70 00 00        push dword 0x7000
        6a 02                 push dword 2
        6a 33                 push dword 0x33
        68 00 80 00 00        push dword 0x8000
        cf                    iretd
        iret_outer_inner_ss:
        6a 10                 push dword 0x10
        68 00 70 00 00        push dword 0x7000
        6a 02                 push dword 2
        6a 33                 push dword 0x33
        68 00 80 00 00        push dword 0x8000
        cf                    iretd
        mov_ss_null:
        8e d3                 mov ss, ebx
        mov_ss_read_only:
        b9 78 00 00 00        mov ecx, 0x78
        8e d1                 mov ss, ecx
        mov_ss_absent:
        b9 70 00 00 00        mov ecx, 0x70
        8e d1                 mov ss, ecx
        mov_ss_rpl:
        b9 13 00 00 00        mov ecx, 0x13
        8e d1                 mov ss, ecx
        mov_ds_absent:
        b9 70 00 00 00        mov ecx, 0x70
        8e d9                 mov ds, ecx
        mov_ds_beyond:
        b9 07 01 00 00        mov ecx, 0x107
        8e d9                 mov ds, ecx
        mov_cs:
        8e c9                 db 0x8e, 0xc9
        lldt_code:
        b9 18 00 00 00        mov ecx, 0x18
        0f 00 d1              lldt cx
        lldt_absent:
        b9 98 00 00 00        mov ecx, 0x98
        0f 00 d1              lldt cx
        ltr_null:
        0f 00 db              ltr bx
        ltr_busy:
        b9 a0 00 00 00        mov ecx, 0xa0
        0f 00 d9              ltr cx
        ltr_absent:
        b9 a8 00 00 00        mov ecx, 0xa8
        0f 00 d9              ltr cx
        int_absent:
        cd 30                 int 0x30
        int_beyond:
        cd f0                 int 0xf0
        int_bad_type:
        cd 31                 int 0x31
        int_null:
        cd 32                 int 0x32
        int_data:
        cd 33                 int 0x33
        int_absent_code:
        cd 34                 int 0x34
        int_offset:
        cd 35                 int 0x35
        stack_limit:
        8e d2                 mov ss, edx
        bc 02 00 01 00        mov esp, 0x10002
        50                    push eax
        50                    push eax
        """,
)
EXPECTED = {
    "jmp_null": (GP, 0), "jmp_null_rpl": (GP, 0), "jmp_empty": (GP, EMPTY), "jmp_beyond": (GP, BEYOND),
    "jmp_without_ldt": (GP, 0x0C), "jmp_data": (GP, DATA0), "jmp_absent": (NP, ABSENT_CODE), "jmp_rpl": (GP, CODE32),
    "jmp_outer": (GP, CODE_DPL3), "jmp_limit": (GP, 0), "call_absent": (NP, ABSENT_CODE), "call_limit": (GP, 0),
    "retf_null": (GP, 0), "retf_absent": (NP, ABSENT_CODE), "retf_data": (GP, DATA0),
    "iret_null": (GP, 0), "iret_absent": (NP, ABSENT_CODE), "iret_outer_null_ss": (GP, 0),
    "iret_outer_absent_ss": (SS, ABSENT_DATA), "iret_outer_inner_ss": (GP, DATA0),
    "mov_ss_null": (GP, 0), "mov_ss_read_only": (GP, READ_ONLY), "mov_ss_absent": (SS, ABSENT_DATA),
    "mov_ss_rpl": (GP, DATA0), "mov_ds_absent": (NP, ABSENT_DATA), "mov_ds_beyond": (GP, 0x104), "mov_cs": (6, None),
    "lldt_code": (GP, CODE32), "lldt_absent": (NP, LDT_ABSENT), "ltr_null": (GP, 0), "ltr_busy": (GP, TSS_BUSY),
    "ltr_absent": (NP, TSS_ABSENT),
    "int_absent": (NP, 0x30 * 8 + 2), "int_beyond": (GP, 0xF0 * 8 + 2), "int_bad_type": (GP, 0x31 * 8 + 2),
    "int_null": (GP, 0), "int_data": (GP, DATA0), "int_absent_code": (NP, ABSENT_CODE), "int_offset": (GP, 0),
    "stack_limit": (SS, 0),
}  # fmt: skip


def _prepare(g: Guest) -> None:
    for selector, value in (
        (ABSENT_CODE, descriptor(0xC1B)),
        (ABSENT_DATA, descriptor(0xC13 | 0x60)),
        (READ_ONLY, descriptor(0xC91)),
        (SHORT_CODE, descriptor(0x49B, limit=0x7FFF)),
        (CODE_DPL3, descriptor(0xCFB)),
        (CONFORMING3, descriptor(0xCFF)),
        (LDT_ABSENT, descriptor(0x002)),
        (TSS_BUSY, descriptor(0x08B, TSS, 0x67)),
        (TSS_ABSENT, descriptor(0x009, TSS, 0x67)),
        (SHORT_STACK, descriptor(0x493, limit=0x5FFF)),
    ):
        g.set_descriptor(selector, value)
    # SS's DPL is 0 in some cases, 3 in others.
    g.processor.gdtr_limit = BEYOND - 1
    g.processor.idtr_limit = 0xF0 * 8 - 1
    g.processor.ldtr.load(0, 0, 0, 0)
    g.set_gate32(0x30, CODE32, 0x4000, 0x0E)
    g.set_gate32(0x31, CODE32, 0x4000, 0x8C)
    g.set_gate32(0x32, 0, 0x4000)
    g.set_gate32(0x33, DATA0, 0x4000)
    g.set_gate32(0x34, ABSENT_CODE, 0x4000)
    g.set_gate32(0x35, SHORT_CODE, 0x8000)


@pytest.mark.parametrize("label", CASES.labels)
def test_instructions(guest: Make, label: str) -> None:
    g = guest().enter_protected().load(CASES)
    _prepare(g)
    if label in ("mov_ss_absent", "mov_ds_absent"):
        g.set_descriptor(ABSENT_DATA, descriptor(0xC13))
    g.set(rbx=0, rdx=DATA16)
    g.go(CASES[label])
    before = g.registers()
    assert g.first_exception() == EXPECTED[label]
    if not label.startswith(("retf", "iret", "mov", "l", "stack")):
        assert {**g.registers(), "rip": 0} == {**before, "rip": 0}


GATES = [
    # (what the gate is, error code without EXT)
    ("absent", NP, 0x40 * 8 + 2),
    ("bad type", GP, 0x40 * 8 + 2),
    ("beyond the limit", GP, 0x40 * 8 + 2),
    ("null selector", GP, 0),
    ("data selector", GP, DATA0),
    ("absent code", NP, ABSENT_CODE),
    ("beyond the table", GP, BEYOND),
    ("offset", GP, 0),
]


def _bad_gate(g: Guest, what: str, vector: int) -> None:
    gates = {
        "absent": (CODE32, 0x4000, 0x0E), "bad type": (CODE32, 0x4000, 0x8C), "null selector": (0, 0x4000, 0x8E),
        "data selector": (DATA0, 0x4000, 0x8E), "absent code": (ABSENT_CODE, 0x4000, 0x8E),
        "beyond the table": (BEYOND, 0x4000, 0x8E), "offset": (SHORT_CODE, 0x9000, 0x8E),
    }  # fmt: skip
    if what == "beyond the limit":
        g.processor.idtr_limit = vector * 8 + 6
    else:
        g.set_gate32(vector, *gates[what])


@pytest.mark.parametrize(("what", "vector", "error"), GATES)
@pytest.mark.parametrize("source", ["int", "interrupt", "exception"])
def test_gates(guest: Make, what: str, vector: int, error: int, source: str) -> None:
    """EXT is set for what the program did not ask for."""
    code = assemble(
        32,
        """
        cd 40  int 0x40
        f4     hlt
        interrupt:
        88 03  mov [ebx], al
        90     nop
        f4     hlt
        exception:
        0f 0b  ud2
        """,
    )
    g = guest().enter_protected().load(code)
    _prepare(g)
    number = 6 if source == "exception" else 0x40
    _bad_gate(g, what, number)
    if error == 0x40 * 8 + 2:
        error = number * 8 + 2
    g.set(rbx=DEVICE, rflags=0x202)
    g.device.on_write = lambda offset, width, value: g.processor.set_intr(True)
    if source != "int":
        g.go(code[source])
    expected = (vector, error | (source != "int"))
    if source == "exception":
        # The first exception is #UD itself; what its delivery raises is the second.
        seen: list[tuple[int, int | None]] = []
        original = g.processor._enter_handler

        def enter(vector: int, error: int | None, software: bool, resume: bool) -> None:
            seen.append((vector, error))
            original(vector, error, software=software, resume=resume)

        g.processor._enter_handler = enter  # type: ignore[method-assign]
        g.run(100)
        assert seen[1] == expected
    else:
        assert g.first_exception() == expected


STACKS = [
    # (what the TSS says, vector, error code without EXT)
    ("null", TS, 0),
    ("rpl", TS, DATA0),
    ("dpl", TS, USER_DATA & ~3),
    ("read-only", TS, READ_ONLY),
    ("beyond", TS, BEYOND),
    ("absent", SS, ABSENT_DATA),
    ("short tss", TS, TSS_SELECTOR),
    ("limit", SS, SHORT_STACK),
]


@pytest.mark.parametrize(("what", "vector", "error"), STACKS)
@pytest.mark.parametrize("source", ["int", "interrupt"])
def test_inner_stacks(guest: Make, what: str, vector: int, error: int, source: str) -> None:
    """A handler at CPL 0 for code at CPL 3: #TS for what the TSS says, #SS for an absent or too small stack."""
    code = assemble(
        32,
        """
        cd 40  int 0x40
        f4     hlt
        interrupt:
        88 03  mov [ebx], al
        eb 00  jmp next
        next:
        90     nop
        """,
    )
    g = guest().enter_protected(cpl=3).load(code)
    _prepare(g)
    g.set_gate32(0x40, CODE32, 0x4000, 0xEE)
    g.set_descriptor(ABSENT_DATA, descriptor(0xC13))
    selectors = {
        "null": 0, "rpl": DATA0 | 3, "dpl": USER_DATA & ~3, "read-only": READ_ONLY, "beyond": BEYOND,
        "absent": ABSENT_DATA, "limit": SHORT_STACK,
    }  # fmt: skip
    if what == "short tss":
        g.processor.tr.limit = 8
    else:
        g.memory.write_u32(TSS + 8, selectors[what])
    if what == "limit":
        g.memory.write_u32(TSS + 4, 0x6008)
    g.set(rbx=DEVICE, rflags=0x202)
    g.device.on_write = lambda offset, width, value: g.processor.set_intr(True)
    if source != "int":
        g.go(code[source])
    before = {name: g[name] for name in ("rsp", "rax", "rcx")}
    assert g.first_exception() == (vector, error | (source != "int"))
    assert {name: g[name] for name in before} == before
    assert g.processor.cpl == 3
    assert g["rip"] == (code.origin if source == "int" else code["next"])


LONG_CASES = assemble(
    64,
    """
        int_absent:
        cd 30                          int 0x30
        int_32_bit_type:
        cd 31                          int 0x31
        int_null:
        cd 32                          int 0x32
        int_compatibility_code:
        cd 33                          int 0x33
        int_beyond:
        cd f0                          int 0xf0
        iretq_null_cs:
        6a 00                          push 0
        6a 00                          push 0
        6a 02                          push 2
        6a 00                          push 0
        6a 00                          push 0
        48 cf                          iretq
        iretq_null_ss_to_user:
        6a 00                          push 0
        68 00 70 00 00                 push 0x7000
        6a 02                          push 2
        6a 43                          push 0x43
        68 00 80 00 00                 push 0x8000
        48 cf                          iretq
        iretq_null_ss_rpl3_to_user:
        6a 03                          push 3
        68 00 70 00 00                 push 0x7000
        6a 02                          push 2
        6a 43                          push 0x43
        68 00 80 00 00                 push 0x8000
        48 cf                          iretq
        iretq_ss_rpl:
        6a 38                          push 0x38
        68 00 70 00 00                 push 0x7000
        6a 02                          push 2
        6a 43                          push 0x43
        68 00 80 00 00                 push 0x8000
        48 cf                          iretq
        iretq_non_canonical:
        6a 3b                          push 0x3b
        68 00 70 00 00                 push 0x7000
        6a 02                          push 2
        6a 43                          push 0x43
        55                             push rbp
        48 cf                          iretq
        iretq_to_l_and_d:
        6a 3b                          push 0x3b
        68 00 70 00 00                 push 0x7000
        6a 02                          push 2
        68 8b 00 00 00                 push 0x8b
        68 00 80 00 00                 push 0x8000
        48 cf                          iretq
        mov_to_non_canonical:
        89 45 00                       mov [rbp], eax
        push_to_non_canonical:
        48 8d 65 08                    lea rsp, [rbp + 8]
        50                             push rax
        mov_rbp_based:
        8b 45 00                       mov eax, [rbp]
        jmp_non_canonical:
        ff e5                          jmp rbp
        mov_cr0_reserved:
        48 b8 00 00 00 00 01 00 00 00  mov rax, 0x100000000
        0f 22 c0                       mov cr0, rax
        mov_cr4_reserved:
        b8 00 00 08 00                 mov eax, 0x80000
        0f 22 e0                       mov cr4, rax
        clear_pae:
        31 c0                          xor eax, eax
        0f 22 e0                       mov cr4, rax
        wrmsr_unknown:
        b9 45 23 01 00                 mov ecx, 0x12345
        0f 30                          wrmsr
        wrmsr_non_canonical:
        b9 00 01 00 c0                 mov ecx, 0xc0000100
        ba 00 80 00 00                 mov edx, 0x8000
        0f 30                          wrmsr
        wrmsr_lme_while_paging:
        b9 80 00 00 c0                 mov ecx, 0xc0000080
        31 d2                          xor edx, edx
        31 c0                          xor eax, eax
        0f 30                          wrmsr
        mov_cr8_reserved:
        b8 10 00 00 00                 mov eax, 0x10
        44 0f 22 c0                    mov cr8, rax
        """,
)
LONG_EXPECTED = {
    "int_absent": (NP, 0x30 * 8 + 2), "int_32_bit_type": (GP, 0x31 * 8 + 2), "int_null": (GP, 0),
    "int_compatibility_code": (GP, CODE32), "int_beyond": (GP, 0xF0 * 8 + 2), "iretq_null_cs": (GP, 0),
    "iretq_null_ss_to_user": (GP, 0), "iretq_null_ss_rpl3_to_user": (GP, 0), "iretq_ss_rpl": (GP, 0x38),
    "iretq_non_canonical": (GP, 0), "iretq_to_l_and_d": (GP, CODE_DPL3),
    "mov_to_non_canonical": (SS, 0), "push_to_non_canonical": (SS, 0), "mov_rbp_based": (SS, 0),
    "jmp_non_canonical": (GP, 0), "mov_cr0_reserved": (GP, 0), "mov_cr4_reserved": (GP, 0), "clear_pae": (GP, 0),
    "wrmsr_unknown": (GP, 0), "wrmsr_non_canonical": (GP, 0), "wrmsr_lme_while_paging": (GP, 0),
    "mov_cr8_reserved": (GP, 0),
}  # fmt: skip


@pytest.mark.parametrize("label", LONG_CASES.labels)
def test_long_mode(guest: Make, label: str) -> None:
    g = guest().enter_long().load(LONG_CASES)
    _prepare(g)
    g.set_descriptor(CODE_DPL3, descriptor(0xEFB))
    g.processor.idtr_limit = 0xF0 * 16 - 1
    g.set_gate64(0x30, 8, 0x4000, 0x0E)
    g.set_gate64(0x31, 8, 0x4000, 0x86)
    g.set_gate64(0x32, 0, 0x4000)
    g.set_gate64(0x33, CODE32, 0x4000)
    g.set(rbp=0x8000_0000_0000, rax=5)
    g.go(LONG_CASES[label])
    assert g.first_exception() == LONG_EXPECTED[label]


USER_CASES = assemble(
    64,
    """
        hlt_:
        f4        hlt
        cli_:
        fa        cli
        in_:
        e4 80     in al, 0x80
        mov_cr:
        0f 20 c0  mov rax, cr0
        lgdt_:
        0f 01 13  lgdt [rbx]
        wrmsr_:
        0f 30     wrmsr
        invlpg_:
        0f 01 3b  invlpg [rbx]
        int_dpl0:
        cd 30     int 0x30
        int_absent:
        cd 31     int 0x31
        sysret_:
        48 0f 07  o64 sysret
        swapgs_:
        0f 01 f8  swapgs
        clts_:
        0f 06     clts
        """,
)


@pytest.mark.parametrize("label", USER_CASES.labels)
def test_what_cpl_3_may_not_do(guest: Make, label: str) -> None:
    g = guest().enter_long(cpl=3).load(USER_CASES)
    g.set_gate64(0x31, 8, 0x4000, 0x6E)
    g.memory.write(TSS + 0x66, b"\x68\x00")
    g.set(rbx=GDT, rax=IDT)
    g.go(USER_CASES[label])
    error = {"int_dpl0": 0x30 * 8 + 2, "int_absent": 0x31 * 8 + 2}.get(label, 0)
    vector = NP if label == "int_absent" else GP
    assert g.first_exception() == (vector, error)
    assert g["rip"] == USER_CASES[label]
    assert g.processor.segments[1].selector == USER64
