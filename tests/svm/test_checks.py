"""What VMRUN refuses (APM vol. 2, 15.5.1 "Canonicalization and Consistency Checks", 15.25.3, 15.25.4); garbage."""

from __future__ import annotations

import os
import random
from collections.abc import Callable

import pytest

from svm.conftest import LATER, Make
from svm.world import VMCB, World
from trapgate.arch import vmcb
from trapgate.arch.cpuid import OPTERON_2006
from trapgate.arch.registers import (
    CR0_CD,
    CR0_NW,
    CR0_PE,
    CR4_PAE,
    EFER_LMA,
    EFER_SVME,
)
from trapgate.machine.control import UserQuit

INVALID, VMMCALL = vmcb.EXIT_INVALID, vmcb.EXIT["vmmcall"]


def change(place: int, function: Callable[[int], int]) -> Callable[[World], object]:
    def apply(w: World) -> None:
        w[place] = function(w[place])

    return apply


def attributes(value: int) -> Callable[[World], object]:
    return lambda w: w.memory.write_u16(VMCB + vmcb.CS + 2, value)


#: Name -> what makes the VMCB illegal, and why it is refused.
ILLEGAL: dict[str, tuple[Callable[[World], object], str]] = {
    "svme": (change(vmcb.EFER, lambda v: v & ~EFER_SVME), "EFER.SVME is clear"),
    "nw": (change(vmcb.CR0, lambda v: v & ~CR0_CD | CR0_NW), "CR0.NW is set and CR0.CD clear"),
    "cr0": (change(vmcb.CR0, lambda v: v | 1 << 32), "CR0[63:32] are not zero"),
    "cr0 63": (change(vmcb.CR0, lambda v: v | 1 << 63), "CR0[63:32] are not zero"),
    "cr3 52": (change(vmcb.CR3, lambda v: v | 1 << 52), "CR3 has reserved bits set"),
    "cr3 48": (change(vmcb.CR3, lambda v: v | 1 << 48), "CR3 has reserved bits set"),
    "cr4": (change(vmcb.CR4, lambda v: v | 1 << 11), "CR4 has reserved bits set"),
    "cr4 32": (change(vmcb.CR4, lambda v: v | 1 << 32), "CR4 has reserved bits set"),
    "dr6": (change(vmcb.DR6, lambda v: v | 1 << 32), "DR6[63:32] or DR7[63:32] are not zero"),
    "dr7": (change(vmcb.DR7, lambda v: v | 1 << 63), "DR6[63:32] or DR7[63:32] are not zero"),
    "efer 1": (change(vmcb.EFER, lambda v: v | 2), "EFER has reserved bits set"),
    "efer 15": (change(vmcb.EFER, lambda v: v | 1 << 15), "EFER has reserved bits set"),
    "efer 63": (change(vmcb.EFER, lambda v: v | 1 << 63), "EFER has reserved bits set"),
    "pae": (change(vmcb.CR4, lambda v: v & ~CR4_PAE), "long mode without CR4.PAE"),
    "pe": (change(vmcb.CR0, lambda v: v & ~CR0_PE), "long mode without CR0.PE"),
    "l and d": (attributes(0x69B), "long mode with CS.L and CS.D both set"),
    "vmrun": (lambda w: w.let("vmrun"), "the VMRUN intercept bit is clear"),
    "asid": (lambda w: w.u32(vmcb.ASID, 0), "ASID is 0"),
    "asid 64": (lambda w: w.u32(vmcb.ASID, 64), "ASID beyond what the processor has"),
    "asid all": (lambda w: w.u32(vmcb.ASID, 0xFFFF_FFFF), "ASID beyond what the processor has"),
    "iopm": (change(vmcb.IOPM_BASE_PA, lambda v: (1 << 48) - 0x2000),
             "the I/O permission map lies beyond the physical address space"),
    "iopm all": (change(vmcb.IOPM_BASE_PA, lambda v: (1 << 64) - 1),
                 "the I/O permission map lies beyond the physical address space"),
    "msrpm": (change(vmcb.MSRPM_BASE_PA, lambda v: (1 << 48) - 0x1000),
              "the MSR permission map lies beyond the physical address space"),
    "type 1": (change(vmcb.EVENTINJ, lambda v: 1 << 31 | 1 << 8), "an injected event of a reserved type"),
    "vector 2": (change(vmcb.EVENTINJ, lambda v: 1 << 31 | 3 << 8 | 2), "an injected exception whose vector is none"),
    "vector 32": (change(vmcb.EVENTINJ, lambda v: 1 << 31 | 3 << 8 | 32), "an injected exception whose vector is none"),
    "br": (change(vmcb.EVENTINJ, lambda v: 1 << 31 | 3 << 8 | 5),
           "an injected exception that 64-bit code cannot raise"),
}  # fmt: skip

NESTED: dict[str, tuple[Callable[[World], object], str]] = {
    "ncr3 52": (change(vmcb.N_CR3, lambda v: v | 1 << 52), "nCR3 has reserved bits set"),
    "ncr3 51": (change(vmcb.N_CR3, lambda v: v | 1 << 51), "nCR3 has reserved bits set"),
    "pat 2": (change(vmcb.G_PAT, lambda v: v & ~0xFF | 2), "G_PAT has a reserved memory type"),
    "pat 3": (change(vmcb.G_PAT, lambda v: v & ~0xFF00 | 0x300), "G_PAT has a reserved memory type"),
    "pat 80": (change(vmcb.G_PAT, lambda v: v | 1 << 63), "G_PAT has a reserved memory type"),
}


def legal(world: Make) -> World:
    w = world()
    w.guest.enter_long()
    return w.wrap().code(64, "0f 01 d9  vmmcall")


@pytest.mark.parametrize("name", [*ILLEGAL, *NESTED])
def test_each_check(world: Make, name: str) -> None:
    w = legal(world)
    if name in NESTED:
        w.nested()
    apply, why = (NESTED if name in NESTED else ILLEGAL)[name]
    apply(w)
    before, instructions = w.memory.read(VMCB, 0x1000), w.processor.instructions
    assert w.run() == (INVALID, 0, 0, 0)
    assert w.processor.refusal == why
    # The exit fields alone have been written.
    after = bytearray(w.memory.read(VMCB, 0x1000))
    after[vmcb.EXITCODE : vmcb.EXITCODE + 0x20] = before[vmcb.EXITCODE : vmcb.EXITCODE + 0x20]
    assert bytes(after) == before
    assert (w.processor.instructions, w.processor.in_guest) == (instructions, False)
    assert w.processor.exit_counts == {INVALID: 1}


#: Name -> what is legal though it looks otherwise.
LEGAL: dict[str, Callable[[World], object]] = {
    "as it is": lambda w: None,
    "cd and nw": change(vmcb.CR0, lambda v: v | CR0_CD | CR0_NW),
    "last asid": lambda w: w.u32(vmcb.ASID, 63),
    "iopm at the end": change(vmcb.IOPM_BASE_PA, lambda v: (1 << 48) - 0x3000),
    "msrpm at the end": change(vmcb.MSRPM_BASE_PA, lambda v: (1 << 48) - 0x2000 | 0xFFF),
    "pat without nested paging": change(vmcb.G_PAT, lambda v: 0x0303_0303),
    "lma alone does not count": change(vmcb.EFER, lambda v: v & ~EFER_LMA),
    "an event that is not valid": change(vmcb.EVENTINJ, lambda v: 1 << 8 | 0xFF),
    "every clean bit": lambda w: w.u32(vmcb.CLEAN_BITS, 0xFFFF_FFFF),
}


@pytest.mark.parametrize("name", list(LEGAL))
def test_what_is_legal(world: Make, name: str) -> None:
    w = legal(world)
    LEGAL[name](w)
    assert w.run().code == VMMCALL


def test_a_rip_outside_its_segment_is_no_illegal_state(world: Make) -> None:
    # 15.5.1: "a #GP fault is delivered inside the guest".
    w = legal(world).intercept_exceptions(13).go(1 << 47)
    assert w.run() == (0x4D, 0, 0, 0)
    assert w[vmcb.RIP] == 1 << 47
    w = world()
    w.guest.enter_protected()
    w.wrap().intercept_exceptions(13).u32(vmcb.CS + 4, 0x7FFF)
    assert w.run() == (0x4D, 0, 0, 0)


@pytest.mark.parametrize("nested", [False, True])
def test_page_directory_pointers(world: Make, nested: bool) -> None:
    # 15.5.1: reserved bits refuse a guest in PAE mode; under nested paging the walk finds them (15.25.10).
    for change_of, good in ((0, True), (2, False), (0x1E0, False), (1 << 63, False), (1 << 48, False)):
        w = world()
        w.guest.enter_protected("pae")
        w.wrap().code(32, "0f 01 d9  vmmcall").intercept_exceptions(14)
        if nested:
            w.nested()
        root = w.guest.root
        w.memory.write_u64(root + 24, w.memory.read_u64(root + 24) | change_of)
        exit_ = w.run()
        assert exit_.code == (VMMCALL if good or nested else INVALID)
        if not good and not nested:
            assert w.processor.refusal == "the page-directory pointers have reserved bits set"
        if nested and not good:
            w.code(32, "a1 00 00 00 c0  mov eax,[0xc0000000]")
            assert w.run() == (0x4E, 9, 0xC000_0000, 0)


def test_pointers_that_are_not_present_may_hold_anything(world: Make) -> None:
    w = world()
    w.guest.enter_protected("pae")
    w.wrap().code(32, "0f 01 d9  vmmcall")
    w.memory.write_u64(w.guest.root + 24, ~1 & (1 << 64) - 1)
    assert w.run().code == VMMCALL


def test_fields_of_missing_features_are_ignored(world: Make) -> None:
    """Family 0Fh has neither nested paging nor LBR virtualization: reserved bits that should be zero."""
    w = world(profile=OPTERON_2006)
    w.guest.enter_long()
    w.wrap().code(64, "0f 01 d9  vmmcall")
    w[vmcb.NESTED_CONTROL] = 1
    w[vmcb.LBR_CONTROL] = 1
    w[vmcb.N_CR3] = 1 << 63
    w[vmcb.DBGCTL] = 1
    assert w.run().code == VMMCALL
    assert w.processor.read_msr(0x1D9) == 0


# -- garbage

CASES = int(os.environ.get("TRAPGATE_RANDOM_VMCB", "300"))
_FIELDS = (
    vmcb.INTERCEPT_CR, vmcb.INTERCEPT_EXCEPTIONS, vmcb.PAUSE_FILTER_THRESHOLD, vmcb.IOPM_BASE_PA, vmcb.MSRPM_BASE_PA,
    vmcb.TSC_OFFSET, vmcb.ASID, vmcb.VIRTUAL_INTERRUPT, vmcb.INTERRUPT_SHADOW, vmcb.NESTED_CONTROL, vmcb.EVENTINJ,
    vmcb.N_CR3, vmcb.LBR_CONTROL, vmcb.CLEAN_BITS, vmcb.ES, vmcb.CS, vmcb.SS, vmcb.DS, vmcb.GDTR, vmcb.LDTR, vmcb.IDTR,
    vmcb.TR, vmcb.CPL & ~7, vmcb.EFER, vmcb.CR4, vmcb.CR3, vmcb.CR0, vmcb.DR7, vmcb.DR6, vmcb.RFLAGS, vmcb.RIP,
    vmcb.RSP, vmcb.RAX, vmcb.CR2, vmcb.G_PAT, vmcb.DBGCTL,
)  # fmt: skip


@pytest.mark.parametrize("part", range(4))
def test_random_vmcbs_never_raise_a_host_error(world: Make, part: int) -> None:
    """Fields at random over a legal VMCB, few at a time or all; every exit is one that the manual names."""

    def fresh() -> World:
        w = world(LATER)
        w.guest.enter_long()
        return w.wrap().code(64, "0f 01 d9  vmmcall\n" * 8)

    w = fresh()
    base = w.memory.read(VMCB, 0x1000)
    invalid = ran = 0
    for seed in range(part, CASES, 4):
        r = random.Random(seed)
        w.memory.write(VMCB, base)
        for place in r.sample(_FIELDS, r.choice((1, 1, 2, 3, 8, len(_FIELDS)))):
            w[place] = r.choice((0, (1 << 64) - 1, r.getrandbits(64), r.getrandbits(16), 1 << r.randrange(64),
                                 w[place] ^ 1 << r.randrange(64)))  # fmt: skip
            if vmcb.ES <= place <= vmcb.TR:
                w[place + 8] = r.getrandbits(r.choice((1, 20, 64)))
        if r.randrange(4):  # else it is often refused for this alone
            w.intercept("vmrun", "vmmcall", "shutdown", "hlt", "intr")
            w.u32(vmcb.ASID, w.memory.read_u32(VMCB + vmcb.ASID) % 64)
            w.intercept_exceptions(*range(32))
        w.after(3000, lambda w=w: w.guest.control.stop(UserQuit()))
        reason = w.processor.run_guest(VMCB)
        if reason != "vmexit":
            assert reason in ("unimplemented", "halted", "triple-fault", "request"), (seed, reason)
            w = fresh()
            continue
        code = w.exit().code
        invalid += code == INVALID
        ran += code != INVALID
        assert code in (INVALID, vmcb.EXIT_NPF) or code < 0x8D, (seed, hex(code))
    assert invalid > CASES // 40
    assert ran > CASES // 40
