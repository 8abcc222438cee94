"""A guest that runs anything at all at CPL 0 changes nothing outside its frames, and raises no error of the host.

Guest-physical 0 to 8_0000h lie at host-physical 10_0000h to 18_0000h; everything else holds a pattern. Its code is
random, with system instructions among it more often than chance would have them; its state is random too, as far as a
hypervisor may let it be. Under nested paging that is everything. Under a plain ASID the page tables are the
hypervisor's: there CR3, paging and what addresses memory physically are intercepted (APM vol. 2, 15.5, 15.16, 15.25).

TRAPGATE_SVM_ATTACK=1000 for a long run.
"""

from __future__ import annotations

import hashlib
import os
import random

import pytest

from engine.harness import P, U, W
from svm.conftest import LATER, Make
from svm.world import NESTED_TABLES, VMCB, World
from trapgate.arch import vmcb
from trapgate.arch.registers import (
    CR0_AM,
    CR0_CD,
    CR0_EM,
    CR0_ET,
    CR0_MP,
    CR0_NE,
    CR0_PE,
    CR0_PG,
    CR0_TS,
    CR0_WP,
    CR4_DE,
    CR4_OSFXSR,
    CR4_OSXMMEXCPT,
    CR4_PAE,
    CR4_PGE,
    CR4_PSE,
    CR4_PVI,
    CR4_TSD,
    CR4_VME,
    EFER_LME,
    EFER_NXE,
    EFER_SCE,
    EFER_SVME,
)

FRAMES, SIZE = 0x10_0000, 0x8_0000
ROUNDS = int(os.environ.get("TRAPGATE_SVM_ATTACK", "10"))
TABLES_END = 0x6_0000
A_AND_D = 0x60

#: Intercepts without which a guest could address host memory physically, or not be stopped.
ALWAYS = ("vmrun", "vmload", "vmsave", "skinit", "stgi", "clgi", "rsm", "shutdown", "intr", "hlt", "mwait", "ioio",
          "msr", "ferr_freeze")  # fmt: skip
_SYSTEM = (
    "0f20c0", "0f22c0", "0f20d8", "0f22d8", "0f20e0", "0f22e0", "0f23f8", "0f01d8", "0f01d9", "0f01da", "0f01db",
    "0f01dc", "0f01dd", "0f01df", "0f013b", "0f011b", "0f0113", "0f00d0", "0f00d8", "0f30", "0f32", "0fa2", "0f31",
    "9c", "9d", "cf", "48cf", "cd80", "cc", "f1", "fb", "fa", "f4", "0f06", "0faa", "8ed0", "8ed8", "ea008000001800",
    "ff1b", "ff2b", "0f05", "0f07", "0f34", "0f35", "0f01f8", "488903", "f348ab", "f3a4", "6c", "6e", "ec", "ee",
    "0fae03", "0fae0b", "dd33", "dd23", "c8100005", "480fc70b", "f390", "0f0b", "dbe3", "9b", "e2f0", "ebe0",
    "0f2b03",
)  # fmt: skip
SYSTEM = [bytes.fromhex(word) for word in _SYSTEM]


def code(r: random.Random, size: int) -> bytes:
    out = b""
    while len(out) < size:
        out += r.choice(SYSTEM) if r.random() < 0.4 else r.randbytes(r.randrange(1, 12))
    return out[:size]


def number(r: random.Random) -> int:
    return r.choice((0, 1, r.randrange(SIZE), r.randrange(SIZE) & ~0xFFF, r.getrandbits(16), r.getrandbits(32),
                     r.getrandbits(64), VMCB, 0xFFFF_FFFF, (1 << 64) - 1, NESTED_TABLES))  # fmt: skip


def flags(r: random.Random, *choices: int) -> int:
    return sum(bit for bit in choices if r.random() < 0.5)


def host_memory(w: World, entry_size: int) -> str:
    """A digest of everything that is not the guest's; of page tables without their A and D bits."""
    data = bytearray(w.memory.read(0, 4 << 20))
    data[FRAMES : FRAMES + SIZE] = bytes(SIZE)
    data[VMCB : VMCB + 0x1000] = bytes(0x1000)
    for first, last in ((0x4_0000, TABLES_END), (NESTED_TABLES, NESTED_TABLES + 0x1_0000)):
        for place in range(first, last, entry_size if first == 0x4_0000 else 8):
            data[place] &= ~A_AND_D & 0xFF
    return hashlib.sha256(data).hexdigest()


class Attacker(World):
    """A world that can begin again."""

    segments: bytes
    descriptor_tables: bytes
    first_frames: bytes


def prepare(world: Make, r: random.Random, nested: bool, tables: str) -> Attacker:
    w = Attacker(world(LATER).guest)
    g, memory = w.guest, w.memory
    if tables == "long":
        g.enter_long()
    else:
        g.enter_protected(tables)
    w.wrap()
    w.segments = w.memory.read(VMCB + vmcb.ES, 0x40)
    w.descriptor_tables = w.memory.read(VMCB + vmcb.GDTR, 0x30)
    if nested:
        w.nested()
        for page in range(0, 0x30_0000, 0x1000):
            w.map_nested(page, FRAMES + page if page < SIZE else 0, (P | W | U) if page < SIZE else 0)
    memory.write(FRAMES, memory.read(0, SIZE))
    if not nested:
        for page in range(0, SIZE, 0x1000):
            rights = P | W | U
            g.map(page, FRAMES + page, rights if r.random() < 0.9 else r.choice((0, P, P | W, P | U)))
        assert g._next_table <= TABLES_END
    else:
        memory.write(0, r.randbytes(SIZE))
    for place in (0x8_0000, 0x18_0000, 0x38_0000):
        memory.write(place, r.randbytes(0x1_0000))
    memory.write(FRAMES + 0x8000, code(r, 0x4000))
    w.first_frames = memory.read(FRAMES, SIZE)
    return w


def scramble(w: Attacker, r: random.Random, nested: bool, tables: str) -> None:
    """State that the hypervisor lets the guest have, and intercepts that it may or may not want."""
    w.memory.write(FRAMES + 0x8000 + r.randrange(0x3F00), code(r, 0x100))
    for place in (vmcb.RSP, vmcb.RAX, vmcb.CR2):
        w[place] = number(r)
    if r.random() < 0.7:
        w[vmcb.RSP] = 0x7000 - 8 * r.randrange(64)
    for name in w.guest.registers():
        if name not in ("rsp", "rax", "rip", "rflags"):
            w.guest.set(**{name: number(r)})
    w[vmcb.RIP] = 0x8000 + r.randrange(0x4000) if r.random() < 0.9 else number(r)
    w[vmcb.RFLAGS] = r.getrandbits(22) & r.getrandbits(22) | 2
    if r.random() < 0.5:
        w[vmcb.RFLAGS] &= ~(1 << 17 | 1 << 8)
    w.memory.write(VMCB + vmcb.ES, w.segments)
    w.memory.write(VMCB + vmcb.GDTR, w.descriptor_tables)
    for place in (vmcb.ES, vmcb.CS, vmcb.SS, vmcb.DS):
        if r.random() < 0.15:
            w[place], w[place + 8] = r.getrandbits(64), number(r)
    for place in (vmcb.GDTR, vmcb.IDTR):
        if r.random() < 0.1:
            w[place], w[place + 8] = r.getrandbits(48), number(r)
    w.u8(vmcb.CPL, r.choice((0, 0, 0, 3, 1)))
    w[vmcb.DR7] = 0x400 if r.random() < 0.8 else r.getrandbits(32)
    w[vmcb.VIRTUAL_INTERRUPT] = r.getrandbits(40) & ~vmcb.V_INTR_MASKING | vmcb.V_INTR_MASKING
    w[vmcb.INTERRUPT_SHADOW] = r.getrandbits(1)
    w[vmcb.TSC_OFFSET] = r.getrandbits(64)
    if r.random() < 0.3:
        w.inject(r.choice((0, 2, 3, 4)), r.randrange(32), r.choice((None, 0, r.getrandbits(16))))
    w.u8(vmcb.TLB_CONTROL, r.choice((0, 0, 1, 3, 7)))
    cr0 = flags(r, CR0_MP, CR0_EM, CR0_TS, CR0_NE, CR0_WP, CR0_AM, CR0_CD) | CR0_ET
    cr4 = flags(r, CR4_VME, CR4_PVI, CR4_TSD, CR4_DE, CR4_PGE, CR4_OSFXSR, CR4_OSXMMEXCPT)
    w.u32(vmcb.INTERCEPT_MISC1, r.getrandbits(32)).u32(vmcb.INTERCEPT_MISC2, r.getrandbits(13))
    w.intercept_exceptions(*(v for v in range(32) if r.random() < 0.3))
    w.u32(vmcb.INTERCEPT_CR, r.getrandbits(32)).u32(vmcb.INTERCEPT_DR, r.getrandbits(32))
    w.intercept(*ALWAYS)
    if nested:
        w[vmcb.CR0] = cr0 | flags(r, CR0_PG, CR0_PE)
        w[vmcb.CR4] = cr4 | flags(r, CR4_PAE, CR4_PSE)
        w[vmcb.EFER] = EFER_SVME | flags(r, EFER_LME, EFER_NXE, EFER_SCE)
        w[vmcb.CR3] = r.choice((w.guest.root, number(r)))
        if r.random() < 0.6:
            w[vmcb.CR0] |= CR0_PG | CR0_PE
            w[vmcb.CR4] |= CR4_PAE
            w[vmcb.CR3] = w.guest.root
            w[vmcb.EFER] = EFER_SVME | EFER_NXE | EFER_SCE | (EFER_LME if tables == "long" else 0)
        return
    w.intercept("task_switch", "cr0_sel_write")
    w.u32(vmcb.INTERCEPT_CR, w.memory.read_u32(VMCB + vmcb.INTERCEPT_CR) | 1 << 16 | 1 << 19 | 1 << 20)
    protected = CR0_PE if tables == "long" or r.random() < 0.5 else 0  # else paged real mode
    w[vmcb.CR0] = cr0 | CR0_PG | protected
    w[vmcb.CR4] = cr4 | {"long": CR4_PAE, "pae": CR4_PAE, "two-level": CR4_PSE}[tables]
    w[vmcb.EFER] = EFER_SVME | EFER_NXE | flags(r, EFER_SCE) | (EFER_LME if tables == "long" else 0)
    w[vmcb.CR3] = w.guest.root


MODES = pytest.mark.parametrize(
    ("nested", "tables"),
    [(True, "long"), (True, "pae"), (False, "long"), (False, "pae"), (False, "two-level")],
)


def attack(w: Attacker, r: random.Random, nested: bool, tables: str, rounds: int) -> list[tuple[int, ...]]:
    """Every exit, with rip, instructions and cycles."""
    trace = []
    for _ in range(rounds):
        if r.random() < 0.3:
            w.memory.write(FRAMES, w.first_frames)
        scramble(w, r, nested, tables)
        w.after(20_000, lambda w=w: w.processor.set_intr(True))
        for _ in range(12):
            reason = w.processor.run_guest(VMCB)
            assert reason == "vmexit", (reason, w.processor.stop_report)
            exit_ = w.exit()
            trace.append((*exit_, w[vmcb.RIP], w.processor.instructions, w.guest.clock.now))
            if exit_.code in (vmcb.EXIT["intr"], vmcb.EXIT_INVALID, vmcb.EXIT["shutdown"]):
                break
            if w[vmcb.NEXT_RIP]:
                w[vmcb.RIP] = w[vmcb.NEXT_RIP]
            elif exit_.code < 0x60 and r.random() < 0.5:
                vector = exit_.code & 31
                w.inject(3, vector, exit_.info1 & 0xFFFF if vector in (10, 11, 12, 13, 14) else None)
            else:
                w[vmcb.RIP] = 0x8000 + r.randrange(0x4000)
        w.processor.set_intr(False)
    return trace


@MODES
def test_random_guests_stay_in_their_frames(world: Make, nested: bool, tables: str) -> None:
    executed = 0
    for seed in range(max(ROUNDS // 5, 1)):
        r = random.Random(f"{nested} {tables} {seed}")
        w = prepare(world, r, nested, tables)
        entry_size = 4 if tables == "two-level" else 8
        before = host_memory(w, entry_size)
        trace = attack(w, r, nested, tables, 150)
        executed += w.processor.instructions
        assert host_memory(w, entry_size) == before, f"seed {seed}: memory of the host has changed"
        assert len({entry[0] for entry in trace}) > 10
    assert executed > 1000


class Watch:
    """An observer that only makes the run a stepped one."""

    def before(self) -> None:
        pass

    def after(self) -> None:
        pass


@MODES
def test_random_guests_count_the_same_in_steps(world: Make, nested: bool, tables: str) -> None:
    for seed in range(max(ROUNDS // 10, 1)):
        traces = []
        for stepped in (False, True):
            r = random.Random(f"steps {nested} {tables} {seed}")
            w = prepare(world, r, nested, tables)
            if stepped:
                w.processor.observer = Watch()
            traces.append(attack(w, r, nested, tables, 60))
        for i, (plain, other) in enumerate(zip(*traces, strict=False)):
            assert plain == other, f"seed {seed}, exit {i}"
        assert len(traces[0]) == len(traces[1])
