"""L1 with VMCBs that are right but for some fields: the same on the bare machine and under nested virtualization.

`TRAPGATE_NESTED_SEEDS=5000` for a long run.
"""

from __future__ import annotations

import os
import random

import pytest

from trapgate.arch import vmcb
from trapgate.arch.registers import CR0_CD, CR0_NW, CR4_PGE, IF
from trapgate.engine.handlers import HandlerStore

from .world import (
    DATA,
    L2_CODE,
    NESTED_TABLES,
    NX,
    PWU,
    VMCB,
    Image,
    Outcome,
    make_virtual,
    random_instructions,
    run_bare,
    run_virtual,
)

SEEDS = int(os.environ.get("TRAPGATE_NESTED_SEEDS", "30"))
_EVENT = vmcb.EVENT_VALID
_EVENTS = (
    _EVENT | 0x40, _EVENT | 3 << 8 | 6, _EVENT | 3 << 8 | 1 << 11 | 13 | 0x18 << 32, _EVENT | 2 << 8 | 2,
    _EVENT | 4 << 8 | 0x21, _EVENT | 1 << 8 | 5, _EVENT | 3 << 8 | 2, _EVENT | 3 << 8 | 14 | 1 << 11 | 2 << 32,
)  # fmt: skip
#: Field -> values that it may be given.
_VALUES = {
    vmcb.ASID: (0, 1, 2, 63, 64, 1 << 31),
    vmcb.EVENTINJ: _EVENTS,
    vmcb.CR0: (
        0x11,
        0x8001_0011,
        0x8000_0011,
        0x10,
        0x8000_0010,
        0x8005_0033,
        1 << 32 | 0x8001_0011,
        CR0_NW,
        0x8001_0011 | CR0_CD,
    ),
    vmcb.CR4: (0, 0x20, 0x20 | CR4_PGE, 0x6B0, 1 << 40),
    vmcb.CR3: (0, 0x4_0000, 0x1_0000, 0x6_0000, 1 << 50),
    vmcb.EFER: (0x1000, 0x1D01, 0x500, 0x1900, 0x1100, 1 << 20),
    vmcb.RFLAGS: (2, 2 | IF, 0x2_0002, 0x102, 0x1_0202),
    vmcb.RIP: (L2_CODE, L2_CODE + 5, 0, 0xFFFF_FFFF, DATA),
    vmcb.RSP: (0x3_2000, 0x3_2004, 0x8_0000),
    vmcb.VIRTUAL_INTERRUPT: (
        1 << 8 | 5 << 16 | 0x41 << 32,
        1 << 24,
        1 << 24 | 1 << 8 | 1 << 20 | 0x42 << 32,
        1 << 8 | 3 << 16 | 9,
    ),
    vmcb.INTERRUPT_SHADOW: (0, 1),
    vmcb.DR7: (0x400, 0x403, 1 << 33),
    vmcb.TLB_CONTROL & ~7: (1, 1 | 1 << 32, 2 | 3 << 32),
    vmcb.IOPM_BASE_PA: (0x2_1000, 0x2_1ABC, 0x7_FFFF_F000, 1 << 52, 0x3F_F000),
    vmcb.MSRPM_BASE_PA: (0x2_4000, 1 << 50, 0x3F_F000),
    vmcb.CS: (
        8 | 0xA9B << 16 | 0xFFFF_FFFF << 32,
        8 | 0xE9B << 16,
        8 | 0xC9B << 16 | 0xFFFF_FFFF << 32,
        0x9B << 16 | 0xFFFF << 32,
    ),
    vmcb.CPL & ~7: (0, 3 << 24),
    vmcb.GDTR: (0, 0xFFF << 32),
    vmcb.IDTR: (0, 0x3F << 32),
    vmcb.G_PAT: (0x0007_0406_0007_0406, 2),
    vmcb.LDTR + 8: (0, 1 << 60),
    vmcb.TSC_OFFSET: (0, 1 << 63),
}


def random_image(rng: random.Random) -> Image:
    """One to four fields of the VMCB differ from a right one; intercepts and maps are random, nested tables half the
    time, with pages that are missing, read-only or not to be executed."""
    image = Image()
    image.put(L2_CODE, random_instructions(rng))
    image.put(DATA, rng.randbytes(64))
    for offset in rng.sample(sorted(_VALUES), rng.choice((0, 0, 1, 1, 2, 4))):
        image.u64(VMCB + offset, rng.choice(_VALUES[offset]))
    always1 = vmcb.misc1("shutdown", "rdtsc", "cpuid") << 32
    image.u64(VMCB, rng.getrandbits(64) & rng.getrandbits(64))
    intercepts = rng.getrandbits(64) & 0xFFFF_FFFF_0000_0000
    exceptions = rng.getrandbits(32) & rng.getrandbits(32)
    image.u64(VMCB + 8, exceptions | intercepts | always1)
    # Else most guests would end in a pile of #UDs in their handler, which calls.
    call = 0 if rng.random() < 0.1 else vmcb.misc2("vmmcall")
    image.u64(VMCB + vmcb.INTERCEPT_MISC2, rng.getrandbits(13) | vmcb.misc2("vmrun", "rdtscp") | call)
    for place in range(0x2_1000, 0x2_6000, 8):
        image.u64(place, rng.getrandbits(64))
    if rng.random() < 0.6:
        image.u64(VMCB + vmcb.NESTED_CONTROL, 1)
        for page in rng.sample(range(512), 40) + rng.sample(
            (0x30, 0x31, 0x33, 0x40, 0x43, 0x60, 0x61), rng.choice((0, 1, 3))
        ):
            entry = page << 12 | rng.choice((PWU, PWU, 5, 5, 0, 3, PWU | NX, 0x67, 1 << 51 | PWU))
            image.u64(NESTED_TABLES + 0x3000 + 8 * page, entry)
    return image


def describe(outcome: Outcome) -> str:
    return outcome.reason + "".join("\n  " + " ".join(f"{value:x}" for value in line) for line in outcome.log())


@pytest.mark.parametrize("seed", range(SEEDS))
def test_the_same_as_on_the_bare_machine(seed: int, handlers: HandlerStore) -> None:
    image = random_image(random.Random(seed))
    bare = run_bare(image, handlers)
    if bare.reason == "endless":
        return  # where it is cut off depends on time
    for technique in ("nested", "nested-tagged"):
        virtual = run_virtual(image, make_virtual(technique, handlers))
        if virtual.reason == "device":
            continue  # an instruction on a device's registers that the emulator does not know
        assert describe(virtual) == describe(bare), f"seed {seed}, {technique}"
        different = [i for i in range(0, len(bare.memory), 8) if bare.memory[i : i + 8] != virtual.memory[i : i + 8]]
        assert not different, f"seed {seed}, {technique}: memory differs at {[hex(i) for i in different[:8]]}"
