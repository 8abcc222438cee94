"""Random bytes as code: the guest may do anything to itself, and nothing to the host.

TRAPGATE_RANDOM_CODE=N runs N cases of each kind (a long run by hand; 40 by default).
"""

from __future__ import annotations

import os
import random

import pytest

from trapgate.arch import layout

from .harness import CODE, STACK, Bench

CASES = int(os.environ.get("TRAPGATE_RANDOM_CODE", "40"))
REASONS = {"halted", "limit", "triple-fault", "unimplemented"}
INTERESTING = (0, 1, 0x7FFF_FFFF, 0xFFFF_FFFF, 0x8000_0000_0000_0000, 0xFFFF_FFFF_FFFF_FFFF, CODE, STACK, 0xFEE0_0000)


def _registers(bench: Bench, source: random.Random) -> None:
    for i in range(16):
        bench.processor.q[i] = source.choice(INTERESTING) if source.random() < 0.5 else source.getrandbits(64)
    bench.processor.rflags = source.getrandbits(18) & ~0x20000


def _run(bench: Bench, source: random.Random) -> None:
    stopped = bench.run(source.randbytes(512), limit=3000)
    assert stopped.reason in REASONS
    q, address = bench.processor.q, bench.processor.state.address
    assert q[layout.ZERO >> 3] == 0
    assert q[layout.RAM_BASE >> 3] == bench.memory.base
    assert address == bench.processor.state.address


@pytest.mark.parametrize("part", range(2))
def test_in_64_bit_mode(part: int) -> None:
    for case in range(part, CASES, 2):
        source = random.Random(case)
        bench = Bench.long64()
        _registers(bench, source)
        if source.random() < 0.5:
            bench.set(rsp=STACK)
        _run(bench, source)


@pytest.mark.parametrize("part", range(2))
def test_in_real_mode(part: int) -> None:
    for case in range(part, CASES, 2):
        source = random.Random(1000 + case)
        bench = Bench.real()
        _registers(bench, source)
        bench.memory.write(0, source.randbytes(0x400))
        _run(bench, source)


@pytest.mark.parametrize("part", range(2))
def test_in_32_bit_protected_mode(part: int) -> None:
    for case in range(part, CASES, 2):
        source = random.Random(2000 + case)
        bench = Bench.long64()
        state = bench.processor.state
        state.set(layout.EFER, 0)
        state.set(layout.CR4, source.choice((0, 0x10, 0x20, 0x30)))
        state.set(layout.CR0, source.choice((0x31, 0x8001_0031)))
        bench.processor.segments[1].load(8, 0, 0xFFFF_FFFF, 0xC9B)
        for i in range(512):
            bench.memory.write_u32(0x1000 + 4 * i, i << 22 | 0x83 if source.random() < 0.9 else source.getrandbits(32))
        bench.memory.write(0x8000, source.randbytes(0x1800))
        _registers(bench, source)
        bench.processor.mode_changed()
        _run(bench, source)
