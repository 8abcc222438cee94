"""Random programs in every mode, with faults and interrupts, whose processor is saved, reset and restored at random
instructions: beside one that runs on, it must not be seen. TRAPGATE_SNAPSHOT_PROGRAMS=2000 for a long run."""

from __future__ import annotations

import os
import random

import pytest

from hot.random_runs import make_case, make_guest
from trapgate.engine import snapshot
from trapgate.engine.handlers import HandlerStore
from trapgate.lab.lockstep import memory_difference
from trapgate.lab.processor_state import read_state, read_tlb
from trapgate.lab.snapshots import content

pytestmark = pytest.mark.engine
PROGRAMS = int(os.environ.get("TRAPGATE_SNAPSHOT_PROGRAMS", "25"))


@pytest.mark.parametrize("number", range(PROGRAMS))
def test_saved_reset_and_restored(number: int, handlers: HandlerStore) -> None:
    case = make_case(f"snapshot {number}")
    choose = random.Random(f"stops {number}")
    straight = make_guest(case, handlers, "off")
    saved = make_guest(case, handlers, choose.choice(("off", "auto")))
    processor = saved.processor
    for _ in range(12):
        if choose.random() < 0.3:
            count = choose.randrange(1, 20)
            stopped = processor.step(count)
            straight.processor.step(count)
        else:
            for _ in range(choose.randrange(1, 4)):
                stopped = saved.run(choose.choice((1, 2, 5, 30, 200, 700)))
        if stopped.reason not in ("limit", "steps"):
            break
        values, block, memory = snapshot.save(processor), snapshot.block(processor), content.take(saved.memory)
        inputs = processor._intr
        processor.reset()
        processor.set_intr(not inputs)
        for ram in saved.memory.ranges():
            saved.memory.write(ram.start, bytes(len(ram)))
        content.put(saved.memory, memory)
        snapshot.restore(processor, values, block)
        if straight.processor.instructions < processor.instructions:
            straight.run(processor.instructions - straight.processor.instructions)
        lines = read_state(straight.processor).differences(read_state(processor))
        lines += memory_difference(straight.memory, saved.memory)
        if read_tlb(straight.processor) != read_tlb(processor):
            lines.append("the modelled TLB")
        assert not lines, f"{case.mode}, at {processor.instructions} instructions: {lines}\n{case.listing()}"
