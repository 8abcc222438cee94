"""The same test body for every technique: the guest sees no difference; and what each technique costs, in counts."""

from __future__ import annotations

import pytest

from trapgate.arch.costs import NAMES
from trapgate.lab.same_console import without_time
from trapgate.lab.statistics import PLACES
from trapgate.vmm.memory.errors import OutOfHostMemory
from trapgate.vmm.memory.frames import RUN, FrameAllocator

from .runs import ALL, VIRTUAL, bench, loop_cycles, run

pytestmark = pytest.mark.engine

BENCHES = ("md5 n=20", "out n=100", "syscall n=300", "pagefault n=300", "cr3 n=300")


@pytest.mark.parametrize("technique", ALL)
@pytest.mark.parametrize("what", BENCHES)
def test_a_guest_runs_the_same(what: str, technique: str) -> None:
    """Console, end, and the number of instructions; every cycle is accounted for."""
    bare, here = bench(what, "bare"), bench(what, technique)
    assert here.console == bare.console
    assert (here.outcome.reason, here.outcome.status) == ("guest-exit", 0)
    statistics = here.outcome.statistics
    assert statistics.instructions == bare.outcome.statistics.instructions
    assert sum(statistics.cycles_by_place.values()) == statistics.cycles
    tlb = statistics.tlb
    hits = ("pwc_hits", "walk_l1_hits", "walk_l2_hits", "walk_l3_hits", "walk_memory_references")
    assert sum(tlb[name] for name in hits) == tlb["itlb_walk_references"] + tlb["dtlb_walk_references"]
    assert tuple(statistics.cycles_by_place) == PLACES
    assert sum(here.exits.values()) in (statistics.world_switches, statistics.world_switches - 1)
    if "syscall" not in what and "md5" not in what:
        # No SYSCALL and no repeated instruction: each instruction that the processor carries out takes one cycle.
        native = statistics.instructions - statistics.emulated_instructions
        assert statistics.cycles_by_place["guest"] == native


@pytest.mark.parametrize("technique", ALL)
def test_the_embedded_guest_tours_the_processor(technique: str) -> None:
    here = run("trapgate-guest", "tests", technique)
    assert here.console == run("trapgate-guest", "tests", "bare").console
    assert b"37 tests, 0 failed" in here.console
    assert here.outcome.status == 0


@pytest.mark.parametrize("processor", ["486", "pentium3"])
def test_software_needs_no_amd_v(processor: str) -> None:
    """The tour ends where the processor has no long mode (and on a 486, has no PAE), as on the bare machine."""
    here, bare = (run("trapgate-guest", "tests", t, processor=processor) for t in ("software", "bare"))
    assert here.console == bare.console
    assert b"this processor has no long mode" in here.console


@pytest.mark.parametrize("technique", ["shadow", "nested"])
def test_the_embedded_guests_loops_differ_in_time_alone(technique: str) -> None:
    here, bare = run("trapgate-guest", "loops=1", technique), run("trapgate-guest", "loops=1", "bare")
    assert without_time(here.console) == without_time(bare.console)
    assert here.console != bare.console


@pytest.mark.parametrize("costs", NAMES)
def test_costs_change_cycles_and_nothing_else(costs: str) -> None:
    here, default = bench("pagefault n=300", "nested", costs), bench("pagefault n=300", "nested")
    assert here.console == default.console
    assert here.exits == default.exits
    counts = ("instructions", "world_switches", "emulated_instructions", "exceptions", "port_accesses")
    for name in counts:
        assert getattr(here.outcome.statistics, name) == getattr(default.outcome.statistics, name)
    same = here.outcome.statistics.cycles == default.outcome.statistics.cycles
    assert same == (costs == "opteron-2007")


@pytest.mark.parametrize("technique", ["bare", "shadow", "nested-tagged"])
@pytest.mark.parametrize("what", ["pagefault n=300", "cr3 n=300", "stride n=500"])
def test_without_a_model_translations_cost_nothing(what: str, technique: str) -> None:
    here, full = (run("bench", f"bench={what}", technique, model=model) for model in ("none", "full"))
    assert here.console == full.console
    counts, others = here.outcome.statistics, full.outcome.statistics
    assert counts.tlb == {}
    assert counts.cycles_by_place["translation"] == 0 < others.cycles_by_place["translation"]
    assert counts.instructions == others.instructions
    assert counts.exits.keys() == others.exits.keys()
    assert counts.cycles_by_place["guest"] == others.cycles_by_place["guest"]


@pytest.mark.parametrize("technique", ["bare", "shadow-tagged", "nested"])
def test_without_a_model_the_tour_is_the_same(technique: str) -> None:
    """It changes page tables, flushes and switches address spaces in every mode."""
    here, full = (run("trapgate-guest", "tests", technique, model=model) for model in ("none", "full"))
    assert here.console == full.console


# -- shapes


@pytest.mark.parametrize("technique", ["nested", "nested-tagged"])
@pytest.mark.parametrize("what", ["pagefault n=300", "cr3 n=300", "stride n=500"])
def test_nothing_of_paging_exits_under_nested_paging(what: str, technique: str) -> None:
    exits = bench(what, technique).exits
    assert exits
    assert not {"exception_14", "invlpg", "cr3_write", "cr3_read", "cr0_write", "cr4_write"} & set(exits)


@pytest.mark.parametrize("technique", ["shadow", "shadow-tagged"])
def test_paging_exits_under_shadow_paging(technique: str) -> None:
    assert bench("pagefault n=300", technique).exits["exception_14"] >= 300
    assert bench("cr3 n=300", technique).exits["cr3_write"] >= 300


def _references(technique: str, afresh: bool = False) -> float:
    """References of a walk, where each of 5000 reads is of another page of 4 KB and the walker has no caches."""
    runner = run.__wrapped__ if afresh else run
    runs = [runner("bench", f"bench=stride n={n}", technique, "pentium4-2005") for n in (10000, 5000)]
    tlb = [one.outcome.statistics.tlb for one in runs]
    misses, references = (tlb[0][name] - tlb[1][name] for name in ("dtlb_misses", "dtlb_walk_references"))
    assert misses == 5000
    return references / misses


def test_a_cold_walk_makes_four_references_natively() -> None:
    assert _references("bare") == 4


def test_a_cold_two_dimensional_walk_makes_24_references(monkeypatch: pytest.MonkeyPatch) -> None:
    """19 where the host gives the guest pages of 2 MB, which saves one in each of the five nested walks."""
    assert _references("nested-tagged") == 19

    allocate = FrameAllocator.allocate_run

    def no_large_page(self: FrameAllocator, owner: str, frames: int, align: int | None = None) -> int:
        if frames == RUN:
            raise OutOfHostMemory(owner, "a run", self.free_frames)
        return allocate(self, owner, frames, align)

    monkeypatch.setattr(FrameAllocator, "allocate_run", no_large_page)
    assert _references("nested-tagged", afresh=True) == 24


def test_exits_cost_contents_of_the_caches() -> None:
    """A fault under `software` comes to the hypervisor four times. That brings 8 lines to each set of the Pentium 4's
    L1, all of its ways: a line that is used once in a fault is lost."""
    lost, memory = {}, {}
    for technique in ("bare", "software"):
        tlb = bench("pagefault n=300", technique, "pentium4-2005").outcome.statistics.tlb
        lost[technique], memory[technique] = tlb["walk_references_lost_to_exits"], tlb["walk_memory_references"]
    assert lost["bare"] == 0
    assert lost["software"] >= 300
    assert 0 < memory["bare"] < memory["software"]


def test_caches_of_walks_are_worth_more_in_two_dimensions() -> None:
    """Natively a profile whose caches know nothing of nested tables costs the same; the nested walks' ratio grows."""

    def walk(technique: str, costs: str) -> float:
        statistics = bench("stride n=20000", technique, costs).outcome.statistics
        return statistics.cycles_by_place["translation"] / (
            statistics.tlb["dtlb_misses"] + statistics.tlb["itlb_misses"]
        )

    native, with_caches = walk("bare", "opteron-2007"), walk("nested-tagged", "opteron-2007")
    plain = walk("nested-tagged", "opteron-2007-plain")
    assert walk("bare", "opteron-2007-plain") == native
    assert 1.3 * native < with_caches < 2 * native
    assert 4 * native < plain


@pytest.mark.parametrize(("flushing", "tagged"), [("shadow", "shadow-tagged"), ("nested", "nested-tagged")])
@pytest.mark.parametrize("what", ["cr3 n=300", "out n=100"])
def test_tags_save_flushes_and_misses(what: str, flushing: str, tagged: str) -> None:
    """On a loop of context switches, and on one of exits that have nothing to do with memory."""
    with_tags, without = bench(what, tagged), bench(what, flushing)
    assert with_tags.flushes < without.flushes
    assert with_tags.misses < without.misses
    assert with_tags.exits["ioio"] == without.exits["ioio"]


def test_shadow_paging_wins_on_access_and_loses_on_changes() -> None:
    """Once the tables are there shadow paging walks them in one dimension; each change of the guest's tables exits."""
    shadow, nested, bare = (
        loop_cycles(run("trapgate-guest", "loops=1", name).console) for name in ("shadow", "nested", "bare")
    )
    for loop in ("page stride over 4 MB", "page stride over 64 MB"):
        # Exits have pushed the shadow tables out of the caches by the first turns.
        assert bare[loop] <= shadow[loop] < 0.75 * nested[loop]
    for loop in ("pgfault", "pgfault, page mapped and unmapped", "ptemod, present to not present", "CR3 switch"):
        assert bare[loop] <= nested[loop] < shadow[loop] / 5
    for loop in ("syscall", "call/ret", "divzero"):
        assert bare[loop] == nested[loop] == shadow[loop]


@pytest.mark.parametrize("technique", ALL)
def test_two_runs_count_the_same(technique: str) -> None:
    first = bench("pagefault n=300", technique).outcome.statistics
    second = run.__wrapped__("bench", "bench=pagefault n=300", technique).outcome.statistics
    assert second.guest_counts() == first.guest_counts()


@pytest.mark.parametrize("technique", ALL)
@pytest.mark.parametrize("limit", [1, 1000, 120_000])
def test_a_limit_of_instructions_holds_under_every_technique(technique: str, limit: int) -> None:
    here = run("bench", "bench=pagefault n=300", technique, limit=limit)
    assert here.outcome.reason == "limit"
    assert here.outcome.status == 124
    # The run is left at the end of a block.
    assert limit <= here.outcome.statistics.instructions < limit + 64


@pytest.mark.parametrize("technique", VIRTUAL)
def test_time_asleep_is_no_work(technique: str) -> None:
    """The tour waits for timer interrupts in HLT."""
    statistics = run("trapgate-guest", "tests", technique).outcome.statistics
    hlt = statistics.exits["hlt"]
    assert statistics.cycles_by_place["idle"] > 1_000_000
    assert hlt.cycles < 10_000 * hlt.samples
