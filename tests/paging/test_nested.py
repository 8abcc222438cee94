"""The two-dimensional walk (APM vol. 2, 15.25) against the naive one: every format of the guest's tables under every
format of the host's.
"""

from __future__ import annotations

import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from trapgate.arch import layout
from trapgate.arch.paging import PF_U, PF_W
from trapgate.arch.vmcb import EXIT_NPF
from trapgate.cpu.faults import Fault, VmExit
from trapgate.engine.processor import Processor

from . import naive
from .nested_tables import GUESTS, HOSTS, NESTED_AT, REGIONS, HostTables, World, install_world, random_world
from .tables import TABLES_AT, Setup, install, translate
from .test_walk import ACCESSES, PAGE_FAULT, accesses

KINDS = ("itlb_walk_references", "dtlb_walk_references", "itlb_nested_references", "dtlb_nested_references")


def _expected(processor: Processor, world: World, linear: int, access: naive.Access) -> naive.Outcome:
    def read(physical: int, size: int) -> int:
        if not processor.memory.is_ram(physical, size):
            return (1 << 8 * size) - 1
        return int.from_bytes(processor.memory.read(physical, size), "little")

    return naive.translate_nested(read, world.guest.registers, world.host, linear, access)


def _tables(processor: Processor) -> list[bytes]:
    return [bytes(processor.memory.read(at, size)) for at, size in REGIONS]


def _updated(tables: list[bytes], updates: dict[int, tuple[int, int]]) -> list[bytes]:
    changed = [bytearray(table) for table in tables]
    for place, (entry, size) in updates.items():
        region = next(i for i, (at, length) in enumerate(REGIONS) if at <= place < at + length)
        offset = place - REGIONS[region][0]
        changed[region][offset : offset + size] = entry.to_bytes(size, "little")
    return [bytes(table) for table in changed]


def _counts(processor: Processor) -> list[int]:
    return [processor.state.counter(name) for name in KINDS]


def _seen(got: Fault) -> tuple[int, int | None, int | None]:
    """(vector or exit code, error code or EXITINFO1, address)."""
    if isinstance(got, VmExit):
        return got.code, got.info1, got.info2
    return got.vector, got.error, got.address


def _check(processor: Processor, world: World, linear: int, access: naive.Access, first: bool) -> naive.Outcome:
    expected = _expected(processor, world, linear, access)
    before, counts = _tables(processor), _counts(processor)
    peeked = processor._peek_page(linear)
    assert _tables(processor) == before, "peeking changed the tables"
    got = translate(processor, linear, access)
    where = f"{access} of {linear:#x} with {world.guest.registers} under {world.host}"
    result = expected.result
    if isinstance(result, naive.Translation):
        assert not isinstance(got, Fault), f"{where}: wanted {result.physical:#x}, got {got}"
        assert got == result.physical, f"{where}: wanted {result.physical:#x}, got {got:#x}"
        page = got & ~0xFFF if processor.memory.is_ram(got) else None
        assert peeked == page, where
        state = processor.state
        if first:
            size = min(result.page_size, 2 << 20)
            assert state.get(layout.WALK_MASK) == (1 << 64) - size, where
            assert bool(state.get(layout.WALK_RIGHTS) & 8) == result.is_global, where
    else:
        assert isinstance(got, Fault), f"{where}: wanted {result}, got {got:#x}"
        if isinstance(result, naive.NestedFault):
            wanted = (EXIT_NPF, result.info1, result.guest_physical)
        else:
            wanted = (PAGE_FAULT, result.error, linear)
        assert _seen(got) == wanted, f"{where}: wanted {wanted}, got {got}"
    assert _tables(processor) == _updated(before, expected.updates), f"{where}: accessed or dirty bits"
    if first:
        side = 0 if access.fetch else 1
        wanted_counts = list(counts)
        wanted_counts[side] += expected.references
        wanted_counts[side + 2] += expected.nested_references
        assert _counts(processor) == wanted_counts, where
    return expected


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("guest", GUESTS)
@settings(max_examples=30, derandomize=True, database=None, deadline=None,
          suppress_health_check=[HealthCheck.function_scoped_fixture])  # fmt: skip
@given(seed=st.integers(0, 1 << 32), wanted=accesses)
def test_translations_agree(
    processor: Processor, guest: str, host: str, seed: int, wanted: list[tuple[naive.Access, int]]
) -> None:
    world = random_world(seed, guest, host)
    install_world(processor, world)
    for number, (access, which) in enumerate(wanted):
        linear = world.guest.linear[which % len(world.guest.linear)]
        _check(processor, world, linear, access, first=number == 0)


def test_every_kind_of_outcome_occurs(processor: Processor) -> None:
    """The random tables reach every error code at both places, so that the test above means something."""
    seen: set[object] = set()
    for guest in GUESTS:
        for host in HOSTS:
            for seed in range(60):
                world = random_world(seed, guest, host)
                install_world(processor, world)
                for access in ACCESSES:
                    result = _expected(processor, world, world.guest.linear[0], access).result
                    if isinstance(result, naive.NestedFault):
                        seen.add(result.info1)
                    else:
                        seen.add(result.page_size if isinstance(result, naive.Translation) else -result.error)
    final = {0x1_0000_0000 | error for error in (4, 5, 6, 7, 0xD, 0xF, 0x14, 0x15, 0x1D)}
    table = {0x2_0000_0000 | error for error in (6, 7, 0xF)}
    guest_errors = {-error for error in (0, 2, 3, 4, 5, 6, 7, 9, 11, 13, 15, 16, 17, 20, 21, 25, 29)}
    assert seen == final | table | guest_errors | {4 << 10, 2 << 20, 4 << 20, 1 << 30}


LINEAR, GUEST_PAGE, HOST_PAGE = 0x40_0000, 0x5000, 0x8000
#: Guest-physical addresses of the guest's entries for LINEAR, and host-physical ones of the nested leaf of GUEST_PAGE.
GUEST_LEAF = TABLES_AT + 3 * 4096


def _plain_world(guest_rights: int = 7, nested_rights: int = 7, write_protect: bool = True) -> tuple[World, int]:
    """Four levels of 4 KB pages in both; LINEAR leads to GUEST_PAGE and that to HOST_PAGE. Also: the place of the
    nested leaf.
    """
    tables = bytearray(16 * 4096)
    for level, index in enumerate((0, 0, 2)):
        at = level * 4096 + index * 8
        tables[at : at + 8] = (TABLES_AT + (level + 1) * 4096 | 7).to_bytes(8, "little")
    tables[3 * 4096 : 3 * 4096 + 8] = (GUEST_PAGE | guest_rights).to_bytes(8, "little")
    registers = naive.Registers(cr3=TABLES_AT, write_protect=write_protect, pdptes=None)
    nested = HostTables("long", random.Random(0))
    for page in range(16):
        nested.map(TABLES_AT + 4096 * page, TABLES_AT + 4096 * page)
    nested.map(GUEST_PAGE, HOST_PAGE)
    place = nested.entries[-1][0]
    nested.put(place, HOST_PAGE | nested_rights)
    world = World(
        Setup(registers, [LINEAR], bytes(tables)), naive.Registers(cr3=NESTED_AT), bytes(nested.bytes), TABLES_AT
    )
    return world, NESTED_AT + place


def test_a_cold_walk_makes_24_references(processor: Processor) -> None:
    """Bhargava et al., ASPLOS 2008, figure 2: four levels in four, five nested walks; 20 of them are nested."""
    world, _ = _plain_world()
    install_world(processor, world)
    before = _counts(processor)
    assert translate(processor, LINEAR, naive.Access()) == HOST_PAGE
    assert [b - a for a, b in zip(before, _counts(processor), strict=True)] == [0, 24, 0, 20]
    before = _counts(processor)
    assert translate(processor, LINEAR, naive.Access(fetch=True)) == HOST_PAGE
    assert [b - a for a, b in zip(before, _counts(processor), strict=True)] == [24, 0, 20, 0]


def test_without_write_protection_a_supervisor_writes_what_the_nested_table_allows(processor: Processor) -> None:
    write = naive.Access(write=True)
    world, _ = _plain_world(guest_rights=5, write_protect=False)
    install_world(processor, world)
    assert translate(processor, LINEAR, naive.Access()) == HOST_PAGE
    assert translate(processor, LINEAR, write) == HOST_PAGE
    world, _ = _plain_world(guest_rights=5, nested_rights=5, write_protect=False)
    install_world(processor, world)
    for access in (naive.Access(), write, naive.Access(), write):
        got = translate(processor, LINEAR, access)
        if not access.write:
            assert got == HOST_PAGE
        else:
            assert isinstance(got, Fault)
            assert _seen(got) == (EXIT_NPF, 0x1_0000_0007, GUEST_PAGE)


def test_a_dirty_page_that_the_host_protects_is_not_written(processor: Processor) -> None:
    """Logging of dirty pages by taking W away: D is still set, and the write must fault all the same."""
    world, place = _plain_world(guest_rights=0x67, nested_rights=0x65)
    install_world(processor, world)
    for _ in range(2):
        assert translate(processor, LINEAR + 8, naive.Access()) == HOST_PAGE + 8
        got = translate(processor, LINEAR + 8, naive.Access(write=True, user=True))
        assert isinstance(got, Fault)
        assert _seen(got) == (EXIT_NPF, 0x1_0000_0007, GUEST_PAGE + 8)
    processor.memory.write_u64(place, HOST_PAGE | 7)  # more rights need no flush; D comes from the walk
    assert translate(processor, LINEAR, naive.Access(write=True, user=True)) == HOST_PAGE
    assert processor.memory.read_u64(place) == HOST_PAGE | 0x67


@pytest.mark.parametrize(
    ("guest_bits", "nested_bits", "misses"), [(0, 0, 2), (0x40, 0, 2), (0, 0x40, 2), (0x40, 0x40, 1)]
)
def test_the_first_write_walks_again_unless_both_are_dirty(
    processor: Processor, guest_bits: int, nested_bits: int, misses: int
) -> None:
    world, place = _plain_world(guest_rights=0x27 | guest_bits, nested_rights=0x27 | nested_bits)
    install_world(processor, world)
    before = processor.state.counter("dtlb_misses")
    for write in (False, True, True):
        assert translate(processor, LINEAR, naive.Access(write=write)) == HOST_PAGE
    assert processor.state.counter("dtlb_misses") - before == misses
    assert processor.memory.read_u64(place) & 0x60 == 0x60
    assert processor.memory.read_u64(GUEST_LEAF) & 0x60 == 0x60


def test_a20_masks_nothing_of_a_guest_with_nested_paging(processor: Processor) -> None:
    """Bit 20 of the tables' addresses is set here."""
    world, _ = _plain_world()
    install_world(processor, world)
    processor.state.set(layout.A20_MASK, ~(1 << 20))
    assert translate(processor, LINEAR, naive.Access()) == HOST_PAGE
    assert processor._peek_page(LINEAR) == HOST_PAGE


def test_nested_walk_by_itself(processor: Processor) -> None:
    """What VMRUN's and IOIO's helpers call: a guest-physical address."""
    world, place = _plain_world()
    install_world(processor, world)
    state = processor.state
    assert processor.native_nested_walk(state.address, GUEST_PAGE + 5, PF_W | PF_U) == 1
    assert (state.get(layout.WALK_PAGE), state.get(layout.WALK_MASK)) == (HOST_PAGE, (1 << 64) - 4096)
    assert processor.memory.read_u64(place) == HOST_PAGE | 0x67
    assert processor.native_nested_walk(state.address, 0x7777_8000, PF_U) == 0
    fault = [state.get(field) for field in (layout.FAULT_VECTOR, layout.FAULT_ERROR, layout.FAULT_ADDRESS)]
    assert fault == [EXIT_NPF, 4, 0x7777_8000]


def test_tables_at_address_0_get_their_accessed_bits(processor: Processor) -> None:
    """The first entry of a table at physical address 0 is an entry like others (native paging)."""
    registers = naive.Registers(cr3=0)
    install(processor, Setup(registers, [], b""))
    memory = processor.memory
    for level in range(4):
        memory.write_u64(level * 4096, ((level + 1) * 4096 if level < 3 else 0x5000) | 7)
    assert translate(processor, 0x123, naive.Access()) == 0x5123
    assert [memory.read_u64(level * 4096) & 0x60 for level in range(4)] == [0x20] * 4
