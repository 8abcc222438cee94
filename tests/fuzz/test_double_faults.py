"""A double fault that a task takes whose TSS has the T bit: #DB follows, and no shutdown.

APM vol. 2, Task Breakpoints: the exception comes behind the switch, before the new task's first instruction. So the
double fault's delivery is done by then, and 8.2.9 does not apply. The naive model once said shutdown.
"""

from __future__ import annotations

import pytest

from engine.harness import CODE, CODE32, DATA0, IDT, STACK, Guest, descriptor
from trapgate.arch.cpuid import OPTERON_2007
from trapgate.engine.handlers import HandlerStore

from . import naive_returns
from .machine import FuzzMachine
from .random_tables import RandomTables

_TASK, _TASK_SELECTOR, _VECTOR, _TASK_GATE = 0x3200, 0x60, 0x1A, 0x85


def _task(g: Guest, trap: bool) -> None:
    """A TSS for vector 8, whose code is the stub of vector 8."""
    g.memory.write(_TASK, bytes(0x68))
    values = [0x4080, 2, *[0] * 4, STACK - 0x80, *[0] * 3, DATA0, CODE32, DATA0, DATA0, 0, 0]
    g.memory.write(_TASK + 32, b"".join(value.to_bytes(4, "little") for value in values))
    g.memory.write_u16(_TASK + 100, int(trap))
    g.set_descriptor(_TASK_SELECTOR, descriptor(0x89, _TASK, 0x67))
    g.memory.write_u64(IDT + 8 * 8, _TASK_SELECTOR << 16 | _TASK_GATE << 40)


@pytest.mark.parametrize(("trap", "vectors"), [(True, {13: 1, 8: 1, 1: 1}), (False, {13: 1, 8: 1})])
def test_a_task_for_double_faults(trap: bool, vectors: dict[int, int]) -> None:
    handlers = HandlerStore()
    machine, family = FuzzMachine(handlers, OPTERON_2007), RandomTables(handlers)
    machine.enter_protected()
    machine.memory.write_u64(IDT + 8 * 13, 0)
    machine.memory.write_u64(IDT + 8 * _VECTOR, 0)
    _task(machine, trap)
    code = bytes((0xCD, _VECTOR))
    machine.memory.write(CODE, code)
    came = family.judge(
        machine, "32-bit", code, lambda n: naive_returns.deliver(n, _VECTOR, None, True, False), delivered=True
    )
    assert came == "delivered"
    assert machine.processor.exception_counts == vectors
    assert machine.processor.tr.base == _TASK
