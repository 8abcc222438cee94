"""A machine that goes on from a saved state does what one does that was never stopped."""

from __future__ import annotations

import random

import pytest

from trapgate.boards.machine import BareMachine
from trapgate.boards.pc import PcConfig
from trapgate.boards.pci import DiskConfig
from trapgate.devices.disks.memory import MemoryMedium
from trapgate.engine.handlers import HandlerStore
from trapgate.lab.options import BARE, EMBEDDED, RunOptions
from trapgate.lab.snapshots import put, take

from .machines import ALL, MEMORY, Made, differences, load, make, run_chain

pytestmark = pytest.mark.engine
OPTIONS = RunOptions(guest=EMBEDDED, append="tests", memory_size=MEMORY)
HOT = ("auto", "off", "always")


def _points(seed: str, total: int, count: int) -> list[int]:
    choose = random.Random(seed)
    return sorted(choose.randrange(1, total) for _ in range(count))


@pytest.mark.parametrize("technique", ALL)
def test_a_chain_of_machines_ends_as_one_machine(technique: str, handlers: HandlerStore) -> None:
    """Each machine of the chain runs on from the last one's state; one beside it is only stopped."""
    straight = load(make(handlers, technique), OPTIONS)
    straight.run_to(None)
    console, counts = bytes(straight.console.data), straight.counts()
    assert b"ok" in console
    beside = load(make(handlers, technique), OPTIONS)
    points = _points(technique, straight.instructions, 6)
    chain = run_chain(
        lambda n: make(handlers, technique, hot=HOT[n % 3]), load(make(handlers, technique), OPTIONS), points, beside
    )
    assert chain.loads >= 3  # those between two exits are one
    assert chain.console == console
    assert chain.counts == counts
    assert beside.counts() == counts


@pytest.mark.parametrize("technique", [BARE, "software", "nested-tagged"])
def test_a_machine_goes_back_to_where_it_was(technique: str, handlers: HandlerStore) -> None:
    made = load(make(handlers, technique), OPTIONS)
    made.run_to(400_000)
    first = take(made.machine)
    written = len(made.console.data)
    made.run_to(900_000)
    second = take(made.machine, first)
    after = bytes(made.console.data[written:])
    for _ in range(2):
        put(made.machine, first)
        again = len(made.console.data)
        made.run_to(900_000)
        assert bytes(made.console.data[again:]) == after
        third = take(made.machine, second)
        assert third.parts["board"] == second.parts["board"]
        assert third.parts["clock"] == second.parts["clock"]
        assert third.memory.pieces == second.memory.pieces
        assert all(a is b for a, b in zip(third.memory.pieces, second.memory.pieces, strict=True))


def test_taking_a_state_changes_nothing(handlers: HandlerStore) -> None:
    made, beside = (load(make(handlers), OPTIONS) for _ in range(2))
    for point in range(100_000, 1_000_000, 300_000):
        made.run_to(point)
        beside.run_to(point)
        assert take(made.machine).parts.keys() == take(made.machine).parts.keys()
        assert not differences(made, beside)


@pytest.mark.parametrize("interface", ["ide", "virtio"])
def test_pci_and_disks(interface: str, handlers: HandlerStore) -> None:
    """Windows that firmware has placed are where they were, though the other machine never booted."""

    def machine() -> Made:
        medium = MemoryMedium(bytes(1 << 20))
        return make(handlers, board=PcConfig(disks=(DiskConfig(medium, interface),), devices=("virtio-rng-pci",)))  # type: ignore[arg-type]

    made = load(machine(), OPTIONS)
    made.run_to(300_000)
    made.machine.board.config.disks[0].medium.write(512, b"written")
    other = machine()
    put(other.machine, take(made.machine))
    assert not differences(made, other)
    assert other.machine.board.config.disks[0].medium.read(512, 7) == b"written"
    assert made.machine.board.bus.port_accesses == other.machine.board.bus.port_accesses


@pytest.mark.parametrize("technique", [BARE, "shadow", "nested"])
def test_without_a_model(technique: str, handlers: HandlerStore) -> None:
    """With --model none the fast tables are what the TLB is; what a guest can see is the same all the same."""
    options = RunOptions(guest=EMBEDDED, append="tests", memory_size=MEMORY)

    def machine(number: int = 0) -> Made:
        return make(handlers, technique, model="none")

    straight = load(machine(), options)
    straight.run_to(None)
    chain = run_chain(machine, load(machine(), options), _points(technique, straight.instructions, 4))
    assert chain.console == bytes(straight.console.data)
    assert chain.counts == straight.counts()


def test_steps_within_a_block(handlers: HandlerStore) -> None:
    """A machine that was stopped between two instructions of a block goes on within it."""
    made, beside = (load(make(handlers), OPTIONS) for _ in range(2))
    made.run_to(500_000)
    beside.run_to(500_000)
    for _ in range(40):
        made.machine.processor.step(3)  # type: ignore[union-attr]
        other = make(handlers)
        put(other.machine, take(made.machine))
        assert not differences(made, other)
        made = other
    made.run_to(700_000)
    beside.run_to(made.instructions)
    assert not differences(made, beside)


@pytest.mark.parametrize(
    ("technique", "words", "first"),
    [
        (BARE, "", 84_000),
        (BARE, "trips=3000", 14_600),
        ("nested", "trips=3000", 14_600),
        ("nested-tagged", "trips=3000", 14_600),
    ],
)
def test_a_guest_that_is_a_hypervisor(technique: str, words: str, first: int, handlers: HandlerStore) -> None:
    """Saved in the host's code and in that of its guests."""
    options = RunOptions(guest="hypervisor", append=words, memory_size=MEMORY)
    made, beside = (load(make(handlers, technique), options) for _ in range(2))
    made.run_to(first)
    beside.run_to(first)
    choose = random.Random(technique)
    inside = 0
    for number in range(20):
        point = made.instructions + choose.randrange(1, 400)
        assert not made.run_to(point)
        assert not beside.run_to(point)
        following = make(handlers, technique, hot=HOT[number % 2])
        put(following.machine, take(made.machine))
        assert not differences(beside, following, memory=number % 5 == 0)
        made = following
        machine = made.machine
        inside += machine.processor.in_guest if isinstance(machine, BareMachine) else machine.vcpu.nested.in_l2
    assert made.instructions == beside.instructions
    assert inside
