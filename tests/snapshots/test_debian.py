"""Debian's boot, saved to a file and loaded into another machine at random points (TRAPGATE_SNAPSHOTS=500).

The run must end with the same console bytes and the same counts as one that was never stopped, and be equal to one that
was only stopped there at each point. Under a hypervisor there are a tenth as many points.
"""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from trapgate.engine.handlers import HandlerStore
from trapgate.lab.options import BARE, DEBIAN, RunOptions
from trapgate.lab.snapshots.machine import processor_of

from .machines import ALL, Made, load, make, run_chain

LOADS = int(os.environ.get("TRAPGATE_SNAPSHOTS", "0"))
MEMORY = 128 << 20
HOT = ("auto", "off", "auto", "always")

pytestmark = [pytest.mark.engine, pytest.mark.skipif(not LOADS, reason="TRAPGATE_SNAPSHOTS says how many")]


@pytest.mark.parametrize("technique", ALL)
def test_a_boot_that_was_saved_and_loaded_ends_as_one_that_was_not(
    technique: str, handlers: HandlerStore, tmp_path: Path
) -> None:
    options = RunOptions(guest=DEBIAN, command=("uname", "-a"), memory_size=MEMORY)

    def machine(number: int = 0) -> Made:
        # Regions for every block take too long for all of a boot.
        hot = "auto" if number % 10 == 3 and technique == BARE else HOT[number % 2]
        made = make(handlers, technique, MEMORY, hot)
        processor_of(made.machine)[0].blocks.keeps_templates = True
        return made

    straight = load(machine(), options)
    assert straight.run_to(None)
    total, counts = straight.instructions, straight.counts()
    console = bytes(straight.console.data)
    count = LOADS if technique == BARE else max(1, LOADS // 10)
    choose = random.Random(f"{technique} {LOADS}")
    points = sorted(choose.randrange(1, total) for _ in range(count))
    beside = load(machine(), options)
    chain = run_chain(machine, load(machine(), options), points, beside, tmp_path / "state", every=20)
    assert chain.loads >= count - count // 20  # few points fall into one block
    assert chain.console == console
    assert chain.counts == counts
    assert beside.counts() == counts
