"""Flags that one block of a region sets and another looks at, or an exception's frame, or the cold tier."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from engine.assembly import assemble
from engine.harness import CODE64, DATA, DEVICE, Guest
from trapgate.engine.hot import shape

from .pair import Make, Pair

Pairs = Callable[[Make], Pair]

#: Instructions on rDX and rBX (and CL), by their bytes after the operand-size prefix, for 8 bits and for more.
KINDS = {
    "add": (b"\x00\xda", b"\x01\xda"),
    "or": (b"\x08\xda", b"\x09\xda"),
    "adc": (b"\x10\xda", b"\x11\xda"),
    "sbb": (b"\x18\xda", b"\x19\xda"),
    "and": (b"\x20\xda", b"\x21\xda"),
    "sub": (b"\x28\xda", b"\x29\xda"),
    "xor": (b"\x30\xda", b"\x31\xda"),
    "cmp": (b"\x38\xda", b"\x39\xda"),
    "test": (b"\x84\xda", b"\x85\xda"),
    "inc": (b"\xfe\xc2", b"\xff\xc2"),
    "dec": (b"\xfe\xca", b"\xff\xca"),
    "neg": (b"\xf6\xda", b"\xf7\xda"),
    "mul": (b"\xf6\xe3", b"\xf7\xe3"),
    "imul": (b"\xf6\xeb", b"\xf7\xeb"),
    "rol": (b"\xd2\xc2", b"\xd3\xc2"),
    "ror 1": (b"\xd0\xca", b"\xd1\xca"),
    "rcl": (b"\xd2\xd2", b"\xd3\xd2"),
    "rcr 1": (b"\xd0\xda", b"\xd1\xda"),
    "shl": (b"\xd2\xe2", b"\xd3\xe2"),
    "shl 3": (b"\xc0\xe2\x03", b"\xc1\xe2\x03"),
    "shr": (b"\xd2\xea", b"\xd3\xea"),
    "shr 1": (b"\xd0\xea", b"\xd1\xea"),
    "sar": (b"\xd2\xfa", b"\xd3\xfa"),
    "sar 0": (b"\xc0\xfa\x00", b"\xc1\xfa\x00"),
    "xadd": (b"\x0f\xc0\xda", b"\x0f\xc1\xda"),
    "cmpxchg": (b"\x0f\xb0\xda", b"\x0f\xb1\xda"),
    "clc, inc": (b"\xf8\xfe\xc2", b"\xf8\xff\xc2"),
    "stc, dec": (b"\xf9\xfe\xca", b"\xf9\xff\xca"),
    "cmc": (b"\xf5", b"\xf5"),
    "lahf, sahf": (b"\x9f\x9e", b"\x9f\x9e"),
}
PREFIXES = {8: b"", 16: b"\x66", 32: b"", 64: b"\x48"}
#: Where operands are taken from.
TABLE = 0x9800
#: Ends a block.
JUMP = b"\xeb\x00"
#: Operands, worth a look at each width.
VALUES = (
    0,
    1,
    0x7F7F_7F7F_7F7F_7F7F,
    0x8080_8080_8080_8080,
    (1 << 64) - 1,
    1 << 63,
    0x7FFF_FFFF_7FFF_7FFF,
    0x0123_4567_89AB_CDEF,
)


def _operation(kind: str, width: int) -> bytes:
    code = KINDS[kind][width > 8]
    prefix = PREFIXES[width]
    if kind in ("clc, inc", "stc, dec"):
        return code[:1] + prefix + code[1:]
    return code if kind in ("cmc", "lahf, sahf") else prefix + code


#: What looks at the flags, in a block of its own; each adds what it saw to memory at RDI.
CONSUMERS = {
    "pushf": b"\x9c\x58" + b"\x48\xab",  # pushfq; pop rax; stosq
    "lahf": b"\x9f" + b"\x66\xab",  # lahf; stosw
    "setcc": b"".join(bytes((0x0F, 0x90 + cc, 0x47, cc)) for cc in range(16)) + b"\x48\x83\xc7\x10",
    "adc": b"\x48\x83\xd5\x00" + b"\x48\x89\xe8\x48\xab",  # adc rbp, 0; mov rax, rbp; stosq
    "jcc": b"".join(bytes((0x70 + cc, 1)) + b"\x90" for cc in (2, 4, 10, 12)) + b"\x9c\x58\x48\xab",
    "inc": b"\x41\xfe\xc0\x9c\x58\x48\xab",  # inc r8b; pushfq; pop rax; stosq
    "sbb": b"\x19\xed\x9c\x58\x48\xab",  # sbb ebp, ebp; pushfq; pop rax; stosq
}


#: mov rdx, [r9]; mov rbx, [r9 + 8]; mov cl, dl; and cl, 31; add r9, 8
OPERANDS = b"\x49\x8b\x11\x49\x8b\x59\x08\x8a\xca\x80\xe1\x1f\x49\x83\xc1\x08"


def _loop(body: bytes) -> bytes:
    """`body`, dec r10d, jne, hlt."""
    return body + b"\x41\xff\xca\x0f\x85" + (-len(body) - 9 & 0xFFFF_FFFF).to_bytes(4, "little") + b"\xf4"


def _make(g: Guest, code: bytes) -> Guest:
    g.enter_long()
    g.memory.write(0x8000, code)
    for i, value in enumerate((*VALUES, *VALUES[::-1])):
        g.memory.write_u64(TABLE + 8 * i, value)
    g.map(0xA_0000, DEVICE)
    g.go(0x8000)
    return g.set(r9=TABLE, r10=len(VALUES), rdi=DATA, rsi=TABLE, rbp=0, r8=0x7D)


@pytest.mark.parametrize("width", PREFIXES)
@pytest.mark.parametrize("consumer", CONSUMERS)
def test_seen_in_another_block(pair: Pairs, consumer: str, width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every kind of result, one after the other, then the same with other operands: a region with all of them."""
    monkeypatch.setattr(shape, "MOST_COST", 3000)
    body = OPERANDS
    for kind in KINDS:
        body += _operation(kind, width) + JUMP + CONSUMERS[consumer] + JUMP
    both = pair(lambda g: _make(g, _loop(body)))
    both.tier.always = False
    both.run(800)
    region = both.force(0x8000)
    assert len(region) > 2 * len(KINDS)
    both.run_to_halt()
    assert both.hot["rdi"] > DATA + len(VALUES) * len(KINDS)


@pytest.mark.parametrize("width", PREFIXES)
@pytest.mark.parametrize("end", ["fault", "device", "stop"])
def test_seen_where_a_region_is_left(pair: Pairs, end: str, width: int) -> None:
    """In the frame of a page fault, behind an access to a device, and between two blocks; set in the block before."""
    body = OPERANDS
    for kind in KINDS:
        # mov rsi, r11; ...; mov rax, [rsi]; pushfq; pop rax; stosq
        body += b"\x4c\x89\xde" + _operation(kind, width) + JUMP + b"\x48\x8b\x06\x9c\x58\x48\xab" + JUMP
    handler = assemble(
        64,
        """
        48 8b 44 24 18  mov rax, [rsp + 24]
        48 ab           stosq
        4c 89 ce        mov rsi, r9
        48 83 c4 08     add rsp, 8
        48 cf           iretq
        """,
    )

    def make(g: Guest) -> Guest:
        _make(g, _loop(body))
        g.memory.write(0x9400, handler.data)
        g.set_gate64(14, CODE64, 0x9400)
        return g.set(r11={"fault": 0x60_0000, "device": 0xA_0000, "stop": TABLE}[end])

    both = pair(make)
    both.tier.always = False
    both.run(500)
    region = both.force(0x8000)
    assert len(region) > 2 * len(KINDS)
    while end == "stop" and both.run(1).reason != "halted":
        pass
    if end != "stop":
        both.run_to_halt()
    expected = {"fault": both.hot.processor.exception_counts.get(14, 0), "device": len(both.hot.device.reads)}
    assert expected.get(end, len(VALUES) * len(KINDS)) == len(VALUES) * len(KINDS)


def test_increments_over_two_blocks(pair: Pairs) -> None:
    """INC and DEC keep the carry of what another block has set, and of what a third one has."""
    code = assemble(
        64,
        """
        b9 28 00 00 00  mov ecx, 40
        body:
        48 01 d8        add rax, rbx
        75 02           jne one
        ff c6           inc esi
        one:
        fe c2           inc dl
        70 03           jo two
        41 ff c8        dec r8d
        two:
        66 ff ca        dec dx
        78 02           js three
        ff c6           inc esi
        three:
        83 d7 00        adc edi, 0
        ff c9           dec ecx
        75 e4           jne body
        f4              hlt
        """,
    )
    both = pair(lambda g: g.enter_long().load(code).set(rax=5, rbx=0x3FFF_FFFF_FFFF_FFFF, rdx=0x7A, rsi=0, rdi=0, r8=0))
    both.run_to_halt()
    assert 0 < both.hot["rdi"] < 40
