"""No state is left out: what a processor has is saved or named as no state; devices' values are plain."""

from __future__ import annotations

import inspect

import pytest

from trapgate.arch import layout
from trapgate.boards.pc import PcConfig
from trapgate.boards.pci import DEVICES, DiskConfig, NicConfig
from trapgate.cpu import tlb
from trapgate.devices.disks.memory import MemoryMedium
from trapgate.engine.handlers import HandlerStore
from trapgate.engine.processor import Processor
from trapgate.engine.snapshot import ATTRIBUTES, NOT_STATE, RANGES, SPECIAL
from trapgate.lab.options import BARE, EMBEDDED, RunOptions
from trapgate.lab.snapshots import plain, put, take
from trapgate.machine.network import NoLink

from .machines import MEMORY, differences, load, make

pytestmark = pytest.mark.engine


def _own(value: object) -> bool:
    return not callable(value) and not isinstance(value, property | staticmethod | classmethod)


def test_every_attribute_of_a_processor_is_known(handlers: HandlerStore) -> None:
    """One that is new has to be put into `ATTRIBUTES` or, if a restored processor needs it not, `NOT_STATE`."""
    processor = load(make(handlers), RunOptions(guest=EMBEDDED, append="tests", memory_size=MEMORY)).machine.processor  # type: ignore[union-attr]
    processor.run(300_000)
    processor.step()
    found = {name for name in vars(processor) if not name.startswith("native_")}
    for kind in Processor.__mro__:
        found |= set(inspect.get_annotations(kind))
        found |= {name for name, value in vars(kind).items() if _own(value) and not name.startswith("__")}
    found = {name for name in found if name not in ("_abc_impl",)}
    known = {*ATTRIBUTES, *SPECIAL, *NOT_STATE, "_exception_counts"}
    functions = {name for name in found if callable(getattr(Processor, name, None))}
    assert sorted(found - known - functions) == []
    assert not set(ATTRIBUTES) & NOT_STATE


def test_the_state_block_is_saved_but_for_the_fast_tables() -> None:
    saved = bytearray(tlb.STATE_SIZE)
    for start, end in RANGES:
        assert start % 8 == 0
        assert end % 8 == 0
        assert not any(saved[start:end])
        saved[start:end] = b"\1" * (end - start)
    left = {place for place in range(0, tlb.STATE_SIZE, 8) if not saved[place]}
    fast = 2 * tlb.FAST_ENTRIES * tlb.FAST_SIZE
    for side in (tlb.DATA, tlb.INSTRUCTION):
        left -= {*range(side.fast, side.fast + fast, 8), *range(side.heads, side.next_small, 8)}
        assert all(place not in left for place in (side.tags, side.l2, side.next_small))
    left -= set(range(tlb.NEVER, tlb.PAGE_WALK_CACHE.tags, 8))
    assert not left
    assert RANGES[0][1] > layout.TLB_TABLES - 8


@pytest.mark.parametrize("technique", [BARE, "software", "nested-tagged"])
def test_all_of_a_state_is_plain(technique: str, handlers: HandlerStore) -> None:
    disks = tuple(
        DiskConfig(MemoryMedium(bytes(65536)), interface, is_cd)
        for interface, is_cd in (("ide", False), ("ide", True), ("virtio", False))
    )
    card = NicConfig("virtio", b"\x52\x54\0\x12\x34\x56", NoLink())
    board = PcConfig(disks=disks, devices=DEVICES, nics=(card,))
    options = RunOptions(guest=EMBEDDED, append="tests", memory_size=MEMORY)
    made = load(make(handlers, technique, board=board), options)
    made.run_to(100_000)
    state = take(made.machine)
    assert plain.decode(plain.encode(state.parts)) == state.parts
    assert plain.decode(plain.encode(state.configuration)) == state.configuration
    other = make(handlers, technique, board=board)
    put(other.machine, state)
    assert not differences(made, other)
