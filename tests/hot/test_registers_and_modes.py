"""Regions of 16- and 32-bit code with segments, and registers of other kinds: SSE, MMX, high bytes."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from engine.assembly import assemble
from engine.harness import DATA, FREE, USER_DATA, Guest, descriptor
from trapgate.arch import layout
from trapgate.arch.registers import CR4_OSFXSR
from trapgate.arch.segments import ATTRIBUTE_DB, DATA_RW_ACCESSED, DPL_SHIFT

from .pair import Make, Pair

Pairs = Callable[[Make], Pair]
DS, SS, ES, FS = 3, 2, 0, 4


def test_real_mode_with_segments(pair: Pairs) -> None:
    """A copy from one segment to another with a sum; bases that are not flat, an override, the stack in its own."""
    code = assemble(
        16,
        """
    b9 64 00  mov cx, 100
    body:
    8a 04     mov al, [si]
    26 88 05  mov [es:di], al
    00 c2     add dl, al
    80 d6 00  adc dh, 0
    52        push dx
    46        inc si
    47        inc di
    5b        pop bx
    c1 c3 03  rol bx, 3
    31 5e 02  xor [bp + 2], bx
    49        dec cx
    75 e9     jne body
    f4        hlt
    """,
    )

    def make(g: Guest) -> Guest:
        g.enter_real().load(code).set(rsi=0x10, rdi=0x20, rbp=0x100, rsp=0x200, rdx=0)
        for number, selector in ((DS, 0x1001), (ES, 0x1801), (SS, 0x2000)):
            g.processor.segments[number].load(selector, selector << 4, 0xFFFF, DATA_RW_ACCESSED)
        g.memory.write(0x1_0010, bytes(i * 5 & 0xFF for i in range(300)))
        g.processor.mode_changed()
        return g

    both = pair(make)
    for limit in (3, 50, 51, None):
        both.run(limit)
    assert both.hot.processor.halted
    assert both.hot.memory.read(0x1_8030, 100) == both.hot.memory.read(0x1_0020, 100)
    assert both.tier.installed > 0


@pytest.mark.parametrize("width", [1, 2, 4])
def test_the_end_of_a_segment_in_real_mode(pair: Pairs, width: int) -> None:
    """SI runs up to offset FFFFh: an operand that crosses it faults, the last that does not is read."""
    forms = {
        1: assemble(
            16,
            """
    body:
    02 14  add dl, [si]
    46     inc si
    00 d0  add al, dl
    49     dec cx
    75 f8  jne body
    f4     hlt
    """,
        ),
        2: assemble(
            16,
            """
            body:
            03 14  add dx, [si]
            46     inc si
            01 d0  add ax, dx
            49     dec cx
            75 f8  jne body
            f4     hlt
            """,
        ),
        4: assemble(
            16,
            """
            body:
            66 03 14  add edx, [si]
            46        inc si
            66 01 d0  add eax, edx
            49        dec cx
            75 f6     jne body
            f4        hlt
            """,
        ),
    }

    def make(g: Guest) -> Guest:
        g.enter_real().load(forms[width]).set(rsi=0xFFE0, rcx=40, rdx=0, rax=0, rsp=0x7000)
        g.processor.segments[DS].load(0x1000, 0x1_0000, 0xFFFF, DATA_RW_ACCESSED)
        g.memory.write(0x1_0000, bytes(range(32)))
        g.memory.write(0x1_FFE0, bytes(range(64)))
        g.processor.mode_changed()
        return g

    both = pair(make)
    both.run()
    assert both.tier.installed > 0
    if width == 1:
        assert both.hot["rcx"] == 0  # SI wraps around to the segment's beginning
        assert both.hot["rsi"] == 8
    else:
        frame = both.hot.frame()
        assert (frame.vector, frame.rip) == (13, 0x8000)
        assert both.hot["rsi"] == 0x1_0000 - width + 1


@pytest.mark.parametrize("kind", ["limit", "expand-down", "read-only"])
def test_segment_checks_in_32_bit_code(pair: Pairs, kind: str) -> None:
    """A loop through FS leaves what its descriptor allows, in the middle of a region."""
    code = assemble(
        32,
        """
        8e e7           mov fs, edi
        b9 28 00 00 00  mov ecx, 40
        body:
        64 8b 06        mov eax, [fs:esi]
        01 c2           add edx, eax
        d1 c2           rol edx, 1
        64 89 16        mov [fs:esi], edx
        01 de           add esi, ebx
        49              dec ecx
        75 f1           jne body
        f4              hlt
        """,
    )
    value = {
        "limit": descriptor(DATA_RW_ACCESSED | ATTRIBUTE_DB | 3 << DPL_SHIFT, DATA, 0x4F),
        "expand-down": descriptor(DATA_RW_ACCESSED | 4 | ATTRIBUTE_DB | 3 << DPL_SHIFT, DATA, 0x4F),
        "read-only": descriptor(DATA_RW_ACCESSED & ~2 | ATTRIBUTE_DB | 3 << DPL_SHIFT, DATA, 0xFFF),
    }[kind]

    def make(g: Guest) -> Guest:
        g.enter_protected("pae", cpl=3).load(code)
        g.set_descriptor(FREE, value)
        down = kind == "expand-down"
        return g.set(rdi=FREE | 3, rdx=1, rsi=0x90 if down else 0, rbx=0xFFFF_FFFC if down else 4)

    both = pair(make)
    both.run()
    frame = both.hot.frame()
    assert (frame.vector, frame.error) == (13, 0)
    if kind == "read-only":
        assert (both.hot["rcx"], frame.rip) == (40, code["body"] + 7)
    else:
        assert frame.rip == code["body"]
        assert both.hot["rcx"] == (20 if kind == "limit" else 23)
        assert both.tier.installed > 0
    assert both.hot.processor.segments[FS].selector == FREE | 3


def test_a_32_bit_address_that_wraps_around(pair: Pairs) -> None:
    """In 64-bit code with an address-size prefix: EAX + 8 stays below 4 GB, and so do accesses that are looked up with
    it."""
    code = assemble(
        64,
        """
        b9 28 00 00 00  mov ecx, 40
        body:
        67 8b 10        mov edx, [eax]
        01 d3           add ebx, edx
        67 8b 50 10     mov edx, [eax + 16]
        01 d3           add ebx, edx
        83 c0 04        add eax, 4
        ff c9           dec ecx
        75 ee           jne body
        f4              hlt
        """,
    )

    def make(g: Guest) -> Guest:
        g.enter_long().load(code).set(rax=0xFFFF_FFB0, rbx=0)
        g.map(0xFFFF_F000, DATA)
        g.map(0x1_0000_0000, DATA + 0x1000)
        g.memory.write(DATA, bytes(i * 3 & 0xFF for i in range(0x2000)))
        return g

    both = pair(make)
    both.run_to_halt()


def test_high_bytes(pair: Pairs) -> None:
    code = assemble(
        64,
        """
    b9 2c 01 00 00  mov ecx, 300
    body:
    00 cc           add ah, cl
    18 e7           sbb bh, ah
    88 fa           mov dl, bh
    86 f0           xchg dh, al
    88 24 16        mov [rsi + rdx], ah
    80 c5 00        add ch, 0
    0f c0 de        xadd dh, bl
    c0 c4 03        rol ah, 3
    ff c9           dec ecx
    75 e8           jne body
    f4              hlt
    """,
    )
    both = pair(lambda g: g.enter_long().load(code).set(rax=0x1234, rbx=0x5678_9ABC_DEF0, rdx=0x77, rsi=DATA))
    both.run_to_halt()
    assert both.hot["rbx"] >> 16 == 0x5678_9ABC


def test_sse_registers(pair: Pairs) -> None:
    """Partial writes, moves between halves and from memory that clear, conversions, sticky flags of MXCSR."""
    code = assemble(
        64,
        """
        b9 28 00 00 00     mov ecx, 40
        body:
        f2 0f 2a c1        cvtsi2sd xmm0, ecx
        f2 0f 51 c8        sqrtsd xmm1, xmm0
        f3 0f 10 d1        movss xmm2, xmm1
        f3 0f 10 1e        movss xmm3, [rsi]
        f2 0f 10 e1        movsd xmm4, xmm1
        0f 16 66 08        movhps xmm4, [rsi + 8]
        0f 13 66 10        movlps [rsi + 16], xmm4
        0f 58 ea           addps xmm5, xmm2
        f2 0f 59 f1        mulsd xmm6, xmm1
        f2 0f 5a f9        cvtsd2ss xmm7, xmm1
        66 44 0f c4 c1 03  pinsrw xmm8, ecx, 3
        66 45 0f fe c8     paddd xmm9, xmm8
        45 0f c6 d1 1b     shufps xmm10, xmm9, 0x1b
        f3 45 0f 7e da     movq xmm11, xmm10
        66 0f 7e f8        movd eax, xmm7
        66 0f 2e ce        ucomisd xmm1, xmm6
        11 c2              adc edx, eax
        f2 44 0f 5e e0     divsd xmm12, xmm0
        f6 c1 03           test cl, 3
        74 05              je next
        66 41 0f ef e9     pxor xmm5, xmm9
        next:
        ff c9              dec ecx
        75 a7              jne body
        f4                 hlt
        """,
    )

    def make(g: Guest) -> Guest:
        g.enter_long().load(code).set(rsi=DATA, rdx=0)
        g.memory.write(DATA, bytes(i * 11 & 0xFF for i in range(64)))
        for number in range(16):
            value = bytes((number * 16 + i) * 37 & 0x7F for i in range(16))
            g.processor.state.bytes[layout.xmm(number) : layout.xmm(number) + 16] = value
        return g

    both = pair(make)
    for limit in (70, 71, None):
        both.run(limit)
    assert both.hot.processor.halted
    assert both.hot.processor.state.bytes[layout.MXCSR] & 0x20  # inexact
    assert both.tier.installed > 0


def test_sse_exceptions_in_a_region(pair: Pairs) -> None:
    """Unmasked division by zero: #XF before the instruction, with the flag set."""
    code = assemble(
        64,
        """
    0f ae 16        ldmxcsr [rsi]
    b9 28 00 00 00  mov ecx, 40
    body:
    8d 41 f7        lea eax, [rcx - 9]
    f2 0f 2a c0     cvtsi2sd xmm0, eax
    66 0f 28 d1     movapd xmm2, xmm1
    f2 0f 5e d0     divsd xmm2, xmm0
    ff c9           dec ecx
    75 ed           jne body
    f4              hlt
    """,
    )

    def make(g: Guest) -> Guest:
        g.enter_long().load(code).set(rsi=DATA)
        g.memory.write_u32(DATA, 0x1F80 & ~0x200)
        g.processor.state.bytes[layout.xmm(1) : layout.xmm(1) + 8] = bytes.fromhex("000000000000f03f")
        g.processor.state.set(layout.CR4, g.processor.state.get(layout.CR4) | CR4_OSFXSR | 1 << 10)
        g.processor.mode_changed()
        return g

    both = pair(make)
    both.run()
    assert both.hot.frame().vector == 19
    assert both.hot["rcx"] == 9
    assert both.hot.processor.state.bytes[layout.MXCSR] & 4


def test_mmx_and_x87_in_a_loop(pair: Pairs) -> None:
    """MMX shares registers with x87, whose instructions leave a region: tags and TOP change in turn."""
    code = assemble(
        64,
        """
    b9 28 00 00 00  mov ecx, 40
    body:
    0f 6f 06        movq mm0, [rsi]
    0f fc c8        paddb mm1, mm0
    0f ef d1        pxor mm2, mm1
    0f 7f 56 08     movq [rsi + 8], mm2
    0f 7e d0        movd eax, mm2
    0f 77           emms
    d9 e8           fld1
    d8 c0           fadd st0
    dd 5e 10        fstp qword [rsi + 16]
    48 01 c2        add rdx, rax
    ff c9           dec ecx
    75 e0           jne body
    f4              hlt
    """,
    )

    def make(g: Guest) -> Guest:
        g.enter_long().load(code).set(rsi=DATA, rdx=0)
        g.memory.write(DATA, bytes(range(1, 33)))
        return g

    both = pair(make)
    both.run_to_halt()
    assert both.hot.memory.read(DATA + 16, 8) == bytes.fromhex("0000000000000040")


def test_stack_widths(pair: Pairs) -> None:
    """A 16-bit stack under 32-bit code: SP wraps around within its segment, ESP's upper half stays."""
    code = assemble(
        32,
        """
    b9 28 00 00 00  mov ecx, 40
    body:
    51              push ecx
    50              push eax
    5a              pop edx
    01 d0           add eax, edx
    40              inc eax
    49              dec ecx
    75 f7           jne body
    f4              hlt
    """,
    )

    def make(g: Guest) -> Guest:
        g.enter_protected().load(code).set(rax=1, rsp=0x1234_0040)
        g.processor.segments[SS].load(USER_DATA & ~3, DATA, 0xFFFF, DATA_RW_ACCESSED)
        g.processor.mode_changed()
        return g

    both = pair(make)
    both.run_to_halt()
    assert both.hot["rsp"] == 0x1234_0000 | (0x40 - 160) & 0xFFFF
