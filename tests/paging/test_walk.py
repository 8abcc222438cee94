"""The processor's page walk against the naive model: addresses, faults, accessed and dirty bits, references counted."""

from __future__ import annotations

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from trapgate.cpu.faults import Fault
from trapgate.engine.processor import Processor

from . import naive
from .tables import TABLES_AT, Setup, install, random_setup, translate

PAGE_FAULT = 14
ACCESSES = [
    naive.Access(write=write, user=user, fetch=fetch)
    for user in (False, True)
    for write, fetch in ((False, False), (True, False), (False, True))
]
accesses = st.lists(st.tuples(st.sampled_from(ACCESSES), st.integers(0, 7)), min_size=1, max_size=6)


def _expected(
    processor: Processor, setup: Setup, linear: int, access: naive.Access
) -> naive.Translation | naive.PageFault:
    def read(physical: int, size: int) -> int:
        if not processor.memory.is_ram(physical, size):
            return (1 << 8 * size) - 1
        return int.from_bytes(processor.memory.read(physical, size), "little")

    return naive.translate(read, setup.registers, linear, access)


def _references(processor: Processor) -> int:
    state = processor.state
    return state.counter("dtlb_walk_references") + state.counter("itlb_walk_references")


def _check(processor: Processor, setup: Setup, linear: int, access: naive.Access, first: bool) -> None:
    expected = _expected(processor, setup, linear, access)
    before = processor.memory.read(TABLES_AT, len(setup.tables))
    references = _references(processor)
    got = translate(processor, linear, access)
    after = processor.memory.read(TABLES_AT, len(setup.tables))
    where = f"{access} of {linear:#x} with {setup.registers}"
    if isinstance(expected, naive.PageFault):
        assert isinstance(got, Fault), f"{where}: wanted a page fault, got {got:#x}"
        assert (got.vector, got.error, got.address) == (PAGE_FAULT, expected.error, linear), where
        assert after == before, f"{where}: a fault changed the tables"
    else:
        assert not isinstance(got, Fault), f"{where}: wanted {expected.physical:#x}, got error code {got.error:#x}"
        assert got == expected.physical, f"{where}: wanted {expected.physical:#x}, got {got:#x}"
        tables = bytearray(before)
        for place, entry in expected.updates.items():
            size = 8 if setup.registers.pae else 4
            tables[place - TABLES_AT : place - TABLES_AT + size] = entry.to_bytes(size, "little")
        assert after == tables, f"{where}: accessed or dirty bits"
    if first:
        assert _references(processor) - references == expected.references, where


@settings(max_examples=400, derandomize=True, database=None, deadline=None,
          suppress_health_check=[HealthCheck.function_scoped_fixture])  # fmt: skip
@given(seed=st.integers(0, 1 << 32), wanted=accesses)
def test_translations_agree(processor: Processor, seed: int, wanted: list[tuple[naive.Access, int]]) -> None:
    setup = random_setup(seed)
    install(processor, setup)
    for number, (access, which) in enumerate(wanted):
        linear = setup.linear[which % len(setup.linear)]
        _check(processor, setup, linear, access, first=number == 0)


def test_every_kind_of_outcome_occurs(processor: Processor) -> None:
    """The random tables reach every error code and page size, so that the test above means something."""
    seen: set[object] = set()
    for seed in range(600):
        setup = random_setup(seed)
        install(processor, setup)
        for access in ACCESSES:
            outcome = _expected(processor, setup, setup.linear[0], access)
            seen.add(outcome.error if isinstance(outcome, naive.PageFault) else (outcome.page_size, outcome.is_global))
            _check(processor, setup, setup.linear[0], access, first=False)
    sizes = {size for size, _ in (x for x in seen if isinstance(x, tuple))}
    assert sizes == {4 << 10, 2 << 20, 4 << 20, 1 << 30}
    errors = {x for x in seen if isinstance(x, int)}
    # Not present, protection and reserved bits, for reads, writes and fetches, by supervisor and user.
    assert {0, 2, 4, 6, 16, 20} <= errors
    assert {3, 5, 7, 17, 21} <= errors
    assert {9, 11, 13, 15, 25, 29} <= errors


def test_a_changed_entry_is_seen_after_a_flush(processor: Processor) -> None:
    tables = bytearray(4 * 4096)
    for level, index in enumerate((0, 0, 2)):
        at = level * 4096 + index * 8
        tables[at : at + 8] = (TABLES_AT + (level + 1) * 4096 | 7).to_bytes(8, "little")
    tables[3 * 4096 : 3 * 4096 + 8] = (0x5000 | 7).to_bytes(8, "little")
    install(processor, Setup(naive.Registers(cr3=TABLES_AT), [0x40_0000], bytes(tables)))
    assert translate(processor, 0x40_0123, naive.Access()) == 0x5123
    processor.memory.write_u64(TABLES_AT + 3 * 4096, 0x6000 | 7)
    processor.native_flush_page(processor.state.address, 0x40_0000)
    assert translate(processor, 0x40_0123, naive.Access()) == 0x6123
