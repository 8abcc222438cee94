"""A processor whose translations tests look at."""

from __future__ import annotations

import pytest

from support import PLAIN_COSTS
from trapgate.arch.cpuid import OPTERON_2007
from trapgate.engine.handlers import HandlerStore
from trapgate.engine.processor import Processor
from trapgate.machine.bus import Bus
from trapgate.machine.clock import Clock
from trapgate.machine.control import RunControl
from trapgate.machine.memory import PhysicalMemory

MEMORY_SIZE = 4 << 20


@pytest.fixture(scope="session")
def processor() -> Processor:
    """A processor with 4 MB of RAM."""
    memory = PhysicalMemory(MEMORY_SIZE)
    clock = Clock(OPTERON_2007.frequency)
    return Processor(OPTERON_2007, memory, Bus(), clock, RunControl(), HandlerStore(), lambda: 0xFF, PLAIN_COSTS)
