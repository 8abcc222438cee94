"""L1 as an attacker: VMCBs, permission maps, nested tables and code of random bytes.

Whatever comes, the hypervisor goes on or ends this one virtual machine, and no byte of the host that is not L1's
changes but for tables that the hypervisor writes itself. `TRAPGATE_NESTED_SEEDS=5000` for a long run.
"""

from __future__ import annotations

import os
import random

import pytest

from trapgate.arch import vmcb
from trapgate.boards.host import HostMachine
from trapgate.engine.handlers import HandlerStore
from trapgate.vmm.memory.guest import GuestMemory
from trapgate.vmm.vm import VirtualMachine

from .world import (
    DATA,
    IOPM,
    L2_CODE,
    L2_TABLES,
    MEMORY,
    NESTED_TABLES,
    VMCB,
    Image,
    make_virtual,
    random_instructions,
    run_virtual,
)

SEEDS = int(os.environ.get("TRAPGATE_NESTED_SEEDS", "30"))
VICTIM = 2 << 20


def hostile_image(rng: random.Random) -> Image:
    """A VMCB that passes VMRUN's checks as often as not; all else random."""
    image = Image()
    image.put(L2_CODE, random_instructions(rng) if rng.random() < 0.5 else rng.randbytes(64))
    kind = rng.random()
    if kind < 0.2:
        image.put(VMCB, rng.randbytes(vmcb.SIZE))
    else:
        for _ in range(rng.choice((1, 4, 16, 64))):
            image.u64(VMCB + 8 * rng.randrange(0x698 // 8), _value(rng))
        image.u64(VMCB + vmcb.INTERCEPT_MISC2, rng.getrandbits(13) | vmcb.misc2("vmrun"))
    image.put(IOPM, rng.randbytes(0x5000))
    for table in (L2_TABLES, NESTED_TABLES):
        for _ in range(rng.choice((0, 4, 64, 1024))):
            image.u64(table + 8 * rng.randrange(0x4000 // 8), _value(rng) | rng.choice((0, 7, 7, 0x87)))
    image.put(DATA, rng.randbytes(0x100))
    return image


def _value(rng: random.Random) -> int:
    """Numbers that mean something, or none: addresses inside L1's memory, inside the host's, flags."""
    return rng.choice((
        rng.getrandbits(64), rng.getrandbits(32), rng.randrange(MEMORY) & ~0xFFF, rng.randrange(16 << 20) & ~0xFFF,
        1 << rng.randrange(64), 0, (1 << 64) - 1, rng.getrandbits(52) & ~0xFFF | 7,
    ))  # fmt: skip


@pytest.mark.parametrize("seed", range(SEEDS))
def test_nothing_of_the_host_is_touched(seed: int, handlers: HandlerStore) -> None:
    vm = make_virtual(("nested", "nested-tagged")[seed % 2], handlers)
    host = vm.backend
    assert isinstance(host, HostMachine)
    victim = GuestMemory(vm.frames, VICTIM, "victim")
    pattern = random.Random(-seed).randbytes(4096)
    for address in range(0, victim.size - 4096, 4096):
        if victim.is_page(address >> 12):
            victim.write(address, pattern)
    maps = [(vm.permissions.ports, vmcb.IOPM_SIZE), (vm.permissions.msrs, vmcb.MSRPM_SIZE)]
    before = [host.memory.read(*place) for place in maps]
    outcome = run_virtual(hostile_image(random.Random(seed)), vm)
    assert outcome.reason.startswith(("GuestExit", "endless", "triple-fault", "halted", "device", "unimplemented"))
    for address in range(0, victim.size - 4096, 4096):
        if victim.is_page(address >> 12):
            assert victim.read(address, 4096) == pattern, f"seed {seed}: the victim's page {address:#x}"
    assert [host.memory.read(*place) for place in maps] == before
    _check_inner_tables(vm)


def _check_inner_tables(vm: VirtualMachine) -> None:
    """Every entry of the tables that L2 runs on maps a frame of L1's."""
    nested, frames, memory = vm.vcpu.nested, vm.frames, vm.backend.memory
    if not nested.entries:
        return
    pending = [(nested.tables.root, 4)]
    while pending:
        table, level = pending.pop()
        assert frames.owner(table) == nested.tables.owner
        for i in range(512):
            entry = memory.read_u64(table + 8 * i)
            if not entry & 1:
                continue
            if level > 1 and not entry & 0x80:
                pending.append((entry & 0xF_FFFF_FFFF_F000, level - 1))
                continue
            size = 4096 if level == 1 else 2 << 20
            first = entry & 0xF_FFFF_FFFF_F000 & ~(size - 1)
            for frame in range(first, first + size, 4096):
                assert frames.owner(frame) == "guest"
